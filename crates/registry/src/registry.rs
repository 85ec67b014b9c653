//! The table of resources, and their caches as the store feeds them.
//!
//! Entry points: [`Registry::start`], [`Registry::run`] (a service), [`Registry::serve`] (a request), [`Registry::read`] (a look at
//! another object, for admission and authorization).
//! Invariant: `seen` is the revision up to which every cache is complete; all revisions shown to clients come from the store's one space.

use crate::admission::{Admission, Attributes, Operation, Taken};
use crate::cache::{Cached, Incoming};
use crate::caches::Caches;
use crate::call::{Answer, Call, Verb};
use crate::exchange::{Exchange, Heard};
use crate::kind::{AnyKind, Request, Scope, Served};
use crate::lifetimes::Lifetimes;
use crate::represent::View;
use crate::resource::Resource;
use crate::table::Table;
use crate::versions::Conversions;
use crate::write::store_error;
use futures::StreamExt;
use keles_api::{Object, Status};
use keles_store::{Change, Revision, Store, StoreError, Watched};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Everything the registry stores is under this prefix.
pub const PREFIX: &str = "/registry/";
/// How long a read waits for the caches to see a revision.
const FRESH_TIMEOUT: Duration = Duration::from_secs(3);

/// Between tries to follow a store that does not answer.
const AWAY: Duration = Duration::from_secs(1);

/// What the registry is built from.
pub struct Settings {
    pub store: Arc<dyn Store>,
    pub kinds: Vec<Arc<dyn AnyKind>>,
    /// In the order they are called.
    pub admission: Vec<Arc<dyn Admission>>,
    pub lifetimes: Lifetimes,
}

/// How a watch of the store ended, when not by an error.
enum Ended {
    Closed,
    /// Nothing more came of it, though there was something.
    Silent,
}

pub struct Registry {
    store: Arc<dyn Store>,
    lifetimes: Lifetimes,
    caches: Arc<Caches>,
    /// Held while a resource is added or removed.
    changing: tokio::sync::Mutex<()>,
    admission: Vec<Arc<dyn Admission>>,
    closing: watch::Sender<bool>,
}

impl Registry {
    /// Reads everything stored into the watch caches. The caches then follow through [`Registry::run`].
    pub async fn start(settings: Settings) -> Result<Arc<Self>, StoreError> {
        crate::metrics::start();
        let table = Table::new(settings.kinds.into_iter().map(|k| Arc::new(Resource::new(k))).collect());
        let registry = Registry {
            store: settings.store,
            lifetimes: settings.lifetimes,
            caches: Arc::new(Caches::new(table)),
            changing: Default::default(),
            admission: settings.admission,
            closing: watch::Sender::new(false),
        };
        let revision = registry.store.revision().await?;
        for r in registry.caches.table.fixed() {
            r.cache.fill(registry.stored(r, revision).await?.into_iter(), revision);
        }
        registry.caches.advance(revision);
        Ok(Arc::new(registry))
    }

    /// Everything stored of a resource at `revision`.
    async fn stored(&self, r: &Resource, revision: Revision) -> Result<Vec<Incoming>, StoreError> {
        let page = self.store.range(r.prefix.as_bytes(), None, 0, Some(revision)).await?;
        let incoming = |e: keles_store::Entry| {
            let key = std::str::from_utf8(e.key.get(r.prefix.len()..)?).ok()?.into();
            Some(Incoming { key, value: Some(e.value), revision: e.modified, created: e.created, unreadable: None })
        };
        let unreadable = |(key, why): (bytes::Bytes, String)| {
            let key = std::str::from_utf8(key.get(r.prefix.len()..)?).ok()?.into();
            Some(Incoming { key, value: None, revision, created: 0, unreadable: Some(why) })
        };
        Ok(page.entries.into_iter().filter_map(incoming).chain(page.unreadable.into_iter().filter_map(unreadable)).collect())
    }

