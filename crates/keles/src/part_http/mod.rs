//! What a part that runs alone serves of itself: health, metrics, flags, status, configuration, profiles. One mechanism for all parts.
//!
//! Entry points: [`serve_secure`] (TLS; who asks is reviewed by the API server), [`serve_plain`] (what upstream serves without TLS: the proxy's).
//! Invariant: only paths that the flags name are answered without asking the API server who asks and whether they may.
//! Deliberately absent: the headers of a front proxy.

pub mod access;
pub mod flags;

use access::Access;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use keles_api::Status;
use keles_apiserver::health::{self, Check};
use keles_apiserver::metrics::checks;
use keles_apiserver::{debug, respond};
use keles_observe::metrics::{Format, render};
use keles_observe::pages::{self, Component};
use keles_registry::Query;
use keles_serve::{Body, BoxError, Limits, Server};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Roots of what is served, for `/statusz`.
pub const PATHS: &[&str] = &["/configz", "/debug", "/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz"];

/// A part, as it shows itself.
pub struct Part {
    pub pages: Component,
    /// What `/configz` says: the configuration by its group.
    pub configuration: Value,
    /// The checks behind `/healthz`, `/livez` or `/readyz`.
    pub checks: Box<dyn Fn(&str) -> Vec<Check> + Send + Sync>,
    /// `/debug/pprof` and `/debug/flags` are served.
    pub profiling: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: std::path::PathBuf, source: std::io::Error },
    #[error("{} and its key are no certificate and key", .0.display())]
    NoCertificate(std::path::PathBuf),
    #[error("serving certificate: {0}")]
    Pki(#[from] keles_pki::PkiError),
    #[error("TLS: {0}")]
    Tls(#[from] keles_serve::tls::TlsError),
}

impl Part {
    /// The answer to a request that may be answered.
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().trim_end_matches('/').to_owned();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        if let ["debug", rest @ ..] = parts.as_slice() {
            return if self.profiling { debug::of_process(rest, request, &query).await.unwrap_or_else(|s| refusal(&s)) } else { respond::no_route() };
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return respond::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        }
        let accept = text_of(request.headers(), ACCEPT);
        match parts.as_slice() {
            [endpoint @ ("healthz" | "livez" | "readyz"), check @ ..] => {
                let all = (self.checks)(endpoint);
                checks::note(endpoint, &all);
                health::answer(endpoint, &check.join("/"), &all, &query).unwrap_or_else(respond::no_route)
            }
            ["metrics"] => metrics(accept, |format| render(format, &[])),
            ["metrics", "slis"] => metrics(accept, checks::render),
            ["configz"] => typed(self.configuration.to_string(), "application/json"),
            ["statusz"] => page(pages::statusz(&self.pages, accept)),
            ["flagz"] => page(pages::flagz(&self.pages, accept)),
            _ => respond::no_route(),
        }
    }
}

fn text_of(headers: &HeaderMap, name: http::HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn typed(body: impl Into<bytes::Bytes>, media: &'static str) -> Response<Body> {
    let mut r = respond::text(StatusCode::OK, body);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    r
}

fn metrics(accept: &str, make: impl Fn(Format) -> String) -> Response<Body> {
    let format = Format::accepted(accept);
    typed(make(format), format.media_type())
}

fn page(made: Result<pages::Page, Status>) -> Response<Body> {
    made.map_or_else(|s| refusal(&s), |(body, media)| typed(body, media))
}

fn refusal(s: &Status) -> Response<Body> {
    let mut r = typed(s.to_json(), "application/json");
    *r.status_mut() = StatusCode::from_u16(s.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    r
}

fn boxed(request: Request<Incoming>) -> Request<Body> {
    request.map(|b| b.map_err(BoxError::from).boxed_unsync())
}

pub async fn listen(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address).await.map_err(|source| HttpError::Listen { address, source })
}

/// Serves over TLS until `stop`.
pub async fn serve_secure(part: Arc<Part>, access: Arc<Access>, listener: TcpListener, stop: CancellationToken) {
    let server = Server { listener, tls: access.tls(), limits: Limits::default() };
    let connect = move |info: keles_serve::ConnInfo| {
        let (part, access, certificates) = (part.clone(), access.clone(), info.certificates);
        move |request: Request<Incoming>| {
            let (part, access, certificates) = (part.clone(), access.clone(), certificates.clone());
            async move {
                match access.admit(request.method(), request.uri().path(), request.headers(), &certificates).await {
                    Ok(()) => part.answer(boxed(request)).await,
                    Err(status) => refusal(&status),
                }
            }
        }
    };
    server.run(connect, stop).await;
}

/// Serves without TLS and for everybody who reaches the address, until `stop`. `own` answers first.
pub async fn serve_plain<F>(part: Arc<Part>, own: F, listener: TcpListener, stop: CancellationToken)
where
    F: Fn(&str) -> Option<Response<Body>> + Clone + Send + Sync + 'static,
{
    let connect = move |_| {
        let (part, own) = (part.clone(), own.clone());
        move |request: Request<Incoming>| {
            let (part, own) = (part.clone(), own.clone());
            async move {
                match own(request.uri().path()) {
                    Some(answer) => answer,
                    None => part.answer(boxed(request)).await,
                }
            }
        }
    };
    keles_serve::run_plain(listener, Limits::default(), connect, stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn part() -> Part {
        let checks = |endpoint: &str| vec![Check { name: "ping", failure: None }, Check { name: "leaderElection", failure: (endpoint == "readyz").then(|| "lost".to_owned()) }];
        let pages =
            Component { name: "kube-scheduler", version: "1.36.0", paths: PATHS.iter().map(|p| (*p).to_owned()).collect(), flags: BTreeMap::from([("v".into(), "2".into())]) };
        Part { pages, configuration: serde_json::json!({"g": {"kind": "K"}}), checks: Box::new(checks), profiling: false }
    }

    async fn got(path: &str) -> (u16, String) {
        let request = Request::get(path).body(keles_serve::body::empty()).unwrap();
        let (parts, body) = part().answer(request).await.into_parts();
        (parts.status.as_u16(), String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned())
    }

    #[tokio::test]
    async fn a_part_serves_its_pages_and_nothing_else() {
        assert_eq!(got("/healthz").await, (200, "ok".into()));
        assert_eq!(got("/readyz").await, (500, "[+]ping ok\n[-]leaderElection failed: reason withheld\nreadyz check failed\n".into()));
        assert_eq!(got("/livez/ping").await, (200, "ok".into()));
        assert_eq!(got("/configz").await, (200, "{\"g\":{\"kind\":\"K\"}}".into()));
        assert!(got("/flagz").await.1.ends_with("v=2\n"));
        assert!(got("/statusz").await.1.contains("kube-scheduler statusz"));
        assert!(got("/metrics").await.1.contains("process_resident_memory_bytes "));
        assert!(got("/metrics/slis").await.1.contains("kubernetes_healthcheck{name=\"leaderElection\",type=\"readyz\"} 0"));
        for path in ["/", "/api", "/debug/pprof/cmdline", "/debug/flags/v"] {
            assert_eq!(got(path).await, (404, "404 page not found\n".into()), "{path}");
        }
    }
}
