//! A server of one test, on a folder and port of its own, and a small HTTP client over TLS.
#![allow(dead_code)] // each test file uses its part

pub mod peer;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keles_apiserver::{ApiServer, Config};
use keles_pki::{Certified, Pki};
use keles_store::Store;
use keles_store::embedded::{Embedded, Options};
use keles_store::encrypted::{Encrypted, Rules};
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A change comes by an event, not at once: asks again until it holds, two minutes at most.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let asking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), asking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub struct World {
    folder: tempfile::TempDir,
    server: ApiServer,
    store: Arc<dyn Store>,
    encrypted: Option<Arc<Encrypted>>,
    address: SocketAddr,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl World {
    pub async fn start() -> World {
        Self::with(|_| {}).await
    }
    async fn open(folder: tempfile::TempDir) -> World {
        Self::configured(folder, |_| {}, None).await
    }
    /// With settings of the test's own.
    pub async fn with(configure: impl FnOnce(&mut Config)) -> World {
        Self::configured(tempfile::tempdir().expect("a temporary folder"), configure, None).await
    }
    /// The same in a folder of the test's own, and the store encrypted by rules.
    pub async fn configured(folder: tempfile::TempDir, configure: impl FnOnce(&mut Config), rules: Option<Rules>) -> World {
        let plain: Arc<dyn Store> = Embedded::open(&folder.path().join("store"), Options::default()).expect("a store of our own");
        Self::over(folder, plain, configure, rules).await
    }
    /// Over a store that others may use too.
    pub async fn over(folder: tempfile::TempDir, plain: Arc<dyn Store>, configure: impl FnOnce(&mut Config), rules: Option<Rules>) -> World {
        let encrypted = rules.map(|rules| Encrypted::new(plain.clone(), rules));
        let store: Arc<dyn Store> = encrypted.clone().map_or(plain, |e| e);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let mut config = Config { port: address.port(), ..Config::new(folder.path()) };
        configure(&mut config);
        let server = ApiServer::start(config, store.clone()).await.expect("the server starts");
        let shutdown = CancellationToken::new();
        let running = tokio::spawn({
            let (server, shutdown) = (server.clone(), shutdown.clone());
            async move { server.serve(listener, shutdown).await }
        });
        World { folder, server, store, encrypted, address, shutdown, running }
    }
    /// Ends the server and starts another over the same folder.
    pub async fn restart(self) -> World {
        Self::open(self.stop().await).await
    }
    /// Tells the server to stop, and does not wait for it.
    pub fn begin_stop(&self) {
        self.shutdown.cancel();
    }
    /// Ends the server and gives its folder back.
    pub async fn stop(self) -> tempfile::TempDir {
        self.shutdown.cancel();
        self.running.await.expect("the server ends");
        self.store.close().await.expect("the store closes");
        drop((self.server, self.store, self.encrypted));
        self.folder
    }
    /// A client with the certificate of a front proxy.
    pub fn front_proxy(&self) -> Client {
        self.client(Some(self.pki().front_proxy_client().expect("the proxy's certificate")))
    }
    pub fn bearer(&self, token: &str) -> Client {
        self.stranger().with_header("authorization", &format!("Bearer {token}"))
    }
    pub fn server(&self) -> &ApiServer {
        &self.server
    }
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
    /// The store of a world with rules.
    pub fn encrypted(&self) -> &Encrypted {
        self.encrypted.as_deref().expect("this world has rules")
    }
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
    fn pki(&self) -> Pki {
        Pki::open(self.folder.path()).expect("the server's own folder")
    }
    pub fn admin(&self) -> Client {
        self.client(Some(self.pki().admin().expect("the administrator's certificate")))
    }
    /// What kubectl needs to come as the administrator.
    pub fn write_kubeconfig(&self, path: &Path) {
        let (pki, admin) = (self.pki(), self.pki().admin().expect("the administrator's certificate"));
        let server = format!("https://localhost:{}", self.address.port());
        keles_pki::write_kubeconfig(path, &server, pki.ca_pem(), &keles_pki::KubeconfigUser::Certificate(&admin)).expect("a kubeconfig");
    }
    pub fn stranger(&self) -> Client {
        self.client(None)
    }
    /// A certificate that claims to be an administrator's, of a CA that is not ours.
    pub fn foreign_certificate(&self) -> Client {
        let other = self.folder.path().join("other");
        self.client(Some(Pki::open(Path::new(&other)).and_then(|p| p.admin()).expect("another CA")))
    }
    /// A client with a certificate of any authority, who trusts `ca` instead of the cluster's when it is given.
    pub fn client_of(&self, certificate: Option<Certified>, ca: Option<Vec<u8>>) -> Client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(ca.unwrap_or_else(|| self.pki().ca_der()))).expect("our CA is a certificate");
        let builder =
            rustls::ClientConfig::builder_with_provider(keles_serve::tls::provider()).with_safe_default_protocol_versions().expect("ring knows TLS").with_root_certificates(roots);
        let tls = match certificate {
            Some(c) => builder.with_client_auth_cert(c.certificate_der().expect("PEM"), c.key_der().expect("PEM")).expect("a pair"),
            None => builder.with_no_client_auth(),
        };
        Client { tls: Arc::new(tls), address: self.address, name: "localhost".into(), headers: HeaderMap::new() }
    }
    fn client(&self, certificate: Option<Certified>) -> Client {
        self.client_of(certificate, None)
    }
}