    /// Looks again at what could not be read, since there may be keys for it now.
    pub async fn reread(&self) -> Result<(), StoreError> {
        for r in self.resources() {
            for key in r.cache.unreadable.keys() {
                match self.store.get(&r.store_key(&key)).await {
                    Ok(Some(e)) => r.cache.recover(Incoming { key, value: Some(e.value), revision: e.modified, created: e.created, unreadable: None }),
                    Ok(None) => r.cache.unreadable.remove(&key),
                    Err(StoreError::Transform { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// Serves a kind from now on, with what is stored of it. One of the same group and plural gives way: its watches end, as upstream
    /// ends them when a definition changes.
    pub async fn add(&self, kind: Arc<dyn AnyKind>) -> Result<(), StoreError> {
        let _alone = self.changing.lock().await;
        let r = Arc::new(Resource::at_run_time(kind));
        self.caches.table.feed(&r);
        let revision = self.store.revision().await?;
        r.fill(self.stored(&r, revision).await?, revision);
        // The feeder may not have come as far as the content just read: who reads next must see both.
        self.wait_seen(revision).await;
        if let Some(earlier) = self.caches.table.serve(&r) {
            earlier.close();
        }
        if *self.closing.borrow() {
            r.close();
        }
        Ok(())
    }

    /// Serves a kind no longer; its watches end. What is stored of it stays.
    pub async fn remove(&self, group: &str, plural: &str) {
        let _alone = self.changing.lock().await;
        if let Some(r) = self.caches.table.remove(&crate::resource::prefix(group, plural)) {
            r.close();
        }
    }

    /// Follows the store until it closes. Spawn it as a service right after `start`; reads wait for it.
    pub async fn run(self: Arc<Self>) -> Result<(), StoreError> {
        loop {
            match self.followed().await {
                Ok(Ended::Silent) => tracing::warn!(seen = self.seen(), "the watch of the store is silent though the store moved on; watching anew from there"),
                Err(StoreError::Compacted { asked, oldest }) => {
                    tracing::warn!(asked, oldest, "the watch of the store fell behind its compaction; comparing everything");
                    match self.compare().await {
                        // It is found again that the watch is behind; history may have been forgotten under the comparison.
                        Ok(()) | Err(StoreError::Unavailable { .. } | StoreError::Compacted { .. }) => {}
                        Err(StoreError::Closed) => return Ok(()),
                        Err(e) => return Err(e),
                    }
                }
                Ok(Ended::Closed) | Err(StoreError::Closed) => return Ok(()),
                Err(error @ StoreError::Unavailable { .. }) => {
                    tracing::warn!(%error, seen = self.seen(), "the store cannot be followed now; going on from there");
                    tokio::time::sleep(AWAY).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Follows the store as closely as it lets itself be followed.
    async fn followed(&self) -> Result<Ended, StoreError> {
        let caches = self.caches.clone();
        let feed = move |changes: &[Change], revision| {
            caches.apply(changes);
            caches.advance(revision);
        };
        if let Some(closed) = self.store.feed(PREFIX.as_bytes(), self.seen(), Box::new(feed)).await? {
            closed.await;
            return Ok(Ended::Closed);
        }
        let told = self.store.watch(PREFIX.as_bytes(), self.seen()).await?;
        self.follow(told).await
    }

    /// Takes in what a watch of the store tells until it ends, or is silent for twice as long as it may be while the store moved on.
    async fn follow(&self, mut stream: futures::stream::BoxStream<'static, Result<Watched, StoreError>>) -> Result<Ended, StoreError> {
        let mut owed = None;
        loop {
            let Ok(told) = tokio::time::timeout(self.lifetimes.store_silence, stream.next()).await else {
                // What the store has by now may be on its way: it is owed by the end of the next silence.
                if owed.is_some_and(|revision| self.seen() < revision) {
                    return Ok(Ended::Silent);
                }
                owed = Some(self.store.revision().await?);
                continue;
            };
            match told {
                Some(Ok(Watched::Changes(changes))) => self.caches.apply(&changes),
                Some(Ok(Watched::Progress(revision))) => self.caches.advance(revision),
                Some(Err(e)) => return Err(e),
                None => return Ok(Ended::Closed),
            }
        }
    }

    /// After a gap in the watch: finds what changed by comparing every cache with the store.
    async fn compare(&self) -> Result<(), StoreError> {
        let revision = self.store.revision().await?;
        for r in self.resources() {
            let mut gone = r.cache.present();
            let mut changes = self.stored(&r, revision).await?;
            changes.retain(|e| gone.remove(&*e.key).is_none_or(|c| c.revision != e.revision));
            changes.extend(gone.keys().map(|k| Incoming { key: k.clone(), value: None, revision, created: 0, unreadable: None }));
            changes.sort_by_key(|c| c.revision);
            r.feed(changes);
        }
        self.caches.advance(revision);
        Ok(())
    }

    /// Ends all watches; new ones end at once.
    pub fn close(&self) {
        self.closing.send_replace(true);
        self.caches.table.custom().iter().for_each(|r| r.close());
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
    pub(crate) fn admission(&self) -> &[Arc<dyn Admission>] {
        &self.admission
    }
    pub(crate) fn lifetimes(&self) -> &Lifetimes {
        &self.lifetimes
    }
    pub(crate) fn subscribe_seen(&self) -> watch::Receiver<Revision> {
        self.caches.subscribe()
    }
    /// Wakes when watches of the resource end.
    pub(crate) fn subscribe_closing(&self, r: &Resource) -> watch::Receiver<bool> {
        r.subscribe_closing().unwrap_or_else(|| self.closing.subscribe())
    }
    fn resources(&self) -> Vec<Arc<Resource>> {
        self.caches.table.fixed().iter().cloned().chain(self.caches.table.custom()).collect()
    }

    /// The revision the caches have seen.
    pub fn seen(&self) -> Revision {
        self.caches.seen()
    }

    /// Waits until the caches have seen `revision`; false when that takes too long.
    pub async fn wait_seen(&self, revision: Revision) -> bool {
        if self.seen() >= revision {
            return true;
        }
        let mut seen = self.caches.subscribe();
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

    /// Makes the caches as fresh as the store where other servers write to it, so that what admission looks at has all that was acknowledged
    /// before. Where this server is alone they are: whoever wrote has waited for them.
    pub async fn catch_up(&self) -> Result<(), Status> {
        if self.is_shared() { self.fresh(None).await } else { Ok(()) }
    }

    /// The resource of a group, whatever the version.
    pub(crate) fn resource(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        self.caches.table.of_group(group, plural)
    }

    /// Whether the store answers now.
    pub async fn store_health(&self) -> Result<(), StoreError> {
        self.store.health().await
    }
    /// How large the store is, as far as it is known.
    pub fn store_size_bytes(&self) -> Option<u64> {
        self.store.size_bytes()
    }

    /// The kind served at this place, for routing, discovery and authorization.
    pub fn kind(&self, group: &str, version: &str, plural: &str) -> Option<Arc<dyn AnyKind>> {
        self.caches.table.find(group, version, plural).map(|(r, _)| r.kind.clone())
    }
    /// All kinds, in the order given at start; then those made at run time, by group and plural.
    pub fn kinds(&self) -> Vec<Arc<dyn AnyKind>> {
        self.resources().iter().map(|r| r.kind.clone()).collect()
    }
    /// The kinds made at run time, by group and plural.
    pub fn custom_kinds(&self) -> Vec<Arc<dyn AnyKind>> {
        self.caches.table.custom().iter().map(|r| r.kind.clone()).collect()
    }
    /// Says that what a kind shows of itself has changed.
    pub fn touch_kinds(&self) {
        self.caches.table.touch();
    }
    /// Its number grows whenever a kind appears, changes or goes.
    pub fn kinds_changed(&self) -> watch::Receiver<u64> {
        self.caches.table.version()
    }

    /// Serves the main resource and the subresources `status`, `scale`, `finalize`, `binding`, `eviction` of `call.request`.
    /// 404 when nothing is served there, 405 when the verb is not.
    pub async fn serve(&self, verb: Verb, call: Call) -> Result<Answer, Status> {
        let r = &call.request;
        let (resource, served) = self.caches.table.find(&r.group, &r.version, &r.plural).ok_or_else(Status::no_such_path)?;
        if resource.info().scope == Scope::Cluster && !r.namespace.is_empty() && !crate::facts::is_namespace(resource.info()) {
            return Err(Status::no_such_path());
        }
        let x = self.exchange(resource, served, &call)?;
        // Its state is some KiB, which each future around it would hold and move.
        Box::pin(x.serve(verb)).await
    }

    fn exchange<'a>(&'a self, resource: Arc<Resource>, served: Served, call: &'a Call) -> Result<Exchange<'a>, Status> {
        Ok(Exchange {
            registry: self,
            view: View::new(&resource, served, call)?,
            working: if resource.kind.works_as_asked() { served } else { resource.storage() },
            resource,
            served,
            request: call.request.clone(),
            call,
            heard: Heard::default(),
            applied: false,
            taken: Taken::default(),
            conversions: Conversions::default(),
        })
    }

    /// Deletes every object of a resource, whether a version of it is served or not; returns how many are left, held by their finalizers.
    /// `as_who` gives the user and the time.
    pub async fn purge(&self, group: &str, plural: &str, as_who: &crate::kind::Request) -> Result<usize, Status> {
        let Some(r) = self.resource(group, plural) else { return Ok(0) };
        let storage = r.storage();
        let namespaces: std::collections::BTreeSet<String> = r.cache.present().values().map(|c| c.namespace().to_owned()).collect();
        for namespace in namespaces {
            let request = crate::kind::Request { group: group.into(), version: storage.version.into(), plural: plural.into(), namespace, ..as_who.clone() };
            let call = Call { request, ..Call::default() };
            self.exchange(r.clone(), storage, &call)?.delete_collection().await?;
        }
        self.fresh(None).await?;
        Ok(r.cache.present().len() + r.cache.unreadable.keys().len())
    }

    /// Admission of a stream or proxied request; `options` makes the object that plugins see, of the kind discovery has for the subresource.
    /// Their warnings.
    pub async fn connect(&self, request: &Request, options: impl FnOnce(&str) -> Object) -> Result<Vec<String>, Status> {
        let kind = self.kind(&request.group, &request.version, &request.plural).ok_or_else(Status::no_such_path)?;
        let info = kind.info();
        let of = info.subresources.iter().find(|s| s.name == request.subresource).map_or("", |s| s.kind);
        let (options, mut warnings) = (options(of), Vec::new());
        let taken = Taken::default();
        let a = Attributes { operation: Operation::Connect, request, info, old: None, registry: self, taken: &taken };
        for p in self.admission.iter().filter(|p| p.handles(&a)) {
            p.validate(&a, Some(&options), &mut warnings).await?;
        }
        Ok(warnings)
    }

    /// Admission of what is posted below an object to be acted upon or answered, not to be stored: evictions, requests for tokens. Plugins may
    /// change it. Their warnings.
    pub async fn admit_posted(&self, request: &Request, posted: &mut Object) -> Result<Vec<String>, Status> {
        let kind = self.kind(&request.group, &request.version, &request.plural).ok_or_else(Status::no_such_path)?;
        let (taken, mut warnings) = (Taken::default(), Vec::new());
        let a = Attributes { operation: Operation::Create, request, info: kind.info(), old: None, registry: self, taken: &taken };
        for p in self.admission.iter().filter(|p| p.handles(&a)) {
            p.mutate(&a, posted, &mut warnings).await?;
        }
        for p in self.admission.iter().filter(|p| p.handles(&a)) {
            p.validate(&a, Some(posted), &mut warnings).await?;
        }
        Ok(warnings)
    }

    /// An object from the watch cache, in its storage version; `group`/`plural` as in a path. As fresh as the cache.
    pub fn read(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let r = self.resource(group, plural)?;
        r.cache.get(&r.key(namespace, name)).map(|c| r.cache.tree(&c))
    }
    /// The same without making a tree: labels and selectable fields are at hand.
    pub fn peek(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Cached>> {
        let r = self.resource(group, plural)?;
        r.cache.get(&r.key(namespace, name))
    }
    /// All objects of a resource by key, as the cache holds them.
    pub fn peek_all(&self, group: &str, plural: &str) -> crate::cache::Map {
        self.resource(group, plural).map(|r| r.cache.present()).unwrap_or_default()
    }
    /// The same, sure to see all acknowledged writes.
    pub async fn read_fresh(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, Status> {
        self.fresh(None).await?;
        Ok(self.read(group, plural, namespace, name))
    }
    /// All objects of a resource (of one namespace unless `""`), as fresh as the cache.
    pub fn read_all(&self, group: &str, plural: &str, namespace: &str) -> Vec<Object> {
        let Some(r) = self.resource(group, plural) else { return Vec::new() };
        r.cache.present().values().filter(|c| is_in(c, namespace)).map(|c| c.tree()).collect()
    }
    /// The same for what is asked for at every write: the trees of a few are kept.
    pub fn read_few(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Object>> {
        let Some(r) = self.resource(group, plural) else { return Vec::new() };
        r.cache.trees(|c| is_in(c, namespace))
    }
    /// A number that grows whenever an object of the resource changed: for caches derived from it (RBAC rules).
    pub fn changed(&self, group: &str, plural: &str) -> u64 {
        self.resource(group, plural).map_or(0, |r| r.cache.last_change())
    }
    /// How many objects there are of a resource.
    pub fn count(&self, group: &str, plural: &str) -> usize {
        self.resource(group, plural).map_or(0, |r| r.cache.count())
    }
    /// How many watch a resource.
    pub fn watchers(&self, group: &str, plural: &str) -> usize {
        self.resource(group, plural).map_or(0, |r| r.cache.watchers())
    }
    /// Wakes when an object of the resource changes.
    pub fn subscribe(&self, group: &str, plural: &str) -> Option<watch::Receiver<u64>> {
        self.resource(group, plural).map(|r| r.cache.subscribe())
    }
}

/// Whether an object is in a namespace; in any when none is named.
fn is_in(c: &Cached, namespace: &str) -> bool {
    namespace.is_empty() || c.namespace() == namespace
}
