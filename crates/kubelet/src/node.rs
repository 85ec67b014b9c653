//! The Node object: registration, status, and the lease that says the node is alive.
//!
//! Entry points: [`run_status`], [`run_lease`], two tasks: a slow status write must not let the lease lapse. The status is written when it
//! changed, and every [`REPORT_EVERY`] at the latest.

use crate::agent::Agent;
use crate::conditions_time;
use crate::devices::Devices;
use crate::events::NORMAL;
use crate::eviction::{Condition, Pressure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use keles_runtime::api::Handler;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often the status is compared with what the API was told, and told without a change (upstream's figures).
const CHECK_EVERY: Duration = Duration::from_secs(10);
const REPORT_EVERY: Duration = Duration::from_secs(300);
const LEASE_EVERY: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(5);
/// Images shown in the status (upstream's limit).
const MAX_IMAGES: usize = 50;
const MAX_IMAGE_NAMES: usize = 5;

/// Registers the node and keeps its status; `port` is where the agent's API listens.
pub async fn run_status(agent: Arc<Agent>, port: u16, registered: tokio::sync::watch::Sender<Option<String>>, stop: CancellationToken) {
    let api: Api<Node> = Api::all(agent.client.clone());
    let mut node = loop_until(&stop, || register(&api, &agent, port)).await;
    let Some(mut node) = node.take() else { return };
    let _ = registered.send(node.metadata.uid.clone());
    agent.events.node(&agent.config.node_name, NORMAL, "Starting", "Starting kubelet.");
    let mut told: Option<Value> = None;
    let mut told_at = Instant::now();
    let mut ticks = tokio::time::interval(CHECK_EVERY);
    let mut pressure = agent.pressure.subscribe();
    let mut in_use = agent.csi.in_use();
    let mut devices = agent.placement.devices.changes();
    let mut shutting_down = agent.shutting_down.subscribe();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = pressure.changed() => {}
            Ok(()) = in_use.changed() => {}
            Ok(()) = devices.changed() => {}
            Ok(()) = shutting_down.changed() => {}
            () = stop.cancelled() => return,
        }
        let used: BTreeSet<String> = in_use.borrow_and_update().keys().cloned().collect();
        let mut status = status(&agent, port, &node).await;
        status["volumesInUse"] = json!(used);
        if told.as_ref() == Some(&without_heartbeat(&status)) && told_at.elapsed() < REPORT_EVERY {
            continue;
        }
        match api.patch_status(&agent.config.node_name, &PatchParams::default(), &Patch::Strategic(json!({"status": status}))).await {
            Ok(updated) => {
                if told.is_none() {
                    agent.events.node(&agent.config.node_name, NORMAL, "NodeReady", format!("Node {} status is now: NodeReady", agent.config.node_name));
                }
                node = updated;
                told = Some(without_heartbeat(&status));
                told_at = Instant::now();
                // Only now may they be mounted: nobody detaches what is in use.
                agent.csi.was_reported(used);
            }
            Err(kube::Error::Api(refusal)) if refusal.code == 404 => {
                // Someone deleted the node: it is still here, so it comes back.
                if let Some(again) = loop_until(&stop, || register(&api, &agent, port)).await {
                    let _ = registered.send(again.metadata.uid.clone());
                    node = again;
                }
                told = None;
                ticks.reset_immediately();
            }
            Err(error) => {
                tracing::warn!(%error, "node status not written, will be tried again");
                ticks.reset_after(FIRST_RETRY * 5);
            }
        }
    }
}

async fn loop_until<T, F: Future<Output = Result<T, kube::Error>>>(stop: &CancellationToken, work: impl Fn() -> F) -> Option<T> {
    let mut retry = FIRST_RETRY;
    loop {
        let result = tokio::select! { result = work() => result, () = stop.cancelled() => return None };
        match result {
            Ok(value) => return Some(value),
            Err(error) => {
                tracing::info!(%error, "the API does not take the node yet");
                tokio::select! { () = tokio::time::sleep(retry) => {}, () = stop.cancelled() => return None }
                retry = (retry * 2).min(MAX_RETRY);
            }
        }
    }
}

