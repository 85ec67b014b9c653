//! Admission policies through the whole chain: what they refuse and say, with which parameters, and what they change.

use crate::world::{Client, World};
use http::{Method, StatusCode};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn for_maps(more: Value) -> Value {
    let mut spec = json!({"matchConstraints": {"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

async fn make(c: &Client, kind: &str, plural: &str, name: &str, spec: Value) {
    let made = c.post(&format!("{GROUP}/{plural}"), &json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
}

async fn validating(c: &Client, name: &str, spec: Value, binding: Value) {
    make(c, "ValidatingAdmissionPolicy", "validatingadmissionpolicies", name, for_maps(spec)).await;
    let mut bound = json!({"policyName": name, "validationActions": ["Deny"]});
    bound.as_object_mut().unwrap().extend(binding.as_object().unwrap().clone());
    make(c, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", &format!("{name}-binding"), bound).await;
}

#[tokio::test]
async fn a_policy_refuses_in_its_own_words() {
    let w = World::start().await;
    let admin = w.admin();
    let spec = json!({"variables": [{"name": "size", "expression": "object.data.size()"}], "validations": [
        {"expression": "variables.size <= 2"},
        {"expression": "!('bad' in object.data)", "messageExpression": "'bad is ' + object.data.bad", "reason": "Forbidden"}]});
    validating(&admin, "p", spec, json!({})).await;
    assert_eq!(admin.post(MAPS, &map("good", json!({"a": "1"}))).await.status, StatusCode::CREATED);
    let many = admin.post(MAPS, &map("many", json!({"a": "1", "b": "2", "c": "3"}))).await;
    let said = "ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: failed expression: variables.size <= 2";
    assert_eq!((many.status.as_u16(), many.json()["reason"].as_str()), (422, Some("Invalid")));
    assert_eq!(many.json()["message"], format!("configmaps \"many\" is forbidden: {said}"));
    assert_eq!(many.json()["details"]["causes"][0]["message"], said);
    let bad = admin.post(MAPS, &map("bad", json!({"bad": "wicked"}))).await;
    assert_eq!((bad.status.as_u16(), bad.json()["reason"].as_str()), (403, Some("Forbidden")));
    assert!(bad.text().contains("denied request: bad is wicked"), "{}", bad.text());
    let patched = admin.send(Method::PATCH, &format!("{MAPS}/good"), "application/merge-patch+json", br#"{"data":{"bad":"x"}}"#.to_vec()).await;
    assert_eq!(patched.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_binding_gives_parameters_and_actions() {
    let w = World::start().await;
    let admin = w.admin();
    admin.post("/api/v1/namespaces/kube-system/configmaps", &map("limits", json!({"max": "1"}))).await;
    let spec =
        json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "validations": [{"expression": "object.data.size() <= int(params.data.max)", "message": "too many keys"}]});
    let binding = json!({"paramRef": {"name": "limits", "namespace": "kube-system", "parameterNotFoundAction": "Deny"}, "validationActions": ["Warn"]});
    validating(&admin, "p", spec, binding).await;
    let warned = admin.post(MAPS, &map("a", json!({"a": "1", "b": "2"}))).await;
    assert_eq!(warned.status, StatusCode::CREATED);
    assert_eq!(warned.header("warning"), "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p-binding': too many keys\"");
    let deny = json!({"spec": {"validationActions": ["Deny"]}}).to_string();
    let at = format!("{GROUP}/validatingadmissionpolicybindings/p-binding");
    assert_eq!(admin.send(Method::PATCH, &at, "application/merge-patch+json", deny.into_bytes()).await.status, StatusCode::OK);
    assert_eq!(admin.post(MAPS, &map("b", json!({"a": "1", "b": "2"}))).await.status.as_u16(), 422);
    admin.send(Method::DELETE, "/api/v1/namespaces/kube-system/configmaps/limits", "application/json", vec![]).await;
    let without = admin.post(MAPS, &map("c", json!({}))).await;
    assert!(without.text().contains("no params found for policy binding with `Deny` parameterNotFoundAction"), "{}", without.text());
}

#[tokio::test]
async fn an_expression_that_fails_counts_as_the_failure_policy_says() {
    let w = World::start().await;
    let admin = w.admin();
    validating(
        &admin,
        "strict",
        json!({"validations": [{"expression": "object.data.missing == 'x'"}], "matchConditions": [{"name": "s", "expression": "object.metadata.name.startsWith('s')"}]}),
        json!({}),
    )
    .await;
    validating(&admin, "lax", json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.data.missing == 'x'"}]}), json!({})).await;
    assert_eq!(admin.post(MAPS, &map("plain", json!({"a": "1"}))).await.status, StatusCode::CREATED);
    let refused = admin.post(MAPS, &map("s1", json!({"a": "1"}))).await;
    assert!(refused.text().contains("expression 'object.data.missing == 'x'' resulted in error: no such key: missing"), "{}", refused.text());
}

#[tokio::test]
async fn a_mutating_policy_applies_configurations_and_patches() {
    let w = World::start().await;
    let admin = w.admin();
    let apply = "Object{metadata: Object.metadata{labels: {'team': 'blue'}}, data: {'added': object.metadata.name}}";
    let patch = "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'by': 'policy'}}]";
    let spec = for_maps(json!({"reinvocationPolicy": "Never", "failurePolicy": "Fail", "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}]}));
    make(&admin, "MutatingAdmissionPolicy", "mutatingadmissionpolicies", "m", spec).await;
    make(&admin, "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", "m", json!({"policyName": "m"})).await;
    let made = admin.post(MAPS, &map("a", json!({"k": "v"}))).await.json();
    assert_eq!((&made["data"], &made["metadata"]["labels"]), (&json!({"k": "v", "added": "a"}), &json!({"team": "blue"})), "{made}");
    assert_eq!(made["metadata"]["annotations"], json!({"by": "policy"}));
}
