//! Encryption at rest under the API: nothing readable on disk, rotation by writing anew; what has no key fails who asks for it, and nothing else.

use crate::world::World;
use http::{Method, StatusCode};
use keles_store::Store;
use keles_store::embedded::{Embedded, Options};
use keles_store::encrypted::{Rules, config};
use serde_json::json;
use std::path::Path;

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

    // Without the key the server starts, and only what needs the object fails.
    let w = World::configured(folder, |_| {}, Some(rules(&format!("{{aesgcm: {{keys: [{K1}]}}}}")))).await;
    let admin = w.admin();
    const SECRETS: &str = "/api/v1/namespaces/default/secrets";
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    for (what, reply) in [
        ("get", admin.get(SECRET).await),
        ("list", admin.get(SECRETS).await),
        ("list of all", admin.get("/api/v1/secrets").await),
        ("a list of old", admin.get("/api/v1/secrets?resourceVersion=0").await),
        ("a streamed list", admin.get("/api/v1/secrets?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1").await),
        ("update", admin.put(SECRET, &secret("pass")).await),
        ("patch", admin.send(Method::PATCH, SECRET, "application/merge-patch+json", b"{}".to_vec()).await),
        ("apply", admin.send(Method::PATCH, &format!("{SECRET}?fieldManager=t"), "application/apply-patch+yaml", secret("pass").to_string().into_bytes()).await),
        ("delete", admin.send(Method::DELETE, SECRET, "application/json", vec![]).await),
    ] {
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR, "{what}: {}", reply.text());
        let message = reply.json()["message"].as_str().unwrap_or_default().to_owned();
        let want = "Internal error occurred: unable to transform key \"/registry/core/secrets/default/pass\": no matching prefix found";
        assert_eq!(message, want, "{what}");
    }
    assert_eq!(admin.post(SECRETS, &secret("pass")).await.status, StatusCode::CONFLICT, "its name is taken");
    assert_eq!(admin.post(&format!("{SECRETS}?dryRun=All"), &secret("pass")).await.status, StatusCode::CONFLICT);
    assert_eq!(admin.post(SECRETS, &secret("other")).await.status, StatusCode::CREATED);
    assert_eq!(admin.get(&format!("{SECRETS}/other")).await.status, StatusCode::OK);
    assert_eq!(admin.get("/api/v1/namespaces/kube-system/secrets").await.status, StatusCode::OK, "of another namespace");
    assert_eq!(admin.get("/api/v1/configmaps").await.status, StatusCode::OK);
    assert_eq!(admin.get("/readyz").await.status, StatusCode::OK);

    // With the key again it is there, without a restart.
    w.encrypted().replace(rules(&format!("{{aesgcm: {{keys: [{K1}]}}}}, {{secretbox: {{keys: [{K2}]}}}}"))).await.unwrap();
    w.server().registry().reread().await.unwrap();
    assert_eq!(admin.get(SECRET).await.json()["data"]["k"], "cGxhaW4tdGV4dC1vZi10aGUtdGVzdA==");
    assert_eq!(admin.get(SECRETS).await.json()["items"].as_array().unwrap().len(), 2);
    let held = admin.get(SECRET).await.json();
    assert_ne!(admin.put(SECRET, &held).await.json()["metadata"]["resourceVersion"], held["metadata"]["resourceVersion"], "it lies under an older key");
    let folder = w.stop().await;
    assert!(stored(folder.path()).await.starts_with("k8s:enc:aesgcm:v1:key1:"));
}
