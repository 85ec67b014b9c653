//! Values: read from the segment files by offset, recent ones kept in a cache bounded in bytes.

use super::index::Version;
use super::segment::{Segment, damaged, disk_error};
use crate::{Entry, Revision, StoreError};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Recent values by revision, the oldest entry leaves first.
struct Cache {
    values: HashMap<Revision, Bytes>,
    order: VecDeque<Revision>,
    bytes: usize,
    limit_bytes: usize,
}

impl Cache {
    fn insert(&mut self, revision: Revision, value: Bytes) {
        if value.len() > self.limit_bytes / 4 {
            return;
        }
        let bytes = value.len();
        if self.values.insert(revision, value).is_none() {
            self.order.push_back(revision);
            self.bytes += bytes;
        }
        while self.bytes > self.limit_bytes {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.values.remove(&oldest).map_or(0, |v| v.len());
        }
    }
}

pub struct Values {
    files: RwLock<HashMap<u32, Arc<Segment>>>,
    cache: Mutex<Cache>,
}

impl Values {
    pub fn new(limit_bytes: usize) -> Values {
        let cache = Cache { values: HashMap::new(), order: VecDeque::new(), bytes: 0, limit_bytes };
        Values { files: RwLock::default(), cache: Mutex::new(cache) }
    }

    pub fn add_file(&self, segment: Arc<Segment>) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(segment.id, segment);
    }

    pub fn remove_file(&self, id: u32) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    pub fn files(&self) -> Vec<Arc<Segment>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn remember(&self, revision: Revision, value: Bytes) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).insert(revision, value);
    }

    /// The value if no disk is needed for it.
    pub fn cached(&self, version: &Version) -> Option<Bytes> {
        if version.value_bytes == 0 {
            return Some(Bytes::new());
        }
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).values.get(&version.modified).cloned()
    }

    pub fn read(&self, version: &Version) -> Result<Bytes, StoreError> {
        if let Some(value) = self.cached(version) {
            return Ok(value);
        }
        let value = self.read_disk(version)?;
        self.remember(version.modified, value.clone());
        Ok(value)
    }

    /// Reads past the cache and leaves it as it is: the merge must not push recent values out.
    pub fn read_disk(&self, version: &Version) -> Result<Bytes, StoreError> {
        let (segment, offset) = self.locate(version);
        let mut value = vec![0; version.value_bytes as usize];
        segment.file.read_exact_at(&mut value, offset).map_err(|e| disk_error(&segment.path, &e))?;
        if crc32c::crc32c(&value) != version.value_crc {
            return Err(damaged(&segment.path, offset, "a value does not match its checksum"));
        }
        Ok(Bytes::from(value))
    }

    /// The open file of a version. A merge may move the version between the two look-ups; then its place is new and asked again.
    fn locate(&self, version: &Version) -> (Arc<Segment>, u64) {
        loop {
            let place = version.place();
            let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(segment) = files.get(&place.file()) {
                return (segment.clone(), place.offset());
            }
        }
    }

    pub fn entry(&self, key: &Bytes, version: &Version) -> Result<Entry, StoreError> {
        let value = if version.deleted { Bytes::new() } else { self.read(version)? };
        Ok(Entry { key: key.clone(), value, created: version.created, modified: version.modified })
    }
}
