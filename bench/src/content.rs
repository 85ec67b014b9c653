//! Server CPU of server-side apply, and of protobuf beside JSON: the same pods created, read and listed in both.

use crate::Error;
use crate::api::{all, namespace_with_account, pod};
use crate::process::{Meter, Server};
use http::{Method, Request};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::client::Body;
use serde_json::json;
use std::path::PathBuf;

const APPLIES: usize = 2_000;
const PODS: usize = 2_000;
const GETS: usize = 5_000;
const LISTS: usize = 20;
/// What brings the Deployment to 5 KB.
const NOTE_BYTES: usize = 3_800;
pub const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
pub const JSON: &str = "application/json";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Every round changes an annotation and an image, as a deploying pipeline does.
pub fn deployment(round: usize) -> serde_json::Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}, "annotations": {"note": "x".repeat(NOTE_BYTES), "round": round.to_string()}},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "c", "image": format!("example.invalid/app:v{round}"), "command": ["/app", "--port=8080"], "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
             "ports": [{"containerPort": 8080, "name": "http"}], "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
             "readinessProbe": {"httpGet": {"path": "/", "port": "http"}}}]}}}})
}

/// One request in a media type; its answer, which must be a success.
pub async fn ask(s: &Server, method: Method, path: &str, media: &str, body: Vec<u8>) -> Result<Vec<u8>, kube::Error> {
    let request = Request::builder().method(method).uri(path).header("Accept", media).header("Content-Type", media).body(Body::from(body)).expect("a literal request");
    let answer = s.client.send(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect_bytes().await?.to_vec();
    assert!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}

/// A pod in a media type, whose name is this long, so that others are made by writing another name over it.
pub async fn sample(s: &Server, media: &str, name: &str) -> Result<Vec<u8>, Error> {
    let json = serde_json::to_vec(&pod(name))?;
    // What a dry run would have made: the same object in both, with all that defaults add.
    let request = Request::post(format!("{PODS_PATH}?dryRun=All")).header("Accept", media).header("Content-Type", JSON).body(Body::from(json))?;
    Ok(s.client.send(request).await?.into_body().collect_bytes().await?.to_vec())
}

/// The sample under another name of the same length.
pub fn named(sample: &[u8], old: &str, new: &str) -> Vec<u8> {
    let mut out = sample.to_vec();
    let at = out.windows(old.len()).position(|w| w == old.as_bytes()).expect("the sample holds its name");
    out[at..at + old.len()].copy_from_slice(new.as_bytes());
    out
}

pub async fn run(keles: PathBuf) -> Result<String, Error> {
    let s = Server::start(&keles, "apiserver").await?;
    namespace_with_account(&s).await?;
    let deployments: Api<Deployment> = Api::default_namespaced(s.client.clone());
    let mut cpu = Meter::settled(&s).await;
    let apply = PatchParams::apply("bench").force();
    for round in 0..APPLIES {
        deployments.patch("web", &apply, &Patch::Apply(deployment(round))).await?;
    }
    let mut out = format!("server-side apply of a 5 KB Deployment {:.3} ms of server CPU", cpu.lap() / APPLIES as f64 * 1e3);
    let forms = [("JSON", "j", JSON), ("protobuf", "p", PROTOBUF)];
    for (word, letter, media) in forms {
        let name = |i: usize| format!("{letter}{i:05}");
        let (first, s) = (name(99_999), &s);
        let sample = sample(s, media, &first).await?;
        cpu.lap();
        all(PODS, |i| {
            let body = named(&sample, &first, &name(i));
            async move { ask(s, Method::POST, PODS_PATH, media, body).await.map(|_| ()) }
        })
        .await?;
        let create = cpu.lap() / PODS as f64;
        all(GETS, |i| {
            let path = format!("{PODS_PATH}/{}", name(i % PODS));
            async move { ask(s, Method::GET, &path, media, Vec::new()).await.map(|_| ()) }
        })
        .await?;
        out += &format!("; {word}: create {:.3} ms, get {:.3} ms", create * 1e3, cpu.lap() / GETS as f64 * 1e3);
    }
    // The same objects in both: those of JSON have no message yet.
    for (word, _, media) in forms {
        let mut bytes = 0;
        cpu.lap();
        for _ in 0..LISTS {
            bytes = ask(&s, Method::GET, PODS_PATH, media, Vec::new()).await?.len();
        }
        let list = cpu.lap() / LISTS as f64;
        out += &format!("; list of {} in {word} ({:.1} MB) {:.1} ms", PODS * forms.len(), bytes as f64 / 1e6, list * 1e3);
    }
    Ok(out)
}
