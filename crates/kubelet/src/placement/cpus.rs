//! The CPU manager's static policy (KEP-3570): containers of Guaranteed pods that ask for whole processors get them for themselves; all others
//! share the rest.
//!
//! Entry points: [`Cpus::open`], [`Cpus::allocate`], [`Cpus::of_container`]. Invariant: a processor has one owner, or is in the shared set, but
//! those that an init container leaves to the ones after it; `cpu_manager_state` says who before a container starts.

use super::assign;
use super::checkpoint;
use super::cpu_set::CpuSet;
use super::hints::{Hint, Hints, NumaMask, masks};
use super::machine::Machine;
use crate::admission::Refusal;
use crate::{metrics, qos};
use k8s_openapi::api::core::v1::{Container, Pod};
use keles_volumes::quantity::Quantity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const FILE: &str = "cpu_manager_state";
const NONE: &str = "none";
const STATIC: &str = "static";

/// `--cpu-manager-policy-options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whole cores only (KEP-2625).
    pub full_pcpus_only: bool,
    /// KEP-2902.
    pub distribute_across_numa: bool,
    /// KEP-3327.
    pub align_by_socket: bool,
    /// Not even the shared set has the reserved ones (KEP-4540).
    pub strict_reservation: bool,
    /// KEP-4800.
    pub prefer_align_by_uncore_cache: bool,
}

/// `--cpu-manager-policy` and what goes with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    None,
    Static(Options),
}

impl Policy {
    pub fn parse(policy: &str, options: &BTreeMap<String, String>) -> Result<Self, String> {
        match policy {
            NONE if options.is_empty() => return Ok(Self::None),
            NONE => return Err("None policy: received unsupported options: the CPU manager's none policy has none".into()),
            STATIC => {}
            other => return Err(format!("unknown CPU manager policy: \"{other}\"; it is none or static")),
        }
        let mut read = Options::default();
        for (name, value) in options {
            let flag = match name.as_str() {
                "full-pcpus-only" => &mut read.full_pcpus_only,
                "distribute-cpus-across-numa" => &mut read.distribute_across_numa,
                "align-by-socket" => &mut read.align_by_socket,
                "strict-cpu-reservation" => &mut read.strict_reservation,
                "prefer-align-cpus-by-uncorecache" => &mut read.prefer_align_by_uncore_cache,
                "distribute-cpus-across-cores" => return Err("CPU manager option \"distribute-cpus-across-cores\" is alpha and not built, see docs/STATUS.md".into()),
                other => return Err(format!("cpumanager: unsupported option \"{other}\" ({value})")),
            };
            *flag = value.parse().map_err(|_| format!("bad value for option \"{name}\": {value:?}"))?;
        }
        if read.prefer_align_by_uncore_cache && read.distribute_across_numa {
            return Err("static policy options PreferAlignCPUsByUncoreCache and DistributeCPUsAcrossNUMA can not be used at the same time".into());
        }
        Ok(Self::Static(read))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    #[error("the static CPU manager policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero, or --reserved-cpus")]
    NothingReserved,
    #[error("[cpumanager] unable to reserve the required amount of CPUs: {0}")]
    Reserve(assign::NotEnough),
    #[error("reserved cpus {0} are not all on this machine")]
    NotHere(CpuSet),
    #[error("could not restore state from checkpoint: {fault}, please drain this node and delete the CPU manager checkpoint file \"{file}\" before restarting Kubelet")]
    Checkpoint { file: String, fault: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    shared: CpuSet,
    /// By pod's uid and container.
    assigned: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

/// Upstream's CPUManagerCheckpoint of version 2, which every later one reads.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Checkpoint {
    policy_name: String,
    #[serde(alias = "defaultCPUSet")]
    default_cpu_set: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, String>>,
    checksum: u64,
}

impl Checkpoint {
    /// As Go prints it with its checksum 0.
    fn print(&self) -> String {
        let containers = |all: &BTreeMap<String, String>| checkpoint::map(all.iter().map(|(name, cpus)| (name, cpus.clone())));
        let entries = checkpoint::map(self.entries.iter().map(|(pod, all)| (pod, containers(all))));
        format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} Entries:(map[string]map[string]string){entries} Checksum:(checksum.Checksum)0}}",
            self.policy_name, self.default_cpu_set
        )
    }
}