#[derive(Clone)]
pub struct Client {
    tls: Arc<rustls::ClientConfig>,
    address: SocketAddr,
    /// The name the server is asked for in the handshake.
    name: String,
    headers: HeaderMap,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.text()))
    }
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|v| v.to_str().expect("a header of text").to_owned()).unwrap_or_default()
    }
}

impl Client {
    pub fn with_header(mut self, name: &'static str, value: &str) -> Client {
        self.headers.insert(name, value.parse().expect("a header value"));
        self
    }
    /// Asks for the server by another name, or an address.
    pub fn by_name(mut self, name: &str) -> Client {
        self.name = name.into();
        self
    }
    /// The handshake, or why it failed.
    pub async fn shake_hands(&self) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await.expect("the server listens");
        let name = ServerName::try_from(self.name.clone()).expect("a name");
        tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, tcp).await
    }
    pub async fn connect(&self, alpn: &[u8]) -> TokioIo<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut tls = (*self.tls).clone();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let tcp = TcpStream::connect(self.address).await.expect("the server listens");
        let name = ServerName::try_from(self.name.clone()).expect("a name");
        TokioIo::new(tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.expect("a handshake"))
    }
    /// What the server chooses of the protocols it is offered.
    pub async fn chosen_protocol(&self, offered: &[&[u8]]) -> Option<Vec<u8>> {
        let mut tls = (*self.tls).clone();
        tls.alpn_protocols = offered.iter().map(|p| p.to_vec()).collect();
        let tcp = TcpStream::connect(self.address).await.expect("the server listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.expect("a handshake");
        stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
    }
    pub async fn send(&self, method: Method, path: &str, media: &str, body: Vec<u8>) -> Reply {
        loop {
            let reply = self.send_once(method.clone(), path, media, body.clone()).await;
            // The caches are behind the store, on a machine that stalls: nothing was done, and clients are asked to come again.
            let behind = reply.status == StatusCode::GATEWAY_TIMEOUT && !path.contains("resourceVersion=") && reply.text().contains("Too large resource version");
            if !behind {
                return reply;
            }
        }
    }
    async fn send_once(&self, method: Method, path: &str, media: &str, body: Vec<u8>) -> Reply {
        // As many warnings as fit into 4 KiB, a header each, are more than the hundred that hyper takes by itself; Go takes 10 MiB.
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new().max_headers(1000).handshake(self.connect(b"http/1.1").await).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost").header("content-type", media);
        request.headers_mut().expect("a good request").extend(self.headers.clone());
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body))).expect("a request")).await.expect("an answer");
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        Reply { status: parts.status, headers: parts.headers, body }
    }
    /// Asks for an upgrade; the answer and the connection behind it.
    pub async fn upgrade(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> (http::Response<()>, TokioIo<hyper::upgrade::Upgraded>) {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(self.connect(b"http/1.1").await).await.expect("HTTP/1.1");
        tokio::spawn(connection.with_upgrades());
        let request = headers.iter().fold(Request::builder().method(method).uri(path).header("host", "localhost"), |r, (k, v)| r.header(*k, *v));
        let mut answer = sender.send_request(request.body(Full::new(Bytes::new())).expect("a request")).await.expect("an answer");
        let upgraded = hyper::upgrade::on(&mut answer).await.expect("an upgrade");
        (answer.map(|_| ()), TokioIo::new(upgraded))
    }
    /// Sends a body in pieces.
    pub async fn send_body(
        &self,
        method: Method,
        path: &str,
        pieces: impl futures::Stream<Item = Result<hyper::body::Frame<Bytes>, std::convert::Infallible>> + Send + 'static,
    ) -> Reply {
        let body = http_body_util::StreamBody::new(pieces).boxed_unsync();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(self.connect(b"http/1.1").await).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost").header("content-type", "application/json");
        request.headers_mut().expect("a good request").extend(self.headers.clone());
        let (parts, body) = sender.send_request(request.body(body).expect("a request")).await.expect("an answer").into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        Reply { status: parts.status, headers: parts.headers, body }
    }
    /// A GET whose answer is read by the caller.
    pub async fn open(&self, path: &str) -> http::Response<hyper::body::Incoming> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(self.connect(b"http/1.1").await).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let mut request = Request::get(path).header("host", "localhost");
        request.headers_mut().expect("a good request").extend(self.headers.clone());
        sender.send_request(request.body(Full::new(Bytes::new())).expect("a request")).await.expect("an answer")
    }
    /// An HTTP/2 connection, and the task that ends with it.
    pub async fn http2(&self) -> (hyper::client::conn::http2::SendRequest<Full<Bytes>>, tokio::task::JoinHandle<Result<(), hyper::Error>>) {
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), self.connect(b"h2").await).await.expect("HTTP/2");
        (sender, tokio::spawn(connection))
    }
    /// `None` when the server ends the connection instead of answering.
    pub async fn try_get(&self, path: &str) -> Option<Reply> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(self.connect(b"http/1.1").await).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let mut request = Request::get(path).header("host", "localhost");
        request.headers_mut().expect("a good request").extend(self.headers.clone());
        let (parts, body) = sender.send_request(request.body(Full::new(Bytes::new())).expect("a request")).await.ok()?.into_parts();
        Some(Reply { status: parts.status, headers: parts.headers, body: body.collect().await.ok()?.to_bytes() })
    }
    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, "application/json", Vec::new()).await
    }
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, "application/json", body.to_string().into_bytes()).await
    }
    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PUT, path, "application/json", body.to_string().into_bytes()).await
    }
    /// The bodies of `n` requests made at once over one HTTP/2 connection.
    pub async fn many_over_http2(&self, path: &str, n: usize) -> Vec<String> {
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), self.connect(b"h2").await).await.expect("HTTP/2");
        tokio::spawn(connection);
        let all = (0..n).map(|_| {
            let mut sender = sender.clone();
            let uri = format!("https://localhost{path}");
            async move {
                let request = Request::get(uri).body(Full::new(Bytes::new())).expect("a request");
                let answer = sender.send_request(request).await.expect("an answer");
                assert!(!answer.headers().contains_key("connection"), "HTTP/2 has no Connection header");
                String::from_utf8_lossy(&answer.into_body().collect().await.expect("a body").to_bytes()).into_owned()
            }
        });
        futures::future::join_all(all).await
    }
}

/// An address of this machine that may stand in an EndpointSlice, where loopback may not; absent without a network, and then said.
pub fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    let found = socket.connect("192.0.2.1:9").ok().and_then(|()| socket.local_addr().ok()).map(|a| a.ip()).filter(|ip| !ip.is_loopback());
    if found.is_none() {
        eprintln!("skipped: this machine has no address besides loopback");
    }
    found
}

/// The administrator of a world whose namespace `default` has the account that pods need: no controller makes it here.
pub async fn with_account(w: &World) -> Client {
    let admin = w.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    admin
}

/// A pod that would be accepted, with more in its spec.
pub fn pod(name: &str, spec: Value) -> Value {
    let mut o = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    o["spec"].as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    o
}
