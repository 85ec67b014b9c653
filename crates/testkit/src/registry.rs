//! An image registry on loopback that serves what a test gave it, as well or as badly as the test wants: plain or over TLS, open or behind
//! basic or bearer authentication, with ranges, cut connections, silence and errors.
//!
//! Entry point: [`Registry::start`] and [`Registry::start_tls`]. It ends with the test's runtime. Everything that was asked is in its log.

use bytes::Bytes;
use futures::stream;
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An image as blobs: what a registry serves and a layout holds.
pub struct Blobs {
    /// Digest (`sha256:…`) to bytes; the manifest and the configuration are among them.
    pub blobs: HashMap<String, Vec<u8>>,
    /// Digest of the manifest.
    pub manifest: String,
    /// Digest of the configuration, which is the image's id.
    pub config: String,
    /// Digests of the layers as they are stored, lowest first.
    pub layers: Vec<String>,
}

/// `sha256:…` of these bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Blobs {
    /// An image for this machine. `layers`: each uncompressed and as it is stored.
    pub fn new(layers: &[(Vec<u8>, Vec<u8>)]) -> Blobs {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let diff_ids: Vec<String> = layers.iter().map(|(plain, _)| digest(plain)).collect();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "created": "2024-01-02T03:04:05Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/hello"], "User": "1000", "WorkingDir": "/w", "ExposedPorts": {"80/tcp": {}}, "Labels": null},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Blobs::with_config(config.to_string().into_bytes(), layers.iter().map(|(_, stored)| stored.clone()))
    }

    pub fn with_config(config: Vec<u8>, stored: impl IntoIterator<Item = Vec<u8>>) -> Blobs {
        let mut blobs = HashMap::new();
        let mut add = |bytes: Vec<u8>| {
            let (name, size) = (digest(&bytes), bytes.len());
            blobs.insert(name.clone(), bytes);
            (name, size)
        };
        let described: Vec<(String, usize)> = stored.into_iter().map(&mut add).collect();
        let (config, config_size) = add(config);
        let layers: Vec<_> =
            described.iter().map(|(digest, size)| serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size})).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size}, "layers": layers,
        });
        let (manifest, _) = add(manifest.to_string().into_bytes());
        Blobs { blobs, manifest, config, layers: described.into_iter().map(|(digest, _)| digest).collect() }
    }
}

/// How a path is answered badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The answer ends after so many bytes of its body without saying that it is short, as behind a proxy that lost its server.
    Cut(usize),
    /// The connection breaks in the answer's body; how much the client got before is left open.
    Break,
    /// After so many bytes of this answer's body nothing more comes, and the connection stays open.
    Silence(usize),
    /// This status, with an error document.
    Status(u16),
}

/// Who is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Demand {
    Nothing,
    /// `Authorization: Basic` of one of these, base64 of `user:password`.
    Basic(Vec<String>),
    /// A token from this registry's own token server, which gives it for one of these.
    Bearer(Vec<String>),
}

/// One request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub path: String,
    pub query: String,
    pub range: String,
    pub authorization: String,
}

struct Served {
    paths: HashMap<String, Vec<u8>>,
    demand: Demand,
    redirect: bool,
    ranges: bool,
    /// Part of a path, how it is answered, how often still.
    faults: Vec<(String, Fault, usize)>,
    log: Vec<Asked>,
}

/// A registry on loopback.
pub struct Registry {
    /// `127.0.0.1:PORT`, or `localhost:PORT` over TLS, which the certificate names.
    pub host: String,
    /// `http://…` or `https://…`.
    pub url: String,
    /// The authority that signed the registry's certificate and a client's, PEM; empty without TLS.
    pub ca_pem: String,
    /// A client's certificate and key of the same authority, PEM; empty without TLS.
    pub client_pem: (String, String),
    state: Arc<Mutex<Served>>,
}

impl Registry {
    /// Plain HTTP.
    pub async fn start() -> Registry {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("bound").to_string();
        Registry::serve_on(listener, format!("http://{host}"), host, None, String::new(), (String::new(), String::new()))
    }

    /// HTTPS with a certificate for localhost of an authority of its own; `client_certificate`: only clients of that authority are let in.
    pub async fn start_tls(client_certificate: bool) -> Registry {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = format!("localhost:{}", listener.local_addr().expect("bound").port());
        let pki = Pki::new();
        let config = pki.server(client_certificate);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        Registry::serve_on(listener, format!("https://{host}"), host, Some(acceptor), pki.ca_pem, pki.client)
    }