fn write(file: &Path, policy: &str, state: &State) -> std::io::Result<()> {
    let texts = |containers: &BTreeMap<String, CpuSet>| containers.iter().map(|(name, cpus)| (name.clone(), cpus.to_string())).collect();
    let entries = state.assigned.iter().map(|(pod, containers)| (pod.clone(), texts(containers))).collect();
    let mut kept = Checkpoint { policy_name: policy.into(), default_cpu_set: state.shared.to_string(), entries, checksum: 0 };
    kept.checksum = checkpoint::checksum(&kept.print());
    checkpoint::write(file, &serde_json::to_vec(&kept).map_err(std::io::Error::other)?)
}

/// `None`: there is no file.
fn read(file: &Path, policy: &str) -> Result<Option<State>, String> {
    let text = match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| error.to_string())?,
    };
    let kept: Checkpoint = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if kept.checksum != checkpoint::checksum(&kept.print()) {
        return Err("checkpoint is corrupted".into());
    }
    if kept.policy_name != policy {
        return Err(format!("configured policy \"{policy}\" differs from state checkpoint policy \"{}\"", kept.policy_name));
    }
    let shared = CpuSet::parse(&kept.default_cpu_set)?;
    let mut assigned: BTreeMap<String, BTreeMap<String, CpuSet>> = BTreeMap::new();
    for (pod, containers) in kept.entries {
        for (name, cpus) in containers {
            assigned.entry(pod.clone()).or_default().insert(name, CpuSet::parse(&cpus)?);
        }
    }
    Ok(Some(State { shared, assigned }))
}

/// Processors of the containers under the static policy.
pub struct Cpus {
    machine: Arc<Machine>,
    options: Options,
    reserved: CpuSet,
    state: State,
    file: PathBuf,
}

impl Cpus {
    /// `None` under the none policy, whose file says so: no node changes its policy unnoticed. `reserved_milli` is what is kept from pods, for
    /// which processors are picked unless `reserved` names them.
    pub fn open(folder: &Path, policy: &Policy, machine: Arc<Machine>, reserved: &CpuSet, reserved_milli: i64) -> Result<Option<Self>, CpuError> {
        let file = folder.join(FILE);
        let failed = |fault: String| CpuError::Checkpoint { file: file.display().to_string(), fault };
        let name = if *policy == Policy::None { NONE } else { STATIC };
        let found = read(&file, name).map_err(failed)?;
        let Policy::Static(options) = policy else {
            if found.is_none() {
                write(&file, NONE, &State::default()).map_err(|error| failed(error.to_string()))?;
            }
            return Ok(None);
        };
        let reserved = match reserved.is_empty() {
            false if reserved.is_subset(&machine.all()) => reserved.clone(),
            false => return Err(CpuError::NotHere(reserved.clone())),
            true if reserved_milli <= 0 => return Err(CpuError::NothingReserved),
            true => take(&machine, *options, &machine.all(), (reserved_milli as usize).div_ceil(1000)).map_err(CpuError::Reserve)?,
        };
        let mut cpus = Self { machine, options: *options, reserved, state: State::default(), file: file.clone() };
        cpus.state = match found {
            Some(state) => cpus.checked(state).map_err(failed)?,
            None => State { shared: cpus.sharable(), assigned: BTreeMap::new() },
        };
        cpus.save().map_err(|error| failed(error.to_string()))?;
        Ok(Some(cpus))
    }

