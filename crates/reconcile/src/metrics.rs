//! Counters of every controller, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What the runtime counted for one controller.
#[derive(Debug, Default)]
pub struct Counters {
    pub reconciles: AtomicU64,
    pub errors: AtomicU64,
    pub panics: AtomicU64,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
    /// `workqueue`-like figures of all controllers: name, reconciles, errors, panics.
    pub fn all() -> Vec<(&'static str, u64, u64, u64)> {
        let table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        table.iter().map(|(name, c)| (*name, read(&c.reconciles), read(&c.errors), read(&c.panics))).collect()
    }
}

static TABLE: Mutex<BTreeMap<&'static str, &'static Counters>> = Mutex::new(BTreeMap::new());

/// The counters of one controller; made at first use and kept for the process (names are constants, so they are few).
pub fn counters(name: &'static str) -> &'static Counters {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_insert_with(|| Box::leak(Box::default()))
}
