//! What a pod asks for: the sum of its containers, the peak of its init containers, its overhead.
//!
//! Entry points: [`of_pod`] for typed pods, [`held_by`] for those that a node has, [`of_spec`] for trees. Sidecars (init containers that restart Always) count with the
//! containers, and with every init container after them (KEP-753); pod-level requests stand for the containers' where given (KEP-2837).

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use keles_api::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Requests of a typed pod, overhead included.
pub fn of_pod(spec: &PodSpec) -> Amounts {
    let init = spec.init_containers.iter().flatten().map(|c| (typed(c), c.restart_policy.as_deref() == Some("Always")));
    let mut sum = total(spec.containers.iter().map(typed), init);
    if let Some(whole) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        sum.extend(wire(whole));
    }
    if let Some(overhead) = &spec.overhead {
        add(&mut sum, &wire(overhead));
    }
    sum
}

/// Limits of a typed pod; overhead raises those that are set.
pub fn limits_of_pod(spec: &PodSpec) -> Amounts {
    let of = |c: &Container| c.resources.as_ref().and_then(|r| r.limits.as_ref()).map(wire).unwrap_or_default();
    let init = spec.init_containers.iter().flatten().map(|c| (of(c), c.restart_policy.as_deref() == Some("Always")));
    let mut sum = total(spec.containers.iter().map(of), init);
    if let Some(whole) = spec.resources.as_ref().and_then(|r| r.limits.as_ref()) {
        sum.extend(wire(whole));
    }
    let overhead: Amounts = spec.overhead.as_ref().map(wire).unwrap_or_default().into_iter().filter(|(name, _)| sum.contains_key(name)).collect();
    add(&mut sum, &overhead);
    sum
}

/// What a pod takes of its node while a resize in place is under way (KEP-1287, KEP-5419): of what it asks for, was given and runs with the most;
/// what the node can never give does not count. Overhead included.
pub fn held_by(pod: &Pod) -> Amounts {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return pod.spec.as_ref().map(of_pod).unwrap_or_default() };
    let is_infeasible = status.conditions.iter().flatten().any(|c| c.type_ == "PodResizePending" && c.reason.as_deref() == Some("Infeasible") && c.status == "True");
    let most = |asked: Amounts, has: Amounts, given: Amounts| {
        let mut most = if is_infeasible && !(has.is_empty() && given.is_empty()) { Amounts::new() } else { asked };
        raise(&mut most, &has);
        raise(&mut most, &given);
        most
    };
    let requests = |r: &Option<ResourceRequirements>| r.as_ref().and_then(|r| r.requests.as_ref()).map(wire).unwrap_or_default();
    let list = |list: &Option<BTreeMap<String, Wire>>| list.as_ref().map(wire).unwrap_or_default();
    let of = |c: &Container, statuses: &Option<Vec<ContainerStatus>>| match statuses.iter().flatten().find(|s| s.name == c.name) {
        Some(s) => most(typed(c), requests(&s.resources), list(&s.allocated_resources)),
        None => typed(c),
    };
    let init = spec.init_containers.iter().flatten().map(|c| (of(c, &status.init_container_statuses), c.restart_policy.as_deref() == Some("Always")));
    let mut sum = total(spec.containers.iter().map(|c| of(c, &status.container_statuses)), init);
    if spec.resources.is_some() {
        sum.extend(most(requests(&spec.resources), requests(&status.resources), list(&status.allocated_resources)));
    }
    if let Some(overhead) = &spec.overhead {
        add(&mut sum, &wire(overhead));
    }
    sum
}

/// Requests of a pod spec as a tree, overhead included.
pub fn of_spec(spec: &Value) -> Amounts {
    let mut sum = of_containers(spec);
    sum.extend(tree(&spec["resources"]["requests"]));
    add(&mut sum, &tree(&spec["overhead"]));
    sum
}

/// Limits of a pod spec as a tree; overhead raises those that are set.
pub fn limits_of_spec(spec: &Value) -> Amounts {
    let mut sum = side(spec, "limits");
    sum.extend(tree(&spec["resources"]["limits"]));
    let overhead: Amounts = tree(&spec["overhead"]).into_iter().filter(|(name, _)| sum.contains_key(name)).collect();
    add(&mut sum, &overhead);
    sum
}

/// Requests of the containers alone.
pub fn of_containers(spec: &Value) -> Amounts {
    side(spec, "requests")
}

/// Limits of the containers alone.
pub fn limits_of_containers(spec: &Value) -> Amounts {
    side(spec, "limits")
}

fn side(spec: &Value, side: &str) -> Amounts {
    let list = |name: &str| spec[name].as_array().into_iter().flatten();
    let init = list("initContainers").map(|c| (tree(&c["resources"][side]), c["restartPolicy"] == "Always"));
    total(list("containers").map(|c| tree(&c["resources"][side])), init)
}

