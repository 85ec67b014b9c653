//! Eviction by what a pod writes to the node's disk: an emptyDir over its sizeLimit.
//!
//! Entry points: [`is_limited`], [`exceeded`]. A memory emptyDir needs none of this, its tmpfs is full at the limit. Deliberately absent: the
//! ephemeral-storage limits of containers.

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use keles_volumes::quantity::Quantity;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file's blocks are of this size, whatever the filesystem's (stat(2)).
const BLOCK_BYTES: u64 = 512;

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

pub fn is_limited(pod: &Pod) -> bool {
    limits(pod).next().is_some()
}

/// What the status says of a pod that uses more than it may, if it does. Reads the whole tree: not for an async thread.
pub fn exceeded(pod: &Pod, pod_dir: &Path) -> Option<String> {
    let dir = pod_dir.join("volumes").join("kubernetes.io~empty-dir");
    let (name, limit, _) = limits(pod).find(|(name, _, bytes)| used(&dir.join(name)) > *bytes)?;
    Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "))
}

/// Bytes of disk below and including `path`; links are not followed.
fn used(path: &Path) -> u64 {
    let Ok(info) = path.symlink_metadata() else { return 0 };
    let own = info.blocks() * BLOCK_BYTES;
    if !info.is_dir() {
        return own;
    }
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| used(&entry.path())).sum::<u64>() + own
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
        assert_eq!(exceeded(&pod, dir.path()), None);
        std::fs::write(volume.join("b"), vec![1; 1 << 20]).expect("written");
        assert_eq!(exceeded(&pod, dir.path()).as_deref(), Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "));
    }
}
