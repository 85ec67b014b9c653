//! PersistentVolume: from what a volume is made of to where its files are on this node.

use crate::{Bound, Context, Ready, Result, VolumeError, csi, host_path, iscsi, local, nfs};
use k8s_openapi::api::core::v1::PersistentVolume;
use keles_rules::volume_binding::is_block;

/// Sets the volume up for the pod; safe to call again. Errors carry the volume's own name, as upstream's events do.
pub(crate) async fn set_up(bound: &Bound<'_>, context: &Context<'_>) -> Result<Ready> {
    let name = bound.name().to_owned();
    let made = match &bound.volume.spec {
        Some(spec) if spec.csi.is_some() => csi::volume::persistent(bound, context).await,
        Some(spec) if is_block(spec.volume_mode.as_deref()) => match (&spec.local, &spec.iscsi) {
            (Some(source), _) => local::device(&name, source),
            (_, Some(source)) => iscsi::device(&name, &source.into(), context).await,
            (None, None) => Err(VolumeError::Unsupported(format!("{} with volumeMode Block", source_name(bound.volume)))),
        },
        Some(spec) => match (&spec.host_path, &spec.local, &spec.nfs, &spec.iscsi) {
            (Some(source), _, _, _) => host_path::set_up(source).map(Ready::files),
            (_, Some(source), _, _) => local::set_up(&name, source, spec.mount_options.as_deref().unwrap_or_default(), bound.read_only, context).await.map(Ready::files),
            (_, _, Some(source), _) => {
                let options = spec.mount_options.clone().unwrap_or_default();
                nfs::set_up(&name, source, &options, bound.read_only, context).await.map(Ready::files)
            }
            (_, _, _, Some(source)) => {
                let options = spec.mount_options.clone().unwrap_or_default();
                iscsi::set_up(&name, &source.into(), &options, bound.read_only, context).await.map(Ready::files)
            }
            _ => Err(VolumeError::Unsupported(source_name(bound.volume))),
        },
        None => Err(VolumeError::Unsupported("without a source".into())),
    };
    made.map_err(|error| match error {
        staged @ VolumeError::Stage { .. } => staged,
        other => VolumeError::Stage { stage: "MountVolume.SetUp", volume: name, why: other.to_string() },
    })
}

/// The JSON name of a volume's source, for messages.
fn source_name(volume: &PersistentVolume) -> String {
    const NOT_SOURCES: &[&str] =
        &["accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy", "storageClassName", "volumeAttributesClassName", "volumeMode"];
    let tree = serde_json::to_value(&volume.spec).unwrap_or_default();
    let named = tree.as_object().and_then(|map| map.keys().find(|key| !NOT_SOURCES.contains(&key.as_str())).cloned());
    named.unwrap_or_else(|| "unknown".into())
}
