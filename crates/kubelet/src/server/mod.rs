//! The agent's HTTPS API: logs, exec, attach, port-forward, run, pods, figures, health, metrics, configuration.
//!
//! Entry points: [`bind`], [`Bound::run`], [`serve_health`]. Invariant: every request is one whose sender is known and may ([`access`]), but for
//! the plain health port. Refused by name: checkpoints. Deliberately absent: profiles, node log query.
//! Source: kubernetes pkg/kubelet/server/server.go.

mod access;
mod cadvisor;
mod health;
mod reports;
mod resource_metrics;
mod streaming;
mod summary;
mod system_logs;
mod volume_stats;

pub use health::serve as serve_health;
#[cfg(test)]
pub(crate) use streaming::running_container;

use crate::agent::Agent;
use crate::certificates::serving::Shown;
use crate::figures::disk::Walked;
use crate::figures::{Rates, Snapshot};
use crate::pod_worker::View;
use crate::pods::Pods;
use crate::{KubeletError, logs, probe_metrics};
use access::{Access, Caller};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use keles_auth::delegated::{Delegated, Kept};
use keles_observe::health::Check;
use keles_observe::metrics::{self, Format};
use keles_observe::pages::{self, Component};
use keles_runtime::api::{DiskUsage, RuntimeError};
use keles_serve::{Body, ConnInfo, Limits, Server, body};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use volume_stats::VolumeStats;

const LOG_PIECES: usize = 16;
/// A command of `/run` may take this long (upstream's runtimeRequestTimeout).
const RUN_LIMIT: Duration = Duration::from_secs(120);
/// The form of `/run` holds a command.
const FORM_BYTES_MAX: usize = 64 << 10;
/// Roots of what is served, for `/statusz`.
const PATHS: &[&str] = &[
    "/attach",
    "/checkpoint",
    "/configz",
    "/containerLogs",
    "/exec",
    "/flagz",
    "/healthz",
    "/logs",
    "/metrics",
    "/pods",
    "/portForward",
    "/run",
    "/runningpods",
    "/stats",
    "/statusz",
];

/// A server that listens but does not answer yet.
pub struct Bound {
    server: Server,
    shown: Shown,
    port: u16,
}

/// What requests are answered from.
pub(crate) struct Api {
    agent: Arc<Agent>,
    pods: Pods,
    access: Access,
    port: u16,
    rates: Rates,
    walked: Walked,
    pages: Component,
}

impl Api {
    /// What a container wrote to its root, now or a short while ago.
    async fn written(&self, id: &str) -> Option<DiskUsage> {
        self.walked.usage(id, async { self.agent.runtime.written(id).await.ok() }).await
    }
}

pub async fn bind(address: SocketAddr, shown: Shown) -> Result<Bound, KubeletError> {
    let listener = TcpListener::bind(address).await.map_err(|source| KubeletError::Listen { address, source })?;
    let port = listener.local_addr().map_err(|source| KubeletError::Listen { address, source })?.port();
    Ok(Bound { server: Server { listener, tls: shown.settings.clone(), limits: Limits::default() }, shown, port })
}

impl Bound {
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it shows, for who keeps that new.
    pub fn shown(&self) -> Shown {
        self.shown.clone()
    }

    pub async fn run(self, agent: Arc<Agent>, pods: Pods, shutdown: CancellationToken) {
        metrics::register(reports::FAMILIES);
        let (config, reviews) = (&agent.config, Delegated::new(agent.client.clone(), Kept::OF_NODES));
        let access = Access::new(self.shown.verifier, reviews, config.node_name.clone(), config.anonymous_auth);
        let pages = Component {
            name: "kubelet",
            version: crate::config::VERSION.trim_start_matches('v'),
            paths: PATHS.iter().map(|path| (*path).to_owned()).collect(),
            flags: config.flags.clone(),
        };
        let api = Arc::new(Api { access, agent: agent.clone(), pods, port: self.port, rates: Rates::default(), walked: Walked::default(), pages });
        let connect = move |info: ConnInfo| {
            let (api, caller) = (api.clone(), api.access.caller(&info.certificates));
            move |request| serve(api.clone(), caller.clone(), request)
        };
        self.server.run(connect, shutdown).await;
    }
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

fn typed(body: impl Into<bytes::Bytes>, media: &'static str) -> Response<Body> {
    let mut response = Response::new(body::full(body));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media));
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    typed(value.to_string(), "application/json")
}

fn page(made: Result<pages::Page, keles_api::Status>) -> Response<Body> {
    match made {
        Ok((body, media)) => typed(body, media),
        Err(status) => text(StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), status.message),
    }
}

fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Judges, counts and answers.
async fn serve(api: Arc<Api>, caller: Caller, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if let Err(refusal) = api.access.admit(&caller, request.method(), &path, request.headers()).await {
        return refusal;
    }
    let root = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    // Metrics and figures name what is below, names of pods are left out.
    let shown = match root {
        "metrics" | "stats" => path.trim_matches('/'),
        root if PATHS.iter().any(|known| known[1..] == *root) => root,
        _ => "other",
    };
    let long = if matches!(root, "exec" | "attach" | "portForward") || request.uri().query().is_some_and(|query| query.contains("follow=true")) { "true" } else { "false" };
    let method = match *request.method() {
        Method::GET | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::HEAD => request.method().as_str().to_owned(),
        _ => "other".to_owned(),
    };
    let labels = [long, &method, if shown.len() > 40 { "other" } else { shown }, "readwrite"];
    reports::REQUESTS.with(labels).increment();
    let (open, took, began) = (Open(reports::OPEN.with(labels)), reports::TOOK.with(labels), Instant::now());
    open.0.add(1.0);
    let response = answer(api, request, &path).await;
    took.observe_seconds(began.elapsed());
    response
}

