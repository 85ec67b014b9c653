//! Pods that nobody else will remove: those of nodes that are gone, and those deleted before they had a node.
//!
//! Deliberately absent: the limit on finished pods (12,500 upstream).

use crate::Start;
use k8s_openapi::api::core::v1::{Node, Pod};
use keles_client::{Change, Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use keles_rules::readiness::is_terminal;
use kube::api::Patch;
use serde_json::json;
use std::time::Duration;

const BY_NODE: &str = "node";

pub struct PodGarbageCollector {
    nodes: Informer<Node>,
    pods: Writer<Pod>,
    /// A node object may come back (a kubelet that registers anew) before its pods count as lost: as long as it may be silent.
    node_gone_grace: Duration,
}

impl PodGarbageCollector {
    pub fn new(start: &Start) -> Self {
        let pods: Writer<Pod> = start.writer();
        index_by_node(pods.informer());
        PodGarbageCollector { nodes: start.informers.of(), pods, node_gone_grace: start.options.node_grace }
    }
}

/// The pods of a node, by its name.
pub fn index_by_node(pods: &Informer<Pod>) {
    pods.add_index(BY_NODE, |pod| node_of(pod).map(str::to_owned).into_iter().collect());
}
pub fn pods_of_node(pods: &Informer<Pod>, node: &str) -> Vec<std::sync::Arc<Pod>> {
    pods.by_index(BY_NODE, node)
}
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

impl Controller for PodGarbageCollector {
    const NAME: &'static str = "pod-garbage-collector-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        let (nodes, grace) = (self.nodes.clone(), self.node_gone_grace);
        watches.on(self.pods.informer(), move |change, queue| {
            let pod = change.object();
            match node_of(pod) {
                None if pod.metadata.deletion_timestamp.is_some() => queue.add(ObjectKey::of(pod.as_ref())),
                // Also before the nodes are known: of a pod whose node went while nobody looked, no event will tell.
                Some(node) if !nodes.has_synced() || nodes.get("", node).is_none() => queue.add_after(ObjectKey::of(pod.as_ref()), grace),
                _ => {}
            }
        });
        let pods = self.pods.informer().clone();
        watches.on(&self.nodes, move |change, queue| {
            if let Change::Deleted(node) = change {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                pods_of_node(&pods, name).iter().for_each(|pod| queue.add_after(ObjectKey::of(pod.as_ref()), grace));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let Some(pod) = self.pods.informer().get_key(key) else { return Ok(Outcome::Done) };
        let lost = match node_of(&pod) {
            None => pod.metadata.deletion_timestamp.is_some(),
            Some(node) => self.nodes.get("", node).is_none(),
        };
        if !lost {
            return Ok(Outcome::Done);
        }
        if !is_terminal(&pod) && node_of(&pod).is_some() {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": "PodGC: node no longer exists", "lastTransitionTime": jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default()});
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed", "conditions": [condition]}});
            self.pods.patch_status(key, &Patch::Strategic(patch)).await?;
        }
        self.pods.delete_with(&pod, Some(0)).await?;
        Ok(Outcome::Done)
    }
}
