//! Remote command: stdin, stdout, stderr, error and resize of exec and attach.
//!
//! Source: k8s.io/streaming (remotecommand v1 to v5), KEP-4006. From version 4 on the error channel carries a `Status`: Success, or a
//! Failure with cause `ExitCode`. Before, it carries the text of a failure and of success nothing; before version 3 SPDY has no sizes.

use super::spdy::{Session, Stream};
use super::websocket::{ChannelReader, ChannelWriter, Encoding, Incoming, channels};
use super::{Asked, LINGER, Reader, STREAM_BUFFER_BYTES, StreamError, Writer, asked, choose, spdy_answer, websocket_answer};
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

const SPDY_PROTOCOLS: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", FIRST_PROTOCOL];
const WEBSOCKET_PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", FIRST_PROTOCOL, "base64.channel.k8s.io"];
/// Also what a client speaks that names no protocol.
const FIRST_PROTOCOL: &str = "channel.k8s.io";
/// How long a SPDY client may take to open the streams it asked for, as upstream waits.
const STREAM_CREATION_SECONDS: u64 = 30;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Which streams the request's query asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A terminal size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

/// How the command ended, for the error channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Exited(i32),
    /// The command could not be run or the connection to it broke; text for the user.
    Failed(String),
}

impl Outcome {
    fn status(&self) -> serde_json::Value {
        match self {
            Outcome::Exited(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
            Outcome::Exited(code) => serde_json::json!({"metadata": {}, "status": "Failure", "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
            Outcome::Failed(message) => {
                serde_json::json!({"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "details": {"causes": [{"message": message}]}, "code": 500})
            }
        }
    }
}

impl Outcome {
    /// What the error channel said, read by a client; an end without a status is one that nobody saw.
    pub(super) fn read(said: &str) -> Outcome {
        let Ok(status) = serde_json::from_str::<serde_json::Value>(said) else {
            return Outcome::Failed(if said.is_empty() { "the connection to the command broke".into() } else { said.into() });
        };
        if status["status"] == "Success" {
            return Outcome::Exited(0);
        }
        let causes = status["details"]["causes"].as_array().into_iter().flatten();
        let code = causes.filter(|cause| cause["reason"] == "ExitCode").find_map(|cause| cause["message"].as_str()?.parse().ok());
        code.map_or_else(|| Outcome::Failed(status["message"].as_str().unwrap_or(said).to_owned()), Outcome::Exited)
    }
}

/// An upgrade under way: send the answer, then `accept`.
pub struct ExecUpgrade {
    on: OnUpgrade,
    carrier: Carrier,
    wants: Wants,
}

enum Carrier {
    WebSocket { encoding: Encoding, version: Version },
    Spdy { version: Version },
}

/// Of the remote command protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u8);

impl Version {
    pub(super) fn of(protocol: Option<&str>) -> Self {
        let number = protocol.and_then(|p| p.strip_prefix('v')).and_then(|p| p.split('.').next()).and_then(|n| n.parse().ok());
        Version(number.unwrap_or(1))
    }
    /// What the error channel says of an end; empty when nothing.
    fn end(self, outcome: &Outcome) -> String {
        match outcome {
            _ if self >= Version(4) => outcome.status().to_string(),
            Outcome::Exited(0) => String::new(),
            Outcome::Exited(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Outcome::Failed(message) => message.clone(),
        }
    }
    /// Whether a SPDY client with a terminal opens a stream for its sizes.
    fn has_sizes(self) -> bool {
        self >= Version(3)
    }
}

/// Checks the request's upgrade headers; the answer to send and the upgrade to await on a task of its own.
pub fn upgrade<B>(request: &mut Request<B>, wants: Wants) -> Result<(Response<()>, ExecUpgrade), StreamError> {
    let (answer, carrier) = match asked(request.headers())? {
        Asked::WebSocket { key, protocols } => {
            // A client that offers nothing gets the first version of the protocol, binary.
            let protocol = if protocols.is_empty() { None } else { Some(choose(&protocols, WEBSOCKET_PROTOCOLS)?) };
            let encoding = if protocol.is_some_and(|p| p.contains("base64")) { Encoding::Base64 } else { Encoding::Binary };
            (websocket_answer(&key, protocol), Carrier::WebSocket { encoding, version: Version::of(protocol) })
        }
        Asked::Spdy { protocols } => {
            let protocol = if protocols.is_empty() { None } else { Some(choose(&protocols, SPDY_PROTOCOLS)?) };
            (spdy_answer(protocol), Carrier::Spdy { version: Version::of(protocol) })
        }
    };
    Ok((answer, ExecUpgrade { on: hyper::upgrade::on(request), carrier, wants }))
}

impl ExecUpgrade {
    /// Waits for the switch and for the client's streams.
    pub async fn accept(self) -> Result<ExecSession, StreamError> {
        let io = TokioIo::new(self.on.await.map_err(StreamError::Switch)?);
        match self.carrier {
            Carrier::WebSocket { encoding, version } => accept_websocket(io, encoding, version, self.wants).await,
            Carrier::Spdy { version } => accept_spdy(io, version, self.wants).await,
        }
    }
}

/// The client's ends of a remote command. Say [`ExecSession::established`], take the streams, move bytes, then [`ExecSession::finish`].
pub struct ExecSession {
    pub stdin: Option<Reader>,
    pub stdout: Option<Writer>,
    pub stderr: Option<Writer>,
    /// New terminal sizes; ends when the client is gone or has no terminal.
    pub resize: mpsc::Receiver<Size>,
    end: End,
}

enum End {
    WebSocket { established: Option<oneshot::Sender<()>>, done: tokio::task::JoinHandle<()>, outcome: oneshot::Sender<Outcome>, reader: AbortOnDrop },
    Spdy { session: Session, error: Stream, version: Version, sizes: Option<AbortOnDrop> },
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ExecSession {
    /// Tells the client that its command runs. Not before: a client that reads from the moment of the switch while it still sets its
    /// channels up, as kubectl does from 1.31 on, throws away what comes for a channel that it does not know yet.
    pub fn established(&mut self) {
        if let End::WebSocket { established, .. } = &mut self.end {
            established.take().map(|e| e.send(()));
        }
    }
    /// Reports the end and closes the connection, after all output. Streams that the caller took must be dropped by then.
    pub async fn finish(mut self, outcome: Outcome) {
        self.established();
        drop((self.stdout.take(), self.stderr.take(), self.stdin.take()));
        match self.end {
            End::WebSocket { done, outcome: send, mut reader, .. } => {
                let _ = send.send(outcome);
                let _ = done.await;
                // Closed over unread bytes, the connection would be reset and the last of the output lost.
                tokio::spawn(async move { tokio::time::timeout(LINGER, &mut reader.0).await });
            }
            End::Spdy { session, mut error, version, sizes } => {
                let _ = error.io.write_all(version.end(&outcome).as_bytes()).await;
                let _ = error.io.shutdown().await;
                // The reader of sizes holds its stream, and an open stream keeps the connection.
                drop((error, sizes));
                session.close().await;
            }
        }
    }
}

async fn accept_websocket<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(io: S, encoding: Encoding, version: Version, wants: Wants) -> Result<ExecSession, StreamError> {
    let (reader, writer) = channels(io, encoding).await;
    let (resize_to, resize) = mpsc::channel(8);
    let (stdin_to, stdin) = tokio::io::duplex(STREAM_BUFFER_BYTES);
    let (stdout, stdout_from) = tokio::io::duplex(STREAM_BUFFER_BYTES);
    let (stderr, stderr_from) = tokio::io::duplex(STREAM_BUFFER_BYTES);
    let (outcome, ended) = oneshot::channel();
    let (established, begin) = oneshot::channel();
    let reading = tokio::spawn(read_channels(reader, stdin_to, resize_to));
    let outputs = Outputs { stdout: wants.stdout.then_some(stdout_from), stderr: (wants.stderr && !wants.tty).then_some(stderr_from) };
    let done = tokio::spawn(async move {
        // An error is a session that was dropped, which `ended` tells.
        let _ = begin.await;
        write_channels(writer, outputs, version, ended).await;
    });
    Ok(ExecSession {
        stdin: wants.stdin.then(|| Box::new(stdin) as Reader),
        stdout: wants.stdout.then(|| Box::new(stdout) as Writer),
        stderr: (wants.stderr && !wants.tty).then(|| Box::new(stderr) as Writer),
        resize,
        end: End::WebSocket { established: Some(established), done, outcome, reader: AbortOnDrop(reading) },
    })
}

async fn read_channels<S: AsyncRead + AsyncWrite + Unpin>(mut reader: ChannelReader<S>, stdin: tokio::io::DuplexStream, resize: mpsc::Sender<Size>) {
    let mut stdin = Some(stdin);
    while let Ok(Some(message)) = reader.next().await {
        match message {
            Incoming::Data { channel: STDIN, bytes } => {
                if let Some(s) = &mut stdin {
                    let _ = s.write_all(&bytes).await;
                }
            }
            Incoming::Closed { channel: STDIN } => stdin = None,
            Incoming::Data { channel: RESIZE, bytes } => {
                if let Ok(size) = serde_json::from_slice(&bytes) {
                    let _ = resize.send(size).await;
                }
            }
            _ => {}
        }
    }
}

struct Outputs {
    stdout: Option<tokio::io::DuplexStream>,
    stderr: Option<tokio::io::DuplexStream>,
}

async fn write_channels<S: AsyncRead + AsyncWrite + Unpin>(mut writer: ChannelWriter<S>, mut o: Outputs, version: Version, mut ended: oneshot::Receiver<Outcome>) {
    // An empty message on the lowest open channel tells the client that the connection stands.
    let first = if o.stdout.is_some() {
        STDOUT
    } else if o.stderr.is_some() {
        STDERR
    } else {
        ERROR
    };
    let mut broken = writer.send(first, &[]).await.err();
    let (mut out, mut err) = (vec![0; STREAM_BUFFER_BYTES / 2], vec![0; STREAM_BUFFER_BYTES / 2]);
    while broken.is_none() && (o.stdout.is_some() || o.stderr.is_some()) {
        let (channel, n) = tokio::select! {
            n = read_some(&mut o.stdout, &mut out) => (STDOUT, n),
            n = read_some(&mut o.stderr, &mut err) => (STDERR, n),
        };
        if n > 0 {
            broken = writer.send(channel, if channel == STDOUT { &out[..n] } else { &err[..n] }).await.err();
        }
    }
    drop(o);
    match (&mut ended).await {
        Ok(outcome) if broken.is_none() => {
            let text = version.end(&outcome);
            if !text.is_empty() {
                let _ = writer.send(ERROR, text.as_bytes()).await;
            }
            writer.close(None).await;
        }
        Ok(_) => {}
        Err(_) => writer.close(Some("the session was dropped")).await,
    }
}

/// Reads from an open output; at its end forgets it and gives 0. Never resolves for an absent one.
async fn read_some(stream: &mut Option<tokio::io::DuplexStream>, buf: &mut [u8]) -> usize {
    let Some(s) = stream else { return std::future::pending().await };
    let n = s.read(buf).await.unwrap_or(0);
    if n == 0 {
        *stream = None;
    }
    n
}

pub(super) async fn accept_spdy<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(io: S, version: Version, wants: Wants) -> Result<ExecSession, StreamError> {
    let mut session = Session::start(io);
    let wanted = 1 + [wants.stdin, wants.stdout, wants.stderr && !wants.tty, wants.tty && version.has_sizes()].iter().filter(|w| **w).count();
    let mut streams: Vec<Stream> = Vec::with_capacity(wanted);
    let all = async {
        while streams.len() < wanted {
            streams.push(session.accept().await.ok_or(StreamError::Closed)?);
        }
        Ok::<(), StreamError>(())
    };
    match tokio::time::timeout(Duration::from_secs(STREAM_CREATION_SECONDS), all).await {
        Ok(r) => r?,
        Err(_) => return Err(StreamError::MissingStreams { got: streams.len(), wanted, seconds: STREAM_CREATION_SECONDS }),
    }
    let mut take = |kind: &str| streams.iter().position(|s| s.header("streamtype") == kind).map(|i| streams.swap_remove(i));
    let error = take("error").ok_or_else(|| StreamError::Peer("no error stream was opened".into()))?;
    let (resize_to, resize) = mpsc::channel(8);
    let sizes = take("resize").map(|s| AbortOnDrop(tokio::spawn(read_sizes(s, resize_to))));
    Ok(ExecSession {
        stdin: take("stdin").map(|s| Box::new(s.io) as Reader),
        stdout: take("stdout").map(|s| Box::new(s.io) as Writer),
        stderr: take("stderr").map(|s| Box::new(s.io) as Writer),
        resize,
        end: End::Spdy { session, error, version, sizes },
    })
}

/// Sizes come as JSON documents one after another.
async fn read_sizes(mut s: Stream, to: mpsc::Sender<Size>) {
    const MAX_PENDING_BYTES: usize = 4096;
    let mut buf = Vec::new();
    while let Ok(1..) = s.io.read_buf(&mut buf).await {
        let mut documents = serde_json::Deserializer::from_slice(&buf).into_iter::<Size>();
        let mut sizes = Vec::new();
        while let Some(Ok(size)) = documents.next() {
            sizes.push(size);
        }
        let used = documents.byte_offset();
        buf.drain(..used);
        for size in sizes {
            let _ = to.send(size).await;
        }
        if buf.len() > MAX_PENDING_BYTES {
            return;
        }
    }
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
