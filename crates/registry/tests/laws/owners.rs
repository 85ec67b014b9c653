//! Laws of managedFields and server-side apply.

use crate::world::*;
use keles_api::{Object, Status};
use keles_registry::PatchType;
use serde_json::{Value, json};

async fn apply_as(r: Req, manager: &str, more: &str, body: &Value) -> Result<Object, Status> {
    r.query(&format!("fieldManager={manager}{more}")).patch(PatchType::Apply, &body.to_string()).await
}

fn applied(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn workload(replicas: i64) -> Value {
    let mut o = <crate::kinds::Deployment as keles_registry::Kind>::example();
    o.set_meta("name", "d");
    o.0["spec"]["replicas"] = replicas.into();
    o.0
}

/// `manager operation subresource` of each entry.
fn owners(o: &Object) -> Vec<String> {
    let text = |e: &Value, k: &str| e[k].as_str().unwrap_or("").to_owned();
    o.meta("managedFields")
        .as_array()
        .into_iter()
        .flatten()
        .map(|e| format!("{} {} {}", text(e, "manager"), text(e, "operation"), text(e, "subresource")).trim().to_owned())
        .collect()
}

fn owned(o: &Object, manager: &str) -> Value {
    let all = o.meta("managedFields").as_array();
    all.into_iter().flatten().find(|e| e["manager"] == manager).map_or(Value::Null, |e| e["fieldsV1"].clone())
}

#[tokio::test]
async fn an_apply_creates_and_the_same_apply_changes_nothing() {
    let w = World::new().await;
    let body = applied("a", json!({"x": "1"}));
    let mut first = w.req("configmaps").named("a").query("fieldManager=m");
    first.call.patch_type = Some(PatchType::Apply);
    first.call.body = body.to_string().into();
    assert_eq!(first.serve(keles_registry::Verb::Patch).await.unwrap().code, 201);
    let o = w.req("configmaps").named("a").get().await.unwrap();
    assert_eq!((owned(&o, "m"), owners(&o)), (json!({"f:data": {"f:x": {}}}), vec!["m Apply".into()]));
    let mut again = w.req("configmaps").named("a");
    again.call.request.now = "2026-11-21T07:00:00Z".into();
    assert_eq!(apply_as(again, "m", "", &body).await.unwrap(), o, "same revision, same time");
}

#[tokio::test]
async fn appliers_of_different_fields_live_together_and_of_the_same_conflict_by_name() {
    let w = World::new().await;
    let a = || w.req("configmaps").named("a");
    apply_as(a(), "m1", "", &applied("a", json!({"x": "1"}))).await.unwrap();
    let o = apply_as(a(), "m2", "", &applied("a", json!({"y": "1"}))).await.unwrap();
    assert_eq!(owners(&o), ["m1 Apply", "m2 Apply"]);
    let e = apply_as(a(), "m2", "", &applied("a", json!({"x": "2"}))).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (409, "Apply failed with 1 conflict: conflict with \"m1\": .data.x"));
    let cause = &e.details.unwrap().causes[0];
    assert_eq!((cause.reason.as_str(), cause.message.as_str(), cause.field.as_str()), ("FieldManagerConflict", "conflict with \"m1\"", ".data.x"));
    let o = apply_as(a(), "m2", "&force=true", &applied("a", json!({"x": "2"}))).await.unwrap();
    assert_eq!((o.at(&["data"]), owners(&o)), (&json!({"x": "2"}), vec!["m2 Apply".to_owned()]), "what m2 no longer applies goes");
}

