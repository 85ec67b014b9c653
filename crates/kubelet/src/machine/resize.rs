//! In-place resize (KEP-1287), its pure part: what a pod asks for, what the node has given it, and what that means for running containers.
//!
//! Entry points: [`wanted`], [`given`] (the pod as the node runs it), [`judge`], [`effective`], [`needs_restart`]. Resources of the pod as a whole
//! (KEP-5419) stand among the containers' under the name [`POD`].

use crate::admission::{self, Node};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use keles_volumes::quantity::Quantity;
use std::collections::BTreeMap;

/// The name of the pod as a whole in [`Amounts`]; no container has it.
pub const POD: &str = "";

/// Resources by container name, init containers among them, and of the pod as a whole; or by container id.
pub type Amounts = BTreeMap<String, ResourceRequirements>;

/// What can be resized.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Why a resize waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred`: there may be room later. `Infeasible`: never on this node.
    pub reason: &'static str,
    pub message: String,
}

/// How a pod's resize stands, for its conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub pending: Option<Pending>,
    /// Given, but not what all containers run with yet; with what went wrong, if anything did.
    pub in_progress: Option<Option<String>>,
}

/// What the spec asks for.
pub fn wanted(pod: &Pod) -> Amounts {
    let all = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let whole = pod.spec.as_ref().and_then(|spec| spec.resources.clone()).unwrap_or_default();
    all.map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default())).chain([(POD.to_owned(), whole)]).collect()
}

/// The pod with the resources that the node has given it; containers that `amounts` does not name keep their own.
pub fn given(pod: &Pod, amounts: &Amounts) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            if let Some(amount) = amounts.get(&container.name) {
                container.resources = Some(amount.clone());
            }
        }
        if let Some(whole) = amounts.get(POD) {
            // Nothing of its own is said by leaving the field out.
            spec.resources = Some(whole.clone()).filter(|whole| *whole != ResourceRequirements::default());
        }
    }
    pod
}

/// Whether the node can give `pod` what its spec asks for, beside `others`.
pub fn judge(pod: &Pod, node: &Node, others: &[&Pod]) -> Option<Pending> {
    let requests = admission::requests(pod);
    for name in ["memory", "cpu"] {
        let (Some(wanted), Some(capacity)) = (requests.get(name).copied(), node.allocatable.get(name).copied()) else { continue };
        if wanted > capacity {
            let figure = |quantity: Quantity| if name == "cpu" { quantity.milli() } else { quantity.whole() };
            let message = format!("Node didn't have enough capacity: {name}, requested: {}, capacity: {}", figure(wanted), figure(capacity));
            return Some(Pending { reason: "Infeasible", message });
        }
    }
    let refusal = admission::fits(pod, node, others).err()?;
    Some(Pending { reason: "Deferred", message: refusal.message })
}

/// What a container is held to: where it has no limit of its own, the pod's (KEP-2837).
pub fn effective(own: &ResourceRequirements, whole: &ResourceRequirements) -> ResourceRequirements {
    let mut both = own.clone();
    for (name, limit) in whole.limits.iter().flatten().filter(|(name, _)| RESIZABLE.contains(&name.as_str())) {
        both.limits.get_or_insert_default().entry(name.clone()).or_insert_with(|| limit.clone());
    }
    both
}

/// Whether going from one to the other asks for a restart, by the container's resizePolicy.
pub fn needs_restart(container: &Container, from: &ResourceRequirements, to: &ResourceRequirements) -> bool {
    let restarts = |name: &str| container.resize_policy.iter().flatten().any(|policy| policy.resource_name == name && policy.restart_policy == "RestartContainer");
    RESIZABLE.iter().any(|name| restarts(name) && differ(from, to, name))
}

fn differ(from: &ResourceRequirements, to: &ResourceRequirements, name: &str) -> bool {
    let of = |list: &Option<BTreeMap<String, ApiQuantity>>| list.as_ref().and_then(|map| map.get(name)).and_then(|q| Quantity::parse(&q.0));
    of(&from.requests) != of(&to.requests) || of(&from.limits) != of(&to.limits)
}

/// What another version of a pod asks of its containers: operation, requirement and resource, as upstream's metrics name them.
pub fn operations(old: &Pod, new: &Pod) -> Vec<[&'static str; 3]> {
    let (old, new) = (wanted(old), wanted(new));
    let both = new.iter().filter(|(name, _)| *name != POD).filter_map(|(name, now)| Some((old.get(name)?, now)));
    let mut all = Vec::new();
    for (before, now) in both {
        for (requirement, before, now) in [("limits", &before.limits, &now.limits), ("requests", &before.requests, &now.requests)] {
            let figure = |list: &Option<BTreeMap<String, ApiQuantity>>, name: &str| Quantity::parse(&list.as_ref()?.get(name)?.0);
            for resource in RESIZABLE {
                let operation = match (figure(before, resource), figure(now, resource)) {
                    (None, Some(_)) => "add",
                    (Some(_), None) => "remove",
                    (Some(before), Some(now)) if now > before => "increase",
                    (Some(before), Some(now)) if now < before => "decrease",
                    _ => continue,
                };
                all.push([operation, requirement, resource]);
            }
        }
    }
    all
}

