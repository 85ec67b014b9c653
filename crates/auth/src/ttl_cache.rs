//! Answers of others, kept for a time: what webhooks said. Bounded; keys are digests, so that no secret lies in memory as a key.

use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Beyond this many the memory is emptied of what is over, and of everything when nothing is.
const ENTRIES_MAX: usize = 8192;

pub struct TtlCache<V> {
    held: Mutex<HashMap<[u8; 32], (Instant, V)>>,
}

impl<V> Default for TtlCache<V> {
    fn default() -> Self {
        TtlCache { held: Mutex::default() }
    }
}

/// The digest of the parts of a key; their borders count.
pub fn key<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> [u8; 32] {
    let mut h = Sha256::new();
    for p in parts {
        h.update((p.len() as u64).to_le_bytes());
        h.update(p);
    }
    h.finalize().into()
}

impl<V: Clone> TtlCache<V> {
    pub fn get(&self, key: &[u8; 32]) -> Option<V> {
        let held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        held.get(key).filter(|(until, _)| Instant::now() < *until).map(|(_, v)| v.clone())
    }
    /// Keeps for `ttl`; not at all when it is zero.
    pub fn put(&self, key: [u8; 32], value: V, ttl: Duration) {
        if ttl.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        if held.len() >= ENTRIES_MAX {
            held.retain(|_, (until, _)| now < *until);
            if held.len() >= ENTRIES_MAX {
                held.clear();
            }
        }
        held.insert(key, (now + ttl, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_or_has_no_time_is_not_held() {
        let c = TtlCache::default();
        c.put(key([b"a".as_slice()]), 1, Duration::from_secs(60));
        c.put(key([b"b".as_slice()]), 2, Duration::ZERO);
        assert_eq!((c.get(&key([b"a".as_slice()])), c.get(&key([b"b".as_slice()]))), (Some(1), None));
        assert_ne!(key([b"ab".as_slice(), b"c"]), key([b"a".as_slice(), b"bc"]), "borders count");
    }
}
