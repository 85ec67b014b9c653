//! The pod-resources API (`k8s.io/kubelet/pkg/apis/podresources/v1`): tells monitors on the node which container has which devices, processors and
//! memory.
//!
//! Entry point: [`serve`], on `pod-resources/kubelet.sock`. Deliberately absent: v1alpha1.

use crate::agent::Agent;
use crate::devices::Held;
use crate::devices::wire::{CdiDevice, Empty, NumaNode, TopologyInfo};
use crate::dra::store::{Claim, Device};
use crate::machine::{is_sidecar, phase};
use crate::metrics;
use crate::placement::memory::Block;
use k8s_openapi::api::core::v1::{Container, Pod};
use keles_grpc::{Code, Server, Status};
use prost::Message;
use std::io;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

pub const SOCKET: &str = "kubelet.sock";
const API: &str = "v1";
const LIST: &str = "/v1.PodResourcesLister/List";
const ALLOCATABLE: &str = "/v1.PodResourcesLister/GetAllocatableResources";
const GET: &str = "/v1.PodResourcesLister/Get";

#[derive(Clone, PartialEq, Message)]
pub struct GetPodResourcesRequest {
    #[prost(string, tag = "1")]
    pub pod_name: String,
    #[prost(string, tag = "2")]
    pub pod_namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetPodResourcesResponse {
    #[prost(message, optional, tag = "1")]
    pub pod_resources: Option<PodResources>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListPodResourcesResponse {
    #[prost(message, repeated, tag = "1")]
    pub pod_resources: Vec<PodResources>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AllocatableResourcesResponse {
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<ContainerDevices>,
    #[prost(int64, repeated, tag = "2")]
    pub cpu_ids: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    pub memory: Vec<ContainerMemory>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PodResources {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerResources>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerResources {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<ContainerDevices>,
    /// Those it has for itself.
    #[prost(int64, repeated, tag = "3")]
    pub cpu_ids: Vec<i64>,
    #[prost(message, repeated, tag = "4")]
    pub memory: Vec<ContainerMemory>,
    #[prost(message, repeated, tag = "5")]
    pub dynamic_resources: Vec<DynamicResource>,
}

/// A claim that the container uses.
#[derive(Clone, PartialEq, Message)]
pub struct DynamicResource {
    #[prost(string, tag = "2")]
    pub claim_name: String,
    #[prost(string, tag = "3")]
    pub claim_namespace: String,
    #[prost(message, repeated, tag = "4")]
    pub claim_resources: Vec<ClaimResource>,
}

/// A device of the claim.
#[derive(Clone, PartialEq, Message)]
pub struct ClaimResource {
    #[prost(message, repeated, tag = "1")]
    pub cdi_devices: Vec<CdiDevice>,
    #[prost(string, tag = "2")]
    pub driver_name: String,
    #[prost(string, tag = "3")]
    pub pool_name: String,
    #[prost(string, tag = "4")]
    pub device_name: String,
    #[prost(string, optional, tag = "5")]
    pub share_id: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerDevices {
    #[prost(string, tag = "1")]
    pub resource_name: String,
    #[prost(string, repeated, tag = "2")]
    pub device_ids: Vec<String>,
    #[prost(message, optional, tag = "3")]
    pub topology: Option<TopologyInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerMemory {
    #[prost(string, tag = "1")]
    pub memory_type: String,
    #[prost(uint64, tag = "2")]
    pub size: u64,
    #[prost(message, optional, tag = "3")]
    pub topology: Option<TopologyInfo>,
}

/// Answers until `stop`.
pub async fn serve(agent: Arc<Agent>, stop: CancellationToken) -> io::Result<()> {
    let folder = agent.config.pod_resources_dir();
    std::fs::create_dir_all(&folder)?;
    let socket = folder.join(SOCKET);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    let (for_list, for_get) = (agent.clone(), agent.clone());
    let server = Server::new()
        .unary(LIST, move |_: Empty| {
            metrics::POD_RESOURCES.with([API]).increment();
            metrics::POD_RESOURCES_LIST.with([API]).increment();
            let all = list(&for_list);
            async { Ok::<_, Status>(ListPodResourcesResponse { pod_resources: all }) }
        })
        .unary(GET, move |request: GetPodResourcesRequest| {
            metrics::POD_RESOURCES.with([API]).increment();
            metrics::POD_RESOURCES_GET.with([API]).increment();
            let found = get(&for_get, &request).inspect_err(|_| metrics::POD_RESOURCES_GET_ERRORS.with([API]).increment());
            async { found.map(|pod| GetPodResourcesResponse { pod_resources: Some(pod) }) }
        })
        .unary(ALLOCATABLE, move |_: Empty| {
            metrics::POD_RESOURCES.with([API]).increment();
            metrics::POD_RESOURCES_ALLOCATABLE.with([API]).increment();
            let all = allocatable(&agent);
            async { Ok::<_, Status>(all) }
        });
    server.serve_unix(listener, stop).await;
    Ok(())
}

fn list(agent: &Agent) -> Vec<PodResources> {
    let views = agent.pods.views();
    let active = views.iter().filter(|view| !view.status.phase.as_deref().is_some_and(phase::is_terminal));
    active.map(|view| of_pod(agent, &view.pod)).collect()
}

fn get(agent: &Agent, request: &GetPodResourcesRequest) -> Result<PodResources, Status> {
    let view = agent.pods.view(&request.pod_namespace, &request.pod_name);
    let missing = || Status::new(Code::Unknown, format!("pod {} in namespace {} not found", request.pod_name, request.pod_namespace));
    view.map(|view| of_pod(agent, &view.pod)).ok_or_else(missing)
}

/// Its containers and sidecars.
fn of_pod(agent: &Agent, pod: &Pod) -> PodResources {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let all = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().filter(|init| is_sidecar(init)).chain(&spec.containers));
    PodResources {
        name: pod.metadata.name.clone().unwrap_or_default(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        containers: all.map(|container| of_container(agent, pod, uid, container)).collect(),
    }
}

fn of_container(agent: &Agent, pod: &Pod, uid: &str, container: &Container) -> ContainerResources {
    let name = &container.name;
    ContainerResources {
        name: name.clone(),
        devices: agent.placement.devices.held(uid, name).into_iter().map(devices).collect(),
        cpu_ids: agent.placement.exclusive_cpus(uid, name).iter().map(|cpu| cpu as i64).collect(),
        memory: agent.placement.memory_of(uid, name).into_iter().map(memory).collect(),
        dynamic_resources: agent.placement.dra.of_container(pod, container).into_iter().map(dynamic).collect(),
    }
}

fn dynamic(claim: Claim) -> DynamicResource {
    let devices = claim.drivers.into_iter().flat_map(|(driver, state)| state.devices.into_iter().map(move |device| (driver.clone(), device)));
    let resource = |(driver_name, device): (String, Device)| ClaimResource {
        cdi_devices: device.cdi.into_iter().map(|name| CdiDevice { name }).collect(),
        driver_name,
        pool_name: device.pool,
        device_name: device.name,
        share_id: device.share_id,
    };
    DynamicResource { claim_name: claim.name, claim_namespace: claim.namespace, claim_resources: devices.map(resource).collect() }
}

fn allocatable(agent: &Agent) -> AllocatableResourcesResponse {
    AllocatableResourcesResponse {
        devices: agent.placement.devices.allocatable().into_iter().map(devices).collect(),
        cpu_ids: agent.placement.allocatable_cpus().iter().map(|cpu| cpu as i64).collect(),
        memory: agent.placement.allocatable_memory().into_iter().map(memory).collect(),
    }
}

fn devices(held: Held) -> ContainerDevices {
    ContainerDevices { resource_name: held.resource, device_ids: held.ids, topology: topology(&held.nodes) }
}

fn memory(block: Block) -> ContainerMemory {
    ContainerMemory { memory_type: block.kind, size: block.size, topology: topology(&block.numa_affinity) }
}

fn topology(nodes: &[usize]) -> Option<TopologyInfo> {
    (!nodes.is_empty()).then(|| TopologyInfo { nodes: nodes.iter().map(|node| NumaNode { id: *node as i64 }).collect() })
}
