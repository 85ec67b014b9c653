//! An answer that is only read, carried in WebSocket messages: the log of a container for clients without HTTP streaming (browsers).
//!
//! Entry point: [`upgrade`]. Protocols, as upstream's `wsstream`: `binary.k8s.io` and none at all give binary messages, `base64.binary.k8s.io`
//! text messages. The first message is empty: it shows that the connection stands. What the client sends is not looked at but for its close.

use super::websocket::{Encoding, one_way};
use super::{Asked, StreamError, asked, choose, websocket_answer};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

const PROTOCOLS: &[&str] = &["binary.k8s.io", "base64.binary.k8s.io"];

/// A connection about to switch.
pub struct OutputUpgrade {
    on: OnUpgrade,
    encoding: Encoding,
}

/// The answer to send and the upgrade to await on a task of its own; nothing where the request asks for no WebSocket.
pub fn upgrade<B>(request: &mut Request<B>) -> Result<Option<(Response<()>, OutputUpgrade)>, StreamError> {
    let Ok(Asked::WebSocket { key, protocols }) = asked(request.headers()) else { return Ok(None) };
    let protocol = if protocols.is_empty() { None } else { Some(choose(&protocols, PROTOCOLS)?) };
    let encoding = if protocol.is_some_and(|p| p.contains("base64")) { Encoding::Base64 } else { Encoding::Binary };
    Ok(Some((websocket_answer(&key, protocol), OutputUpgrade { on: hyper::upgrade::on(request), encoding })))
}

impl OutputUpgrade {
    /// Sends the body to its end, or until the client is gone.
    pub async fn send<B: Body<Data = Bytes> + Unpin>(self, body: B) -> Result<(), StreamError>
    where
        B::Error: std::fmt::Display,
    {
        let io = TokioIo::new(self.on.await.map_err(StreamError::Switch)?);
        one_way(io, self.encoding, body).await
    }
}
