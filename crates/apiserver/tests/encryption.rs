//! Encryption at rest under the API: nothing readable on disk, rotation by writing anew, clear refusal with a wrong key.

mod world;

use http::StatusCode;
use keles_apiserver::{ApiServer, Config};
use keles_store::Store;
use keles_store::embedded::{Embedded, Options};
use keles_store::encrypted::{Encrypted, Rules, config};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use world::World;

const K1: &str = "{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}";
const K2: &str = "{name: key2, secret: YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODk=}";
const SECRET: &str = "/api/v1/namespaces/default/secrets/pass";
const KEY: &[u8] = b"/registry/core/secrets/default/pass";

fn rules(providers: &str) -> Rules {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: [{providers}]\n"))
        .unwrap();
    config::read(file.path()).expect("a good configuration")
}

async fn stored(folder: &Path) -> String {
    let plain = Embedded::open(&folder.join("store"), Options::default()).unwrap();
    let value = plain.get(KEY).await.unwrap().unwrap().value;
    plain.close().await.unwrap();
    String::from_utf8_lossy(&value).into_owned()
}

#[tokio::test]
async fn secrets_are_encrypted_rotated_and_unreadable_without_the_key() {
    let w = World::start().await;
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pass"}, "stringData": {"k": "plain-text-of-the-test"}});
    assert_eq!(w.admin().post("/api/v1/namespaces/default/secrets", &body).await.status, StatusCode::CREATED);
    let folder = w.stop().await;
    assert!(stored(folder.path()).await.contains("\"Secret\""));

    let w = World::configured(folder, |_| {}, Some(rules(&format!("{{aesgcm: {{keys: [{K1}]}}}}, {{identity: {{}}}}")))).await;
    let held = w.admin().get(SECRET).await.json();
    assert_eq!(held["data"]["k"], "cGxhaW4tdGV4dC1vZi10aGUtdGVzdA==");
    let again = w.admin().put(SECRET, &held).await.json();
    assert_ne!(again["metadata"]["resourceVersion"], held["metadata"]["resourceVersion"], "an unchanged write brings it under the key");
    let third = w.admin().put(SECRET, &again).await.json();
    assert_eq!(third["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"], "and then changes nothing");
    let folder = w.stop().await;
    assert!(stored(folder.path()).await.starts_with("k8s:enc:aesgcm:v1:key1:"));

    let w = World::configured(folder, |_| {}, Some(rules(&format!("{{secretbox: {{keys: [{K2}]}}}}, {{aesgcm: {{keys: [{K1}]}}}}")))).await;
    let held = w.admin().get(SECRET).await.json();
    assert_eq!(held["data"]["k"], "cGxhaW4tdGV4dC1vZi10aGUtdGVzdA==");
    w.admin().put(SECRET, &held).await;
    let folder = w.stop().await;
    assert!(stored(folder.path()).await.starts_with("k8s:enc:secretbox:v1:key2:"));

    let plain: Arc<dyn Store> = Embedded::open(&folder.path().join("store"), Options::default()).unwrap();
    let wrong = Encrypted::new(plain, rules(&format!("{{aesgcm: {{keys: [{K1}]}}}}")));
    let e = ApiServer::start(Config::new(folder.path()), wrong).await.err().expect("it cannot read its state").to_string();
    assert!(e.contains("/registry/core/secrets/default/pass") && e.contains("no matching prefix found"), "{e}");
}
