//! Pods as objects and as what runs.

use keles_e2e::WEB2;
use keles_e2e::api::{World, condition, shell, with};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    vec![
        case("Pods should allow activeDeadlineSeconds to be updated", deadline),
        case("Pods should be submitted and removed", submitted_and_removed),
        case("Pods should be updated", updated),
        case("Pods should delete a collection of pods", collection),
        case("Pods should get a host IP", |w| async move {
            w.pod("p", json!({"containers": [shell("sleep 600")]})).await;
            let pod = w.pods().phase("p", "Running").await;
            let ip = pod["status"]["hostIP"].as_str().expect("an address");
            assert!(ip.parse::<std::net::IpAddr>().is_ok() && pod["status"]["hostIPs"][0]["ip"] == ip, "{}", pod["status"]);
        }),
        case("Pods should patch a pod status", patched_status),
        case("Pods should run through the lifecycle of Pods and PodStatus", lifecycle),
        case("Pods Extended Pods Set QOS Class should be set on Pods with matching resource requests and limits for memory and cpu", |w| async move {
            let both = json!({"cpu": "10m", "memory": "20Mi"});
            w.pod("p", json!({"containers": [with(shell("sleep 600"), json!({"resources": {"requests": both, "limits": both}}))]})).await;
            assert_eq!(w.pods().get("p").await["status"]["qosClass"], "Guaranteed");
        }),
    ]
}

async fn deadline(w: World) {
    w.labelled_pod("p", json!({"labels": {"l": "v"}}), json!({"restartPolicy": "Always", "containers": [shell("sleep 600")]})).await;
    w.pods().ready("p").await;
    assert_eq!(w.pods().list("l=v").await.len(), 1);
    w.pods().update("p", |p| p["spec"]["activeDeadlineSeconds"] = json!(3)).await;
    let pod = w.pods().phase("p", "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
}

async fn submitted_and_removed(w: World) {
    let pods = w.pods();
    assert!(pods.list("l=v").await.is_empty());
    let made = w.labelled_pod("p", json!({"labels": {"l": "v"}}), json!({"terminationGracePeriodSeconds": 5, "containers": [shell("sleep 600")]})).await;
    assert_eq!(pods.list("l=v").await.len(), 1);
    pods.ready("p").await;
    pods.delete("p").await;
    let version = made["metadata"]["resourceVersion"].as_str().expect("a version");
    let events = pods.watch_until("l=v", version, "DELETED", "p").await;
    let has = |f: &dyn Fn(&Value) -> bool| events.iter().any(f);
    assert!(has(&|e| e["object"]["status"]["phase"] == "Running"), "the watch shows it running");
    assert!(has(&|e| e["type"] == "MODIFIED" && e["object"]["metadata"]["deletionTimestamp"].is_string() && e["object"]["metadata"]["deletionGracePeriodSeconds"] == 5));
    assert!(pods.list("l=v").await.is_empty());
}

async fn updated(w: World) {
    w.labelled_pod("p", json!({"labels": {"time": "early"}}), json!({"containers": [shell("sleep 600")]})).await;
    w.pods().ready("p").await;
    assert_eq!(w.pods().list("time=early").await.len(), 1);
    w.pods().update("p", |p| p["metadata"]["labels"]["time"] = json!("late")).await;
    assert_eq!((w.pods().list("time=early").await.len(), w.pods().list("time=late").await.len()), (0, 1));
}

async fn collection(w: World) {
    for name in ["a", "b", "c"] {
        w.labelled_pod(name, json!({"labels": {"type": "Testing"}}), json!({"containers": [shell("sleep 600")]})).await;
    }
    for name in ["a", "b", "c"] {
        w.pods().phase(name, "Running").await;
    }
    assert_eq!(w.pods().list("type=Testing").await.len(), 3);
    w.pods().delete_collection("type=Testing").await;
    for name in ["a", "b", "c"] {
        w.pods().gone(name).await;
    }
    assert!(w.pods().list("type=Testing").await.is_empty());
}

async fn patched_status(w: World) {
    w.pod("p", json!({"containers": [shell("sleep 600")]})).await;
    w.pods().ready("p").await;
    let patched = w.pods().patch("p/status", json!({"status": {"message": "Patched by e2e test", "reason": "E2E"}})).await;
    assert_eq!((&patched["status"]["message"], &patched["status"]["reason"]), (&json!("Patched by e2e test"), &json!("E2E")));
}

async fn lifecycle(w: World) {
    let pods = w.pods();
    w.labelled_pod("p", json!({"labels": {"test-pod-static": "true"}}), json!({"containers": [shell("sleep 600")]})).await;
    pods.ready("p").await;
    let change = json!({"metadata": {"labels": {"test-pod": "patched"}}, "spec": {"containers": [{"name": "c", "image": WEB2}]}});
    let patched = pods.patch_strategically("p", change).await;
    assert_eq!((&patched["metadata"]["labels"]["test-pod"], &patched["spec"]["containers"][0]["image"]), (&json!("patched"), &json!(WEB2)));
    assert_eq!(pods.list("test-pod=patched").await.len(), 1);
    let status = pods.get("p/status").await;
    assert_eq!(condition(&status, "PodScheduled")["status"], "True");
    let replaced = pods
        .update("p/status", |p| {
            let mine = json!({"type": "e2e.example.com/Replaced", "status": "True", "reason": "E2E", "message": "Set by the test"});
            p["status"]["conditions"].as_array_mut().expect("conditions").push(mine);
        })
        .await;
    assert_eq!(condition(&replaced, "e2e.example.com/Replaced")["message"], "Set by the test");
    pods.delete_collection("test-pod-static=true").await;
    pods.gone("p").await;
}
