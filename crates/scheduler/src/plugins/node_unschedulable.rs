//! NodeUnschedulable: a cordoned node takes only pods that tolerate its taint.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Event, Plugin, Rejection};
use k8s_openapi::api::core::v1::{Node, Taint};
use keles_rules::tolerations::tolerates;

pub struct NodeUnschedulable;

fn allows(node: &Node, pod: &PodInfo) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let taint = Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Default::default() };
    !cordoned || pod.pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).any(|toleration| tolerates(toleration, &taint))
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if node.node.as_ref().is_some_and(|node| allows(node, pod)) { Ok(()) } else { Err(Rejection::unresolvable("node(s) were unschedulable")) }
    }
    fn helps(&self, event: &Event, pod: &PodInfo) -> bool {
        event.node().is_some_and(|node| allows(node, pod))
    }
}
