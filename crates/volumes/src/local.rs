//! local: a folder of this node, bind mounted into the pod's folder.
//!
//! Deliberately absent: block devices, as volumes of files too (upstream formats and mounts them); they refuse.

use crate::{Context, Result, VolumeError, ownership, tmpfs};
use k8s_openapi::api::core::v1::LocalVolumeSource;
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use std::path::{Path, PathBuf};

pub fn set_up(name: &str, source: &LocalVolumeSource, read_only: bool, context: &Context<'_>) -> Result<PathBuf> {
    let from = Path::new(&source.path);
    let info = match std::fs::metadata(from) {
        Ok(info) => info,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let why = format!("path \"{}\" does not exist", source.path);
            return Err(VolumeError::Stage { stage: "MountVolume.NewMounter initialization", volume: name.into(), why });
        }
        Err(error) => return Err(VolumeError::io("stat", from)(error)),
    };
    if !info.is_dir() {
        return Err(VolumeError::Unsupported(format!("local, whose path {} is not a directory,", source.path)));
    }
    let dir = context.volume_dir("local-volume", name);
    std::fs::create_dir_all(&dir).map_err(VolumeError::io("create", &dir))?;
    if tmpfs::is_mounted(&dir)? {
        return Ok(dir);
    }
    mount_bind(from, &dir).map_err(|error| VolumeError::io("bind mount at", &dir)(error.into()))?;
    let ready = if read_only {
        mount_remount(&dir, MountFlags::BIND | MountFlags::RDONLY, "").map_err(|error| VolumeError::io("make read-only", &dir)(error.into()))
    } else {
        context.fs_group().map_or(Ok(()), |group| ownership::grant_by_policy(&dir, group, context.fs_group_change_policy()))
    };
    // What is mounted counts as ready the next time: half of it must not stay.
    ready.inspect_err(|_| _ = tmpfs::unmount_below(&dir))?;
    Ok(dir)
}
