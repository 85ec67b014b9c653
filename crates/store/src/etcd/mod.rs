//! The etcd engine: several servers side by side on one cluster of etcd 3.4 and later.
//!
//! Entry points: [`Options::of`], [`Etcd::new`] (no connection is made), [`Etcd::wait`] (until a member answers). Revisions are etcd's own. Reads
//! are linearizable; a write is one transaction that compares the key's revision and, where it is another, reads what is there. Watches are in
//! [`watch`], times to live in [`lease`]. Invariant: nothing is answered that etcd has not acknowledged; a write whose answer is lost
//! ends in [`StoreError::Unavailable`], which says neither that it was done nor that it was not.
//! Deliberately absent: a cache (the registry has one), users and passwords of etcd (certificates say who we are).

mod client;
mod endpoints;
mod lease;
mod messages;
mod read;
mod watch;

pub use endpoints::{OptionsError, TlsFiles};

use crate::embedded::KEY_LIMIT_BYTES;
use crate::{Entry, Expect, Page, Revision, Store, StoreError, Turn, Watched, Write};
use async_trait::async_trait;
use bytes::Bytes;
use client::{Failed, Members, Refusal};
use futures::stream::BoxStream;
use keles_grpc::Channel;
use lease::Leases;
use messages::{
    COMPACT, CompactionRequest, CompactionResponse, Compare, Compared, DeleteRangeRequest, Operation, PutRequest, RangeRequest, STATUS, StatusRequest, StatusResponse, TXN,
    TxnRequest, TxnResponse,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What `--etcd-prefix` is unless it is said: the keys of the registry as they are.
pub const PREFIX: &str = "/registry";
/// Larger values are not sent: as the embedded engine.
const VALUE_LIMIT_BYTES: usize = 3 << 20;
/// What etcd takes of one request unless it is told otherwise (`--max-request-bytes`).
const REQUEST_LIMIT_BYTES: usize = 3 << 19;
/// The key by which servers, upstream's too, agree on who forgets history. It is of the whole etcd, as history is.
const COMPACT_KEY: &[u8] = b"compact_rev_key";
/// Versions that do not keep what they acknowledged when they are killed (etcd issue 13766); our own test of kills finds it with 3.5.1.
const LOSING: [&str; 3] = ["3.5.0", "3.5.1", "3.5.2"];
/// Upstream's `--etcd-db-metric-poll-interval`.
const STATUS_EVERY: Duration = Duration::from_secs(30);
/// Between looks for a member at the start.
const WAIT: Duration = Duration::from_secs(2);

/// Where the members are, and where in their key space we are.
pub struct Options {
    channels: Vec<Channel>,
    root: Bytes,
}

impl Options {
    /// Without TLS files, under the usual prefix.
    pub fn of(endpoints: &str) -> Result<Options, OptionsError> {
        Options::with(endpoints, &TlsFiles::default(), PREFIX)
    }

    /// Keys lie under `prefix`; under another than [`PREFIX`] as `PREFIX/registry/…`, so that clusters may share an etcd.
    pub fn with(endpoints: &str, files: &TlsFiles, prefix: &str) -> Result<Options, OptionsError> {
        let prefix = format!("/{}", prefix.trim_matches('/'));
        let root = if prefix == PREFIX || prefix == "/" { Bytes::new() } else { prefix.into() };
        Ok(Options { channels: endpoints::channels(endpoints, files)?, root })
    }
}

/// See the module.
pub struct Etcd {
    shared: Arc<Shared>,
}

struct Shared {
    members: Members,
    /// What every key of ours begins with in etcd.
    root: Bytes,
    leases: Leases,
    /// As last told by a member; 0: not yet.
    size_bytes: AtomicU64,
    /// Of its version.
    warned: AtomicBool,
    closed: CancellationToken,
}

impl Shared {
    /// As errors call it.
    fn name(&self) -> String {
        format!("etcd ({})", self.members.names())
    }

    fn keyed(&self, key: &[u8]) -> Bytes {
        if self.root.is_empty() { Bytes::copy_from_slice(key) } else { [self.root.as_ref(), key].concat().into() }
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.is_cancelled() { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Unless the store is closed meanwhile.
    async fn while_open<T>(&self, done: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.check_open()?;
        self.closed.run_until_cancelled(done).await.unwrap_or(Err(StoreError::Closed))
    }

    async fn write(&self, write: Write) -> Result<Revision, StoreError> {
        let (key, expect, bytes) = match &write {
            Write::Put { key, value, expect, .. } => (key, *expect, value.len()),
            Write::Delete { key, expect } => (key, Expect::Revision(*expect), 0),
        };
        for (bytes, limit_bytes) in [(bytes, VALUE_LIMIT_BYTES), (key.len(), KEY_LIMIT_BYTES)] {
            if bytes > limit_bytes {
                return Err(StoreError::TooLarge { bytes, limit_bytes });
            }
        }
        let key = self.keyed(key);
        let expected = match expect {
            Expect::Absent => 0,
            // No key has it, though etcd would take it for absence.
            Expect::Revision(0) => return Err(StoreError::Conflict { current: self.get(&key[self.root.len()..]).await? }),
            Expect::Revision(r) => r as i64,
        };
        let answer = match self.send(&key, expected, &write).await {
            Ok(answer) => answer,
            Err(Failed::Refused(status)) if matches!(Refusal::of(&status), Refusal::TooLarge) => {
                return Err(StoreError::TooLarge { bytes, limit_bytes: REQUEST_LIMIT_BYTES.min(bytes) });
            }
            Err(failed) => return Err(self.failed(failed)),
        };
        if answer.succeeded {
            return Ok(answer.header.map_or(0, |h| h.revision as u64));
        }
        let found = answer.responses.into_iter().next().and_then(|r| r.range).and_then(|r| r.kvs.into_iter().next());
        Err(StoreError::Conflict { current: found.map(|kv| read::entry(kv, self.root.len())) })
    }

    async fn send(&self, key: &Bytes, expected: i64, write: &Write) -> Result<TxnResponse, Failed> {
        loop {
            let mut lease = 0;
            let operation = match write {
                Write::Put { value, ttl, .. } => {
                    if let Some(ttl) = ttl {
                        lease = self.leases.take(self, *ttl).await?;
                    }
                    Operation::Put(PutRequest { key: key.clone(), value: value.clone(), lease })
                }
                Write::Delete { .. } => Operation::Delete(DeleteRangeRequest { key: key.clone() }),
            };
            let request = TxnRequest {
                compare: vec![Compare::new(key.clone(), Compared::ModRevision(expected))],
                success: vec![operation.into()],
                failure: vec![Operation::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() }).into()],
            };
            match self.members.write(TXN, &request).await {
                // It ended, or somebody revoked it: nothing was written, so a new one can be taken.
                Err(Failed::Refused(status)) if lease != 0 && matches!(Refusal::of(&status), Refusal::NoLease) => self.leases.forget(lease).await,
                sent => return sent,
            }
        }
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        if before == 0 {
            return Ok(());
        }
        match self.members.write::<_, CompactionResponse>(COMPACT, &CompactionRequest { revision: before as i64 }).await {
            Ok(_) => Ok(()),
            // It is forgotten already.
            Err(Failed::Refused(status)) if matches!(Refusal::of(&status), Refusal::Compacted) => Ok(()),
            Err(failed) => Err(self.failed_at(before, failed).await),
        }
    }

    /// Whoever finds the key as often written as it knew writes it, and forgets; the others learn how often it is written by now.
    async fn take_turn(&self, last: u64, floor: Revision) -> Result<Turn, StoreError> {
        let key = Bytes::from_static(COMPACT_KEY);
        let put = PutRequest { key: key.clone(), value: floor.to_string().into(), lease: 0 };
        let request = TxnRequest {
            compare: vec![Compare::new(key.clone(), Compared::Version(last as i64))],
            success: vec![Operation::Put(put).into()],
            failure: vec![Operation::Range(RangeRequest { key, ..RangeRequest::default() }).into()],
        };
        let answer: TxnResponse = self.members.write(TXN, &request).await.map_err(|f| self.failed(f))?;
        let found = answer.responses.into_iter().next().and_then(|r| r.range).and_then(|r| r.kvs.into_iter().next());
        let number = if answer.succeeded { last + 1 } else { found.map_or(0, |kv| kv.version as u64) };
        Ok(Turn { mine: answer.succeeded, number, step: Revision::MAX })
    }

    async fn look_at_status(&self) {
        let told: Result<StatusResponse, _> = self.members.read(STATUS, &StatusRequest {}).await;
        let Ok(told) = told else { return };
        self.size_bytes.store(told.size_bytes.max(0) as u64, Ordering::Relaxed);
        if LOSING.contains(&told.version.as_str()) && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::error!(store = %self.name(), version = told.version, "this version of etcd may lose or repeat writes when it is killed; update it to 3.5.3 or later");
        }
        for error in told.errors {
            tracing::error!(store = %self.name(), version = told.version, error, "etcd has an alarm");
        }
    }
}

