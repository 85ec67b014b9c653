//! What is where: a persistent map of keys to their newest version, versions chained to older ones, and the history by revision.
//!
//! [`State`] is cloned in constant time; readers hold a clone and see one revision throughout. Values are not here but on disk; a version
//! knows its place, which the merge of segments changes under it (an atomic). Forgetting cuts the chain in place, so whoever reads
//! at an old revision checks the floor again afterwards.

use super::record::RECORD_HEADER_BYTES;
use crate::{Revision, StoreError};
use bytes::Bytes;
use imbl::OrdMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where a value lies: file id in the upper 24 bits, byte offset in the lower 40.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u64);

const OFFSET_BITS: u32 = 40;

impl Place {
    pub fn new(file: u32, offset: u64) -> Place {
        Place((u64::from(file) << OFFSET_BITS) | offset)
    }
    pub fn file(self) -> u32 {
        (self.0 >> OFFSET_BITS) as u32
    }
    pub fn offset(self) -> u64 {
        self.0 & ((1 << OFFSET_BITS) - 1)
    }
}

/// One put or delete of a key.
#[derive(Debug)]
pub struct Version {
    pub created: Revision,
    pub modified: Revision,
    pub expires_ms: u64,
    pub value_bytes: u32,
    pub value_crc: u32,
    pub deleted: bool,
    place: AtomicU64,
    previous: Mutex<Option<Arc<Version>>>,
}

impl Version {
    pub fn place(&self) -> Place {
        Place(self.place.load(Ordering::Acquire))
    }

    pub fn move_to(&self, place: Place) {
        self.place.store(place.0, Ordering::Release);
    }

    pub fn previous(&self) -> Option<Arc<Version>> {
        self.previous.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn cut(&self) -> Option<Arc<Version>> {
        self.previous.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The size of its record in the log.
    pub fn record_bytes(&self, key: &[u8]) -> u64 {
        (RECORD_HEADER_BYTES + key.len()) as u64 + u64::from(self.value_bytes)
    }
}

impl Drop for Version {
    /// A key written a million times is a chain of a million links: dropping it by recursion would overflow the stack.
    fn drop(&mut self) {
        let mut next = self.cut();
        while let Some(version) = next {
            next = Arc::into_inner(version).and_then(|v| v.cut());
        }
    }
}

/// A put or delete as the log or a writer states it.
pub struct Step {
    pub key: Bytes,
    pub revision: Revision,
    pub created: Revision,
    pub expires_ms: u64,
    pub value_bytes: u32,
    pub value_crc: u32,
    pub deleted: bool,
    pub place: Place,
}

#[derive(Clone, Default)]
pub struct State {
    /// Key to its newest version, which may be a delete that is not forgotten yet.
    pub keys: OrdMap<Bytes, Arc<Version>>,
    /// Every change from `floor` on.
    pub history: OrdMap<Revision, (Bytes, Arc<Version>)>,
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub floor: Revision,
}

impl State {
    /// The newest version of a key that exists.
    pub fn live(&self, key: &[u8]) -> Option<&Arc<Version>> {
        self.keys.get(key).filter(|v| !v.deleted)
    }

    /// What `head` was at a revision.
    pub fn version_at(head: &Arc<Version>, at: Revision) -> Option<Arc<Version>> {
        let mut version = head.clone();
        while version.modified > at {
            version = version.previous()?;
        }
        (!version.deleted).then_some(version)
    }

    pub fn check_readable(&self, at: Revision) -> Result<(), StoreError> {
        if at > self.revision {
            return Err(StoreError::Future { asked: at, current: self.revision });
        }
        if at < self.floor {
            return Err(StoreError::Compacted { asked: at, oldest: self.floor });
        }
        Ok(())
    }

    /// Whether changes after a revision can be told without gap.
    pub fn check_told_from(&self, after: Revision) -> Result<(), StoreError> {
        if after > self.revision {
            return Err(StoreError::Future { asked: after, current: self.revision });
        }
        if after + 1 < self.floor {
            return Err(StoreError::Compacted { asked: after, oldest: self.floor });
        }
        Ok(())
    }

    /// Changes of keys with `prefix` after a revision, in order.
    pub fn after<'s>(&'s self, revision: Revision, prefix: &'s [u8]) -> impl Iterator<Item = super::Found> + 's {
        let later = self.history.range(revision + 1..).filter(move |(_, (key, _))| key.starts_with(prefix));
        later.map(|(revision, (key, version))| (*revision, key.clone(), version.clone()))
    }

    pub fn apply(&mut self, step: Step) -> Arc<Version> {
        let version = Arc::new(Version {
            created: step.created,
            modified: step.revision,
            expires_ms: step.expires_ms,
            value_bytes: step.value_bytes,
            value_crc: step.value_crc,
            deleted: step.deleted,
            place: AtomicU64::new(step.place.0),
            previous: Mutex::new(self.keys.get(&step.key).cloned()),
        });
        // The map keeps the key bytes it has; sharing them keeps a key in memory once however often it is written.
        let key = self.keys.get_key_value(&step.key).map_or(step.key, |(k, _)| k.clone());
        self.keys.insert(key.clone(), version.clone());
        self.history.insert(step.revision, (key, version.clone()));
        self.revision = step.revision;
        version
    }

    /// Forgets what only revisions before `floor` can see; the bytes of log that became dead.
    pub fn forget(&mut self, floor: Revision) -> u64 {
        self.floor = self.floor.max(floor);
        let old: Vec<(Revision, Bytes, Arc<Version>)> = self.history.range(..self.floor).map(|(r, (k, v))| (*r, k.clone(), v.clone())).collect();
        let mut dead = 0;
        for (revision, key, version) in old {
            self.history.remove(&revision);
            if let Some(previous) = version.cut() {
                dead += previous.record_bytes(&key);
            }
            let newest = self.keys.get(&key).is_some_and(|head| head.modified == revision);
            if version.deleted && newest {
                self.keys.remove(&key);
                dead += version.record_bytes(&key);
            }
        }
        dead
    }

    /// Every version that some revision from the floor on can see, with its key, in revision order.
    pub fn kept(&self) -> Vec<(Bytes, Arc<Version>)> {
        let mut kept = Vec::with_capacity(self.keys.len());
        for (key, head) in &self.keys {
            let mut next = Some(head.clone());
            while let Some(version) = next {
                let below = version.modified < self.floor;
                next = if below { None } else { version.previous() };
                if !(below && version.deleted) {
                    kept.push((key.clone(), version));
                }
            }
        }
        kept.sort_by_key(|(_, v)| v.modified);
        kept
    }
}
