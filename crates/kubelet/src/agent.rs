//! What all pod workers of the node share.

use crate::config::KubeletConfig;
use crate::events::Recorder;
use crate::followed::Followed;
use crate::image_store::ImageStore;
use crate::node_facts::NodeFacts;
use crate::objects::ApiObjects;
use crate::pod_network::PodNetwork;
use crate::service_env::Services;
use keles_client::Informers;
use keles_runtime::api::{Features, PodRuntime};
use keles_volumes::downward;
use std::path::PathBuf;
use std::sync::Arc;

pub struct Agent {
    pub config: KubeletConfig,
    pub client: kube::Client,
    /// What the agent follows of the API: its pods and all services.
    pub informers: Informers,
    pub runtime: Arc<dyn PodRuntime>,
    /// What it can do, as it said at the start.
    pub features: Features,
    /// Before `://` in its containers' ids.
    pub id_scheme: String,
    /// On the filesystem that images lie on.
    pub images_dir: PathBuf,
    pub images: Arc<dyn ImageStore>,
    pub network: Arc<dyn PodNetwork>,
    pub events: Recorder,
    pub services: Services,
    pub objects: ApiObjects,
    /// What of the API the pods show as files.
    pub followed: Followed,
    pub facts: NodeFacts,
    /// Volumes of CSI drivers.
    pub csi: Arc<keles_volumes::csi::Csi>,
    pub csi_node: crate::csi_node::Shown,
    /// All pods of the node: what they hold decides what others may get.
    pub pods: crate::pods::Pods,
    /// Ids of the host that pods with a user namespace have.
    pub users: crate::user_namespaces::Ranges,
    /// What resources pods were given.
    pub allocated: crate::allocated::Allocated,
    /// Who has which of the node's devices.
    pub placement: crate::placement::Placement,
    /// What the node is short of.
    pub pressure: crate::eviction::SharedPressure,
    /// The machine goes down.
    pub shutting_down: tokio::sync::watch::Sender<bool>,
    pub image_history: std::sync::Mutex<crate::image_gc::Images>,
    /// Rung when a pod takes, or comes to ask for, something else than it did.
    pub taken: tokio::sync::watch::Sender<()>,
    /// Rung when a pod gives back what it held.
    pub freed: tokio::sync::watch::Sender<()>,
}

impl Agent {
    pub fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }

    pub fn image_history(&self) -> std::sync::MutexGuard<'_, crate::image_gc::Images> {
        self.image_history.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Unmounts and removes a pod's volumes and then its folder; what a driver holds it gives back first. Repeatable until it succeeds.
    pub async fn tear_down_volumes(&self, uid: &str) -> keles_volumes::Result<()> {
        let dir = self.config.pod_dir(uid);
        self.csi.tear_down(&dir, uid).await?;
        keles_volumes::iscsi::tear_down(&dir).await?;
        tokio::task::spawn_blocking(move || keles_volumes::tear_down(&dir)).await.unwrap_or_else(|error| Err(keles_volumes::VolumeError::Field(error.to_string())))
    }

    /// What a pod with these addresses may be told of itself.
    pub fn downward_facts(&self, pod_ips: &[String]) -> downward::Facts {
        downward::Facts {
            node_name: self.config.node_name.clone(),
            host_ips: self.host_ips(),
            pod_ips: pod_ips.to_vec(),
            allocatable_cpu: self.facts.quantity("cpu"),
            allocatable_memory: self.facts.quantity("memory"),
            allocatable_ephemeral_storage: self.facts.quantity("ephemeral-storage"),
        }
    }
}
