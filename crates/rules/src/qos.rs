//! The quality-of-service class of a pod, which decides who is killed first when memory runs out.

use crate::requests::{Amounts, add, tree};
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Every container has limits of cpu and memory, and asks for as much.
    Guaranteed,
    Burstable,
    /// No container asks for anything.
    BestEffort,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Guaranteed => "Guaranteed",
            Class::Burstable => "Burstable",
            Class::BestEffort => "BestEffort",
        }
    }
}

/// The class of a typed pod.
pub fn class_of(spec: &PodSpec) -> Class {
    class(&serde_json::to_value(spec).expect("API types always encode"))
}

/// The class of a pod spec as a tree. Pod-level resources decide alone where given.
pub fn class(spec: &Value) -> Class {
    let whole = &spec["resources"];
    let pod_level = ["requests", "limits"].iter().any(|l| whole[*l].as_object().is_some_and(|m| !m.is_empty()));
    if pod_level {
        return decide(std::iter::once(whole));
    }
    let list = |name: &str| spec[name].as_array().into_iter().flatten().map(|c| &c["resources"]);
    decide(list("containers").chain(list("initContainers")))
}

fn decide<'a>(all: impl Iterator<Item = &'a Value>) -> Class {
    let (mut requests, mut limits, mut all_limited) = (Amounts::new(), Amounts::new(), true);
    for resources in all {
        let limited = counted(&resources["limits"]);
        all_limited &= limited.len() == 2;
        add(&mut requests, &counted(&resources["requests"]));
        add(&mut limits, &limited);
    }
    match () {
        _ if requests.is_empty() && limits.is_empty() => Class::BestEffort,
        _ if all_limited && requests == limits => Class::Guaranteed,
        _ => Class::Burstable,
    }
}

/// Only cpu and memory above zero count.
fn counted(list: &Value) -> Amounts {
    tree(list).into_iter().filter(|(name, q)| (name == "cpu" || name == "memory") && q.sign() > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_of_every_container_make_a_pod_guaranteed() {
        let c = |resources: Value| json!({"containers": [{"name": "c", "resources": resources}]});
        let full = json!({"cpu": "1", "memory": "1Gi"});
        for (spec, expected) in [
            (c(json!({})), Class::BestEffort),
            (c(json!({"limits": full, "requests": full})), Class::Guaranteed),
            (c(json!({"limits": full, "requests": {"cpu": "500m", "memory": "1Gi"}})), Class::Burstable),
            (c(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}})), Class::Burstable),
            (c(json!({"requests": {"cpu": "0"}})), Class::BestEffort),
            (json!({"resources": {"limits": full, "requests": full}, "containers": [{"name": "c"}]}), Class::Guaranteed),
        ] {
            assert_eq!(class(&spec), expected, "{spec}");
        }
    }
}
