//! NodeAffinity: nodeSelector and required terms filter, preferred terms score.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Event, Plugin, PreFilter, Rejection, normalize};
use k8s_openapi::api::core::v1::{Node, NodeAffinity as Affinity, NodeSelectorTerm};
use keles_rules::labels::has_all;
use keles_rules::node_selector::{self, NAME_FIELD};
use std::collections::BTreeSet;
use std::sync::Arc;

pub struct NodeAffinity;

const NO_MATCH: &str = "node(s) didn't match Pod's node affinity/selector";

fn affinity(pod: &PodInfo) -> Option<&Affinity> {
    pod.pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()
}
fn required_terms(pod: &PodInfo) -> Option<&[NodeSelectorTerm]> {
    Some(affinity(pod)?.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms.as_slice())
}
fn matches(node: &Node, pod: &PodInfo) -> bool {
    let selector = pod.pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    let selected = selector.is_none_or(|selector| has_all(selector, node.metadata.labels.as_ref()));
    selected && required_terms(pod).is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)))
}
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    node_selector::term_matches(term, node.metadata.name.as_deref().unwrap_or_default(), node.metadata.labels.as_ref())
}
/// The nodes that the terms name, when every term names some: then no other needs a look (a DaemonSet's pods do this).
fn named_nodes(terms: &[NodeSelectorTerm]) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for term in terms {
        let mut of_term = term.match_fields.iter().flatten().filter(|r| r.key == NAME_FIELD && r.operator == "In").filter_map(|r| r.values.as_ref());
        names.extend(of_term.next()?.iter().cloned());
    }
    Some(names).filter(|_| !terms.is_empty())
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo) -> Result<PreFilter, Rejection> {
        let has_selector = pod.pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref()).is_some_and(|selector| !selector.is_empty());
        let Some(terms) = required_terms(pod) else { return Ok(if has_selector { PreFilter::Continue } else { PreFilter::Skip }) };
        Ok(named_nodes(terms).map_or(PreFilter::Continue, PreFilter::Nodes))
    }
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if node.node.as_ref().is_some_and(|node| matches(node, pod)) { Ok(()) } else { Err(Rejection::unresolvable(NO_MATCH)) }
    }
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>]) -> bool {
        affinity(pod).is_some_and(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref().is_some_and(|terms| !terms.is_empty()))
    }
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(node) = &node.node else { return 0 };
        let preferred = affinity(pod).into_iter().flat_map(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten());
        preferred.filter(|term| term_matches(&term.preference, node)).map(|term| i64::from(term.weight)).sum()
    }
    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, false);
    }
    fn helps(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(node) => matches(node, pod),
            Event::NodeChanged { old, new } => !matches(old, pod) && matches(new, pod),
            Event::PodRemoved(_) | Event::StorageChanged(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::{node, pod};
    use serde_json::json;

    #[test]
    fn selector_and_required_terms_must_both_hold_and_terms_are_alternatives() {
        let n = node("n1", json!({"metadata": {"labels": {"disk": "ssd", "cores": "8"}}}));
        let required = |terms: serde_json::Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        let expression = |key: &str, operator: &str, values: serde_json::Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (spec, expected) in [
            (json!({}), true),
            (json!({"nodeSelector": {"disk": "ssd"}}), true),
            (json!({"nodeSelector": {"disk": "hdd"}}), false),
            (required(json!([expression("disk", "In", json!(["hdd"])), expression("cores", "Gt", json!(["4"]))])), true),
            (required(json!([expression("cores", "Lt", json!(["8"]))])), false),
            (required(json!([expression("disk", "NotIn", json!(["hdd"]))])), true),
            (required(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])), true),
            (required(json!([{}])), false),
        ] {
            assert_eq!(matches(&n, &pod("p", spec.clone())), expected, "{spec}");
        }
    }
}
