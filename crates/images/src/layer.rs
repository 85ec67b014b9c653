//! A layer becomes a folder: once, whole, verified, durable.

use crate::blob::{Hashing, pipe};
use crate::error::{ImageError, disk};
use crate::layout::{Layout, Lock, sync_folder_of};
use crate::unpack::{self, UnpackError};
use keles_oci::Digest;
use std::io::Read;

/// Whether a layer has to be made.
pub enum Slot {
    /// Here; its size.
    Present(u64),
    /// Absent, and ours to make as long as the lock is held.
    Missing(Lock),
}

/// Waits for whoever else makes the layer. Blocks.
pub fn claim(layout: &Layout, diff_id: &Digest) -> Result<Slot, ImageError> {
    if let Some(size) = present(layout, diff_id) {
        return Ok(Slot::Present(size));
    }
    let lock = layout.lock_layer(diff_id)?;
    Ok(present(layout, diff_id).map_or(Slot::Missing(lock), Slot::Present))
}

fn present(layout: &Layout, diff_id: &Digest) -> Option<u64> {
    if !layout.layer(diff_id).is_dir() {
        return None;
    }
    // The size file is written before the folder gets its name; without one the layer counts as empty rather than absent.
    let size = std::fs::read_to_string(layout.size_file(diff_id)).ok();
    Some(size.and_then(|s| s.trim().parse().ok()).unwrap_or(0))
}

/// What a layer's bytes must turn out to be.
pub struct Expected<'a> {
    pub image: &'a str,
    pub diff_id: &'a Digest,
    /// Of the blob as it comes, compressed or not; archives of `docker save` do not say.
    pub blob: Option<&'a Digest>,
}

/// Streams a blob into the layer's folder; the bytes of its files. `verified` is called when everything is there and right, before it is made
/// durable. The caller holds the layer's lock. Blocks.
pub fn make(layout: &Layout, expected: &Expected, blob: impl Read + Send, verified: impl FnOnce()) -> Result<u64, ImageError> {
    let temporary = layout.new_tmp();
    let made = unpack_verified(&temporary, expected, blob).and_then(|size| {
        verified();
        layout.replace(&layout.size_file(expected.diff_id), size.to_string().as_bytes())?;
        settle(layout, &temporary, expected.diff_id).map(|()| size)
    });
    if made.is_err() {
        // Nothing half done; what cannot be removed now is removed when the folder is opened next.
        let _ = std::fs::remove_dir_all(&temporary);
    }
    made
}

fn unpack_verified(temporary: &std::path::Path, expected: &Expected, blob: impl Read + Send) -> Result<u64, ImageError> {
    let failed = |reason: UnpackError| match reason {
        UnpackError::Write { entry, reason } if reason.kind() == std::io::ErrorKind::StorageFull => ImageError::Disk { path: format!("{} ({entry})", temporary.display()), reason },
        UnpackError::Read(reason) if reason.kind() == std::io::ErrorKind::StorageFull => ImageError::Disk { path: temporary.display().to_string(), reason },
        reason => ImageError::Layer { image: expected.image.to_string(), layer: expected.diff_id.clone(), reason },
    };
    let read_failed = |e| failed(UnpackError::Read(e));
    std::fs::create_dir(temporary).map_err(disk(temporary))?;
    let (filler, ahead) = pipe();
    let (unpacked, drained, diff_id, stored) = std::thread::scope(|scope| {
        let filling = scope.spawn(move || filler.run(blob));
        let mut tar = Hashing::new(ahead);
        let unpacked = unpack::unpack(&mut tar, temporary);
        let drained = tar.drain();
        let (diff_id, ahead) = tar.finish();
        drop(ahead);
        let stored = filling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (unpacked, drained, diff_id, stored)
    });
    // A wrong digest explains a broken tar, or broken compression, better than their own errors do, so the digests are looked at first.
    if let (Err(UnpackError::Read(_)) | Ok(_), Ok(stored)) = (&unpacked, &stored) {
        if let Some(wanted) = expected.blob {
            check(expected.image, "blob", wanted, stored)?;
        }
        if drained.is_ok() {
            check(expected.image, "an unpacked layer", expected.diff_id, &diff_id)?;
        }
    }
    let size = unpacked.map_err(failed)?;
    drained.map_err(read_failed)?;
    stored.map_err(read_failed)?;
    Ok(size)
}

fn check(image: &str, what: &str, expected: &Digest, found: &Digest) -> Result<(), ImageError> {
    if expected == found {
        return Ok(());
    }
    Err(ImageError::Mismatch { image: image.to_string(), what: what.to_string(), expected: expected.clone(), found: found.clone() })
}

/// Makes everything durable, then gives the folder its name.
fn settle(layout: &Layout, temporary: &std::path::Path, diff_id: &Digest) -> Result<(), ImageError> {
    let path = layout.layer(diff_id);
    let work = || {
        // One call for a layer's thousands of files.
        rustix::fs::syncfs(std::fs::File::open(temporary)?)?;
        std::fs::rename(temporary, &path)?;
        sync_folder_of(&path)
    };
    work().map_err(disk(&path))
}
