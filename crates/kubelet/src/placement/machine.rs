//! Processors, caches and memory of this machine, as the kernel shows them below /sys/devices/system.
//!
//! Entry point: [`Machine::read`]. Source: the kernel's `Documentation/admin-guide/cputopology.rst` and `ABI/stable/sysfs-devices-node`.

use super::cpu_set::CpuSet;
use super::hints::NumaMask;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub const SYS: &str = "/sys/devices/system";

/// Where a processor (a thread of a core) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The lowest thread of its core: a core's own number is unique only within its socket.
    pub core: usize,
    pub socket: usize,
    pub node: usize,
    /// The last-level cache it shares (upstream's "uncore cache").
    pub cache: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub memory_bytes: u64,
    /// Bytes in all pages of a size, by the resource's name (`hugepages-2Mi`).
    pub huge_pages: BTreeMap<String, u64>,
    /// To each node, in the kernel's measure; 10 is itself.
    pub distances: BTreeMap<usize, u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpus: BTreeMap<usize, Cpu>,
    pub nodes: BTreeMap<usize, Node>,
}

impl Machine {
    /// `memory_bytes` is all memory, for a kernel that shows no NUMA nodes: then there is one.
    pub fn read(sys: &Path, memory_bytes: u64) -> Self {
        let text = |path: &str| std::fs::read_to_string(sys.join(path)).unwrap_or_default().trim().to_owned();
        let list = |path: &str| CpuSet::parse(&text(path)).unwrap_or_default();
        let node_ids: Vec<usize> = list("node/online").iter().collect();
        let mut nodes: BTreeMap<usize, Node> = node_ids.iter().map(|id| (*id, node(sys, *id, &node_ids))).collect();
        let of_node: BTreeMap<usize, CpuSet> = node_ids.iter().map(|id| (*id, list(&format!("node/node{id}/cpulist")))).collect();
        if nodes.is_empty() {
            nodes.insert(0, Node { memory_bytes, distances: BTreeMap::from([(0, 10)]), ..Node::default() });
        }
        let place = |cpu: usize| {
            let number = |file: &str| text(&format!("cpu/cpu{cpu}/topology/{file}")).parse::<usize>().ok();
            let threads = ["core_cpus_list", "thread_siblings_list"].iter().map(|file| list(&format!("cpu/cpu{cpu}/topology/{file}"))).find(|threads| !threads.is_empty());
            Cpu {
                core: threads.and_then(|threads| threads.iter().next()).unwrap_or(cpu),
                socket: number("physical_package_id").unwrap_or(0),
                node: of_node.iter().find(|(_, cpus)| cpus.contains(cpu)).map_or(0, |(id, _)| *id),
                cache: last_cache(sys, cpu).unwrap_or(0),
            }
        };
        let mut online = list("cpu/online");
        if online.is_empty() {
            online = [0].into_iter().collect();
        }
        Self { cpus: online.iter().map(|cpu| (cpu, place(cpu))).collect(), nodes }
    }

    pub fn all(&self) -> CpuSet {
        self.cpus.keys().copied().collect()
    }
    pub fn node_ids(&self) -> Vec<usize> {
        self.nodes.keys().copied().collect()
    }
    /// The processors of which this holds.
    pub fn cpus_where(&self, holds: impl Fn(&Cpu) -> bool) -> CpuSet {
        self.cpus.iter().filter(|(_, cpu)| holds(cpu)).map(|(id, _)| *id).collect()
    }
    pub fn in_nodes(&self, mask: NumaMask) -> CpuSet {
        self.cpus_where(|cpu| mask.contains(cpu.node))
    }
    pub fn sockets(&self) -> BTreeSet<usize> {
        self.cpus.values().map(|cpu| cpu.socket).collect()
    }
    pub fn sockets_of(&self, mask: NumaMask) -> BTreeSet<usize> {
        self.cpus.values().filter(|cpu| mask.contains(cpu.node)).map(|cpu| cpu.socket).collect()
    }
    /// Threads of a core.
    pub fn cpus_per_core(&self) -> usize {
        let cores: BTreeSet<usize> = self.cpus.values().map(|cpu| cpu.core).collect();
        self.cpus.len() / cores.len().max(1)
    }
    /// How far the nodes of a mask are from each other, on average.
    pub fn average_distance(&self, mask: NumaMask) -> f64 {
        let nodes = mask.nodes();
        let all: Vec<f64> = nodes.iter().flat_map(|from| nodes.iter().map(|to| f64::from(*self.nodes.get(from).and_then(|node| node.distances.get(to)).unwrap_or(&10)))).collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    }
}

fn node(sys: &Path, id: usize, ids: &[usize]) -> Node {
    let folder = sys.join(format!("node/node{id}"));
    let text = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap_or_default();
    let meminfo = text("meminfo");
    // `Node 0 MemTotal:       24684084 kB`
    let total = meminfo.lines().find(|line| line.contains("MemTotal:")).and_then(|line| line.split_whitespace().rev().nth(1)?.parse::<u64>().ok());
    let pages = std::fs::read_dir(folder.join("hugepages")).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count: u64 = text(&format!("hugepages/{name}/nr_hugepages")).trim().parse().ok()?;
        Some((format!("hugepages-{}", binary(kib)), count * kib * 1024))
    });
    let distances = text("distance");
    let distances = ids.iter().copied().zip(distances.split_whitespace().filter_map(|word| word.parse().ok())).collect();
    Node { memory_bytes: total.unwrap_or(0) * 1024, huge_pages: pages.collect(), distances }
}

