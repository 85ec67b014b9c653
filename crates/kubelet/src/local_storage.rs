//! What a pod writes to the node's disk, and its eviction when that is more than it may: an emptyDir over its sizeLimit, containers over their
//! limits of ephemeral-storage.
//!
//! Entry points: [`is_limited`], [`exceeded`], [`of_container`], [`of_volumes`]. A memory emptyDir needs none of this, its tmpfs is full at the
//! limit.

use crate::agent::Agent;
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod};
use keles_runtime::api::{ContainerStatus, DiskUsage};
use keles_runtime::usage::disk;
use keles_volumes::quantity::Quantity;
use std::path::Path;

const RESOURCE: &str = "ephemeral-storage";
/// What upstream's metrics call these evictions.
const EMPTY_DIR: &str = "emptydirfs.limit";
const POD: &str = "ephemeralpodfs.limit";
const CONTAINER: &str = "ephemeralcontainerfs.limit";
/// The volumes that are the pod's own; a persistent one may be bind mounted beside them.
const OWN_VOLUMES: [&str; 2] = ["kubernetes.io~empty-dir", "kubernetes.io~configmap"];

/// The disk emptyDirs of a pod that have a limit.
fn limits(pod: &Pod) -> impl Iterator<Item = (&str, &str, u64)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let source: &EmptyDirVolumeSource = volume.empty_dir.as_ref().filter(|source| source.medium.as_deref().unwrap_or_default().is_empty())?;
        let text = &source.size_limit.as_ref()?.0;
        let bytes = u64::try_from(Quantity::parse(text)?.whole()).ok().filter(|bytes| *bytes > 0)?;
        Some((volume.name.as_str(), text.as_str(), bytes))
    })
}

/// The containers that have a limit, with its text and bytes.
fn limited_containers(pod: &Pod) -> impl Iterator<Item = (&Container, &str, u64)> {
    let all = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    all.filter_map(|container| {
        let text = &container.resources.as_ref()?.limits.as_ref()?.get(RESOURCE)?.0;
        Some((container, text.as_str(), u64::try_from(Quantity::parse(text)?.whole()).ok()?))
    })
}

pub fn is_limited(pod: &Pod) -> bool {
    limits(pod).next().is_some() || limited_containers(pod).next().is_some()
}

/// Why a pod is to end that uses more than it may.
#[derive(Debug, PartialEq, Eq)]
pub struct Excess {
    pub signal: &'static str,
    /// For its status.
    pub message: String,
}

/// Whether it does.
pub async fn exceeded(agent: &Agent, pod: &Pod, records: &[ContainerStatus]) -> Option<Excess> {
    let dir = agent.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let of_pod = pod.clone();
    if let Ok(Some(message)) = tokio::task::spawn_blocking(move || volume_exceeded(&of_pod, &dir)).await {
        return Some(Excess { signal: EMPTY_DIR, message });
    }
    limited_containers(pod).next()?;
    let mut uses = Vec::new();
    for record in newest(records) {
        uses.push((record.name.clone(), of_container(agent, record).await.bytes));
    }
    containers_exceeded(pod, &uses, of_volumes(agent, pod).await.bytes)
}

/// The same of containers: what each has written, and the volumes, against the limits together and then each by itself.
fn containers_exceeded(pod: &Pod, uses: &[(String, u64)], volumes: u64) -> Option<Excess> {
    let limit = keles_rules::requests::limits_of_pod(pod.spec.as_ref()?).get(RESOURCE).map_or(0, |limit| limit.units().max(0) as u64);
    if uses.iter().map(|(_, bytes)| bytes).sum::<u64>() + volumes > limit {
        let limit = crate::eviction::machine::bytes(limit as i64);
        return Some(Excess { signal: POD, message: format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ") });
    }
    let over = |(container, _, bytes): &(&Container, &str, u64)| uses.iter().any(|(name, used)| *name == container.name && used > bytes);
    let (container, text, _) = limited_containers(pod).find(over)?;
    Some(Excess { signal: CONTAINER, message: format!("Container {} exceeded its local ephemeral storage limit \"{text}\". ", container.name) })
}

/// Each container's newest record, as upstream counts; the folder of logs is that of all attempts.
pub fn newest(records: &[ContainerStatus]) -> impl Iterator<Item = &ContainerStatus> {
    records.iter().filter(move |record| !records.iter().any(|other| other.name == record.name && other.attempt > record.attempt))
}

/// What a container holds of the disk: what it wrote to its root, and its logs.
pub async fn of_container(agent: &Agent, record: &ContainerStatus) -> DiskUsage {
    let written = agent.runtime.written(&record.id).await.unwrap_or_default();
    let logs = record.log_path.parent().map(Path::to_owned);
    let logs = tokio::task::spawn_blocking(move || logs.map_or_else(DiskUsage::default, |logs| disk(&logs))).await.unwrap_or_default();
    sum([written, logs])
}

/// What a pod's own volumes hold of the disk.
pub async fn of_volumes(agent: &Agent, pod: &Pod) -> DiskUsage {
    let dir = agent.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default()).join("volumes");
    tokio::task::spawn_blocking(move || sum(OWN_VOLUMES.map(|plugin| disk(&dir.join(plugin))))).await.unwrap_or_default()
}

fn sum<const N: usize>(all: [DiskUsage; N]) -> DiskUsage {
    all.into_iter().fold(DiskUsage::default(), |sum, one| DiskUsage { bytes: sum.bytes + one.bytes, inodes: sum.inodes + one.inodes })
}

/// The emptyDir that is over its limit. Reads the whole tree: not for an async thread.
fn volume_exceeded(pod: &Pod, pod_dir: &Path) -> Option<String> {
    let dir = pod_dir.join("volumes").join("kubernetes.io~empty-dir");
    let (name, limit, _) = limits(pod).find(|(name, _, bytes)| disk(&dir.join(name)).bytes > *bytes)?;
    Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_empty_dir_over_its_limit_is_named_with_it() {
        let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": volumes}})).expect("a pod");
        assert!(is_limited(&pod));
        let dir = tempfile::tempdir().expect("tempdir");
        let volume = dir.path().join("volumes/kubernetes.io~empty-dir/v/deep");
        std::fs::create_dir_all(&volume).expect("made");
        std::fs::write(volume.join("a"), vec![1; 100 << 10]).expect("written");
        assert_eq!(volume_exceeded(&pod, dir.path()), None);
        std::fs::write(volume.join("b"), vec![1; 1 << 20]).expect("written");
        assert_eq!(volume_exceeded(&pod, dir.path()).as_deref(), Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "));
    }

    #[test]
    fn containers_are_held_to_their_limits_each_and_together() {
        let container = |name: &str, limit: &str| json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [container("a", "1Ki"), container("b", "4Ki")]}})).expect("a pod");
        assert!(is_limited(&pod));
        let judged = |a: u64, b: u64, volumes: u64| containers_exceeded(&pod, &[("a".into(), a), ("b".into(), b)], volumes).map(|excess| (excess.signal, excess.message));
        assert_eq!(judged(1024, 4096, 0), None);
        assert_eq!(judged(1025, 1024, 0), Some((CONTAINER, "Container a exceeded its local ephemeral storage limit \"1Ki\". ".into())));
        assert_eq!(judged(1024, 1024, 4096), Some((POD, "Pod ephemeral local storage usage exceeds the total limit of containers 5Ki. ".into())));
    }
}
