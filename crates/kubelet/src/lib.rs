//! The node agent: pod state machine, probes, status, its HTTPS API.
//!
//! Entry point: [`Kubelet::run`]. `machine` is pure and decides; `pod_worker` is the shell, one actor a pod; `pods` follows the API and the
//! runtime; `node` keeps the Node object and its lease; `server` answers the API server. It talks to the Kubernetes API only through a
//! [`kube::Client`] and to containers only through [`keles_runtime::api::PodRuntime`].
//!
//! `certificates` are asked for and renewed. `plugins` are what announces itself by a socket. `eviction`, `image_gc` and `log_rotation` keep the node's own resources; `devices`, `dra`
//! and `placement` give of them to pods. Deliberately absent: checkpoint; see docs/STATUS.md.

pub mod admission;
mod agent;
pub mod allocated;
pub mod certificates;
pub mod config;
mod container_config;
pub mod credential_provider;
mod csi_node;
mod devices;
mod dra;
mod env;
mod ephemeral;
mod events;
pub mod eviction;
mod expansion;
mod figures;
mod followed;
mod hook;
mod http_get;
mod image_access;
pub mod image_credentials;
pub mod image_gc;
pub mod image_store;
mod instrumented;
mod local_storage;
mod log_links;
pub mod log_rotation;
mod logs;
mod machine;
mod metrics;
pub mod naming;
mod node;
mod node_facts;
mod objects;
pub mod placement;
mod plugins;
mod pod_groups;
pub mod pod_network;
mod pod_resources;
mod pod_worker;
mod pods;
mod preemption;
mod probe;
mod probe_metrics;
mod qos;
mod resources;
mod security;
mod server;
mod service_env;
pub mod shutdown;
mod startup;
pub mod static_pods;
mod status_writer;
pub mod swap;
mod user_namespaces;

pub use config::{DEFAULT_HEALTHZ_PORT, DEFAULT_MAX_PODS, DEFAULT_PORT, DEFAULT_RESTART_WAIT, KubeletConfig, ServerTls, ServingCertificate};
pub use image_store::{ImageStore, NodeImage};
pub use naming::ClusterDns;
pub use pod_network::{HostPort, NetworkError, NetworkOfRuntime, PodNetwork};
pub use resources::Enforced;

