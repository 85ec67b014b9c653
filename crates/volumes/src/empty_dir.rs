//! emptyDir: one folder shared by the pod's containers, mode 0777, on disk or as a tmpfs bounded by sizeLimit.
//!
//! Absent: eviction when a disk emptyDir outgrows its sizeLimit, huge pages.

use crate::quantity::Quantity;
use crate::{Context, Result, VolumeError, ownership, tmpfs};
use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

pub fn set_up(name: &str, source: &EmptyDirVolumeSource, context: &Context<'_>) -> Result<PathBuf> {
    let dir = context.volume_dir("empty-dir", name);
    let fresh = !dir.exists();
    match source.medium.as_deref().unwrap_or("") {
        "" => {
            std::fs::create_dir_all(&dir).map_err(VolumeError::io("create", &dir))?;
            if fresh {
                std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).map_err(VolumeError::io("chmod", &dir))?;
            }
        }
        "Memory" => {
            let limit = source.size_limit.as_ref().and_then(|q| Quantity::parse(&q.0)).map(|q| q.whole());
            tmpfs::ensure(&dir, limit)?;
        }
        other => return Err(VolumeError::Unsupported(format!("emptyDir with medium {other}"))),
    }
    if fresh && let Some(group) = context.fs_group() {
        ownership::grant(&dir, group, ownership::Access::ReadWrite)?;
    }
    Ok(dir)
}
