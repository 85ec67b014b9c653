//! The informer against a scripted server, in process.

use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::ConfigMap;
use keles_client::{Change, Informers, in_process};
use kube::client::Body;
use serde_json::json;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

/// Answers each request with the next body of the script and notes the URI; a request past the end hangs, as an idle watch does.
fn scripted(script: Vec<(u16, String)>) -> (kube::Client, Arc<Mutex<Vec<String>>>) {
    let uris = Arc::new(Mutex::new(Vec::new()));
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    let noted = uris.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        noted.lock().unwrap().push(request.uri().to_string());
        let next = script.lock().unwrap().pop_front();
        async move {
            let Some((code, body)) = next else { return std::future::pending().await };
            Ok::<_, Infallible>(Response::builder().status(StatusCode::from_u16(code).unwrap()).body(Body::from(body.into_bytes())).unwrap())
        }
    });
    (in_process(service), uris)
}

fn event(kind: &str, name: &str, revision: u64) -> String {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "d", "name": name, "uid": name, "resourceVersion": revision.to_string(), "managedFields": [{"manager": "m"}]}});
    json!({"type": kind, "object": object}).to_string() + "\n"
}
fn initial_end(revision: u64) -> String {
    let metadata = json!({"resourceVersion": revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}});
    json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}}).to_string() + "\n"
}
fn expired() -> String {
    json!({"type": "ERROR", "object": {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}}).to_string() + "\n"
}
fn describe(change: &Change<ConfigMap>) -> String {
    let name = change.object().metadata.name.clone().unwrap_or_default();
    match change {
        Change::Added(_) => format!("+{name}"),
        Change::Modified { .. } => format!("~{name}"),
        Change::Deleted(_) => format!("-{name}"),
    }
}

#[tokio::test]
async fn a_streamed_list_then_changes_then_expiry_then_a_fresh_list() {
    let first = event("ADDED", "a", 3) + &event("ADDED", "b", 5) + &initial_end(6) + &event("MODIFIED", "b", 7) + &expired();
    let second = event("ADDED", "c", 9) + &initial_end(10);
    let (client, uris) = scripted(vec![(200, first), (200, second)]);
    let informers = Informers::new(client, CancellationToken::new());
    let informer = informers.of::<ConfigMap>();
    let mut changes = informer.subscribe();
    assert!(informer.synced().await);
    let mut seen = Vec::new();
    while seen.len() < 6 {
        seen.push(describe(&changes.recv().await.unwrap()));
    }
    assert_eq!(seen, ["+a", "+b", "~b", "+c", "-a", "-b"]);
    assert!(informer.get("d", "c").unwrap().metadata.managed_fields.is_none());
    assert_eq!(informers.of::<ConfigMap>().len(), 1, "the second user shares the first one's cache");
    let uris = uris.lock().unwrap();
    assert!(uris[0].starts_with("/api/v1/configmaps?watch=true") && uris[0].contains("sendInitialEvents=true"), "{uris:?}");
    assert!(uris[1].contains("sendInitialEvents=true"), "after expiry everything is fetched again: {uris:?}");
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_listed_in_pages_and_the_watch_resumes_there() {
    let refusal = json!({"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid", "message": "sendInitialEvents is forbidden"}).to_string();
    let item = |name: &str| json!({"metadata": {"namespace": "d", "name": name, "uid": name, "resourceVersion": "2"}});
    let page = json!({"metadata": {"resourceVersion": "8", "continue": "t/1"}, "items": [item("a")]}).to_string();
    let last = json!({"metadata": {"resourceVersion": "8"}, "items": [item("b")]}).to_string();
    let (client, uris) = scripted(vec![(422, refusal), (200, page), (200, last), (200, event("DELETED", "a", 9))]);
    let informer = Informers::new(client, CancellationToken::new()).of::<ConfigMap>();
    let mut changes = informer.subscribe();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(describe(&changes.recv().await.unwrap()));
    }
    assert_eq!(seen, ["+a", "+b", "-a"]);
    let uris = uris.lock().unwrap();
    assert!(uris[2].contains("continue=t%2F1"), "{uris:?}");
    assert!(uris[3].contains("resourceVersion=8"), "{uris:?}");
}
