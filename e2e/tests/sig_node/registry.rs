//! A registry of one image on the node's loopback, where plain HTTP is allowed.

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keles_testkit::image::Image;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::net::TcpListener;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BLOB: &str = "application/octet-stream";

pub struct Registry {
    pub port: u16,
    held: Arc<Held>,
    serving: tokio::task::JoinHandle<()>,
}

/// What is at a path, with its media type.
struct Held {
    paths: HashMap<String, (&'static str, Bytes)>,
    manifests_asked: AtomicUsize,
}

impl Registry {
    pub async fn start(repository: &str, tag: &str, image: &Image) -> Registry {
        let (manifest, blobs) = image.pushed();
        let mut paths: HashMap<_, _> = blobs.into_iter().map(|(digest, bytes)| (format!("/v2/{repository}/blobs/{digest}"), (BLOB, Bytes::from(bytes)))).collect();
        paths.insert(format!("/v2/{repository}/manifests/{tag}"), (MANIFEST, manifest.into()));
        paths.insert("/v2/".into(), (BLOB, Bytes::new()));
        let held = Arc::new(Held { paths, manifests_asked: AtomicUsize::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let serves = held.clone();
        let serving = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let held = serves.clone();
                let answer = service_fn(move |r: Request<Incoming>| std::future::ready(Ok::<_, Infallible>(held.answer(r.uri().path()))));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), answer));
            }
        });
        Registry { port, held, serving }
    }

    pub fn manifests_asked(&self) -> usize {
        self.held.manifests_asked.load(SeqCst)
    }
}

impl Held {
    /// HEAD is answered as GET; the HTTP library leaves the body away.
    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        self.manifests_asked.fetch_add(usize::from(path.contains("/manifests/")), SeqCst);
        match self.paths.get(path) {
            Some((kind, bytes)) => Response::builder().header("content-type", *kind).body(Full::new(bytes.clone())).expect("an answer"),
            None => Response::builder().status(StatusCode::NOT_FOUND).body(Full::default()).expect("an answer"),
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
