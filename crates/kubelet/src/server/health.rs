//! `/healthz` without TLS, for whatever watches the agent on its own machine: that it answers, nothing more, as upstream.
//!
//! Entry point: [`serve`]. Source: kubernetes cmd/kubelet/app/server.go.

use super::{Query, health_answer};
use http::{Request, Response};
use hyper::body::Incoming;
use keles_observe::health::Check;
use keles_serve::{Body, Limits, run_plain};
use std::future::ready;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Until a port that was taken is tried again (upstream's figure).
const RETRY: Duration = Duration::from_secs(5);

/// Answers until `stop`; without an address, not at all.
pub async fn serve(address: Option<SocketAddr>, stop: CancellationToken) {
    let Some(address) = address else { return };
    let Some(listener) = stop.run_until_cancelled(listen(address)).await else { return };
    let connect = |_| |request: Request<Incoming>| ready(answer(request.uri().path(), &Query::parse(request.uri().query().unwrap_or_default())));
    run_plain(listener, Limits::default(), connect, stop).await;
}

/// Another agent of the machine may have the port: told once, and taken over when it is free.
async fn listen(address: SocketAddr) -> TcpListener {
    let mut told = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if told == Some(error.kind()) => {}
            Err(error) => {
                tracing::warn!(%error, %address, "health is not served without TLS, will be tried again; --healthz-port says where");
                told = Some(error.kind());
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn answer(path: &str, query: &Query) -> Response<Body> {
    let check = path.strip_prefix("/healthz").and_then(|rest| if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/').filter(|check| !check.is_empty()) });
    health_answer(check, &[Check { name: "ping", failure: None }], query)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_get::{self, Target};

    async fn ask(at: SocketAddr, path: &str) -> Option<(u16, String)> {
        let target = Target { https: false, host: at.ip().to_string(), port: at.port(), path: path.into(), headers: Vec::new() };
        http_get::get(&target, "test").await.ok().map(|answer| (answer.status, answer.body))
    }

    #[tokio::test(start_paused = true)]
    async fn a_taken_port_is_served_once_it_is_free() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = taken.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(Some(at), stop.clone()));
        // The first try fails.
        tokio::time::sleep(RETRY / 2).await;
        drop(taken);
        tokio::time::sleep(RETRY).await;
        assert_eq!(ask(at, "/healthz").await, Some((200, "ok".into())));
        assert_eq!(ask(at, "/healthz/ping").await, Some((200, "ok".into())));
        assert_eq!(ask(at, "/healthz?verbose").await, Some((200, "[+]ping ok\nhealthz check passed\n".into())));
        for path in ["/healthz/syncloop", "/healthz/", "/metrics"] {
            assert_eq!(ask(at, path).await, Some((404, "404 page not found\n".into())), "{path}");
        }
        stop.cancel();
        served.await.expect("ends");
        assert_eq!(ask(at, "/healthz").await, None);
    }

    #[tokio::test]
    async fn without_an_address_nothing_is_served() {
        serve(None, CancellationToken::new()).await;
    }
}
