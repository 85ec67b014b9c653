//! Disk of the node, of containers, of logs and of volumes. Trees are walked when asked, and what was found counts for a short while.
//!
//! Entry points: [`filesystem`], [`Walked::usage`].

use keles_runtime::api::DiskUsage;
use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a walk's result counts. Upstream walks once a minute.
const KEPT: Duration = Duration::from_secs(10);

/// A filesystem as statvfs(2) tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filesystem {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub used_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl Filesystem {
    pub fn inodes_used(&self) -> u64 {
        self.inodes.saturating_sub(self.inodes_free)
    }
}

pub fn filesystem(path: &Path) -> Option<Filesystem> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Filesystem {
        capacity_bytes: stat.f_blocks * stat.f_frsize,
        available_bytes: stat.f_bavail * stat.f_frsize,
        used_bytes: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// Results of walks by what was walked.
#[derive(Default)]
pub struct Walked {
    found: Mutex<HashMap<String, (Instant, DiskUsage)>>,
}

impl Walked {
    /// What `walk` finds, or found a short while ago.
    pub async fn usage(&self, key: &str, walk: impl Future<Output = Option<DiskUsage>>) -> Option<DiskUsage> {
        if let Some((_, known)) = self.lock().get(key).filter(|(at, _)| at.elapsed() < KEPT) {
            return Some(*known);
        }
        let found = walk.await?;
        let mut all = self.lock();
        all.retain(|_, (at, _)| at.elapsed() < KEPT);
        all.insert(key.to_owned(), (Instant::now(), found));
        Some(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, DiskUsage)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Walks a folder on a thread of its own.
pub async fn folder(path: std::path::PathBuf) -> Option<DiskUsage> {
    tokio::task::spawn_blocking(move || keles_runtime::usage::disk(&path)).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_walk_counts_for_a_while() {
        let walked = Walked::default();
        let usage = |bytes| DiskUsage { bytes, inodes: 1 };
        assert_eq!(walked.usage("a", async { None }).await, None);
        assert_eq!(walked.usage("a", async { Some(usage(7)) }).await, Some(usage(7)));
        assert_eq!(walked.usage("a", async { panic!("not walked again") }).await, Some(usage(7)));
        assert_eq!(walked.usage("b", async { Some(usage(8)) }).await, Some(usage(8)));
    }

    #[test]
    fn a_filesystem_has_a_size() {
        let root = filesystem(Path::new("/")).expect("the root");
        assert!(root.capacity_bytes >= root.used_bytes && root.capacity_bytes > 0);
        assert_eq!(filesystem(Path::new("/does/not/exist")), None);
    }
}
