//! NodePorts: no two pods on a node take the same host port.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Event, Plugin, PreFilter, Rejection};

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo) -> Result<PreFilter, Rejection> {
        Ok(if pod.host_ports.is_empty() { PreFilter::Skip } else { PreFilter::Continue })
    }
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let clash = pod.host_ports.iter().any(|wanted| node.host_ports.iter().any(|taken| wanted.clashes(taken)));
        if clash { Err(Rejection::resolvable("node(s) didn't have free ports for the requested pod ports")) } else { Ok(()) }
    }
    fn helps(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::NodeChanged { .. } => false,
            Event::StorageChanged(_) => false,
            Event::PodRemoved(gone) => pod.host_ports.iter().any(|wanted| gone.host_ports.iter().any(|freed| wanted.clashes(freed))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::cache::tests::{node, pod};
    use serde_json::json;

    #[test]
    fn a_host_port_taken_by_a_pod_that_is_only_assumed_counts() {
        let wants = |name: &str| pod(name, json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]}));
        let mut cache = Cache::default();
        cache.set_node(node("n1", json!({})));
        let filter = |cache: &Cache| NodePorts.filter(&CycleState::default(), &wants("b"), &cache.snapshot()[0]);
        assert!(filter(&cache).is_ok());
        cache.assume(wants("a"), "n1");
        assert!(filter(&cache).is_err());
        assert!(NodePorts.helps(&Event::PodRemoved(wants("a")), &wants("b")));
        cache.forget("a");
        assert!(filter(&cache).is_ok());
    }
}
