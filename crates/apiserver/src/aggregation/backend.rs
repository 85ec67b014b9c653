//! A server of other group-versions behind a Service: where it is, how it is trusted, and one request to it.
//!
//! It is dialled at an endpoint of the Service (as with upstream's `--enable-aggregator-routing`), so that no service address has to be
//! routed where the API server runs; its certificate is of `NAME.NAMESPACE.svc`.

use super::documents::Documents;
use crate::http_proxy::service_address;
use crate::server::Inner;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{ACCEPT, ETAG, HOST, HeaderName, HeaderValue, IF_NONE_MATCH};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use keles_api::Object;
use keles_auth::User;
use keles_pki::Certified;
use keles_serve::tls::{AnyCertificate, provider};
use keles_serve::{Body, body};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// No discovery or OpenAPI document of another server is larger than this.
const DOCUMENT_BYTES_MAX: usize = 32 << 20;
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(10);
const HTTPS_PORT: u64 = 443;

const REMOTE_USER: HeaderName = HeaderName::from_static("x-remote-user");
const REMOTE_UID: HeaderName = HeaderName::from_static("x-remote-uid");
const REMOTE_GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const REMOTE_EXTRA: &str = "x-remote-extra-";

/// What this server shows of itself.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Option<PrivateKeyDer<'static>>,
}

impl Identity {
    pub fn new(c: &Certified) -> Identity {
        Identity { chain: c.certificate_der().unwrap_or_default(), key: c.key_der() }
    }
}

/// What an APIService says of its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub name: String,
    pub port: u16,
    /// PEM; absent: the machine's trusted authorities.
    ca: Option<Vec<u8>>,
    insecure: bool,
    /// Another APIService of the same name starts from nothing.
    uid: String,
}

impl Spec {
    /// `None` for a local one.
    pub fn read(o: &Object) -> Option<Spec> {
        let service = o.at(&["spec", "service"]);
        if service.is_null() {
            return None;
        }
        let text = |name: &str| service[name].as_str().unwrap_or_default().to_owned();
        Some(Spec {
            group: o.str_at(&["spec", "group"]).into(),
            version: o.str_at(&["spec", "version"]).into(),
            namespace: text("namespace"),
            name: text("name"),
            port: u16::try_from(service["port"].as_u64().unwrap_or(HTTPS_PORT)).unwrap_or(443),
            ca: Some(BASE64.decode(o.str_at(&["spec", "caBundle"])).unwrap_or_default()).filter(|c| !c.is_empty()),
            insecure: o.at(&["spec", "insecureSkipTLSVerify"]) == true,
            uid: o.uid().into(),
        })
    }
    /// The APIService's name.
    pub fn object_name(&self) -> String {
        format!("{}.{}", self.version, self.group)
    }
    pub fn path(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }
}

/// Another server, as one APIService describes it.
pub struct Remote {
    pub spec: Spec,
    tls: Result<Arc<ClientConfig>, String>,
    available: AtomicBool,
    documents: Mutex<Arc<Documents>>,
}

