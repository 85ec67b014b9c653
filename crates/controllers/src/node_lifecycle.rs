//! Nodes that fall silent: their conditions turn Unknown, their taints say so, their pods count as not ready.
//!
//! What a node last said is its Lease and its Ready condition's heartbeat; silence is measured on our own clock from when we saw these change, so
//! clocks need not agree. Taints from conditions and from `spec.unschedulable` are kept here too. The eviction itself is `taint_eviction`.
//! Deliberately absent: zones and their eviction rates.

use crate::Start;
use crate::pod_gc::{index_by_node, pods_of_node};
use jiff::{Timestamp, Unit};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keles_client::{Informer, ObjectKey, Scope};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer, reference_of};
use keles_rules::readiness::{is_ready, is_terminal};
use kube::api::Patch;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const LEASE_NAMESPACE: &str = "kube-node-lease";
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Condition, the value that is bad, its taint.
const CONDITION_TAINTS: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const WATCHED_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub struct NodeLifecycleController {
    nodes: Writer<Node>,
    pods: Writer<Pod>,
    leases: Informer<Lease>,
    grace: Duration,
    /// What each node last said, and when we saw that.
    heard: Mutex<HashMap<String, (String, Instant)>>,
}

impl NodeLifecycleController {
    pub fn new(start: &Start) -> Self {
        let pods: Writer<Pod> = start.writer();
        index_by_node(pods.informer());
        let leases = start.informers.scoped(Scope::namespace(LEASE_NAMESPACE));
        NodeLifecycleController { nodes: start.writer(), pods, leases, grace: start.options.node_grace, heard: Mutex::default() }
    }

    /// How long the node has been silent.
    fn silent_for(&self, node: &Node) -> Duration {
        let name = node.metadata.name.clone().unwrap_or_default();
        let renewal = self.leases.get(LEASE_NAMESPACE, &name).and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        // A condition that this controller wrote is not the node speaking.
        let heartbeat = condition(node, "Ready").filter(|ready| ready.status != "Unknown").and_then(|ready| ready.last_heartbeat_time.as_ref().map(|time| time.0));
        let word = format!("{renewal:?} {heartbeat:?}");
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = heard.entry(name).or_insert_with(|| (word.clone(), Instant::now()));
        if entry.0 != word {
            *entry = (word, Instant::now());
        }
        entry.1.elapsed()
    }

    async fn mark_pods_not_ready(&self, node: &str, context: &Context) -> Result<(), ReconcileError> {
        for pod in pods_of_node(self.pods.informer(), node).iter().filter(|pod| is_ready(pod) && !is_terminal(pod)) {
            let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": second(Timestamp::now())});
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            match self.pods.patch_status(&ObjectKey::of(pod.as_ref()), &Patch::Strategic(patch)).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => context.events.warning(reference_of(pod.as_ref()), "NodeNotReady", "Node is not ready"),
            }
        }
        Ok(())
    }
}

impl Controller for NodeLifecycleController {
    const NAME: &'static str = "node-lifecycle-controller";
    const WORKERS: usize = 4;

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.nodes.informer());
        watches.on(&self.leases, |change, queue| queue.add(ObjectKey::cluster(change.object().metadata.name.clone().unwrap_or_default())));
        watches.reads(self.pods.informer());
    }

    async fn reconcile(&self, key: &ObjectKey, context: &Context) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.nodes.informer().get_key(key) else {
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
            return Ok(Outcome::Done);
        };
        let silent = self.silent_for(&node);
        let mut node = node.as_ref().clone();
        if silent >= self.grace
            && let Some(conditions) = unknown_conditions(&node, Timestamp::now())
        {
            let patch = json!({"status": {"conditions": conditions}});
            node = self.nodes.patch_status(key, &Patch::Strategic(patch)).await?;
            context.events.normal(reference_of(&node), "NodeNotReady", format!("Node {} status is now: NodeNotReady", key.name));
        }
        let taints = wanted_taints(&node, Timestamp::now());
        if let Some(taints) = taints {
            // The whole list, guarded by the revision it was made from.
            let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
            node = self.nodes.patch(key, &Patch::Merge(patch)).await?;
        }
        if condition(&node, "Ready").is_some_and(|ready| ready.status != "True") {
            self.mark_pods_not_ready(&key.name, context).await?;
        }
        Ok(Outcome::After(self.grace.saturating_sub(silent).max(Duration::from_secs(1)))).map(|outcome| if silent >= self.grace { Outcome::Done } else { outcome })
    }
}