    fn serve_on(listener: tokio::net::TcpListener, url: String, host: String, tls: Option<tokio_rustls::TlsAcceptor>, ca_pem: String, client_pem: (String, String)) -> Registry {
        let state = Arc::new(Mutex::new(Served { paths: HashMap::new(), demand: Demand::Nothing, redirect: false, ranges: true, faults: Vec::new(), log: Vec::new() }));
        let (served, own) = (state.clone(), url.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (served, own, tls) = (served.clone(), own.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => connection(stream, served, own).await,
                        // A client that does not trust us ends the handshake: that is its right.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                connection(stream, served, own).await;
                            }
                        }
                    }
                });
            }
        });
        Registry { host, url, ca_pem, client_pem, state }
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.state.lock().expect("no panic while held")
    }

    /// Makes an image known under a repository and tag, and by its digests.
    pub fn serve(&self, repository: &str, tag: &str, image: &Blobs) {
        for (digest, bytes) in &image.blobs {
            let kind = if *digest == image.manifest { "manifests" } else { "blobs" };
            self.put(&format!("/v2/{repository}/{kind}/{digest}"), bytes);
        }
        self.put(&format!("/v2/{repository}/manifests/{tag}"), &image.blobs[&image.manifest]);
    }

    /// Answers a path with these bytes.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.served().paths.insert(path.into(), bytes.to_vec());
    }

    pub fn forget(&self, path: &str) {
        self.served().paths.remove(path);
    }

    /// Tokens of the registry's own token server for who sends one of these, base64 of `user:password`.
    pub fn demand_bearer(&self, basic: &[&str]) {
        self.served().demand = Demand::Bearer(basic.iter().map(|b| (*b).into()).collect());
    }

    /// Basic authentication with one of these, base64 of `user:password`.
    pub fn demand_basic(&self, basic: &[&str]) {
        self.served().demand = Demand::Basic(basic.iter().map(|b| (*b).into()).collect());
    }

    /// Blobs are served by a redirect to `/storage/…` of another name of this machine, which refuses credentials.
    pub fn redirect_blobs(&self) {
        self.served().redirect = true;
    }

    /// Ranges are not understood: everything is sent from its beginning.
    pub fn without_ranges(&self) {
        self.served().ranges = false;
    }

    /// The next `times` answers about paths with this part go wrong.
    pub fn fault(&self, part: &str, fault: Fault, times: usize) {
        self.served().faults.push((part.into(), fault, times));
    }

    /// What was asked, in order.
    pub fn log(&self) -> Vec<Asked> {
        self.served().log.clone()
    }

    /// How many requests had this in their path.
    pub fn count(&self, part: &str) -> usize {
        self.log().iter().filter(|asked| asked.path.contains(part)).count()
    }
}

/// An authority with a server's and a client's certificate.
struct Pki {
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    client: (String, String),
}

impl Pki {
    fn new() -> Pki {
        const REASON: &str = "key and certificate of constants";
        let ca_key = rcgen::KeyPair::generate().expect(REASON);
        let mut parameters = rcgen::CertificateParams::new(vec![]).expect(REASON);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "testkit registry authority");
        let ca = parameters.self_signed(&ca_key).expect(REASON);
        let issuer = rcgen::Issuer::new(parameters, ca_key);
        let key = rcgen::KeyPair::generate().expect(REASON);
        let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).expect(REASON).signed_by(&key, &issuer).expect(REASON);
        let client_key = rcgen::KeyPair::generate().expect(REASON);
        let client = rcgen::CertificateParams::new(vec!["client".into()]).expect(REASON).signed_by(&client_key, &issuer).expect(REASON);
        Pki {
            ca_pem: ca.pem(),
            ca_der: ca.der().clone(),
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::try_from(key.serialize_der()).expect(REASON),
            client: (client.pem(), client_key.serialize_pem()),
        }
    }

    fn server(&self, client_certificate: bool) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("ring has the default versions");
        let builder = if client_certificate {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.ca_der.clone()).expect("a certificate of our own");
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("there is a root");
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        builder.with_single_cert(vec![self.certificate.clone()], self.key.clone_key()).expect("key and certificate belong together")
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, served: Arc<Mutex<Served>>, own: String) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&mut served.lock().expect("no panic while held"), &own, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    // A client that goes away, and answers that break off on purpose, end the connection with an error.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn reply(status: u16, headers: &[(&str, String)], body: Body) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(body).expect("headers of tests are valid")
}

fn header(request: &Request<Incoming>, name: &str) -> String {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string()
}

