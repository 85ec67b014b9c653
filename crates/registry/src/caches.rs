//! [`Caches`]: the cache of every resource, and how far together they have come with the store. What the store feeds.

use crate::cache::Incoming;
use crate::resource::Resource;
use crate::table::Table;
use keles_store::{Change, Revision};
use std::sync::Arc;
use tokio::sync::watch;

pub struct Caches {
    pub table: Table,
    seen: watch::Sender<Revision>,
}

impl Caches {
    pub fn new(table: Table) -> Self {
        Caches { table, seen: watch::Sender::new(0) }
    }

    /// The revision up to which every cache is complete.
    pub fn seen(&self) -> Revision {
        *self.seen.borrow()
    }

    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.seen.subscribe()
    }

    pub fn advance(&self, revision: Revision) {
        self.seen.send_if_modified(|s| {
            let newer = revision > *s;
            *s = revision.max(*s);
            newer
        });
    }

    /// Hands changes to the caches, then tells that their revision is seen.
    pub fn apply(&self, changes: &[Change]) {
        let mut by_resource: Vec<(Arc<Resource>, Vec<Incoming>)> = Vec::new();
        for c in changes {
            let Some((resource, key)) = self.locate(&c.entry.key) else { continue };
            let value = (!c.deleted && c.unreadable.is_none()).then(|| c.entry.value.clone());
            let incoming = Incoming { key: key.into(), value, revision: c.entry.modified, created: c.entry.created, unreadable: c.unreadable.clone() };
            match by_resource.iter_mut().find(|(r, _)| Arc::ptr_eq(r, &resource)) {
                Some((_, list)) => list.push(incoming),
                None => by_resource.push((resource, vec![incoming])),
            }
        }
        for (resource, list) in by_resource {
            resource.feed(list);
        }
        if let Some(last) = changes.iter().map(|c| c.entry.modified).max() {
            self.advance(last);
        }
    }

    /// The resource of a store key, and the key within it.
    fn locate<'k>(&self, key: &'k [u8]) -> Option<(Arc<Resource>, &'k str)> {
        let key = std::str::from_utf8(key).ok()?;
        let ends = key.match_indices('/').nth(3)?.0 + 1;
        Some((self.table.of_prefix(&key[..ends])?, &key[ends..]))
    }
}
