//! The sockets below a folder, and when that may have changed (inotify).
//!
//! Folders below are followed too; names that begin with a dot are not meant for us, as upstream has it. A socket is told from one that was made anew in its
//! place by inode and time.

use rustix::fs::inotify::{self, WatchFlags};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

const EVENTS: WatchFlags = WatchFlags::CREATE.union(WatchFlags::DELETE).union(WatchFlags::MOVE);
/// Folders within folders; deeper ones hold no sockets of plugins.
const MAX_DEPTH: usize = 4;

/// What tells one socket from the next at its path: inode, and when it was made.
pub type Stamp = (u64, i64, i64);

pub struct Watcher {
    folder: PathBuf,
    events: AsyncFd<OwnedFd>,
}

impl Watcher {
    /// Makes the folder if it is not there.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        Ok(Watcher { folder: folder.into(), events: keles_linux::async_fd::watch(events)? })
    }

    /// All sockets there are. What comes after this is told by [`Watcher::changed`].
    pub fn sockets(&mut self) -> BTreeMap<PathBuf, Stamp> {
        let mut found = BTreeMap::new();
        self.read(&self.folder.clone(), 0, &mut found);
        found
    }

    fn read(&mut self, folder: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Stamp>) {
        // Followed before it is read: nothing is missed in between. Once more does no harm, and finds a folder that was made anew.
        if let Err(error) = inotify::add_watch(self.events.get_ref(), folder, EVENTS) {
            tracing::warn!(%error, folder = %folder.display(), "a folder of plugins' sockets is not followed");
        }
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let Ok(info) = entry.metadata() else { continue };
            if info.is_dir() && depth < MAX_DEPTH {
                self.read(&entry.path(), depth + 1, found);
            } else if info.file_type().is_socket() {
                // Not ctime: a plugin that changes its socket's mode is the same plugin.
                found.insert(entry.path(), (info.ino(), info.mtime(), info.mtime_nsec()));
            }
        }
    }

    pub async fn changed(&mut self) {
        match self.events.readable().await {
            Ok(mut ready) => {
                while rustix::io::read(self.events.get_ref(), &mut [0; 4096]).is_ok_and(|count| count > 0) {}
                ready.clear_ready();
            }
            // The descriptor is ours and open; without it nothing can be told.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    async fn changes(watcher: &mut Watcher) -> BTreeMap<PathBuf, Stamp> {
        tokio::time::timeout(Duration::from_secs(10), watcher.changed()).await.expect("the kernel tells");
        watcher.sockets()
    }

    #[tokio::test]
    async fn sockets_are_seen_as_they_come_go_and_come_anew() {
        let dir = tempfile::tempdir().expect("tempdir");
        let old = dir.path().join("old.sock");
        let _old = UnixListener::bind(&old).expect("bound");
        let mut watcher = Watcher::open(dir.path()).expect("opened");
        let first = watcher.sockets();
        assert_eq!(first.keys().collect::<Vec<_>>(), [&old], "what stood there");
        std::fs::write(dir.path().join("file"), "").expect("written");
        assert_eq!(changes(&mut watcher).await, first, "a file is no socket");
        std::fs::remove_file(&old).expect("removed");
        assert!(changes(&mut watcher).await.is_empty());
        let _anew = UnixListener::bind(&old).expect("bound");
        assert_ne!(changes(&mut watcher).await[&old], first[&old], "it is another one");
        let below = dir.path().join("below");
        std::fs::create_dir(&below).expect("made");
        changes(&mut watcher).await;
        let _below = UnixListener::bind(below.join("new.sock")).expect("bound");
        assert!(changes(&mut watcher).await.contains_key(&below.join("new.sock")));
        let _hidden = UnixListener::bind(below.join(".new.sock")).expect("bound");
        assert_eq!(changes(&mut watcher).await.len(), 2);
    }
}
