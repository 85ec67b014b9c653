//! A container runtime of somebody else's (containerd, CRI-O) behind the node agent: [`Remote`] is [`PodRuntime`] over runtime.v1 on a socket,
//! [`Images`] its image service.
//!
//! Entry point: [`Remote::open`]. Invariants: the truth is the runtime's; what is kept here is only what need not be asked again. Pods of others in
//! the same runtime are neither seen nor touched: ours carry a label. The pod's control group and its limits are made here, as upstream's kubelet
//! makes them; the runtime puts the containers' groups below it (its driver must be cgroupfs). Network, logs and containers' roots are the
//! runtime's. Deliberately absent: runtimes whose driver of control groups is systemd (refused), AppArmor, SELinux.
//! Sources: the CRI (k8s.io/cri-api), and upstream's kuberuntime for what is asked when.

mod call;
mod container;
mod events;
mod groups;
mod images;
mod sandbox;
mod stats;
mod streams;
mod version;

pub use images::{Images, Pulled, RuntimeImage};

use async_trait::async_trait;
use call::{Caller, LONG, USUAL};
use groups::Groups;
use keles_cri as cri;
use keles_grpc::{Channel, Code};
use keles_runtime::api::{
    ContainerConfig, ContainerEvent, ContainerStatus, DiskUsage, ExecOutput, ExecRequest, ExecStream, Features, Handler, PodRuntime, PortConnection, Resources, Result,
    RuntimeError, SandboxConfig, SandboxStatus, Stats,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;

/// Marks our sandboxes and containers in the runtime; its value tells several agents of one machine apart.
pub const OWNER: &str = "keles.io/owner";
/// A sandbox's annotation: what it was made of, for the next run of the agent.
const SANDBOX_CONFIG: &str = "keles.io/sandbox-config";
/// A container's annotation; the runtime's status of a container does not name its sandbox.
const SANDBOX_ID: &str = "keles.io/sandbox-id";
/// How long a runtime that is just being started may take to answer.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
const OPEN_PAUSE: Duration = Duration::from_millis(200);
/// The node's status is not to wait long for a runtime that hangs.
const STATUS_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("--container-runtime-endpoint {0}: it must be the path of a socket, as in unix:///run/containerd/containerd.sock")]
    Endpoint(String),
    #[error("the container runtime at {endpoint} does not answer: {source}; start it, or leave --container-runtime-endpoint out to use our own")]
    NoAnswer { endpoint: String, source: keles_grpc::Status },
    #[error(
        "the container runtime at {endpoint} does not serve runtime.v1: {source}; switch its CRI plugin on (containerd's disabled_plugins), or leave --container-runtime-endpoint out"
    )]
    NoCri { endpoint: String, source: keles_grpc::Status },
    #[error("the container runtime at {0} has systemd as its driver of control groups, which is not built; set cgroupfs there (containerd: SystemdCgroup = false)")]
    Systemd(String),
    #[error(transparent)]
    Groups(#[from] keles_linux::cgroup::CgroupError),
}

/// The socket that an endpoint names: `unix:///run/…` or a path.
pub fn socket(endpoint: &str) -> std::result::Result<PathBuf, OpenError> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if path.starts_with('/') { Ok(path.into()) } else { Err(OpenError::Endpoint(endpoint.into())) }
}

/// The runtime. Dropping the last one leaves all pods running.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
    _events: Arc<events::Relay>,
}

pub(crate) struct Inner {
    caller: Caller,
    version: String,
    features: Features,
    /// Of our label.
    owner: String,
    groups: Groups,
    sandboxes: Mutex<HashMap<String, Known>>,
    /// The sandbox of each container.
    places: Mutex<HashMap<String, String>>,
    events: broadcast::Sender<ContainerEvent>,
}

/// What does not change of a sandbox.
#[derive(Clone, Debug)]
struct Known {
    config: SandboxConfig,
    ips: Vec<String>,
    stopped: bool,
}

