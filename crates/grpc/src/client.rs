//! Calls.

use crate::frame::{self, Frames};
use crate::{Code, Status};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{Request, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::sync::CancellationToken;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How a channel behaves, where that is not the same for all.
#[derive(Clone, Debug)]
pub struct Settings {
    pub user_agent: &'static str,
    /// Most time until a connection stands, TLS included.
    pub connect_timeout: Duration,
    /// A peer that is silent this long is pinged while calls are open; without an answer within the second time the connection ends. Absent:
    /// for sockets of this machine, which end with their process.
    pub ping: Option<(Duration, Duration)>,
    /// Larger answers are refused.
    pub message_bytes_max: usize,
    /// Sent with every call.
    pub metadata: &'static [(&'static str, &'static str)],
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { user_agent: USER_AGENT, connect_timeout: Duration::from_secs(20), ping: None, message_bytes_max: crate::MESSAGE_BYTES_MAX, metadata: &[] }
    }
}

/// One peer. The connection is made by the first call, kept, and made anew when it ended. Clones share it.
#[derive(Clone)]
pub struct Channel {
    peer: Arc<Peer>,
}

struct Peer {
    target: Target,
    settings: Settings,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Body>,
    /// Cancelled once it has ended.
    ended: CancellationToken,
}

#[derive(Clone)]
enum Target {
    /// A path; `@NAME` is an abstract name.
    Unix(PathBuf),
    Tcp(String),
    /// With the configuration that knows whom to trust and who we are.
    Tls(String, Arc<ClientConfig>),
    /// A connection somebody else made: it is not made anew.
    Given(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Unix(path) => write!(f, "unix://{}", path.display()),
            Target::Tcp(authority) | Target::Tls(authority, _) | Target::Given(authority) => f.write_str(authority),
        }
    }
}

const USER_AGENT: &str = "keles";

impl Channel {
    /// A socket in the file system.
    pub fn unix(path: impl Into<PathBuf>) -> Channel {
        Channel::to(Target::Unix(path.into()), Settings::default())
    }

    /// `HOST:PORT`, without TLS.
    pub fn tcp(authority: impl Into<String>) -> Channel {
        Channel::to(Target::Tcp(authority.into()), Settings::default())
    }

    /// `HOST:PORT`, over TLS. HTTP/2 is asked for whatever the configuration says.
    pub fn tls(authority: impl Into<String>, mut config: ClientConfig) -> Channel {
        config.alpn_protocols = vec![b"h2".to_vec()];
        Channel::to(Target::Tls(authority.into(), Arc::new(config)), Settings::default())
    }

    /// The same peer with other settings, over a connection of its own.
    #[must_use]
    pub fn with(&self, settings: Settings) -> Channel {
        Channel::to(self.peer.target.clone(), settings)
    }

    pub fn settings(&self) -> &Settings {
        &self.peer.settings
    }

