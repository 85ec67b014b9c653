//! Another server of a test: a webhook or an issuer over TLS, with a CA of its own, that answers by a function and remembers what it was told.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use keles_pki::{KubeconfigUser, Names, Pki};
use keles_serve::{Limits, Server, body, tls};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub struct Peer {
    folder: tempfile::TempDir,
    pub url: String,
    heard: Arc<Mutex<Vec<Value>>>,
    count: watch::Receiver<usize>,
    stop: CancellationToken,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Peer {
    /// `answer` gets its own URL, the path and the body (null when there is none). A string is sent as it stands, all else as JSON.
    pub async fn start(answer: impl Fn(&str, &str, &Value) -> Value + Send + Sync + 'static) -> Peer {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::open(folder.path()).expect("a CA");
        let served = pki.apiserver(&Names::default(), [127, 0, 0, 1].into()).expect("a certificate");
        let config = tls::server_config(served.certificate_der().expect("PEM"), served.key_der().expect("PEM"), None).expect("TLS");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("https://127.0.0.1:{}", listener.local_addr().expect("bound").port());
        let (heard, (told, count), stop) = (Arc::new(Mutex::new(Vec::new())), watch::channel(0), CancellationToken::new());
        let shared = Arc::new((answer, url.clone(), heard.clone(), told));
        let server = Server { listener, tls: config, limits: Limits::default() };
        let ends = stop.clone();
        tokio::spawn(async move {
            let connect = move |_| {
                let shared = shared.clone();
                move |request: Request<hyper::body::Incoming>| {
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
            server.run(connect, ends).await;
        });
        Peer { folder, url, heard, count, stop }
    }
    pub fn ca_pem(&self) -> String {
        Pki::open(self.folder.path()).expect("its own folder").ca_pem().to_owned()
    }
    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self, path: &str) -> PathBuf {
        let file = self.folder.path().join("kubeconfig");
        keles_pki::write_kubeconfig(&file, &format!("{}{path}", self.url), &self.ca_pem(), &KubeconfigUser::Token("t")).expect("writes");
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
