//! The store: one revision number for everything, ranges at a revision, compare-and-swap, watch, compaction.
//!
//! Bytes in, bytes out: no kind is known here. One trait, [`Store`], and one suite ([`suite`]) that any engine must pass.
//! `embedded` is the default engine, for one server; `etcd` is for several on one cluster of etcd.
//! Invariant: an acknowledged write is on disk, and a revision is never given out twice.

pub mod compactor;
pub mod embedded;
pub mod encrypted;
pub mod etcd;
pub mod suite;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::time::Duration;

/// A point in the history of the whole store. 0 is "before anything".
pub type Revision = u64;

/// One key's state at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Bytes,
    pub value: Bytes,
    /// Revision of the put that created the key (after its last delete).
    pub created: Revision,
    /// Revision of the last put.
    pub modified: Revision,
}

/// What a write demands of the key's present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key must not exist.
    Absent,
    /// The key's `modified` must be this.
    Revision(Revision),
}

/// A write. Every write names what it expects: there is no blind put.
#[derive(Clone, Debug)]
pub enum Write {
    Put {
        key: Bytes,
        value: Bytes,
        expect: Expect,
        /** The key is deleted by the store this long after the write. */
        ttl: Option<Duration>,
    },
    Delete {
        key: Bytes,
        expect: Revision,
    },
}

/// A change, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The new state; for a delete `value` is empty, `modified` is the revision of the delete and `created` says nothing.
    pub entry: Entry,
    pub deleted: bool,
    /// Why the new state cannot be read (encryption at rest); its value is empty then.
    pub unreadable: Option<String>,
}

/// A page of a range.
#[derive(Clone, Debug)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// What lies in the range too and cannot be read (encryption at rest), with the reason.
    pub unreadable: Vec<(Bytes, String)>,
    /// The revision that was read: the present one, or the one asked for.
    pub revision: Revision,
    /// Whether entries remain after the last of `entries`.
    pub more: bool,
    /// How many keys the range holds in all from the start key on.
    pub count: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A write's expectation failed; `current` is what is there (absent: no such key).
    #[error("the key is not as expected")]
    Conflict { current: Option<Entry> },
    #[error("revision {asked} is compacted, the oldest kept is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future, the present one is {current}")]
    Future { asked: Revision, current: Revision },
    #[error("a value of {bytes} bytes is over the limit of {limit_bytes}")]
    TooLarge { bytes: usize, limit_bytes: usize },
    /// The disk refused (full, read-only, gone). Nothing of the write is kept. Reads go on.
    #[error("cannot write to {path}: {source}; free space or fix the disk, then retry")]
    Disk { path: String, source: std::io::Error },
    /// The files are damaged where they should not be. Names file and offset.
    #[error("{path} is damaged at byte {offset}: {what}; restore it from a copy or move it away to start anew")]
    Damaged { path: String, offset: u64, what: String },
    /// Encryption at rest: the value cannot be turned (see [`encrypted`]).
    #[error("unable to transform key {key:?}: {source}")]
    Transform { key: String, source: encrypted::TransformError },
    /// The same of an entry of a page, as the page told it.
    #[error("{0}")]
    Unreadable(String),
    #[error("{path} is in use by another process")]
    InUse { path: String },
    #[error("the store is closed")]
    Closed,
    /// It cannot be reached now. A write may have been done all the same.
    #[error("{store} does not answer: {why}")]
    Unavailable { store: String, why: String },
    /// Reads and compaction go on; deletes too where its version lets them (before 3.4.20 and 3.5.7 it does not, etcd issue 13429).
    #[error("{store} is full (alarm NOSPACE): let history be forgotten and defragment it, or raise its --quota-backend-bytes, then `etcdctl alarm disarm`")]
    NoSpace { store: String },
    /// Nothing that another try would change: rights, above all.
    #[error("{store} refused: {why}")]
    Refused { store: String, why: String },
}

/// What a watch yields.
#[derive(Clone, Debug)]
pub enum Watched {
    /// All changes of one revision batch, in revision order, never empty.
    Changes(std::sync::Arc<Vec<Change>>),
    /// Everything up to and including this revision has been delivered.
    Progress(Revision),
}

/// Takes in changes, in revision order (none when there are none), and that everything up to and including the revision has been told. It must
/// neither block nor panic.
pub type Feed = Box<dyn Fn(&[Change], Revision) + Send>;

/// Whose it is to forget history at a tick (see [`compactor`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// This server's.
    pub mine: bool,
    /// How many turns there have been; to be handed back at the next tick.
    pub number: u64,
    /// Revisions to forget at once, with writes in between.
    pub step: Revision,
}

/// The engine. Implementations are cheap to clone behind an `Arc`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The present revision.
    async fn revision(&self) -> Result<Revision, StoreError>;
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError>;
    /// Keys with `prefix`, from `start` (inclusive, when given) on, at most `limit` (0: all), at `at` (present when absent).
    async fn range(&self, prefix: &[u8], start: Option<&[u8]>, limit: usize, at: Option<Revision>) -> Result<Page, StoreError>;
    /// One write, durable when it returns. The revision it got.
    async fn write(&self, w: Write) -> Result<Revision, StoreError>;
    /// Changes of keys with `prefix` after revision `after`, in order, without gap; ends with `Compacted` when too old.
    async fn watch(&self, prefix: &[u8], after: Revision) -> Result<BoxStream<'static, Result<Watched, StoreError>>, StoreError>;
    /// Gives `feed` what [`Store::watch`] would tell, each change before its write is answered: nobody has to be woken to learn of it. Ends when
    /// the store closes, or when the future that was given is dropped. `None`: this engine tells by watches alone.
    async fn feed(&self, _prefix: &[u8], _after: Revision, _feed: Feed) -> Result<Option<BoxFuture<'static, ()>>, StoreError> {
        Ok(None)
    }
    /// Forget history before `before`; present state stays.
    async fn compact(&self, before: Revision) -> Result<(), StoreError>;
    /// Flush and close. Later calls answer `Closed`.
    async fn close(&self) -> Result<(), StoreError>;
    /// Whether the present value, as last read, should be written anew even when nothing changes in it (an older encryption key).
    fn stale(&self, _key: &[u8]) -> bool {
        false
    }
    /// Takes the turn after number `last`, if no other server on the same store has: one of them forgets history at each tick. `floor` is what
    /// it is about to forget.
    async fn take_turn(&self, last: u64, _floor: Revision) -> Result<Turn, StoreError> {
        Ok(Turn { mine: true, number: last + 1, step: compactor::STEP_REVISIONS })
    }
    /// Whether it answers now; an engine of this process does unless it is closed.
    async fn health(&self) -> Result<(), StoreError> {
        self.revision().await.map(drop)
    }
    /// How large it is on disk, as far as it is known.
    fn size_bytes(&self) -> Option<u64> {
        None
    }
    /// Whether other servers may write to it.
    fn is_shared(&self) -> bool {
        false
    }
}
