//! Upgraded connections of `kubectl exec`, `attach` and `port-forward`: several named streams over one connection.
//!
//! Two carriers exist: WebSocket with numbered channels (`channel.k8s.io` to `v5.channel.k8s.io`, KEP-4006) and SPDY/3.1, raw
//! or framed inside a WebSocket (`SPDY/3.1+portforward.k8s.io`). Entry points: [`exec::upgrade`] and [`port_forward::upgrade`];
//! each gives the 101 answer and, once the connection has switched, a session. Invariants (lessons.md 83): the final Status
//! leaves after the last byte of output, and a WebSocket always ends with a coded Close. [`output::upgrade`] carries what is only read (logs).
//! [`dial`] is the other side: how the node agent speaks to the streaming server of a container runtime, by SPDY/3.1.
//! Deliberately absent: the API server's side, which passes bytes through without reading them.

pub mod dial;
pub mod exec;
pub mod output;
pub mod port_forward;
mod spdy;
mod websocket;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes that one stream may hold unread before its connection stops reading: back pressure, not a window.
pub const STREAM_BUFFER_BYTES: usize = 64 << 10;
/// Streams one connection may have open.
pub const MAX_STREAMS: usize = 1024;
/// How long a client may take to close its side after we closed ours. Longer than the slowest link needs for what is under way.
const LINGER: std::time::Duration = std::time::Duration::from_secs(10);
/// `X-Stream-Protocol-Version` and the versions of remote command that SPDY clients offer, newest first.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the request asks for no upgrade; exec, attach and port-forward need a WebSocket or SPDY/3.1 connection")]
    NotAnUpgrade,
    #[error("none of the offered sub-protocols {offered:?} is supported, only {supported:?}")]
    Protocol { offered: Vec<String>, supported: &'static [&'static str] },
    #[error("the connection did not switch protocols: {0}")]
    Switch(#[source] hyper::Error),
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("websocket: {0}")]
    WebSocket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
    #[error("the peer broke the protocol: {0}")]
    Peer(String),
    #[error("the client opened {got} of {wanted} streams within {seconds} s")]
    MissingStreams { got: usize, wanted: usize, seconds: u64 },
    #[error("the connection is closed")]
    Closed,
    #[error("{0} is no http:// URL of a streaming server; TLS between a runtime and its node agent is not supported")]
    Url(String),
    #[error("the streaming server at {at} does not switch protocols: {status} {text}")]
    Refused { at: String, status: StatusCode, text: String },
}

impl StreamError {
    /// The HTTP status of a refused upgrade.
    pub fn code(&self) -> StatusCode {
        match self {
            StreamError::NotAnUpgrade | StreamError::Protocol { .. } => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<tokio_tungstenite::tungstenite::Error> for StreamError {
    fn from(e: tokio_tungstenite::tungstenite::Error) -> Self {
        StreamError::WebSocket(Box::new(e))
    }
}

pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// How a request wants its connection switched.
enum Asked {
    WebSocket { key: String, protocols: Vec<String> },
    Spdy { protocols: Vec<String> },
}

fn asked(headers: &HeaderMap) -> Result<Asked, StreamError> {
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or("").to_ascii_lowercase();
    match upgrade.as_str() {
        "websocket" => {
            let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|v| v.to_str().ok()).ok_or(StreamError::NotAnUpgrade)?.to_owned();
            Ok(Asked::WebSocket { key, protocols: listed(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str()) })
        }
        "spdy/3.1" => Ok(Asked::Spdy { protocols: listed(headers, STREAM_PROTOCOL) }),
        _ => Err(StreamError::NotAnUpgrade),
    }
}

fn listed(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

/// The first of our protocols, in our order of preference, that the client offers.
fn choose(offered: &[String], supported: &'static [&'static str]) -> Result<&'static str, StreamError> {
    supported.iter().find(|s| offered.iter().any(|o| o == *s)).copied().ok_or_else(|| StreamError::Protocol { offered: offered.to_vec(), supported })
}

fn switching(upgrade: &'static str) -> Response<()> {
    let mut r = Response::new(());
    *r.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    r.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(upgrade));
    r.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    r
}

fn websocket_answer(key: &str, protocol: Option<&'static str>) -> Response<()> {
    let mut r = switching("websocket");
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    r.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).expect("base64 is a valid header"));
    if let Some(p) = protocol {
        r.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(p));
    }
    r
}

fn spdy_answer(protocol: Option<&'static str>) -> Response<()> {
    let mut r = switching("SPDY/3.1");
    if let Some(p) = protocol {
        r.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(p));
    }
    r
}
