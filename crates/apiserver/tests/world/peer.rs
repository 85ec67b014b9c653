//! Another server of a test: a webhook or an issuer over TLS, with a CA of its own, that answers by a function and remembers what it was told.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use keles_pki::{KubeconfigUser, Names, Pki};
use keles_serve::{Body, ConnInfo, Limits, Server, body, tls};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Where another server of a test listens, with a CA of its own.
pub struct Stand {
    pub address: SocketAddr,
    pub ca_pem: String,
    listener: TcpListener,
    tls: tls::Settings,
}

impl Stand {
    /// With a certificate for `name`, `names` and 127.0.0.1; `clients` judges those of clients.
    pub async fn open(ip: IpAddr, name: &str, names: &[&str], clients: Option<tls::ClientVerifier>) -> Stand {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::open(folder.path()).expect("a CA");
        let names = Names { dns: names.iter().map(|name| (*name).to_owned()).collect(), ips: Vec::new() };
        let served = pki.kubelet_server(name, &names).expect("a certificate");
        let tls = tls::server_config(served.certificate_der().expect("PEM"), served.key_der().expect("PEM"), clients).expect("TLS");
        let listener = TcpListener::bind((ip, 0)).await.expect("a free port");
        Stand { address: listener.local_addr().expect("bound"), ca_pem: pki.ca_pem().to_owned(), listener, tls }
    }
    /// Serves until what this gives is dropped.
    pub fn serve<C, H, F>(self, connect: C) -> DropGuard
    where
        C: Fn(ConnInfo) -> H + Clone + Send + Sync + 'static,
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        tokio::spawn(Server { listener: self.listener, tls: self.tls, limits: Limits::default() }.run(connect, stop.clone()));
        stop.drop_guard()
    }
}

pub struct Peer {
    folder: tempfile::TempDir,
    pub url: String,
    ca_pem: String,
    heard: Arc<Mutex<Vec<Value>>>,
    count: watch::Receiver<usize>,
    _serving: DropGuard,
}

impl Peer {
    /// `answer` gets its own URL, the path and the body (null when there is none). A string is sent as it stands, all else as JSON.
    pub async fn start(answer: impl Fn(&str, &str, &Value) -> Value + Send + Sync + 'static) -> Peer {
        let stand = Stand::open(Ipv4Addr::LOCALHOST.into(), "peer", &[], None).await;
        let (url, ca_pem) = (format!("https://{}", stand.address), stand.ca_pem.clone());
        let (heard, (told, count)) = (Arc::new(Mutex::new(Vec::new())), watch::channel(0));
        let shared = Arc::new((answer, url.clone(), heard.clone(), told));
        let connect = move |_| {
            let shared = shared.clone();
            move |request: Request<Incoming>| {
                let shared = shared.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let bytes = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                    let said: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                    let answer = (shared.0)(&shared.1, &path, &said);
                    shared.2.lock().unwrap().push(said);
                    shared.3.send_modify(|n| *n += 1);
                    let mut r = Response::new(body::full(Bytes::from(answer.as_str().map_or_else(|| answer.to_string(), str::to_owned))));
                    r.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
                    r
                }
            }
        };
        Peer { folder: tempfile::tempdir().expect("a folder"), url, ca_pem, heard, count, _serving: stand.serve(connect) }
    }
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }
    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self, path: &str) -> PathBuf {
        let file = self.folder.path().join("kubeconfig");
        keles_pki::write_kubeconfig(&file, &format!("{}{path}", self.url), self.ca_pem(), &KubeconfigUser::Token("t")).expect("writes");
        file
    }
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("writes");
        path
    }
    pub fn heard(&self) -> Vec<Value> {
        self.heard.lock().unwrap().clone()
    }
    /// Waits until it was told so often.
    pub async fn told(&self, times: usize) -> Vec<Value> {
        self.count.clone().wait_for(|n| *n >= times).await.expect("the peer lives");
        self.heard()
    }
}
