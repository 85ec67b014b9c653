//! One scheduling cycle: which node for this pod. Pure but for the choice among equals.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, PreFilter, Rejection};
use crate::metrics::{self, Meter};
use crate::plugins::volume_binding::claims_of;
use crate::plugins::{ALL, Row};
use crate::report::{NO_NODES, everywhere_message, fit_message};
use crate::storage::Storage;
use rand::Rng;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// Below this many nodes all are looked at; above, a share of them that shrinks to [`MIN_SHARE_PERCENT`].
const MIN_FEASIBLE_NODES: usize = 100;
const MIN_SHARE_PERCENT: usize = 5;

/// Why no node was chosen.
#[derive(Debug, PartialEq, Eq)]
pub struct NoFit {
    pub message: String,
    pub rejected_by: Vec<&'static str>,
}

/// The cycle's memory between pods: where the last one stopped looking, so that all nodes of a large cluster get their turn.
#[derive(Default)]
pub struct Rotation(usize);

/// Chooses a node and runs Reserve and Permit for it.
pub fn schedule(pod: &PodInfo, nodes: &[Arc<NodeInfo>], rotation: &mut Rotation, storage: Option<&Storage>) -> Result<String, NoFit> {
    if nodes.is_empty() {
        return Err(NoFit { message: NO_NODES.into(), rejected_by: Vec::new() });
    }
    let began = Instant::now();
    let meter = Meter::of(pod);
    let mut state = CycleState::metered(meter.clone(), storage.cloned());
    if !claims_of(pod).is_empty() {
        state.nodes = nodes.to_vec();
    }
    let filters = meter.point("PreFilter", Result::is_ok, || pre_filter(&mut state, pod, nodes))?;
    let feasible = meter.point("Filter", Result::is_ok, || filter(&state, pod, nodes, &filters, rotation))?;
    let chosen = meter.point("Score", |_| true, || choose(&mut state, pod, &feasible));
    let name = chosen.name().to_owned();
    metrics::chosen(began.elapsed());
    meter.point("Reserve", Result::is_ok, || reserve(&state, pod, &name))?;
    Ok(name)
}

/// The filters to run, and the nodes worth a look.
struct Filters {
    rows: Vec<&'static Row>,
    only: Option<BTreeSet<String>>,
}

fn pre_filter(state: &mut CycleState, pod: &PodInfo, nodes: &[Arc<NodeInfo>]) -> Result<Filters, NoFit> {
    let mut filters = Filters { rows: Vec::new(), only: None };
    for row in ALL {
        match state.meter.clone().plugin("PreFilter", row.name, Result::is_ok, || row.plugin.pre_filter(state, pod)) {
            Ok(PreFilter::Skip) => {}
            Ok(PreFilter::Continue) => filters.rows.push(row),
            Ok(PreFilter::Nodes(names)) => {
                filters.rows.push(row);
                filters.only = Some(match filters.only.take() {
                    Some(held) => held.intersection(&names).cloned().collect(),
                    None => names,
                });
            }
            Err(rejection) => {
                let everywhere = vec![rejection.clone(); nodes.len()];
                let verdicts: Vec<String> = ALL.iter().filter_map(|row| row.plugin.post_filter(state, pod, &everywhere)).collect();
                let message = everywhere_message(&rejection, nodes.len(), &verdicts);
                return Err(NoFit { message, rejected_by: vec![row.name] });
            }
        }
    }
    Ok(filters)
}

fn filter(state: &CycleState, pod: &PodInfo, nodes: &[Arc<NodeInfo>], filters: &Filters, rotation: &mut Rotation) -> Result<Vec<Arc<NodeInfo>>, NoFit> {
    let enough = enough_nodes(nodes.len());
    let (mut feasible, mut rejections, mut rejected_by) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut looked = 0;
    for node in nodes.iter().cycle().skip(rotation.0 % nodes.len()).take(nodes.len()) {
        looked += 1;
        match filter_node(state, pod, node, filters) {
            Ok(()) => feasible.push(node.clone()),
            Err((plugin, rejection)) => {
                rejected_by.insert(plugin);
                rejections.push(rejection);
            }
        }
        if feasible.len() >= enough {
            break;
        }
    }
    rotation.0 = (rotation.0 + looked) % nodes.len();
    if !feasible.is_empty() {
        return Ok(feasible);
    }
    let verdicts: Vec<String> = ALL.iter().filter_map(|row| row.plugin.post_filter(state, pod, &rejections)).collect();
    Err(NoFit { message: fit_message(&rejections, &verdicts), rejected_by: rejected_by.into_iter().collect() })
}

fn filter_node(state: &CycleState, pod: &PodInfo, node: &NodeInfo, filters: &Filters) -> Result<(), (&'static str, Rejection)> {
    if filters.only.as_ref().is_some_and(|names| !names.contains(node.name())) {
        return Err(("NodeAffinity", Rejection::unresolvable("node(s) didn't satisfy plugin(s) [NodeAffinity]")));
    }
    for row in &filters.rows {
        state.meter.plugin("Filter", row.name, Result::is_ok, || row.plugin.filter(state, pod, node)).map_err(|rejection| (row.name, rejection))?;
    }
    Ok(())
}

