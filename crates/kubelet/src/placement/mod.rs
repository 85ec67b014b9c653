//! What of the node a container gets for itself: devices, processors, memory of a NUMA node, and that these lie near each other; claims of DRA drivers.
//!
//! Entry points: [`Placement::open`], [`Placement::admit`] before a pod starts, [`Placement::release`] when it is over, [`pinning::run`], which
//! keeps running containers on what they may have. Invariants: one pod at a time is given something, all of it or nothing; what was given is on
//! the disk before a container starts.

mod assign;
pub mod checkpoint;
pub mod cpu_set;
pub mod cpus;
pub mod hints;
pub mod machine;
pub mod memory;
pub mod pinning;
pub mod topology;

use crate::admission::Refusal;
use crate::devices::Devices;
use crate::dra::Dra;
use crate::machine::is_sidecar;
use crate::{metrics, qos};
use cpu_set::CpuSet;
use cpus::Cpus;
use hints::{Hint, Hints};
use k8s_openapi::api::core::v1::{Container, Pod};
use keles_runtime::api::Resources;
use machine::Machine;
use memory::Memory;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use topology::{Policy, Scope, Topology};

/// Upstream's `ErrorReasonUnexpected`.
const UNEXPECTED: &str = "UnexpectedAdmissionError";

/// How the node gives, by upstream's flags.
#[derive(Clone, Debug)]
pub struct Settings {
    pub cpu: cpus::Policy,
    /// Not for pods; empty: picked for what else is reserved.
    pub reserved_cpus: CpuSet,
    /// How often it is looked whether containers run where they should, besides when that changes.
    pub reconcile_every: Duration,
    pub memory: memory::Policy,
    pub topology: Topology,
}

impl Default for Settings {
    fn default() -> Self {
        let (cpu, memory, topology) = Default::default();
        Self { cpu, reserved_cpus: CpuSet::default(), reconcile_every: Duration::from_secs(10), memory, topology }
    }
}

impl Settings {
    /// Whether containers are held to processors or NUMA nodes at all.
    pub fn pins(&self) -> bool {
        self.cpu != cpus::Policy::None || self.memory != memory::Policy::None
    }
}

pub struct Placement {
    pub devices: Devices,
    /// What the scheduler has given already: it is prepared before a pod's sandbox, where it waits for its driver, not at admission.
    pub dra: Dra,
    pub machine: Arc<Machine>,
    topology: Topology,
    cpus: Option<Mutex<Cpus>>,
    memory: Option<Mutex<Memory>>,
    gate: tokio::sync::Mutex<()>,
    /// Counts up when containers may run elsewhere.
    moved: watch::Sender<u64>,
    /// False while pods that went before this run may still hold something.
    settled: watch::Sender<bool>,
}

/// What a pod's init containers that end leave to those after them.
#[derive(Default)]
struct Left {
    devices: BTreeMap<String, BTreeSet<String>>,
    cpus: CpuSet,
    memory: memory::Reusable,
}

impl Placement {
    /// `folder` holds the state files, `devices` is the folder of device plugins; `reserved_milli` and `kept_bytes` are what of processors and
    /// memory is not for pods. The error says what to change.
    pub fn open(folder: &Path, devices: &Path, settings: &Settings, machine: Machine, reserved_milli: i64, kept_bytes: u64) -> Result<Self, String> {
        settings.topology.check(&machine)?;
        let machine = Arc::new(machine);
        let cpus = Cpus::open(folder, &settings.cpu, machine.clone(), &settings.reserved_cpus, reserved_milli).map_err(|error| error.to_string())?;
        let memory = Memory::open(folder, &settings.memory, &machine, kept_bytes).map_err(|error| error.to_string())?;
        let placement = Self {
            devices: Devices::open(devices.into(), machine.node_ids()),
            dra: Dra::open(folder).map_err(|error| error.to_string())?,
            machine,
            topology: settings.topology,
            cpus: cpus.map(Mutex::new),
            memory: memory.map(Mutex::new),
            gate: tokio::sync::Mutex::default(),
            moved: watch::channel(0).0,
            settled: watch::channel(false).0,
        };
        let is_empty = placement.holders().is_empty();
        placement.settled.send_replace(is_empty);
        Ok(placement)
    }