/// Asks for the size now and then, until nobody holds the store.
async fn look_at_status(shared: Weak<Shared>, closed: CancellationToken) {
    let mut ticks = tokio::time::interval(STATUS_EVERY);
    while closed.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(shared) = shared.upgrade() else { return };
        shared.look_at_status().await;
    }
}

impl Etcd {
    /// Nothing is connected to yet. Call it within a tokio runtime.
    pub fn new(options: Options) -> Arc<Etcd> {
        let shared = Shared {
            members: Members::new(options.channels),
            root: options.root,
            leases: Leases::default(),
            size_bytes: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            closed: CancellationToken::new(),
        };
        let shared = Arc::new(shared);
        tokio::spawn(look_at_status(Arc::downgrade(&shared), shared.closed.clone()));
        Arc::new(Etcd { shared })
    }

    /// Waits until a member answers, and says in the log what it waits for.
    pub async fn wait(&self) -> Result<(), StoreError> {
        loop {
            match self.shared.while_open(self.shared.healthy()).await {
                Err(StoreError::Unavailable { store, why }) => tracing::error!("{store} does not answer: {why}; waiting for it"),
                done => return done,
            }
            tokio::time::sleep(WAIT).await;
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

#[async_trait]
impl Store for Etcd {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.shared.while_open(self.shared.present()).await
    }
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.shared.while_open(self.shared.get(key)).await
    }
    async fn range(&self, prefix: &[u8], start: Option<&[u8]>, limit: usize, at: Option<Revision>) -> Result<Page, StoreError> {
        self.shared.while_open(self.shared.range(prefix, start, limit, at)).await
    }
    async fn write(&self, w: Write) -> Result<Revision, StoreError> {
        self.shared.while_open(self.shared.write(w)).await
    }
    async fn watch(&self, prefix: &[u8], after: Revision) -> Result<BoxStream<'static, Result<Watched, StoreError>>, StoreError> {
        self.shared.while_open(watch::watch(&self.shared, self.shared.keyed(prefix), after)).await
    }
    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.shared.while_open(self.shared.compact(before)).await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.shared.closed.cancel();
        Ok(())
    }
    async fn take_turn(&self, last: u64, floor: Revision) -> Result<Turn, StoreError> {
        self.shared.while_open(self.shared.take_turn(last, floor)).await
    }
    async fn health(&self) -> Result<(), StoreError> {
        self.shared.while_open(self.shared.healthy()).await
    }
    fn size_bytes(&self) -> Option<u64> {
        Some(self.shared.size_bytes.load(Ordering::Relaxed)).filter(|b| *b > 0)
    }
    fn is_shared(&self) -> bool {
        true
    }
}
