//! persistentVolumeClaim and ephemeral: finds the volume that the pod's claim is bound to and sets that up.
//!
//! Invariants: only a volume that points back at this very claim is mounted (a claim of the same name may be another one by now), only on a node
//! that its affinity admits; an ephemeral volume takes only the claim that the pod owns.

use crate::{Bound, Context, Mounted, Result, VolumeError, persistent_volume};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};
use keles_rules::volume_binding::{claim_name, claim_ref, is_block, is_claim_for, is_reachable, volume_of};

pub async fn set_up(volume: &Volume, context: &Context<'_>) -> Result<Mounted> {
    let (name, own) = claim_name(context.pod, volume).ok_or_else(|| VolumeError::Unsupported("without a claim".into()))?;
    let claim = context.objects.claim(context.namespace(), &name).await?;
    let claim = claim.ok_or_else(|| processing(context, &name, format!("failed to fetch PVC from API server: persistentvolumeclaims \"{name}\" not found")))?;
    if own && !is_claim_for(&claim, context.pod) {
        let pod = format!("{}/{}", context.namespace(), context.pod.metadata.name.as_deref().unwrap_or_default());
        return Err(processing(context, &name, format!("PVC {}/{name} was not created for pod {pod} (pod is not owner)", context.namespace())));
    }
    let bound = bound_volume(&claim, context).await.map_err(|error| match error {
        VolumeError::Field(why) => processing(context, &name, why),
        other => other,
    })?;
    check_mode(&volume.name, &bound, context).map_err(|why| processing(context, &name, why))?;
    check_affinity(&bound, context).await?;
    let read_only = volume.persistent_volume_claim.as_ref().and_then(|source| source.read_only) == Some(true);
    let ready = persistent_volume::set_up(&Bound { volume: &bound, claim: &claim, pod_volume: &volume.name, read_only }, context).await?;
    Ok(Mounted { name: volume.name.clone(), path: ready.path, read_only, is_device: ready.is_device, follows: ready.follows })
}

fn processing(context: &Context<'_>, claim: &str, why: String) -> VolumeError {
    VolumeError::Field(format!("error processing PVC {}/{claim}: {why}", context.namespace()))
}

async fn bound_volume(claim: &PersistentVolumeClaim, context: &Context<'_>) -> Result<PersistentVolume> {
    if claim.metadata.deletion_timestamp.is_some() && !is_held_by_us(context) {
        return Err(VolumeError::Field("PVC is being deleted".into()));
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let name = volume_of(claim);
    if phase != "Bound" || name.is_empty() {
        return Err(VolumeError::Field("PVC is not bound".into()));
    }
    let volume = context.objects.persistent_volume(name).await?;
    let volume = volume.ok_or_else(|| VolumeError::Field(format!("failed to fetch PV {name} from API server: persistentvolumes \"{name}\" not found")))?;
    match claim_ref(&volume) {
        Some(reference) if reference.uid == claim.metadata.uid => Ok(volume),
        reference => {
            let held = reference.and_then(|reference| reference.uid.as_deref()).unwrap_or_default();
            let uid = claim.metadata.uid.as_deref().unwrap_or_default();
            Err(VolumeError::Field(format!("found PV object {name} with ClaimRef.UID \"{held}\" that does not match the claim's UID \"{uid}\"")))
        }
    }
}

/// A pod that has begun keeps a claim that is going: its containers hold the volume already.
fn is_held_by_us(context: &Context<'_>) -> bool {
    let statuses = context.pod.status.iter().flat_map(|status| status.container_statuses.iter().chain(&status.init_container_statuses).flatten());
    statuses.into_iter().any(|status| status.container_id.is_some())
}

/// Whether some container uses the volume the other way than it is: as files or as a device.
fn check_mode(name: &str, volume: &PersistentVolume, context: &Context<'_>) -> std::result::Result<(), String> {
    let block = is_block(volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()));
    let spec = context.pod.spec.as_ref();
    let containers = || spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let as_files = containers().any(|container| container.volume_mounts.iter().flatten().any(|mount| mount.name == name));
    let as_device = containers().any(|container| container.volume_devices.iter().flatten().any(|device| device.name == name));
    match block {
        true if as_files => Err(format!("volume {name} has volumeMode Block, but is specified in volumeMounts")),
        false if as_device => Err(format!("volume {name} has volumeMode Filesystem, but is specified in volumeDevices")),
        _ => Ok(()),
    }
}

async fn check_affinity(volume: &PersistentVolume, context: &Context<'_>) -> Result<()> {
    if volume.spec.as_ref().is_none_or(|spec| spec.node_affinity.is_none()) {
        return Ok(());
    }
    let labels = context.objects.node_labels().await?;
    if is_reachable(volume, &context.facts.node_name, Some(&labels)) {
        return Ok(());
    }
    Err(VolumeError::Stage { stage: "MountVolume.NodeAffinity check", volume: volume.metadata.name.clone().unwrap_or_default(), why: "no matching NodeSelectorTerms".into() })
}