fn held<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Remote {
    /// Finds the runtime at `endpoint` and asks what it is and can do. `cgroup_root`: the group below which our pods' are, which is also whose they are.
    pub async fn open(endpoint: &str, cgroup_root: &str) -> std::result::Result<Remote, OpenError> {
        let caller = Caller::new(Channel::unix(socket(endpoint)?));
        let version = first_answer(&caller, endpoint).await?;
        refuse_systemd(&caller, endpoint).await?;
        let status: cri::StatusResponse =
            caller.raw(cri::STATUS, &cri::StatusRequest { verbose: false }, USUAL).await.map_err(|source| OpenError::NoAnswer { endpoint: endpoint.into(), source })?;
        let (events, _) = broadcast::channel(events::QUEUE);
        let inner = Arc::new(Inner {
            caller,
            version: version::shown(&version.runtime_name, &version.runtime_version),
            features: features(&status),
            owner: cgroup_root.to_owned(),
            groups: Groups::open(cgroup_root)?,
            sandboxes: Mutex::default(),
            places: Mutex::default(),
            events,
        });
        Ok(Remote { _events: Arc::new(events::Relay::start(&inner)), inner })
    }

    /// The runtime's images; `at_once`: pulls at the same time, at most.
    pub fn images(&self, at_once: Option<usize>) -> Images {
        Images::new(self.inner.caller.clone(), at_once)
    }
}

/// A runtime that is started together with the agent is waited for.
async fn first_answer(caller: &Caller, endpoint: &str) -> std::result::Result<cri::VersionResponse, OpenError> {
    let end = tokio::time::Instant::now() + OPEN_LIMIT;
    loop {
        match caller.raw(cri::VERSION, &cri::VersionRequest { version: "0.1.0".into() }, USUAL).await {
            Ok(version) => return Ok(version),
            Err(source) if source.code == Code::Unimplemented => return Err(OpenError::NoCri { endpoint: endpoint.into(), source }),
            // Its socket may not be there yet, which nothing tells of.
            Err(source) if source.code == Code::Unavailable && tokio::time::Instant::now() < end => tokio::time::sleep(OPEN_PAUSE).await,
            Err(source) => return Err(OpenError::NoAnswer { endpoint: endpoint.into(), source }),
        }
    }
}

/// Runtimes older than Kubernetes 1.28 do not tell their driver (KEP-4033); a wrong one they refuse with the first sandbox.
async fn refuse_systemd(caller: &Caller, endpoint: &str) -> std::result::Result<(), OpenError> {
    let told: std::result::Result<cri::RuntimeConfigResponse, _> = caller.raw(cri::RUNTIME_CONFIG, &cri::RuntimeConfigRequest {}, USUAL).await;
    match told {
        Ok(told) if told.linux.as_ref().is_some_and(|linux| linux.cgroup_driver() == cri::CgroupDriver::Systemd) => Err(OpenError::Systemd(endpoint.into())),
        Ok(_) => Ok(()),
        Err(status) if status.code == Code::Unimplemented => Ok(()),
        Err(source) => Err(OpenError::NoAnswer { endpoint: endpoint.into(), source }),
    }
}

/// What the runtime tells of itself; one that tells nothing of handlers can nothing of what is told there.
fn features(status: &cri::StatusResponse) -> Features {
    let handler = |handler: &cri::RuntimeHandler| {
        let can = handler.features.clone().unwrap_or_default();
        Handler { name: handler.name.clone(), recursive_read_only_mounts: can.recursive_read_only_mounts, user_namespaces: can.user_namespaces }
    };
    Features {
        handlers: status.runtime_handlers.iter().map(handler).collect(),
        supplemental_groups_policy: status.features.as_ref().is_some_and(|can| can.supplemental_groups_policy),
        image_layers: false,
    }
}

/// File and cgroup work off the threads of the agent's own tasks.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(f).await {
        Ok(t) => t,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|source| RuntimeError::Io { what: format!("make {}", path.display()), source })
}

