//! Nodes that fail, over the real API server.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use keles_sim::World;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use std::sync::Arc;

fn patient(seconds: u32) -> serde_json::Value {
    let toleration = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    json!([toleration("node.kubernetes.io/unreachable"), toleration("node.kubernetes.io/not-ready")])
}
fn on(pods: &[Arc<Pod>], node: &str) -> usize {
    pods.iter().filter(|p| p.spec.as_ref().is_some_and(|s| s.node_name.as_deref() == Some(node))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_tainted_and_its_pods_are_evicted_and_replaced_elsewhere() {
    let world = World::start().await;
    let first = world.node("n1").await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"tolerations": patient(1), "containers": [{"name": "c", "image": "v1"}]}});
    world.create::<ReplicaSet>(json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}})).await;
    world.until::<Pod>("both run on the first node", |pods| on(pods, "n1") == 2).await;
    first.fall_silent();
    world.node("n2").await;
    let tainted = |nodes: &[Arc<Node>]| {
        nodes.iter().any(|n| n.spec.as_ref().is_some_and(|s| s.taints.iter().flatten().any(|t| t.key == "node.kubernetes.io/unreachable" && t.effect == "NoExecute")))
    };
    world.until::<Node>("the node is tainted", tainted).await;
    world.until::<Pod>("replacements run on the second node", |pods| on(pods, "n2") == 2).await;
    let evicted = |pods: &[Arc<Pod>]| pods.iter().filter(|p| on(std::slice::from_ref(p), "n1") == 1).all(|p| p.metadata.deletion_timestamp.is_some());
    world.until::<Pod>("eviction sets a deletion timestamp (lesson 97)", evicted).await;
    let nodes: Api<Node> = Api::all(world.admin.clone());
    let untouched = nodes.get("n2").await.unwrap().spec.and_then(|s| s.taints).unwrap_or_default();
    assert!(untouched.is_empty(), "{untouched:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_goes_on_when_a_node_comes() {
    let world = World::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "v1"}]}});
    world.create::<Pod>(pod).await;
    let told = |pods: &[Arc<Pod>]| {
        pods.iter()
            .flat_map(|p| p.status.iter())
            .flat_map(|s| s.conditions.iter().flatten())
            .any(|c| c.type_ == "PodScheduled" && c.message.as_deref() == Some("no nodes available to schedule pods"))
    };
    world.until::<Pod>("it says why it waits", told).await;
    world.node("n1").await;
    world.until::<Pod>("it is bound", |pods| on(pods, "n1") == 1).await;
    world.api::<Pod>().delete("p", &DeleteParams::default()).await.unwrap();
    world.until::<Pod>("it is gone", |pods| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_that_is_gone_are_collected() {
    let world = World::start().await;
    let node = world.node("n1").await;
    let pod = json!({"metadata": {"name": "lost"}, "spec": {"containers": [{"name": "c", "image": "v1"}]}});
    world.create::<Pod>(pod).await;
    world.until::<Pod>("it runs", |pods| on(pods, "n1") == 1 && pods.iter().all(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running"))).await;
    node.fall_silent();
    Api::<Node>::all(world.admin.clone()).delete("n1", &DeleteParams::default()).await.unwrap();
    world.until::<Pod>("the pod, which no kubelet can end, is gone", |pods| pods.is_empty()).await;
}
