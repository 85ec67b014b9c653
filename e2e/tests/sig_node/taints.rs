//! NoExecute taints on the one node: one case at a time; the pods of the other cases tolerate everything.

use keles_e2e::api::{World, eventually, shell};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::Mutex;

pub fn cases() -> Vec<Case> {
    vec![
        case("NoExecuteTaintManager Single Pod [Serial] removing taint cancels eviction", cancelled),
        case("NoExecuteTaintManager Multiple Pods [Serial] evicts pods with minTolerationSeconds", by_shortest),
    ]
}

static NODE: Mutex<()> = Mutex::const_new(());
const KEY: &str = "e2e.example.com/evict";

async fn pod(w: &World, name: &str, seconds: Option<u64>) {
    let tolerations: Vec<Value> = seconds.iter().map(|s| json!({"key": KEY, "value": "v", "effect": "NoExecute", "tolerationSeconds": s})).collect();
    w.pod(name, json!({"tolerations": tolerations, "containers": [shell("sleep 600")]})).await;
    w.pods().ready(name).await;
}

async fn taint(w: &World, on: bool) {
    w.cluster("v1/nodes")
        .update(w.node, |n| {
            let mut taints: Vec<Value> = n["spec"]["taints"].as_array().cloned().unwrap_or_default();
            taints.retain(|t| t["key"] != KEY);
            if on {
                taints.push(json!({"key": KEY, "value": "v", "effect": "NoExecute"}));
            }
            n["spec"]["taints"] = json!(taints);
        })
        .await;
}

async fn going(w: &World, name: &str) -> bool {
    w.pods().try_get(name).await.map_or(true, |p| p["metadata"]["deletionTimestamp"].is_string())
}

async fn goes(w: &World, name: &str) {
    eventually(&format!("the eviction of {name}"), || async { if going(w, name).await { Ok(()) } else { Err("still there".into()) } }).await;
}

/// The pod without a toleration shows that the taint was seen; the other outlives the seconds it would have had.
async fn cancelled(w: World) {
    const SECONDS: u64 = 30;
    let _node = NODE.lock().await;
    pod(&w, "stays", Some(SECONDS)).await;
    pod(&w, "goes", None).await;
    taint(&w, true).await;
    goes(&w, "goes").await;
    taint(&w, false).await;
    // Nothing tells of an eviction that does not come: the time has to pass.
    tokio::time::sleep(Duration::from_secs(SECONDS + 5)).await;
    assert!(!going(&w, "stays").await, "evicted though the taint is gone");
}

async fn by_shortest(w: World) {
    let _node = NODE.lock().await;
    pod(&w, "first", Some(3)).await;
    pod(&w, "second", Some(15)).await;
    taint(&w, true).await;
    goes(&w, "first").await;
    goes(&w, "second").await;
    let evicted = |name: &'static str| w.event(name, "TaintManagerEviction");
    let (first, second) = (evicted("first").await, evicted("second").await);
    taint(&w, false).await;
    let at = |e: &Value| e["lastTimestamp"].as_str().or(e["eventTime"].as_str()).unwrap_or_default().to_owned();
    assert!(at(&first) < at(&second), "{first} {second}");
}
