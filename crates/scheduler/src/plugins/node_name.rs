//! NodeName: a pod that names its node goes nowhere else.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Event, Plugin, Rejection};

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let fits = pod.node().is_none_or(|name| name == node.name());
        if fits { Ok(()) } else { Err(Rejection::unresolvable("node(s) didn't match the requested node name")) }
    }
    fn helps(&self, event: &Event, pod: &PodInfo) -> bool {
        matches!(event, Event::NodeAdded(node) if node.metadata.name.as_deref() == pod.node())
    }
}
