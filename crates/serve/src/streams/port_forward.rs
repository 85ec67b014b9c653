//! Port forwarding: pairs of data and error streams, each pair one connection to one port.
//!
//! SPDY clients (and kubectl's SPDY inside a WebSocket) open a pair a connection, tied by a request id; plain WebSocket clients
//! name their ports in the query and get channels 2i and 2i+1 for the i-th, whose first message is the port.

use super::spdy::{Session, Stream};
use super::websocket::{ChannelWriter, Encoding, Incoming, channels, tunnel};
use super::{Asked, LINGER, STREAM_BUFFER_BYTES, StreamError, asked, choose, spdy_answer, websocket_answer};
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

const SPDY_PROTOCOLS: &[&str] = &["portforward.k8s.io"];
const WEBSOCKET_PROTOCOLS: &[&str] = &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Streams whose partner has not come yet.
const MAX_PENDING_PAIRS: usize = 256;

/// One connection that the client wants carried.
pub struct Forwarded {
    pub port: u16,
    pub data: DuplexStream,
    error: DuplexStream,
}

impl Forwarded {
    /// Tells the client why the connection failed, in words it prints.
    pub async fn fail(mut self, why: &str) {
        let _ = self.error.write_all(why.as_bytes()).await;
        let _ = self.error.shutdown().await;
    }
    /// Carries bytes both ways until both sides are done, or until the target is known to be broken, which the client is told then.
    pub async fn carry<T: AsyncRead + AsyncWrite + Unpin>(mut self, mut target: T, fault: impl Future<Output = Option<String>>) {
        let mut fault = std::pin::pin!(fault);
        let (mut known, mut over) = (None, false);
        {
            let mut copy = std::pin::pin!(tokio::io::copy_bidirectional(&mut self.data, &mut target));
            while !over && !matches!(known, Some(Some(_))) {
                tokio::select! {
                    _ = &mut copy => over = true,
                    why = &mut fault, if known.is_none() => known = Some(why),
                }
            }
        }
        drop(target);
        let why = match known {
            Some(why) => why,
            None => tokio::time::timeout(LINGER, fault).await.ok().flatten(),
        };
        if let Some(why) = why {
            self.fail(&why).await;
        }
    }
}

/// An upgrade under way: send the answer, then `accept`.
pub struct PortForwardUpgrade {
    on: OnUpgrade,
    carrier: Carrier,
}

enum Carrier {
    Spdy,
    Tunnel,
    Channels { encoding: Encoding, ports: Vec<u16> },
}

/// `ports` are those of the query, which only plain WebSocket clients need.
pub fn upgrade<B>(request: &mut Request<B>, ports: &[u16]) -> Result<(Response<()>, PortForwardUpgrade), StreamError> {
    let (answer, carrier) = match asked(request.headers())? {
        Asked::Spdy { protocols } => (spdy_answer(Some(choose(&protocols, SPDY_PROTOCOLS)?)), Carrier::Spdy),
        Asked::WebSocket { key, protocols } => {
            let protocol = choose(&protocols, WEBSOCKET_PROTOCOLS)?;
            let encoding = if protocol.contains("base64") { Encoding::Base64 } else { Encoding::Binary };
            let carrier = if protocol == TUNNEL { Carrier::Tunnel } else { Carrier::Channels { encoding, ports: ports.to_vec() } };
            (websocket_answer(&key, Some(protocol)), carrier)
        }
    };
    Ok((answer, PortForwardUpgrade { on: hyper::upgrade::on(request), carrier }))
}

impl PortForwardUpgrade {
    pub async fn accept(self) -> Result<PortForwardSession, StreamError> {
        let io = TokioIo::new(self.on.await.map_err(StreamError::Switch)?);
        let (to, connections) = mpsc::channel(16);
        let task = match self.carrier {
            Carrier::Spdy => tokio::spawn(pair_streams(Session::start(io), to)),
            Carrier::Tunnel => tokio::spawn(pair_streams(Session::start(tunnel(io).await), to)),
            Carrier::Channels { encoding, ports } => tokio::spawn(run_channels(io, encoding, ports, to)),
        };
        Ok(PortForwardSession { connections, task })
    }
}