#[async_trait]
impl PodRuntime for Remote {
    fn version(&self) -> String {
        self.inner.version.clone()
    }
    fn features(&self) -> Features {
        self.inner.features.clone()
    }
    async fn not_ready(&self) -> Option<String> {
        self.inner.not_ready().await
    }
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus> {
        self.inner.run_sandbox(config).await
    }
    async fn set_network(&self, sandbox_id: &str, _: Vec<String>) -> Result<()> {
        Err(RuntimeError::Step { step: "set network", message: format!("sandbox {sandbox_id}: its addresses are given by {}", self.inner.version) })
    }
    async fn stop_sandbox(&self, sandbox_id: &str) -> Result<()> {
        self.inner.stop_sandbox(sandbox_id).await
    }
    async fn remove_sandbox(&self, sandbox_id: &str) -> Result<()> {
        self.inner.remove_sandbox(sandbox_id).await
    }
    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        self.inner.list_sandboxes("").await
    }
    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        self.inner.create_container(sandbox_id, config).await
    }
    async fn start_container(&self, id: &str) -> Result<()> {
        self.inner.start_container(id).await
    }
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        self.inner.stop_container(id, grace).await
    }
    async fn remove_container(&self, id: &str) -> Result<()> {
        self.inner.remove_container(id).await
    }
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        self.inner.list_containers().await
    }
    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        self.inner.container_status(id).await
    }
    async fn exec(&self, id: &str, request: ExecRequest) -> Result<ExecStream> {
        self.inner.exec(id, request).await
    }
    async fn exec_sync(&self, id: &str, args: Vec<String>, timeout: Duration) -> Result<ExecOutput> {
        self.inner.exec_sync(id, args, timeout).await
    }
    async fn attach(&self, id: &str, request: ExecRequest) -> Result<ExecStream> {
        self.inner.attach(id, request).await
    }
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<PortConnection> {
        self.inner.port_forward(sandbox_id, port).await
    }
    async fn stats(&self, id: &str) -> Result<Stats> {
        self.inner.stats(id).await
    }
    async fn written(&self, id: &str) -> Result<DiskUsage> {
        self.inner.written(id).await
    }
    async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = cri::ReopenContainerLogRequest { container_id: id.into() };
        self.inner.caller.container(cri::REOPEN_CONTAINER_LOG, "reopen log", id, &request, USUAL).await.map(|_: cri::ReopenContainerLogResponse| ())
    }
    async fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        let linux = container::resources(&resources, self.inner.groups.memory_version());
        let request = cri::UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(linux), ..Default::default() };
        self.inner.caller.container(cri::UPDATE_CONTAINER_RESOURCES, "update resources", id, &request, LONG).await.map(|_: cri::UpdateContainerResourcesResponse| ())
    }
    async fn update_sandbox_resources(&self, sandbox_id: &str, resources: Resources) -> Result<()> {
        self.inner.update_sandbox_resources(sandbox_id, resources).await
    }
    async fn limit_group(&self, group: &str, resources: Resources) -> Result<()> {
        let groups = &self.inner.groups;
        groups.make(&groups.path(group), &resources).await
    }
    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.inner.events.subscribe()
    }
}

impl Inner {
    /// Upstream's words of the conditions without which a node is not ready.
    async fn not_ready(&self) -> Option<String> {
        let answer: std::result::Result<cri::StatusResponse, _> = self.caller.raw(cri::STATUS, &cri::StatusRequest { verbose: false }, STATUS_LIMIT).await;
        let status = match answer {
            Ok(answer) => answer.status.unwrap_or_default(),
            Err(status) => return Some(format!("container runtime is down: {status}")),
        };
        let broken = |kind: &str, words: &str| match status.conditions.iter().find(|condition| condition.r#type == kind) {
            None => Some(format!("{words}: {kind} condition is not told")),
            Some(condition) if !condition.status => Some(format!("{words}: {kind}=false reason:{} message:{}", condition.reason, condition.message)),
            Some(_) => None,
        };
        let all: Vec<String> =
            [broken("RuntimeReady", "container runtime not ready"), broken("NetworkReady", "container runtime network not ready")].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

#[cfg(test)]
mod tests;
