//! Which pods go so that one the node cannot do without has room; only such pods push others out here, the scheduler is not asked for them.
//!
//! Entry point: [`victims`], pure: as few Guaranteed pods as will do, then Burstable, then BestEffort ones. Source: kubernetes
//! pkg/kubelet/preemption/preemption.go.

use crate::admission::{self, Node, Refusal, requested};
use crate::eviction::is_critical;
use crate::qos;
use k8s_openapi::api::core::v1::Pod;

/// The reason of a pod that has to go, and of the event that tells it.
pub const PREEMPTING: &str = "Preempting";
pub const MESSAGE: &str = "Preempted in order to admit critical pod";

/// What is missing of a resource, by its name.
type Missing = (String, i64);

#[derive(Debug, Default, PartialEq)]
pub struct Plan<'a> {
    pub victims: Vec<&'a Pod>,
    /// The resource that is short, as the metric names it.
    pub resource: String,
}

/// Who has to go for `pod`, which was refused; why nobody's end would help.
pub fn victims<'a>(pod: &Pod, node: &Node, others: &[&'a Pod]) -> Result<Plan<'a>, Refusal> {
    admission::admit_given_room(pod, node, others)?;
    let missing: Vec<Missing> = admission::shortages(pod, node, others).into_iter().map(|short| (short.resource.clone(), short.missing())).collect();
    let resource = missing.first().map(|(name, _)| name.clone()).unwrap_or_default();
    let of_class = |class: &str| -> Vec<&'a Pod> { others.iter().filter(|other| gives_way(other, pod) && class_of(other) == class).copied().collect() };
    let (best_effort, burstable, guaranteed) = (of_class(qos::BEST_EFFORT), of_class(qos::BURSTABLE), of_class(qos::GUARANTEED));
    let short_of = without(&missing, [&best_effort[..], &burstable, &guaranteed].concat().iter());
    if !short_of.is_empty() {
        let all: String = short_of.iter().map(|(name, amount)| format!("(res: {name}, q: {amount}), ")).collect();
        let message = format!(
            "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [{all}]"
        );
        return Err(Refusal { reason: "UnexpectedAdmissionError".into(), message });
    }
    let guaranteed = nearest(guaranteed, without(&missing, best_effort.iter().chain(&burstable)));
    let burstable = nearest(burstable, without(&missing, best_effort.iter().chain(&guaranteed)));
    let best_effort = nearest(best_effort, without(&missing, burstable.iter().chain(&guaranteed)));
    Ok(Plan { victims: [best_effort, burstable, guaranteed].concat(), resource })
}

fn class_of(pod: &Pod) -> &'static str {
    pod.spec.as_ref().map_or(qos::BEST_EFFORT, qos::class)
}

fn gives_way(other: &Pod, to: &Pod) -> bool {
    let priority = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority);
    (is_critical(to) && !is_critical(other)) || priority(to).zip(priority(other)).is_some_and(|(to, other)| to > other)
}

/// What is still missing once these are gone.
fn without<'a>(missing: &[Missing], gone: impl Iterator<Item = &'a &'a Pod> + Clone) -> Vec<Missing> {
    let left = |(name, amount): &Missing| (name.clone(), amount - gone.clone().map(|pod| requested(pod, name)).sum::<i64>());
    missing.iter().map(left).filter(|(_, amount)| *amount > 0).collect()
}

/// One after another the pod that comes nearest to what is missing; of those as near, the smaller. The pods together have enough.
fn nearest<'a>(mut pods: Vec<&'a Pod>, mut missing: Vec<Missing>) -> Vec<&'a Pod> {
    let mut chosen = Vec::new();
    while !missing.is_empty() && !pods.is_empty() {
        let mut best = 0;
        for at in 1..pods.len() {
            let (one, other) = (distance(pods[at], &missing), distance(pods[best], &missing));
            if one < other || (one == other && is_smaller(pods[at], pods[best])) {
                best = at;
            }
        }
        let pod = pods.swap_remove(best);
        missing = without(&missing, std::iter::once(&pod));
        chosen.push(pod);
    }
    chosen
}

