//! [`Interned`]: a table from label values to what is counted under them.

use super::SERIES_MAX;
use foldhash::HashMap;
use foldhash::fast::RandomState;
use std::hash::BuildHasher;
use std::sync::{OnceLock, PoisonError, RwLock};

type Row<T, const N: usize> = ([Box<str>; N], &'static T);

/// Values of `N` labels to a `T` that lives as long as the process; at most [`SERIES_MAX`] of them. Const, so that it can be a `static`.
pub struct Interned<T: 'static, const N: usize> {
    rows: RwLock<Option<HashMap<u64, Vec<Row<T, N>>>>>,
    hasher: OnceLock<RandomState>,
    /// Takes what finds no room.
    rest: OnceLock<&'static T>,
}

impl<T: Sync, const N: usize> Interned<T, N> {
    pub const fn new() -> Self {
        Interned { rows: RwLock::new(None), hasher: OnceLock::new(), rest: OnceLock::new() }
    }

    /// The row of these values, made by `make` when it is not there yet.
    pub fn get(&self, values: [&str; N], make: impl FnOnce([&str; N]) -> T) -> &'static T {
        let hash = self.hasher.get_or_init(RandomState::default).hash_one(values);
        let find = |rows: &Option<HashMap<u64, Vec<Row<T, N>>>>| {
            let same = |k: &[Box<str>; N]| k.iter().zip(values).all(|(a, b)| **a == *b);
            rows.as_ref()?.get(&hash)?.iter().find(|(k, _)| same(k)).map(|(_, row)| *row)
        };
        if let Some(row) = find(&self.rows.read().unwrap_or_else(PoisonError::into_inner)) {
            return row;
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = find(&rows) {
            return row;
        }
        let rows = rows.get_or_insert_default();
        if rows.len() >= SERIES_MAX {
            return self.rest.get_or_init(|| Box::leak(Box::new(make(values))));
        }
        // Bounded by SERIES_MAX, and the process's own statics keep them.
        let row: &'static T = Box::leak(Box::new(make(values)));
        rows.entry(hash).or_default().push((values.map(Into::into), row));
        row
    }

    /// Takes a row off, so that it is shown no more.
    pub fn remove(&self, values: [&str; N]) {
        let hash = self.hasher.get_or_init(RandomState::default).hash_one(values);
        if let Some(rows) = self.rows.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            rows.remove(&hash);
        }
    }

    pub fn len(&self) -> usize {
        self.rows.read().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, HashMap::len)
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All rows, sorted by their values.
    pub fn sorted(&self) -> Vec<([Box<str>; N], &'static T)> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = rows.iter().flat_map(HashMap::values).flatten().map(|(k, v)| (k.clone(), *v)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

impl<T: Sync, const N: usize> Default for Interned<T, N> {
    fn default() -> Self {
        Self::new()
    }
}
