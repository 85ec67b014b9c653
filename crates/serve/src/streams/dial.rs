//! The client's side of remote command and port-forward, by SPDY/3.1: what the streaming server of a container runtime is asked with (the URLs
//! that the CRI's Exec, Attach and PortForward give).
//!
//! Entry points: [`command`] and [`port_forward`]. Invariant: an end without a status is a failure, never success. Deliberately absent: TLS (the
//! server is on this machine's loopback) and WebSocket, which runtimes older than containerd 2 do not speak.

use super::exec::{Outcome, Size, Wants};
use super::spdy::{Headers, STREAMS_OF_CLIENT, Session, Stream};
use super::{Reader, STREAM_PROTOCOL, StreamError, Writer};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};

/// Those before it say nothing of a success, which is then no other than a connection that broke.
const COMMAND_PROTOCOLS: [&str; 1] = ["v4.channel.k8s.io"];
const PORT_FORWARD_PROTOCOLS: [&str; 1] = ["portforward.k8s.io"];
/// How long the server may take to switch.
const SWITCH_LIMIT: Duration = Duration::from_secs(30);
/// The longest text of a refusal or a status that is read.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// A command that runs elsewhere. Streams that were not asked for are absent.
pub struct Command {
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    pub control: Control,
}

/// Its terminal and its end.
pub struct Control {
    sizes: Option<Mutex<DuplexStream>>,
    end: watch::Receiver<Option<Outcome>>,
    session: std::sync::Mutex<Option<Session>>,
}

impl Control {
    /// Tells the terminal's new size; nothing where there is none.
    pub async fn resize(&self, size: Size) -> Result<(), StreamError> {
        let Some(sizes) = &self.sizes else { return Ok(()) };
        let document = serde_json::json!({"Width": size.width, "Height": size.height}).to_string();
        Ok(sizes.lock().await.write_all(document.as_bytes()).await?)
    }

    /// How it ended; the server says so after its output.
    pub async fn wait(&self) -> Outcome {
        let mut end = self.end.clone();
        let ended = end.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        ended.unwrap_or_else(|| Outcome::Failed("the connection to the command broke".into()))
    }

    /// Ends the connection; what becomes of the command is the server's to decide.
    pub fn close(&self) {
        self.session.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }
}

/// Joins a command, new or running, that the server at `url` has made ready.
pub async fn command(url: &str, wants: Wants) -> Result<Command, StreamError> {
    Ok(open_command(switch(url, &COMMAND_PROTOCOLS).await?, wants))
}

fn open_command<S>(io: S, wants: Wants) -> Command
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
{
    let stderr = wants.stderr && !wants.tty;
    let stream = |asked: bool, kind: &str| asked.then(|| vec![("streamtype".to_owned(), kind.to_owned())]);
    let asked = [stream(true, "error"), stream(wants.stdin, "stdin"), stream(wants.stdout, "stdout"), stream(stderr, "stderr"), stream(wants.tty, "resize")];
    let (session, mut streams) = Session::connect(io, asked);
    let mut take = |kind: &str| streams.iter().position(|s| s.header("streamtype") == kind).map(|at| streams.swap_remove(at).io);
    let (told, end) = watch::channel(None);
    if let Some(error) = take("error") {
        tokio::spawn(async move {
            let said = read_text(error).await;
            told.send_replace(Some(Outcome::read(&said)));
        });
    }
    Command {
        stdin: take("stdin").map(|s| Box::new(s) as Writer),
        stdout: take("stdout").map(|s| Box::new(s) as Reader),
        stderr: take("stderr").map(|s| Box::new(s) as Reader),
        control: Control { sizes: take("resize").map(Mutex::new), end, session: std::sync::Mutex::new(Some(session)) },
    }
}

/// A connection to a port that the server carries.
pub struct Forwarded {
    pub data: DuplexStream,
    error: DuplexStream,
    session: Session,
}

impl Forwarded {
    /// The bytes, and what to await once they have ended: why the port could not be reached, if so.
    pub fn split(self) -> (DuplexStream, impl Future<Output = Option<String>> + Send + use<>) {
        let Forwarded { data, error, session } = self;
        let why = async move {
            let said = read_text(error).await;
            drop(session);
            (!said.is_empty()).then_some(said)
        };
        (data, why)
    }
}

/// Connects to `port` of what the server at `url` has made ready.
pub async fn port_forward(url: &str, port: u16) -> Result<Forwarded, StreamError> {
    let io = switch(url, &PORT_FORWARD_PROTOCOLS).await?;
    let stream = |kind: &str| -> Option<Headers> {
        Some([("streamtype", kind), ("port", &port.to_string()), ("requestid", "0")].map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    };
    // The server takes a connection as asked for once it has the pair; upstream's clients open the error stream first.
    let asked: [Option<Headers>; STREAMS_OF_CLIENT] = [stream("error"), stream("data"), None, None, None];
    let (session, streams) = Session::connect(io, asked);
    let [error, data]: [Stream; 2] = streams.try_into().map_err(|_| StreamError::Closed)?;
    Ok(Forwarded { data: data.io, error: error.io, session })
}

/// What comes until the end; nothing of ours goes there.
async fn read_text(mut from: DuplexStream) -> String {
    let mut text = Vec::new();
    let _ = from.shutdown().await;
    let _ = from.take(TEXT_BYTES_MAX as u64).read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// Asks the server to switch to one of these protocols.
async fn switch(url: &str, protocols: &[&str]) -> Result<TokioIo<Upgraded>, StreamError> {
    match tokio::time::timeout(SWITCH_LIMIT, ask(url, protocols)).await {
        Ok(switched) => switched,
        Err(_) => Err(StreamError::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("the streaming server at {url} does not answer within {SWITCH_LIMIT:?}")))),
    }
}

