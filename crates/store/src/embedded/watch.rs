//! Watches: each pulls from the history at its own pace, so a slow one costs the writer nothing and loses nothing.
//!
//! The writer wakes only watchers whose prefix a batch touched; for the others it moves `clear_to` when they were up to date, so that they
//! need not look. They hear `Progress` when somebody asks for the present revision (who does wants caches to have reached it) or
//! shortly after the writer falls idle.

use super::Shared;
use super::index::{State, Version};
use crate::{Change, Revision, StoreError, Watched};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, unfold};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Changes delivered in one message.
const CHANGES_LIMIT: usize = 512;

struct Watcher {
    prefix: Bytes,
    /// Everything up to here is delivered or not this watcher's.
    clear_to: AtomicU64,
    /// What the last `Progress` said.
    told: AtomicU64,
    wake: Notify,
}

#[derive(Default)]
pub struct Watchers {
    all: Mutex<Vec<Arc<Watcher>>>,
    /// The revision for which progress was last asked.
    asked: AtomicU64,
}

impl Watchers {
    fn add(&self, watcher: Arc<Watcher>) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(watcher);
    }

    fn remove(&self, watcher: &Arc<Watcher>) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).retain(|w| !Arc::ptr_eq(w, watcher));
    }

    /// After a commit that took the store from revision `before` to `now`.
    pub fn committed(&self, keys: &[Bytes], before: Revision, now: Revision) {
        for watcher in self.all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if keys.iter().any(|k| k.starts_with(&watcher.prefix)) {
                watcher.wake.notify_one();
            } else {
                // Fails when the watcher is behind: then it looks for itself.
                let _ = watcher.clear_to.compare_exchange(before, now, Ordering::AcqRel, Ordering::Acquire);
            }
        }
    }

    /// Wakes everyone who has not heard of `now`. Cheap when nothing happened since the last call.
    pub fn tell_progress(&self, now: Revision) {
        if self.asked.fetch_max(now, Ordering::AcqRel) >= now {
            return;
        }
        for watcher in self.all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if watcher.told.load(Ordering::Acquire) < now {
                watcher.wake.notify_one();
            }
        }
    }

    pub fn wake_all(&self) {
        for watcher in self.all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            watcher.wake.notify_one();
        }
    }
}

/// Leaves the list when the stream is dropped.
struct Cursor {
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
    position: Revision,
    greeted: bool,
    ended: bool,
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.shared.watchers.remove(&self.watcher);
    }
}

pub fn watch(shared: &Arc<Shared>, prefix: &[u8], after: Revision) -> Result<BoxStream<'static, Result<Watched, StoreError>>, StoreError> {
    let watcher = Arc::new(Watcher { prefix: Bytes::copy_from_slice(prefix), clear_to: AtomicU64::new(after), told: AtomicU64::new(0), wake: Notify::new() });
    // Listed before the state is read: a commit in between wakes it.
    shared.watchers.add(watcher.clone());
    let cursor = Cursor { shared: shared.clone(), watcher, position: after, greeted: false, ended: false };
    let state = shared.state();
    state.check_told_from(after)?;
    Ok(unfold(cursor, next).boxed())
}

async fn next(mut cursor: Cursor) -> Option<(Result<Watched, StoreError>, Cursor)> {
    loop {
        if cursor.ended {
            return None;
        }
        match cursor.step().await {
            Ok(Some(watched)) => return Some((Ok(watched), cursor)),
            Ok(None) => cursor.watcher.wake.notified().await,
            Err(e) => {
                cursor.ended = true;
                return Some((Err(e), cursor));
            }
        }
    }
}

impl Cursor {
    /// The next message, or nothing to say now.
    async fn step(&mut self) -> Result<Option<Watched>, StoreError> {
        self.shared.check_open()?;
        self.position = self.position.max(self.watcher.clear_to.load(Ordering::Acquire));
        let state = self.shared.state();
        state.check_told_from(self.position)?;
        let found = self.find(&state);
        let reached = if found.len() == CHANGES_LIMIT { found[CHANGES_LIMIT - 1].0 } else { state.revision.max(self.position) };
        let message = if found.is_empty() { self.progress(reached) } else { Some(Watched::Changes(self.shared.changes(found).await?)) };
        self.position = reached;
        self.watcher.clear_to.fetch_max(reached, Ordering::AcqRel);
        Ok(message)
    }

    /// Changes of the prefix after the position, up to a message's worth.
    fn find(&self, state: &State) -> Vec<super::Found> {
        state.after(self.position, &self.watcher.prefix).take(CHANGES_LIMIT).collect()
    }

    fn progress(&mut self, reached: Revision) -> Option<Watched> {
        let told = self.watcher.told.fetch_max(reached, Ordering::AcqRel);
        if self.greeted && told >= reached {
            return None;
        }
        self.greeted = true;
        Some(Watched::Progress(reached))
    }
}

impl Shared {
    /// Reads the values of changes, off the async threads when the disk is needed.
    async fn changes(self: &Arc<Self>, found: Vec<super::Found>) -> Result<Arc<Vec<Change>>, StoreError> {
        let cold = found.iter().any(|(_, _, v)| !v.deleted && self.values.cached(v).is_none());
        let shared = self.clone();
        let read = move || found.into_iter().map(|(_, key, version)| shared.change(&key, &version)).collect::<Result<Vec<_>, _>>();
        let changes = if cold { tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)? } else { read() };
        changes.map(Arc::new)
    }

    pub fn change(&self, key: &Bytes, version: &Version) -> Result<Change, StoreError> {
        Ok(Change { entry: self.values.entry(key, version)?, deleted: version.deleted, unreadable: None })
    }
}
