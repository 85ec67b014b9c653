//! Which NUMA nodes would suit: what the managers of cpus, memory and devices tell the topology manager (KEP-693).

use std::collections::BTreeMap;

/// NUMA nodes of a machine, by number; at most 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NumaMask(u64);

impl NumaMask {
    pub fn of(nodes: impl IntoIterator<Item = usize>) -> Self {
        Self(nodes.into_iter().filter(|node| *node < 64).fold(0, |mask, node| mask | 1 << node))
    }
    pub fn nodes(self) -> Vec<usize> {
        (0..64).filter(|node| self.contains(*node)).collect()
    }
    pub fn contains(self, node: usize) -> bool {
        node < 64 && self.0 & (1 << node) != 0
    }
    pub fn contains_any(self, nodes: impl IntoIterator<Item = usize>) -> bool {
        nodes.into_iter().any(|node| self.contains(node))
    }
    pub fn contains_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
    /// Of fewer nodes, or of as many with lower numbers.
    pub fn is_narrower_than(self, other: Self) -> bool {
        (self.count(), self.0) < (other.count(), other.0)
    }
}

/// One placement that is possible. Without a mask: any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    pub mask: Option<NumaMask>,
    pub preferred: bool,
}

/// By resource: no preference (`None`), or the placements that are possible, which may be none.
pub type Hints = BTreeMap<String, Option<Vec<Hint>>>;

/// Every set of these nodes that is not empty, the smaller first.
pub fn masks(nodes: &[usize]) -> Vec<NumaMask> {
    let mut all: Vec<NumaMask> = (1u64..1 << nodes.len().min(16)).map(|bits| NumaMask::of((0..nodes.len()).filter(|at| bits & (1 << at) != 0).map(|at| nodes[at]))).collect();
    all.sort_by_key(|mask| (mask.count(), mask.nodes()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_come_smaller_first_and_in_the_nodes_order() {
        let shown: Vec<Vec<usize>> = masks(&[0, 1, 3]).into_iter().map(NumaMask::nodes).collect();
        assert_eq!(shown, [vec![0], vec![1], vec![3], vec![0, 1], vec![0, 3], vec![1, 3], vec![0, 1, 3]]);
        assert!(NumaMask::of([3]).is_narrower_than(NumaMask::of([0, 1])) && NumaMask::of([0]).is_narrower_than(NumaMask::of([1])));
    }
}
