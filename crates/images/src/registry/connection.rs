//! One request over one connection: TCP, TLS when the URL says so, HTTP/1.1.

use super::config::TlsEntry;
use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const AGENT: &str = concat!("keles/", env!("CARGO_PKG_VERSION"));

/// How the servers of a kind are believed. Without more: by the machine's trusted certificates, read when the first of them is asked.
#[derive(Clone, Debug, Default)]
pub struct Tls(Arc<OnceLock<Arc<ClientConfig>>>);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Tls {
    /// With a server's own authority, our certificate, or no belief at all. Errors name the file.
    pub fn with(entry: &TlsEntry) -> Result<Tls, String> {
        let verifying = builder()?;
        let trusting = if entry.insecure_skip_verify {
            verifying.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider())))
        } else {
            verifying.with_root_certificates(roots(entry.ca_file.as_deref())?)
        };
        let config = match (&entry.cert_file, &entry.key_file) {
            (None, None) => trusting.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let key_der = rustls_pemfile::private_key(&mut &*read(key)?).ok().flatten().ok_or_else(|| format!("{} holds no private key in PEM", key.display()))?;
                trusting.with_client_auth_cert(chain, key_der).map_err(|e| format!("{} and {}: {e}", certificate.display(), key.display()))?
            }
            _ => return Err("cert_file and key_file belong together".into()),
        };
        let tls = Tls::default();
        tls.0.get_or_init(|| Arc::new(config));
        Ok(tls)
    }

    /// The response's head; an error in words. The connection ends with the response's body.
    pub async fn send(&self, method: Method, uri: &Uri, headers: HeaderMap, body: Bytes, silence_limit: Duration) -> Result<Response<Incoming>, String> {
        let limit = CONNECT_LIMIT.min(silence_limit);
        let stream = tokio::time::timeout(limit, self.connect(uri)).await.map_err(|_| format!("no connection within {limit:?}"))??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // Drives the one connection; ends when sender and body are dropped.
        tokio::spawn(connection);
        let request = request(method, uri, headers, body)?;
        match tokio::time::timeout(silence_limit, sender.send_request(request)).await {
            Ok(response) => response.map_err(|e| in_words(&e)),
            Err(_) => Err(format!("no answer within {silence_limit:?}")),
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
        let config = Arc::new(builder()?.with_root_certificates(roots(None)?).with_no_client_auth());
        Ok(self.0.get_or_init(|| config).clone())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(|e| e.to_string())
}

/// The machine's authorities, and a server's own besides, as containerd has it.
fn roots(own: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = own {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    if roots.is_empty() {
        return Err("this machine has no trusted certificates; install the package ca-certificates, or name the registry's own by ca_file in registries.yaml".into());
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut &*read(path)?).collect();
    let found = found.map_err(|e| format!("{}: {e}", path.display()))?;
    if found.is_empty() { Err(format!("{} holds no certificate in PEM", path.display())) } else { Ok(found) }
}

/// Believes every server: what `insecure_skip_verify` asks for. Signatures are checked, so that the connection is with one server at least.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, message: &[u8], certificate: &CertificateDer<'_>, signed: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(&self, message: &[u8], certificate: &CertificateDer<'_>, signed: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
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
