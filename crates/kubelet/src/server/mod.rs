//! The agent's HTTPS API for the API server: logs, exec, attach, port-forward, pods, stats, health, metrics.
//!
//! Entry points: [`bind`], [`Bound::run`]. Invariant: every request but `/healthz` needs a client certificate of the cluster's authority that
//! belongs to the API server's kubelet client or to system:masters. Deliberately absent: token authentication, `/run`, `/checkpoint`.

mod reports;
mod streaming;

#[cfg(test)]
pub(crate) use streaming::running_container;

use crate::agent::Agent;
use crate::config::ServerTls;
use crate::pods::Pods;
use crate::{KubeletError, logs};
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use keles_pki::Subject;
use keles_serve::tls::{self, ClientVerifier};
use keles_serve::{Body, ConnInfo, Limits, Server, body};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const ALLOWED_USER: &str = "kube-apiserver-kubelet-client";
const ALLOWED_GROUP: &str = "system:masters";
const LOG_PIECES: usize = 16;

/// A server that listens but does not answer yet.
pub struct Bound {
    server: Server,
    verifier: ClientVerifier,
    port: u16,
}

pub async fn bind(address: SocketAddr, files: &ServerTls) -> Result<Bound, KubeletError> {
    let fault = |text: String| KubeletError::Tls(text);
    let certified = keles_pki::Certified { certificate_pem: files.certificate_pem.clone(), key_pem: files.key_pem.clone() };
    let ca = keles_pki::Certified { certificate_pem: files.client_ca_pem.clone(), key_pem: String::new() };
    let cas: Vec<Vec<u8>> = ca.certificate_der().ok_or_else(|| fault("no client authority".into()))?.iter().map(|der| der.to_vec()).collect();
    let certificates = certified.certificate_der().ok_or_else(|| fault("no certificate".into()))?;
    let key = certified.key_der().ok_or_else(|| fault("no key".into()))?;
    let verifier = tls::client_verifier(&cas).map_err(|error| fault(error.to_string()))?;
    let config = tls::server_config(certificates, key, Some(verifier.clone())).map_err(|error| fault(error.to_string()))?;
    let listener = TcpListener::bind(address).await.map_err(|source| KubeletError::Listen { address, source })?;
    let port = listener.local_addr().map_err(|source| KubeletError::Listen { address, source })?.port();
    Ok(Bound { server: Server { listener, tls: config, limits: Limits::default() }, verifier, port })
}

impl Bound {
    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn run(self, agent: Arc<Agent>, pods: Pods, shutdown: CancellationToken) {
        let verifier = self.verifier;
        let connect = move |info: ConnInfo| {
            let allowed = is_allowed(&verifier, &info);
            let (agent, pods) = (agent.clone(), pods.clone());
            move |request| answer(agent.clone(), pods.clone(), allowed, request)
        };
        self.server.run(connect, shutdown).await;
    }
}