    /// All that containers can have, shared or not.
    fn sharable(&self) -> CpuSet {
        if self.options.strict_reservation { self.machine.all().difference(&self.reserved) } else { self.machine.all() }
    }

    /// What an earlier run gave must fit the machine as it is now.
    fn checked(&self, state: State) -> Result<State, String> {
        if state.shared.is_empty() && state.assigned.is_empty() {
            return Ok(State { shared: self.sharable(), ..state });
        }
        let (reserved, shared) = (&self.reserved, &state.shared);
        match self.options.strict_reservation {
            false if !reserved.is_subset(shared) => return Err(format!("not all reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{shared}\"")),
            true if !reserved.intersection(shared).is_empty() => return Err(format!("some of strictly reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{shared}\"")),
            _ => {}
        }
        let mut known = shared.clone();
        for (pod, containers) in &state.assigned {
            for (container, cpus) in containers {
                if !cpus.intersection(shared).is_empty() {
                    return Err(format!("pod: {pod}, container: {container} cpuset: \"{cpus}\" overlaps with default cpuset \"{shared}\""));
                }
                known = known.union(cpus);
            }
        }
        match known == self.sharable() {
            true => Ok(state),
            false => Err(format!("current set of available CPUs \"{}\" doesn't match with CPUs in state \"{known}\"", self.sharable())),
        }
    }

    fn save(&self) -> std::io::Result<()> {
        write(&self.file, STATIC, &self.state)
    }

    /// All that can be somebody's own.
    pub fn allocatable(&self) -> CpuSet {
        self.machine.all().difference(&self.reserved)
    }

    fn available(&self) -> CpuSet {
        self.state.shared.difference(&self.reserved)
    }

    /// What a container may run on.
    pub fn of_container(&self, uid: &str, container: &str) -> CpuSet {
        self.exclusive(uid, container).cloned().unwrap_or_else(|| self.state.shared.clone())
    }

    /// What a container has for itself.
    pub fn exclusive(&self, uid: &str, container: &str) -> Option<&CpuSet> {
        self.state.assigned.get(uid)?.get(container)
    }

    pub fn has_exclusive(&self, uid: &str) -> bool {
        self.state.assigned.contains_key(uid)
    }

    /// Gives a container its processors if it is one that gets any; true if the shared set is another now.
    pub fn allocate(&mut self, pod: &Pod, container: &Container, affinity: Option<NumaMask>, reusable: &CpuSet) -> Result<bool, Refusal> {
        let wanted = whole_cpus(pod, container);
        if wanted == 0 {
            return Ok(false);
        }
        metrics::CPU_PINNING.with([]).increment();
        self.give(pod, container, wanted, affinity, reusable).inspect_err(|_| metrics::CPU_PINNING_ERRORS.with([]).increment())
    }

