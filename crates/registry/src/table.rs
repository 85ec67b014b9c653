//! The table of resources: those compiled in, and those made at run time.
//!
//! What is compiled in is found without a lock. A custom resource is found in a persistent map behind a lock that is held for a look-up or
//! a pointer's swap only, so neither reads nor the feeder wait while one appears. Invariant: a resource is given the store's changes
//! ([`Table::of_prefix`]) before its content is read, and is found by requests ([`Table::find`]) only after.

use crate::kind::Served;
use crate::resource::Resource;
use foldhash::{HashMap, HashMapExt};
use std::sync::{Arc, RwLock};
use tokio::sync::watch;

pub struct Table {
    fixed: Vec<Arc<Resource>>,
    fixed_by_plural: HashMap<&'static str, Vec<usize>>,
    fixed_by_prefix: HashMap<String, usize>,
    custom: RwLock<Custom>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Custom {
    by_plural: imbl::HashMap<&'static str, Vec<Arc<Resource>>>,
    by_prefix: imbl::HashMap<String, Arc<Resource>>,
}

impl Table {
    pub fn new(fixed: Vec<Arc<Resource>>) -> Self {
        let mut fixed_by_plural: HashMap<_, Vec<usize>> = HashMap::new();
        for (i, r) in fixed.iter().enumerate() {
            fixed_by_plural.entry(r.info().plural).or_default().push(i);
        }
        let fixed_by_prefix = fixed.iter().enumerate().map(|(i, r)| (r.prefix.clone(), i)).collect();
        Table { fixed, fixed_by_plural, fixed_by_prefix, custom: RwLock::default(), version: watch::Sender::new(0) }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Custom> {
        self.custom.read().expect("no holder panics")
    }
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Custom> {
        self.custom.write().expect("no holder panics")
    }

    /// What serves this path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<(Arc<Resource>, Served)> {
        self.first(plural, |r| r.info().served.iter().find(|s| s.group == group && s.version == version && r.kind.serves(s)).copied())
    }

    /// The resource of a group, whatever the version.
    pub fn of_group(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        self.first(plural, |r| r.info().served.iter().find(|s| s.group == group).copied()).map(|(r, _)| r)
    }

    fn first(&self, plural: &str, wanted: impl Fn(&Resource) -> Option<Served>) -> Option<(Arc<Resource>, Served)> {
        let found = |r: &Arc<Resource>| wanted(r).map(|s| (r.clone(), s));
        let fixed = self.fixed_by_plural.get(plural).into_iter().flatten();
        if let Some(hit) = fixed.filter_map(|i| found(&self.fixed[*i])).next() {
            return Some(hit);
        }
        self.read().by_plural.get(plural)?.iter().find_map(found)
    }

    /// The resource whose objects lie under a prefix of the store, served already or about to be.
    pub fn of_prefix(&self, prefix: &str) -> Option<Arc<Resource>> {
        match self.fixed_by_prefix.get(prefix) {
            Some(i) => Some(self.fixed[*i].clone()),
            None => self.read().by_prefix.get(prefix).cloned(),
        }
    }

    pub fn fixed(&self) -> &[Arc<Resource>] {
        &self.fixed
    }

    /// Those made at run time, by group and plural.
    pub fn custom(&self) -> Vec<Arc<Resource>> {
        let mut all: Vec<_> = self.read().by_prefix.values().cloned().collect();
        all.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        all
    }

    /// From now on the resource is given what changes in the store.
    pub fn feed(&self, r: &Arc<Resource>) {
        self.write().by_prefix.insert(r.prefix.clone(), r.clone());
    }

    /// From now on requests find the resource; returns the one it takes the place of.
    pub fn serve(&self, r: &Arc<Resource>) -> Option<Arc<Resource>> {
        let mut t = self.write();
        let mut row = t.by_plural.get(r.info().plural).cloned().unwrap_or_default();
        let earlier = row.iter().position(|o| o.prefix == r.prefix).map(|i| row.remove(i));
        row.push(r.clone());
        t.by_plural.insert(r.info().plural, row);
        drop(t);
        self.version.send_modify(|v| *v += 1);
        earlier
    }

    /// Nothing finds the resource under this prefix any more.
    pub fn remove(&self, prefix: &str) -> Option<Arc<Resource>> {
        let mut t = self.write();
        let gone = t.by_prefix.remove(prefix)?;
        let mut row = t.by_plural.get(gone.info().plural).cloned().unwrap_or_default();
        row.retain(|o| o.prefix != prefix);
        if row.is_empty() {
            t.by_plural.remove(gone.info().plural)
        } else {
            t.by_plural.insert(gone.info().plural, row)
        };
        drop(t);
        self.version.send_modify(|v| *v += 1);
        Some(gone)
    }

    pub fn touch(&self) {
        self.version.send_modify(|v| *v += 1);
    }

    /// Grows whenever a resource appears, changes or goes.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
