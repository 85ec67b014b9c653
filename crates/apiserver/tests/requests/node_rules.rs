//! What a node may write: NodeRestriction over the wire.

use crate::world::{Client, Reply, World};
use http::{Method, StatusCode};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn as_node(w: &World, name: &str) -> Client {
    w.admin().with_header("impersonate-user", &format!("system:node:{name}")).with_header("impersonate-group", "system:nodes")
}

/// The reason of a refusal by admission, without what it is about.
fn why(r: &Reply) -> String {
    assert_eq!(r.status, StatusCode::FORBIDDEN, "{}", r.text());
    let message = r.json()["message"].as_str().unwrap().to_owned();
    message.split_once(" is forbidden: ").map(|(_, why)| why.to_owned()).unwrap_or(message)
}

async fn merge(c: &Client, path: &str, body: Value) -> Reply {
    c.send(Method::PATCH, path, "application/merge-patch+json", body.to_string().into_bytes()).await
}

async fn make(c: &Client, path: &str, o: Value) -> Value {
    let made = c.post(path, &o).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    made.json()
}

async fn with_pods(w: &World) -> Value {
    let admin = w.admin();
    make(&admin, "/api/v1/namespaces/default/serviceaccounts", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let mut own = Value::Null;
    for node in ["n2", "n1"] {
        make(&admin, "/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})).await;
        let volumes = json!([{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": "vault"}}]}}]);
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}], "volumes": volumes});
        own = make(&admin, PODS, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("on-{node}")}, "spec": spec})).await;
    }
    own
}

#[tokio::test]
async fn a_node_draws_no_pods_to_itself() {
    let w = World::start().await;
    let node = as_node(&w, "n1");
    let o = |labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}});
    let refused = node.post("/api/v1/nodes", &o(json!({"node-restriction.kubernetes.io/safe": "yes", "node-role.kubernetes.io/master": "", "kubernetes.io/hostname": "n1"}))).await;
    assert_eq!(why(&refused), "node \"n1\" is not allowed to set the following labels: node-restriction.kubernetes.io/safe, node-role.kubernetes.io/master");
    make(&node, "/api/v1/nodes", o(json!({"kubernetes.io/hostname": "n1", "node.kubernetes.io/speed": "fast"}))).await;
    let at = "/api/v1/nodes/n1";
    assert_eq!(why(&merge(&node, at, json!({"spec": {"taints": null}})).await), "node \"n1\" is not allowed to modify taints", "the one that all new nodes get");
    assert_eq!(why(&merge(&node, at, json!({"metadata": {"labels": {"k8s.io/a": "b"}}})).await), "is not allowed to modify labels: k8s.io/a");
    assert_eq!(merge(&node, at, json!({"metadata": {"labels": {"example.com/a": "b"}}})).await.status, StatusCode::OK);
    assert_eq!(merge(&node, &format!("{at}/status"), json!({"status": {"capacity": {"cpu": "4"}}})).await.status, StatusCode::OK);
    assert_eq!(why(&merge(&as_node(&w, "n2"), at, json!({"metadata": {"labels": {"a": "b"}}})).await), "node \"n2\" is not allowed to modify node \"n1\"");
}

#[tokio::test]
async fn a_node_makes_mirror_pods_that_refer_to_nothing() {
    let w = World::start().await;
    with_pods(&w).await;
    let node = as_node(&w, "n1");
    let uid = w.admin().get("/api/v1/nodes/n1").await.json()["metadata"]["uid"].clone();
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let refused = async |pod: &Value| why(&node.post(PODS, pod).await);
    assert_eq!(refused(&pod).await, "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods");
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(refused(&pod).await, "node \"n1\" can only create pods with spec.nodeName set to itself");
    pod["spec"]["nodeName"] = "n1".into();
    assert_eq!(refused(&pod).await, "node \"n1\" can only create pods with an owner reference set to itself");
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "other", "controller": true}]);
    assert!(refused(&pod).await.starts_with("node n1 UID mismatch: expected other got "));
    pod["metadata"]["ownerReferences"][0]["uid"] = uid;
    pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    assert_eq!(refused(&pod).await, "node \"n1\" can not create pods that reference secrets");
    pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "s"}}]);
    assert_eq!(refused(&pod).await, "node \"n1\" can not create pods that reference persistentvolumeclaims");
    pod["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": "/"}}]);
    make(&node, PODS, pod).await;
    assert_eq!(node.send(Method::DELETE, &format!("{PODS}/m?gracePeriodSeconds=0"), "application/json", vec![]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_node_touches_the_pods_bound_to_it_alone() {
    let w = World::start().await;
    with_pods(&w).await;
    let node = as_node(&w, "n1");
    let status = json!({"status": {"message": "m"}});
    assert_eq!(why(&merge(&node, &format!("{PODS}/on-n2/status"), status.clone()).await), "node \"n1\" can only update pod status for pods with spec.nodeName set to itself");
    assert_eq!(merge(&node, &format!("{PODS}/on-n1/status"), status).await.status, StatusCode::OK);
    assert_eq!(why(&merge(&node, &format!("{PODS}/on-n1/status"), json!({"metadata": {"labels": {"a": "b"}}})).await), "node \"n1\" cannot update labels through pod status");
    let eviction = |pod: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}});
    assert_eq!(why(&node.post(&format!("{PODS}/on-n2/eviction"), &eviction("on-n2")).await), "node n1 can only evict pods with spec.nodeName set to itself");
    assert_eq!(node.post(&format!("{PODS}/on-n1/eviction"), &eviction("on-n1")).await.status, StatusCode::CREATED);
    assert_eq!(why(&node.send(Method::DELETE, &format!("{PODS}/on-n2"), "application/json", vec![]).await), "node \"n1\" can only delete pods with spec.nodeName set to itself");
}

#[tokio::test]
async fn a_node_asks_for_tokens_of_its_pods_and_their_audiences() {
    let w = World::start().await;
    let pod = with_pods(&w).await;
    let node = as_node(&w, "n1");
    let at = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let ask = async |bound: Value, audiences: Value| {
        node.post(at, &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound, "audiences": audiences}})).await
    };
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "on-n1", "uid": pod["metadata"]["uid"]});
    assert_eq!(why(&ask(Value::Null, json!(["vault"])).await), "node requested token not bound to a pod");
    let other = w.admin().get(&format!("{PODS}/on-n2")).await.json();
    let of_other = json!({"apiVersion": "v1", "kind": "Pod", "name": "on-n2", "uid": other["metadata"]["uid"]});
    assert_eq!(why(&ask(of_other, json!(["vault"])).await), "node requested token bound to a pod scheduled on a different node");
    assert_eq!(why(&ask(json!({"apiVersion": "v1", "kind": "Pod", "name": "on-n1"}), json!(["vault"])).await), "node requested token with a pod binding without a uid");
    assert_eq!(why(&ask(bound.clone(), json!(["bank"])).await), "audience \"bank\" not found in pod spec volume");
    let made = ask(bound.clone(), json!(["vault"])).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let made = ask(bound, Value::Null).await;
    assert_eq!(made.status, StatusCode::CREATED, "the audience of the API server, which every pod's own volume asks for: {}", made.text());
}