fn labels(agent: &Agent) -> Value {
    let arch = crate::node_facts::architecture();
    let mut labels = json!({
        "kubernetes.io/hostname": agent.config.node_name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": arch,
    });
    for (key, value) in &agent.config.labels {
        labels[key] = json!(value);
    }
    labels
}

/// All labels of the node, as admission compares them.
pub fn label_map(agent: &Agent) -> std::collections::BTreeMap<String, String> {
    serde_json::from_value(labels(agent)).unwrap_or_default()
}

async fn register(api: &Api<Node>, agent: &Agent, port: u16) -> Result<Node, kube::Error> {
    let name = &agent.config.node_name;
    let fresh = Node { metadata: ObjectMeta { name: Some(name.clone()), ..Default::default() }, ..Default::default() };
    let metadata = json!({
        "name": name,
        "labels": labels(agent),
        "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
    });
    let whole = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": agent.config.taints}, "status": status(agent, port, &fresh).await});
    let node: Node = serde_json::from_value(whole).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(refusal)) if refusal.code == 409 => {
            let patch = json!({"metadata": {"labels": labels(agent)}});
            let known: Node = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            match without_lost(&known, &agent.placement.devices) {
                Some(patch) => api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await,
                None => Ok(known),
            }
        }
        other => other,
    }
}

/// Sets to zero, once, what an earlier node of this name had of plugins' resources; others may say otherwise after that.
fn without_lost(known: &Node, devices: &Devices) -> Option<Value> {
    let capacity = known.status.as_ref()?.capacity.as_ref()?;
    let lost = devices.lost(capacity.iter().filter(|(_, amount)| amount.0 != "0").map(|(name, _)| name));
    let zeros: BTreeMap<&String, &str> = lost.into_iter().map(|name| (name, "0")).collect();
    (!zeros.is_empty()).then(|| json!({"status": {"capacity": zeros, "allocatable": zeros}}))
}

/// The whole status; what others put into capacity (extended resources) is not named and so stays.
async fn status(agent: &Agent, port: u16, node: &Node) -> Value {
    let addresses = agent.config.node_ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() });
    let handler =
        |handler: &Handler| json!({"name": handler.name, "features": {"recursiveReadOnlyMounts": handler.recursive_read_only_mounts, "userNamespaces": handler.user_namespaces}});
    let handlers: Vec<Value> = agent.features.handlers.iter().map(handler).collect();
    let shutting_down = *agent.shutting_down.borrow();
    let not_ready = if shutting_down { Some("node is shutting down".into()) } else { agent.runtime.not_ready().await };
    // A runtime that does not answer is not asked again: this report would wait for minutes.
    let node_images = match not_ready {
        Some(_) if !shutting_down => json!(node.status.as_ref().and_then(|status| status.images.as_ref())),
        _ => json!(images(agent).await),
    };
    let addresses: Vec<_> = addresses.chain([NodeAddress { type_: "Hostname".into(), address: agent.config.node_name.clone() }]).collect();
    json!({
        "capacity": with_devices(agent.facts.capacity(), agent, |(all, _)| all),
        "allocatable": with_devices(agent.facts.allocatable(), agent, |(_, healthy)| healthy),
        "conditions": conditions(node, &agent.pressure.borrow(), not_ready.as_deref()),
        "addresses": addresses,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": node_info(&agent.facts.info),
        "images": node_images,
        // What the runtime can do, by RuntimeClass handler; the empty one is the default.
        "runtimeHandlers": handlers,
        "features": {"supplementalGroupsPolicy": agent.features.supplemental_groups_policy},
        "declaredFeatures": declared_features(agent.placement.has_static_cpus()),
    })
}

/// A merge patch takes away only what it names, so that a node whose swap was switched off says so.
fn node_info(info: &NodeSystemInfo) -> Value {
    let mut shown = json!(info);
    if info.swap.is_none() {
        shown["swap"] = Value::Null;
    }
    shown
}

/// What this node can of what others of v1.36 may not (KEP-5328), sorted.
fn declared_features(has_static_cpus: bool) -> Vec<&'static str> {
    let resizes_guaranteed = (!has_static_cpus).then_some("GuaranteedQoSPodCPUResize");
    resizes_guaranteed.into_iter().chain(["InPlacePodLevelResourcesVerticalScaling", "RestartAllContainersOnContainerExits"]).collect()
}

