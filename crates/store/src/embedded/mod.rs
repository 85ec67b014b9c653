//! The embedded engine: an append-only log in segment files, an index in memory, one writer thread.
//!
//! Entry point: [`Embedded::open`]. The write path: callers queue -> the writer thread checks each against the index in order -> one write
//! and one fdatasync for all of them -> the new index is published -> who is fed takes it in, watchers wake -> callers are answered. Reads take the published index
//! (a persistent map, constant-time clone) and fetch values from the cache or by offset from the files.
//!
//! Invariants: the published index holds only what is on disk; files only grow at the newest one's end; a merge replaces files by
//! rename. Deliberately absent: a write-ahead log beside the data (the log is the data), blind puts, transactions over several keys.

mod index;
mod merge;
mod queue;
mod record;
mod recover;
mod segment;
mod values;
mod watch;
mod writer;

use crate::{Entry, Feed, Page, Revision, Store, StoreError, Watched, Write};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use index::{State, Version};
use queue::{Command, Queue, Refusal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use values::Values;
use watch::Watchers;

/// Longer keys are refused.
pub const KEY_LIMIT_BYTES: usize = 4096;

#[derive(Clone, Debug)]
pub struct Options {
    /// Recent values kept in memory.
    pub cache_bytes: usize,
    /// A segment that has grown to this is closed and the next one begun.
    pub segment_bytes: u64,
    /// Values above this are refused.
    pub value_limit_bytes: usize,
    /// Files are merged when more than half of their bytes, and at least this many, are forgotten.
    pub merge_floor_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { cache_bytes: 4 << 20, segment_bytes: 64 << 20, value_limit_bytes: 3 << 20, merge_floor_bytes: 8 << 20 }
    }
}

/// A change that a watcher found: revision, key, version.
type Found = (Revision, Bytes, Arc<Version>);

/// What the writer thread, readers, watchers and the merge share.
struct Shared {
    dir: PathBuf,
    options: Options,
    state: RwLock<Arc<State>>,
    values: Values,
    queue: Queue,
    watchers: Watchers,
    closed: AtomicBool,
    merging: AtomicBool,
    next_file_id: AtomicU64,
    log_bytes: AtomicU64,
    live_bytes: AtomicU64,
}

impl Shared {
    fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }

    fn new_file_id(&self) -> u32 {
        self.next_file_id.fetch_add(1, Ordering::Relaxed) as u32
    }

    /// Whether enough of the log is forgotten to rewrite it.
    fn merge_is_due(&self) -> bool {
        let log = self.log_bytes.load(Ordering::Relaxed);
        let dead = log.saturating_sub(self.live_bytes.load(Ordering::Relaxed));
        dead >= self.options.merge_floor_bytes && dead > log / 2
    }
}

pub struct Embedded {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens the log in `dir`, made when absent. Reads every byte of it once: damage is found here, not later.
    pub fn open(dir: &Path, options: Options) -> Result<Arc<Embedded>, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| segment::disk_error(dir, &e))?;
        let lock = segment::lock(dir)?;
        let recovered = recover::recover(dir)?;
        let values = Values::new(options.cache_bytes);
        for segment in recovered.segments {
            values.add_file(segment);
        }
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            options,
            state: RwLock::new(Arc::new(recovered.state)),
            values,
            queue: Queue::new(),
            watchers: Watchers::default(),
            closed: AtomicBool::new(false),
            merging: AtomicBool::new(false),
            next_file_id: AtomicU64::new(u64::from(recovered.active.id) + 1),
            log_bytes: AtomicU64::new(recovered.log_bytes),
            live_bytes: AtomicU64::new(recovered.live_bytes),
        });
        let writer = writer::Writer::new(shared.clone(), recovered.active, recovered.active_bytes, lock);
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run()).map_err(|e| segment::disk_error(dir, &e))?;
        Ok(Arc::new(Embedded { shared, writer: Mutex::new(Some(thread)) }))
    }

    fn stop(&self) {
        self.shared.queue.close();
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }

    fn check_limits(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let limit = self.shared.options.value_limit_bytes;
        if value.len() > limit {
            return Err(StoreError::TooLarge { bytes: value.len(), limit_bytes: limit });
        }
        if key.len() > KEY_LIMIT_BYTES {
            return Err(StoreError::TooLarge { bytes: key.len(), limit_bytes: KEY_LIMIT_BYTES });
        }
        Ok(())
    }

    /// Values of a page, read off the async threads when the disk is needed.
    async fn entries(&self, found: Vec<(Bytes, Arc<Version>)>) -> Result<Vec<Entry>, StoreError> {
        let shared = self.shared.clone();
        let cold = found.iter().any(|(_, v)| shared.values.cached(v).is_none());
        let read = move || found.into_iter().map(|(key, version)| shared.values.entry(&key, &version)).collect();
        if cold { tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)? } else { read() }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The keys of a page and how many there are in all.
