//! What admission makes of objects, and what it refuses, through the whole chain.

use crate::world::{World, pod, with_account};
use http::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn limit_ranges_set_defaults_and_bounds() {
    let w = World::start().await;
    let admin = with_account(&w).await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "10m"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}, "maxLimitRequestRatio": {"cpu": "10"}}]}});
    assert_eq!(admin.post("/api/v1/namespaces/default/limitranges", &range).await.status, StatusCode::CREATED);
    let at = "/api/v1/namespaces/default/pods";
    let made = admin.post(at, &pod("a", json!({}))).await.json();
    assert_eq!(made["spec"]["containers"][0]["resources"], json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}));
    assert_eq!(made["metadata"]["annotations"]["kubernetes.io/limit-ranger"], "LimitRanger plugin set: cpu request for container c; cpu limit for container c");
    let refused = admin.post(at, &pod("b", json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "5m"}, "limits": {"cpu": "1"}}}]}))).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(
        refused.json()["message"],
        "pods \"b\" is forbidden: [minimum cpu usage per Container is 10m, but request is 5m, cpu max limit to request ratio per Container is 10, but provided ratio is 200.000000]"
    );
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_ends() {
    let w = World::start().await;
    let admin = w.admin();
    admin.post("/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ending"}})).await;
    let gone = admin.send(Method::DELETE, "/api/v1/namespaces/ending", "application/json", vec![]).await.json();
    assert_eq!(gone["status"]["phase"], "Terminating", "{gone}");
    let refused = admin.post("/api/v1/namespaces/ending/configmaps", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}})).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let status = refused.json();
    assert_eq!(status["message"], "configmaps \"x\" is forbidden: unable to create new content in namespace ending because it is being terminated");
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
}

#[tokio::test]
async fn priorities_come_from_classes_alone() {
    let w = World::start().await;
    let admin = with_account(&w).await;
    let at = "/api/v1/namespaces/default/pods";
    let made = admin.post(at, &pod("a", json!({"priorityClassName": "system-node-critical"}))).await.json();
    assert_eq!(made["spec"]["priority"], 2_000_001_000);
    let refused = admin.post(at, &pod("b", json!({"priorityClassName": "system-node-critical", "priority": 5}))).await;
    assert_eq!(
        refused.json()["message"],
        "pods \"b\" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 2000001000 from the given PriorityClass name"
    );
    let class = |name: &str, value: i64| json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value, "globalDefault": true});
    assert_eq!(admin.post("/apis/scheduling.k8s.io/v1/priorityclasses", &class("usual", 7)).await.status, StatusCode::CREATED);
    let second = admin.post("/apis/scheduling.k8s.io/v1/priorityclasses", &class("other", 8)).await;
    assert_eq!(second.status, StatusCode::FORBIDDEN, "{}", second.text());
    let made = admin.post(at, &pod("c", json!({}))).await.json();
    assert_eq!((made["spec"]["priority"].as_i64(), made["spec"]["priorityClassName"].as_str()), (Some(7), Some("usual")));
}

#[tokio::test]
async fn tolerations_are_added_only_where_none_fits() {
    let w = World::start().await;
    let admin = with_account(&w).await;
    let all = json!({"tolerations": [{"operator": "Exists"}]});
    let made = admin.post("/api/v1/namespaces/default/pods", &pod("a", all)).await.json();
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 1, "{made}");
}

#[tokio::test]
async fn new_nodes_are_tainted_and_claims_protected() {
    let w = World::start().await;
    let admin = w.admin();
    let node = admin.post("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).await.json();
    assert_eq!(node["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let claim = admin.post("/api/v1/namespaces/default/persistentvolumeclaims", &claim).await.json();
    assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
}

#[tokio::test]
async fn a_node_writes_only_what_is_its_own() {
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    let w = World::start().await;
    let admin = with_account(&w).await;
    let at = "/api/v1/namespaces/default/pods";
    for (name, node) in [("mine", "n1"), ("other", "n2")] {
        assert_eq!(
            admin.post(at, &pod(name, json!({"nodeName": node, "volumes": [{"name": "s", "secret": {"secretName": format!("{name}-key")}}]}))).await.status,
            StatusCode::CREATED
        );
        admin.post("/api/v1/namespaces/default/secrets", &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{name}-key")}})).await;
    }
    let as_node = |method: Method, path: String, body: Value| {
        let service = w.server().service_for(keles_auth::user("system:node:n1", &["system:nodes"]));
        let r = http::Request::builder().method(method).uri(path).header("content-type", "application/merge-patch+json");
        let r = r.body(http_body_util::Full::new(bytes::Bytes::from(body.to_string()))).unwrap();
        async move {
            let answer = service.oneshot(r).await.unwrap();
            let status = answer.status();
            let bytes = answer.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8_lossy(&bytes).into_owned())
        }
    };
    assert_eq!(as_node(Method::GET, "/api/v1/namespaces/default/secrets/mine-key".into(), json!(null)).await.0, StatusCode::OK);
    assert_eq!(as_node(Method::GET, "/api/v1/namespaces/default/secrets/other-key".into(), json!(null)).await.0, StatusCode::FORBIDDEN);
    let phase = json!({"status": {"phase": "Running"}});
    assert_eq!(as_node(Method::PATCH, format!("{at}/mine/status"), phase.clone()).await.0, StatusCode::OK);
    let (status, text) = as_node(Method::PATCH, format!("{at}/other/status"), phase).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(text.contains("can only update pod status for pods with spec.nodeName set to itself"), "{text}");
}

#[tokio::test]
async fn a_pod_says_where_its_node_is_from_the_moment_it_has_one() {
    let w = World::start().await;
    let admin = with_account(&w).await;
    let place = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
    let mut labels = place.clone();
    labels["topology.kubernetes.io/rack"] = "7".into();
    admin.post("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": labels}})).await;
    let at = "/api/v1/namespaces/default/pods";
    let mut waiting = pod("a", json!({}));
    waiting["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "elsewhere", "app": "x"});
    assert_eq!(admin.post(at, &waiting).await.status, StatusCode::CREATED);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(admin.post(&format!("{at}/a/binding"), &binding).await.status, StatusCode::CREATED);
    let mut expected = place.clone();
    expected["app"] = "x".into();
    assert_eq!(admin.get(&format!("{at}/a")).await.json()["metadata"]["labels"], expected);
    let placed = admin.post(at, &pod("b", json!({"nodeName": "n"}))).await.json();
    assert_eq!(placed["metadata"]["labels"], place);
}
