//! The accept loop.

use crate::body::Body;
use crate::tls::Settings;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    pub peer: SocketAddr,
    /// The certificates the client showed, leaf first, not yet verified (see [`crate::tls::verify_client`]); empty when none.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
    /// Cancelled, it sends the other end away once its open requests are answered: GOAWAY over HTTP/2, the last answer over HTTP/1.1.
    pub away: CancellationToken,
}

/// Limits of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    pub handshake: Duration,
    /// From the first byte of a request line to the end of its headers (HTTP/1.1).
    pub headers: Duration,
    pub header_bytes: u32,
    /// How long open requests may go on after shutdown.
    pub drain: Duration,
    /// How often an HTTP/2 peer is asked whether it is there.
    pub ping_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 10_000,
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(30),
            header_bytes: 1 << 20,
            drain: Duration::from_secs(5),
            ping_every: Duration::from_secs(30),
        }
    }
}

/// HTTP/2 figures: hyper's 64 KB windows stall many watches on one connection (lessons.md 20).
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 25 << 20;
const STREAMS: u32 = 1000;
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause after a failed accept (no file descriptors left): the condition has no event to wait for.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// A listening server over TLS.
pub struct Server {
    pub listener: TcpListener,
    pub tls: Settings,
    pub limits: Limits,
}

impl Server {
    /// Accepts until `shutdown`, then lets open requests end within `limits.drain`.
    /// `connect` makes the handler of a connection; the handler makes the answer of a request.
    pub async fn run<C, H, F>(self, connect: C, shutdown: CancellationToken)
    where
        C: Fn(ConnInfo) -> H + Clone + Send + Sync + 'static,
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let (tls, handshake) = (self.tls, self.limits.handshake);
        let shake = move |tcp, peer, away| {
            let settings = tls.current();
            async move {
                match settings {
                    Ok(settings) => shake_hands(TlsAcceptor::from(settings), tcp, peer, handshake, away).await,
                    Err(why) => {
                        tracing::info!(%peer, "TLS handshake error: {why}");
                        let _ = tokio::time::timeout(handshake, refuse_handshake(tcp)).await;
                        None
                    }
                }
            }
        };
        accept(self.listener, self.limits, shake, connect, shutdown).await;
    }
}

/// The same as [`Server::run`] without TLS: what upstream serves to everybody who reaches the address.
pub async fn run_plain<C, H, F>(listener: TcpListener, limits: Limits, connect: C, shutdown: CancellationToken)
where
    C: Fn(ConnInfo) -> H + Clone + Send + Sync + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let shake = |tcp: TcpStream, peer, away| {
        let _ = tcp.set_nodelay(true);
        std::future::ready(Some((TokioIo::new(tcp), ConnInfo { peer, certificates: Arc::default(), away })))
    };
    accept(listener, limits, shake, connect, shutdown).await;
}

/// The loop of both; `shake` makes of a connection what requests come over, or nothing.
async fn accept<S, T, IO, C, H, F>(listener: TcpListener, limits: Limits, shake: S, connect: C, shutdown: CancellationToken)
where
    S: Fn(TcpStream, SocketAddr, CancellationToken) -> T,
    T: Future<Output = Option<(IO, ConnInfo)>> + Send + 'static,
    IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    C: Fn(ConnInfo) -> H + Clone + Send + Sync + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let http = Arc::new(protocol(&limits));
    let slots = Arc::new(Semaphore::new(limits.connections));
    let open = TaskTracker::new();
    let leave = CancellationToken::new();
    let gone = CancellationToken::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            a = listener.accept() => a,
            () = shutdown.cancelled() => break,
        };
        let (tcp, peer) = match accepted {
            Ok(a) => a,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let away = leave.child_token();
        let shaken = shake(tcp, peer, away.clone());
        let (http, connect, gone) = (http.clone(), connect.clone(), gone.clone());
        open.spawn(async move {
            let _slot = slot;
            let serve = async {
                let Some((io, info)) = shaken.await else { return };
                let handler = connect(info);
                let service = service_fn(move |r| {
                    // On the heap: hyper moves it several times, and what answers a request is large.
                    let answer = Box::pin(handler(r));
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let mut connection = std::pin::pin!(http.serve_connection_with_upgrades(io, service));
                let ended = tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = away.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = ended {
                    tracing::debug!(%peer, error, "connection ended");
                }
            };
            tokio::select! { () = serve => {}, () = gone.cancelled() => {} }
        });
    }
    drop(listener);
    leave.cancel();
    open.close();
    let _ = tokio::time::timeout(limits.drain, open.wait()).await;
    gone.cancel();
}

async fn shake_hands(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    peer: SocketAddr,
    limit: Duration,
    away: CancellationToken,
) -> Option<(TokioIo<tokio_rustls::server::TlsStream<TcpStream>>, ConnInfo)> {
    let _ = tcp.set_nodelay(true);
    match tokio::time::timeout(limit, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => {
            let certificates = tls.get_ref().1.peer_certificates().map(|c| c.iter().map(|c| c.clone().into_owned()).collect()).unwrap_or_default();
            Some((TokioIo::new(tls), ConnInfo { peer, certificates: Arc::new(certificates), away }))
        }
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "TLS handshake timed out");
            None
        }
    }
}

