//! What a pod asks for: the sum of its containers, the peak of its init containers, its overhead.
//!
//! Entry points: [`of_pod`] for typed pods, [`of_spec`] for trees. Sidecars (init containers that restart Always) count with the
//! containers, and with every init container after them (KEP-753); pod-level requests stand for the containers' where given (KEP-2837).

use k8s_openapi::api::core::v1::{Container, PodSpec};
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
    }

    #[test]
    fn a_pod_asks_for_its_containers_or_its_largest_init_container() {
        let asks = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        check(json!({"containers": [asks("100m"), asks("200m")]}), "cpu", "300m");
        check(json!({"containers": [asks("100m")], "initContainers": [asks("1"), asks("2")]}), "cpu", "2");
        check(json!({"containers": [asks("100m")], "overhead": {"cpu": "50m"}}), "cpu", "150m");
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