    fn give(&mut self, pod: &Pod, container: &Container, wanted: usize, affinity: Option<NumaMask>, reusable: &CpuSet) -> Result<bool, Refusal> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if self.exclusive(&uid, &container.name).is_some() {
            return Ok(false);
        }
        self.check_cores(wanted, reusable)?;
        let free = self.available().union(reusable);
        let cpus = self.pick(&free, reusable, wanted, affinity).map_err(|error| super::unexpected(&error))?;
        let before = self.state.clone();
        self.state.shared = self.state.shared.difference(&cpus);
        self.state.assigned.entry(uid).or_default().insert(container.name.clone(), cpus);
        if let Err(error) = self.save() {
            self.state = before;
            return Err(super::unexpected(&format!("could not write {}: {error}", self.file.display())));
        }
        Ok(true)
    }

    /// With whole cores only, nobody gets a part of one.
    fn check_cores(&self, wanted: usize, reusable: &CpuSet) -> Result<(), Refusal> {
        if !self.options.full_pcpus_only {
            return Ok(());
        }
        let per_core = self.machine.cpus_per_core();
        let refuse = |message: String| Err(Refusal { reason: "SMTAlignmentError".into(), message });
        if !wanted.is_multiple_of(per_core) {
            return refuse(format!("SMT Alignment Error: requested {wanted} cpus not multiple cpus per core = {per_core}"));
        }
        let free = self.available().union(reusable);
        // A core of which a thread is reserved is nobody's.
        let whole = free.iter().filter(|cpu| self.machine.cpus_where(|other| other.core == self.machine.cpus[cpu].core).intersection(&self.reserved).is_empty()).count();
        if whole < wanted {
            return refuse(format!("SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {whole}, requested CPUs = {wanted}, CPUs per core = {per_core}"));
        }
        Ok(())
    }

    /// Of the wished nodes first, and there first what init containers had.
    fn pick(&self, free: &CpuSet, reusable: &CpuSet, wanted: usize, affinity: Option<NumaMask>) -> Result<CpuSet, assign::NotEnough> {
        let near = match affinity {
            Some(mask) if self.options.align_by_socket => {
                let sockets = self.machine.sockets_of(mask);
                free.intersection(&self.machine.cpus_where(|cpu| sockets.contains(&cpu.socket)))
            }
            Some(mask) => free.intersection(&self.machine.in_nodes(mask)),
            None => CpuSet::default(),
        };
        if free.len() < wanted {
            return Err(assign::NotEnough { wanted, available: free.len() });
        }
        let mut taken = CpuSet::default();
        for from in [near.intersection(reusable), near, reusable.clone(), free.clone()] {
            let from = from.difference(&taken);
            taken = taken.union(&take(&self.machine, self.options, &from, from.len().min(wanted - taken.len()))?);
        }
        Ok(taken)
    }

    /// The pod is over; true if it had any.
    pub fn release(&mut self, uid: &str) -> bool {
        let Some(containers) = self.state.assigned.remove(uid) else { return false };
        for cpus in containers.values() {
            self.state.shared = self.state.shared.union(cpus);
        }
        self.save().unwrap_or_else(|error| tracing::warn!(%error, pod = uid, "processors of a pod that is gone are still in the checkpoint"));
        true
    }

    pub fn holders(&self) -> Vec<String> {
        self.state.assigned.keys().cloned().collect()
    }

    /// Where so many processors could be; of a pod that has some already, where these are.
    pub fn hints(&self, uid: &str, container: Option<&str>, wanted: usize, reusable: &CpuSet) -> Hints {
        if wanted == 0 {
            return Hints::new();
        }
        let had = match container {
            Some(name) => self.exclusive(uid, name).cloned(),
            None => self.state.assigned.get(uid).map(|all| all.values().fold(CpuSet::default(), |sum, cpus| sum.union(cpus))),
        };
        let hints = match had {
            Some(had) if had.len() != wanted => Vec::new(),
            Some(had) => self.hints_among(&had, &CpuSet::default(), wanted),
            None => self.hints_among(&self.available(), reusable, wanted),
        };
        Hints::from([("cpu".to_string(), Some(hints))])
    }

    fn hints_among(&self, free: &CpuSet, reusable: &CpuSet, wanted: usize) -> Vec<Hint> {
        let nodes = self.machine.node_ids();
        let mut least = nodes.len();
        let mut found = Vec::new();
        for mask in masks(&nodes) {
            let here = self.machine.in_nodes(mask);
            if here.len() >= wanted {
                least = least.min(mask.count());
            }
            if reusable.is_subset(&here) && free.union(reusable).intersection(&here).len() >= wanted {
                found.push(mask);
            }
        }
        let is_preferred = |mask: NumaMask| mask.count() == least || (self.options.align_by_socket && self.is_socket_aligned(mask, least));
        found.into_iter().map(|mask| Hint { mask: Some(mask), preferred: is_preferred(mask) }).collect()
    }

    /// No more sockets than so many nodes need.
    fn is_socket_aligned(&self, mask: NumaMask, least: usize) -> bool {
        let per_socket = self.machine.nodes.len() / self.machine.sockets().len().max(1);
        per_socket > 0 && self.machine.sockets_of(mask).len() == least.div_ceil(per_socket)
    }
}

