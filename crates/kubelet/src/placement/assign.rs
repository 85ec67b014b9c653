//! Which processors make up a number of them: whole NUMA nodes and sockets, then whole caches where that is wished, whole cores, threads; each
//! from where the fewest are left. Pure.
//!
//! Entry points: [`packed`], [`distributed`]. Source: upstream's static CPU manager policy (KEP-693, KEP-2902, KEP-4800).

use super::cpu_set::CpuSet;
use super::hints::{NumaMask, masks};
use super::machine::{Cpu, Machine};
use std::collections::BTreeSet;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not enough cpus available to satisfy request: requested={wanted}, available={available}")]
pub struct NotEnough {
    pub wanted: usize,
    pub available: usize,
}

struct Taking<'a> {
    machine: &'a Machine,
    free: CpuSet,
    taken: CpuSet,
    wanted: usize,
}

impl Taking<'_> {
    fn missing(&self) -> usize {
        self.wanted - self.taken.len()
    }
    fn take(&mut self, cpus: &CpuSet) {
        self.taken = self.taken.union(cpus);
        self.free = self.free.difference(cpus);
    }
    fn free_where(&self, holds: impl Fn(&Cpu) -> bool) -> CpuSet {
        self.free.intersection(&self.machine.cpus_where(holds))
    }
    /// Takes each of a kind of part that is wholly free, as long as no more than is missing comes.
    fn take_whole(&mut self, part: impl Fn(&Cpu) -> usize, order: Vec<usize>) {
        for id in order {
            let all = self.machine.cpus_where(|cpu| part(cpu) == id);
            if !all.is_empty() && all.len() <= self.missing() && all.is_subset(&self.free) {
                self.take(&all);
            }
        }
    }
    /// The parts of a kind among `within`, those with the fewest free processors first.
    fn fewest_first(&self, within: &CpuSet, part: impl Fn(&Cpu) -> usize) -> Vec<usize> {
        let ids: BTreeSet<usize> = within.iter().map(|cpu| part(&self.machine.cpus[&cpu])).collect();
        let mut ids: Vec<usize> = ids.into_iter().collect();
        ids.sort_by_key(|id| (within.iter().filter(|cpu| part(&self.machine.cpus[cpu]) == *id).count(), *id));
        ids
    }
    /// Cores with something free: socket by socket and node by node, those with the least first.
    fn cores(&self) -> Vec<usize> {
        let mut cores = Vec::new();
        for socket in self.fewest_first(&self.free, |cpu| cpu.socket) {
            let of_socket = self.free_where(|cpu| cpu.socket == socket);
            for node in self.fewest_first(&of_socket, |cpu| cpu.node) {
                let of_node = of_socket.intersection(&self.machine.cpus_where(|cpu| cpu.node == node));
                cores.extend(self.fewest_first(&of_node, |cpu| cpu.core));
            }
        }
        cores
    }
    /// Whole caches, then of one cache the whole cores that are still missing.
    fn take_caches(&mut self) {
        let order = self.fewest_first(&self.free, |cpu| cpu.cache);
        self.take_whole(|cpu| cpu.cache, order.clone());
        for cache in order {
            let here = self.free_where(|cpu| cpu.cache == cache);
            let whole: CpuSet = here.iter().filter(|cpu| self.machine.cpus_where(|other| other.core == self.machine.cpus[cpu].core).is_subset(&here)).collect();
            if self.missing() == 0 || whole.len() < self.missing() {
                continue;
            }
            let mut by_core: Vec<usize> = whole.iter().collect();
            by_core.sort_by_key(|cpu| (self.machine.cpus[cpu].core, *cpu));
            let cpus = by_core.into_iter().take(self.missing()).collect();
            self.take(&cpus);
        }
    }
}

/// As few parts of the machine as will do.
pub fn packed(machine: &Machine, free: &CpuSet, wanted: usize, by_cache: bool) -> Result<CpuSet, NotEnough> {
    if free.len() < wanted {
        return Err(NotEnough { wanted, available: free.len() });
    }
    let mut taking = Taking { machine, free: free.clone(), taken: CpuSet::default(), wanted };
    let (sockets, nodes): (Vec<usize>, Vec<usize>) = (machine.sockets().into_iter().collect(), machine.node_ids());
    // The larger of both first: some sockets have several nodes, some nodes several sockets.
    if sockets.len() >= nodes.len() {
        taking.take_whole(|cpu| cpu.node, nodes);
        taking.take_whole(|cpu| cpu.socket, sockets);
    } else {
        taking.take_whole(|cpu| cpu.socket, sockets);
        taking.take_whole(|cpu| cpu.node, nodes);
    }
    if by_cache {
        taking.take_caches();
    }
    let order = taking.cores();
    taking.take_whole(|cpu| cpu.core, order);
    for core in taking.cores() {
        let threads: CpuSet = taking.free_where(|cpu| cpu.core == core).iter().take(taking.missing()).collect();
        taking.take(&threads);
    }
    Ok(taking.taken)
}

