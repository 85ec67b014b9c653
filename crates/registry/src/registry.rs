//! The table of resources, fed by one watch of the store.
//!
//! Entry points: [`Registry::start`], [`Registry::run`] (a service), [`Registry::serve`] (a request), [`Registry::read`] (a look at
//! another object, for admission and authorization).
//! Invariant: `seen` is the revision up to which every cache is complete; all revisions shown to clients come from the store's one space.

use crate::admission::Admission;
use crate::cache::{Cached, Incoming};
use crate::call::{Answer, Call, Verb};
use crate::exchange::{Exchange, Heard};
use crate::kind::{AnyKind, Scope, Served};
use crate::represent::View;
use crate::resource::Resource;
use crate::write::store_error;
use futures::StreamExt;
use keles_api::{Object, Status};
use keles_store::{Change, Revision, Store, StoreError, Watched};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Everything the registry stores is under this prefix.
pub const PREFIX: &str = "/registry/";
/// How long a read waits for the caches to see a revision.
const FRESH_TIMEOUT: Duration = Duration::from_secs(3);

/// What the registry is built from.
pub struct Settings {
    pub store: Arc<dyn Store>,
    pub kinds: Vec<Arc<dyn AnyKind>>,
    /// In the order they are called.
    pub admission: Vec<Arc<dyn Admission>>,
}

pub struct Registry {
    store: Arc<dyn Store>,
    resources: Vec<Arc<Resource>>,
    /// (group, version, plural) of every served version.
    by_path: HashMap<(String, String, String), (usize, Served)>,
    by_prefix: HashMap<String, usize>,
    admission: Vec<Arc<dyn Admission>>,
    seen: watch::Sender<Revision>,
    closing: watch::Sender<bool>,
}

impl Registry {
    /// Reads everything stored into the watch caches. The caches then follow through [`Registry::run`].
    pub async fn start(settings: Settings) -> Result<Arc<Self>, StoreError> {
        let resources: Vec<_> = settings.kinds.into_iter().map(|k| Arc::new(Resource::new(k))).collect();
        let mut by_path = HashMap::new();
        for (i, r) in resources.iter().enumerate() {
            for s in r.info().served {
                by_path.insert((s.group.to_owned(), s.version.to_owned(), r.info().plural.to_owned()), (i, *s));
            }
        }
        let by_prefix = resources.iter().enumerate().map(|(i, r)| (r.prefix.clone(), i)).collect();
        let registry =
            Registry { store: settings.store, resources, by_path, by_prefix, admission: settings.admission, seen: watch::Sender::new(0), closing: watch::Sender::new(false) };
        let revision = registry.store.revision().await?;
        for r in &registry.resources {
            let page = registry.store.range(r.prefix.as_bytes(), None, 0, Some(revision)).await?;
            let entries = page.entries.into_iter().filter_map(|e| {
                let key = std::str::from_utf8(e.key.get(r.prefix.len()..)?).ok()?.into();
                Some(Incoming { key, value: Some(e.value), revision: e.modified, created: e.created })
            });
            r.cache.fill(entries, revision);
        }
        registry.seen.send_replace(revision);
        Ok(Arc::new(registry))
    }

