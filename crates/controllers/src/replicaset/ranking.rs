//! Which pods a shrinking set deletes first.
//!
//! In order: without node, then Pending, then not ready, then lower deletion cost, then more siblings on the same node, then ready for a shorter
//! time (by powers of two, so that age alone does not pick always the same), then more restarts, then younger.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keles_rules::readiness::{is_ready, phase, ready_since};
use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods to delete out of `pods`; `related` are the pods of all sets of the same workload.
pub fn victims(pods: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut siblings: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        *siblings.entry(node(pod)).or_default() += 1;
    }
    let mut ranked: Vec<&Arc<Pod>> = pods.iter().collect();
    ranked.sort_by(|a, b| compare(a, b, &siblings, now));
    ranked.into_iter().take(count).cloned().collect()
}

fn compare(a: &Pod, b: &Pod, siblings: &HashMap<&str, usize>, now: Timestamp) -> Ordering {
    let by_state = |pod: &Pod| (!node(pod).is_empty(), phase_rank(pod), is_ready(pod), deletion_cost(pod), Reverse(siblings.get(node(pod)).copied().unwrap_or(0)));
    let ready_ages = || match (ready_since(a), ready_since(b)) {
        (Some(a), Some(b)) if a != b => age_rank(Some(a), now).cmp(&age_rank(Some(b), now)),
        _ => Ordering::Equal,
    };
    let restarts = |pod: &Pod| Reverse(max_restarts(pod));
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    by_state(a)
        .cmp(&by_state(b))
        .then_with(ready_ages)
        .then_with(|| restarts(a).cmp(&restarts(b)))
        .then_with(|| age_rank(created(a), now).cmp(&age_rank(created(b), now)))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("")
}
fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}
fn deletion_cost(pod: &Pod) -> i32 {
    pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST)).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}
fn max_restarts(pod: &Pod) -> i32 {
    pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).map(|container| container.restart_count).max().unwrap_or(0)
}
/// The power of two of an age; younger is smaller, no time at all the smallest.
fn age_rank(since: Option<Timestamp>, now: Timestamp) -> i64 {
    let Some(since) = since else { return i64::MIN };
    let nanoseconds = now.as_nanosecond() - since.as_nanosecond();
    if nanoseconds <= 0 { -1 } else { i64::from(nanoseconds.ilog2()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct P(serde_json::Value);
    fn pod(name: &str) -> P {
        P(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}], "containerStatuses": []},
        }))
    }
    impl P {
        fn set(mut self, pointer: &str, value: serde_json::Value) -> Self {
            *self.0.pointer_mut(pointer).expect("a field of the sample pod") = value;
            self
        }
        fn build(self) -> Arc<Pod> {
            Arc::new(serde_json::from_value(self.0).expect("a pod"))
        }
    }
    fn first(pods: Vec<P>, related: &[Arc<Pod>]) -> String {
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(P::build).collect();
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().expect("a time");
        victims(&pods, related, 1, now)[0].metadata.name.clone().expect("named")
    }

    #[test]
    fn the_deletion_order_is_upstreams() {
        assert_eq!(first(vec![pod("a"), pod("unassigned").set("/spec/nodeName", json!(""))], &[]), "unassigned");
        assert_eq!(first(vec![pod("a"), pod("pending").set("/status/phase", json!("Pending"))], &[]), "pending");
        assert_eq!(first(vec![pod("a"), pod("unready").set("/status/conditions/0/status", json!("False"))], &[]), "unready");
        assert_eq!(first(vec![pod("a"), pod("cheap").set("/metadata", json!({"name": "cheap", "annotations": {DELETION_COST: "-1"}}))], &[]), "cheap");
        let crowd = [pod("x").set("/spec/nodeName", json!("n2")).build(), pod("y").set("/spec/nodeName", json!("n2")).build()];
        assert_eq!(first(vec![pod("a"), pod("crowded").set("/spec/nodeName", json!("n2"))], &crowd), "crowded");
        let fresh = pod("fresh").set("/status/conditions/0/lastTransitionTime", json!("2026-01-01T23:59:00Z"));
        assert_eq!(first(vec![pod("a"), fresh], &[]), "fresh");
        let restarting = json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3}]);
        assert_eq!(first(vec![pod("a"), pod("restarting").set("/status/containerStatuses", restarting)], &[]), "restarting");
        assert_eq!(first(vec![pod("a"), pod("young").set("/metadata/creationTimestamp", json!("2026-01-01T23:00:00Z"))], &[]), "young");
    }
}
