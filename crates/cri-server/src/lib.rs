//! Serves the CRI: `runtime.v1.RuntimeService` and `ImageService` on a socket, over our runtime, image store and pod network.
//!
//! Entry point: [`serve`]. One file a group of methods; [`server`] is the table that names them. Invariants: what a client sent with a sandbox or a
//! container is kept with it by the runtime ([`record`]), so that a restart knows all that the client may ask back; what a message asks and this
//! runtime cannot do is refused by the field's name; a call goes on to its end though its client leaves. Deliberately absent: checkpoints.

mod container;
mod container_config;
mod events;
mod faults;
mod files;
mod image;
mod metrics;
mod names;
mod ports;
mod record;
mod resources;
mod runtime;
mod sandbox;
mod sandbox_config;
mod security;
mod server;
mod stats;
mod status;
mod streaming;

use keles_cri::ContainerEventResponse;
use keles_grpc::Status;
use keles_images::Images;
use keles_network::{NetworkError, PodNetwork};
use keles_proxy::table::Frame;
use keles_runtime::api::{ContainerStatus, PodRuntime, RuntimeError, SandboxStatus};
use keles_runtime::{Engine, EngineOptions};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

/// Events that a slow client may be behind before it has to list anew.
const EVENT_QUEUE: usize = 1024;

pub struct Options {
    /// Its `cgroup_root` is empty: groups are where clients say (`cgroup_parent`).
    pub engine: EngineOptions,
    /// Parent of the groups of sandboxes that name none, below the trees' tops.
    pub cgroup_parent: String,
    pub images: Images,
    /// Where the images lie.
    pub images_dir: PathBuf,
    pub network: PodNetwork,
    /// The range of the network, as `UpdateRuntimeConfig` names it.
    pub pod_cidr: String,
    /// Of the table of host ports.
    pub ports: Frame,
    /// Files of sandboxes: resolv.conf, hosts, hostname, image volumes.
    pub state_dir: PathBuf,
    /// Of the streaming server.
    pub stream_listener: TcpListener,
    pub version: String,
}

#[derive(Debug, thiserror::Error)]
pub enum CriError {
    #[error("the container runtime cannot be opened")]
    Runtime(#[from] RuntimeError),
    #[error("the pod network cannot be brought in order")]
    Network(#[from] NetworkError),
    #[error("the host ports cannot be brought in order: {0}")]
    Ports(ports::PortError),
    #[error("the CRI's files cannot be used: {path}")]
    Files { path: PathBuf, source: io::Error },
    #[error("the streaming server has no address")]
    Stream(#[source] io::Error),
}

/// Everything that the methods use.
struct Cri {
    engine: Engine,
    /// The same, as the streams take it.
    runtime: Arc<dyn PodRuntime>,
    cgroup_parent: String,
    images: Images,
    images_dir: PathBuf,
    network: PodNetwork,
    pod_cidr: String,
    ports: ports::Ports,
    files: files::Files,
    resources: resources::Updated,
    names: names::Names,
    streams: streaming::Tickets,
    rates: stats::Rates,
    /// What clients hear.
    events: broadcast::Sender<ContainerEventResponse>,
    /// What is to be told besides what the runtime tells, see [`events`].
    told: mpsc::Sender<events::Told>,
    version: String,
    state_dir: PathBuf,
    /// Where what containers write lies.
    containers_dir: PathBuf,
}

/// Takes up what an earlier run left, then answers on `listener` until `stop`. `ready` is called when the first call can be answered.
pub async fn serve(o: Options, listener: UnixListener, stop: CancellationToken, ready: impl FnOnce()) -> Result<(), CriError> {
    let containers_dir = o.engine.state_dir.join("containers");
    let engine = Engine::open(o.engine).await?;
    let address = o.stream_listener.local_addr().map_err(CriError::Stream)?;
    let (told, own_events) = mpsc::channel(EVENT_QUEUE);
    let cri = Arc::new(Cri {
        runtime: Arc::new(engine.clone()),
        engine,
        cgroup_parent: o.cgroup_parent,
        images: o.images,
        images_dir: o.images_dir,
        network: o.network,
        pod_cidr: o.pod_cidr,
        ports: ports::Ports::new(o.ports),
        files: files::Files::open(&o.state_dir)?,
        resources: resources::Updated::open(&o.state_dir)?,
        names: names::Names::default(),
        streams: streaming::Tickets::new(address),
        rates: stats::Rates::default(),
        events: broadcast::Sender::new(EVENT_QUEUE),
        told,
        version: o.version,
        state_dir: o.state_dir,
        containers_dir,
    });
    let of_engine = cri.engine.events();
    cri.take_up().await?;
    let following = tokio::spawn(events::follow(cri.clone(), of_engine, own_events, stop.clone()));
    let streaming = tokio::spawn(streaming::serve(cri.clone(), o.stream_listener, stop.clone()));
    ready();
    server::methods(cri).serve_unix(listener, stop).await;
    let _ = tokio::join!(following, streaming);
    Ok(())
}

impl Cri {
    /// The sandbox of that id, or of the only id that begins so.
    async fn sandbox(&self, id: &str) -> Result<SandboxStatus, Status> {
        let all = self.engine.list_sandboxes().await.map_err(faults::of_runtime)?;
        faults::one(all, "sandbox", id, |sandbox| &sandbox.id)
    }

    async fn container(&self, id: &str) -> Result<ContainerStatus, Status> {
        let all = self.engine.list_containers().await.map_err(faults::of_runtime)?;
        faults::one(all, "container", id, |container| &container.id)
    }

    async fn containers_of(&self, sandbox_id: &str) -> Result<Vec<ContainerStatus>, Status> {
        let mut all = self.engine.list_containers().await.map_err(faults::of_runtime)?;
        all.retain(|container| container.sandbox_id == sandbox_id);
        Ok(all)
    }

    /// Brings in order what a kill left: sandboxes that never got a network, addresses and files of sandboxes that are gone, host ports.
    async fn take_up(&self) -> Result<(), CriError> {
        for sandbox in self.engine.list_sandboxes().await? {
            if sandbox.netns.is_some() && sandbox.ready && sandbox.ips.is_empty() && record::is_ours(&sandbox) {
                tracing::info!(sandbox = sandbox.id, "removing a sandbox that was not completed");
                self.network.detach(&sandbox.id).await?;
                self.engine.remove_sandbox(&sandbox.id).await?;
            }
        }
        let all = self.engine.list_sandboxes().await?;
        // A node agent of our own keeps addresses by the pod's uid.
        let keeps = |key: &str| all.iter().any(|sandbox| (sandbox.ready && sandbox.id == key) || (!record::is_ours(sandbox) && sandbox.config.uid == key));
        self.network.retain(keeps).await?;
        self.files.retain(|id| all.iter().any(|sandbox| sandbox.id == id))?;
        let containers = self.engine.list_containers().await?;
        self.resources.retain(|id| containers.iter().any(|container| container.id == id) || all.iter().any(|sandbox| sandbox.id == id))?;
        self.ports.apply(&self.engine).await.map_err(CriError::Ports)
    }
}