use agent::Agent;
use instrumented::Instrumented;
use k8s_openapi::api::core::v1::Pod;
use keles_runtime::api::PodRuntime;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("folder {path} cannot be made: {source}")]
    Folder { path: String, source: std::io::Error },
    #[error("the kubelet API cannot listen at {address}: {source}; is another kubelet running?")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("no ids for pods with user namespaces: {0}")]
    UserNamespaces(String),
    #[error("{0}")]
    Placement(String),
    #[error(transparent)]
    Swap(#[from] swap::SwapError),
    #[error(transparent)]
    Shutdown(#[from] shutdown::ShutdownError),
    #[error(transparent)]
    Allocated(#[from] allocated::AllocatedError),
    #[error("the kubelet's certificates are not usable: {0}")]
    Tls(String),
}

pub struct Kubelet;

impl Kubelet {
    /// Runs the agent until `shutdown`. Containers go on; the next run takes them over.
    pub async fn run(
        config: KubeletConfig,
        client: kube::Client,
        runtime: Arc<dyn PodRuntime>,
        images: impl ImageStore,
        network: Arc<dyn PodNetwork>,
        shutdown: CancellationToken,
    ) -> Result<(), KubeletError> {
        swap::check(&config.swap)?;
        metrics::register();
        let (runtime, images): (Arc<dyn PodRuntime>, _) = (Arc::new(Instrumented(runtime)), Instrumented(images));
        for dir in [config.pods_dir(), config.root_dir.join("plugins"), config.pod_logs_dir.clone()] {
            std::fs::create_dir_all(&dir).map_err(|source| KubeletError::Folder { path: dir.display().to_string(), source })?;
        }
        log_links::sweep(&config.log_links_dir).map_err(|source| KubeletError::Folder { path: config.log_links_dir.display().to_string(), source })?;
        let ids = user_namespaces::Ids::of_host(config.max_pods).map_err(KubeletError::UserNamespaces)?;
        let users = user_namespaces::Ranges::open(ids, config.pods_dir());
        let groups = config.shutdown.clone();
        let delay = tokio::task::spawn_blocking(move || shutdown::Delay::take(&groups)).await.unwrap_or(Ok(None))?;
        // The runtime answered a moment ago; should it not now, the figures are those of our own disk.
        let images_dir = images.folder().await.ok().flatten().unwrap_or_else(|| config.data_dir.clone());
        let facts = node_facts::NodeFacts::read(&config, &runtime.version());
        let machine = placement::machine::Machine::read(std::path::Path::new(placement::machine::SYS), facts.memory_bytes.max(0) as u64);
        let kept_bytes = facts.kept.memory_bytes.max(0) as u64;
        let placement = placement::Placement::open(&config.data_dir, &config.device_plugins_dir(), &config.placement, machine, config.reserved.cpu_milli, kept_bytes)
            .map_err(KubeletError::Placement)?;
        let allocated = allocated::Allocated::open(&config.data_dir)?;
        let informers = keles_client::Informers::new(client.clone(), shutdown.clone());
        let events = events::Recorder::start(client.clone(), &config.node_name);
        swap::warn_of_volumes(&events, &config.node_name);
        let agent = Arc::new(Agent {
            csi: keles_volumes::csi::Csi::open(&config.root_dir),
            csi_node: csi_node::Shown::default(),
            services: service_env::Services::watch(&informers),
            objects: objects::ApiObjects::new(client.clone(), &config.node_name, informers.clone(), events.clone()),
            informers,
            events,
            followed: followed::Followed::new(client.clone(), shutdown.clone()),
            config,
            client,
            features: runtime.features(),
            id_scheme: id_scheme(&runtime.version()),
            images_dir,
            runtime,
            images: Arc::new(images),
            network,
            facts,
            allocated,
            placement,
            pods: pods::Pods::default(),
            users,
            pressure: tokio::sync::watch::channel(Default::default()).0,
            shutting_down: tokio::sync::watch::channel(false).0,
            image_history: Default::default(),
            freed: tokio::sync::watch::channel(()).0,
            taken: tokio::sync::watch::channel(()).0,
        });
        let is_held = pod_groups::hold_all(&agent).await;
        let pods = agent.pods.clone();
        let server = match &agent.config.tls {
            Some(tls) => Some(server::bind(agent.config.listen, certificates::serving::first(tls)?).await?),
            None => None,
        };
        let certificates = tokio::spawn(keep_certificates(agent.clone(), server.as_ref().map(server::Bound::shown), shutdown.clone()));
        let port = server.as_ref().map_or(agent.config.listen.port(), server::Bound::port);
        let (registered_tx, registered) = tokio::sync::watch::channel(None);
        let (registered_too, registered_csi, registered_dra) = (registered.clone(), registered.clone(), registered.clone());
        let serve = async {
            if let Some(server) = server {
                server.run(agent.clone(), pods.clone(), shutdown.clone()).await;
            }
        };
        // The lease and the status each in a task of their own: neither may wait for pods or for the other.
        let status = tokio::spawn(node::run_status(agent.clone(), port, registered_tx, shutdown.clone()));
        let health = tokio::spawn(server::serve_health(agent.config.healthz, shutdown.clone()));
        let rotation = tokio::spawn(log_rotation::run(agent.clone(), shutdown.clone()));
        let eviction = tokio::spawn(eviction::run(agent.clone(), shutdown.clone()));
        let groups = tokio::spawn(pod_groups::run(agent.clone(), is_held, shutdown.clone()));
        let images = tokio::spawn(image_gc::run(agent.clone(), shutdown.clone()));
        let lease = tokio::spawn(node::run_lease(agent.clone(), registered, shutdown.clone()));
        let plugins = tokio::spawn(plugins::run(agent.clone(), shutdown.clone()));
        let csi_node = tokio::spawn(csi_node::run(agent.clone(), registered_csi, shutdown.clone()));
        let dra = tokio::spawn(dra::run(agent.clone(), registered_dra, shutdown.clone()));
        let sweep = tokio::spawn(csi_node::sweep(agent.clone(), shutdown.clone()));
        let devices = tokio::spawn(serve_devices(agent.clone(), shutdown.clone()));
        let delayed = tokio::spawn(shutdown::run(agent.clone(), delay, shutdown.clone()));
        let mirrors = tokio::spawn({
            let (agent, stop) = (agent.clone(), shutdown.clone());
            async move { stop.run_until_cancelled(static_pods::keep(agent, registered_too)).await.unwrap_or_default() }
        });
        tokio::join!(pods.run(agent.clone(), shutdown.clone()), serve);
        let _ = tokio::join!(status, lease, health, rotation, eviction, groups, images, mirrors, plugins, csi_node, dra, sweep, devices, delayed, certificates);
        Ok(())
    }
}

/// Renews what the agent shows the API server and what its own API shows.
async fn keep_certificates(agent: Arc<Agent>, shown: Option<certificates::serving::Shown>, stop: CancellationToken) {
    let client = async {
        if let Some(rotation) = agent.config.client_rotation.clone() {
            rotation.run(&agent.config.node_name, agent.client.clone(), stop.clone()).await;
        }
    };
    let serving = async {
        if let Some(shown) = shown {
            certificates::serving::keep(agent.clone(), shown, stop.clone()).await;
        }
    };
    tokio::join!(client, serving);
}

/// Lets device plugins register and monitors ask; statuses follow what plugins tell, and running containers what processors they may have.
async fn serve_devices(agent: Arc<Agent>, stop: CancellationToken) {
    let devices = &agent.placement.devices;
    let mut changes = devices.changes();
    let follow = async {
        while changes.changed().await.is_ok() {
            agent.pods.look_again(&devices.holders());
        }
    };
    let serve = async {
        if let Err(error) = devices.serve(stop.clone()).await {
            tracing::error!(%error, folder = %devices.folder().display(), "device plugins cannot register here; a socket's path has at most 107 bytes");
        }
    };
    let resources = async {
        if let Err(error) = pod_resources::serve(agent.clone(), stop.clone()).await {
            tracing::error!(%error, folder = %agent.config.pod_resources_dir().display(), "nobody can ask here who has which devices; a socket's path has at most 107 bytes");
        }
    };
    tokio::select! {
        () = async { tokio::join!(follow, serve, resources, placement::pinning::run(agent.clone())); } => {}
        () = stop.cancelled() => {}
    }
}

/// `containerd` of `containerd://1.6.20`.
fn id_scheme(version: &str) -> String {
    version.split("://").next().unwrap_or_default().to_owned()
}

/// `name_namespace(uid)`, as messages name a pod.
fn pod_ref(pod: &Pod) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}_{}({})", text(&pod.metadata.name), text(&pod.metadata.namespace), text(&pod.metadata.uid))
}

/// A time as the API keeps it.
fn conditions_time(at: jiff::Timestamp) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    machine::conditions::second(at)
}
