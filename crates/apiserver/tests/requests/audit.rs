//! Audit events of real requests: in a file, and at a webhook.

use crate::world::World;
use crate::world::peer::Peer;
use http::StatusCode;
use keles_apiserver::audit;
use serde_json::{Value, json};
use std::time::Duration;

const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n\
    - {level: None, resources: [{group: coordination.k8s.io}]}\n- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}]}\n\
    - {level: Metadata, resources: [{group: '', resources: [secrets, pods]}]}\n- {level: Metadata, nonResourceURLs: [/version]}\n";

fn events(path: &std::path::Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect()
}

#[tokio::test]
async fn the_log_tells_who_asked_what_and_what_came_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let w = World::with(|c| c.audit = audit::Options { policy_file: Some(policy), log_path: Some(log.clone()), ..audit::Options::default() }).await;
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
    let w = World::with(|c| {
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
async fn events_tell_what_webhooks_did_at_the_level_that_may_know() {
    use base64::Engine;
    let hook = Peer::start(|_, path, said| {
        let mut response = json!({"uid": said["request"]["uid"], "allowed": true, "auditAnnotations": {"seen": "yes"}});
        if path == "/mutate" {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = base64::engine::general_purpose::STANDARD.encode(r#"[{"op":"add","path":"/data/added","value":"1"}]"#).into();
        }
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let w = World::with(|c| c.audit = audit::Options { policy_file: Some(policy), log_path: Some(log.clone()), ..audit::Options::default() }).await;
    let admin = w.admin();
    let ca = base64::engine::general_purpose::STANDARD.encode(hook.ca_pem());
    let entry = |name: &str, url: String, failure: &str| {
        json!({"name": name, "clientConfig": {"url": url, "caBundle": ca}, "failurePolicy": failure, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps", "secrets"]}]})
    };
    for (kind, plural, path) in
        [("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "/mutate"), ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "/validate")]
    {
        let webhooks = json!([entry("good.example.com", format!("{}{path}", hook.url), "Fail"), entry("gone.example.com", "https://127.0.0.1:1/".into(), "Ignore")]);
        let o = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "hooks"}, "webhooks": webhooks});
        let made = admin.post(&format!("/apis/admissionregistration.k8s.io/v1/{plural}"), &o).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    }
    for (kind, plural) in [("ConfigMap", "configmaps"), ("Secret", "secrets")] {
        let o = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "noted"}, "data": {}});
        let made = admin.post(&format!("/api/v1/namespaces/default/{plural}"), &o).await;
        assert!(made.status == StatusCode::CREATED || plural == "secrets", "{}", made.text());
    }
    let all = events(&log);
    let notes = |resource: &str| all.iter().find(|e| e["verb"] == "create" && e["objectRef"]["resource"] == resource).map(|e| e["annotations"].clone()).unwrap_or_default();
    let of = notes("configmaps");
    let at = |key: &str| of[key].as_str().unwrap_or_default().to_owned();
    assert_eq!(at("mutation.webhook.admission.k8s.io/round_0_index_0"), r#"{"configuration":"hooks","webhook":"good.example.com","mutated":true}"#);
    assert_eq!(
        at("patch.webhook.admission.k8s.io/round_0_index_0"),
        r#"{"configuration":"hooks","webhook":"good.example.com","patch":[{"op":"add","path":"/data/added","value":"1"}],"patchType":"JSONPatch"}"#
    );
    assert_eq!(at("mutation.webhook.admission.k8s.io/round_0_index_1"), r#"{"configuration":"hooks","webhook":"gone.example.com","mutated":false}"#);
    assert_eq!(at("failed-open.mutation.webhook.admission.k8s.io/round_0_index_1"), "gone.example.com");
    assert_eq!(at("failed-open.validating.webhook.admission.k8s.io/round_0_index_1"), "gone.example.com");
    assert_eq!(at("good.example.com/seen"), "yes");
    let of = notes("secrets");
    assert!(
        of["mutation.webhook.admission.k8s.io/round_0_index_0"].is_string() && of.get("patch.webhook.admission.k8s.io/round_0_index_0").is_none(),
        "Metadata has no bodies: {of}"
    );
}

#[tokio::test]
async fn a_strict_sink_that_fails_fails_requests_before_they_are_worked_on_and_no_other_does() {
    const EVERYTHING: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- {level: Metadata, resources: [{group: '', resources: [configmaps]}]}\n";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    for (mode, code) in [(audit::Mode::BlockingStrict, 500), (audit::Mode::Blocking, 201)] {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy.yaml");
        std::fs::write(&policy, EVERYTHING).unwrap();
        // Takes no byte, ever.
        let w = World::with(|c| c.audit = audit::Options { policy_file: Some(policy), log_path: Some("/dev/full".into()), log_mode: mode, ..audit::Options::default() }).await;
        let a = w.admin().post("/api/v1/namespaces/default/configmaps", &map).await;
        assert_eq!(a.status.as_u16(), code, "{mode}: {}", a.text());
        if code == 500 {
            assert_eq!(a.json()["message"], "Internal error occurred: failed to store audit event");
            assert_eq!(w.admin().get("/api/v1/secrets").await.status, StatusCode::OK, "what the policy leaves out is not written down");
        }
    }
}

#[tokio::test]
async fn a_blocking_webhook_has_the_event_before_the_answer_and_legacy_is_a_line_of_text() {
    let hook = Peer::start(|_, _, _| json!({})).await;
    let (policy, dir) = (hook.file("policy.yaml", POLICY), tempfile::tempdir().unwrap());
    let log = dir.path().join("audit.log");
    let w = World::with(|c| {
        c.audit = audit::Options {
            policy_file: Some(policy),
            log_path: Some(log.clone()),
            log_format: audit::Format::Legacy,
            webhook_kubeconfig: Some(hook.kubeconfig("/events")),
            webhook_mode: audit::Mode::Blocking,
            ..audit::Options::default()
        }
    })
    .await;
    let a = w.admin().with_header("user-agent", "tester").get("/api/v1/namespaces/default/secrets/none").await;
    let heard = hook.heard();
    assert_eq!((heard.len(), &heard[0]["items"][0]["auditID"]), (1, &json!(a.header("audit-id"))));
    let text = std::fs::read_to_string(&log).unwrap();
    let want = format!(
        "AUDIT: id=\"{}\" stage=\"ResponseComplete\" ip=\"127.0.0.1\" method=\"get\" user=\"kubernetes-admin\" groups=\"system:masters\",\"system:authenticated\"",
        a.header("audit-id")
    );
    assert!(text.contains(&want) && text.ends_with("namespace=\"default\" uri=\"/api/v1/namespaces/default/secrets/none\" response=\"404\"\n"), "{text}");
}

#[tokio::test]
async fn events_carry_what_admission_notes() {
    let dir = tempfile::tempdir().unwrap();
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let w = World::with(|c| c.audit = audit::Options { policy_file: Some(policy), log_path: Some(log.clone()), ..audit::Options::default() }).await;
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