fn with_devices(mut figures: BTreeMap<String, String>, agent: &Agent, figure: impl Fn((usize, usize)) -> usize) -> BTreeMap<String, String> {
    figures.extend(agent.placement.devices.counts().into_iter().map(|(name, counts)| (name, figure(counts).to_string())));
    figures
}

fn without_heartbeat(status: &Value) -> Value {
    let mut status = status.clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        condition["lastHeartbeatTime"] = Value::Null;
    }
    status
}

fn conditions(node: &Node, pressure: &Pressure, not_ready: Option<&str>) -> Vec<NodeCondition> {
    let row = |condition: Condition| match (condition, pressure.contains(&condition)) {
        (Condition::Memory, false) => ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        (Condition::Memory, true) => ("MemoryPressure", "True", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        (Condition::Disk, false) => ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        (Condition::Disk, true) => ("DiskPressure", "True", "KubeletHasDiskPressure", "kubelet has disk pressure"),
        (Condition::Pid, false) => ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        (Condition::Pid, true) => ("PIDPressure", "True", "KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    };
    let ready = match not_ready {
        None => ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        Some(why) => ("Ready", "False", "KubeletNotReady", why),
    };
    let rows = [row(Condition::Memory), row(Condition::Disk), row(Condition::Pid), ready];
    let now = conditions_time(Timestamp::now());
    let old = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let condition = |(kind, status, reason, message): (&str, &str, &str, &str)| {
        let same = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: same.and_then(|condition| condition.last_transition_time.clone()).or_else(|| Some(now.clone())),
        }
    };
    rows.into_iter().map(condition).collect()
}

/// The largest images first.
async fn images(agent: &Agent) -> Vec<Value> {
    let mut images = agent.images.list().await.unwrap_or_default();
    images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    images.truncate(MAX_IMAGES);
    let names = |image: &crate::image_store::NodeImage| -> Vec<String> { image.digests.iter().chain(&image.tags).take(MAX_IMAGE_NAMES).cloned().collect() };
    images.iter().map(|image| json!({"names": names(image), "sizeBytes": image.size_bytes})).collect()
}

/// Renews the node's lease; begins once the node is registered, whose uid owns it.
pub async fn run_lease(agent: Arc<Agent>, mut registered: tokio::sync::watch::Receiver<Option<String>>, stop: CancellationToken) {
    let uid = tokio::select! {
        uid = registered.wait_for(Option::is_some) => uid.ok().and_then(|uid| uid.clone()),
        () = stop.cancelled() => None,
    };
    let Some(uid) = uid else { return };
    let api: Api<Lease> = Api::namespaced(agent.client.clone(), LEASE_NAMESPACE);
    let mut retry = FIRST_RETRY;
    loop {
        let pause = match renew(&api, &agent.config.node_name, &uid).await {
            Ok(()) => {
                retry = FIRST_RETRY;
                LEASE_EVERY
            }
            Err(error) => {
                tracing::info!(%error, "node lease not renewed, will be tried again");
                retry = (retry * 2).min(MAX_RETRY);
                retry
            }
        };
        tokio::select! { () = tokio::time::sleep(pause) => {}, () = stop.cancelled() => return }
    }
}

async fn renew(api: &Api<Lease>, node: &str, uid: &str) -> Result<(), kube::Error> {
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}});
    match api.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(refusal)) if refusal.code == 404 => {}
        other => return other.map(drop),
    }
    let owner = OwnerReference { api_version: "v1".into(), kind: "Node".into(), name: node.into(), uid: uid.into(), ..Default::default() };
    let lease = Lease {
        metadata: ObjectMeta { name: Some(node.into()), namespace: Some(LEASE_NAMESPACE.into()), owner_references: Some(vec![owner]), ..Default::default() },
        spec: Some(LeaseSpec { holder_identity: Some(node.into()), lease_duration_seconds: Some(LEASE_SECONDS), renew_time: Some(now), ..Default::default() }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}