    fn cpus(&self) -> Option<MutexGuard<'_, Cpus>> {
        self.cpus.as_ref().map(|cpus| cpus.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn memory(&self) -> Option<MutexGuard<'_, Memory>> {
        self.memory.as_ref().map(|memory| memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn ring(&self) {
        self.moved.send_modify(|count| *count += 1);
    }

    /// Gives a pod's containers what they ask for. Those that have it already keep it: the same pod may come again after a restart.
    pub async fn admit(&self, pod: &Pod) -> Result<(), Refusal> {
        metrics::TOPOLOGY.with([]).increment();
        if !self.is_asked(pod) {
            metrics::TOPOLOGY_MS.with([]).observe(0.0);
            return Ok(());
        }
        // Static pods must not wait for an API server that may be one of them.
        if !crate::static_pods::is_static(pod) {
            self.settled().await;
        }
        let _one_at_a_time = self.gate.lock().await;
        let begun = Instant::now();
        let given = self.give(pod).await;
        metrics::TOPOLOGY_MS.with([]).observe(begun.elapsed().as_millis() as f64);
        if given.is_err() {
            self.release(uid_of(pod));
        }
        given
    }

    /// Whether the pod wants anything that is given here: one that does not must not wait for plugins that hang.
    fn is_asked(&self, pod: &Pod) -> bool {
        containers(pod).any(|container| {
            self.devices.are_asked(container)
                || (self.cpus.is_some() && cpus::whole_cpus(pod, container) > 0)
                || (self.memory.is_some() && !memory::requests(pod, container).is_empty())
        })
    }

    async fn give(&self, pod: &Pod) -> Result<(), Refusal> {
        let mut left = Left::default();
        let of_pod = match (self.topology.policy, self.topology.scope) {
            (Policy::None, _) => Some(Hint::default()),
            (_, Scope::Pod) => Some(self.place(&self.pod_hints(pod))?),
            (_, Scope::Container) => None,
        };
        for container in containers(pod) {
            let affinity = match of_pod {
                Some(affinity) => affinity,
                None => self.place(&self.hints(pod, container, &left))?,
            };
            self.allocate(pod, container, affinity, &mut left).await?;
        }
        Ok(())
    }

    fn place(&self, hints: &[Hints]) -> Result<Hint, Refusal> {
        match self.topology.merge(&self.machine, hints) {
            (affinity, true) => Ok(affinity),
            _ => {
                metrics::TOPOLOGY_ERRORS.with([]).increment();
                Err(Refusal { reason: "TopologyAffinityError".into(), message: "Resources cannot be allocated with Topology locality".into() })
            }
        }
    }

    fn hints(&self, pod: &Pod, container: &Container, left: &Left) -> [Hints; 3] {
        let (uid, name) = (uid_of(pod), Some(container.name.as_str()));
        [
            self.devices.hints(pod, container, &left.devices),
            self.cpus().map(|cpus| cpus.hints(uid, name, cpus::whole_cpus(pod, container), &left.cpus)).unwrap_or_default(),
            self.memory().map(|memory| memory.hints(uid, name, &memory::requests(pod, container), &left.memory)).unwrap_or_default(),
        ]
    }

    fn pod_hints(&self, pod: &Pod) -> [Hints; 3] {
        let uid = uid_of(pod);
        [
            self.devices.pod_hints(pod),
            self.cpus().map(|cpus| cpus.hints(uid, None, at_once(pod, |container| cpus::whole_cpus(pod, container)), &CpuSet::default())).unwrap_or_default(),
            self.memory().map(|memory| memory.hints(uid, None, &memory::pod_requests(pod), &memory::Reusable::default())).unwrap_or_default(),
        ]
    }

    async fn allocate(&self, pod: &Pod, container: &Container, affinity: Hint, left: &mut Left) -> Result<(), Refusal> {
        let uid = uid_of(pod);
        self.devices.allocate(pod, container, affinity.mask, &left.devices).await.map_err(|error| unexpected(&error))?;
        let ends = ends(pod, container);
        for (resource, ids) in self.devices.of_container(uid, &container.name) {
            let known = left.devices.entry(resource).or_default();
            match ends {
                true => known.extend(ids),
                false => known.retain(|id| !ids.contains(id)),
            }
        }
        if let Some(mut cpus) = self.cpus() {
            let moved = cpus.allocate(pod, container, affinity.mask, &left.cpus)?;
            let own = cpus.exclusive(uid, &container.name).cloned().unwrap_or_default();
            left.cpus = if ends { left.cpus.union(&own) } else { left.cpus.difference(&own) };
            drop(cpus);
            if moved {
                self.ring();
            }
        }
        if let Some(mut memory) = self.memory() {
            memory.allocate(pod, container, affinity, &mut left.memory).map_err(|error| unexpected(&error))?;
        }
        Ok(())
    }

    /// The pod is over.
    pub fn release(&self, uid: &str) {
        self.devices.release(uid);
        if let Some(mut memory) = self.memory() {
            memory.release(uid);
        }
        if self.cpus().is_some_and(|mut cpus| cpus.release(uid)) {
            self.ring();
        }
    }

    /// All pods but these are over.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.holders().iter().filter(|uid| !uids.contains(*uid)).for_each(|uid| self.release(uid));
    }

    /// Of pods that went before this run nothing runs any more: others may have what is free now.
    pub fn settle(&self) {
        self.settled.send_replace(true);
    }

    /// Resolves once that is so.
    pub async fn settled(&self) {
        let mut settled = self.settled.subscribe();
        let _ = settled.wait_for(|settled| *settled).await;
    }

    fn holders(&self) -> BTreeSet<String> {
        let cpus = self.cpus().map(|cpus| cpus.holders()).unwrap_or_default();
        let memory = self.memory().map(|memory| memory.holders()).unwrap_or_default();
        self.devices.holders().into_iter().chain(cpus).chain(memory).collect()
    }

    /// Holds a container to its processors and NUMA nodes. Its own processors nobody shares, so no quota limits it (upstream's
    /// DisableCPUQuotaWithExclusiveCPUs).
    pub fn pin(&self, uid: &str, container: &str, resources: &mut Resources) {
        if let Some(cpus) = self.cpus() {
            resources.cpuset_cpus = Some(cpus.of_container(uid, container).to_string()).filter(|set| !set.is_empty());
            if cpus.exclusive(uid, container).is_some() {
                (resources.cpu_quota_us, resources.cpu_period_us) = (None, None);
            }
        }
        let nodes = self.memory().and_then(|memory| memory.nodes_of(uid, container));
        resources.cpuset_mems = nodes.map(|nodes| nodes.into_iter().collect::<CpuSet>().to_string());
    }

    /// The same for a pod as a whole.
    pub fn pin_pod(&self, uid: &str, resources: &mut Resources) {
        if self.cpus().is_some_and(|cpus| cpus.has_exclusive(uid)) {
            (resources.cpu_quota_us, resources.cpu_period_us) = (None, None);
        }
    }

    /// Why a pod cannot be resized in place because of what it has for itself.
    pub fn forbids_resize(&self, pod: &Pod) -> Option<String> {
        if pod.spec.as_ref().map(qos::class) != Some(qos::GUARANTEED) {
            return None;
        }
        let manager = if self.cpus.is_some() { "CPU" } else { self.memory.as_ref().map(|_| "Memory")? };
        Some(format!("Resize is infeasible for Guaranteed Pods alongside {manager} Manager static policy"))
    }

    pub fn has_static_cpus(&self) -> bool {
        self.cpus.is_some()
    }

    /// Processors that a container has for itself.
    pub fn exclusive_cpus(&self, uid: &str, container: &str) -> CpuSet {
        self.cpus().and_then(|cpus| cpus.exclusive(uid, container).cloned()).unwrap_or_default()
    }

    pub fn memory_of(&self, uid: &str, container: &str) -> Vec<memory::Block> {
        self.memory().map(|memory| memory.of_container(uid, container)).unwrap_or_default()
    }

    /// All processors that containers can have for themselves.
    pub fn allocatable_cpus(&self) -> CpuSet {
        self.cpus().map(|cpus| cpus.allocatable()).unwrap_or_default()
    }

    pub fn allocatable_memory(&self) -> Vec<memory::Block> {
        self.memory().map(|memory| memory.allocatable()).unwrap_or_default()
    }
}

fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// In the order in which they start.
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// Whether it is an init container that others come after.
fn ends(pod: &Pod, container: &Container) -> bool {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).any(|init| init.name == container.name && !is_sidecar(init))
}

