//! Audit events of real requests: in a file, and at a webhook.

mod world;

use http::StatusCode;
use keles_apiserver::{Config, audit};
use serde_json::{Value, json};
use std::time::Duration;
use world::World;
use world::peer::Peer;

const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n\
    - {level: None, resources: [{group: coordination.k8s.io}]}\n- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}]}\n\
    - {level: Metadata, resources: [{group: '', resources: [secrets, pods]}]}\n- {level: Metadata, nonResourceURLs: [/version]}\n";

async fn world(configure: impl FnOnce(&mut Config)) -> World {
    World::configured(tempfile::tempdir().expect("a folder"), configure, None).await
}

fn events(path: &std::path::Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect()
}

#[tokio::test]
async fn the_log_tells_who_asked_what_and_what_came_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let w = world(|c| c.audit = audit::Options { policy_file: Some(policy), log_path: Some(log.clone()), ..audit::Options::default() }).await;
    let admin = w.admin().with_header("user-agent", "tester").with_header("x-forwarded-for", "192.0.2.9");
    let made = admin.post("/api/v1/namespaces/default/configmaps", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "v"}})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    admin.get("/api/v1/namespaces/default/secrets/none").await;
    admin.clone().with_header("impersonate-user", "jane").get("/api/v1/secrets").await;
    w.bearer("bad").get("/version").await;
    admin.get("/apis/coordination.k8s.io/v1/leases").await;

    let all = events(&log);
    assert_eq!(all.iter().filter(|e| e["stage"] == "ResponseComplete").count(), 4, "{all:#?}");
    let create = &all[0];
    for (field, value) in [
        ("kind", json!("Event")),
        ("apiVersion", json!("audit.k8s.io/v1")),
        ("level", json!("RequestResponse")),
        ("verb", json!("create")),
        ("requestURI", json!("/api/v1/namespaces/default/configmaps")),
        ("sourceIPs", json!(["192.0.2.9", "127.0.0.1"])),
        ("userAgent", json!("tester")),
        ("auditID", json!(made.header("audit-id"))),
        ("responseStatus", json!({"metadata": {}, "code": 201})),
    ] {
        assert_eq!(create[field], value, "{field}");
    }
    assert_eq!(create["user"]["username"], "kubernetes-admin");
    assert_eq!(create["objectRef"], json!({"resource": "configmaps", "namespace": "default", "name": "c", "apiVersion": "v1"}));
    assert_eq!(create["requestObject"]["data"]["k"], "v");
    assert!(create["responseObject"]["metadata"]["uid"].is_string() && create["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(create["annotations"]["authorization.k8s.io/decision"], "allow");
    let missing = all.iter().find(|e| e["objectRef"]["name"] == "none").unwrap();
    assert_eq!((&missing["responseStatus"]["code"], &missing["responseStatus"]["reason"]), (&json!(404), &json!("NotFound")));
    assert!(missing.get("requestObject").is_none(), "Metadata has no bodies");
    let forbidden = all.iter().find(|e| e["impersonatedUser"]["username"] == "jane").unwrap();
    assert_eq!((&forbidden["annotations"]["authorization.k8s.io/decision"], &forbidden["responseStatus"]["code"]), (&json!("forbid"), &json!(403)));
    let stranger = all.iter().find(|e| e["responseStatus"]["code"] == 401).unwrap();
    assert_eq!(stranger["user"], json!({}));
}

#[tokio::test]
async fn a_watch_is_told_when_it_starts_and_when_it_ends() {
    let hook = Peer::start(|_, _, _| json!({})).await;
    let policy = hook.file("policy.yaml", POLICY);
    let w = world(|c| {
        c.audit = audit::Options {
            policy_file: Some(policy),
            webhook_kubeconfig: Some(hook.kubeconfig("/events")),
            webhook_batch_max: 1,
            webhook_batch_wait: Duration::from_secs(1),
            ..audit::Options::default()
        }
    })
    .await;
    let a = w.admin().get("/api/v1/namespaces/default/pods?watch=true&timeoutSeconds=1").await;
    assert_eq!(a.status, StatusCode::OK);
    let lists = hook.told(2).await;
    assert_eq!((&lists[0]["kind"], &lists[0]["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
    let stages: Vec<&Value> = lists.iter().flat_map(|l| l["items"].as_array().unwrap()).map(|e| &e["stage"]).collect();
    assert_eq!(stages, ["ResponseStarted", "ResponseComplete"]);
    assert_eq!(lists[0]["items"][0]["verb"], "watch");
}

#[tokio::test]
async fn events_carry_what_admission_notes() {
    let dir = tempfile::tempdir().unwrap();
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let w = world(|c| c.audit = audit::Options { policy_file: Some(policy), log_path: Some(log.clone()), ..audit::Options::default() }).await;
    let admin = w.admin();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "watched", "labels": {
        "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted"}}});
    admin.post("/api/v1/namespaces", &namespace).await;
    admin.post("/api/v1/namespaces/watched/serviceaccounts", &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let spec = json!({
        "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "object.metadata.name != 'odd'", "message": "odd"}],
        "auditAnnotations": [{"key": "name", "valueExpression": "'made ' + object.metadata.name"}],
    });
    let of = |kind: &str, spec: &Value| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "p"}, "spec": spec});
    assert_eq!(admin.post(&format!("{group}/validatingadmissionpolicies"), &of("ValidatingAdmissionPolicy", &spec)).await.status, StatusCode::CREATED);
    let binding = of("ValidatingAdmissionPolicyBinding", &json!({"policyName": "p", "validationActions": ["Audit"]}));
    assert_eq!(admin.post(&format!("{group}/validatingadmissionpolicybindings"), &binding).await.status, StatusCode::CREATED);

    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(admin.post("/api/v1/namespaces/watched/pods", &pod).await.status, StatusCode::CREATED);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "odd"}});
    assert_eq!(admin.post("/api/v1/namespaces/watched/configmaps", &map).await.status, StatusCode::CREATED);

    let all = events(&log);
    let notes = |resource: &str| all.iter().find(|e| e["verb"] == "create" && e["objectRef"]["resource"] == resource).map(|e| e["annotations"].clone()).unwrap_or_default();
    assert_eq!(notes("pods")["pod-security.kubernetes.io/enforce-policy"], "baseline:latest");
    let violations = notes("pods")["pod-security.kubernetes.io/audit-violations"].as_str().unwrap_or_default().to_owned();
    assert!(violations.starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"), "{violations}");
    assert_eq!(notes("configmaps")["p/name"], "made odd");
    assert_eq!(
        notes("configmaps")["validation.policy.admission.k8s.io/validation_failure"].as_str().map(|t| serde_json::from_str::<Value>(t).unwrap()),
        Some(json!([{"message": "odd", "policy": "p", "binding": "p", "expressionIndex": 0, "validationActions": ["Audit"]}]))
    );
}
