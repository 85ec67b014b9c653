//! The topology manager (KEP-693): one placement out of what the managers of cpus, memory and devices say is possible.
//!
//! Entry point: [`Topology::merge`], pure.

use super::hints::{Hint, Hints, NumaMask};
use super::machine::Machine;
use std::collections::BTreeMap;

/// Upstream's default of `max-allowable-numa-nodes`: every set of nodes is looked at.
const MAX_NODES: usize = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody is asked.
    #[default]
    None,
    /// The best there is.
    BestEffort,
    /// The best there could be, or the pod is refused.
    Restricted,
    /// One node, or the pod is refused.
    SingleNumaNode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    Container,
    Pod,
}

/// `--topology-manager-policy`, `-scope` and `-policy-options`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    pub policy: Policy,
    pub scope: Scope,
    pub prefer_closest: bool,
    pub max_nodes: usize,
}

impl Default for Topology {
    fn default() -> Self {
        Self { policy: Policy::None, scope: Scope::Container, prefer_closest: false, max_nodes: MAX_NODES }
    }
}

impl Topology {
    pub fn parse(policy: &str, scope: &str, options: &BTreeMap<String, String>) -> Result<Self, String> {
        let policy = match policy {
            "none" => Policy::None,
            "best-effort" => Policy::BestEffort,
            "restricted" => Policy::Restricted,
            "single-numa-node" => Policy::SingleNumaNode,
            other => return Err(format!("unknown topology manager policy: \"{other}\"; it is none, best-effort, restricted or single-numa-node")),
        };
        let scope = match scope {
            "container" => Scope::Container,
            "pod" => Scope::Pod,
            other => return Err(format!("unknown topology manager scope: \"{other}\"; it is container or pod")),
        };
        let mut topology = Self { policy, scope, ..Self::default() };
        for (name, value) in options {
            let bad = || format!("bad value for topology manager option \"{name}\": {value:?}");
            match name.as_str() {
                "prefer-closest-numa-nodes" => topology.prefer_closest = value.parse().map_err(|_| bad())?,
                "max-allowable-numa-nodes" => topology.max_nodes = value.parse().ok().filter(|count| (MAX_NODES..=16).contains(count)).ok_or_else(bad)?,
                other => return Err(format!("unknown Topology Manager Policy option: \"{other}\"")),
            }
        }
        Ok(topology)
    }

    /// Whether this machine is one that can be looked at.
    pub fn check(&self, machine: &Machine) -> Result<(), String> {
        match self.policy != Policy::None && machine.nodes.len() > self.max_nodes {
            true => Err(format!("the topology manager is unsupported on machines with more than {} NUMA nodes, and this one has {}", self.max_nodes, machine.nodes.len())),
            false => Ok(()),
        }
    }

    /// The placement, and whether the pod may have it.
    pub fn merge(&self, machine: &Machine, hints: &[Hints]) -> (Hint, bool) {
        let whole = NumaMask::of(machine.node_ids());
        let mut all = listed(hints);
        if self.policy == Policy::SingleNumaNode {
            let fits = |hint: &Hint| hint.preferred && hint.mask.is_none_or(|mask| mask.count() == 1);
            all.iter_mut().for_each(|hints| hints.retain(fits));
        }
        let mut best = Merger { machine, whole, prefer_closest: self.prefer_closest, aim: aim(&all) }.best(&all);
        if self.policy == Policy::SingleNumaNode && best.mask == Some(whole) {
            best.mask = None;
        }
        let admitted = matches!(self.policy, Policy::None | Policy::BestEffort) || best.preferred;
        (best, admitted)
    }
}

/// The lists of all resources; who has no preference takes any, and who has no place has a bad one.
fn listed(hints: &[Hints]) -> Vec<Vec<Hint>> {
    let any = |preferred| vec![Hint { mask: None, preferred }];
    let list = |hints: &Option<Vec<Hint>>| match hints {
        None => any(true),
        Some(none) if none.is_empty() => any(false),
        Some(some) => some.clone(),
    };
    hints.iter().flat_map(|of_one| if of_one.is_empty() { vec![any(true)] } else { of_one.values().map(list).collect() }).collect()
}

/// Of what each resource needs at least, the most: a placement that is not preferred is best of so many nodes.
fn aim(all: &[Vec<Hint>]) -> usize {
    all.iter().filter_map(|hints| hints.iter().filter_map(|hint| hint.mask).map(NumaMask::count).min()).max().unwrap_or(0)
}

struct Merger<'a> {
    machine: &'a Machine,
    whole: NumaMask,
    prefer_closest: bool,
    aim: usize,
}

