//! Swaps a whole set of files in at once: files live in a folder of their own time stamp, `..data` points to it, and each name a user sees
//! points through `..data`. A reader that opened `..data` sees either all old or all new files.
//!
//! Entry point: [`write`]. Invariant: user-visible names are only symlinks; nothing is rewritten when nothing changed.

use crate::{MAX_PAYLOAD_BYTES, Result, VolumeError, ownership};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file: its bytes, mode, and the user it belongs to (root when absent).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
    pub user: Option<u32>,
}

/// Relative path to file.
pub type Payload = BTreeMap<String, File>;

/// Makes `dir` show exactly `payload`. Returns whether anything changed.
pub fn write(dir: &Path, payload: &Payload, fs_group: Option<u32>) -> Result<bool> {
    check(payload)?;
    let current = fs::read_link(dir.join(DATA)).ok().map(|target| dir.join(target));
    if let Some(current) = &current
        && same(current, payload)
    {
        return Ok(false);
    }
    let stamp = stamp_name(dir);
    let fresh = dir.join(&stamp);
    write_files(&fresh, payload)?;
    if let Some(group) = fs_group {
        ownership::grant(&fresh, group, ownership::Access::ReadOnly)?;
    }
    let link = dir.join(DATA_NEW);
    let _ = fs::remove_file(&link);
    symlink(&stamp, &link).map_err(VolumeError::io("link", &link))?;
    fs::rename(&link, dir.join(DATA)).map_err(VolumeError::io("rename", &link))?;
    link_names(dir, payload)?;
    if let Some(old) = current {
        let _ = fs::remove_dir_all(old);
    }
    Ok(true)
}

fn check(payload: &Payload) -> Result<()> {
    let total = payload.values().map(|file| file.bytes.len()).sum::<usize>();
    if total > MAX_PAYLOAD_BYTES {
        return Err(VolumeError::TooLarge(total));
    }
    for path in payload.keys() {
        let mut parts = Path::new(path).components().peekable();
        let plain = parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)));
        if !plain || path.starts_with("..") {
            return Err(VolumeError::BadPath(path.clone()));
        }
    }
    Ok(())
}

fn same(current: &Path, payload: &Payload) -> bool {
    let mut seen = Vec::new();
    list_files(current, current, &mut seen);
    seen.len() == payload.len() && payload.iter().all(|(path, file)| fs::read(current.join(path)).is_ok_and(|bytes| bytes == file.bytes))
}

fn list_files(root: &Path, dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list_files(root, &path, out);
        } else {
            out.push(path);
        }
    }
}

/// `..2026_11_21_06_11_30.123456789`: the reference kubelet's form; unique in `dir`.
fn stamp_name(dir: &Path) -> String {
    let now = jiff::Timestamp::now();
    let base = now.strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let nanos = now.subsec_nanosecond();
    (0..).map(|extra| format!("{base}.{:09}", i64::from(nanos) + extra)).find(|name| !dir.join(name).exists()).expect("an unused number exists")
}

fn write_files(root: &Path, payload: &Payload) -> Result<()> {
    make_dir(root)?;
    for (path, file) in payload {
        let target = root.join(path);
        if let Some(parent) = target.parent() {
            for missing in parent.ancestors().take_while(|dir| *dir != root && dir.starts_with(root)).collect::<Vec<_>>().into_iter().rev() {
                make_dir(missing)?;
            }
        }
        fs::write(&target, &file.bytes).map_err(VolumeError::io("write", &target))?;
        // Explicit, for the process's umask must not show in volumes.
        fs::set_permissions(&target, fs::Permissions::from_mode(file.mode & 0o7777)).map_err(VolumeError::io("chmod", &target))?;
        if file.user.is_some() {
            std::os::unix::fs::chown(&target, file.user, None).map_err(VolumeError::io("chown", &target))?;
        }
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(VolumeError::io("create", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(VolumeError::io("chmod", dir))
}

/// A symlink for each first path part, and none for names that went away.
fn link_names(dir: &Path, payload: &Payload) -> Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), &link).map_err(VolumeError::io("link", &link))?;
        }
    }
    for entry in fs::read_dir(dir).map_err(VolumeError::io("list", dir))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}
