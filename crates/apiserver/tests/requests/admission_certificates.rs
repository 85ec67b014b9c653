//! Admission of certificate requests, and of writes that create by another verb: rights besides the one on the object.

use crate::world::{Client, Reply, World};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Method, StatusCode};
use serde_json::{Value, json};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const CLIENTS: &str = "kubernetes.io/kube-apiserver-client";
/// CN=jane, and CN=jane,O=system:masters; made by `openssl req -new`.
const JANE: &str = "-----BEGIN CERTIFICATE REQUEST-----\nMIHJMHECAQAwDzENMAsGA1UEAwwEamFuZTBZMBMGByqGSM49AgEGCCqGSM49AwEH\nA0IABJ5SVYyOlQBHIb4pgQTmErAvyJdcR/vMrzjfgjXKM9rz9CaAAGgKD9d07WHS\nZMwCCMjFv2F3heCuZvEjGlnWjpSgADAKBggqhkjOPQQDAgNIADBFAiBHyQZgKQTJ\n1Fk90JYZmQzHMEtFO6/Alxa2AHPiE5OOXAIhAI8wZWfSyLhhvtl4RMGeQCIOFrQs\nIXzBtigV9jMa8379\n-----END CERTIFICATE REQUEST-----\n";
const MASTER: &str = "-----BEGIN CERTIFICATE REQUEST-----\nMIHjMIGKAgEAMCgxFzAVBgNVBAoMDnN5c3RlbTptYXN0ZXJzMQ0wCwYDVQQDDARq\nYW5lMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE6mt9JfhjdI6utneqEbvVtl6K\nzuKAmPEA5IT53VJ6ItBhv2dmo91dgyjFAiTC+brAN5TFz0BydSGMIosz7eG8vqAA\nMAoGCCqGSM49BAMCA0gAMEUCIQCNegOn2mbcHDV/i8JpMrqNxdODR2gRAhz8cFMz\nEoapagIgSd4c9DdCIXkDN8ETfonshEr8f85pPNYKuH5mX7MHSTg=\n-----END CERTIFICATE REQUEST-----\n";

fn request(name: &str, signer: &str, pem: &str) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": BASE64.encode(pem), "signerName": signer, "usages": ["client auth"]}})
}

fn why(r: &Reply) -> String {
    r.json()["message"].as_str().unwrap_or_default().to_owned()
}

/// Lets jane do what the rules say, everywhere.
async fn allow(admin: &Client, name: &str, rules: Value) {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    assert_eq!(admin.post(&format!("{RBAC}/clusterroles"), &role).await.status, StatusCode::CREATED);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    assert_eq!(admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn nobody_becomes_an_administrator_by_a_request() {
    let w = World::start().await;
    let admin = w.admin();
    let refused = admin.post(REQUESTS, &request("master", CLIENTS, MASTER)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(why(&refused).ends_with("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"), "{}", refused.text());
    assert_eq!(admin.post(REQUESTS, &request("jane", CLIENTS, JANE)).await.status, StatusCode::CREATED);
    assert_eq!(admin.post(REQUESTS, &request("elsewhere", "example.com/signer", MASTER)).await.status, StatusCode::CREATED, "another signer has rules of its own");
}

#[tokio::test]
async fn approving_and_signing_need_a_right_on_the_signer() {
    let w = World::start().await;
    let (admin, jane) = (w.admin(), w.admin().with_header("impersonate-user", "jane"));
    let resources = json!(["certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"]);
    allow(&admin, "requests", json!([{"apiGroups": ["certificates.k8s.io"], "resources": resources, "verbs": ["get", "update", "patch"]}])).await;
    admin.post(REQUESTS, &request("r", "example.com/signer", JANE)).await;
    let mut o = admin.get(&format!("{REQUESTS}/r")).await.json();
    o["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "R", "message": "m"}]);
    let approve = jane.put(&format!("{REQUESTS}/r/approval"), &o).await;
    assert_eq!(approve.status, StatusCode::FORBIDDEN);
    assert!(why(&approve).ends_with("user not permitted to approve requests with signerName \"example.com/signer\""), "{}", approve.text());
    allow(&admin, "approve", json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/*"], "verbs": ["approve"]}])).await;
    let approved = jane.put(&format!("{REQUESTS}/r/approval"), &o).await;
    assert_eq!(approved.status, StatusCode::OK, "{}", approved.text());
    let mut o = approved.json();
    o["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "Failed", "status": "True", "reason": "R", "message": "m"}));
    let sign = jane.put(&format!("{REQUESTS}/r/status"), &o).await;
    assert!(why(&sign).ends_with("user not permitted to sign requests with signerName \"example.com/signer\""), "{}", sign.text());
    allow(&admin, "sign", json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/signer"], "verbs": ["sign"]}])).await;
    let signed = jane.put(&format!("{REQUESTS}/r/status"), &o).await;
    assert_eq!(signed.status, StatusCode::OK, "{}", signed.text());
}

#[tokio::test]
async fn a_patch_that_creates_needs_the_right_to_create() {
    let w = World::start().await;
    let (admin, jane) = (w.admin(), w.admin().with_header("impersonate-user", "jane"));
    allow(&admin, "patch", json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}])).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}).to_string().into_bytes();
    let apply = async || jane.send(Method::PATCH, "/api/v1/namespaces/default/configmaps/c?fieldManager=t", "application/apply-patch+yaml", map.clone()).await;
    let refused = apply().await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(why(&refused).contains("User \"jane\" cannot create resource \"configmaps\""), "{}", refused.text());
    allow(&admin, "create", json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}])).await;
    assert_eq!(apply().await.status, StatusCode::CREATED);
}
