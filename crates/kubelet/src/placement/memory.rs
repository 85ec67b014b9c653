//! The memory manager's Static policy (KEP-1769): memory and huge pages of Guaranteed pods' containers come from as few NUMA nodes as will do, and
//! are not promised twice.
//!
//! Entry points: [`Memory::open`], [`Memory::allocate`], [`Memory::nodes_of`]. Invariant: a NUMA node serves containers that fit on it alone, or
//! one group of nodes, never both; `memory_manager_state` says who has what before a container starts.

use super::checkpoint;
use super::hints::{Hint, Hints, NumaMask, masks};
use super::machine::Machine;
use crate::machine::is_sidecar;
use crate::{metrics, qos};
use k8s_openapi::api::core::v1::{Container, Pod};
use keles_volumes::quantity::Quantity;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub const FILE: &str = "memory_manager_state";
const NONE: &str = "None";
const STATIC: &str = "Static";
const MEMORY: &str = "memory";

/// What is kept from pods, by NUMA node and resource, in bytes (`--reserved-memory`).
pub type Reserved = BTreeMap<usize, BTreeMap<String, u64>>;

/// `--memory-manager-policy` and what goes with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    None,
    Static(Reserved),
}

impl Policy {
    pub fn parse(policy: &str, reserved: &[String]) -> Result<Self, String> {
        let reserved = parse_reserved(reserved)?;
        match policy {
            NONE => Ok(Self::None),
            STATIC => Ok(Self::Static(reserved)),
            other => Err(format!("unknown memory manager policy: \"{other}\"; it is None or Static")),
        }
    }
}

/// `0:memory=1Gi,hugepages-2Mi=4Mi`, one for each NUMA node, or several with `;` between.
fn parse_reserved(all: &[String]) -> Result<Reserved, String> {
    let mut reserved = Reserved::new();
    for text in all.iter().flat_map(|text| text.split(';')).map(str::trim).filter(|text| !text.is_empty()) {
        let bad = || format!("invalid reserved memory {text:?}: it is NODE:TYPE=QUANTITY,…");
        let (node, amounts) = text.split_once(':').ok_or_else(bad)?;
        let node: usize = node.parse().map_err(|_| bad())?;
        for amount in amounts.split(',') {
            let (kind, amount) = amount.split_once('=').ok_or_else(bad)?;
            if kind != MEMORY && !kind.starts_with("hugepages-") {
                return Err(format!("the resource type {kind:?} is invalid for reserved memory: it is memory or hugepages-SIZE"));
            }
            let bytes = Quantity::parse(amount).map(Quantity::whole).filter(|bytes| *bytes > 0).ok_or_else(bad)?;
            if reserved.entry(node).or_default().insert(kind.into(), bytes as u64).is_some() {
                return Err(format!("the reserved memory has a duplicate value for NUMA node {node} and resource {kind:?}"));
            }
        }
    }
    Ok(reserved)
}

