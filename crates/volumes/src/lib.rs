//! Pod volumes: one file a volume type.
//!
//! Entry points: [`set_up`] makes (or refreshes) one volume of a pod below its folder, [`tear_down`] unmounts and removes all of them,
//! [`sub_path::bind`] gives a container a part of a volume. What volumes need from the API comes through [`Objects`].
//!
//! Invariants: `set_up` is idempotent, so the same call refreshes a running pod's files; what the API gave is only ever swapped in whole
//! (`atomic_writer`); secrets never touch a disk (tmpfs). Image volumes are set up when their image is there ([`image::set_up`]). Deliberately
//! absent: in-tree volumes of vendors, which refuse with [`VolumeError::Unsupported`], and SELinux labels.

pub mod atomic_writer;
pub mod block_filesystem;
pub mod claim;
pub mod cluster_trust_bundle;
pub mod config_map;
pub mod csi;
pub mod downward;
pub mod downward_api;
pub mod empty_dir;
pub mod env_file;
pub mod host_path;
pub mod image;
pub mod iscsi;
pub mod local;
pub mod mount_tool;
pub mod nfs;
pub mod ownership;
pub mod persistent_volume;
pub mod projected;
pub mod quantity;
pub mod references;
pub mod secret;
pub mod service_account_token;
pub mod sub_path;
pub mod tmpfs;

use async_trait::async_trait;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Volume};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most a volume made of API objects may hold; an API object cannot be larger than about 1.5 MiB, a projection may join several.
pub const MAX_PAYLOAD_BYTES: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("{kind} \"{name}\" not found")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} references non-existent {what} key: {key}")]
    NoSuchKey { kind: &'static str, what: &'static str, key: String },
    #[error("references non-existent secret key: {0}")]
    NoSuchSecretKey(String),
    #[error("hostPath type check failed: {path} is not {expected}")]
    HostPathType { path: String, expected: &'static str },
    #[error("invalid path {0:?}: must be relative and without \"..\"")]
    BadPath(String),
    #[error("payload of {0} bytes is over the limit of {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge(usize),
    /// Of a persistent volume: its own name, and the step as events call it.
    #[error("{stage} failed for volume \"{volume}\" : {why}")]
    Stage { stage: &'static str, volume: String, why: String },
    #[error("{tool} is not on this node; install {package}")]
    NoTool { tool: String, package: String },
    #[error("{tool} failed: {why} (arguments: {arguments})")]
    Tool { tool: &'static str, arguments: String, why: String },
    #[error("volume type {0} is not supported by this node")]
    Unsupported(String),
    #[error("{0}")]
    Field(String),
    /// The API refused or could not be reached; the text is the API's own.
    #[error("{0}")]
    Api(String),
    #[error("{what} {path}: {source}")]
    Io { what: &'static str, path: String, source: std::io::Error },
    #[error("[{}]", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<VolumeError>),
}

impl VolumeError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { what, path, source }
    }
}

pub type Result<T> = std::result::Result<T, VolumeError>;

/// A bound ServiceAccount token as the API issued it.
#[derive(Clone, Debug)]
pub struct Token {
    pub token: String,
    pub expires_at: jiff::Timestamp,
    /// Asked lifetime, for the rule of when to ask again.
    pub lifetime_seconds: i64,
}

/// What a token is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenAsk {
    pub namespace: String,
    pub service_account: String,
    pub audience: Option<String>,
    pub expiration_seconds: i64,
    pub pod_name: String,
    pub pod_uid: String,
}

/// The API objects volumes are made of.
#[async_trait]
pub trait Objects: Send + Sync {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>>;
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>>;
    async fn trust_bundle(&self, name: &str) -> Result<Option<ClusterTrustBundle>>;
    /// All bundles of this signer.
    async fn trust_bundles_of(&self, signer: &str) -> Result<Vec<ClusterTrustBundle>>;
    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>>;
    async fn persistent_volume(&self, name: &str) -> Result<Option<PersistentVolume>>;
    /// Labels of this node as the API has them: people add to them.
    async fn node_labels(&self) -> Result<BTreeMap<String, String>>;
    /// A token that is still good for at least a fifth of its life; implementations cache.
    async fn token(&self, ask: &TokenAsk) -> Result<Token>;
    async fn csi_driver(&self, name: &str) -> Result<Option<CSIDriver>>;
    /// The VolumeAttachment `attachment`, once the node's status and it say that the volume of this unique name is attached.
    async fn attached(&self, unique_name: &str, attachment: &str) -> Result<VolumeAttachment>;
    /// The node begins to grow the claim's volume; the claim's status says so (KEP-1790).
    async fn claim_grows(&self, claim: &PersistentVolumeClaim) -> Result<()>;
    /// The claim has the capacity of its volume now.
    async fn claim_grew(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<()>;
    /// `infeasible`: the driver will not do it however often it is asked.
    async fn claim_did_not_grow(&self, claim: &PersistentVolumeClaim, infeasible: bool) -> Result<()>;
    /// An event of the pod.
    fn tell(&self, pod: &Pod, warning: bool, reason: &'static str, message: String);
}

/// Everything one pod's volumes are made from.
pub struct Context<'a> {
    pub pod: &'a Pod,
    /// `<data>/pods/<uid>`; volumes live below `volumes/`.
    pub pod_dir: &'a Path,
    pub objects: &'a dyn Objects,
    pub facts: &'a downward::Facts,
    pub csi: &'a Arc<csi::Csi>,
}

/// A claim's volume that is to be set up for a pod.
pub(crate) struct Bound<'a> {
    pub volume: &'a PersistentVolume,
    pub claim: &'a PersistentVolumeClaim,
    /// The volume's name in the pod.
    pub pod_volume: &'a str,
    pub read_only: bool,
}