fn find(state: &State, prefix: &[u8], start: Option<&[u8]>, limit: usize, at: Revision) -> (Vec<(Bytes, Arc<Version>)>, u64) {
    let from = start.unwrap_or(prefix).max(prefix);
    let (mut found, mut count) = (Vec::new(), 0);
    let bounds = (std::ops::Bound::Included(from), std::ops::Bound::Unbounded);
    for (key, head) in state.keys.range::<_, [u8]>(bounds).take_while(|(key, _)| key.starts_with(prefix)) {
        let Some(version) = State::version_at(head, at) else { continue };
        count += 1;
        if limit == 0 || found.len() < limit {
            found.push((key.clone(), version));
        }
    }
    (found, count)
}

#[async_trait]
impl Store for Embedded {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.shared.check_open()?;
        let revision = self.shared.state().revision;
        self.shared.watchers.tell_progress(revision);
        Ok(revision)
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.shared.check_open()?;
        let found = self.shared.state().keys.get_key_value(key).filter(|(_, v)| !v.deleted).map(|(k, v)| (k.clone(), v.clone()));
        Ok(match found {
            Some(found) => self.entries(vec![found]).await?.pop(),
            None => None,
        })
    }

    async fn range(&self, prefix: &[u8], start: Option<&[u8]>, limit: usize, at: Option<Revision>) -> Result<Page, StoreError> {
        self.shared.check_open()?;
        let state = self.shared.state();
        let revision = at.unwrap_or(state.revision);
        state.check_readable(revision)?;
        let (found, count) = find(&state, prefix, start, limit, revision);
        if at.is_some() {
            // A compaction meanwhile may have cut versions that this revision needs.
            self.shared.state().check_readable(revision)?;
        }
        let more = (found.len() as u64) < count;
        Ok(Page { entries: self.entries(found).await?, unreadable: Vec::new(), revision, more, count })
    }

    async fn write(&self, write: Write) -> Result<Revision, StoreError> {
        match &write {
            Write::Put { key, value, .. } => self.check_limits(key, value)?,
            Write::Delete { key, .. } => self.check_limits(key, &[])?,
        }
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(Command::Write { write, reply: Some(reply) }).await?;
        match answer.await.map_err(|_| StoreError::Closed)? {
            Ok(revision) => Ok(revision),
            Err(Refusal::Failed(e)) => Err(e),
            Err(Refusal::Conflict(None)) => Err(StoreError::Conflict { current: None }),
            Err(Refusal::Conflict(Some(found))) => Err(StoreError::Conflict { current: self.entries(vec![found]).await?.pop() }),
        }
    }

    async fn watch(&self, prefix: &[u8], after: Revision) -> Result<BoxStream<'static, Result<Watched, StoreError>>, StoreError> {
        self.shared.check_open()?;
        watch::watch(&self.shared, prefix, after)
    }

    async fn feed(&self, prefix: &[u8], after: Revision, feed: Feed) -> Result<Option<BoxFuture<'static, ()>>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let (open, ended) = oneshot::channel::<std::convert::Infallible>();
        let fed = writer::Fed { prefix: Bytes::copy_from_slice(prefix), feed, open };
        self.shared.queue.push(Command::Feed { fed, after, reply }).await?;
        answer.await.map_err(|_| StoreError::Closed)??;
        Ok(Some(ended.map(drop).boxed()))
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(Command::Compact { before, reply }).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.queue.close();
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        match thread {
            Some(thread) => tokio::task::spawn_blocking(move || thread.join()).await.map_err(|_| StoreError::Closed)?.map_err(|_| StoreError::Closed),
            None => Ok(()),
        }
    }

    /// Of the log's files.
    fn size_bytes(&self) -> Option<u64> {
        Some(self.shared.log_bytes.load(Ordering::Relaxed))
    }
}
