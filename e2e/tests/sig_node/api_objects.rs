//! What the entries ask of kinds through the API alone.

use keles_e2e::WEB;
use keles_e2e::api::World;
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    vec![
        case("ConfigMap should fail to create ConfigMap with empty key", |w| empty_key(w, "v1/configmaps", json!({"data": {"": "value-1"}}))),
        case("ConfigMap should run through a ConfigMap lifecycle", |w| async move {
            w.api_operations("v1/configmaps", true, |_| json!({"metadata": {}, "data": {"valueName": "value"}})).await;
            changes_reach_the_list(&w, "v1/configmaps", json!({"data": {"valueName": "value"}}), json!({"data": {"valueName": "value1"}})).await;
        }),
        case("ConfigMap should update ConfigMap successfully", |w| async move {
            w.config_map("o", json!({"data-1": "value-1"})).await;
            let maps = w.of("v1/configmaps");
            maps.update("o", |m| m["data"] = json!({"data-1": "value-2", "data-2": "new"})).await;
            assert_eq!(maps.get("o").await["data"], json!({"data-1": "value-2", "data-2": "new"}));
        }),
        case("Secrets should fail to create secret due to empty secret key", |w| empty_key(w, "v1/secrets", json!({"stringData": {"": "value-1"}}))),
        case("Secrets should patch a secret", |w| async move {
            changes_reach_the_list(&w, "v1/secrets", json!({"data": {"key": "dmFsdWU="}}), json!({"data": {"key": "dmFsdWUx"}})).await;
        }),
        case("Lease lease API should be available", leases),
        case("Node Lifecycle should run through the lifecycle of a node", |w| async move {
            w.api_operations("v1/nodes", false, |_| json!({"metadata": {}, "spec": {"unschedulable": true}})).await;
        }),
        case("PodTemplates should delete a collection of pod templates", |w| async move {
            let all = w.of("v1/podtemplates");
            for name in ["a", "b", "c"] {
                all.create(&json!({"metadata": {"name": name, "labels": {"podtemplate-set": "true"}}, "template": template()})).await;
            }
            assert_eq!(all.list("podtemplate-set=true").await.len(), 3);
            all.delete_collection("podtemplate-set=true").await;
            assert!(all.list("podtemplate-set=true").await.is_empty());
        }),
        case("PodTemplates should replace a pod template", |w| async move {
            let all = w.of("v1/podtemplates");
            all.create(&json!({"metadata": {"name": "o"}, "template": template()})).await;
            all.update("o", |t| t["metadata"]["annotations"] = json!({"updated": "true"})).await;
            assert_eq!(all.get("o").await["metadata"]["annotations"]["updated"], "true");
        }),
        case("PodTemplates should run the lifecycle of PodTemplates", |w| async move {
            changes_reach_the_list(&w, "v1/podtemplates", json!({"template": template()}), json!({"metadata": {"labels": {"patched": "yes"}}})).await;
        }),
        case("[DRA] CRUD Tests resource.k8s.io/v1 DeviceClass", |w| async move {
            w.api_operations(
                "resource.k8s.io/v1/deviceclasses",
                false,
                |_| json!({"metadata": {}, "spec": {"selectors": [{"cel": {"expression": "device.driver == \"e2e.example.com\""}}]}}),
            )
            .await;
        }),
        case("[DRA] CRUD Tests resource.k8s.io/v1 ResourceClaim", |w| async move {
            w.api_operations("resource.k8s.io/v1/resourceclaims", true, |_| json!({"metadata": {}, "spec": claim()})).await;
        }),
        case("[DRA] CRUD Tests resource.k8s.io/v1 ResourceClaimTemplate", |w| async move {
            w.api_operations("resource.k8s.io/v1/resourceclaimtemplates", true, |_| json!({"metadata": {}, "spec": {"spec": claim()}})).await;
        }),
        case("[DRA] CRUD Tests resource.k8s.io/v1 ResourceSlice", |w| async move {
            let slice = |name: &str| json!({"metadata": {}, "spec": {"driver": "e2e.example.com", "nodeName": "nowhere", "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "d"}]}});
            w.api_operations("resource.k8s.io/v1/resourceslices", false, slice).await;
        }),
    ]
}

fn template() -> Value {
    json!({"metadata": {"labels": {"l": "v"}}, "spec": {"containers": [{"name": "c", "image": WEB}]}})
}

fn claim() -> Value {
    json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "none"}}]}})
}

async fn empty_key(w: World, path: &str, data: Value) {
    let e = w.of(path).try_create(&keles_e2e::api::with(json!({"metadata": {"name": "o"}}), data)).await.expect_err("an empty key");
    assert!(e.code == 422 && e.reason == "Invalid", "{e:?}");
}

/// Created, patched, read, found among all of the cluster by its static label with the change, deleted by that label.
async fn changes_reach_the_list(w: &World, path: &str, object: Value, change: Value) {
    let (all, label) = (w.of(path), format!("static={}", w.namespace));
    all.create(&keles_e2e::api::with(json!({"metadata": {"name": "o", "labels": {"static": w.namespace}}}), object)).await;
    all.patch("o", change.clone()).await;
    let holds = |o: &Value| {
        let mut merged = o.clone();
        merge(&mut merged, &change);
        merged == *o
    };
    assert!(holds(&all.get("o").await));
    let everywhere = w.cluster(path).list(&label).await;
    assert!(everywhere.len() == 1 && holds(&everywhere[0]), "{everywhere:?}");
    all.delete_collection(&label).await;
    assert!(w.cluster(path).list(&label).await.is_empty());
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => change.iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v)),
        (into, change) => *into = change.clone(),
    }
}

async fn leases(w: World) {
    let all = w.of("coordination.k8s.io/v1/leases");
    let spec = json!({"holderIdentity": "holder", "leaseDurationSeconds": 30, "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:05.000000Z", "leaseTransitions": 0});
    all.create(&json!({"metadata": {"name": "o"}, "spec": spec})).await;
    assert_eq!(all.get("o").await["spec"], spec);
    let changed = json!({"holderIdentity": "holder2", "leaseDurationSeconds": 60, "acquireTime": "2026-01-01T00:00:10.000000Z", "renewTime": "2026-01-01T00:00:15.000000Z", "leaseTransitions": 1});
    all.update("o", |l| l["spec"] = changed.clone()).await;
    assert_eq!(all.get("o").await["spec"], changed);
    all.patch("o", json!({"spec": {"leaseTransitions": 2}})).await;
    assert_eq!(all.get("o").await["spec"], keles_e2e::api::with(changed, json!({"leaseTransitions": 2})));
    all.create(&json!({"metadata": {"name": "labelled", "labels": {"deletecollection": "true"}}, "spec": spec})).await;
    assert_eq!(all.list("").await.len(), 2);
    all.delete_collection("deletecollection=true").await;
    let left = all.list("").await;
    assert!(left.len() == 1 && left[0]["metadata"]["name"] == "o", "{left:?}");
    all.delete("o").await;
    assert_eq!(all.try_get("o").await.expect_err("it is gone").reason, "NotFound");
}