/// Answers a ClientHello with the alert internal_error (RFC 8446, 6), so that clients say `tls: internal error` as of a Go server.
async fn refuse_handshake(mut tcp: TcpStream) -> std::io::Result<()> {
    const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];
    const HELLO_BYTES_MAX: usize = 16 << 10;
    // Read first: a connection closed over unread bytes is reset, and the alert lost.
    tcp.read(&mut [0; HELLO_BYTES_MAX]).await?;
    tcp.write_all(&ALERT).await?;
    tcp.shutdown().await
}

fn protocol(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut b = auto::Builder::new(TokioExecutor::new());
    b.http1().timer(TokioTimer::new()).header_read_timeout(limits.headers).max_buf_size(limits.header_bytes as usize);
    b.http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(limits.header_bytes)
        .keep_alive_interval(limits.ping_every)
        .keep_alive_timeout(PING_TIMEOUT);
    b
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::PrivateKeyDer;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    /// Type, flags, stream and payload of the next HTTP/2 frame (RFC 9113, 4.1).
    async fn frame(io: &mut (impl AsyncReadExt + Unpin)) -> (u8, u8, u32, Vec<u8>) {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.expect("a frame");
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        io.read_exact(&mut payload).await.expect("a payload");
        (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload)
    }

    #[tokio::test]
    async fn http2_opens_with_windows_for_many_watches_and_asks_whether_the_peer_is_there() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let tls = crate::tls::server_config(vec![made.cert.der().clone()], key, None).expect("settings");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let limits = Limits { ping_every: Duration::from_millis(20), ..Limits::default() };
        let server = Server { listener, tls, limits }.run(|_| |_| async { Response::new(crate::body::empty()) }, shutdown.clone());
        let client = async {
            let mut config = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![b"h2".to_vec()];
            let tcp = TcpStream::connect(address).await.expect("a connection");
            let mut io = tokio_rustls::TlsConnector::from(Arc::new(config)).connect("localhost".try_into().expect("a name"), tcp).await.expect("a handshake");
            io.write_all(&[PREFACE, EMPTY_SETTINGS].concat()).await.expect("the preface");
            let (mut settings, mut window, mut pinged) = (Vec::new(), 0, false);
            while !pinged || window == 0 {
                match frame(&mut io).await {
                    (SETTINGS, 0, 0, pairs) => settings = pairs.chunks(6).map(|p| (u16::from_be_bytes([p[0], p[1]]), u32::from_be_bytes([p[2], p[3], p[4], p[5]]))).collect(),
                    (WINDOW_UPDATE, _, 0, by) => window = u32::from_be_bytes([by[0], by[1], by[2], by[3]]),
                    (PING, 0, 0, _) => pinged = true,
                    _ => {}
                }
            }
            shutdown.cancel();
            (settings, window)
        };
        let ((), (settings, window)) = tokio::join!(server, client);
        assert!(settings.contains(&(4, STREAM_WINDOW_BYTES)), "SETTINGS_INITIAL_WINDOW_SIZE in {settings:?}");
        assert!(settings.contains(&(3, STREAMS)), "SETTINGS_MAX_CONCURRENT_STREAMS in {settings:?}");
        assert_eq!(window, CONNECTION_WINDOW_BYTES - 65_535, "the window of the connection grows from RFC 9113's 65,535");
    }

    #[tokio::test]
    async fn without_settings_a_handshake_is_refused_until_there_are_some() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (shutdown, tls) = (CancellationToken::new(), Settings::none_yet("no certificate yet"));
        let server = Server { listener, tls: tls.clone(), limits: Limits::default() }.run(|_| |_| async { Response::new(crate::body::empty()) }, shutdown.clone());
        let client = async {
            let versions = rustls::ClientConfig::builder_with_provider(crate::tls::provider()).with_safe_default_protocol_versions().expect("versions");
            let connector = tokio_rustls::TlsConnector::from(Arc::new(versions.with_root_certificates(roots).with_no_client_auth()));
            let connect = || async { connector.connect("localhost".try_into().expect("a name"), TcpStream::connect(address).await.expect("a connection")).await };
            let refused = connect().await.expect_err("no certificate").to_string();
            assert!(refused.contains("InternalError"), "{refused}");
            tls.replace(&crate::tls::server_config(vec![made.cert.der().clone()], key, None).expect("settings"));
            connect().await.expect("a handshake");
            shutdown.cancel();
        };
        tokio::join!(server, client);
    }
}
