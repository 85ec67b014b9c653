//! TaintToleration: NoSchedule and NoExecute taints filter, PreferNoSchedule taints score.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Event, Plugin, Rejection, normalize};
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use keles_rules::tolerations::{tolerates, untolerated};
use std::sync::Arc;

pub struct TaintToleration;

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}
fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}
fn allows(node: &Node, pod: &PodInfo) -> bool {
    untolerated(taints(node), tolerations(pod), |taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")).is_none()
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if node.node.as_ref().is_some_and(|node| allows(node, pod)) { Ok(()) } else { Err(Rejection::unresolvable("node(s) had untolerated taint(s)")) }
    }
    fn pre_score(&self, _: &mut CycleState, _: &PodInfo, nodes: &[Arc<NodeInfo>]) -> bool {
        nodes.iter().filter_map(|node| node.node.as_ref()).any(|node| taints(node).iter().any(|taint| taint.effect == "PreferNoSchedule"))
    }
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let preferred = node.node.iter().flat_map(|node| taints(node)).filter(|taint| taint.effect == "PreferNoSchedule");
        preferred.filter(|taint| !tolerations(pod).iter().any(|toleration| tolerates(toleration, taint))).count() as i64
    }
    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, true);
    }
    fn helps(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(node) => allows(node, pod),
            Event::NodeChanged { old, new } => !allows(old, pod) && allows(new, pod),
            Event::PodRemoved(_) | Event::StorageChanged(_) => false,
        }
    }
}