#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("[memorymanager] you should specify the system reserved memory (--reserved-memory)")]
    NothingReserved,
    #[error(
        "the total amount \"{named}\" of type \"memory\" is not equal to the value \"{kept}\" determined by Node Allocatable feature: --reserved-memory must add up to --kube-reserved, --system-reserved and the hard eviction threshold"
    )]
    Sum { named: u64, kept: u64 },
    #[error("--reserved-memory keeps {bytes} bytes of {kind} on NUMA node {node}, which has not so much")]
    TooMuch { node: usize, kind: String, bytes: u64 },
    #[error("could not restore state from checkpoint: {fault}, please drain this node and delete the memory manager checkpoint file \"{file}\" before restarting Kubelet")]
    Checkpoint { file: String, fault: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Table {
    total: u64,
    #[serde(rename = "systemReserved")]
    system_reserved: u64,
    allocatable: u64,
    reserved: u64,
    free: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeState {
    number_of_assignments: i64,
    memory_map: BTreeMap<String, Table>,
    /// The nodes that serve together.
    cells: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    pub numa_affinity: Vec<usize>,
    #[serde(rename = "type")]
    pub kind: String,
    pub size: u64,
}

type Assigned = BTreeMap<String, BTreeMap<String, Vec<Block>>>;

/// Upstream's MemoryManagerCheckpoint of version 1, which every later one reads.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Checkpoint {
    policy_name: String,
    machine_state: BTreeMap<usize, NodeState>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: Assigned,
    checksum: u64,
}

impl Checkpoint {
    /// As Go prints it with its checksum 0. `<*>` stands for a pointer.
    fn print(&self) -> String {
        let table = |table: &Table| {
            format!(
                "<*>{{TotalMemSize:(uint64){} SystemReserved:(uint64){} Allocatable:(uint64){} Reserved:(uint64){} Free:(uint64){}}}",
                table.total, table.system_reserved, table.allocatable, table.reserved, table.free
            )
        };
        let node = |node: &NodeState| {
            let memory = checkpoint::map(node.memory_map.iter().map(|(kind, of)| (kind, table(of))));
            let cells = checkpoint::list(&node.cells);
            format!("<*>{{NumberOfAssignments:(int){} MemoryMap:(map[v1.ResourceName]*state.MemoryTable){memory} Cells:([]int){cells}}}", node.number_of_assignments)
        };
        let block = |block: &Block| format!("{{NUMAAffinity:([]int){} Type:(v1.ResourceName){} Size:(uint64){}}}", checkpoint::list(&block.numa_affinity), block.kind, block.size);
        let containers = |all: &BTreeMap<String, Vec<Block>>| checkpoint::map(all.iter().map(|(name, blocks)| (name, checkpoint::list(blocks.iter().map(block)))));
        let machine = checkpoint::map(self.machine_state.iter().map(|(id, state)| (id, node(state))));
        let entries = checkpoint::map(self.entries.iter().map(|(pod, all)| (pod, containers(all))));
        format!(
            "(*state.MemoryManagerCheckpoint){{PolicyName:(string){} MachineState:(state.NUMANodeMap){machine} Entries:(state.ContainerMemoryAssignments){entries} Checksum:(checksum.Checksum)0}}",
            self.policy_name
        )
    }
}

fn write(file: &Path, policy: &str, machine_state: &BTreeMap<usize, NodeState>, entries: &Assigned) -> std::io::Result<()> {
    let mut kept = Checkpoint { policy_name: policy.into(), machine_state: machine_state.clone(), entries: entries.clone(), checksum: 0 };
    kept.checksum = checkpoint::checksum(&kept.print());
    checkpoint::write(file, &serde_json::to_vec(&kept).map_err(std::io::Error::other)?)
}

fn read(file: &Path, policy: &str) -> Result<Option<Checkpoint>, String> {
    let text = match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| error.to_string())?,
    };
    let kept: Checkpoint = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    // Upstream lets a checksum of 0 pass.
    if kept.checksum != 0 && kept.checksum != checkpoint::checksum(&kept.print()) {
        return Err("checkpoint is corrupted".into());
    }
    if kept.policy_name != policy {
        return Err(format!("[memorymanager] configured policy \"{policy}\" differs from state checkpoint policy \"{}\"", kept.policy_name));
    }
    Ok(Some(kept))
}

/// What init containers that end leave to those after them, by the nodes it is on and the resource.
#[derive(Default)]
pub struct Reusable(BTreeMap<(Vec<usize>, String), u64>);

/// Memory of the containers under the Static policy.
pub struct Memory {
    nodes: BTreeMap<usize, NodeState>,
    assigned: Assigned,
    file: PathBuf,
}

