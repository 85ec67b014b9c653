//! One request over one connection: TCP, TLS when the URL says so, HTTP/1.1.

use super::SILENCE_LIMIT;
use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const AGENT: &str = concat!("keles/", env!("CARGO_PKG_VERSION"));

/// The machine's trusted certificates, read when the first HTTPS registry is asked.
#[derive(Clone, Default)]
pub struct Tls(Arc<OnceLock<Arc<ClientConfig>>>);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Tls {
    /// The response's head; an error in words. The connection ends with the response's body.
    pub async fn send(&self, method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> Result<Response<Incoming>, String> {
        let stream = tokio::time::timeout(CONNECT_LIMIT, self.connect(uri)).await.map_err(|_| format!("no connection within {} s", CONNECT_LIMIT.as_secs()))??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // Drives the one connection; ends when sender and body are dropped.
        tokio::spawn(connection);
        let request = request(method, uri, headers, body)?;
        match tokio::time::timeout(SILENCE_LIMIT, sender.send_request(request)).await {
            Ok(response) => response.map_err(|e| in_words(&e)),
            Err(_) => Err(format!("no answer within {} s", SILENCE_LIMIT.as_secs())),
        }
    }

    async fn connect(&self, uri: &Uri) -> Result<Box<dyn Stream>, String> {
        let host = uri.host().ok_or_else(|| format!("{uri} names no host"))?.trim_matches(['[', ']']);
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{uri} is neither http nor https")),
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.map_err(|e| e.to_string())?;
        // Without it only small requests would wait; failing is harmless.
        let _ = stream.set_nodelay(true);
        if !secure {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.to_string()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(self.config()?);
        let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        Ok(Box::new(stream))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.0.get() {
            return Ok(config.clone());
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("this machine has no trusted certificates; install the package ca-certificates".into());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let config = Arc::new(versions.with_root_certificates(roots).with_no_client_auth());
        Ok(self.0.get_or_init(|| config).clone())
    }
}

fn request(method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::builder().method(method).uri(path).body(Full::new(body)).map_err(|e| e.to_string())?;
    *request.headers_mut() = headers;
    let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority).map_err(|e| e.to_string())?);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
    Ok(request)
}

/// Hyper's own text hides the cause.
fn in_words(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