fn answer(served: &mut Served, own: &str, request: &Request<Incoming>) -> Response<Body> {
    let asked = Asked {
        path: request.uri().path().to_string(),
        query: request.uri().query().unwrap_or_default().to_string(),
        range: header(request, "range"),
        authorization: header(request, "authorization"),
    };
    served.log.push(asked.clone());
    if asked.path == "/token" {
        return token(served, &asked);
    }
    let storage = asked.path.strip_prefix("/storage");
    if storage.is_some() && !asked.authorization.is_empty() {
        return reply(400, &[], whole("credentials do not belong here"));
    }
    if storage.is_none() {
        if let Some(refusal) = refusal(&served.demand, own, &asked) {
            return refusal;
        }
        if served.redirect && asked.path.contains("/blobs/") {
            // Another name of this machine is another host.
            let elsewhere = if own.contains("127.0.0.1") { own.replace("127.0.0.1", "localhost") } else { own.replace("localhost", "127.0.0.1") };
            return reply(307, &[("location", format!("{elsewhere}/storage{}", asked.path))], whole(""));
        }
    }
    let path = storage.unwrap_or(&asked.path);
    let fault = served.faults.iter_mut().find(|(part, _, times)| *times > 0 && path.contains(part.as_str()));
    let fault = fault.map(|(_, fault, times)| {
        *times -= 1;
        *fault
    });
    if let Some(Fault::Status(status)) = fault {
        return reply(status, &[], whole(r#"{"errors":[{"code":"UNAVAILABLE","message":"the test wants it so"}]}"#));
    }
    let Some(bytes) = served.paths.get(path).cloned() else {
        return reply(404, &[], whole(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#));
    };
    let media = path.contains("/manifests/").then(|| media_type(&bytes)).flatten();
    let mut answer = content(bytes, if served.ranges { &asked.range } else { "" }, fault);
    if let Some(media) = media {
        answer.headers_mut().insert("content-type", media);
    }
    answer
}

/// What a manifest says it is; containerd takes none without.
fn media_type(manifest: &[u8]) -> Option<hyper::header::HeaderValue> {
    serde_json::from_slice::<serde_json::Value>(manifest).ok()?["mediaType"].as_str()?.parse().ok()
}

fn token(served: &Served, asked: &Asked) -> Response<Body> {
    let known = match &served.demand {
        Demand::Bearer(known) => known.iter().any(|basic| asked.authorization == format!("Basic {basic}")),
        _ => false,
    };
    if !known || !asked.query.contains("service=test") || !asked.query.contains("scope=repository%3A") {
        return reply(401, &[], whole(""));
    }
    reply(200, &[], whole(r#"{"token":"sesame"}"#))
}

fn refusal(demand: &Demand, own: &str, asked: &Asked) -> Option<Response<Body>> {
    let challenge = match demand {
        Demand::Nothing => return None,
        Demand::Basic(known) if known.iter().any(|basic| asked.authorization == format!("Basic {basic}")) => return None,
        Demand::Bearer(_) if asked.authorization == "Bearer sesame" => return None,
        Demand::Basic(_) => "Basic realm=\"test\"".to_string(),
        Demand::Bearer(_) => format!("Bearer realm=\"{own}/token\",service=\"test\",scope=\"repository:x:pull\""),
    };
    Some(reply(401, &[("www-authenticate", challenge)], whole("")))
}

fn content(bytes: Vec<u8>, range: &str, fault: Option<Fault>) -> Response<Body> {
    let total = bytes.len();
    let from = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).and_then(|from| from.parse::<usize>().ok());
    let (status, from) = match from {
        Some(from) if from < total => (206, from),
        Some(_) => return reply(416, &[("content-range", format!("bytes */{total}"))], whole("")),
        None => (200, 0),
    };
    let rest = Bytes::from(bytes).slice(from..);
    let mut headers = vec![("content-length", rest.len().to_string())];
    if status == 206 {
        headers.push(("content-range", format!("bytes {from}-{}/{total}", total - 1)));
    }
    let body = match fault {
        Some(Fault::Cut(after)) => {
            headers.remove(0);
            partly(rest, after).boxed()
        }
        Some(Fault::Break) => partly(rest.clone(), rest.len() / 2).chain(stream::once(async { Err(io::ErrorKind::ConnectionReset.into()) })).boxed(),
        Some(Fault::Silence(after)) => partly(rest, after).chain(stream::pending()).boxed(),
        _ => return reply(status, &headers, whole(rest)),
    };
    reply(status, &headers, StreamBody::new(body.map(|chunk| chunk.map(Frame::data))).boxed_unsync())
}

fn partly(bytes: Bytes, length: usize) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::iter([Ok(bytes.slice(..length.min(bytes.len())))])
}
