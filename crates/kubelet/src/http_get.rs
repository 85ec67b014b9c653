//! One HTTP GET for probes and hooks: no proxy, no certificate checks (upstream's rule for probes), a bounded body.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use keles_grpc::{Channel, Code, Status};
use keles_serve::tls::{AnyCertificate, provider};
use prost::Message;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Bytes of an answer that are read and shown.
pub const MAX_BODY_BYTES: usize = 10 << 10;

/// Where to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub https: bool,
    pub host: String,
    pub port: u16,
    /// Begins with `/`.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

pub struct Answer {
    pub status: u16,
    pub body: String,
    /// The body came to its end within the limit; otherwise `body` is empty.
    pub is_whole: bool,
    pub location: Option<String>,
}

impl Target {
    /// From an action's fields; `address` is the pod's unless the action names a host.
    pub fn of(action: &HTTPGetAction, address: &str, port: u16) -> Self {
        let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let headers = action.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect();
        Self {
            https: action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(address).to_string(),
            port,
            path: if path.starts_with('/') { path.into() } else { format!("/{path}") },
            headers,
        }
    }

    /// Where a redirect leads, if it stays on this host.
    pub fn redirected(&self, location: &str) -> Option<Self> {
        let path = if location.starts_with('/') && !location.starts_with("//") { location } else { location.strip_prefix(&self.url_root())?.strip_prefix('/')? };
        let path = if path.starts_with('/') { path.into() } else { format!("/{path}") };
        Some(Self { path, ..self.clone() })
    }

    fn url_root(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }

    pub fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    pub fn url(&self) -> String {
        format!("{}{}", self.url_root(), self.path)
    }
}

/// The words Go's dialer uses, which users know from events.
pub fn dial_error(authority: &str, error: &std::io::Error) -> String {
    let what = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_string(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_string(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_string(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_string(),
        _ => error.to_string(),
    };
    format!("dial tcp {authority}: {what}")
}

/// Asks once; `user_agent` unless the headers name one. The error is the text after the URL.
pub async fn get(target: &Target, user_agent: &str) -> Result<Answer, String> {
    get_up_to(target, user_agent, MAX_BODY_BYTES).await
}

/// The text at an http URL, of at most `limit` bytes. Not https: this client checks no certificates, as probes must not.
pub async fn fetch(url: &str, headers: &[(String, String)], limit: usize) -> Result<String, String> {
    let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else { return Err("it is not an http URL".into()) };
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let target = Target { https: false, host: host.into(), port: uri.port_u16().unwrap_or(80), path, headers: headers.to_vec() };
    match get_up_to(&target, "keles", limit).await? {
        answer if !answer.is_whole => Err("its answer was cut short or is too large".into()),
        answer if answer.status == 200 => Ok(answer.body),
        answer => Err(format!("it answers with status {}", answer.status)),
    }
}

async fn get_up_to(target: &Target, user_agent: &str, limit: usize) -> Result<Answer, String> {
    let authority = target.authority();
    let stream = TcpStream::connect(&authority).await.map_err(|error| dial_error(&authority, &error))?;
    if target.https {
        let name = rustls::pki_types::ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(unchecked_tls()).connect(name, stream).await.map_err(|error| error.to_string())?;
        exchange(target, user_agent, stream, limit).await
    } else {
        exchange(target, user_agent, stream, limit).await
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(target: &Target, user_agent: &str, stream: S, limit: usize) -> Result<Answer, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let mut request = hyper::Request::get(&target.path);
    let named = |name: &str| target.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    if !named("host") {
        request = request.header("Host", target.authority());
    }
    if !named("user-agent") {
        request = request.header("User-Agent", user_agent);
    }
    if !named("accept") {
        request = request.header("Accept", "*/*");
    }
    request = request.header("Connection", "close");
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let location = response.headers().get("Location").and_then(|value| value.to_str().ok()).map(Into::into);
    let body = Limited::new(response.into_body(), limit).collect().await;
    let is_whole = body.is_ok();
    let body = body.map(|collected| String::from_utf8_lossy(&collected.to_bytes()).into_owned()).unwrap_or_default();
    driver.abort();
    Ok(Answer { status, body, is_whole, location })
}

/// Why a health check got no status.
#[derive(Debug, PartialEq, Eq)]
pub enum HealthError {
    /// The server has no `grpc.health.v1.Health`; its message.
    Unimplemented(String),
    Late,
    Other(String),
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    /// 1 is SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// A call of `grpc.health.v1.Health/Check`; the answered status number (1 is SERVING). Source: grpc/doc/health-checking.md.
pub async fn grpc_health(authority: &str, service: &str, timeout: Duration) -> Result<i32, HealthError> {
    let begun = Instant::now();
    let other = |status: Status| HealthError::Other(status.to_string());
    let stream = tokio::time::timeout(timeout, TcpStream::connect(authority)).await.map_err(|_| HealthError::Late)?;
    let stream = stream.map_err(|error| HealthError::Other(dial_error(authority, &error)))?;
    let channel = Channel::over(stream, authority, crate::probe::USER_AGENT).await.map_err(other)?;
    let left = timeout.saturating_sub(begun.elapsed());
    let answer: Result<HealthCheckResponse, Status> = channel.unary("/grpc.health.v1.Health/Check", &HealthCheckRequest { service: service.into() }, left).await;
    answer.map(|answer| answer.status).map_err(|status| match status.code {
        Code::Unimplemented => HealthError::Unimplemented(status.message),
        Code::DeadlineExceeded => HealthError::Late,
        _ => other(status),
    })
}

/// A probe asks whether a server answers, not who it is (API: "httpGet … skips certificate verification").
fn unchecked_tls() -> Arc<rustls::ClientConfig> {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring supports the default TLS versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    Arc::new(config)
}