fn take(machine: &Machine, options: Options, free: &CpuSet, wanted: usize) -> Result<CpuSet, assign::NotEnough> {
    match options.distribute_across_numa {
        true => assign::distributed(machine, free, wanted, if options.full_pcpus_only { machine.cpus_per_core() } else { 1 }, false),
        false => assign::packed(machine, free, wanted, options.prefer_align_by_uncore_cache),
    }
}

/// How many processors a container gets for itself: those it asks for, if they are whole and its pod is Guaranteed. Resources of the pod as a
/// whole (KEP-2837) leave no container with its own.
pub fn whole_cpus(pod: &Pod, container: &Container) -> usize {
    let Some(spec) = &pod.spec else { return 0 };
    if qos::class(spec) != qos::GUARANTEED || spec.resources.is_some() {
        return 0;
    }
    let request = container.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("cpu").or_else(|| resources.limits.as_ref()?.get("cpu")));
    let milli = request.and_then(|quantity| Quantity::parse(&quantity.0)).map_or(0, Quantity::milli);
    if milli > 0 && milli % 1000 == 0 { (milli / 1000) as usize } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::machine::tests::machine;
    use serde_json::json;

    fn pod(uid: &str, cpus: &[&str]) -> Pod {
        let containers: Vec<_> = cpus
            .iter()
            .enumerate()
            .map(|(at, cpu)| json!({"name": format!("c{at}"), "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}, "limits": {"cpu": cpu, "memory": "1Mi"}}}))
            .collect();
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": containers}})).expect("a pod")
    }

    fn open(folder: &Path, machine: Machine, options: Options, reserved: &str) -> Result<Cpus, CpuError> {
        Cpus::open(folder, &Policy::Static(options), Arc::new(machine), &CpuSet::parse(reserved).expect("a list"), 0).map(|cpus| cpus.expect("static"))
    }

    fn give(cpus: &mut Cpus, pod: &Pod) -> Result<(), Refusal> {
        pod.spec.as_ref().expect("a spec").containers.iter().try_for_each(|container| cpus.allocate(pod, container, None, &CpuSet::default()).map(drop))
    }

    /// Checksums that upstream wrote.
    #[test]
    fn the_state_file_has_upstreams_form_and_checksum() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(FILE);
        Cpus::open(folder.path(), &Policy::None, Arc::new(machine(1, 1, 2, 1)), &CpuSet::default(), 0).expect("opens");
        assert_eq!(std::fs::read_to_string(&file).expect("a file"), r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#);
        let entries = BTreeMap::from([("pod".to_string(), BTreeMap::from([("container1".to_string(), "4-6".to_string()), ("container2".to_string(), "1-3".to_string())]))]);
        let kept = Checkpoint { policy_name: "none".into(), default_cpu_set: "1-3".into(), entries, checksum: 0 };
        assert_eq!(checkpoint::checksum(&kept.print()), 3610638499);
        let refused = open(folder.path(), machine(1, 1, 2, 1), Options::default(), "0").err().expect("another policy");
        assert!(refused.to_string().contains("configured policy \"static\" differs from state checkpoint policy \"none\", please drain this node and delete"), "{refused}");
    }

    #[test]
    fn whole_cpus_of_guaranteed_pods_are_their_own_and_outlive_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut cpus = open(folder.path(), machine(1, 1, 4, 2), Options::default(), "0,4").expect("opens");
        give(&mut cpus, &pod("u1", &["2", "500m", "1"])).expect("there are");
        assert_eq!((cpus.of_container("u1", "c0").to_string(), cpus.of_container("u1", "c2").to_string()), ("1,5".into(), "2".into()));
        assert_eq!(cpus.of_container("u1", "c1").to_string(), "0,3-4,6-7", "not whole: the shared ones");
        let mut again = open(folder.path(), machine(1, 1, 4, 2), Options::default(), "0,4").expect("opens");
        assert_eq!(again.state, cpus.state);
        let refused = give(&mut again, &pod("u2", &["4"])).expect_err("three are left");
        assert_eq!(refused.reason, "UnexpectedAdmissionError");
        assert_eq!(refused.message, "Allocate failed due to not enough cpus available to satisfy request: requested=4, available=3, which is unexpected");
        assert!(again.release("u1"));
        assert_eq!(again.of_container("any", "c").to_string(), "0-7");
        assert!(open(folder.path(), machine(1, 1, 3, 2), Options::default(), "0,3").is_err(), "another machine");
    }

    #[test]
    fn burstable_pods_share() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut cpus = open(folder.path(), machine(1, 1, 4, 1), Options { strict_reservation: true, ..Default::default() }, "0").expect("opens");
        let burstable =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c0", "resources": {"requests": {"cpu": "1"}}}]}})).expect("a pod");
        give(&mut cpus, &burstable).expect("nothing to give");
        assert_eq!(cpus.of_container("u", "c0").to_string(), "1-3", "strictly reserved ones are nobody's");
    }

    #[test]
    fn parts_of_cores_are_refused_where_only_whole_ones_are_given() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut cpus = open(folder.path(), machine(1, 1, 4, 2), Options { full_pcpus_only: true, ..Default::default() }, "0").expect("opens");
        let refused = give(&mut cpus, &pod("u1", &["3"])).expect_err("an odd number");
        assert_eq!((refused.reason.as_str(), refused.message.as_str()), ("SMTAlignmentError", "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2"));
        let refused = give(&mut cpus, &pod("u1", &["8"])).expect_err("one core has a reserved thread");
        assert_eq!(refused.message, "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 6, requested CPUs = 8, CPUs per core = 2");
        give(&mut cpus, &pod("u2", &["6"])).expect("three cores");
    }

    #[test]
    fn hints_prefer_as_few_nodes_as_will_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut cpus = open(folder.path(), machine(2, 1, 4, 1), Options::default(), "0").expect("opens");
        let shown = |cpus: &Cpus, uid: &str, wanted| -> Vec<(Vec<usize>, bool)> {
            let hints = cpus.hints(uid, Some("c0"), wanted, &CpuSet::default()).remove("cpu").flatten().expect("hints");
            hints.iter().map(|hint| (hint.mask.expect("a mask").nodes(), hint.preferred)).collect()
        };
        assert_eq!(shown(&cpus, "u", 4), [(vec![1], true), (vec![0, 1], false)]);
        assert_eq!(shown(&cpus, "u", 6), [(vec![0, 1], true)]);
        let pod = pod("u", &["2"]);
        cpus.allocate(&pod, &pod.spec.as_ref().expect("a spec").containers[0], Some(NumaMask::of([1])), &CpuSet::default()).expect("there are");
        assert_eq!(cpus.of_container("u", "c0").to_string(), "4-5");
        assert_eq!(shown(&cpus, "u", 2), [(vec![1], true), (vec![0, 1], false)], "where they are");
    }

    #[test]
    fn words_of_the_flags_are_read_and_others_refused() {
        let options = |name: &str| BTreeMap::from([(name.to_string(), "true".to_string())]);
        assert_eq!(Policy::parse("static", &options("align-by-socket")), Ok(Policy::Static(Options { align_by_socket: true, ..Default::default() })));
        Policy::parse("dynamic", &BTreeMap::new()).expect_err("no policy");
        Policy::parse("none", &options("align-by-socket")).expect_err("none has no options");
        Policy::parse("static", &options("distribute-cpus-across-cores")).expect_err("not built");
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(open(folder.path(), machine(1, 1, 2, 1), Options::default(), ""), Err(CpuError::NothingReserved)));
    }
}
