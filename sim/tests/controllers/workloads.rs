//! Deployments and ReplicaSets, from the write to pods and endpoints, over the real API server.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keles_client::Change;
use keles_sim::World;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]}})
}
fn deployment(replicas: u32) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("v1")}})
}
fn image(image: &str) -> Value {
    json!({"spec": {"template": template(image)}})
}
fn is_done(deployment: &Deployment, replicas: i32) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let progressed = status.conditions.iter().flatten().any(|c| c.type_ == "Progressing" && c.reason.as_deref() == Some("NewReplicaSetAvailable"));
    progressed
        && status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == Some(replicas)
        && status.available_replicas == Some(replicas)
        && status.replicas == Some(replicas)
}
async fn rolled_out(world: &World, replicas: i32) {
    world.until::<Deployment>("the rollout is done", |list| list.first().is_some_and(|d| is_done(d, replicas))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_runs_is_reached_through_slices_scales_and_rolls_back() {
    let world = World::start().await;
    world.node("n1").await;
    world.create::<Deployment>(deployment(3)).await;
    world.create::<Service>(json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}})).await;
    rolled_out(&world, 3).await;
    let ready_endpoints = |slices: &[Arc<EndpointSlice>]| {
        let of_web = slices.iter().filter(|s| s.metadata.name.as_deref().is_some_and(|name| name.starts_with("web-")));
        of_web
            .filter(|s| s.ports.iter().flatten().any(|p| p.port == Some(8080)))
            .flat_map(|s| s.endpoints.iter().flatten())
            .filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)))
            .count()
    };
    world.until::<EndpointSlice>("three endpoints are ready", |slices| ready_endpoints(slices) == 3).await;
    world.patch::<Deployment>("web", json!({"spec": {"replicas": 5}})).await;
    rolled_out(&world, 5).await;
    world.until::<EndpointSlice>("five endpoints are ready", |slices| ready_endpoints(slices) == 5).await;
    world.patch::<Deployment>("web", image("v2")).await;
    rolled_out(&world, 5).await;
    world.patch::<Deployment>("web", image("v1")).await;
    rolled_out(&world, 5).await;
    let sets = world.watch::<ReplicaSet>().await.list();
    assert_eq!(sets.len(), 2, "going back reuses the first set");
    let deployment = world.watch::<Deployment>().await.list().remove(0);
    assert_eq!(deployment.metadata.annotations.as_ref().and_then(|a| a.get("deployment.kubernetes.io/revision")).map(String::as_str), Some("3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_of_broken_pods_stops_and_leaves_the_old_ones_serving() {
    let world = World::start().await;
    world.node("n1").await;
    world.create::<Deployment>(deployment(4)).await;
    rolled_out(&world, 4).await;
    world.patch::<Deployment>("web", image("broken")).await;
    let ready = |pods: &[Arc<Pod>], image: &str| pods.iter().filter(|p| p.spec.as_ref().is_some_and(|s| s.containers[0].image.as_deref() == Some(image))).count();
    // 25 % of 4: one more at most, one fewer at most.
    world.until::<Pod>("two broken pods beside three good ones", |pods| ready(pods, "broken") == 2 && ready(pods, "v1") == 3).await;
    world.patch::<Deployment>("web", image("v3")).await;
    rolled_out(&world, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_caches_make_no_duplicate_pods_and_a_shrinking_set_deletes_no_more_than_it_must() {
    const PODS: usize = 300;
    let world = World::start().await;
    world.node("n1").await;
    world.node("n2").await;
    let (added, deleted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (a, d) = (added.clone(), deleted.clone());
    world.watch::<Pod>().await.on_change(move |change| match change {
        Change::Added(_) => _ = a.fetch_add(1, Ordering::SeqCst),
        Change::Deleted(_) => _ = d.fetch_add(1, Ordering::SeqCst),
        Change::Modified { .. } => {}
    });
    let start = Instant::now();
    let set = json!({"metadata": {"name": "web"}, "spec": {"replicas": PODS, "selector": {"matchLabels": {"app": "web"}}, "template": template("v1")}});
    world.create::<ReplicaSet>(set).await;
    let ready = |sets: &[Arc<ReplicaSet>], count: i32| sets.first().and_then(|s| s.status.as_ref()).is_some_and(|s| s.ready_replicas == Some(count) && s.replicas == count);
    world.until::<ReplicaSet>("all pods are ready", |sets| ready(sets, PODS as i32)).await;
    println!("{PODS} pods created, scheduled and ready in {:.2} s (debug build)", start.elapsed().as_secs_f64());
    assert_eq!(added.load(Ordering::SeqCst), PODS, "lesson 125");
    world.patch::<ReplicaSet>("web", json!({"spec": {"replicas": 100}})).await;
    world.until::<ReplicaSet>("a hundred are left", |sets| ready(sets, 100)).await;
    // Callbacks run after the list shows a change.
    world.until::<Pod>("the others are gone", |pods| pods.len() == 100 && deleted.load(Ordering::SeqCst) >= PODS - 100).await;
    assert_eq!((added.load(Ordering::SeqCst), deleted.load(Ordering::SeqCst)), (PODS, PODS - 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_pod_shows_as_replica_failure_until_it_is_accepted() {
    let world = World::start().await;
    world.node("n1").await;
    let mut template = template("v1");
    template["spec"]["serviceAccountName"] = json!("later");
    let set = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    world.create::<ReplicaSet>(set).await;
    let failure = |sets: &[Arc<ReplicaSet>]| sets.first().and_then(|s| s.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "ReplicaFailure").cloned());
    world.until::<ReplicaSet>("the refusal shows", |sets| failure(sets).is_some_and(|c| c.reason.as_deref() == Some("FailedCreate"))).await;
    world.create::<ServiceAccount>(json!({"metadata": {"name": "later"}})).await;
    world.until::<ReplicaSet>("the failure is cleared (lesson 136)", |sets| failure(sets).is_none() && sets[0].status.as_ref().is_some_and(|s| s.ready_replicas == Some(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_written_endpoints_are_mirrored_and_the_apiservers_own_are_not() {
    let world = World::start().await;
    world.create::<Service>(json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}})).await;
    world.create::<Endpoints>(json!({"metadata": {"name": "db"}, "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}]})).await;
    let addresses = |slices: &[Arc<EndpointSlice>], service: &str| {
        let of_service = slices.iter().filter(|s| s.metadata.labels.as_ref().is_some_and(|l| l.get("kubernetes.io/service-name").is_some_and(|name| name == service)));
        of_service.flat_map(|s| s.endpoints.iter().flatten()).flat_map(|e| e.addresses.clone()).collect::<Vec<_>>()
    };
    world.until::<EndpointSlice>("the slice mirrors them", |slices| addresses(slices, "db") == ["192.0.2.7"]).await;
    world.patch::<Endpoints>("db", json!({"subsets": [{"addresses": [{"ip": "192.0.2.8"}], "ports": [{"port": 5432}]}]})).await;
    world.until::<EndpointSlice>("the slice follows", |slices| addresses(slices, "db") == ["192.0.2.8"]).await;
    world.api::<Service>().delete("db", &Default::default()).await.unwrap();
    world.until::<EndpointSlice>("the slice is gone", |slices| addresses(slices, "db").is_empty() && addresses(slices, "kubernetes").len() <= 1).await;
}
