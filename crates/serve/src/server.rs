//! The accept loop.

use crate::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    pub peer: SocketAddr,
    /// The certificates the client showed, leaf first, not yet verified (see [`crate::tls::verify_client`]); empty when none.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
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
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 10_000, handshake: Duration::from_secs(10), headers: Duration::from_secs(30), header_bytes: 1 << 20, drain: Duration::from_secs(5) }
    }
}

/// HTTP/2 figures: hyper's 64 KB windows stall many watches on one connection (lessons.md 20).
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 25 << 20;
const STREAMS: u32 = 1000;
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause after a failed accept (no file descriptors left): the condition has no event to wait for.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// A listening server over TLS.
pub struct Server {
    pub listener: TcpListener,
    pub tls: Arc<ServerConfig>,
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
        let acceptor = TlsAcceptor::from(self.tls);
        let http = Arc::new(protocol(&self.limits));
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let graceful = GracefulShutdown::new();
        let gone = CancellationToken::new();
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { break };
            let accepted = tokio::select! {
                a = self.listener.accept() => a,
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
            let (acceptor, http, connect, gone, handshake) = (acceptor.clone(), http.clone(), connect.clone(), gone.clone(), self.limits.handshake);
            let watcher = graceful.watcher();
            tokio::spawn(async move {
                let _slot = slot;
                let serve = async {
                    let Some((io, info)) = shake_hands(acceptor, tcp, peer, handshake).await else { return };
                    let handler = connect(info);
                    let service = service_fn(move |r| {
                        let answer = handler(r);
                        async move { Ok::<_, Infallible>(answer.await) }
                    });
                    let connection = http.serve_connection_with_upgrades(io, service).into_owned();
                    if let Err(error) = watcher.watch(connection).await {
                        tracing::debug!(%peer, error, "connection ended");
                    }
                };
                tokio::select! { () = serve => {}, () = gone.cancelled() => {} }
            });
        }
        drop(self.listener);
        let _ = tokio::time::timeout(self.limits.drain, graceful.shutdown()).await;
        gone.cancel();
    }
}

async fn shake_hands(acceptor: TlsAcceptor, tcp: TcpStream, peer: SocketAddr, limit: Duration) -> Option<(TokioIo<tokio_rustls::server::TlsStream<TcpStream>>, ConnInfo)> {
    let _ = tcp.set_nodelay(true);
    match tokio::time::timeout(limit, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => {
            let certificates = tls.get_ref().1.peer_certificates().map(|c| c.iter().map(|c| c.clone().into_owned()).collect()).unwrap_or_default();
            Some((TokioIo::new(tls), ConnInfo { peer, certificates: Arc::new(certificates) }))
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

fn protocol(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut b = auto::Builder::new(TokioExecutor::new());
    b.http1().timer(TokioTimer::new()).header_read_timeout(limits.headers).max_buf_size(limits.header_bytes as usize);
    b.http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(limits.header_bytes)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    b
}
