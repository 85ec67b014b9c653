//! Probes: one worker per container and probe, which tells the pod's worker of each change of verdict.
//!
//! Entry points: [`spawn`] (the worker), [`attempt`] (one try), [`Judge`] (thresholds, pure). A try that could not be made (an error, not a
//! failure) changes nothing.

use crate::events::{Recorder, WARNING};
use crate::http_get::{self, HealthError, Target};
use crate::probe_metrics;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keles_runtime::api::{PodRuntime, RuntimeError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Tries again at once so often when a try could not be made at all.
const MAX_RETRIES: usize = 3;
/// The first regular try comes this long after a container's start (upstream's agent needs about that to notice the start): what is not up by
/// then is told as a failure.
const SETTLE: Duration = Duration::from_secs(1);
/// Pause before the first early try; doubles.
const FIRST_TRY: Duration = Duration::from_millis(50);
const MAX_REDIRECTS: usize = 10;
/// Output shown in an event.
const MAX_OUTPUT_BYTES: usize = 10 << 10;
pub const USER_AGENT: &str = "kube-probe/1.36";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// A verdict reached its threshold.
#[derive(Clone, Debug)]
pub struct Report {
    pub container_id: String,
    pub kind: Kind,
    pub success: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Success with something to tell.
    Warning(String),
    Failure(String),
    /// The try itself failed.
    Error(String),
}

impl Outcome {
    /// As `prober_probe_total` names it.
    fn result(&self) -> &'static str {
        match self {
            Self::Success | Self::Warning(_) => "successful",
            Self::Failure(_) => "failed",
            Self::Error(_) => "unknown",
        }
    }
}

/// Counts outcomes against the thresholds.
#[derive(Clone, Debug)]
pub struct Judge {
    success_threshold: i32,
    failure_threshold: i32,
    last: Option<bool>,
    run: i32,
}

impl Judge {
    pub fn new(probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default| value.filter(|value| *value > 0).unwrap_or(default);
        Self { success_threshold: at_least_one(probe.success_threshold, 1), failure_threshold: at_least_one(probe.failure_threshold, 3), last: None, run: 0 }
    }

    /// The verdict, once enough outcomes of the same kind came in a row.
    pub fn judge(&mut self, success: bool) -> Option<bool> {
        if self.last == Some(success) {
            self.run += 1;
        } else {
            (self.last, self.run) = (Some(success), 1);
        }
        let needed = if success { self.success_threshold } else { self.failure_threshold };
        (self.run >= needed).then_some(success)
    }
}

/// Everything a worker needs of its container.
#[derive(Clone)]
pub struct Subject {
    pub pod: Arc<Pod>,
    pub container: Container,
    /// `spec.containers{c}`.
    pub field: String,
    pub container_id: String,
    pub started_at: Timestamp,
    pub address: String,
}

/// Tries a container soon after its start; a failure says nothing yet, for it has hardly begun. Success is known at once.
async fn settle(probe: &Probe, subject: &Subject, runtime: &dyn PodRuntime) -> bool {
    let mut pause = FIRST_TRY;
    while since_start(subject) < SETTLE {
        tokio::time::sleep(pause).await;
        if attempt(probe, subject, runtime).await == Outcome::Success {
            return true;
        }
        pause *= 2;
    }
    false
}

fn since_start(subject: &Subject) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(subject.started_at)).unwrap_or_default()
}

