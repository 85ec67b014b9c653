//! fsGroup: gives a group access to a volume's files.

use crate::{Result, VolumeError};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    ReadOnly,
}

/// `fsGroupChangePolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangePolicy {
    Always,
    /// Only when the volume's own folder does not have the group and its permissions yet.
    OnRootMismatch,
}

/// As [`grant`] for writing, by the pod's policy.
pub fn grant_by_policy(root: &Path, group: u32, policy: ChangePolicy) -> Result<()> {
    let info = root.metadata().map_err(VolumeError::io("stat", root))?;
    let wanted = 0o770 | SET_GID;
    if policy == ChangePolicy::OnRootMismatch && info.gid() == group && info.permissions().mode() & wanted == wanted {
        return Ok(());
    }
    grant(root, group, Access::ReadWrite)
}

const SET_GID: u32 = 0o2000;

/// Makes everything below and including `root` belong to `group` with group access; folders get setgid so that new files inherit it.
pub fn grant(root: &Path, group: u32, access: Access) -> Result<()> {
    let info = root.symlink_metadata().map_err(VolumeError::io("stat", root))?;
    lchown(root, None, Some(group)).map_err(VolumeError::io("chown", root))?;
    if info.file_type().is_symlink() {
        return Ok(());
    }
    let mut mask = if access == Access::ReadWrite { 0o660 } else { 0o440 };
    if info.is_dir() {
        mask |= SET_GID | 0o110;
    }
    let mode = info.permissions().mode() | mask;
    fs::set_permissions(root, fs::Permissions::from_mode(mode & 0o7777)).map_err(VolumeError::io("chmod", root))?;
    if info.is_dir() {
        for entry in fs::read_dir(root).map_err(VolumeError::io("list", root))?.flatten() {
            grant(&entry.path(), group, access)?;
        }
    }
    Ok(())
}
