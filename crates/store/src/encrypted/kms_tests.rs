//! The KMS provider against a plugin of the test's own, over a real socket.

use super::kms::{Message, fields};
use super::tests::{KEY, World, put, read, secrets};
use super::*;
use crate::Expect;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Encrypts by naming its key before the bytes, and turning them over.
struct Plugin {
    folder: tempfile::TempDir,
    key: Arc<Mutex<&'static str>>,
    calls: Arc<AtomicUsize>,
    running: tokio::task::JoinHandle<()>,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn answer(key: &str, path: &str, asked: &Bytes) -> Result<Vec<u8>, &'static str> {
    let f = fields(asked).expect("a message");
    let one = |n: u64| f.iter().find(|(x, _)| *x == n).map(|(_, v)| v.to_vec()).unwrap_or_default();
    let mut m = Message::default();
    match path.rsplit('/').next() {
        Some("Status") => {
            m.bytes(1, b"v2");
            m.bytes(2, b"ok");
            m.bytes(3, key.as_bytes());
        }
        Some("Encrypt") => {
            let mut sealed = one(1);
            sealed.reverse();
            m.bytes(1, &[b"sealed:".as_slice(), &sealed].concat());
            m.bytes(2, key.as_bytes());
        }
        _ => {
            let mut plain = one(1).strip_prefix(b"sealed:").ok_or("not mine")?.to_vec();
            plain.reverse();
            m.bytes(1, &plain);
        }
    }
    Ok(m.0)
}

impl Plugin {
    fn start() -> Plugin {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = tokio::net::UnixListener::bind(folder.path().join("s")).expect("a socket");
        let (key, calls) = (Arc::new(Mutex::new("one")), Arc::new(AtomicUsize::new(0)));
        let (k, c) = (key.clone(), calls.clone());
        let running = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (k, c) = (k.clone(), c.clone());
                let service = service_fn(move |r: Request<hyper::body::Incoming>| {
                    let (k, c) = (k.clone(), c.clone());
                    async move {
                        c.fetch_add(1, Ordering::SeqCst);
                        let path = r.uri().path().to_owned();
                        let body = r.into_body().collect().await.expect("a body").to_bytes();
                        let made = answer(*k.lock().expect("the key"), &path, &body.slice(5..));
                        let mut trailers = HeaderMap::new();
                        let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = Vec::new();
                        match made {
                            Ok(m) => {
                                frames.push(Ok(Frame::data([&[0], (m.len() as u32).to_be_bytes().as_slice(), &m].concat().into())));
                                trailers.insert("grpc-status", "0".parse().expect("a value"));
                            }
                            Err(why) => {
                                trailers.insert("grpc-status", "3".parse().expect("a value"));
                                trailers.insert("grpc-message", why.parse().expect("a value"));
                            }
                        }
                        frames.push(Ok(Frame::trailers(trailers)));
                        Ok::<_, Infallible>(Response::new(StreamBody::new(futures::stream::iter(frames))))
                    }
                });
                tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
            }
        });
        Plugin { folder, key, calls, running }
    }
    fn rules(&self) -> Rules {
        secrets(&[&format!("kms: {{apiVersion: v2, name: plug, endpoint: 'unix://{}/s', timeout: 2s}}", self.folder.path().display()), "identity: {}"])
    }
}

#[tokio::test]
async fn the_plugin_keeps_the_key_and_is_asked_once_a_seed() {
    let (w, plugin) = (World::new(), Plugin::start());
    w.over(plugin.rules(), async |s, plain| {
        let at = put(&*s, "hidden", Expect::Absent).await;
        put(&*s, "hidden2", Expect::Revision(at)).await;
        let stored = plain.get(KEY).await.unwrap().unwrap().value;
        assert!(stored.starts_with(b"k8s:enc:kms:v2:plug:") && !stored.windows(6).any(|w| w == b"hidden"));
        assert_eq!(read(&*s).await.unwrap(), "hidden2");
        assert!(!s.stale(KEY));
        assert_eq!(plugin.calls.load(Ordering::SeqCst), 1, "one encryption for all");
    })
    .await;
    // A new process asks the plugin for the seed; a rotated key makes old values stale.
    *plugin.key.lock().unwrap() = "two";
    w.over(plugin.rules(), async |s, _| {
        assert_eq!(read(&*s).await.unwrap(), "hidden2");
        assert!(s.stale(KEY));
        let at = s.get(KEY).await.unwrap().unwrap().modified;
        put(&*s, "hidden2", Expect::Revision(at)).await;
        assert_eq!(read(&*s).await.unwrap(), "hidden2");
        assert!(!s.stale(KEY));
    })
    .await;
}

#[tokio::test]
async fn a_plugin_that_is_away_is_an_error_that_names_it() {
    let (w, plugin) = (World::new(), Plugin::start());
    w.over(plugin.rules(), async |s, _| {
        put(&*s, "hidden", Expect::Absent).await;
    })
    .await;
    let rules = plugin.rules();
    drop(plugin);
    w.over(rules, async |s, _| {
        let e = read(&*s).await.expect_err("nobody has the key").to_string();
        assert!(e.contains("/registry/core/secrets/shop/pass") && e.contains("the KMS plugin plug"), "{e}");
    })
    .await;
}