/// Starts a worker; it ends by itself after a startup success, or when its report finds no listener, or aborted.
pub fn spawn(kind: Kind, subject: Subject, runtime: Arc<dyn PodRuntime>, events: Recorder, reports: mpsc::Sender<Report>) -> Option<JoinHandle<()>> {
    let probe = kind.of(&subject.container)?.clone();
    Some(tokio::spawn(async move {
        let delay = Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0).max(0) as u64);
        let mut judge = Judge::new(&probe);
        let mut told = None;
        let mut early = kind != Kind::Liveness && delay.is_zero() && settle(&probe, &subject, runtime.as_ref()).await;
        tokio::time::sleep(if early { Duration::ZERO } else { delay.max(SETTLE).saturating_sub(since_start(&subject)) }).await;
        let period = Duration::from_secs(probe.period_seconds.filter(|period| *period > 0).unwrap_or(10) as u64);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let began = Instant::now();
            let outcome = if std::mem::take(&mut early) { Outcome::Success } else { attempt_with_retries(&probe, &subject, runtime.as_ref()).await };
            probe_metrics::note(&subject.pod, &subject.container.name, kind.title(), outcome.result(), began.elapsed());
            let Some(success) = tell(kind, &subject, &events, &outcome) else { continue };
            let Some(verdict) = judge.judge(success) else { continue };
            if told == Some(verdict) {
                continue;
            }
            told = Some(verdict);
            let report = Report { container_id: subject.container_id.clone(), kind, success: verdict };
            if reports.send(report).await.is_err() || (kind == Kind::Startup && verdict) {
                return;
            }
            if !verdict && kind != Kind::Readiness {
                // The container is killed for this; the next one gets a worker of its own.
                return;
            }
        }
    }))
}

/// Writes the event an outcome asks for; `None` when it says nothing of the container.
fn tell(kind: Kind, subject: &Subject, events: &Recorder, outcome: &Outcome) -> Option<bool> {
    let event = |reason: &str, text: String| events.container(&subject.pod, &subject.field, WARNING, reason, text);
    match outcome {
        Outcome::Success => Some(true),
        Outcome::Warning(text) => {
            event("ProbeWarning", format!("{} probe warning: {text}", kind.title()));
            Some(true)
        }
        Outcome::Failure(text) => {
            event("Unhealthy", format!("{} probe failed: {text}", kind.title()));
            Some(false)
        }
        Outcome::Error(text) => {
            event("Unhealthy", format!("{} probe errored and resulted in unknown state: {text}", kind.title()));
            None
        }
    }
}

async fn attempt_with_retries(probe: &Probe, subject: &Subject, runtime: &dyn PodRuntime) -> Outcome {
    let mut outcome = Outcome::Error(String::new());
    for _ in 0..MAX_RETRIES {
        outcome = attempt(probe, subject, runtime).await;
        if !matches!(outcome, Outcome::Error(_)) {
            break;
        }
    }
    outcome
}

/// One try.
pub async fn attempt(probe: &Probe, subject: &Subject, runtime: &dyn PodRuntime) -> Outcome {
    let timeout = Duration::from_secs(probe.timeout_seconds.filter(|timeout| *timeout > 0).unwrap_or(1) as u64);
    if let Some(exec) = &probe.exec {
        return by_exec(exec.command.clone().unwrap_or_default(), &subject.container_id, timeout, runtime).await;
    }
    if let Some(action) = &probe.http_get {
        return match port_of(&action.port, &subject.container) {
            Ok(port) => by_http(Target::of(action, &subject.address, port), timeout).await,
            Err(error) => Outcome::Error(error),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&subject.address);
        return match port_of(&action.port, &subject.container) {
            Ok(port) => by_tcp(&authority(host, port), timeout).await,
            Err(error) => Outcome::Error(error),
        };
    }
    if let Some(action) = &probe.grpc {
        let authority = authority(&subject.address, action.port as u16);
        return by_grpc(&authority, action.service.as_deref().unwrap_or_default(), timeout).await;
    }
    Outcome::Error("probe has no handler".into())
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A port by number or by the container's name for it.
pub fn port_of(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            match named {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("couldn't find port \"{name}\" in container {}", container.name))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

async fn by_exec(command: Vec<String>, id: &str, timeout: Duration, runtime: &dyn PodRuntime) -> Outcome {
    let shown = command.join(" ");
    match runtime.exec_sync(id, command, timeout).await {
        Ok(output) => {
            let mut text = output.stdout;
            text.extend(output.stderr);
            text.truncate(MAX_OUTPUT_BYTES);
            let text = String::from_utf8_lossy(&text).into_owned();
            if output.exit_code == 0 { Outcome::Success } else { Outcome::Failure(text) }
        }
        Err(RuntimeError::Timeout(_)) => Outcome::Failure(format!("command timed out: \"{shown}\" timed out after {}s", timeout.as_secs())),
        // A command that cannot be run is a failing command.
        Err(RuntimeError::Start { message, .. }) => Outcome::Failure(message),
        Err(error) => Outcome::Error(error.to_string()),
    }
}

async fn by_http(target: Target, timeout: Duration) -> Outcome {
    let url = target.url();
    match tokio::time::timeout(timeout, follow(target)).await {
        Err(_) => Outcome::Failure(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)")),
        Ok(Err(error)) => Outcome::Failure(format!("Get \"{url}\": {error}")),
        Ok(Ok(answer)) if (300..400).contains(&answer.status) => Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body)),
        Ok(Ok(answer)) if (200..300).contains(&answer.status) => Outcome::Success,
        Ok(Ok(answer)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.status)),
    }
}