/// Evenly over as few NUMA nodes as will do, `group` processors at a time; packed where that cannot be.
pub fn distributed(machine: &Machine, free: &CpuSet, wanted: usize, group: usize, by_cache: bool) -> Result<CpuSet, NotEnough> {
    let evenly = (wanted > 0 && wanted.is_multiple_of(group)).then(|| shares(machine, free, wanted, group)).flatten();
    let Some(shares) = evenly else { return packed(machine, free, wanted, by_cache) };
    let mut taken = CpuSet::default();
    for (node, share) in shares {
        let here = free.intersection(&machine.in_nodes(NumaMask::of([node])));
        taken = taken.union(&packed(machine, &here, share, by_cache)?);
    }
    Ok(taken)
}

/// What each node gives. Of the sets of as few nodes as will do, the one that leaves the nodes most alike.
fn shares(machine: &Machine, free: &CpuSet, wanted: usize, group: usize) -> Option<Vec<(usize, usize)>> {
    let available = |node: usize| {
        let here = free.intersection(&machine.in_nodes(NumaMask::of([node])));
        // In groups of whole cores only what whole cores are free counts.
        let whole = here.iter().filter(|cpu| group == 1 || machine.cpus_where(|other| other.core == machine.cpus[cpu].core).is_subset(&here)).count();
        whole / group * group
    };
    let left: Vec<(usize, usize)> = machine.node_ids().into_iter().map(|node| (node, available(node))).filter(|(_, count)| *count > 0).collect();
    let ids: Vec<usize> = left.iter().map(|(node, _)| *node).collect();
    let of = |node: usize| left.iter().find(|(id, _)| *id == node).map_or(0, |(_, count)| *count);
    let mut best: Option<(usize, usize, Vec<(usize, usize)>)> = None;
    for mask in masks(&ids) {
        if best.as_ref().is_some_and(|(count, _, _)| mask.count() > *count) {
            break;
        }
        let nodes = mask.nodes();
        let each = wanted / nodes.len() / group * group;
        if each == 0 || nodes.iter().any(|node| of(*node) < each) {
            continue;
        }
        let mut shares: Vec<(usize, usize)> = nodes.iter().map(|node| (*node, each)).collect();
        let mut rest = wanted - each * nodes.len();
        // What does not divide goes to where the most is left.
        shares.sort_by_key(|(node, share)| (std::cmp::Reverse(of(*node) - share), *node));
        for (node, share) in &mut shares {
            if rest > 0 && of(*node) >= *share + group {
                *share += group;
                rest -= group;
            }
        }
        if rest > 0 {
            continue;
        }
        let after: Vec<usize> = left.iter().map(|(node, count)| count - shares.iter().find(|(id, _)| id == node).map_or(0, |(_, share)| *share)).collect();
        // Sum of squares: with the same sum the smaller is the more even.
        let unevenness = after.iter().map(|count| count * count).sum();
        if best.as_ref().is_none_or(|(_, least, _)| unevenness < *least) {
            best = Some((mask.count(), unevenness, shares));
        }
    }
    best.map(|(_, _, shares)| shares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::machine::tests::machine;

    fn set(text: &str) -> CpuSet {
        CpuSet::parse(text).expect("a list")
    }

    fn pack(machine: &Machine, free: &str, wanted: usize) -> String {
        packed(machine, &set(free), wanted, false).expect("enough").to_string()
    }

    #[test]
    fn whole_parts_first_and_threads_of_broken_cores_for_the_rest() {
        let small = machine(1, 1, 4, 2);
        for (free, wanted, got) in [("0-7", 8, "0-7"), ("0-7", 2, "0,4"), ("0-7", 1, "0"), ("1-7", 1, "4"), ("0-7", 3, "0-1,4"), ("0-1,4", 2, "0,4"), ("1-3,5-7", 2, "1,5")] {
            assert_eq!(pack(&small, free, wanted), got, "{wanted} of {free}");
        }
        let two = machine(2, 1, 2, 2);
        for (free, wanted, got) in [("0-7", 4, "0-1,4-5"), ("1-7", 4, "2-3,6-7"), ("0-7", 6, "0-2,4-6"), ("0-2,4-6", 2, "2,6")] {
            assert_eq!(pack(&two, free, wanted), got, "{wanted} of {free}");
        }
        assert_eq!(packed(&small, &set("0-1"), 3, false), Err(NotEnough { wanted: 3, available: 2 }));
    }

    #[test]
    fn a_container_stays_within_one_cache_where_that_is_wished() {
        // One socket, one node, and two caches of two cores each.
        let mut machine = machine(1, 1, 4, 1);
        machine.cpus.iter_mut().for_each(|(id, cpu)| cpu.cache = id / 2);
        let by_cache = |free: &str, wanted, wish| packed(&machine, &set(free), wanted, wish).expect("enough").to_string();
        assert_eq!((by_cache("1-3", 2, false), by_cache("1-3", 2, true)), ("1-2".into(), "2-3".into()));
    }

    #[test]
    fn processors_are_spread_evenly_over_as_few_nodes_as_will_do() {
        let machine = machine(2, 1, 4, 1);
        let spread = |free: &str, wanted, group| distributed(&machine, &set(free), wanted, group, false).expect("enough").to_string();
        assert_eq!(spread("0-7", 4, 1), "0-3", "one node will do");
        assert_eq!(spread("0-7", 6, 1), "0-2,4-6");
        assert_eq!(spread("1-7", 5, 1), "1-2,4-6", "more from where more is left");
        assert_eq!(spread("3-7", 5, 1), "3-7", "not evenly, so packed");
    }
}