impl Memory {
    /// `None` under the None policy, whose file says so. `kept_bytes` is what of the node's memory is not for pods.
    pub fn open(folder: &Path, policy: &Policy, machine: &Machine, kept_bytes: u64) -> Result<Option<Self>, MemoryError> {
        let file = folder.join(FILE);
        let failed = |fault: String| MemoryError::Checkpoint { file: file.display().to_string(), fault };
        let found = read(&file, if *policy == Policy::None { NONE } else { STATIC }).map_err(failed)?;
        let Policy::Static(reserved) = policy else {
            if found.is_none() {
                write(&file, NONE, &BTreeMap::new(), &Assigned::new()).map_err(|error| failed(error.to_string()))?;
            }
            return Ok(None);
        };
        let named: u64 = reserved.values().filter_map(|of_node| of_node.get(MEMORY)).sum();
        if named == 0 {
            return Err(MemoryError::NothingReserved);
        }
        if named != kept_bytes {
            return Err(MemoryError::Sum { named, kept: kept_bytes });
        }
        let fresh = Self { nodes: fresh(machine, reserved)?, assigned: Assigned::new(), file: file.clone() };
        let memory = match found {
            Some(kept) => fresh.checked(kept).map_err(failed)?,
            None => fresh,
        };
        memory.save().map_err(|error| failed(error.to_string()))?;
        Ok(Some(memory))
    }

    /// What an earlier run gave must add up on the machine as it is now.
    fn checked(mut self, kept: Checkpoint) -> Result<Self, String> {
        for (pod, containers) in &kept.entries {
            for (container, blocks) in containers {
                for block in blocks {
                    if block.numa_affinity.iter().any(|node| !self.nodes.get(node).is_some_and(|state| state.memory_map.contains_key(&block.kind))) {
                        return Err(format!("[memorymanager] (pod: {pod}, container: {container}) the memory assignment uses the NUMA that does not exist"));
                    }
                    self.book(&block.numa_affinity, &block.kind, block.size);
                }
            }
        }
        let same = |(id, own): (&usize, &NodeState)| {
            kept.machine_state.get(id).is_some_and(|kept| {
                let alike = |(kind, own): (&String, &Table)| {
                    kept.memory_map.get(kind).is_some_and(|kept| (kept.total, kept.system_reserved, kept.allocatable) == (own.total, own.system_reserved, own.allocatable))
                };
                own.number_of_assignments == kept.number_of_assignments && own.cells == kept.cells && own.memory_map.iter().all(alike)
            })
        };
        if kept.machine_state.len() != self.nodes.len() || !self.nodes.iter().all(same) {
            return Err("[memorymanager] the expected machine state is different from the real one".into());
        }
        self.assigned = kept.entries;
        Ok(self)
    }

    fn save(&self) -> std::io::Result<()> {
        write(&self.file, STATIC, &self.nodes, &self.assigned)
    }

    /// The NUMA nodes that a container's memory comes from.
    pub fn nodes_of(&self, uid: &str, container: &str) -> Option<Vec<usize>> {
        let blocks = self.assigned.get(uid)?.get(container)?;
        let nodes: BTreeSet<usize> = blocks.iter().flat_map(|block| block.numa_affinity.iter().copied()).collect();
        (!nodes.is_empty()).then(|| nodes.into_iter().collect())
    }

    pub fn of_container(&self, uid: &str, container: &str) -> Vec<Block> {
        self.assigned.get(uid).and_then(|all| all.get(container)).cloned().unwrap_or_default()
    }

    /// All that containers may have, by node and resource.
    pub fn allocatable(&self) -> Vec<Block> {
        let of = |(id, node): (&usize, &NodeState)| -> Vec<Block> {
            node.memory_map
                .iter()
                .filter(|(_, table)| table.allocatable > 0)
                .map(|(kind, table)| Block { numa_affinity: vec![*id], kind: kind.clone(), size: table.allocatable })
                .collect()
        };
        self.nodes.iter().flat_map(of).collect()
    }

    pub fn allocate(&mut self, pod: &Pod, container: &Container, affinity: Hint, reusable: &mut Reusable) -> Result<(), String> {
        let wanted = requests(pod, container);
        if wanted.is_empty() {
            return Ok(());
        }
        metrics::MEMORY_PINNING.with([]).increment();
        self.give(pod, container, &wanted, affinity, reusable).inspect_err(|_| metrics::MEMORY_PINNING_ERRORS.with([]).increment())
    }

