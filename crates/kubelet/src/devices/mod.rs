//! Device plugins (`k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1`): programs that offer the node's devices under the name of a resource.
//!
//! Entry points: [`Devices::open`], [`Devices::serve`] (where plugins register), [`Devices::allocate`] and [`Devices::for_container`].
//! Invariants: no device has two holders but an init container and those after it in its pod; what was given is on the disk before a
//! container starts; a plugin that goes leaves its devices unhealthy, and [`GRACE`] later no resource. Deliberately absent: plugins that
//! register through `plugins_registry`.

mod choice;
mod plugins;
pub mod store;
#[cfg(test)]
mod tests;
pub mod wire;

use crate::placement::at_once;
use crate::placement::hints::{Hint, Hints, NumaMask, masks};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceHealth, ResourceStatus};
use keles_grpc::Channel;
use keles_runtime::api::{Device as RuntimeDevice, Mount};
use keles_volumes::quantity::Quantity;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use store::{ANYWHERE, Allocations, Given};
use tokio::sync::watch;
use wire::{ContainerAllocateResponse, DevicePluginOptions};

/// How long a resource stays after its plugin went (upstream's `endpointStopGracePeriod`).
pub const GRACE: Duration = Duration::from_secs(300);
const ALLOCATE_LIMIT: Duration = Duration::from_secs(60);
/// Upstream's `KubeletPreStartContainerRPCTimeoutInSecs`.
const PRE_START_LIMIT: Duration = Duration::from_secs(30);