/// Follows redirects on the same host; one to another host is the answer itself (and counts as success with a warning).
async fn follow(mut target: Target) -> Result<http_get::Answer, String> {
    let mut left = MAX_REDIRECTS;
    loop {
        let answer = http_get::get(&target, USER_AGENT).await?;
        let next = answer.location.as_deref().filter(|_| (300..400).contains(&answer.status)).and_then(|location| target.redirected(location));
        match next {
            Some(next) if left > 0 => target = next,
            Some(_) => return Err(format!("stopped after {MAX_REDIRECTS} redirects")),
            None => return Ok(answer),
        }
        left -= 1;
    }
}

async fn by_tcp(authority: &str, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, tokio::net::TcpStream::connect(authority)).await {
        Err(_) => Outcome::Failure(format!("dial tcp {authority}: i/o timeout")),
        Ok(Err(error)) => Outcome::Failure(http_get::dial_error(authority, &error)),
        Ok(Ok(_)) => Outcome::Success,
    }
}

async fn by_grpc(authority: &str, service: &str, timeout: Duration) -> Outcome {
    const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
    match http_get::grpc_health(authority, service, timeout).await {
        Err(HealthError::Late) => Outcome::Failure(format!("timeout: health rpc did not complete within {}s", timeout.as_secs())),
        Err(HealthError::Unimplemented(why)) => Outcome::Failure(format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {why}")),
        Err(HealthError::Other(why)) => Outcome::Failure(format!("error: health rpc probe failed: {why}")),
        Ok(1) => Outcome::Success,
        Ok(status) => Outcome::Failure(format!("service unhealthy (responded with {:?})", STATUSES.get(status as usize).unwrap_or(&"UNKNOWN"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn probe(value: serde_json::Value) -> Probe {
        serde_json::from_value(value).expect("a probe")
    }

    #[test]
    fn thresholds_count_only_unbroken_runs() {
        let mut judge = Judge::new(&probe(json!({"failureThreshold": 2, "successThreshold": 2})));
        let verdicts: Vec<_> = [false, true, false, false, true, true].into_iter().map(|success| judge.judge(success)).collect();
        assert_eq!(verdicts, [None, None, None, Some(false), None, Some(true)]);
    }

    #[test]
    fn the_default_threshold_of_failure_is_three() {
        let mut judge = Judge::new(&probe(json!({})));
        assert_eq!([judge.judge(false), judge.judge(false), judge.judge(false)], [None, None, Some(false)]);
    }

    /// Serves one answer on a port of its own.
    async fn server(answer: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    async fn http(answer: &'static str) -> Outcome {
        let action = serde_json::from_value(json!({"port": 1, "path": "x"})).expect("an action");
        by_http(Target::of(&action, "127.0.0.1", server(answer).await), Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn http_answers_from_200_to_399_are_success() {
        assert_eq!(http("HTTP/1.1 204 No Content\r\n\r\n").await, Outcome::Success);
        assert!(matches!(http("HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n").await, Outcome::Warning(_)));
        assert_eq!(http("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await, Outcome::Failure("HTTP probe failed with statuscode: 404".into()));
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_in_the_known_words() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("address").port();
        drop(listener);
        let expected = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(by_tcp(&format!("127.0.0.1:{port}"), Duration::from_secs(1)).await, Outcome::Failure(expected));
    }

    #[test]
    fn a_port_is_found_by_its_name() {
        let container: Container = serde_json::from_value(json!({"name": "c", "ports": [{"name": "http", "containerPort": 8000}]})).expect("a container");
        assert_eq!(port_of(&IntOrString::String("http".into()), &container), Ok(8000));
        assert_eq!(port_of(&IntOrString::Int(80), &container), Ok(80));
        port_of(&IntOrString::String("none".into()), &container).expect_err("unknown");
    }

    #[tokio::test]
    async fn an_http_probe_goes_to_the_named_host_with_the_named_headers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("address").port();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.expect("a request");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("answered");
            String::from_utf8_lossy(&request[..length]).to_ascii_lowercase()
        });
        let headers = json!([{"name": "Host", "value": "own.example"}, {"name": "X-Twice", "value": "1"}, {"name": "X-Twice", "value": "2"}]);
        let action = serde_json::from_value(json!({"port": 1, "path": "healthz", "host": "127.0.0.1", "scheme": "HTTP", "httpHeaders": headers})).expect("an action");
        assert_eq!(by_http(Target::of(&action, "192.0.2.1", port), Duration::from_secs(5)).await, Outcome::Success, "the action's host, not the pod's");
        let asked = asked.await.expect("served");
        for line in ["get /healthz http/1.1", "host: own.example", "x-twice: 1", "x-twice: 2", "user-agent: kube-probe/"] {
            assert!(asked.contains(line), "{line} is missing in {asked}");
        }
        assert_eq!(asked.matches("host:").count(), 1, "{asked}");
        for scheme in ["HTTPS", "https"] {
            let action = serde_json::from_value(json!({"port": 1, "scheme": scheme})).expect("an action");
            assert_eq!(Target::of(&action, "192.0.2.1", 443).url(), "https://192.0.2.1:443/");
        }
    }

    /// A health service that knows `web` and `down`, and answers to nothing else.
    async fn health_server() -> u16 {
        use http_body_util::{BodyExt, StreamBody};
        use hyper::body::{Bytes, Frame};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("address").port();
        let answer = |request: hyper::Request<hyper::body::Incoming>| async move {
            let path = request.uri().path().to_owned();
            let asked = request.into_body().collect().await.expect("a body").to_bytes();
            let named = |name: &str| asked[5..] == [&[0x0a, name.len() as u8], name.as_bytes()].concat()[..];
            let trailers = |code: &'static str, message: &'static str| {
                let mut map = hyper::HeaderMap::new();
                map.insert("grpc-status", hyper::header::HeaderValue::from_static(code));
                map.insert("grpc-message", hyper::header::HeaderValue::from_static(message));
                Frame::trailers(map)
            };
            let status = |n: u8| Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, n]));
            let frames: Vec<Frame<Bytes>> = match path.as_str() {
                "/grpc.health.v1.Health/Check" if asked.len() == 5 || named("web") => vec![status(1), trailers("0", "")],
                "/grpc.health.v1.Health/Check" if named("down") => vec![status(2), trailers("0", "")],
                "/grpc.health.v1.Health/Check" if asked.len() > 200 => vec![trailers("12", "unknown service")],
                _ => vec![trailers("5", "unknown service")],
            };
            let body = StreamBody::new(futures::stream::iter(frames.into_iter().map(Ok::<_, std::convert::Infallible>)));
            Ok::<_, std::convert::Infallible>(hyper::Response::builder().header("content-type", "application/grpc").body(body).expect("a response"))
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new()).serve_connection(io, hyper::service::service_fn(answer)));
            }
        });
        port
    }

    #[tokio::test]
    async fn a_grpc_probe_asks_the_health_service_by_name() {
        let authority = format!("127.0.0.1:{}", health_server().await);
        let ask = async |service: &str| by_grpc(&authority, service, Duration::from_secs(5)).await;
        let failure = |text: &str| Outcome::Failure(text.into());
        assert_eq!(ask("").await, Outcome::Success);
        assert_eq!(ask("web").await, Outcome::Success);
        assert_eq!(ask("down").await, failure("service unhealthy (responded with \"NOT_SERVING\")"));
        assert_eq!(ask("other").await, failure("error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"));
        let long = "x".repeat(300);
        assert_eq!(ask(&long).await, failure("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service"));
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = silent.local_addr().expect("address").to_string();
        assert_eq!(by_grpc(&address, "", Duration::from_secs(1)).await, failure("timeout: health rpc did not complete within 1s"));
    }
}