    fn give(&mut self, pod: &Pod, container: &Container, wanted: &BTreeMap<String, u64>, affinity: Hint, reusable: &mut Reusable) -> Result<(), String> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(blocks) = self.assigned.get(&uid).and_then(|all| all.get(&container.name)) {
            note(reusable, pod, container, blocks);
            return Ok(());
        }
        let mask = self.choose(wanted, affinity, reusable)?;
        let before = (self.nodes.clone(), self.assigned.clone());
        let nodes = mask.nodes();
        let mut blocks = Vec::new();
        for (kind, size) in wanted {
            blocks.push(Block { numa_affinity: nodes.clone(), kind: kind.clone(), size: *size });
            let again = reusable.0.get(&(nodes.clone(), kind.clone())).copied().unwrap_or(0);
            self.book(&nodes, kind, size.saturating_sub(again));
        }
        note(reusable, pod, container, &blocks);
        self.shrink_inits(pod, container, &blocks);
        self.assigned.entry(uid).or_default().insert(container.name.clone(), blocks);
        if let Err(error) = self.save() {
            (self.nodes, self.assigned) = before;
            return Err(format!("could not write {}: {error}", self.file.display()));
        }
        Ok(())
    }

    /// The nodes: those the topology manager found, or more of them where they do not do.
    fn choose(&self, wanted: &BTreeMap<String, u64>, affinity: Hint, reusable: &Reusable) -> Result<NumaMask, String> {
        let possible = self.possible(wanted, reusable);
        let (mask, preferred) = match affinity.mask {
            Some(mask) => (mask, affinity.preferred),
            None => {
                let best = best(&possible).ok_or("[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")?;
                if !best.preferred && affinity.preferred {
                    return Err("[memorymanager] failed to find the default preferred hint".into());
                }
                (best.mask.unwrap_or_default(), best.preferred)
            }
        };
        let has = |kind: &String, size: u64| mask.nodes().iter().filter_map(|node| self.nodes.get(node)?.memory_map.get(kind)).map(|table| table.free).sum::<u64>() >= size;
        let mask = if wanted.iter().all(|(kind, size)| has(kind, *size)) || possible.iter().any(|hint| hint.mask == Some(mask)) {
            mask
        } else {
            let wider: Vec<Hint> = possible.into_iter().filter(|hint| hint.mask.is_some_and(|wider| wider.contains_all(mask))).collect();
            let best = best(&wider).ok_or("[memorymanager] failed to find NUMA nodes to extend the current topology hint")?;
            if !best.preferred && preferred {
                return Err("[memorymanager] failed to find the extended preferred hint".into());
            }
            best.mask.unwrap_or_default()
        };
        match self.mixes(mask) {
            true => Err("[memorymanager] preferred hint violates NUMA node allocation".into()),
            false => Ok(mask),
        }
    }

    /// Whether a group of nodes would take one that serves alone, or in another group.
    fn mixes(&self, mask: NumaMask) -> bool {
        let nodes = mask.nodes();
        nodes.len() > 1 && nodes.iter().filter_map(|node| self.nodes.get(node)).any(|state| state.number_of_assignments > 0 && state.cells != nodes)
    }

    /// Every set of nodes that could serve.
    fn possible(&self, wanted: &BTreeMap<String, u64>, reusable: &Reusable) -> Vec<Hint> {
        let ids: Vec<usize> = self.nodes.keys().copied().collect();
        let mut least = ids.len();
        let mut found = Vec::new();
        for mask in masks(&ids) {
            let nodes = mask.nodes();
            let sum = |kind: &String, of: fn(&Table) -> u64| nodes.iter().filter_map(|node| self.nodes[node].memory_map.get(kind)).map(of).sum::<u64>();
            if wanted.iter().any(|(kind, size)| sum(kind, |table| table.allocatable) < *size) {
                continue;
            }
            least = least.min(mask.count());
            let is_of_group = nodes.len() == 1 && self.nodes[&nodes[0]].cells.len() > 1;
            let again = |kind: &String| reusable.0.get(&(nodes.clone(), kind.clone())).copied().unwrap_or(0);
            let has_free = wanted.iter().all(|(kind, size)| sum(kind, |table| table.free) + again(kind) >= *size);
            if !is_of_group && !self.mixes(mask) && has_free {
                found.push(mask);
            }
        }
        found.into_iter().map(|mask| Hint { mask: Some(mask), preferred: mask.count() == least }).collect()
    }

    fn book(&mut self, nodes: &[usize], kind: &str, mut size: u64) {
        for id in nodes {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            node.number_of_assignments += 1;
            node.cells = nodes.to_vec();
            if let Some(table) = node.memory_map.get_mut(kind) {
                let part = size.min(table.free);
                (table.free, table.reserved, size) = (table.free - part, table.reserved + part, size - part);
            }
        }
    }

    /// What containers take over from init containers is shown with them, so that the sum is what the pod holds (upstream's rule).
    fn shrink_inits(&mut self, pod: &Pod, container: &Container, blocks: &[Block]) {
        let Some(held) = self.assigned.get_mut(pod.metadata.uid.as_deref().unwrap_or_default()) else { return };
        let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).take_while(|init| init.name != container.name).filter(|init| !is_sidecar(init));
        let inits: Vec<&String> = inits.map(|init| &init.name).collect();
        for block in blocks {
            let mut left = block.size;
            for name in &inits {
                for earlier in held.get_mut(*name).into_iter().flatten().filter(|earlier| earlier.kind == block.kind && earlier.numa_affinity == block.numa_affinity) {
                    let part = left.min(earlier.size);
                    (earlier.size, left) = (earlier.size - part, left - part);
                }
            }
        }
    }

    /// The pod is over.
    pub fn release(&mut self, uid: &str) {
        let Some(containers) = self.assigned.remove(uid) else { return };
        for block in containers.into_values().flatten() {
            let mut size = block.size;
            for id in &block.numa_affinity {
                let Some(node) = self.nodes.get_mut(id) else { continue };
                node.number_of_assignments -= 1;
                if node.number_of_assignments == 0 {
                    node.cells = vec![*id];
                }
                if let Some(table) = node.memory_map.get_mut(&block.kind) {
                    let part = size.min(table.reserved);
                    (table.free, table.reserved, size) = (table.free + part, table.reserved - part, size - part);
                }
            }
        }
        self.save().unwrap_or_else(|error| tracing::warn!(%error, pod = uid, "memory of a pod that is gone is still in the checkpoint"));
    }

    pub fn holders(&self) -> Vec<String> {
        self.assigned.keys().cloned().collect()
    }

    /// Where so much could come from; of a container that has it already, where it is.
    pub fn hints(&self, uid: &str, container: Option<&str>, wanted: &BTreeMap<String, u64>, reusable: &Reusable) -> Hints {
        let held = self.assigned.get(uid).and_then(|all| match container {
            Some(name) => all.get(name),
            None => all.values().next(),
        });
        let hint = |kind: &String| match held {
            None => self.possible(wanted, reusable),
            Some(blocks) => {
                let same = blocks.iter().filter(|block| block.kind == *kind);
                same.map(|block| Hint { mask: Some(NumaMask::of(block.numa_affinity.iter().copied())), preferred: true }).collect()
            }
        };
        wanted.keys().map(|kind| (kind.clone(), Some(hint(kind)))).collect()
    }
}

