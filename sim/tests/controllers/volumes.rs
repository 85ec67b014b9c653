//! Claims and volumes over the real API server: binding, protection, release, ephemeral claims.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use keles_sim::World;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use std::sync::Arc;

async fn volume(world: &World, name: &str, extra: Value) {
    let mut spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/x"}});
    spec.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a volume");
    Api::all(world.admin.clone()).create(&PostParams::default(), &volume).await.expect("the volume is accepted");
}
async fn claim(world: &World, name: &str, class: Value) {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "1Mi"}}});
    world.create::<PersistentVolumeClaim>(json!({"metadata": {"name": name}, "spec": spec})).await;
}
fn claim_is(claims: &[Arc<PersistentVolumeClaim>], name: &str, phase: &str) -> bool {
    claims.iter().any(|claim| claim.metadata.name.as_deref() == Some(name) && claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase))
}
fn volume_is(volumes: &[Arc<PersistentVolume>], name: &str, phase: &str) -> bool {
    volumes.iter().any(|volume| volume.metadata.name.as_deref() == Some(name) && volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase))
}
fn using(name: &str, volume: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "v1"}], "volumes": [volume]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_bound_kept_while_used_and_its_volume_released_and_not_recycled() {
    let world = World::start().await;
    world.node("n1").await;
    claim(&world, "c", json!("")).await;
    world.until::<PersistentVolumeClaim>("it waits", |claims| claim_is(claims, "c", "Pending")).await;
    world.create::<Pod>(using("p", json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}))).await;
    volume(&world, "v", json!({"persistentVolumeReclaimPolicy": "Recycle"})).await;
    world.until::<PersistentVolumeClaim>("it is bound", |claims| claim_is(claims, "c", "Bound")).await;
    world.until::<PersistentVolume>("the volume too", |volumes| volume_is(volumes, "v", "Bound")).await;
    world.until::<Pod>("the pod goes on", |pods| pods.iter().any(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()))).await;
    world.api::<PersistentVolumeClaim>().delete("c", &DeleteParams::default()).await.expect("deleted");
    world.until::<PersistentVolumeClaim>("the claim is to go", |claims| claims.iter().all(|claim| claim.metadata.deletion_timestamp.is_some())).await;
    assert!(world.api::<PersistentVolumeClaim>().get("c").await.is_ok(), "a pod uses it");
    world.api::<Pod>().delete("p", &DeleteParams::default()).await.expect("deleted");
    world.until::<PersistentVolumeClaim>("the claim goes with the pod", |claims| claims.is_empty()).await;
    let failed = |volumes: &[Arc<PersistentVolume>]| {
        let message = |volume: &PersistentVolume| volume.status.as_ref().and_then(|status| status.message.clone());
        volume_is(volumes, "v", "Failed") && volumes.iter().any(|volume| message(volume).as_deref() == Some("No recycler plugin found for the volume!"))
    };
    world.until::<PersistentVolume>("recycling is refused", failed).await;
    Api::<PersistentVolume>::all(world.admin.clone()).delete("v", &DeleteParams::default()).await.expect("deleted");
    world.until::<PersistentVolume>("an unbound volume goes", |volumes| volumes.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_without_a_class_gets_the_default_and_an_external_provisioner_is_asked() {
    let world = World::start().await;
    claim(&world, "c", Value::Null).await;
    let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let class: StorageClass = serde_json::from_value(json!({"metadata": {"name": "d", "annotations": annotations}, "provisioner": "d.example"})).expect("a class");
    Api::all(world.admin.clone()).create(&PostParams::default(), &class).await.expect("the class is accepted");
    let asked = |claims: &[Arc<PersistentVolumeClaim>]| {
        claims.iter().any(|claim| {
            let by = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get("volume.kubernetes.io/storage-provisioner"));
            claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) == Some("d") && by.map(String::as_str) == Some("d.example")
        })
    };
    world.until::<PersistentVolumeClaim>("the provisioner is asked", asked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_claim_waits_for_its_pods_node_and_goes_with_the_pod() {
    let world = World::start().await;
    world.node("n1").await;
    let class = json!({"metadata": {"name": "waits"}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"});
    let class: StorageClass = serde_json::from_value(class).expect("a class");
    Api::all(world.admin.clone()).create(&PostParams::default(), &class).await.expect("the class is accepted");
    volume(&world, "v", json!({"storageClassName": "waits"})).await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "waits", "resources": {"requests": {"storage": "1Mi"}}});
    world.create::<Pod>(using("p", json!({"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": spec}}}))).await;
    world.until::<PersistentVolumeClaim>("the pod's claim is bound", |claims| claim_is(claims, "p-e", "Bound")).await;
    world.until::<Pod>("the pod has its node", |pods| pods.iter().any(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()))).await;
    world.api::<Pod>().delete("p", &DeleteParams::default()).await.expect("deleted");
    world.until::<PersistentVolumeClaim>("the claim goes with its pod", |claims| claims.is_empty()).await;
    world.until::<PersistentVolume>("the volume is released", |volumes| volume_is(volumes, "v", "Released")).await;
}