    /// Whom it calls.
    pub fn peer(&self) -> impl fmt::Display + '_ {
        &self.peer.target
    }

    /// Connects, where that is to be done. An error: no call can have reached the peer.
    pub async fn ready(&self) -> Result<(), Status> {
        // The wait for others who connect counts too: else they all try in turn.
        let limit = self.peer.settings.connect_timeout;
        let late = |_| Err(Status::new(Code::Unavailable, format!("cannot connect to {} within {limit:?}", self.peer.target)));
        tokio::time::timeout(limit, self.connection()).await.unwrap_or_else(late).map(drop)
    }

    /// A connection that stands; `authority` is what requests name.
    pub async fn over<S>(io: S, authority: &str, user_agent: &'static str) -> Result<Channel, Status>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let settings = Settings { user_agent, ..Settings::default() };
        let connection = handshake(io, &settings).await?;
        let channel = Channel::to(Target::Given(authority.into()), settings);
        *channel.peer.connection.lock().await = Some(connection);
        Ok(channel)
    }

    fn to(target: Target, settings: Settings) -> Channel {
        Channel { peer: Arc::new(Peer { target, settings, connection: Default::default() }) }
    }

    /// Connects if there is no connection; the token is cancelled when the one that stands then has ended.
    pub async fn connected(&self) -> Result<CancellationToken, Status> {
        self.connection().await.map(|connection| connection.ended)
    }

    /// One request, one answer, within `timeout`. `method` is `/package.Service/Method`.
    pub async fn unary<Q: Message, A: Message + Default>(&self, method: &str, request: &Q, timeout: Duration) -> Result<A, Status> {
        let call = async {
            let mut answers: Streaming<A> = self.start(method, whole(request), Some(timeout)).await?;
            let answer = answers.message().await?.ok_or_else(|| Status::new(Code::Internal, format!("{method}: no answer, though the call succeeded")))?;
            // A failure may follow an answer; then the failure is what the call says.
            while answers.message().await?.is_some() {}
            Ok(answer)
        };
        let late = |_| Err(Status::new(Code::DeadlineExceeded, format!("{method}: no answer within {timeout:?} from {}", self.peer.target)));
        tokio::time::timeout(timeout, call).await.unwrap_or_else(late)
    }

    /// One request, answers until the peer ends them.
    pub async fn server_streaming<Q: Message, A: Message + Default>(&self, method: &str, request: &Q) -> Result<Streaming<A>, Status> {
        self.start(method, whole(request), None).await
    }

    /// Requests as they come, answers as they come. Returns with the peer's first answer (or its refusal), so what moves it to answer must be
    /// among the requests without waiting for an answer. The peer ends the call when `requests` end, if it wants; dropping the answers ends it.
    pub async fn duplex<Q, A>(&self, method: &str, requests: impl Stream<Item = Q> + Send + 'static) -> Result<Streaming<A>, Status>
    where
        Q: Message,
        A: Message + Default,
    {
        let frames = requests.map(|q| Ok(Frame::data(frame::encode(&q))));
        self.start(method, BodyExt::boxed_unsync(StreamBody::new(frames)), None).await
    }

    async fn start<A>(&self, method: &str, body: Body, timeout: Option<Duration>) -> Result<Streaming<A>, Status> {
        let mut sender = self.connection().await?.sender;
        let settings = &self.peer.settings;
        let (scheme, authority) = match &self.peer.target {
            Target::Unix(_) => ("http", "localhost"),
            Target::Tcp(a) | Target::Given(a) => ("http", a.as_str()),
            Target::Tls(a, _) => ("https", a.as_str()),
        };
        let mut r =
            Request::post(format!("{scheme}://{authority}{method}")).header("content-type", "application/grpc").header("te", "trailers").header("user-agent", settings.user_agent);
        if let Some(t) = timeout {
            r = r.header("grpc-timeout", format!("{}m", t.as_millis().clamp(1, 99_999_999)));
        }
        for (name, value) in settings.metadata {
            r = r.header(*name, *value);
        }
        let r = r.body(body).map_err(|e| Status::new(Code::Internal, format!("{method}: the request cannot be made: {e}")))?;
        let answer = sender.send_request(r).await.map_err(|e| Status::new(Code::Unavailable, format!("{method}: {}: {e}", self.peer.target)))?;
        let (head, body) = answer.into_parts();
        // An answer without messages has its end in the headers.
        match Status::of(&head.headers) {
            Some(Err(status)) => Err(status),
            None if head.status != StatusCode::OK => Err(Status::new(Code::Unknown, format!("unexpected HTTP status code received from server: {}", head.status))),
            ended => Ok(Streaming { frames: Frames::limited(body, settings.message_bytes_max), ended: ended.is_some(), _of: PhantomData }),
        }
    }

    async fn connection(&self) -> Result<Connection, Status> {
        let mut held = self.peer.connection.lock().await;
        if let Some(connection) = held.as_ref().filter(|connection| !connection.sender.is_closed()) {
            return Ok(connection.clone());
        }
        let limit = self.peer.settings.connect_timeout;
        let late = |_| Err(Status::new(Code::Unavailable, format!("cannot connect to {} within {limit:?}", self.peer.target)));
        let connection = tokio::time::timeout(limit, self.connect()).await.unwrap_or_else(late)?;
        *held = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self) -> Result<Connection, Status> {
        let (target, settings) = (&self.peer.target, &self.peer.settings);
        let refused = |e: std::io::Error| Status::new(Code::Unavailable, format!("cannot connect to {target}: {e}"));
        match target {
            Target::Unix(path) => handshake(unix(path).await.map_err(refused)?, settings).await,
            Target::Tcp(authority) => handshake(tcp(authority).await.map_err(refused)?, settings).await,
            Target::Tls(authority, config) => {
                let name = server_name(authority).ok_or_else(|| Status::new(Code::Unavailable, format!("{authority} names no host that a certificate could be for")))?;
                let io = TlsConnector::from(config.clone()).connect(name, tcp(authority).await.map_err(refused)?).await.map_err(refused)?;
                handshake(io, settings).await
            }
            Target::Given(_) => Err(Status::new(Code::Unavailable, "the connection ended")),
        }
    }
}

fn whole(request: &impl Message) -> Body {
    BodyExt::boxed_unsync(Full::new(frame::encode(request)))
}

async fn tcp(authority: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(authority).await?;
    // Small messages that somebody waits for.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The host of `HOST:PORT`, which the peer's certificate must name.
fn server_name(authority: &str) -> Option<ServerName<'static>> {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']').to_owned()).ok()
}

async fn unix(path: &std::path::Path) -> std::io::Result<UnixStream> {
    use std::os::linux::net::SocketAddrExt;
    match path.to_str().and_then(|p| p.strip_prefix('@')) {
        None => UnixStream::connect(path).await,
        Some(name) => {
            let stream = std::os::unix::net::UnixStream::connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        }
    }
}

async fn handshake<S>(io: S, settings: &Settings) -> Result<Connection, Status>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut http = http2::Builder::new(TokioExecutor::new());
    if let Some((interval, patience)) = settings.ping {
        http.timer(TokioTimer::new()).keep_alive_interval(interval).keep_alive_timeout(patience);
    }
    let (sender, connection) = http.handshake(TokioIo::new(io)).await.map_err(|e| Status::new(Code::Unavailable, e.to_string()))?;
    let ended = CancellationToken::new();
    let told = ended.clone().drop_guard();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a gRPC connection ended");
        }
        drop(told);
    });
    Ok(Connection { sender, ended })
}

/// Answers as they come. Dropped, it ends the call.
pub struct Streaming<A> {
    frames: Frames<Incoming>,
    /// The end was in the headers.
    ended: bool,
    _of: PhantomData<fn() -> A>,
}

impl<A: Message + Default> Streaming<A> {
    /// The next answer; `None` when the peer ended them well.
    pub async fn message(&mut self) -> Result<Option<A>, Status> {
        if let Some(message) = self.frames.next().await? {
            return frame::decode(message).map(Some);
        }
        match self.frames.trailers().and_then(Status::of) {
            Some(end) => end.map(|()| None),
            None if self.ended => Ok(None),
            None => Err(Status::new(Code::Unknown, "the answer ends without a status")),
        }
    }
}