fn fresh(machine: &Machine, reserved: &Reserved) -> Result<BTreeMap<usize, NodeState>, MemoryError> {
    if let Some((node, kind, bytes)) =
        reserved.iter().find(|(node, _)| !machine.nodes.contains_key(node)).and_then(|(node, of)| of.iter().next().map(|(kind, bytes)| (*node, kind.clone(), *bytes)))
    {
        return Err(MemoryError::TooMuch { node, kind, bytes });
    }
    let mut all = BTreeMap::new();
    for (id, node) in &machine.nodes {
        let kept = |kind: &str| reserved.get(id).and_then(|of_node| of_node.get(kind)).copied().unwrap_or(0);
        let pages: u64 = node.huge_pages.values().sum();
        let sizes = node.huge_pages.iter().map(|(kind, total)| (kind.clone(), *total, *total));
        let mut memory_map = BTreeMap::new();
        for (kind, total, usable) in sizes.chain([(MEMORY.to_string(), node.memory_bytes, node.memory_bytes.saturating_sub(pages))]) {
            let system_reserved = kept(&kind);
            let allocatable = usable.checked_sub(system_reserved).ok_or(MemoryError::TooMuch { node: *id, kind: kind.clone(), bytes: system_reserved })?;
            memory_map.insert(kind, Table { total, system_reserved, allocatable, reserved: 0, free: allocatable });
        }
        all.insert(*id, NodeState { number_of_assignments: 0, memory_map, cells: vec![*id] });
    }
    Ok(all)
}