impl Bound<'_> {
    pub fn name(&self) -> &str {
        self.volume.metadata.name.as_deref().unwrap_or_default()
    }
}

/// Where a volume is, of whatever type.
pub(crate) struct Ready {
    pub path: PathBuf,
    pub is_device: bool,
    pub follows: bool,
}

impl Ready {
    pub fn files(path: PathBuf) -> Self {
        Ready { path, is_device: false, follows: false }
    }
}

impl Context<'_> {
    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    pub(crate) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// `<pod dir>/volumes/kubernetes.io~secret/<name>`, the layout that tools on nodes know.
    pub(crate) fn volume_dir(&self, plugin: &str, volume: &str) -> PathBuf {
        self.pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
    }

    pub(crate) fn fs_group(&self) -> Option<u32> {
        let id = self.pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
        u32::try_from(id).ok()
    }

    pub(crate) fn fs_group_change_policy(&self) -> ownership::ChangePolicy {
        let policy = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|security| security.fs_group_change_policy.as_deref());
        if policy == Some("OnRootMismatch") { ownership::ChangePolicy::OnRootMismatch } else { ownership::ChangePolicy::Always }
    }

    /// Mode and owner of a file that, once the pod says whose it is, only that one may read.
    pub(crate) fn guarded(&self, mode: i32) -> (u32, Option<u32>) {
        const OWNERS_ONLY: u32 = 0o600;
        let user = self.common_user();
        (if user.is_some() || self.fs_group().is_some() { OWNERS_ONLY } else { mode as u32 }, user)
    }

    /// The one user all containers run as, if there is one (decides the owner of tokens, KEP-1205).
    pub(crate) fn common_user(&self) -> Option<u32> {
        let spec = self.pod.spec.as_ref()?;
        let pod_user = spec.security_context.as_ref().and_then(|s| s.run_as_user);
        let all = spec.init_containers.iter().flatten().chain(&spec.containers);
        let mut users = all.map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(pod_user));
        let first = users.next()??;
        users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
    }
}

/// A volume that is ready to be mounted into containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub name: String,
    pub path: PathBuf,
    /// Volumes made from API objects are read-only in every container, whatever the mount says.
    pub read_only: bool,
    /// A block device, for `volumeDevices`.
    pub is_device: bool,
    /// Has to be set up again from time to time, for what its driver says or its claim grows to.
    pub follows: bool,
}

impl Mounted {
    pub fn files(name: &str, path: PathBuf, read_only: bool) -> Self {
        Mounted { name: name.into(), path, read_only, is_device: false, follows: false }
    }
}

/// Makes or refreshes one volume. Safe to call again at any time.
pub async fn set_up(volume: &Volume, context: &Context<'_>) -> Result<Mounted> {
    let (path, read_only) = if let Some(source) = &volume.empty_dir {
        (empty_dir::set_up(&volume.name, source, context)?, false)
    } else if let Some(source) = &volume.host_path {
        (host_path::set_up(source)?, false)
    } else if let Some(source) = &volume.config_map {
        (config_map::set_up(&volume.name, source, context).await?, true)
    } else if let Some(source) = &volume.secret {
        (secret::set_up(&volume.name, source, context).await?, true)
    } else if let Some(source) = &volume.downward_api {
        (downward_api::set_up(&volume.name, source, context)?, true)
    } else if let Some(source) = &volume.projected {
        (projected::set_up(&volume.name, source, context).await?, true)
    } else if let Some(source) = &volume.nfs {
        (nfs::set_up(&volume.name, source, &[], false, context).await?, source.read_only == Some(true))
    } else if let Some(source) = &volume.iscsi {
        let source = iscsi::Source::from(source);
        (iscsi::set_up(&volume.name, &source, &[], false, context).await?, source.read_only)
    } else if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        return claim::set_up(volume, context).await;
    } else if let Some(source) = &volume.csi {
        let ready = csi::volume::inline(&volume.name, source, context).await?;
        let read_only = source.read_only == Some(true);
        return Ok(Mounted { name: volume.name.clone(), path: ready.path, read_only, is_device: false, follows: ready.follows });
    } else {
        return Err(VolumeError::Unsupported(type_name(volume)));
    };
    Ok(Mounted::files(&volume.name, path, read_only))
}

/// Whether the files of this volume follow API objects and so must be set up again from time to time.
pub fn follows_api(volume: &Volume) -> bool {
    volume.config_map.is_some() || volume.secret.is_some() || volume.downward_api.is_some() || volume.projected.is_some()
}

/// The JSON name of a volume's source, for messages.
fn type_name(volume: &Volume) -> String {
    let tree = serde_json::to_value(volume).unwrap_or_default();
    let named = tree.as_object().and_then(|map| map.keys().find(|key| *key != "name").cloned());
    named.unwrap_or_else(|| "unknown".into())
}

/// Unmounts and removes all volumes of a pod (not hostPath's content) and then the pod's folder. Nothing there: fine.
pub fn tear_down(pod_dir: &Path) -> Result<()> {
    tmpfs::unmount_below(pod_dir)?;
    // What is mounted here is not the pod's alone: removing must not reach into it.
    if let Some(left) = tmpfs::mounts_below(pod_dir)?.first() {
        return Err(VolumeError::io("unmount", left)(std::io::ErrorKind::ResourceBusy.into()));
    }
    match std::fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(VolumeError::io("remove", pod_dir)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