/// The endpoint that a request goes to.
pub struct Target {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

/// An answer of a document's path.
pub struct Fetched {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub body: bytes::Bytes,
}

impl Remote {
    pub fn new(spec: Spec, available: bool, identity: &Identity) -> Remote {
        let tls = tls(&spec, identity).map(Arc::new);
        let unknown = Documents { stale: true, ..Documents::default() };
        Remote { spec, tls, available: AtomicBool::new(available), documents: Mutex::new(Arc::new(unknown)) }
    }
    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::SeqCst)
    }
    pub fn set_available(&self, yes: bool) {
        self.available.store(yes, Ordering::SeqCst);
    }
    pub fn documents(&self) -> Arc<Documents> {
        self.documents.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
    /// True when they differ from those before.
    pub fn set_documents(&self, new: Documents) -> bool {
        let mut there = self.documents.lock().unwrap_or_else(|e| e.into_inner());
        let differs = **there != new;
        if differs {
            *there = Arc::new(new);
        }
        differs
    }

    /// One of its endpoints.
    pub fn resolve(&self, server: &Inner) -> Result<Target, String> {
        let s = &self.spec;
        let service = server.registry.read("", "services", &s.namespace, &s.name).ok_or_else(|| format!("service {:?} not found", s.name))?;
        if service.str_at(&["spec", "type"]) == "ExternalName" {
            return Ok(Target { host: service.str_at(&["spec", "externalName"]).into(), port: s.port });
        }
        let at = service_address(&server.registry, &s.namespace, &s.name, s.port).map_err(|status| status.message)?;
        Ok(Target { host: at.ip().to_string(), port: at.port() })
    }

    /// One request over a connection of its own, which lives as long as the answer (or what it upgrades to).
    pub async fn send(&self, to: &Target, mut request: Request<Body>) -> Result<Response<Incoming>, String> {
        let tls = self.tls.clone()?;
        let name = ServerName::try_from(format!("{}.{}.svc", self.spec.name, self.spec.namespace)).map_err(|e| e.to_string())?;
        let connect = async {
            let tcp = TcpStream::connect((to.host.as_str(), to.port)).await?;
            let _ = tcp.set_nodelay(true);
            TlsConnector::from(tls).connect(name, tcp).await
        };
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => return Err(format!("dial tcp {to}: connect: connection refused")),
            Ok(Err(e)) => return Err(format!("dial tcp {to}: {e}")),
            Err(_) => return Err(format!("dial tcp {to}: i/o timeout")),
        };
        if let Ok(host) = HeaderValue::from_str(&to.to_string()) {
            request.headers_mut().insert(HOST, host);
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to an aggregated API server ended");
            }
        });
        sender.send_request(request).await.map_err(|e| e.to_string())
    }

    /// A small document, asked for in this server's own name.
    pub async fn fetch(&self, server: &Inner, path: &str, accept: &str, etag: &str) -> Result<Fetched, String> {
        let to = self.resolve(server)?;
        let mut request = Request::get(path).body(body::empty()).map_err(|e| e.to_string())?;
        for (name, value) in [(ACCEPT, accept), (IF_NONE_MATCH, etag)] {
            if let Some(v) = HeaderValue::from_str(value).ok().filter(|v| !v.is_empty()) {
                request.headers_mut().insert(name, v);
            }
        }
        identify(request.headers_mut(), &aggregator());
        let got = async {
            let (parts, body) = self.send(&to, request).await?.into_parts();
            let body = Limited::new(body, DOCUMENT_BYTES_MAX).collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok(Fetched { code: parts.status, headers: parts.headers, body })
        };
        tokio::time::timeout(DOCUMENT_TIMEOUT, got).await.unwrap_or_else(|_| Err(format!("no answer from https://{to}{path} within {} s", DOCUMENT_TIMEOUT.as_secs())))
    }
}

impl Fetched {
    pub fn etag(&self) -> String {
        self.headers.get(ETAG).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    }
}

/// Whom this server comes as when it asks for itself.
pub fn aggregator() -> User {
    User { name: "system:kube-aggregator".into(), groups: vec![keles_auth::MASTERS.into()], ..User::default() }
}

/// Says in headers who asks, in place of whatever was said.
pub fn identify(headers: &mut HeaderMap, user: &User) {
    let said: Vec<HeaderName> = headers.keys().filter(|n| n.as_str().starts_with("x-remote-")).cloned().collect();
    for n in said {
        headers.remove(n);
    }
    let value = |v: &str| HeaderValue::from_bytes(v.as_bytes()).ok();
    headers.extend(value(&user.name).map(|v| (REMOTE_USER, v)));
    headers.extend(value(&user.uid).filter(|v| !v.is_empty()).map(|v| (REMOTE_UID, v)));
    for v in user.groups.iter().filter_map(|g| value(g)) {
        headers.append(REMOTE_GROUP, v);
    }
    for (key, values) in &user.extra {
        let Ok(name) = HeaderName::from_bytes(format!("{REMOTE_EXTRA}{}", escape(key)).as_bytes()) else { continue };
        for v in values.iter().filter_map(|v| value(v)) {
            headers.append(name.clone(), v);
        }
    }
}

/// A key of extra as part of a header's name: what no token of RFC 9110 has, and `%`, percent-encoded.
fn escape(key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b);
    key.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

fn tls(spec: &Spec, identity: &Identity) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let builder = if spec.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate))
    } else {
        builder.with_root_certificates(keles_auth::outbound::roots(spec.ca.as_deref()).map_err(|e| e.to_string())?)
    };
    let key = identity.key.as_ref().ok_or("the front-proxy client's key does not parse")?.clone_key();
    builder.with_client_auth_cert(identity.chain.clone(), key).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_said_in_place_of_what_was_said() {
        let mut h = HeaderMap::new();
        h.insert("x-remote-user", "admin".parse().unwrap());
        h.append("x-remote-extra-scope", "all".parse().unwrap());
        h.insert("accept", "a/b".parse().unwrap());
        let user =
            User { name: "jane".into(), groups: vec!["dev".into(), "ops".into()], extra: [("example.com/Scope%".to_owned(), vec!["x".to_owned()])].into(), ..User::default() };
        identify(&mut h, &user);
        let mut all: Vec<String> = h.iter().map(|(k, v)| format!("{k}={}", v.to_str().unwrap())).collect();
        all.sort();
        assert_eq!(all, ["accept=a/b", "x-remote-extra-example.com%2fscope%25=x", "x-remote-group=dev", "x-remote-group=ops", "x-remote-user=jane"]);
    }
}