/// A request until it is answered or given up.
struct Open(&'static metrics::Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}

async fn answer(api: Arc<Api>, request: Request<Incoming>, path: &str) -> Response<Body> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let (agent, pods) = (api.agent.clone(), &api.pods);
    // An optional uid stands between the pod and the container.
    match parts.as_slice() {
        ["exec", namespace, pod, rest @ .., container] if rest.len() < 2 => {
            return streaming::exec(agent, pods, &query, Asked::new(namespace, pod, rest, container), request).await;
        }
        ["attach", namespace, pod, rest @ .., container] if rest.len() < 2 => {
            return streaming::attach(agent, pods, &query, Asked::new(namespace, pod, rest, container), request).await;
        }
        ["portForward", namespace, pod, rest @ ..] if rest.len() < 2 => return streaming::port_forward(agent, pods, &query, Asked::new(namespace, pod, rest, ""), request).await,
        ["run", namespace, pod, rest @ .., container] if rest.len() < 2 => return run(&api, query, Asked::new(namespace, pod, rest, container), request).await,
        ["checkpoint", namespace, pod, container] => return checkpoint(pods, request.method(), namespace, pod, container),
        _ => {}
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    let accept = accept(request.headers());
    let format = Format::accepted(accept);
    match parts.as_slice() {
        ["healthz", check @ ..] => health_answer(Some(&check.join("/")), &reports::checks(&api).await, &query),
        ["pods"] => json(&reports::pod_list(pods)),
        ["runningpods"] => json(&reports::running_pods(pods)),
        ["containerLogs", namespace, pod, container] => container_logs(&agent, pods, &query, (namespace, pod, container)),
        ["configz"] => json(&reports::configz(&agent.config, api.port)),
        ["stats", "summary"] => json(&summary::summary(&api, query.flag("only_cpu_and_memory")).await),
        ["metrics"] => typed(metrics::render(format, &[&reports::Own(&api), &VolumeStats::take(&api).await]), format.media_type()),
        ["metrics", "cadvisor"] => typed(cadvisor::metrics(&api, format).await, format.media_type()),
        ["metrics", "resource"] => typed(resource_metrics::text(&Snapshot::take(&agent, pods).await, format), format.media_type()),
        ["metrics", "probes"] => typed(probe_metrics::text(format), format.media_type()),
        ["statusz"] => page(pages::statusz(&api.pages, accept)),
        ["flagz"] => page(pages::flagz(&api.pages, accept)),
        ["logs", ..] => match &agent.config.system_logs {
            Some(folder) => system_logs::answer(folder.clone(), path, request.uri().query().unwrap_or_default(), request.headers()).await,
            None => text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled."),
        },
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// Whom a request is about.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    namespace: &'a str,
    pod: &'a str,
    uid: Option<&'a str>,
    container: &'a str,
}

impl<'a> Asked<'a> {
    fn new(namespace: &'a str, pod: &'a str, rest: &[&'a str], container: &'a str) -> Self {
        Self { namespace, pod, uid: rest.first().copied(), container }
    }

    /// The pod; one of another uid is none.
    fn view(&self, pods: &Pods) -> Option<View> {
        pods.view(self.namespace, self.pod).filter(|view| self.uid.is_none_or(|uid| view.pod.metadata.uid.as_deref() == Some(uid)))
    }
}

/// The outcome of all checks, or of the named one; `None` for a path that names none.
fn health_answer(check: Option<&str>, checks: &[Check], query: &Query) -> Response<Body> {
    let excluded = query.all("exclude");
    let excluded: Vec<&str> = excluded.iter().map(String::as_str).collect();
    match check.and_then(|check| keles_observe::health::answer("healthz", check, checks, &excluded, query.has("verbose"))) {
        Some((code, said)) => text(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), said),
        None => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// `POST /run/{namespace}/{pod}[/{uid}]/{container}?cmd=…`: what the command wrote, when it ended well. The command's words are parted by spaces.
async fn run(api: &Api, query: Query, asked: Asked<'_>, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    let id = match streaming::running(&api.pods, asked) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let command = match query.one("cmd") {
        Some(command) => command.to_owned(),
        None => {
            use http_body_util::BodyExt;
            let limited = http_body_util::Limited::new(request.into_body(), FORM_BYTES_MAX);
            let Ok(form) = limited.collect().await else { return text(StatusCode::BAD_REQUEST, "the form could not be read") };
            Query::parse(&String::from_utf8_lossy(&form.to_bytes())).one("cmd").unwrap_or_default().to_owned()
        }
    };
    let words: Vec<String> = command.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    if words.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container");
    }
    match api.agent.runtime.exec_sync(&id, words, RUN_LIMIT).await {
        Ok(output) if output.exit_code == 0 => typed([output.stdout, output.stderr].concat(), "application/json"),
        Ok(output) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("command '{command}' exited with {}: {}", output.exit_code, String::from_utf8_lossy(&output.stderr))),
        Err(RuntimeError::Timeout(_)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("command '{command}' timed out")),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Refused for containers that are there, as a runtime that does not know checkpoints makes upstream answer.
fn checkpoint(pods: &Pods, method: &Method, namespace: &str, pod: &str, container: &str) -> Response<Body> {
    if method != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    match streaming::running(pods, Asked::new(namespace, pod, &[], container)) {
        Ok(_) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("checkpointing of {namespace}/{pod}/{container} failed (the container runtime does not make checkpoints)")),
        Err(_) => text(StatusCode::NOT_FOUND, format!("container {container} of pod {namespace}/{pod} does not exist")),
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

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(other, _)| other == key)
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