fn is_allowed(verifier: &ClientVerifier, info: &ConnInfo) -> bool {
    if tls::verify_client(verifier.as_ref(), &info.certificates).is_err() {
        return false;
    }
    let subject = info.certificates.first().and_then(|leaf| Subject::of(leaf));
    subject.is_some_and(|subject| subject.common_name == ALLOWED_USER || subject.organizations.iter().any(|group| group == ALLOWED_GROUP))
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut text = text.into();
    if !text.ends_with('\n') && status != StatusCode::OK {
        text.push('\n');
    }
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(body::full(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

async fn answer(agent: Arc<Agent>, pods: Pods, allowed: bool, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_string();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if parts == ["healthz"] {
        return text(StatusCode::OK, "ok");
    }
    if !allowed {
        return text(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match parts.as_slice() {
        ["containerLogs", namespace, pod, container] => container_logs(&agent, &pods, &query, (namespace, pod, container)),
        // An optional uid stands between the pod and the container.
        ["exec", namespace, pod, rest @ .., container] if rest.len() < 2 => streaming::exec(agent, &pods, &query, (namespace, pod, container), request).await,
        ["attach", namespace, pod, rest @ .., container] if rest.len() < 2 => streaming::attach(agent, &pods, &query, (namespace, pod, container), request).await,
        ["portForward", namespace, pod, ..] => streaming::port_forward(agent, &pods, &query, (namespace, pod), request).await,
        ["pods"] if request.method() == Method::GET => json(&reports::pod_list(&pods)),
        ["stats", "summary"] => json(&reports::summary(&agent, &pods).await),
        ["metrics"] => text(StatusCode::OK, reports::metrics(&pods)),
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// A decoded query; a key may come several times.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(key, value)| (decode(key), decode(value))).collect())
    }

    fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(other, _)| other == key).map(|(_, value)| value.clone()).collect()
    }

    fn one(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Go's booleans: `1`, `t`, `true`.
    fn flag(&self, key: &str) -> bool {
        self.one(key).is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "t" | "true"))
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => match tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &tail[2..];
                }
                None => bytes.push(b'%'),
            },
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn log_options(query: &Query) -> Result<logs::Options, String> {
    let number = |key: &str| -> Result<Option<u64>, String> { query.one(key).map(|value| value.parse().map_err(|_| format!("invalid {key}: \"{value}\""))).transpose() };
    let since_time = query.one("sinceTime").map(|value| value.parse().map_err(|_| format!("invalid sinceTime: \"{value}\""))).transpose()?;
    let since_seconds = number("sinceSeconds")?.map(|seconds| jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds as i64));
    Ok(logs::Options {
        tail_lines: number("tailLines")?,
        limit_bytes: number("limitBytes")?,
        since: since_time.or(since_seconds),
        timestamps: query.flag("timestamps"),
        follow: query.flag("follow"),
        stream: query.one("stream").map(str::to_lowercase).filter(|stream| stream != "all"),
    })
}

/// `GET /containerLogs/{namespace}/{pod}/{container}`.
fn container_logs(agent: &Arc<Agent>, pods: &Pods, query: &Query, (namespace, pod, container): (&str, &str, &str)) -> Response<Body> {
    let Some(view) = pods.view(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist"));
    };
    let spec = view.pod.spec.as_ref();
    let is_known = spec.is_some_and(|spec| {
        let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|other| other.name == container);
        plain || spec.ephemeral_containers.iter().flatten().any(|other| other.name == container)
    });
    if !is_known {
        return text(StatusCode::NOT_FOUND, format!("container \"{container}\" not found in pod \"{pod}\""));
    }
    let options = match log_options(query) {
        Ok(options) => options,
        Err(fault) => return text(StatusCode::BAD_REQUEST, fault),
    };
    let id = match logs::choose(&view.status, pod, container, query.flag("previous")) {
        Ok(id) => id,
        Err(refusal) => return text(StatusCode::BAD_REQUEST, refusal),
    };
    let Some(record) = view.records.iter().find(|record| record.id == id) else {
        return text(StatusCode::BAD_REQUEST, format!("container \"{container}\" in pod \"{pod}\" is terminated"));
    };
    let uid = view.pod.metadata.uid.as_deref().unwrap_or_default();
    let path = agent.config.log_dir(namespace, pod, uid).join(&record.log_path);
    let (tx, rx) = tokio::sync::mpsc::channel(LOG_PIECES);
    let ended = container_end(agent.clone(), id);
    tokio::spawn(async move {
        if let Err(error) = logs::stream(path, options, tx, ended).await {
            tracing::debug!(%error, "a log could not be read");
        }
    });
    let pieces = futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|piece| (piece, rx)) });
    let mut response = Response::new(body::stream(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

/// Resolves when the container does not run (any more).
async fn container_end(agent: Arc<Agent>, id: String) {
    use keles_runtime::api::ContainerState;
    let mut events = agent.runtime.events();
    loop {
        let running = agent.runtime.container_status(&id).await.is_ok_and(|status| status.state == ContainerState::Running || status.state == ContainerState::Created);
        if !running {
            return;
        }
        loop {
            match events.recv().await {
                Ok(event) if event.container_id == id => break,
                Ok(_) => {}
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => break,
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_and_keeps_repeated_keys() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%2Fb%20c&input=1&tty=false");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a/b c"]);
        assert!(query.flag("input") && !query.flag("tty") && !query.flag("output"));
    }

    #[test]
    fn bad_log_options_are_named() {
        assert_eq!(log_options(&Query::parse("tailLines=x")), Err("invalid tailLines: \"x\"".into()));
        let options = log_options(&Query::parse("tailLines=3&follow=true&stream=All")).expect("valid");
        assert_eq!((options.tail_lines, options.follow, options.stream), (Some(3), true, None));
    }
}