/// What events of a resize carry: the resources of each container, and the generation that asked for them.
pub fn summary(pod: &Pod) -> String {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let containers: Vec<_> = containers.map(|container| serde_json::json!({"name": container.name, "resources": container.resources})).collect();
    serde_json::json!({"containers": containers, "generation": pod.metadata.generation}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str, policy: &str) -> Pod {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}, "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]});
        serde_json::from_value(json!({"metadata": {"name": "p", "generation": 2}, "spec": {"containers": [container]}})).expect("a pod")
    }

    fn node() -> Node {
        let allocatable = BTreeMap::from([("cpu".to_string(), Quantity::from_whole(2)), ("pods".to_string(), Quantity::from_whole(9))]);
        Node { name: "n".into(), allocatable, ..Default::default() }
    }

    #[test]
    fn what_never_fits_is_infeasible_and_what_may_fit_later_is_deferred() {
        let judged = |cpu: &str, others: &[&Pod]| judge(&pod(cpu, "NotRequired"), &node(), others).map(|pending| (pending.reason, pending.message));
        assert_eq!(judged("1", &[]), None);
        assert_eq!(judged("3", &[]), Some(("Infeasible", "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000".into())));
        let other = pod("1500m", "NotRequired");
        let message = "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000";
        assert_eq!(judged("1", &[&other]), Some(("Deferred", message.into())));
    }

    #[test]
    fn only_a_changed_resource_whose_policy_says_so_restarts() {
        let amount = |cpu: &str| wanted(&pod(cpu, "NotRequired")).remove("c").expect("the container");
        let restarts = |from: &str, to: &str, policy: &str| needs_restart(&pod("1", policy).spec.expect("spec").containers[0], &amount(from), &amount(to));
        assert!(restarts("1", "2", "RestartContainer"));
        assert!(!restarts("1", "2", "NotRequired"));
        assert!(!restarts("1", "1000m", "RestartContainer"), "the same amount in other words");
    }

    #[test]
    fn each_figure_that_is_asked_anew_is_an_operation() {
        assert_eq!(operations(&pod("1", ""), &pod("1000m", "")), [[""; 3]; 0], "the same amount in other words");
        assert_eq!(operations(&pod("1", ""), &pod("2", "")), [["increase", "requests", "cpu"]]);
        let mut limited = pod("500m", "");
        let resources = limited.spec.as_mut().expect("spec").containers[0].resources.as_mut().expect("resources");
        resources.limits = Some(BTreeMap::from([("memory".to_owned(), ApiQuantity("2Mi".into()))]));
        resources.requests.as_mut().expect("requests").remove("memory");
        assert_eq!(operations(&pod("1", ""), &limited), [["add", "limits", "memory"], ["decrease", "requests", "cpu"], ["remove", "requests", "memory"]]);
    }

    #[test]
    fn a_pod_runs_with_what_it_was_given() {
        let before = wanted(&pod("1", "NotRequired"));
        let after = given(&pod("2", "NotRequired"), &before);
        assert_eq!((wanted(&after), after.metadata.generation), (before, Some(2)));
    }

    fn whole(cpu: &str) -> Pod {
        let mut pod = pod("1", "NotRequired");
        pod.spec.as_mut().expect("spec").resources = serde_json::from_value(json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}})).expect("resources");
        pod
    }

    #[test]
    fn the_pod_as_a_whole_is_given_and_judged_beside_its_containers() {
        let before = wanted(&whole("1"));
        assert_eq!(wanted(&given(&whole("2"), &before)), before);
        let without = wanted(&pod("1", "NotRequired"));
        assert_eq!(given(&whole("2"), &without).spec.expect("spec").resources, None, "what was asked for first and is not given yet");
        assert_eq!(judge(&whole("2"), &node(), &[]), None);
        assert_eq!(judge(&whole("3"), &node(), &[]).map(|pending| pending.reason), Some("Infeasible"));
        assert_eq!(judge(&whole("1500m"), &node(), &[&whole("1")]).map(|pending| pending.reason), Some("Deferred"));
    }

    #[test]
    fn a_container_without_a_limit_has_the_pods() {
        let amounts = |limits: serde_json::Value| serde_json::from_value::<ResourceRequirements>(json!({"limits": limits})).expect("resources");
        let of_pod = amounts(json!({"cpu": "2", "memory": "8Mi", "hugepages-2Mi": "2Mi"}));
        assert_eq!(effective(&amounts(json!({"cpu": "1"})), &of_pod), amounts(json!({"cpu": "1", "memory": "8Mi"})));
        assert_eq!(effective(&ResourceRequirements::default(), &ResourceRequirements::default()), ResourceRequirements::default());
    }
}
