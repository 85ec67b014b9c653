//! The KMS provider against a plugin of the test's own, over a real socket.

use super::kms::{DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse};
use super::tests::{KEY, World, put, read, secrets};
use super::*;
use crate::Expect;
use keles_grpc::{Code, Server, Status};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_util::sync::CancellationToken;

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

fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

impl Plugin {
    fn start() -> Plugin {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = tokio::net::UnixListener::bind(folder.path().join("s")).expect("a socket");
        let (key, calls) = (Arc::new(Mutex::new("one")), Arc::new(AtomicUsize::new(0)));
        let (k, c) = (key.clone(), calls.clone());
        let asked = move || {
            c.fetch_add(1, Ordering::SeqCst);
            k.lock().expect("the key").to_string()
        };
        let (on_status, on_encrypt, on_decrypt) = (asked.clone(), asked.clone(), asked);
        let server = Server::new()
            .unary("/v2.KeyManagementService/Status", move |_: StatusRequest| {
                let key_id = on_status();
                async move { Ok(StatusResponse { version: "v2".into(), healthz: "ok".into(), key_id }) }
            })
            .unary("/v2.KeyManagementService/Encrypt", move |q: EncryptRequest| {
                let key_id = on_encrypt();
                async move { Ok(EncryptResponse { ciphertext: [b"sealed:".as_slice(), &turned(&q.plaintext)].concat().into(), key_id, annotations: Default::default() }) }
            })
            .unary("/v2.KeyManagementService/Decrypt", move |q: DecryptRequest| {
                on_decrypt();
                async move {
                    let sealed = q.ciphertext.strip_prefix(b"sealed:").ok_or_else(|| Status::new(Code::InvalidArgument, "not mine"))?;
                    Ok(DecryptResponse { plaintext: turned(sealed).into() })
                }
            });
        let running = tokio::spawn(server.serve_unix(listener, CancellationToken::new()));
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