/// The sum of squares of the shares of each resource that would still be missing.
fn distance(pod: &Pod, missing: &[Missing]) -> f64 {
    missing.iter().map(|(name, amount)| ((amount - requested(pod, name)).max(0) as f64 / *amount as f64).powi(2)).sum()
}

/// By memory, then by processor time.
fn is_smaller(one: &Pod, other: &Pod) -> bool {
    let amounts = |pod: &Pod| ["memory", "cpu"].map(|name| requested(pod, name));
    amounts(one) <= amounts(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_volumes::quantity::Quantity;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    const CRITICAL: i32 = 2_000_000_000;

    fn pod(name: &str, priority: i32, resources: Value) -> Pod {
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a pod")
    }

    fn burstable(name: &str, cpu: &str) -> Pod {
        pod(name, 0, json!({"requests": {"cpu": cpu}}))
    }

    fn guaranteed(name: &str, cpu: &str) -> Pod {
        pod(name, 0, json!({"limits": {"cpu": cpu, "memory": "1Mi"}, "requests": {"cpu": cpu, "memory": "1Mi"}}))
    }

    fn node(cpu: i64, pods: i64) -> Node {
        let amounts = [("cpu", cpu), ("pods", pods), ("memory", 1 << 30)];
        Node { allocatable: BTreeMap::from(amounts.map(|(name, amount)| (name.to_owned(), Quantity::from_whole(amount)))), ..Node::default() }
    }

    fn names(pod: &Pod, node: &Node, others: &[Pod]) -> Result<(Vec<String>, String), Refusal> {
        let others: Vec<&Pod> = others.iter().collect();
        let plan = victims(pod, node, &others)?;
        Ok((plan.victims.iter().filter_map(|pod| pod.metadata.name.clone()).collect(), plan.resource))
    }

    #[test]
    fn burstable_pods_go_before_guaranteed_ones_and_the_nearest_first() {
        let critical = pod("k", CRITICAL, json!({"requests": {"cpu": "1"}}));
        let others = [guaranteed("g", "1"), burstable("small", "500m"), burstable("large", "2"), pod("none", 0, json!({}))];
        assert_eq!(names(&critical, &node(4, 10), &others), Ok((vec!["small".into()], "cpu".into())), "500m are missing");
        assert_eq!(names(&critical, &node(3, 10), &others), Ok((vec!["large".into()], "cpu".into())), "1500m");
        assert_eq!(names(&critical, &node(1, 10), &others).expect("enough").0, ["large", "small", "g"].map(str::to_owned), "all of it");
    }

    #[test]
    fn where_places_are_missing_the_cheapest_goes() {
        let critical = pod("k", CRITICAL, json!({}));
        let others = [burstable("a", "1"), pod("none", 0, json!({})), guaranteed("g", "1")];
        assert_eq!(names(&critical, &node(4, 3), &others), Ok((vec!["none".into()], "pods".into())));
    }

    #[test]
    fn critical_pods_stay_unless_they_matter_less_and_other_reasons_count_first() {
        let critical = pod("k", CRITICAL, json!({"requests": {"cpu": "1"}}));
        let peer = pod("peer", CRITICAL, json!({"requests": {"cpu": "1"}}));
        let refusal = names(&critical, &node(1, 10), std::slice::from_ref(&peer)).expect_err("as critical");
        assert_eq!(refusal.reason, "UnexpectedAdmissionError");
        assert!(refusal.message.ends_with("no set of running pods found to reclaim resources: [(res: cpu, q: 1000), ]"), "{}", refusal.message);
        let more = pod("more", CRITICAL + 1000, json!({"requests": {"cpu": "1"}}));
        assert_eq!(names(&more, &node(1, 10), std::slice::from_ref(&peer)).expect("less").0, ["peer"]);
        let mut elsewhere = critical;
        elsewhere.spec.as_mut().expect("a spec").node_selector = Some([("a".to_owned(), "b".to_owned())].into());
        assert_eq!(names(&elsewhere, &node(1, 10), &[burstable("a", "1")]).expect_err("not here").reason, "NodeAffinity");
    }
}