fn total(containers: impl Iterator<Item = Amounts>, init: impl Iterator<Item = (Amounts, bool)>) -> Amounts {
    let (mut sum, mut sidecars, mut peak) = (Amounts::new(), Amounts::new(), Amounts::new());
    for c in containers {
        add(&mut sum, &c);
    }
    for (c, is_sidecar) in init {
        if is_sidecar {
            add(&mut sum, &c);
            add(&mut sidecars, &c);
            raise(&mut peak, &sidecars);
        } else {
            let mut now = sidecars.clone();
            add(&mut now, &c);
            raise(&mut peak, &now);
        }
    }
    raise(&mut sum, &peak);
    sum
}

fn typed(c: &Container) -> Amounts {
    c.resources.as_ref().and_then(|r| r.requests.as_ref()).map(wire).unwrap_or_default()
}

fn wire(list: &BTreeMap<String, Wire>) -> Amounts {
    list.iter().filter_map(|(name, q)| Some((name.clone(), Quantity::parse(&q.0).ok()?))).collect()
}

/// A ResourceList as a tree; what is no quantity is left out, since the decoder refuses it.
pub fn tree(list: &Value) -> Amounts {
    let entry = |(name, q): (&String, &Value)| Some((name.clone(), Quantity::parse(q.as_str()?).ok()?));
    list.as_object().into_iter().flatten().filter_map(entry).collect()
}

pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, q) in more {
        let sum = to.get(name).map_or(*q, |have| have.add(*q));
        to.insert(name.clone(), sum);
    }
}

fn raise(to: &mut Amounts, at_least: &Amounts) {
    for (name, q) in at_least {
        if to.get(name).is_none_or(|have| have < q) {
            to.insert(name.clone(), *q);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: Value, resource: &str, expected: &str) {
        let amounts = of_spec(&spec);
        assert_eq!(amounts[resource].to_string(), expected, "{spec}");
        let pod: PodSpec = serde_json::from_value(spec.clone()).expect("a pod spec");
        assert_eq!(of_pod(&pod), amounts, "typed and tree agree: {spec}");
        assert_eq!(limits_of_pod(&pod), limits_of_spec(&spec), "of limits too: {spec}");
    }

    #[test]
    fn overhead_raises_only_limits_that_are_there() {
        let limited = json!({"name": "c", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}});
        let spec = json!({"containers": [limited], "resources": {"limits": {"memory": "2Mi"}}, "overhead": {"cpu": "500m", "memory": "1Mi", "a/b": "1"}});
        check(spec.clone(), "cpu", "1500m");
        let limits: Vec<(String, String)> = limits_of_spec(&spec).iter().map(|(name, quantity)| (name.clone(), quantity.to_string())).collect();
        assert_eq!(limits, [("cpu", "1500m"), ("memory", "3Mi")].map(|(name, quantity)| (name.to_owned(), quantity.to_owned())));
    }

    #[test]
    fn a_pod_asks_for_its_containers_or_its_largest_init_container() {
        let asks = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        check(json!({"containers": [asks("100m"), asks("200m")]}), "cpu", "300m");
        check(json!({"containers": [asks("100m")], "initContainers": [asks("1"), asks("2")]}), "cpu", "2");
        check(json!({"containers": [asks("100m")], "overhead": {"cpu": "50m"}}), "cpu", "150m");
    }

    #[test]
    fn a_pod_holds_the_most_of_a_resize_but_for_what_its_node_can_never_give() {
        let amounts = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let pod = |reason: &str| -> Pod {
            let spec = json!({"containers": [{"name": "c", "resources": amounts("8")}, {"name": "new", "resources": amounts("1")}]});
            let statuses = json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0, "resources": amounts("3"), "allocatedResources": {"cpu": "2"}}]);
            let conditions = json!([{"type": "PodResizePending", "status": "True", "reason": reason}]);
            serde_json::from_value(json!({"spec": spec, "status": {"containerStatuses": statuses, "conditions": conditions}})).expect("a pod")
        };
        let cpu = |pod: &Pod| held_by(pod)["cpu"].to_string();
        assert_eq!((cpu(&pod("Deferred")), cpu(&pod("Infeasible"))), ("9".into(), "4".into()));
        let whole = |reason: &str| {
            let mut pod = pod(reason);
            pod.spec.as_mut().expect("spec").resources = serde_json::from_value(amounts("20")).expect("resources");
            pod.status.as_mut().expect("status").resources = serde_json::from_value(amounts("10")).expect("resources");
            pod
        };
        assert_eq!((cpu(&whole("Deferred")), cpu(&whole("Infeasible"))), ("20".into(), "10".into()));
        let unseen: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": amounts("1")}]}})).expect("a pod");
        assert_eq!(cpu(&unseen), "1");
    }

    #[test]
    fn sidecars_count_with_the_containers_and_with_later_init_containers() {
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        let init = json!({"name": "i", "resources": {"requests": {"cpu": "2"}}});
        let main = json!({"name": "c", "resources": {"requests": {"cpu": "500m"}}});
        check(json!({"containers": [main], "initContainers": [sidecar.clone()]}), "cpu", "1500m");
        check(json!({"containers": [main], "initContainers": [sidecar.clone(), init.clone()]}), "cpu", "3");
        check(json!({"containers": [main], "initContainers": [init, sidecar]}), "cpu", "2");
    }
}