fn condition<'n>(node: &'n Node, kind: &str) -> Option<&'n NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}
fn second(now: Timestamp) -> Time {
    Time(now.round(Unit::Second).unwrap_or(now))
}

/// The conditions of a silent node, or `None` when they say so already.
fn unknown_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let changed: Vec<NodeCondition> = WATCHED_CONDITIONS
        .iter()
        .filter_map(|kind| match condition(node, kind) {
            Some(held) if held.status == "Unknown" => None,
            Some(held) => Some(NodeCondition {
                status: "Unknown".into(),
                reason: Some("NodeStatusUnknown".into()),
                message: Some("Kubelet stopped posting node status.".into()),
                last_transition_time: Some(second(now)),
                ..held.clone()
            }),
            None => Some(NodeCondition {
                type_: (*kind).into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_transition_time: Some(second(now)),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
            }),
        })
        .collect();
    (!changed.is_empty()).then_some(changed)
}

/// The node's taints as its conditions ask for, or `None` when they are so. Taints of others stay, with their times.
fn wanted_taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let held = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => {}
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        _ => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
    }
    wanted.extend(CONDITION_TAINTS.iter().filter(|(kind, bad, _)| condition(node, kind).is_some_and(|c| c.status == *bad)).map(|(_, _, key)| (*key, "NoSchedule")));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |taint: &Taint| {
        let by_condition = CONDITION_TAINTS.iter().any(|(_, _, key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
        (by_condition && taint.effect == "NoSchedule") || (matches!(taint.key.as_str(), NOT_READY | UNREACHABLE) && taint.effect != "PreferNoSchedule")
    };
    let is_wanted = |taint: &Taint| wanted.iter().any(|(key, effect)| *key == taint.key && *effect == taint.effect);
    let mut taints: Vec<Taint> = held.iter().filter(|taint| !ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            taints.push(Taint { key: (*key).into(), effect: (*effect).into(), time_added: Some(second(now)), value: None });
        }
    }
    (taints != held).then_some(taints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str, spec: serde_json::Value) -> Node {
        let conditions = json!([{"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": "True"}]);
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}})).expect("a node")
    }
    fn keys(taints: &[Taint]) -> Vec<String> {
        taints.iter().map(|taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect)).collect()
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let now = Timestamp::UNIX_EPOCH;
        let foreign = json!({"taints": [{"key": "mine", "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoExecute"}], "unschedulable": true});
        let ready = wanted_taints(&node("True", foreign.clone()), now).expect("a change");
        assert_eq!(keys(&ready), ["mine:NoExecute", "disk-pressure:NoSchedule", "unschedulable:NoSchedule"]);
        let not_ready = wanted_taints(&node("False", json!({})), now).expect("a change");
        assert_eq!(keys(&not_ready), ["not-ready:NoSchedule", "not-ready:NoExecute", "disk-pressure:NoSchedule"]);
        let silent = wanted_taints(&node("Unknown", json!({})), now).expect("a change");
        assert_eq!(keys(&silent)[..2], ["unreachable:NoSchedule", "unreachable:NoExecute"]);
        let settled = node("Unknown", json!({"taints": silent}));
        assert!(wanted_taints(&settled, now).is_none(), "nothing to change, nothing written");
    }

    #[test]
    fn a_silent_node_gets_unknown_conditions_once() {
        let mut node = node("True", json!({}));
        let conditions = unknown_conditions(&node, Timestamp::UNIX_EPOCH).expect("a change");
        let reasons: Vec<&str> = conditions.iter().filter_map(|c| c.reason.as_deref()).collect();
        assert_eq!(reasons, ["NodeStatusUnknown", "NodeStatusNeverUpdated", "NodeStatusUnknown", "NodeStatusNeverUpdated"]);
        node.status.as_mut().expect("a status").conditions = Some(conditions);
        assert!(unknown_conditions(&node, Timestamp::UNIX_EPOCH).is_none());
    }
}