fn best(hints: &[Hint]) -> Option<Hint> {
    let narrowness = |hint: &Hint| hint.mask.map(|mask| (mask.count(), mask.nodes()));
    hints.iter().min_by_key(|hint| (!hint.preferred, narrowness(hint))).copied()
}

fn note(reusable: &mut Reusable, pod: &Pod, container: &Container, blocks: &[Block]) {
    let ends = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).any(|init| init.name == container.name && !is_sidecar(init));
    for block in blocks {
        let left = reusable.0.entry((block.numa_affinity.clone(), block.kind.clone())).or_default();
        *left = if ends { (*left).max(block.size) } else { left.saturating_sub(block.size) };
    }
}

/// Memory and huge pages that a container of a Guaranteed pod asks for.
pub fn requests(pod: &Pod, container: &Container) -> BTreeMap<String, u64> {
    if !pod.spec.as_ref().is_some_and(|spec| qos::class(spec) == qos::GUARANTEED && spec.resources.is_none()) {
        return BTreeMap::new();
    }
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.clone()).unwrap_or_default();
    let requests = resources.and_then(|resources| resources.requests.clone()).unwrap_or_default();
    let asked: BTreeMap<_, _> = limits.into_iter().chain(requests).collect();
    let of_memory = asked.into_iter().filter(|(kind, _)| kind == MEMORY || kind.starts_with("hugepages-"));
    of_memory.filter_map(|(kind, amount)| Some((kind, Quantity::parse(&amount.0)?.whole().max(0) as u64))).collect()
}

