//! The words in which a failure is told: the message of event and condition, as kubectl users know it.

use crate::framework::Rejection;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;

pub const UNSCHEDULABLE: &str = "Unschedulable";
pub const SCHEDULER_ERROR: &str = "SchedulerError";
pub const NO_NODES: &str = "no nodes available to schedule pods";
/// What upstream's DynamicResources says first, to every pod without claims.
const NO_CLAIMS: &str = "no new claims to deallocate";

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. no new claims to deallocate, preemption: …`
pub fn fit_message(rejections: &[Rejection], post_filter: &[String]) -> String {
    let reasons = count_reasons(rejections.iter().flat_map(|rejection| rejection.reasons.iter().map(String::as_str)));
    with_verdicts(format!("0/{} nodes are available: {reasons}.", rejections.len()), post_filter)
}

/// The same where the pod itself is in the way: `0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. …`
pub fn everywhere_message(rejection: &Rejection, nodes: usize, post_filter: &[String]) -> String {
    with_verdicts(format!("0/{nodes} nodes are available: {}.", rejection.reasons.join(", ")), post_filter)
}

fn with_verdicts(mut message: String, post_filter: &[String]) -> String {
    if !post_filter.is_empty() {
        message.push_str(&format!(" {NO_CLAIMS}, {}", post_filter.join(", ")));
    }
    message
}

/// `1 Insufficient cpu, 2 node(s) were unschedulable`, in the order of the texts.
pub fn count_reasons<'r>(reasons: impl Iterator<Item = &'r str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut texts: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    texts.join(", ")
}

/// Whether the pod's PodScheduled condition says this already.
pub fn is_told(pod: &Pod, reason: &str, message: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == "PodScheduled").any(|c| c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::pod;
    use crate::framework::CycleState;
    use crate::plugins::ALL;
    use serde_json::json;

    #[test]
    fn the_message_counts_reasons_over_nodes_and_tells_the_verdict_on_preemption() {
        let rejections = [Rejection::resolvable("Insufficient cpu"), Rejection::unresolvable("node(s) had untolerated taint(s)"), Rejection::resolvable("Insufficient cpu")];
        let pod = pod("p", json!({}));
        let verdicts: Vec<String> = ALL.iter().filter_map(|row| row.plugin.post_filter(&CycleState::default(), &pod, &rejections)).collect();
        assert_eq!(
            fit_message(&rejections, &verdicts),
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to deallocate, preemption: 0/3 nodes are available: \
             1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."
        );
    }
}
