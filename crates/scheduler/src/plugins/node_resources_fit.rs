//! NodeResourcesFit: requests fit into what is left of the node; nodes with more left score higher (LeastAllocated).

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Event, MAX_SCORE, Plugin, Rejection};
use crate::resources::Resources;
use std::sync::Arc;

pub struct NodeResourcesFit;

/// Every resource that is short. Unresolvable when even the empty node would be too small.
fn shortages(requests: &Resources, node: &NodeInfo) -> Option<Rejection> {
    let mut rejection = Rejection { reasons: Vec::new(), resolvable: true };
    let (have, used) = (&node.allocatable, &node.requested);
    if used.pods + 1 > have.pods {
        rejection.reasons.push("Too many pods".into());
    }
    let scalars = requests.scalar.iter().map(|(name, wanted)| (name.as_str(), *wanted, have.scalar.get(name).copied().unwrap_or(0), used.scalar.get(name).copied().unwrap_or(0)));
    let fixed = [
        ("cpu", requests.milli_cpu, have.milli_cpu, used.milli_cpu),
        ("memory", requests.memory, have.memory, used.memory),
        ("ephemeral-storage", requests.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage),
    ];
    for (name, wanted, have, used) in fixed.into_iter().chain(scalars) {
        if wanted > 0 && wanted > have - used {
            rejection.reasons.push(format!("Insufficient {name}"));
            rejection.resolvable &= wanted <= have;
        }
    }
    (!rejection.reasons.is_empty()).then_some(rejection)
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        shortages(&pod.requests, node).map_or(Ok(()), Err)
    }
    fn pre_score(&self, _: &mut CycleState, _: &PodInfo, _: &[Arc<NodeInfo>]) -> bool {
        true
    }
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let left = |wanted: i64, used: i64, have: i64| if have == 0 || used + wanted > have { 0 } else { (have - used - wanted) * MAX_SCORE / have };
        let cpu = left(pod.assumed.0, node.assumed.0, node.allocatable.milli_cpu);
        let memory = left(pod.assumed.1, node.assumed.1, node.allocatable.memory);
        (cpu + memory) / 2
    }
    fn helps(&self, event: &Event, pod: &PodInfo) -> bool {
        let allocatable = |node: &k8s_openapi::api::core::v1::Node| node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default();
        match event {
            Event::StorageChanged(_) => false,
            Event::PodRemoved(_) => true,
            Event::NodeAdded(node) => could_hold(&Resources::of_list(&allocatable(node)), &pod.requests),
            Event::NodeChanged { old, new } => allocatable(old) != allocatable(new) && could_hold(&Resources::of_list(&allocatable(new)), &pod.requests),
        }
    }
}

fn could_hold(node: &Resources, requests: &Resources) -> bool {
    let scalars = requests.scalar.iter().all(|(name, wanted)| *wanted <= node.scalar.get(name).copied().unwrap_or(0));
    scalars && requests.milli_cpu <= node.milli_cpu && requests.memory <= node.memory && requests.ephemeral_storage <= node.ephemeral_storage && node.pods > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::cache::tests::{asking, node, pod};
    use serde_json::json;

    fn full(cpu: &str) -> Cache {
        let mut cache = Cache::default();
        cache.set_node(node("n1", json!({})));
        cache.assume(asking("held", cpu, "1Gi"), "n1");
        cache
    }

    #[test]
    fn every_short_resource_is_named_and_what_no_empty_node_could_hold_is_unresolvable() {
        let cache = full("1500m");
        let node = &cache.snapshot()[0];
        assert_eq!(shortages(&asking("p", "500m", "3Gi").requests, node), None);
        let short = shortages(&asking("p", "1", "3500Mi").requests, node).expect("both are short");
        assert_eq!((short.reasons, short.resolvable), (vec!["Insufficient cpu".to_owned(), "Insufficient memory".to_owned()], true));
        let huge = shortages(&asking("p", "1000", "1").requests, node).expect("too big");
        assert!(!huge.resolvable);
        let extended = pod("p", json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/foo": "1"}}}]}));
        assert_eq!(shortages(&extended.requests, node).expect("the node has none").reasons, ["Insufficient example.com/foo"]);
    }

    #[test]
    fn overhead_and_the_pod_count_are_counted() {
        let mut cache = Cache::default();
        cache.set_node(node("n1", json!({"status": {"allocatable": {"pods": "1"}}})));
        let heavy = pod("p", json!({"overhead": {"cpu": "3"}}));
        assert_eq!(shortages(&heavy.requests, &cache.snapshot()[0]).expect("overhead is too much").reasons, ["Insufficient cpu"]);
        cache.assume(asking("a", "1m", "1"), "n1");
        assert_eq!(shortages(&asking("b", "1m", "1").requests, &cache.snapshot()[0]).expect("one pod only").reasons, ["Too many pods"]);
    }

    #[test]
    fn the_emptier_node_scores_higher() {
        let (empty, busy) = (full("0"), full("1500m"));
        let score = |cache: &Cache| NodeResourcesFit.score(&CycleState::default(), &asking("p", "100m", "1Mi"), &cache.snapshot()[0]);
        assert!(score(&empty) > score(&busy));
    }
}