/// Of all containers that run together, or of the largest init container beside the sidecars before it.
pub fn pod_requests(pod: &Pod) -> BTreeMap<String, u64> {
    let Some(spec) = &pod.spec else { return BTreeMap::new() };
    let (mut running, mut largest): (BTreeMap<String, u64>, BTreeMap<String, u64>) = Default::default();
    for init in spec.init_containers.iter().flatten() {
        for (kind, size) in requests(pod, init) {
            let beside = running.entry(kind.clone()).or_default();
            let most = largest.entry(kind).or_default();
            *most = (*most).max(*beside + size);
            *beside += if is_sidecar(init) { size } else { 0 };
        }
    }
    for (kind, size) in spec.containers.iter().flat_map(|container| requests(pod, container)) {
        *running.entry(kind).or_default() += size;
    }
    for (kind, size) in largest {
        let sum = running.entry(kind).or_default();
        *sum = (*sum).max(size);
    }
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::machine::tests::machine;
    use serde_json::json;

    const GIB: u64 = 1 << 30;

    fn pod(uid: &str, inits: &[&str], containers: &[&str]) -> Pod {
        let list = |letter: &str, all: &[&str]| -> Vec<_> {
            all.iter()
                .enumerate()
                .map(|(at, memory)| json!({"name": format!("{letter}{at}"), "resources": {"limits": {"cpu": "1", "memory": memory}, "requests": {"cpu": "1", "memory": memory}}}))
                .collect()
        };
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"initContainers": list("i", inits), "containers": list("c", containers)}})).expect("a pod")
    }

    fn open(folder: &Path) -> Memory {
        let policy = Policy::parse("Static", &["0:memory=1Gi;1:memory=1Gi".to_string()]).expect("valid");
        Memory::open(folder, &policy, &machine(2, 1, 2, 1), 2 * GIB).expect("opens").expect("static")
    }

    fn give(memory: &mut Memory, pod: &Pod) -> Result<(), String> {
        let spec = pod.spec.as_ref().expect("a spec");
        let mut reusable = Reusable::default();
        spec.init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .try_for_each(|container| memory.allocate(pod, container, Hint { mask: None, preferred: false }, &mut reusable))
    }

    fn free(memory: &Memory) -> Vec<u64> {
        memory.nodes.values().map(|node| node.memory_map[MEMORY].free / GIB).collect()
    }

    /// Checksums that upstream wrote.
    #[test]
    fn the_state_file_has_upstreams_form_and_checksum() {
        let folder = tempfile::tempdir().expect("a folder");
        Memory::open(folder.path(), &Policy::None, &machine(1, 1, 1, 1), 0).expect("opens");
        assert_eq!(std::fs::read_to_string(folder.path().join(FILE)).expect("a file"), r#"{"policyName":"None","machineState":{},"checksum":4236770233}"#);
        let text = r#"{"policyName":"static","machineState":{"0":{"numberOfAssignments":0,"memoryMap":{"memory":{"total":2048,"systemReserved":512,"allocatable":1536,"reserved":512,"free":1024}},"cells":[]}},
            "entries":{"pod":{"container1":[{"numaAffinity":[0],"type":"memory","size":512}]}},"checksum": 4215593881}"#;
        let kept: Checkpoint = serde_json::from_str(text).expect("a checkpoint");
        assert_eq!(checkpoint::checksum(&kept.print()), 4215593881, "{}", kept.print());
    }

    #[test]
    fn memory_comes_from_one_node_where_one_does_and_is_given_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut memory = open(folder.path());
        give(&mut memory, &pod("u1", &[], &["5Gi"])).expect("node 0 has it");
        give(&mut memory, &pod("u2", &[], &["4Gi"])).expect("node 1 has it");
        assert_eq!((memory.nodes_of("u1", "c0"), memory.nodes_of("u2", "c0"), free(&memory)), (Some(vec![0]), Some(vec![1]), vec![2, 3]));
        assert_eq!(
            give(&mut memory, &pod("u3", &[], &["4Gi"])).expect_err("no node has it"),
            "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"
        );
        let again = open(folder.path());
        assert_eq!((free(&again), again.assigned == memory.assigned), (vec![2, 3], true));
        memory.release("u1");
        memory.release("u2");
        give(&mut memory, &pod("u4", &[], &["9Gi"])).expect("both together");
        assert_eq!(memory.nodes_of("u4", "c0"), Some(vec![0, 1]));
        give(&mut memory, &pod("u5", &[], &["1Gi"])).expect("there is some left");
        assert_eq!(memory.nodes_of("u5", "c0"), Some(vec![0, 1]), "a node of a group serves nobody alone");
    }

    #[test]
    fn an_init_containers_memory_is_taken_by_those_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut memory = open(folder.path());
        give(&mut memory, &pod("u1", &["6Gi"], &["2Gi", "3Gi"])).expect("six do for all");
        assert_eq!(free(&memory), [1, 7]);
        memory.release("u1");
        assert_eq!(free(&memory), [7, 7]);
    }

    #[test]
    fn what_is_reserved_must_add_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let policy = Policy::parse("Static", &["0:memory=1Gi".to_string()]).expect("valid");
        let refused = Memory::open(folder.path(), &policy, &machine(2, 1, 2, 1), 2 * GIB).err().expect("1 is not 2");
        assert!(refused.to_string().contains("is not equal to the value"), "{refused}");
        assert!(matches!(Memory::open(folder.path(), &Policy::Static(Reserved::new()), &machine(2, 1, 2, 1), 0), Err(MemoryError::NothingReserved)));
        Policy::parse("Static", &["0:disk=1Gi".to_string()]).expect_err("no memory");
        Policy::parse("Static", &["memory=1Gi".to_string()]).expect_err("no node");
        Policy::parse("static", &[]).expect_err("no policy");
    }
}
