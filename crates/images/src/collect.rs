//! Removal: of names, of images, of layers that no image names, of what killed processes left.

use crate::error::{ImageError, disk};
use crate::layout::{Layout, Record};
use crate::{find, parse};
use keles_oci::Digest;
use keles_oci::digest::is_hex_id;
use std::collections::HashSet;
use std::time::Duration;

/// What came of a blob is kept so long for a pull that goes on with it.
const PARTIAL_AGE_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes a name, or the image with its last name or when asked for by id.
pub fn remove(layout: &Layout, wanted: &str) -> Result<(), ImageError> {
    let absent = || ImageError::Absent { name: wanted.to_string() };
    let gone = layout.update(|records| {
        let found = find(records, wanted)?.cloned().ok_or_else(absent)?;
        if let Some(left) = without_name(&found, wanted) {
            *records.iter_mut().find(|r| r.id == found.id).expect("it was found above") = left;
            return Ok(false);
        }
        let shared: HashSet<&Digest> = records.iter().filter(|r| r.id != found.id).flat_map(|r| &r.layers).collect();
        let own: Vec<&Digest> = found.layers.iter().filter(|l| !shared.contains(l)).collect();
        if is_mounted(&own) {
            return Err(ImageError::InUse { name: wanted.to_string() });
        }
        records.retain(|r| r.id != found.id);
        Ok(true)
    })?;
    if gone { leftovers(layout) } else { Ok(()) }
}

/// What stays of an image after it lost the name it was asked for by; nothing when that was its last tag, or an id.
fn without_name(found: &Record, wanted: &str) -> Option<Record> {
    let id = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let name = if is_hex_id(id) { None } else { parse(wanted).ok() }?;
    let mut left = found.clone();
    match (&name.digest, name.tagged()) {
        (Some(digest), _) => left.digests.retain(|d| *d != name.with_digest(digest)),
        (None, tag) => left.tags.retain(|t| Some(t) != tag.as_ref()),
    }
    // Found by the beginning of its id: no name was lost.
    (left != *found && !left.tags.is_empty()).then_some(left)
}

/// Whether a mount of any process shows one of the layers. The runtime need not tell us: the kernel knows.
fn is_mounted(layers: &[&Digest]) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    let mounts = |name: &std::ffi::OsStr| std::fs::read_to_string(std::path::Path::new("/proc").join(name).join("mountinfo")).unwrap_or_default();
    let mut seen = HashSet::new();
    for process in processes.flatten().filter(|p| p.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit())) {
        // Most processes share a mount namespace: each is read once.
        let namespace = std::fs::read_link(process.path().join("ns/mnt")).unwrap_or_else(|_| process.path());
        if seen.insert(namespace) && layers.iter().any(|l| mounts(&process.file_name()).contains(l.hex())) {
            return true;
        }
    }
    false
}

/// Removes layers that no image names and everything in `tmp`, unless a load or pull is on (then the next removal or start does it).
pub fn leftovers(layout: &Layout) -> Result<(), ImageError> {
    let Some(_use) = layout.try_lock_removal()? else { return Ok(()) };
    // An index being replaced lies in `tmp` too.
    let _index = layout.lock_index()?;
    let kept: HashSet<String> = layout.records()?.iter().flat_map(|r| &r.layers).map(|l| l.hex().to_string()).collect();
    let folder = layout.layers();
    for entry in std::fs::read_dir(&folder).map_err(disk(&folder))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(diff_id) = Digest::parse(&format!("sha256:{name}")) else { continue };
        if kept.contains(&name) || is_mounted(&[&diff_id]) {
            continue;
        }
        // Renamed first: a layer is whole or absent, also when this is killed halfway.
        let doomed = layout.new_tmp();
        std::fs::rename(entry.path(), &doomed).map_err(disk(&folder))?;
        // Without a layer its size says nothing; a stale one is replaced when the layer returns.
        let _ = std::fs::remove_file(layout.size_file(&diff_id));
    }
    stale_partials(layout)?;
    let folder = layout.tmp();
    for entry in std::fs::read_dir(&folder).map_err(disk(&folder))?.flatten() {
        let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
        let removed = if is_folder { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) };
        removed.map_err(disk(&entry.path()))?;
    }
    Ok(())
}

fn stale_partials(layout: &Layout) -> Result<(), ImageError> {
    let folder = layout.partials();
    for entry in std::fs::read_dir(&folder).map_err(disk(&folder))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let made = name.split('-').next().is_some_and(|hex| layout.layers().join(hex).exists());
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if made || age.is_some_and(|age| age > PARTIAL_AGE_LIMIT) {
            std::fs::remove_file(entry.path()).map_err(disk(&entry.path()))?;
        }
    }
    Ok(())
}