/// How much of something a pod has at once at most: all that run together, or the largest init container beside the sidecars before it.
pub fn at_once(pod: &Pod, of: impl Fn(&Container) -> usize) -> usize {
    let Some(spec) = &pod.spec else { return 0 };
    let (mut beside, mut largest) = (0, 0);
    for init in spec.init_containers.iter().flatten() {
        largest = largest.max(beside + of(init));
        beside += if is_sidecar(init) { of(init) } else { 0 };
    }
    largest.max(beside + spec.containers.iter().map(of).sum::<usize>())
}

fn unexpected(error: &dyn std::fmt::Display) -> Refusal {
    Refusal { reason: UNEXPECTED.into(), message: format!("Allocate failed due to {error}, which is unexpected") }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// Of a node that gives nothing but devices.
    pub fn of_devices(devices: &Path) -> Placement {
        Placement::open(devices.parent().expect("in a folder"), devices, &Settings::default(), machine::tests::machine(2, 1, 2, 1), 0, 0).expect("opens")
    }

    fn guaranteed(uid: &str, inits: &[&str], containers: &[&str]) -> Pod {
        let list = |letter: &str, all: &[&str]| -> Vec<_> {
            all.iter()
                .enumerate()
                .map(|(at, cpu)| json!({"name": format!("{letter}{at}"), "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"cpu": cpu, "memory": "1Gi"}}}))
                .collect()
        };
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": {"initContainers": list("i", inits), "containers": list("c", containers)}})).expect("a pod")
    }

    fn node(folder: &Path, policy: &str, scope: &str) -> Placement {
        let settings = Settings {
            cpu: cpus::Policy::Static(Default::default()),
            reserved_cpus: CpuSet::parse("0").expect("a list"),
            memory: memory::Policy::parse("Static", &["0:memory=1Gi".to_string()]).expect("valid"),
            topology: Topology::parse(policy, scope, &BTreeMap::new()).expect("valid"),
            ..Settings::default()
        };
        Placement::open(folder, &folder.join("device-plugins"), &settings, machine::tests::machine(2, 1, 4, 1), 1000, 1 << 30).expect("opens")
    }

    #[tokio::test]
    async fn processors_and_memory_come_from_the_same_node_or_the_pod_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = node(folder.path(), "single-numa-node", "container");
        node.admit(&guaranteed("u1", &[], &["4"])).await.expect("node 1");
        let mut resources = Resources { cpu_quota_us: Some(1), cpu_period_us: Some(1), ..Default::default() };
        node.pin("u1", "c0", &mut resources);
        assert_eq!((resources.cpuset_cpus.as_deref(), resources.cpuset_mems.as_deref(), resources.cpu_quota_us), (Some("4-7"), Some("1"), None));
        let refused = node.admit(&guaranteed("u2", &[], &["4"])).await.expect_err("three are left on node 0");
        assert_eq!((refused.reason.as_str(), refused.message.as_str()), ("TopologyAffinityError", "Resources cannot be allocated with Topology locality"));
        assert_eq!(node.exclusive_cpus("u2", "c0").to_string(), "");
        node.admit(&guaranteed("u3", &[], &["3"])).await.expect("node 0");
        let mut shared = Resources { cpu_quota_us: Some(1), ..Default::default() };
        node.pin("other", "c", &mut shared);
        assert_eq!((shared.cpuset_cpus.as_deref(), shared.cpuset_mems, shared.cpu_quota_us), (Some("0"), None, Some(1)));
    }

    #[tokio::test]
    async fn a_pod_as_a_whole_is_kept_together_where_its_containers_alone_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let alone = node(folder.path(), "single-numa-node", "container");
        alone.admit(&guaranteed("u1", &[], &["2", "3"])).await.expect("a node each");
        let folder = tempfile::tempdir().expect("a folder");
        let together = node(folder.path(), "single-numa-node", "pod");
        together.admit(&guaranteed("u1", &[], &["2", "3"])).await.expect_err("no node has five");
        together.admit(&guaranteed("u2", &[], &["2", "2"])).await.expect("node 1 has four");
        assert_eq!((together.exclusive_cpus("u2", "c0").to_string(), together.exclusive_cpus("u2", "c1").to_string()), ("4-5".into(), "6-7".into()));
    }

    #[tokio::test]
    async fn an_init_containers_processors_are_taken_by_those_after_it_and_all_come_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = node(folder.path(), "none", "container");
        node.admit(&guaranteed("u1", &["4"], &["2", "2"])).await.expect("four do for all");
        let own = |name| node.exclusive_cpus("u1", name);
        assert_eq!((own("i0"), own("c0").intersection(&own("c1")).len()), (own("c0").union(&own("c1")), 0));
        node.retain(&HashSet::from(["u1".to_string()]));
        assert_eq!(own("c0").len(), 2);
        node.retain(&HashSet::new());
        let mut shared = Resources::default();
        node.pin("any", "c", &mut shared);
        assert_eq!(shared.cpuset_cpus.as_deref(), Some("0-7"));
    }
}
