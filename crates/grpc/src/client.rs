//! Calls.

use crate::frame::{self, Frames};
use crate::{Code, Status};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

/// One peer. The connection is made by the first call, kept, and made anew when it ended. Clones share it.
#[derive(Clone)]
pub struct Channel {
    peer: Arc<Peer>,
}

struct Peer {
    target: Target,
    user_agent: &'static str,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Cancelled once it has ended.
    ended: CancellationToken,
}

enum Target {
    /// A path; `@NAME` is an abstract name.
    Unix(PathBuf),
    Tcp(String),
    /// A connection somebody else made: it is not made anew.
    Given(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Unix(path) => write!(f, "unix://{}", path.display()),
            Target::Tcp(authority) | Target::Given(authority) => f.write_str(authority),
        }
    }
}

const USER_AGENT: &str = "keles";

impl Channel {
    /// A socket in the file system.
    pub fn unix(path: impl Into<PathBuf>) -> Channel {
        Channel::to(Target::Unix(path.into()), USER_AGENT)
    }

    /// `HOST:PORT`, without TLS.
    pub fn tcp(authority: impl Into<String>) -> Channel {
        Channel::to(Target::Tcp(authority.into()), USER_AGENT)
    }

    /// A connection that stands; `authority` is what requests name.
    pub async fn over<S>(io: S, authority: &str, user_agent: &'static str) -> Result<Channel, Status>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let channel = Channel::to(Target::Given(authority.into()), user_agent);
        *channel.peer.connection.lock().await = Some(handshake(io).await?);
        Ok(channel)
    }

    fn to(target: Target, user_agent: &'static str) -> Channel {
        Channel { peer: Arc::new(Peer { target, user_agent, connection: Default::default() }) }
    }

    /// Connects if there is no connection; the token is cancelled when the one that stands then has ended.
    pub async fn connected(&self) -> Result<CancellationToken, Status> {
        self.connection().await.map(|connection| connection.ended)
    }

    /// One request, one answer, within `timeout`. `method` is `/package.Service/Method`.
    pub async fn unary<Q: Message, A: Message + Default>(&self, method: &str, request: &Q, timeout: Duration) -> Result<A, Status> {
        let call = async {
            let mut answers: Streaming<A> = self.start(method, request, Some(timeout)).await?;
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
        self.start(method, request, None).await
    }

    async fn start<Q: Message, A>(&self, method: &str, request: &Q, timeout: Option<Duration>) -> Result<Streaming<A>, Status> {
        let mut sender = self.connection().await?.sender;
        let authority = match &self.peer.target {
            Target::Unix(_) => "localhost",
            Target::Tcp(a) | Target::Given(a) => a,
        };
        let mut r =
            Request::post(format!("http://{authority}{method}")).header("content-type", "application/grpc").header("te", "trailers").header("user-agent", self.peer.user_agent);
        if let Some(t) = timeout {
            r = r.header("grpc-timeout", format!("{}m", t.as_millis().clamp(1, 99_999_999)));
        }
        let r = r.body(Full::new(frame::encode(request))).map_err(|e| Status::new(Code::Internal, format!("{method}: the request cannot be made: {e}")))?;
        let answer = sender.send_request(r).await.map_err(|e| Status::new(Code::Unavailable, format!("{method}: {}: {e}", self.peer.target)))?;
        let (head, body) = answer.into_parts();
        // An answer without messages has its end in the headers.
        match Status::of(&head.headers) {
            Some(Err(status)) => Err(status),
            None if head.status != StatusCode::OK => Err(Status::new(Code::Unknown, format!("unexpected HTTP status code received from server: {}", head.status))),
            ended => Ok(Streaming { frames: Frames::new(body), ended: ended.is_some(), _of: PhantomData }),
        }
    }

    async fn connection(&self) -> Result<Connection, Status> {
        let mut held = self.peer.connection.lock().await;
        if let Some(connection) = held.as_ref().filter(|connection| !connection.sender.is_closed()) {
            return Ok(connection.clone());
        }
        let refused = |e: std::io::Error| Status::new(Code::Unavailable, format!("cannot connect to {}: {e}", self.peer.target));
        let connection = match &self.peer.target {
            Target::Unix(path) => handshake(unix(path).await.map_err(refused)?).await?,
            Target::Tcp(authority) => handshake(TcpStream::connect(authority).await.map_err(refused)?).await?,
            Target::Given(_) => return Err(Status::new(Code::Unavailable, "the connection ended")),
        };
        *held = Some(connection.clone());
        Ok(connection)
    }
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

async fn handshake<S>(io: S) -> Result<Connection, Status>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.map_err(|e| Status::new(Code::Unavailable, e.to_string()))?;
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