/// `2Mi`, `1Gi`.
pub fn binary(kib: u64) -> String {
    match kib {
        kib if kib.is_multiple_of(1 << 20) => format!("{}Gi", kib >> 20),
        kib if kib.is_multiple_of(1 << 10) => format!("{}Mi", kib >> 10),
        kib => format!("{kib}Ki"),
    }
}

/// The number of the level-3 cache, or of the highest there is.
fn last_cache(sys: &Path, cpu: usize) -> Option<usize> {
    let folder = sys.join(format!("cpu/cpu{cpu}/cache"));
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let cache = |path: std::path::PathBuf| {
        let text = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default().trim().to_owned();
        let level: usize = text("level").parse().ok()?;
        // Kernels that give caches no number show who shares them.
        let id = text("id").parse().ok().or_else(|| CpuSet::parse(&text("shared_cpu_list")).ok()?.iter().next());
        Some((level, id?))
    };
    entries.filter_map(cache).max_by_key(|(level, _)| *level).map(|(_, id)| id)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// `sockets` of `nodes` NUMA nodes each, of `cores` each, of `threads` each, numbered as Intel's are: all first threads, then the second ones.
    pub fn machine(sockets: usize, nodes: usize, cores: usize, threads: usize) -> Machine {
        let all_cores = sockets * nodes * cores;
        let place = |cpu: usize| {
            let core = cpu % all_cores;
            Cpu { core, socket: core / (nodes * cores), node: core / cores, cache: core / cores }
        };
        let node_of = |id: usize| {
            let distances = (0..sockets * nodes)
                .map(|other| {
                    (
                        other,
                        if other == id {
                            10
                        } else if other / nodes == id / nodes {
                            12
                        } else {
                            21
                        },
                    )
                })
                .collect();
            (id, Node { memory_bytes: 8 << 30, huge_pages: BTreeMap::new(), distances })
        };
        Machine { cpus: (0..all_cores * threads).map(|cpu| (cpu, place(cpu))).collect(), nodes: (0..sockets * nodes).map(node_of).collect() }
    }

    /// A tree as a machine of two sockets shows it (recorded, shortened to what is read).
    fn recorded() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("cpu/online", "0-7\n");
        write("node/online", "0-1\n");
        for cpu in 0..8 {
            write(&format!("cpu/cpu{cpu}/topology/core_id"), &format!("{}\n", cpu % 2));
            write(&format!("cpu/cpu{cpu}/topology/physical_package_id"), &format!("{}\n", cpu % 4 / 2));
            write(&format!("cpu/cpu{cpu}/topology/core_cpus_list"), &format!("{},{}\n", cpu % 4, cpu % 4 + 4));
            for (index, level, id) in [(0, 1, cpu % 4), (3, 3, cpu % 4 / 2)] {
                write(&format!("cpu/cpu{cpu}/cache/index{index}/level"), &format!("{level}\n"));
                write(&format!("cpu/cpu{cpu}/cache/index{index}/id"), &format!("{id}\n"));
            }
        }
        for (node, cpus, distance) in [(0, "0-1,4-5", "10 21"), (1, "2-3,6-7", "21 10")] {
            write(&format!("node/node{node}/cpulist"), cpus);
            write(&format!("node/node{node}/distance"), distance);
            write(&format!("node/node{node}/meminfo"), &format!("Node {node} MemTotal:       1048576 kB\nNode {node} MemFree:  1 kB\n"));
            write(&format!("node/node{node}/hugepages/hugepages-2048kB/nr_hugepages"), "4\n");
        }
        folder
    }

    #[test]
    fn a_machine_is_read_as_the_kernel_shows_it() {
        let machine = Machine::read(recorded().path(), 0);
        assert_eq!(machine.cpus[&6], Cpu { core: 2, socket: 1, node: 1, cache: 1 });
        assert_eq!((machine.all().to_string().as_str(), machine.cpus_per_core(), machine.sockets().len()), ("0-7", 2, 2));
        let node = &machine.nodes[&1];
        assert_eq!((node.memory_bytes, node.huge_pages["hugepages-2Mi"], node.distances[&0]), (1 << 30, 8 << 20, 21));
        assert_eq!(machine.in_nodes(NumaMask::of([0])).to_string(), "0-1,4-5");
    }

    #[test]
    fn a_kernel_without_numa_has_one_node_with_all_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("cpu")).expect("made");
        std::fs::write(folder.path().join("cpu/online"), "0-1").expect("written");
        let machine = Machine::read(folder.path(), 1 << 30);
        assert_eq!((machine.all().to_string().as_str(), machine.node_ids(), machine.nodes[&0].memory_bytes), ("0-1", vec![0], 1 << 30));
    }
}
