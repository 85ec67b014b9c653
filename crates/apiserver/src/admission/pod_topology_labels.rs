//! PodTopologyLabels: a pod says in which region and zone its node is, from the moment it has one (KEP-4742).
//!
//! The labels go onto the binding, whose labels become the pod's, and onto a pod that names its node itself. What the pod said of its place
//! before gives way. Deliberately absent: pods that are bound already when their node's labels change, as upstream.

use super::is;
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_registry::{Admission, Attributes, Operation};
use serde_json::{Map, Value, json};

pub struct PodTopologyLabels;

/// The labels that are copied; no others of their domain are.
const KEYS: &[&str] = &["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

fn is_binding(a: &Attributes<'_>) -> bool {
    a.request.group.is_empty() && a.info.plural == "pods" && a.request.subresource == "binding"
}

#[async_trait]
impl Admission for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && (is_binding(a) || is(a, "", "pods"))
    }
    fn mutates(&self) -> bool {
        true
    }
    async fn mutate(&self, a: &Attributes<'_>, o: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        let node = if is_binding(a) { o.str_at(&["target", "name"]) } else { o.str_at(&["spec", "nodeName"]) };
        // A node that is not there has no place to tell of; whether a pod may be bound to it is not this plugin's question.
        let Some(node) = (!node.is_empty()).then(|| a.registry.read("", "nodes", "", node)).flatten() else { return Ok(()) };
        let place = place(&node);
        if place.is_empty() {
            return Ok(());
        }
        match o.meta_mut().entry("labels").or_insert_with(|| json!({})) {
            Value::Object(labels) => labels.extend(place),
            other => *other = place.into(),
        }
        Ok(())
    }
}

fn place(node: &Object) -> Map<String, Value> {
    let labels = node.meta("labels");
    KEYS.iter().filter_map(|key| labels.get(key).map(|v| ((*key).to_owned(), v.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_region_and_zone_are_told() {
        let node = Object(json!({"metadata": {"name": "n", "labels": {
            "topology.kubernetes.io/zone": "z", "topology.kubernetes.io/rack": "r", "kubernetes.io/hostname": "n",
        }}}));
        assert_eq!(Value::Object(place(&node)), json!({"topology.kubernetes.io/zone": "z"}));
    }
}
