//! One served kind: its cache, its keys, and how its objects turn from one version into another.

use crate::cache::{Cached, Incoming, WatchCache};
use crate::encode::Head;
use crate::kind::{AnyKind, Info, Scope, Served};
use keles_api::{GroupVersion, Object, Status};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

pub struct Resource {
    pub kind: Arc<dyn AnyKind>,
    pub cache: WatchCache,
    /// `/registry/apps/deployments/`; the core group is `core`. The group keeps CRDs of the same plural apart.
    pub prefix: String,
    /// What only a resource made at run time needs.
    run_time: Option<RunTime>,
}

struct RunTime {
    /// Changes that came before the cache was filled; `None` from then on.
    early: Mutex<Option<Vec<Incoming>>>,
    /// The revision of what the cache was filled with: changes up to it are in it.
    filled: AtomicU64,
    /// True when the resource is no longer served: its watches end.
    closing: watch::Sender<bool>,
}

/// Where the objects of a resource lie in the store.
pub fn prefix(group: &str, plural: &str) -> String {
    format!("/registry/{}/{plural}/", if group.is_empty() { "core" } else { group })
}

/// `apps/v1`, or `v1` for the core group.
pub fn api_version(s: &Served) -> String {
    GroupVersion::new(s.group, s.version).to_string()
}

impl Resource {
    pub fn new(kind: Arc<dyn AnyKind>) -> Self {
        let info = kind.info();
        let storage = &info.served[0];
        let prefix = prefix(storage.group, info.plural);
        let mut head = Head::new(info.kind, &api_version(storage));
        head.restore = kind.restorer();
        if kind.converts_outside() {
            head.others = info.served.iter().map(|s| Head::new(info.kind, &api_version(s))).collect();
        }
        Resource { cache: WatchCache::new(head), prefix, kind, run_time: None }
    }
    /// A resource that appears while the registry serves: changes wait until its cache is filled.
    pub fn at_run_time(kind: Arc<dyn AnyKind>) -> Self {
        let run_time = RunTime { early: Mutex::new(Some(Vec::new())), filled: AtomicU64::new(0), closing: watch::Sender::new(false) };
        Resource { run_time: Some(run_time), ..Resource::new(kind) }
    }
    /// Fills the cache with what is stored at `revision`, then with what happened meanwhile.
    pub fn fill(&self, stored: Vec<Incoming>, revision: u64) {
        let Some(r) = &self.run_time else { return self.cache.fill(stored.into_iter(), revision) };
        let mut early = r.early.lock().expect("no holder panics");
        self.cache.fill(stored.into_iter(), revision);
        r.filled.store(revision, Ordering::Release);
        let later = early.take().into_iter().flatten().filter(|c| c.revision > revision).collect();
        self.cache.apply(later);
    }
    /// Takes changes of the store, in revision order.
    pub fn feed(&self, mut changes: Vec<Incoming>) {
        if let Some(r) = &self.run_time {
            if let Some(early) = r.early.lock().expect("no holder panics").as_mut() {
                early.extend(changes);
                return;
            }
            let filled = r.filled.load(Ordering::Acquire);
            changes.retain(|c| c.revision > filled);
        }
        self.cache.apply(changes);
    }
    /// Ends the watches of a resource made at run time.
    pub fn close(&self) {
        if let Some(r) = &self.run_time {
            r.closing.send_replace(true);
        }
    }
    /// Wakes when the resource goes; none for those that stay.
    pub fn subscribe_closing(&self) -> Option<watch::Receiver<bool>> {
        self.run_time.as_ref().map(|r| r.closing.subscribe())
    }
    pub fn info(&self) -> &Info {
        self.kind.info()
    }
    pub fn storage(&self) -> Served {
        self.info().served[0]
    }
    pub fn namespaced(&self) -> bool {
        self.info().scope == Scope::Namespaced
    }
    pub fn has_status(&self) -> bool {
        self.info().subresources.iter().any(|s| s.name == crate::kind::STATUS)
    }
    /// The key within the resource.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced() { format!("{namespace}/{name}") } else { name.to_owned() }
    }
    pub fn store_key(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }
    /// The object of the cache in the served version `to`.
    pub fn tree_in(&self, o: &Cached, to: &Served) -> Object {
        let mut t = o.tree();
        self.convert(&mut t, &self.storage(), to);
        self.fitted(t, to)
    }
    /// A converted object with only what its version has, in that version's canonical form.
    pub fn fitted(&self, o: Object, to: &Served) -> Object {
        if *to == self.storage() { o } else { self.kind.conform(to, o) }
    }
    /// Rewrites apiVersion and lets the kind convert the rest.
    pub fn convert(&self, o: &mut Object, from: &Served, to: &Served) {
        if from == to {
            return;
        }
        let (from, to) = (api_version(from), api_version(to));
        o.set_type(&to, self.info().kind);
        self.kind.convert(o, &from, &to);
    }
    pub fn group(&self) -> &'static str {
        self.storage().group
    }
    /// The answer where the cache has no object: 404, or why it cannot be read.
    pub fn absent(&self, served: &Served, key: &str, name: &str) -> Status {
        self.cache.unreadable.status(key).unwrap_or_else(|| self.not_found(served, name))
    }
    pub fn not_found(&self, served: &Served, name: &str) -> Status {
        Status::not_found(served.group, self.info().plural, name)
    }
}
