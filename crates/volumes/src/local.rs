//! local: a folder of this node, bind mounted into the pod's folder, or a block device whose filesystem is mounted there.
//!
//! A device is handed over as it is where the volume's mode is Block. Each pod has a mount of its own of a device's filesystem, which the kernel keeps
//! as one; so nothing is left to give back when the last pod goes.

use crate::{Context, Ready, Result, VolumeError, block_filesystem, ownership, tmpfs};
use k8s_openapi::api::core::v1::LocalVolumeSource;
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// `options`: of the PersistentVolume, for a device's filesystem.
pub async fn set_up(name: &str, source: &LocalVolumeSource, options: &[String], read_only: bool, context: &Context<'_>) -> Result<PathBuf> {
    let from = Path::new(&source.path);
    let kind = stat(name, source, "MountVolume.NewMounter initialization")?.file_type();
    if !kind.is_dir() && !kind.is_block_device() {
        return Err(VolumeError::Unsupported(format!("local, whose path {} is neither a directory nor a block device,", source.path)));
    }
    let dir = context.volume_dir("local-volume", name);
    std::fs::create_dir_all(&dir).map_err(VolumeError::io("create", &dir))?;
    if tmpfs::is_mounted(&dir)? {
        return Ok(dir);
    }
    if kind.is_dir() {
        mount_bind(from, &dir).map_err(|error| VolumeError::io("bind mount at", &dir)(error.into()))?;
    } else {
        let ask = block_filesystem::Ask { device: &source.path, kind: source.fs_type.as_deref(), at: &dir, options, read_only };
        let failed = |error: VolumeError| VolumeError::Stage { stage: "MountVolume.MountDevice", volume: name.into(), why: error.to_string() };
        block_filesystem::mount(&ask).await.map_err(failed)?;
    }
    hand_over(&dir, read_only, context)?;
    Ok(dir)
}

/// What was mounted becomes the pod's: read-only, or its group's.
pub(crate) fn hand_over(dir: &Path, read_only: bool, context: &Context<'_>) -> Result<()> {
    let ready = if read_only {
        mount_remount(dir, MountFlags::BIND | MountFlags::RDONLY, "").map_err(|error| VolumeError::io("make read-only", dir)(error.into()))
    } else {
        context.fs_group().map_or(Ok(()), |group| ownership::grant_by_policy(dir, group, context.fs_group_change_policy()))
    };
    // What is mounted counts as ready the next time: half of it must not stay.
    ready.inspect_err(|_| _ = tmpfs::unmount_below(dir))
}

/// A volume with volumeMode Block.
pub(crate) fn device(name: &str, source: &LocalVolumeSource) -> Result<Ready> {
    let stage = "MapVolume.SetUpDevice";
    if stat(name, source, stage)?.file_type().is_block_device() {
        return Ok(Ready { path: PathBuf::from(&source.path), is_device: true, follows: false });
    }
    Err(VolumeError::Stage { stage, volume: name.into(), why: format!("path \"{}\" is not a block device", source.path) })
}

fn stat(name: &str, source: &LocalVolumeSource, stage: &'static str) -> Result<std::fs::Metadata> {
    let path = Path::new(&source.path);
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(VolumeError::Stage { stage, volume: name.into(), why: format!("path \"{}\" does not exist", source.path) })
        }
        other => other.map_err(VolumeError::io("stat", path)),
    }
}
