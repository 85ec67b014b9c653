//! NodeResourcesBalancedAllocation: prefers nodes whose cpu and memory would be used to the same degree.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Event, MAX_SCORE, Plugin};
use std::sync::Arc;

pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>]) -> bool {
        // A pod that asks for nothing balances nothing.
        pod.requests.milli_cpu > 0 || pod.requests.memory > 0
    }
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let fraction = |wanted: i64, have: i64| if have <= 0 { 1.0 } else { (wanted as f64 / have as f64).min(1.0) };
        let cpu = fraction(node.requested.milli_cpu + pod.requests.milli_cpu, node.allocatable.milli_cpu);
        let memory = fraction(node.requested.memory + pod.requests.memory, node.allocatable.memory);
        // The standard deviation of two values is half their distance.
        ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
    }
    fn helps(&self, _: &Event, _: &PodInfo) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::cache::tests::{asking, node};
    use serde_json::json;

    #[test]
    fn an_even_use_scores_higher_than_a_lopsided_one() {
        let mut cache = Cache::default();
        cache.set_node(node("n1", json!({})));
        let score = |cpu: &str, memory: &str| NodeResourcesBalancedAllocation.score(&CycleState::default(), &asking("p", cpu, memory), &cache.snapshot()[0]);
        assert_eq!(score("1", "2Gi"), 100);
        assert_eq!(score("2", "0"), 50);
    }
}