/// The client's side of a port-forward.
pub struct PortForwardSession {
    connections: mpsc::Receiver<Forwarded>,
    task: tokio::task::JoinHandle<()>,
}

impl PortForwardSession {
    /// The next connection to carry, absent when the client is gone.
    pub async fn next(&mut self) -> Option<Forwarded> {
        self.connections.recv().await
    }
}

impl Drop for PortForwardSession {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pair_streams(mut session: Session, to: mpsc::Sender<Forwarded>) {
    let mut waiting: HashMap<String, Stream> = HashMap::new();
    while let Some(stream) = session.accept().await {
        // Clients older than request ids open error and data of one port one after the other.
        let id = if stream.header("requestid").is_empty() { stream.header("port").to_owned() } else { stream.header("requestid").to_owned() };
        let Some(other) = waiting.remove(&id) else {
            if waiting.len() < MAX_PENDING_PAIRS {
                waiting.insert(id, stream);
            }
            continue;
        };
        let (data, error) = if stream.header("streamtype") == "data" { (stream, other) } else { (other, stream) };
        let Ok(port) = data.header("port").parse() else { continue };
        if to.send(Forwarded { port, data: data.io, error: error.io }).await.is_err() {
            break;
        }
    }
    session.close().await;
}

/// Channels cannot be half closed: when every port has said all it will, the session is over, as upstream ends it.
async fn run_channels<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(io: S, encoding: Encoding, ports: Vec<u16>, to: mpsc::Sender<Forwarded>) {
    let (mut reader, writer) = channels(io, encoding).await;
    let writer = Arc::new(Mutex::new(writer));
    let (mut inputs, mut sending, mut failing) = (Vec::new(), JoinSet::new(), JoinSet::new());
    for (i, port) in ports.iter().enumerate().take(usize::from(u8::MAX / 2)) {
        let (data_channel, error_channel) = (2 * i as u8, 2 * i as u8 + 1);
        let (data, ours) = tokio::io::duplex(STREAM_BUFFER_BYTES);
        let (error, error_from) = tokio::io::duplex(STREAM_BUFFER_BYTES);
        let (from, input) = tokio::io::split(ours);
        sending.spawn(send_channel(from, data_channel, *port, writer.clone()));
        failing.spawn(send_channel(error_from, error_channel, *port, writer.clone()));
        inputs.push(input);
        if to.send(Forwarded { port: *port, data, error }).await.is_err() {
            return;
        }
    }
    let taking = async {
        while let Ok(Some(message)) = reader.next().await {
            let (Incoming::Data { channel, .. } | Incoming::Closed { channel }) = message;
            let Some(input) = inputs.get_mut(usize::from(channel) / 2).filter(|_| channel.is_multiple_of(2)) else { continue };
            let _ = match message {
                Incoming::Data { bytes, .. } => input.write_all(&bytes).await,
                Incoming::Closed { .. } => input.shutdown().await,
            };
        }
    };
    let client_left = tokio::select! {
        () = taking => true,
        () = async { while sending.join_next().await.is_some() {} } => false,
    };
    drop((inputs, sending));
    while !client_left && failing.join_next().await.is_some() {}
    drop(failing);
    writer.lock().await.close(None).await;
    let _ = tokio::time::timeout(LINGER, async { while let Ok(Some(_)) = reader.next().await {} }).await;
}

async fn send_channel<S, R>(mut from: R, channel: u8, port: u16, writer: Arc<Mutex<ChannelWriter<S>>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
{
    let mut buf = vec![0; STREAM_BUFFER_BYTES / 2];
    let mut alive = writer.lock().await.send(channel, &port.to_le_bytes()).await.is_ok();
    while alive {
        let n = from.read(&mut buf).await.unwrap_or(0);
        alive = n > 0 && writer.lock().await.send(channel, &buf[..n]).await.is_ok();
    }
}