async fn ask(url: &str, protocols: &[&str]) -> Result<TokioIo<Upgraded>, StreamError> {
    let uri: Uri = url.parse().map_err(|_| StreamError::Url(url.into()))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(|| StreamError::Url(url.into()))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    tcp.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(StreamError::Switch)?;
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path).header(header::HOST, authority.as_str()).header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "SPDY/3.1");
    for protocol in protocols {
        request = request.header(STREAM_PROTOCOL, *protocol);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| StreamError::Url(url.into()))?;
    let answer = sender.send_request(request).await.map_err(StreamError::Switch)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = answer.status();
        let text = Limited::new(answer.into_body(), TEXT_BYTES_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        return Err(StreamError::Refused { at: authority.to_string(), status, text: String::from_utf8_lossy(&text).trim().to_owned() });
    }
    let protocol = answer.headers().get(STREAM_PROTOCOL).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if !protocol.as_deref().is_some_and(|chosen| protocols.contains(&chosen)) {
        return Err(StreamError::Peer(format!("it chose the protocol {protocol:?} of {protocols:?}")));
    }
    Ok(TokioIo::new(hyper::upgrade::on(answer).await.map_err(StreamError::Switch)?))
}

#[cfg(test)]
mod tests {
    use super::super::exec::{Version, accept_spdy};
    use super::*;
    use std::future::Future;

    /// Both sides over one pipe; what the client makes of it.
    async fn joined<F: Future<Output = ()> + Send + 'static>(wants: Wants, serve: impl FnOnce(super::super::exec::ExecSession) -> F + Send + 'static) -> Command {
        let (here, there) = tokio::io::duplex(1 << 16);
        let version = Version::of(Some(COMMAND_PROTOCOLS[0]));
        tokio::spawn(async move { serve(accept_spdy(there, version, wants).await.expect("all streams are opened")).await });
        open_command(here, wants)
    }

    async fn read_all(from: Option<Reader>) -> String {
        let mut text = String::new();
        from.expect("asked for").read_to_string(&mut text).await.expect("text");
        text
    }

    #[tokio::test]
    async fn a_command_reads_its_input_to_the_end_and_tells_both_outputs_and_its_code() {
        let wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
        let mut c = joined(wants, |mut session| async move {
            let mut input = String::new();
            session.stdin.take().expect("asked for").read_to_string(&mut input).await.expect("text");
            session.stdout.take().expect("asked for").write_all(input.to_uppercase().as_bytes()).await.expect("taken");
            session.stderr.take().expect("asked for").write_all(b"a word").await.expect("taken");
            session.finish(Outcome::Exited(7)).await;
        })
        .await;
        let mut stdin = c.stdin.take().expect("asked for");
        stdin.write_all(b"hello").await.expect("taken");
        drop(stdin);
        let (out, err) = tokio::join!(read_all(c.stdout.take()), read_all(c.stderr.take()));
        assert_eq!((out.as_str(), err.as_str(), c.control.wait().await), ("HELLO", "a word", Outcome::Exited(7)));
    }

    #[tokio::test]
    async fn sizes_arrive_and_a_failure_is_told_in_its_words() {
        let wants = Wants { stdout: true, tty: true, ..Wants::default() };
        let c = joined(wants, |mut session| async move {
            let size = session.resize.recv().await.expect("a size");
            session.finish(Outcome::Failed(format!("{}x{} is too small", size.width, size.height))).await;
        })
        .await;
        assert!(c.stderr.is_none() && c.stdin.is_none());
        c.control.resize(Size { width: 80, height: 24 }).await.expect("told");
        assert_eq!(c.control.wait().await, Outcome::Failed("80x24 is too small".into()));
    }

    /// containerd ends a command that could not be started by resetting its streams.
    #[tokio::test]
    async fn a_stream_that_the_server_resets_has_ended() {
        use super::super::spdy::{reset_for_test, text_for_test};
        let (here, mut there) = tokio::io::duplex(1 << 16);
        let mut c = open_command(here, Wants { stdout: true, ..Wants::default() });
        let status = r#"{"status":"Failure","message":"no such program","details":{"causes":[{"message":"no such program"}]}}"#;
        there.write_all(&[text_for_test(1, status), reset_for_test(1), reset_for_test(3)].concat()).await.expect("taken");
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), read_all(c.stdout.take())).await.expect("it ends"), "");
        assert_eq!(c.control.wait().await, Outcome::Failed("no such program".into()));
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_a_failure() {
        let (here, there) = tokio::io::duplex(1 << 16);
        let c = open_command(here, Wants { stdout: true, ..Wants::default() });
        drop(there);
        assert!(matches!(c.control.wait().await, Outcome::Failed(_)));
    }

    #[tokio::test]
    async fn a_server_that_does_not_switch_is_told_of_with_its_words() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.expect("a client");
            let _ = io.read(&mut [0; 4096]).await;
            let _ = io.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nno such").await;
        });
        let refusal = command(&format!("http://{at}/exec/t"), Wants::default()).await.err().expect("refused").to_string();
        assert!(refusal.contains("404 Not Found no such"), "{refusal}");
        let refusal = command("https://127.0.0.1/exec/t", Wants::default()).await.err().expect("refused").to_string();
        assert!(refusal.contains("TLS"), "{refusal}");
    }
}