/// Why a container gets no devices, in upstream's words.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("pod \"{pod}\" container \"{container}\" changed request for resource \"{resource}\" from {had} to {wanted}")]
    Changed { pod: String, container: String, resource: String, had: usize, wanted: usize },
    #[error("cannot allocate unregistered device {0}")]
    Unregistered(String),
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    NoneHealthy(String),
    #[error("previously allocated devices are no longer healthy; cannot allocate unhealthy devices {0}")]
    NoLongerHealthy(String),
    #[error("requested number of devices unavailable for {resource}. Requested: {wanted}, Available: {available}")]
    Unavailable { resource: String, wanted: usize, available: usize },
    #[error("device plugin {call} rpc failed with err: {status}")]
    Plugin { call: &'static str, status: keles_grpc::Status },
    #[error("no containers return in allocation response of device plugin {0}")]
    NoAnswer(String),
    #[error("what was allocated cannot be kept in {path}: {source}")]
    Checkpoint { path: String, source: std::io::Error },
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Device {
    is_healthy: bool,
    /// NUMA nodes it belongs to; none: it belongs to no one.
    nodes: Vec<usize>,
}

/// One resource's plugin.
#[derive(Default)]
struct Plugin {
    /// Absent: not connected, which makes its devices unhealthy.
    channel: Option<Channel>,
    options: DevicePluginOptions,
    devices: BTreeMap<String, Device>,
    stopped_at: Option<Instant>,
    /// Which registration this is: what an earlier one's stream says is not heard any more.
    registration: u64,
    /// Ends the hearing of this registration.
    replaced: tokio_util::sync::CancellationToken,
}

impl Plugin {
    fn healthy(&self) -> BTreeSet<String> {
        let healthy = self.devices.iter().filter(|(_, device)| self.channel.is_some() && device.is_healthy);
        healthy.map(|(id, _)| id.clone()).collect()
    }
    fn has_topology(&self) -> bool {
        self.devices.values().any(|device| !device.nodes.is_empty())
    }
    fn is_on(&self, id: &str, mask: NumaMask) -> bool {
        self.devices.get(id).is_some_and(|device| mask.contains_any(device.nodes.iter().copied()))
    }
    fn has_nodes(&self, id: &str) -> bool {
        self.devices.get(id).is_some_and(|device| !device.nodes.is_empty())
    }
}

#[derive(Default)]
struct State {
    plugins: BTreeMap<String, Plugin>,
    /// Resources that are gone: the node's status says 0 of them.
    gone: BTreeSet<String>,
    given: Allocations,
    registrations: u64,
}

/// A device as the pod-resources API tells of it.
pub struct Held {
    pub resource: String,
    pub ids: Vec<String>,
    pub nodes: Vec<usize>,
}

/// What the devices of a container add to it.
#[derive(Debug, Default)]
pub struct Additions {
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<RuntimeDevice>,
    pub annotations: BTreeMap<String, String>,
    /// Devices by their CDI names, for [`keles_runtime::cdi::inject`].
    pub cdi: Vec<String>,
}

#[derive(Clone)]
pub struct Devices {
    folder: PathBuf,
    state: Arc<Mutex<State>>,
    /// Counts up when devices come, go or change their health.
    changed: watch::Sender<u64>,
    /// NUMA nodes of the machine.
    nodes: Arc<Vec<usize>>,
    /// What earlier runs knew is lost: most likely this is the node made anew under its old name.
    begins_anew: bool,
}

impl Devices {
    /// Reads what an earlier run gave. A checkpoint that cannot be read is no reason not to start (upstream's rule): its plugins and pods come anew.
    pub fn open(folder: PathBuf, nodes: Vec<usize>) -> Self {
        let mut state = State::default();
        let mut begins_anew = true;
        match store::read(&folder) {
            Ok(None) => {}
            Ok(Some((given, names))) => {
                begins_anew = false;
                state.given = given;
                let stopped = || Plugin { stopped_at: Some(Instant::now()), ..Plugin::default() };
                state.plugins = names.into_iter().map(|name| (name, stopped())).collect();
            }
            Err(error) => tracing::error!(%error, file = %folder.join(store::FILE).display(), "which devices containers have is not known any more"),
        }
        Self { folder, state: Arc::new(Mutex::new(state)), changed: watch::channel(0).0, nodes: Arc::new(nodes), begins_anew }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Rings when devices come, go or change their health.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn ring(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Which of these resources of a node that was registered before cannot be there until their plugins register: those of plugins, when nothing is
    /// known of earlier runs (upstream's `ShouldResetExtendedResourceCapacity`).
    pub fn lost<'a>(&self, names: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
        let state = self.state();
        names.filter(|name| self.begins_anew && is_extended(name) && !state.plugins.contains_key(*name)).collect()
    }

    /// Capacity (all devices) and allocatable (the healthy ones) by resource. A resource whose plugin has been away too long is 0 of both.
    pub fn counts(&self) -> BTreeMap<String, (usize, usize)> {
        let mut state = self.state();
        let state = &mut *state;
        let over: Vec<String> = state.plugins.iter().filter(|(_, plugin)| plugin.stopped_at.is_some_and(|at| at.elapsed() >= GRACE)).map(|(name, _)| name.clone()).collect();
        for name in &over {
            state.plugins.remove(name);
            state.gone.insert(name.clone());
        }
        if !over.is_empty() {
            self.save(state).unwrap_or_else(|error| tracing::warn!(%error, "resources that are gone are still in the checkpoint"));
        }
        let live = state.plugins.iter().map(|(name, plugin)| (name.clone(), (plugin.devices.len(), plugin.healthy().len())));
        state.gone.iter().map(|name| (name.clone(), (0, 0))).chain(live).collect()
    }

    fn save(&self, state: &State) -> Result<(), DeviceError> {
        let registered = state.plugins.iter().map(|(name, plugin)| (name.clone(), plugin.healthy().into_iter().collect())).collect();
        let failed = |source| DeviceError::Checkpoint { path: self.folder.join(store::FILE).display().to_string(), source };
        store::write(&self.folder, &state.given, registered).map_err(failed)
    }

    /// The resources of plugins that a container asks for, and how many of each.
    fn requests(state: &State, container: &Container) -> Vec<(String, usize)> {
        let is_held = |name: &str| state.given.values().flat_map(BTreeMap::values).any(|resources| resources.contains_key(name));
        // One whose plugin is gone is still none that a pod can do without.
        let is_known = |name: &str| state.plugins.contains_key(name) || state.gone.contains(name) || is_held(name);
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let asked = limits.into_iter().flatten().filter(|(name, _)| is_extended(name) && is_known(name));
        asked.map(|(name, amount)| (name.clone(), Quantity::parse(&amount.0).map_or(0, |amount| amount.whole().max(0) as usize))).filter(|(_, count)| *count > 0).collect()
    }

    /// Whether a container wants devices of plugins.
    pub fn are_asked(&self, container: &Container) -> bool {
        !Self::requests(&self.state(), container).is_empty()
    }

    /// Gives a container its devices; those it has already, it keeps. `reusable`: those of its pod's init containers, which it takes first.
    pub async fn allocate(&self, pod: &Pod, container: &Container, affinity: Option<NumaMask>, reusable: &BTreeMap<String, BTreeSet<String>>) -> Result<(), DeviceError> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let requests = Self::requests(&self.state(), container);
        for (resource, count) in requests {
            let reusable = reusable.get(&resource).cloned().unwrap_or_default();
            let Some(ids) = self.choose(&uid, container, &resource, count, affinity, reusable).await? else { continue };
            self.take(&uid, container, &resource, ids).await?;
        }
        Ok(())
    }

    /// Tells the plugin, and keeps what it says.
    async fn take(&self, uid: &str, container: &Container, resource: &str, ids: BTreeSet<String>) -> Result<(), DeviceError> {
        let channel = self.state().plugins.get(resource).and_then(|plugin| plugin.channel.clone());
        let channel = channel.ok_or_else(|| DeviceError::Unregistered(resource.into()))?;
        let request = wire::AllocateRequest { container_requests: vec![wire::ContainerAllocateRequest { devices_ids: ids.iter().cloned().collect() }] };
        let begun = Instant::now();
        let answer = channel.unary::<_, wire::AllocateResponse>(wire::ALLOCATE, &request, ALLOCATE_LIMIT).await;
        crate::metrics::DEVICE_ALLOCATION.with([resource]).observe_seconds(begun.elapsed());
        let answer = answer.map_err(|status| DeviceError::Plugin { call: "Allocate", status })?;
        let answer = answer.container_responses.into_iter().next().ok_or_else(|| DeviceError::NoAnswer(resource.into()))?;
        let mut state = self.state();
        let plugin = state.plugins.get(resource);
        let mut by_node: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for id in ids {
            let nodes = plugin.and_then(|plugin| plugin.devices.get(&id)).map(|device| device.nodes.clone()).unwrap_or_default();
            let places: Vec<i64> = if nodes.is_empty() { vec![ANYWHERE] } else { nodes.into_iter().map(|node| node as i64).collect() };
            places.into_iter().for_each(|node| by_node.entry(node).or_default().push(id.clone()));
        }
        state.given.entry(uid.into()).or_default().entry(container.name.clone()).or_default().insert(resource.into(), Given { ids: by_node, answer });
        self.save(&state)
    }

    /// By resource, the devices that a container has.
    pub fn of_container(&self, uid: &str, container: &str) -> BTreeMap<String, BTreeSet<String>> {
        let state = self.state();
        let resources = state.given.get(uid).and_then(|containers| containers.get(container));
        resources.into_iter().flatten().map(|(name, given)| (name.clone(), given.devices())).collect()
    }

    /// What to put into a container that is about to be made; tells the plugins that want to know first.
    pub async fn for_container(&self, uid: &str, container: &str) -> Result<Additions, DeviceError> {
        let given = self.state().given.get(uid).and_then(|containers| containers.get(container)).cloned().unwrap_or_default();
        let mut additions = Additions::default();
        for (resource, given) in given {
            self.pre_start(&resource, &given).await?;
            merge(&mut additions, given.answer);
        }
        Ok(additions)
    }

    async fn pre_start(&self, resource: &str, given: &Given) -> Result<(), DeviceError> {
        let channel = self.state().plugins.get(resource).filter(|plugin| plugin.options.pre_start_required).and_then(|plugin| plugin.channel.clone());
        let Some(channel) = channel else { return Ok(()) };
        let request = wire::PreStartContainerRequest { devices_ids: given.devices().into_iter().collect() };
        let said: Result<wire::Empty, _> = channel.unary(wire::PRE_START, &request, PRE_START_LIMIT).await;
        said.map(drop).map_err(|status| DeviceError::Plugin { call: "PreStartContainer", status })
    }

    /// The pod is over: its devices are free.
    pub fn release(&self, uid: &str) {
        let mut state = self.state();
        if state.given.remove(uid).is_some() {
            self.save(&state).unwrap_or_else(|error| tracing::warn!(%error, pod = uid, "devices of a pod that is gone are still in the checkpoint"));
        }
    }

    pub fn holders(&self) -> Vec<String> {
        self.state().given.keys().cloned().collect()
    }

    /// Puts the health of its devices into each container's status (KEP-4680).
    pub fn show(&self, uid: &str, status: &mut PodStatus) {
        let state = self.state();
        let Some(containers) = state.given.get(uid) else { return };
        let lists = [&mut status.init_container_statuses, &mut status.container_statuses];
        for container in lists.into_iter().flatten().flatten() {
            let Some(resources) = containers.get(&container.name) else { continue };
            let shown = resources.iter().map(|(name, given)| ResourceStatus { name: name.clone(), resources: Some(health(state.plugins.get(name), given)) });
            container.allocated_resources_status = Some(shown.collect());
        }
    }

    /// Where a container's devices could come from, by resource.
    pub fn hints(&self, pod: &Pod, container: &Container, reusable: &BTreeMap<String, BTreeSet<String>>) -> Hints {
        let state = self.state();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let requests = Self::requests(&state, container);
        let hint = |(resource, count): (String, usize)| {
            let held = state.given.get(uid).and_then(|containers| containers.get(&container.name)?.get(&resource)).map(Given::devices);
            let reusable = reusable.get(&resource).cloned().unwrap_or_default();
            let hints = self.hints_for(&state, &resource, count, held, &reusable);
            (resource, hints)
        };
        requests.into_iter().map(hint).collect()
    }

    /// The same for all of a pod's containers together.
    pub fn pod_hints(&self, pod: &Pod) -> Hints {
        let state = self.state();
        let containers = || pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        let names: BTreeSet<String> = containers().flat_map(|container| Self::requests(&state, container)).map(|(name, _)| name).collect();
        let hint = |resource: String| {
            let count = |container: &Container| Self::requests(&state, container).into_iter().find(|(name, _)| *name == resource).map_or(0, |(_, count)| count);
            let of_pod = state.given.get(pod.metadata.uid.as_deref().unwrap_or_default());
            let held: Option<BTreeSet<String>> = of_pod.map(|containers| containers.values().filter_map(|resources| resources.get(&resource)).flat_map(Given::devices).collect());
            let hints = self.hints_for(&state, &resource, at_once(pod, count), held.filter(|held| !held.is_empty()), &BTreeSet::new());
            (resource, hints)
        };
        names.into_iter().map(hint).collect()
    }

    fn hints_for(&self, state: &State, resource: &str, count: usize, held: Option<BTreeSet<String>>, reusable: &BTreeSet<String>) -> Option<Vec<Hint>> {
        let plugin = state.plugins.get(resource).filter(|plugin| plugin.has_topology())?;
        let none = BTreeSet::new();
        let (free, must) = match &held {
            Some(held) if held.len() != count => return Some(Vec::new()),
            Some(held) => (held.clone(), &none),
            None => (choice::free(state, resource), reusable),
        };
        if free.union(must).count() < count {
            return Some(Vec::new());
        }
        let mut least = self.nodes.len();
        let mut hints = Vec::new();
        for mask in masks(&self.nodes) {
            let all = plugin.devices.keys().filter(|id| plugin.is_on(id, mask)).count();
            if all >= count {
                least = least.min(mask.count());
            }
            let with_nodes = || must.iter().filter(|id| plugin.has_nodes(id));
            if with_nodes().any(|id| !plugin.is_on(id, mask)) {
                continue;
            }
            let found = with_nodes().count() + free.iter().filter(|id| !must.contains(*id) && plugin.is_on(id, mask)).count();
            if found >= count {
                hints.push(Hint { mask: Some(mask), preferred: false });
            }
        }
        hints.iter_mut().for_each(|hint| hint.preferred = hint.mask.is_some_and(|mask| mask.count() == least));
        Some(hints)
    }

    /// What a container holds, by resource and the NUMA nodes that devices belong to.
    pub fn held(&self, uid: &str, container: &str) -> Vec<Held> {
        let state = self.state();
        let resources = state.given.get(uid).and_then(|containers| containers.get(container));
        let of = |(name, given): (&String, &Given)| group(name, given.devices(), |id| nodes_of(given, id));
        resources.into_iter().flatten().flat_map(of).collect()
    }

    /// All devices that pods may have.
    pub fn allocatable(&self) -> Vec<Held> {
        let state = self.state();
        let of = |(name, plugin): (&String, &Plugin)| group(name, plugin.healthy(), |id| plugin.devices.get(id).map(|device| device.nodes.clone()).unwrap_or_default());
        state.plugins.iter().flat_map(of).collect()
    }
}

fn nodes_of(given: &Given, id: &str) -> Vec<usize> {
    given.ids.iter().filter(|(node, ids)| **node != ANYWHERE && ids.iter().any(|other| other == id)).map(|(node, _)| *node as usize).collect()
}

/// One entry for all devices of the same nodes.
fn group(resource: &str, ids: BTreeSet<String>, nodes: impl Fn(&str) -> Vec<usize>) -> Vec<Held> {
    let mut by_nodes: BTreeMap<Vec<usize>, Vec<String>> = BTreeMap::new();
    for id in ids {
        by_nodes.entry(nodes(&id)).or_default().push(id);
    }
    by_nodes.into_iter().map(|(nodes, ids)| Held { resource: resource.into(), ids, nodes }).collect()
}

/// Unknown: its plugin is not there to ask, or does not name the device any more.
fn health(plugin: Option<&Plugin>, given: &Given) -> Vec<ResourceHealth> {
    let connected = plugin.filter(|plugin| plugin.channel.is_some());
    let word = |id: &str| match connected.and_then(|plugin| plugin.devices.get(id)) {
        None => "Unknown",
        Some(device) if device.is_healthy => "Healthy",
        Some(_) => "Unhealthy",
    };
    given.devices().into_iter().map(|id| ResourceHealth { health: Some(word(&id).into()), resource_id: id, message: None }).collect()
}

/// Whether a resource's name is one that plugins may offer (upstream's `IsExtendedResourceName`): a domain that is not Kubernetes', and a name.
fn is_extended(name: &str) -> bool {
    let Some((domain, rest)) = name.split_once('/') else { return false };
    let of_kubernetes = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let is_word = |text: &str, more: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        ends(text.chars().next()) && ends(text.chars().last()) && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    !of_kubernetes && !name.starts_with("requests.") && domain.len() <= 253 && rest.len() <= 63 && is_word(domain, "-.") && is_word(rest, "-_.")
}

fn merge(additions: &mut Additions, answer: ContainerAllocateResponse) {
    for (name, value) in answer.envs {
        if !additions.env.iter().any(|(known, _)| *known == name) {
            additions.env.push((name, value));
        }
    }
    for mount in answer.mounts {
        let target = PathBuf::from(mount.container_path);
        if !additions.mounts.iter().any(|known| known.target == target) {
            additions.mounts.push(Mount { source: mount.host_path.into(), target, read_only: mount.read_only, ..Mount::default() });
        }
    }
    for device in answer.devices {
        let container_path = PathBuf::from(device.container_path);
        if !additions.devices.iter().any(|known| known.container_path == container_path) {
            additions.devices.push(RuntimeDevice { host_path: device.host_path.into(), container_path, permissions: device.permissions, ..RuntimeDevice::default() });
        }
    }
    for (key, value) in answer.annotations {
        additions.annotations.entry(key).or_insert(value);
    }
    additions.cdi.extend(answer.cdi_devices.into_iter().map(|device| device.name));
}
