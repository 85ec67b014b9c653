//! StorageVersionMigrations over the real API server: what the store holds is written anew.

use k8s_openapi::api::storagemigration::v1beta1::StorageVersionMigration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keles_sim::World;
use keles_store::embedded::{Embedded, Options};
use keles_store::encrypted::{Encrypted, config};
use keles_store::{Expect, Store, Write};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::sync::Arc;

async fn text(store: &Arc<dyn Store>, key: &str) -> String {
    let entry = store.get(key.as_bytes()).await.expect("the store answers").unwrap_or_else(|| panic!("{key} is there"));
    String::from_utf8_lossy(&entry.value).into_owned()
}
async fn migrate(world: &World, name: &str, group: &str, resource: &str) {
    let object = json!({"metadata": {"name": name}, "spec": {"resource": {"group": group, "resource": resource}}});
    let api: Api<StorageVersionMigration> = Api::all(world.admin.clone());
    api.create(&PostParams::default(), &serde_json::from_value(object).expect("a migration")).await.expect("accepted");
}
fn said(all: &[Arc<StorageVersionMigration>], name: &str, kind: &str) -> Option<(String, String, String)> {
    let m = all.iter().find(|m| m.metadata.name.as_deref() == Some(name))?;
    let c = m.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)?;
    Some((c.status.clone(), c.reason.clone(), c.message.clone()))
}
fn is(all: &[Arc<StorageVersionMigration>], name: &str, kind: &str) -> bool {
    said(all, name, kind).is_some_and(|s| s.0 == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_objects_reach_the_new_storage_version_and_the_definition_forgets_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Embedded::open(&folder.path().join("store"), Options::default()).unwrap();
    let world = World::over(folder, store.clone()).await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let versions = |storage: &str| -> Vec<Value> { ["v1", "v2"].iter().map(|v| json!({"name": v, "served": true, "storage": *v == storage, "schema": schema})).collect() };
    let names = json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"});
    let definition = json!({"metadata": {"name": "widgets.sim.keles.dev"}, "spec": {"group": "sim.keles.dev", "scope": "Namespaced", "names": names, "versions": versions("v1")}});
    let definitions: Api<CustomResourceDefinition> = Api::all(world.admin.clone());
    definitions.create(&PostParams::default(), &serde_json::from_value(definition).unwrap()).await.unwrap();
    let condition = |d: &CustomResourceDefinition, kind: &str| d.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind).cloned();
    world.until::<CustomResourceDefinition>("it is served", |all| all.iter().any(|d| condition(d, "Established").is_some_and(|c| c.status == "True"))).await;

    let resource = ApiResource { group: "sim.keles.dev".into(), version: "v1".into(), api_version: "sim.keles.dev/v1".into(), kind: "Widget".into(), plural: "widgets".into() };
    let widgets: Api<DynamicObject> = Api::namespaced_with(world.admin.clone(), "default", &resource);
    for name in ["a", "b"] {
        widgets.create(&PostParams::default(), &DynamicObject::new(name, &resource).data(json!({"spec": {"n": 1}}))).await.unwrap();
    }
    definitions.patch("widgets.sim.keles.dev", &PatchParams::default(), &Patch::Merge(json!({"spec": {"versions": versions("v2")}}))).await.unwrap();
    let key = |name: &str| format!("/registry/sim.keles.dev/widgets/default/{name}");
    assert!(text(&store, &key("a")).await.contains("\"sim.keles.dev/v1\""), "nothing is rewritten by itself");

    migrate(&world, "first", "sim.keles.dev", "widgets").await;
    migrate(&world, "second", "sim.keles.dev", "widgets").await;
    world.until::<StorageVersionMigration>("both end", |all| is(all, "first", "Succeeded") && is(all, "second", "Succeeded")).await;
    for name in ["a", "b"] {
        let stored = text(&store, &key(name)).await;
        assert!(stored.starts_with("{\"kind\":\"Widget\",\"apiVersion\":\"sim.keles.dev/v2\"") && stored.contains("\"n\":1"), "{stored}");
    }
    let all = world.watch::<StorageVersionMigration>().await.list();
    assert_eq!(said(&all, "first", "Succeeded").unwrap().1, "StorageVersionMigrationSucceeded");
    assert_eq!(said(&all, "first", "Running").unwrap().0, "False");
    assert!(all.iter().all(|m| m.status.as_ref().unwrap().resource_version.as_deref().unwrap().parse::<u64>().unwrap() > 0));
    let d = definitions.get("widgets.sim.keles.dev").await.unwrap();
    assert_eq!(d.status.as_ref().unwrap().stored_versions, Some(vec!["v2".to_owned()]));
    let told = condition(&d, "StorageMigrating").unwrap();
    assert_eq!((told.status.as_str(), told.reason.as_deref()), ("False", Some("MigrationSucceeded")));
    // What was forgotten may go.
    let only = json!({"spec": {"versions": [json!({"name": "v2", "served": true, "storage": true, "schema": schema})]}});
    definitions.patch("widgets.sim.keles.dev", &PatchParams::default(), &Patch::Merge(only)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_in_the_open_is_encrypted_and_what_cannot_be_migrated_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let plain: Arc<dyn Store> = Embedded::open(&folder.path().join("store"), Options::default()).unwrap();
    let (key, secret) = ("/registry/core/secrets/default/pass", "cGxhaW4tdGV4dA==");
    let meta = "\"metadata\":{\"name\":\"pass\",\"namespace\":\"default\",\"uid\":\"5d1f0c9e-0000-4000-8000-000000000001\",\"creationTimestamp\":\"2026-01-01T00:00:00Z\"}";
    let value = format!("{{\"kind\":\"Secret\",\"apiVersion\":\"v1\",{meta},\"data\":{{\"k\":\"{secret}\"}},\"type\":\"Opaque\"}}");
    plain.write(Write::Put { key: key.as_bytes().to_vec().into(), value: value.into(), expect: Expect::Absent, ttl: None }).await.unwrap();
    let file = folder.path().join("encryption.yaml");
    let provider = "{aesgcm: {keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}}";
    std::fs::write(
        &file,
        format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: [{provider}, {{identity: {{}}}}]\n"),
    )
    .unwrap();
    let world = World::over(folder, Encrypted::new(plain.clone(), config::read(&file).unwrap())).await;
    assert!(text(&plain, key).await.contains(secret), "reading alone changes nothing");

    migrate(&world, "secrets", "", "secrets").await;
    migrate(&world, "statuses", "", "componentstatuses").await;
    world.until::<StorageVersionMigration>("both end", |all| is(all, "secrets", "Succeeded") && is(all, "statuses", "Failed")).await;
    let stored = text(&plain, key).await;
    assert!(stored.starts_with("k8s:enc:aesgcm:v1:key1:") && !stored.contains(secret), "{stored}");
    let all = world.watch::<StorageVersionMigration>().await.list();
    let (_, reason, message) = said(&all, "statuses", "Failed").unwrap();
    assert_eq!((reason.as_str(), message.as_str()), ("StorageVersionMigrationFailed", "resource componentstatuses cannot be migrated: it does not support patch"));
    assert_eq!(said(&all, "statuses", "Running"), None, "it never began");
}
