//! Deletion of owners and namespaces over the real API server.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use keles_sim::{ROOT_CA, World};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::sync::Arc;

fn deployment() -> Value {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}});
    json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}})
}
async fn running() -> World {
    let world = World::start().await;
    world.node("n1").await;
    world.create::<Deployment>(deployment()).await;
    world.until::<ReplicaSet>("both pods are ready", |sets| sets.first().and_then(|s| s.status.as_ref()).is_some_and(|s| s.ready_replicas == Some(2))).await;
    world
}
fn named<'o, K: kube::Resource>(objects: &'o [Arc<K>], namespace: &str, name: &str) -> Option<&'o Arc<K>> {
    objects.iter().find(|o| o.meta().namespace.as_deref().unwrap_or("") == namespace && o.meta().name.as_deref() == Some(name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_of_a_deleted_owner_are_collected_in_the_background() {
    let world = running().await;
    world.api::<Deployment>().delete("web", &DeleteParams::background()).await.unwrap();
    world.until::<Pod>("no pod is left", |pods| pods.is_empty()).await;
    world.until::<ReplicaSet>("no set is left", |sets| sets.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreground_deletion_ends_only_after_its_dependents() {
    let world = running().await;
    let (pods, sets) = (world.watch::<Pod>().await, world.watch::<ReplicaSet>().await);
    let deployments = world.watch::<Deployment>().await;
    let (seen, left) = tokio::sync::oneshot::channel();
    let seen = std::sync::Mutex::new(Some(seen));
    deployments.on_change(move |change| {
        if let keles_client::Change::Deleted(_) = change
            && let Some(seen) = seen.lock().unwrap().take()
        {
            let _ = seen.send(());
        }
    });
    world.api::<Deployment>().delete("web", &DeleteParams::foreground()).await.unwrap();
    left.await.unwrap();
    let api_sets = world.api::<ReplicaSet>().list(&Default::default()).await.unwrap().items;
    let api_pods = world.api::<Pod>().list(&Default::default()).await.unwrap().items;
    assert!(api_sets.is_empty() && api_pods.is_empty(), "dependents first: {api_sets:?} {api_pods:?}");
    drop((pods, sets));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphaned_dependents_stay_and_are_adopted_again() {
    let world = running().await;
    world.api::<Deployment>().delete("web", &DeleteParams::orphan()).await.unwrap();
    world.until::<Deployment>("the owner is gone", |deployments| deployments.is_empty()).await;
    let set = world.api::<ReplicaSet>().list(&Default::default()).await.unwrap().items.remove(0);
    assert_eq!(set.metadata.owner_references, None, "the set stays, without owner, once the owner is gone (lesson 127)");
    let again: Deployment = world.create(deployment()).await;
    world
        .until::<ReplicaSet>("the new Deployment adopts the set", |sets| {
            sets.len() == 1 && sets[0].metadata.owner_references.iter().flatten().any(|o| Some(&o.uid) == again.metadata.uid.as_ref())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_is_emptied_pods_first_waits_for_finalizers_and_says_so() {
    let world = World::start().await;
    world.node("n1").await;
    let namespaces: Api<Namespace> = Api::all(world.admin.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "doomed"}})).unwrap()).await.unwrap();
    world.until::<ServiceAccount>("the namespace has its account", |accounts| named(accounts, "doomed", "default").is_some()).await;
    let maps: Api<ConfigMap> = Api::namespaced(world.admin.clone(), "doomed");
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    maps.create(&PostParams::default(), &serde_json::from_value(held).unwrap()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(world.admin.clone(), "doomed");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "v1"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    world.until::<Pod>("the pod runs", |pods| pods.iter().any(|p| p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running")))).await;
    namespaces.delete("doomed", &DeleteParams::default()).await.unwrap();
    let says = |namespaces: &[Arc<Namespace>]| {
        let status = named(namespaces, "", "doomed").and_then(|n| n.status.clone()).unwrap_or_default();
        let message = status.conditions.iter().flatten().find(|c| c.type_ == "NamespaceFinalizersRemaining" && c.status == "True").and_then(|c| c.message.clone());
        message.as_deref() == Some("Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances")
    };
    world.until::<Namespace>("the conditions name what is left", says).await;
    world.until::<Pod>("the pod is gone", |pods| pods.is_empty()).await;
    maps.patch("held", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await.unwrap();
    world.until::<Namespace>("the namespace is gone", |namespaces| named(namespaces, "", "doomed").is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_namespace_has_a_default_account_and_the_root_ca_whatever_happens_to_them() {
    let world = World::start().await;
    world.until::<ServiceAccount>("the account is made", |accounts| named(accounts, "default", "default").is_some()).await;
    let right = |maps: &[Arc<ConfigMap>]| named(maps, "default", "kube-root-ca.crt").is_some_and(|map| map.data.as_ref().is_some_and(|data| data["ca.crt"] == ROOT_CA));
    world.until::<ConfigMap>("the CA is published", right).await;
    let first = world.api::<ConfigMap>().get("kube-root-ca.crt").await.unwrap().metadata;
    world.patch::<ConfigMap>("kube-root-ca.crt", json!({"data": {"ca.crt": "other"}})).await;
    world
        .until::<ConfigMap>("a modified CA is put right (lesson 72)", |maps| {
            right(maps) && named(maps, "default", "kube-root-ca.crt").unwrap().metadata.resource_version != first.resource_version
        })
        .await;
    world.api::<ConfigMap>().delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    world.until::<ConfigMap>("a deleted CA is made again", |maps| right(maps) && named(maps, "default", "kube-root-ca.crt").unwrap().metadata.uid != first.uid).await;
    let account = world.api::<ServiceAccount>().get("default").await.unwrap().metadata.uid;
    world.api::<ServiceAccount>().delete("default", &DeleteParams::default()).await.unwrap();
    world.until::<ServiceAccount>("a deleted account is made again", |accounts| named(accounts, "default", "default").is_some_and(|a| a.metadata.uid != account)).await;
}