    /// Follows the store until it closes. Spawn it as a service right after `start`; reads wait for it.
    pub async fn run(self: Arc<Self>) -> Result<(), StoreError> {
        loop {
            let followed = match self.store.watch(PREFIX.as_bytes(), self.seen()).await {
                Ok(mut stream) => loop {
                    match stream.next().await {
                        Some(Ok(Watched::Changes(changes))) => self.apply(&changes),
                        Some(Ok(Watched::Progress(revision))) => self.advance(revision),
                        Some(Err(e)) => break Err(e),
                        None => break Ok(()),
                    }
                },
                Err(e) => Err(e),
            };
            match followed {
                Err(StoreError::Compacted { asked, oldest }) => {
                    tracing::warn!(asked, oldest, "the watch of the store fell behind its compaction; comparing everything");
                    self.compare().await?;
                }
                Ok(()) | Err(StoreError::Closed) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    fn advance(&self, revision: Revision) {
        self.seen.send_if_modified(|s| {
            let newer = revision > *s;
            *s = revision.max(*s);
            newer
        });
    }

    /// Hands changes to the caches, then tells that their revision is seen.
    fn apply(&self, changes: &[Change]) {
        let mut by_resource: Vec<(usize, Vec<Incoming>)> = Vec::new();
        for c in changes {
            let Some((i, key)) = self.locate(&c.entry.key) else { continue };
            let incoming = Incoming { key: key.into(), value: (!c.deleted).then(|| c.entry.value.clone()), revision: c.entry.modified, created: c.entry.created };
            match by_resource.iter_mut().find(|(r, _)| *r == i) {
                Some((_, list)) => list.push(incoming),
                None => by_resource.push((i, vec![incoming])),
            }
        }
        for (i, list) in by_resource {
            self.resources[i].cache.apply(list);
        }
        if let Some(last) = changes.iter().map(|c| c.entry.modified).max() {
            self.advance(last);
        }
    }

    /// The resource of a store key, and the key within it.
    fn locate<'k>(&self, key: &'k [u8]) -> Option<(usize, &'k str)> {
        let key = std::str::from_utf8(key).ok()?;
        let ends = key.match_indices('/').nth(3)?.0 + 1;
        Some((*self.by_prefix.get(&key[..ends])?, &key[ends..]))
    }

    /// After a gap in the watch: finds what changed by comparing every cache with the store.
    async fn compare(&self) -> Result<(), StoreError> {
        let revision = self.store.revision().await?;
        for r in &self.resources {
            let page = self.store.range(r.prefix.as_bytes(), None, 0, Some(revision)).await?;
            let mut gone = r.cache.present();
            let mut changes = Vec::new();
            for e in page.entries {
                let Some(key) = e.key.get(r.prefix.len()..).and_then(|k| std::str::from_utf8(k).ok()) else { continue };
                if gone.remove(key).is_none_or(|c| c.revision != e.modified) {
                    changes.push(Incoming { key: key.into(), value: Some(e.value), revision: e.modified, created: e.created });
                }
            }
            changes.extend(gone.keys().map(|k| Incoming { key: k.clone(), value: None, revision, created: 0 }));
            changes.sort_by_key(|c| c.revision);
            r.cache.apply(changes);
        }
        self.advance(revision);
        Ok(())
    }

    /// Ends all watches; new ones end at once.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
    pub(crate) fn admission(&self) -> &[Arc<dyn Admission>] {
        &self.admission
    }
    pub(crate) fn subscribe_seen(&self) -> watch::Receiver<Revision> {
        self.seen.subscribe()
    }
    pub(crate) fn subscribe_closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// The revision the caches have seen.
    pub fn seen(&self) -> Revision {
        *self.seen.borrow()
    }

    /// Waits until the caches have seen `revision`; false when that takes too long.
    pub async fn wait_seen(&self, revision: Revision) -> bool {
        if self.seen() >= revision {
            return true;
        }
        let mut seen = self.seen.subscribe();
        matches!(tokio::time::timeout(FRESH_TIMEOUT, seen.wait_for(|s| *s >= revision)).await, Ok(Ok(_)))
    }

    /// Makes the caches as fresh as a read asks: `None` sees all acknowledged writes, `Some(0)` is content, else at least that revision.
    pub async fn fresh(&self, asked: Option<Revision>) -> Result<(), Status> {
        let revision = match asked {
            Some(r) => r,
            None => self.store.revision().await.map_err(store_error)?,
        };
        if self.wait_seen(revision).await { Ok(()) } else { Err(crate::read::too_new(revision, self.seen())) }
    }

    fn find(&self, group: &str, version: &str, plural: &str) -> Option<(&Arc<Resource>, Served)> {
        let (i, served) = self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))?;
        Some((&self.resources[*i], *served))
    }

    /// The resource of a group, whatever the version.
    pub(crate) fn resource(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|r| r.info().plural == plural && r.info().served.iter().any(|s| s.group == group))
    }

    /// The kind served at this place, for routing, discovery and authorization.
    pub fn kind(&self, group: &str, version: &str, plural: &str) -> Option<Arc<dyn AnyKind>> {
        self.find(group, version, plural).map(|(r, _)| r.kind.clone())
    }
    /// All kinds, in the order given at start.
    pub fn kinds(&self) -> Vec<Arc<dyn AnyKind>> {
        self.resources.iter().map(|r| r.kind.clone()).collect()
    }

    /// Serves the main resource and the subresources `status`, `scale`, `finalize`, `binding`, `eviction` of `call.request`.
    /// 404 when nothing is served there, 405 when the verb is not.
    pub async fn serve(&self, verb: Verb, call: Call) -> Result<Answer, Status> {
        let r = &call.request;
        let (resource, served) = self.find(&r.group, &r.version, &r.plural).ok_or_else(Status::no_such_path)?;
        if resource.info().scope == Scope::Cluster && !r.namespace.is_empty() && !crate::facts::is_namespace(resource.info()) {
            return Err(Status::no_such_path());
        }
        let x = Exchange {
            registry: self,
            resource: resource.clone(),
            served,
            view: View::new(resource, served, &call)?,
            request: call.request.clone(),
            call: &call,
            heard: Heard::default(),
        };
        x.serve(verb).await
    }

    /// An object from the watch cache, in its storage version; `group`/`plural` as in a path. As fresh as the cache.
    pub fn read(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Object> {
        self.peek(group, plural, namespace, name).map(|c| c.tree())
    }
    /// The same without making a tree: labels and selectable fields are at hand.
    pub fn peek(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Cached>> {
        let r = self.resource(group, plural)?;
        r.cache.get(&r.key(namespace, name))
    }
    /// The same, sure to see all acknowledged writes.
    pub async fn read_fresh(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Result<Option<Object>, Status> {
        self.fresh(None).await?;
        Ok(self.read(group, plural, namespace, name))
    }
    /// All objects of a resource (of one namespace unless `""`), as fresh as the cache.
    pub fn read_all(&self, group: &str, plural: &str, namespace: &str) -> Vec<Object> {
        let Some(r) = self.resource(group, plural) else { return Vec::new() };
        let all = r.cache.present();
        all.values().filter(|c| namespace.is_empty() || c.namespace() == namespace).map(|c| c.tree()).collect()
    }
    /// A number that grows whenever an object of the resource changed: for caches derived from it (RBAC rules).
    pub fn changed(&self, group: &str, plural: &str) -> u64 {
        self.resource(group, plural).map_or(0, |r| r.cache.last_change())
    }
    /// Wakes when an object of the resource changes.
    pub fn subscribe(&self, group: &str, plural: &str) -> Option<watch::Receiver<u64>> {
        self.resource(group, plural).map(|r| r.cache.subscribe())
    }
}