impl Merger<'_> {
    fn best(&self, all: &[Vec<Hint>]) -> Hint {
        let mut best = None;
        self.each(all, &mut Vec::new(), &mut best);
        let (mask, preferred) = best.unwrap_or((self.whole, false));
        Hint { mask: Some(mask), preferred }
    }

    /// Every way to take one hint of each list.
    fn each(&self, rest: &[Vec<Hint>], taken: &mut Vec<Hint>, best: &mut Option<(NumaMask, bool)>) {
        let Some((first, rest)) = rest.split_first() else {
            let candidate = self.joined(taken);
            if candidate.0.count() > 0 && best.is_none_or(|current| self.is_better(candidate, current)) {
                *best = Some(candidate);
            }
            return;
        };
        for hint in first {
            taken.push(*hint);
            self.each(rest, taken, best);
            taken.pop();
        }
    }

    /// What all of them allow. Preferred only where all are, and are the same.
    fn joined(&self, taken: &[Hint]) -> (NumaMask, bool) {
        let mut masks = taken.iter().filter_map(|hint| hint.mask);
        let first = masks.next();
        let same = masks.all(|mask| Some(mask) == first);
        let mask = taken.iter().filter_map(|hint| hint.mask).fold(self.whole, NumaMask::and);
        (mask, same && taken.iter().all(|hint| hint.preferred))
    }

    fn is_better(&self, (mask, preferred): (NumaMask, bool), (current, current_preferred): (NumaMask, bool)) -> bool {
        if preferred != current_preferred {
            return preferred;
        }
        if preferred || current.count() > self.aim {
            return self.is_fitter(mask, current);
        }
        // Neither is preferred: as many nodes as the neediest resource takes, or the next fewer.
        let (count, has) = (mask.count(), current.count());
        match has == self.aim {
            true => count == self.aim && self.is_fitter(mask, current),
            false => count <= self.aim && (count > has || (count == has && self.is_fitter(mask, current))),
        }
    }

    fn is_fitter(&self, mask: NumaMask, than: NumaMask) -> bool {
        if self.prefer_closest && mask.count() == than.count() {
            let (own, other) = (self.machine.average_distance(mask), self.machine.average_distance(than));
            return if own == other { mask.is_narrower_than(than) } else { own < other };
        }
        mask.is_narrower_than(than)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::machine::tests::machine;

    fn hints(name: &str, list: &[(&[usize], bool)]) -> Hints {
        let hints = list.iter().map(|(nodes, preferred)| Hint { mask: Some(NumaMask::of(nodes.iter().copied())), preferred: *preferred });
        Hints::from([(name.to_string(), Some(hints.collect()))])
    }

    fn merged(policy: Policy, all: &[Hints]) -> (Option<Vec<usize>>, bool, bool) {
        let topology = Topology { policy, ..Default::default() };
        let (hint, admitted) = topology.merge(&machine(2, 1, 2, 1), all);
        (hint.mask.map(NumaMask::nodes), hint.preferred, admitted)
    }

    #[test]
    fn what_all_prefer_is_taken_and_the_policies_differ_where_nothing_is() {
        let cpu = hints("cpu", &[(&[0], true), (&[1], true), (&[0, 1], false)]);
        let device = hints("example.com/x", &[(&[1], true), (&[0, 1], false)]);
        for policy in [Policy::BestEffort, Policy::Restricted, Policy::SingleNumaNode] {
            assert_eq!(merged(policy, &[cpu.clone(), device.clone()]), (Some(vec![1]), true, true), "{policy:?}");
        }
        let elsewhere = hints("example.com/x", &[(&[1], true)]);
        let here = hints("cpu", &[(&[0], true), (&[0, 1], false)]);
        assert_eq!(merged(Policy::BestEffort, &[here.clone(), elsewhere.clone()]), (Some(vec![1]), false, true));
        assert!(!merged(Policy::Restricted, &[here.clone(), elsewhere.clone()]).2);
        assert!(!merged(Policy::SingleNumaNode, &[here, elsewhere]).2);
    }

    #[test]
    fn more_than_a_node_holds_is_fine_for_restricted_and_not_for_a_single_node() {
        let both = hints("cpu", &[(&[0, 1], true)]);
        assert_eq!(merged(Policy::Restricted, std::slice::from_ref(&both)), (Some(vec![0, 1]), true, true));
        assert!(!merged(Policy::SingleNumaNode, &[both]).2);
    }

    #[test]
    fn who_has_no_preference_does_not_matter_and_who_has_no_place_does() {
        let none = Hints::new();
        let nowhere = Hints::from([("example.com/x".to_string(), Some(Vec::new()))]);
        assert_eq!(merged(Policy::SingleNumaNode, &[none.clone(), none.clone()]), (None, true, true));
        assert_eq!(merged(Policy::Restricted, &[none.clone(), nowhere.clone()]), (Some(vec![0, 1]), false, false));
        assert!(merged(Policy::BestEffort, &[none, nowhere]).2);
    }

    #[test]
    fn the_closest_nodes_are_taken_where_that_is_asked_for() {
        let machine = machine(2, 2, 1, 1);
        let two = hints("cpu", &[(&[0, 2], true), (&[2, 3], true)]);
        let merged = |prefer_closest| Topology { policy: Policy::BestEffort, prefer_closest, ..Default::default() }.merge(&machine, std::slice::from_ref(&two)).0.mask;
        assert_eq!((merged(false), merged(true)), (Some(NumaMask::of([0, 2])), Some(NumaMask::of([2, 3]))));
    }

    #[test]
    fn words_of_the_flags_are_read_and_others_refused() {
        let options = BTreeMap::from([("prefer-closest-numa-nodes".to_string(), "true".to_string())]);
        let read = Topology::parse("restricted", "pod", &options).expect("valid");
        assert_eq!(read, Topology { policy: Policy::Restricted, scope: Scope::Pod, prefer_closest: true, ..Default::default() });
        Topology::parse("strict", "pod", &options).expect_err("no policy");
        Topology::parse("none", "node", &options).expect_err("no scope");
        Topology::parse("none", "pod", &BTreeMap::from([("x".to_string(), "y".to_string())])).expect_err("no option");
        assert!(Topology { policy: Policy::Restricted, ..Default::default() }.check(&machine(3, 3, 1, 1)).is_err());
    }
}