#[tokio::test]
async fn every_write_is_tracked_by_field_manager_or_user_agent() {
    let w = World::new().await;
    let mut r = w.req("configmaps");
    r.call.user_agent = "kubectl/v1.33.0 (linux/amd64)".into();
    let o = r.create(&config("a", "1")).await.unwrap();
    assert_eq!(owned(&o, "kubectl"), json!({"f:data": {".": {}, "f:t": {}}, "f:metadata": {"f:labels": {".": {}, "f:t": {}}}}));
    let a = || w.req("configmaps").named("a").query("fieldManager=edit");
    let o = a().merge(r#"{"data":{"t":"2","u":"1"}}"#).await.unwrap();
    assert_eq!(owned(&o, "edit"), json!({"f:data": {"f:t": {}, "f:u": {}}}));
    assert_eq!(owned(&o, "kubectl")["f:data"], json!({}), "a changed field changes its owner");
    let mut without = o.clone();
    without.set_meta("managedFields", Value::Null);
    let put = w.req("configmaps").named("a").query("fieldManager=other").put(&without).await.unwrap();
    assert_eq!(put, o, "an update that says nothing of owners keeps them, and that alone is no write");
}

#[tokio::test]
async fn managed_fields_are_cleared_on_request_and_begin_again_with_an_apply() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let a = || w.req("configmaps").named("a");
    let o = a().merge(r#"{"metadata":{"managedFields":[{}]}}"#).await.unwrap();
    assert!(o.meta("managedFields").is_null());
    let o = a().merge(r#"{"data":{"u":"1"}}"#).await.unwrap();
    assert!(o.meta("managedFields").is_null(), "updates of an untracked object are not tracked");
    let o = apply_as(a(), "m", "", &applied("a", json!({"u": "1"}))).await.unwrap();
    assert_eq!(owners(&o), ["m Apply", "before-first-apply Update"]);
}

#[tokio::test]
async fn status_scale_and_the_rest_have_owners_of_their_own() {
    let w = World::new().await;
    let d = || w.req("deployments").named("d");
    let o = apply_as(d(), "m", "", &workload(2)).await.unwrap();
    assert!(owned(&o, "m")["f:spec"]["f:replicas"].is_object());
    let o = d().sub("status").query("fieldManager=ctl").merge(r#"{"status":{"replicas":1},"spec":{"paused":true}}"#).await.unwrap();
    assert_eq!(owned(&o, "ctl"), json!({"f:status": {"f:replicas": {}}}));
    d().sub("scale").query("fieldManager=hpa").merge(r#"{"spec":{"replicas":5}}"#).await.unwrap();
    let o = d().get().await.unwrap();
    assert_eq!(owners(&o), ["m Apply", "ctl Update status", "hpa Update scale"]);
    assert_eq!((owned(&o, "hpa"), &owned(&o, "m")["f:spec"]["f:replicas"]), (json!({"f:spec": {"f:replicas": {}}}), &Value::Null));
    let e = apply_as(d(), "m", "", &workload(2)).await.unwrap_err();
    assert_eq!(e.message, "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using apps/v1: .spec.replicas");
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 7}});
    let e = apply_as(d().sub("scale"), "s", "", &scale).await.unwrap_err();
    assert!(e.code == 409 && e.message.contains("\"hpa\""), "{}", e.message);
    apply_as(d().sub("scale"), "s", "&force=true", &scale).await.unwrap();
    let o = d().get().await.unwrap();
    assert_eq!(owners(&o), ["m Apply", "s Apply scale", "ctl Update status"]);
}

#[tokio::test]
async fn an_apply_that_cannot_be_is_refused_in_upstreams_words() {
    let w = World::new().await;
    let a = || w.req("configmaps").named("a");
    let e = a().patch(PatchType::Apply, &applied("a", json!({})).to_string()).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (422, "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"));
    let e = a().query("force=true").merge("{}").await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (422, "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch"));
    let mut owned = applied("a", json!({}));
    owned["metadata"]["managedFields"] = json!([]);
    let e = apply_as(a(), "m", "", &owned).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (400, "metadata.managedFields must be nil"));
    let e = apply_as(a(), "m", "", &json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "a"}})).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (400, "invalid object type: /v2, Kind=ConfigMap"));
    let e = apply_as(a(), "m", "", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "bogus": 1})).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (500, "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .bogus: field not declared in schema"));
    let e = apply_as(a(), "m", "", &applied("b", json!({}))).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (400, "the name of the object (b) does not match the name on the URL (a)"));
    let mut named = applied("a", json!({}));
    named["metadata"]["uid"] = "u".into();
    let e = apply_as(a(), "m", "", &named).await.unwrap_err();
    assert!(e.code == 409 && e.message.ends_with("uid mismatch: the provided object specified uid u, and no existing object was found"), "{}", e.message);
    let e = apply_as(w.req("deployments").named("none").sub("status"), "m", "", &json!({"apiVersion": "apps/v1", "kind": "Deployment"})).await.unwrap_err();
    assert_eq!(e.code, 404, "a subresource creates nothing");
    assert_eq!(a().get().await.unwrap_err().code, 404, "none of these wrote anything");
}

#[tokio::test]
async fn an_apply_may_be_dry_and_is_held_to_its_revision() {
    let w = World::new().await;
    let a = || w.req("configmaps").named("a");
    let o = apply_as(a(), "m", "&dryRun=All", &applied("a", json!({"x": "1"}))).await.unwrap();
    assert_eq!(owners(&o), ["m Apply"]);
    assert_eq!(a().get().await.unwrap_err().code, 404);
    let first = apply_as(a(), "m", "", &applied("a", json!({"x": "1"}))).await.unwrap();
    apply_as(a(), "m", "", &applied("a", json!({"x": "2"}))).await.unwrap();
    let mut stale = applied("a", json!({"x": "3"}));
    stale["metadata"]["resourceVersion"] = first.resource_version().into();
    let e = apply_as(a(), "m", "", &stale).await.unwrap_err();
    assert_eq!((e.code, e.reason.as_str()), (409, "Conflict"));
}

#[tokio::test]
async fn owners_do_not_keep_a_large_object_from_being_stored() {
    let w = World::new().await;
    let mut keys = serde_json::Map::new();
    for i in 0..35_000 {
        keys.insert(format!("k{i:05}-{}", "x".repeat(36)), "v".into());
    }
    let o = w.req("configmaps").create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": keys}).to_string()).await.unwrap();
    assert!(o.meta("managedFields").is_null(), "stored without its owners");
    assert_eq!(o.at(&["data"]).as_object().unwrap().len(), 35_000);
}
