//! Server CPU of create, get and list of 5 KB pods over HTTPS.

use crate::Error;
use crate::process::{Meter, Server, http_get};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use std::path::PathBuf;

const PODS: usize = 5_000;
const GETS: usize = 10_000;
const LISTS: usize = 20;
const IN_FLIGHT: usize = 8;
/// What brings the pod to 5 KB.
const NOTE_BYTES: usize = 3_600;

pub fn pod(name: &str) -> Pod {
    let value = json!({"metadata": {"name": name, "labels": {"app": "bench"}, "annotations": {"note": "x".repeat(NOTE_BYTES)}},
        "spec": {"containers": [{"name": "c", "image": "example.invalid/app:v1", "command": ["/app", "--port=8080"], "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "ports": [{"containerPort": 8080, "name": "http"}], "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}}}]}});
    serde_json::from_value(value).expect("a literal pod")
}

pub async fn namespace_with_account(s: &Server) -> Result<(), Error> {
    let accounts: Api<ServiceAccount> = Api::default_namespaced(s.client.clone());
    accounts.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "default"}}))?).await?;
    Ok(())
}

pub async fn run(keles: PathBuf) -> Result<String, Error> {
    let s = Server::start(&keles, "apiserver").await?;
    namespace_with_account(&s).await?;
    let pods: Api<Pod> = Api::default_namespaced(s.client.clone());
    let mut cpu = Meter::settled(&s).await;
    all(PODS, |i| {
        let pods = pods.clone();
        async move { pods.create(&PostParams::default(), &pod(&format!("p{i}"))).await.map(|_| ()) }
    })
    .await?;
    let create = cpu.lap() / PODS as f64;
    all(GETS, |i| {
        let client = s.client.clone();
        async move { client.request_text(http_get(&format!("/api/v1/namespaces/default/pods/p{}", i % PODS))).await.map(|_| ()) }
    })
    .await?;
    let get = cpu.lap() / GETS as f64;
    let before = s.resident_mib();
    cpu.lap();
    let mut bytes = 0;
    for _ in 0..LISTS {
        bytes = s.client.request_text(http_get("/api/v1/namespaces/default/pods")).await?.len();
    }
    let list = cpu.lap() / LISTS as f64;
    Ok(format!(
        "create {:.3} ms, get {:.3} ms, list of {PODS} ({:.0} MB) {:.1} ms of server CPU; {before:.0} MiB resident before the lists, {:.0} after",
        create * 1e3,
        get * 1e3,
        bytes as f64 / 1e6,
        list * 1e3,
        s.resident_mib()
    ))
}

/// Runs `count` requests, a few at a time.
pub async fn all<F>(count: usize, request: impl Fn(usize) -> F) -> Result<(), Error>
where
    F: std::future::Future<Output = Result<(), kube::Error>>,
{
    let mut done = futures::stream::iter((0..count).map(request)).buffer_unordered(IN_FLIGHT);
    while let Some(r) = done.next().await {
        r?;
    }
    Ok(())
}