fn enough_nodes(nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE_NODES {
        return nodes.max(1);
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(MIN_SHARE_PERCENT);
    (nodes * percent / 100).max(MIN_FEASIBLE_NODES)
}

/// The node with the highest weighted score; one of several by chance.
fn choose<'n>(state: &mut CycleState, pod: &PodInfo, nodes: &'n [Arc<NodeInfo>]) -> &'n Arc<NodeInfo> {
    if let [only] = nodes {
        return only;
    }
    let mut totals = vec![0; nodes.len()];
    for row in ALL.iter().filter(|row| row.weight > 0) {
        if !row.plugin.pre_score(state, pod, nodes) {
            continue;
        }
        let mut scores: Vec<i64> = nodes.iter().map(|node| state.meter.plugin("Score", row.name, |_| true, || row.plugin.score(state, pod, node))).collect();
        row.plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * row.weight;
        }
    }
    let best = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<usize> = (0..nodes.len()).filter(|at| totals[*at] == best).collect();
    &nodes[winners[rand::rng().random_range(0..winners.len())]]
}

fn reserve(state: &CycleState, pod: &PodInfo, node: &str) -> Result<(), NoFit> {
    for (at, row) in ALL.iter().enumerate() {
        let verdict = row.plugin.reserve(state, pod, node).and_then(|()| row.plugin.permit(state, pod, node));
        if let Err(rejection) = verdict {
            ALL[..=at].iter().rev().for_each(|row| row.plugin.unreserve(pod, node));
            return Err(NoFit { message: rejection.reasons.join(", "), rejected_by: vec![row.name] });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::cache::tests::{asking, node, pod};
    use serde_json::json;

    fn cluster(nodes: Vec<Arc<k8s_openapi::api::core::v1::Node>>) -> Cache {
        let mut cache = Cache::default();
        nodes.into_iter().for_each(|node| cache.set_node(node));
        cache
    }
    fn run(cache: &Cache, pod: &PodInfo) -> Result<String, NoFit> {
        schedule(pod, &cache.snapshot(), &mut Rotation::default(), None)
    }
    fn message(cache: &Cache, pod: &PodInfo) -> String {
        run(cache, pod).expect_err("nothing fits").message
    }

    #[test]
    fn a_pod_that_does_not_fit_says_why_in_the_words_users_know() {
        let cache = cluster(vec![node("n1", json!({}))]);
        let prefix = "0/1 nodes are available: ";
        let unhelpful = "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
        assert_eq!(message(&cache, &asking("big", "1000", "1")), format!("{prefix}1 Insufficient cpu. {unhelpful}"));
        let elsewhere = pod("p", json!({"nodeSelector": {"no": "where"}}));
        assert_eq!(message(&cache, &elsewhere), format!("{prefix}1 node(s) didn't match Pod's node affinity/selector. {unhelpful}"));
        let mut busy = cluster(vec![node("n1", json!({}))]);
        busy.assume(asking("held", "1900m", "1"), "n1");
        let victims = "no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
        assert_eq!(message(&busy, &asking("p", "200m", "1")), format!("{prefix}1 Insufficient cpu. {victims}"));
        assert_eq!(message(&cluster(vec![]), &asking("p", "1", "1")), "no nodes available to schedule pods");
    }

    #[test]
    fn cordoned_and_tainted_nodes_are_passed_over_unless_tolerated() {
        let taint = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
        let cache = cluster(vec![node("cordoned", json!({"spec": {"unschedulable": true}})), node("tainted", json!({"spec": {"taints": taint}}))]);
        let refusal = message(&cache, &pod("p", json!({})));
        assert!(refusal.contains("1 node(s) had untolerated taint(s), 1 node(s) were unschedulable."), "{refusal}");
        assert_eq!(run(&cache, &pod("p", json!({"tolerations": [{"operator": "Exists", "key": "k"}]}))), Ok("tainted".into()));
    }

    #[test]
    fn preferred_affinity_and_the_emptier_node_decide() {
        let mut cache = cluster(vec![node("n1", json!({"metadata": {"labels": {"zone": "a"}}})), node("n2", json!({}))]);
        cache.assume(asking("held", "1500m", "2Gi"), "n1");
        assert_eq!(run(&cache, &asking("p", "100m", "100Mi")), Ok("n2".into()));
        let term = json!([{"weight": 100, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}}]);
        let drawn = pod("p", json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": term}}}));
        assert_eq!(run(&cache, &drawn), Ok("n1".into()));
    }

    #[test]
    fn a_large_cluster_is_sampled_and_every_node_gets_its_turn() {
        assert_eq!([1, 99, 100, 1000, 5000].map(enough_nodes), [1, 99, 100, 420, 500]);
    }
}
