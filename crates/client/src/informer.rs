//! Shared informers: one list+watch a kind and scope, many readers.
//!
//! Entry point: [`Informers::of`]. Callbacks run in the informer's task, in order, and must be quick: map the object to keys, put them into a
//! queue, return. They must not call [`Informer::acknowledge`] or register further callbacks on the same informer.

use crate::cache::{Cache, Change, ObjectKey};
use crate::reflector::{Reflector, encode};
use crate::watched::Watched;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Which objects of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Empty: all namespaces.
    pub namespace: String,
    pub labels: String,
    pub fields: String,
}

impl Scope {
    pub fn all() -> Self {
        Scope::default()
    }
    pub fn namespace(namespace: &str) -> Self {
        Scope { namespace: namespace.into(), ..Scope::default() }
    }
    /// `spec.nodeName=n1`
    pub fn fields(fields: &str) -> Self {
        Scope { fields: fields.into(), ..Scope::default() }
    }
    pub fn labels(labels: &str) -> Self {
        Scope { labels: labels.into(), ..Scope::default() }
    }
    fn query(&self) -> String {
        let part = |name: &str, value: &str| if value.is_empty() { String::new() } else { format!("&{name}={}", encode(value)) };
        part("labelSelector", &self.labels) + &part("fieldSelector", &self.fields)
    }
}

/// What an informer keeps.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Drop `metadata.managedFields`, often half of an object. An update without them leaves the server's alone.
    pub strip_managed_fields: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { strip_managed_fields: true }
    }
}

type Callback<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

pub(crate) struct Shared<K: Watched> {
    cache: RwLock<Cache<K>>,
    /// Held while a change is made and told, so that every callback sees every change once and in order.
    callbacks: Mutex<Vec<Callback<K>>>,
    synced: watch::Sender<bool>,
    version: watch::Sender<u64>,
    options: Options,
    pub stop: CancellationToken,
}

impl<K: Watched> Shared<K> {
    pub fn slim(&self, mut object: K) -> K {
        if self.options.strip_managed_fields {
            object.metadata_mut().managed_fields = None;
        }
        object
    }
    pub fn apply(&self, object: K) {
        let object = self.slim(object);
        self.change(|cache| cache.apply(object).into_iter().collect());
    }
    pub fn delete(&self, object: K) {
        let object = self.slim(object);
        self.change(|cache| cache.delete(object).into_iter().collect());
    }
    pub fn replace(&self, objects: Vec<K>, revision: u64) {
        self.change(|cache| cache.replace(objects, revision));
        self.synced.send_replace(true);
    }
    pub fn reached(&self, revision: u64) {
        self.write().reached(revision);
    }
    fn change(&self, make: impl FnOnce(&mut Cache<K>) -> Vec<Change<K>>) {
        let callbacks = self.callbacks();
        let changes = make(&mut self.write());
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            for callback in callbacks.iter() {
                callback(change);
            }
        }
        self.version.send_modify(|version| *version += 1);
    }
    // A panic in a reader cannot leave the cache half changed, so a poisoned lock is still good.
    fn callbacks(&self) -> MutexGuard<'_, Vec<Callback<K>>> {
        self.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Cache<K>> {
        self.cache.write().unwrap_or_else(PoisonError::into_inner)
    }
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Cache<K>> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A live, indexed copy of the objects of one kind. Cheap to clone; the watch ends when it is stopped or the last clone is gone.
pub struct Informer<K: Watched> {
    shared: Arc<Shared<K>>,
    _stop_on_drop: Arc<DropGuard>,
}

impl<K: Watched> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer { shared: self.shared.clone(), _stop_on_drop: self._stop_on_drop.clone() }
    }
}

impl<K: Watched> Informer<K> {
    /// Starts a list+watch of `path` (`/apis/apps/v1/deployments`). Users of built-in kinds go through [`Informers`].
    pub fn start(client: kube::Client, path: &str, scope: &Scope, options: Options, stop: CancellationToken) -> Self {
        let informer = Self::detached(options, stop);
        let reflector = Reflector { client, path: path.to_owned(), selectors: scope.query(), shared: informer.shared.clone() };
        tokio::spawn(reflector.run());
        informer
    }
    /// An informer that no server feeds: for tests, which give it objects by [`Informer::fill`].
    pub fn detached(options: Options, stop: CancellationToken) -> Self {
        let shared =
            Arc::new(Shared { cache: RwLock::default(), callbacks: Mutex::default(), synced: watch::channel(false).0, version: watch::channel(0).0, options, stop: stop.clone() });
        Informer { shared, _stop_on_drop: Arc::new(stop.drop_guard()) }
    }
    /// Replaces everything, as a list at `revision` would.
    pub fn fill(&self, objects: Vec<K>, revision: u64) {
        self.shared.replace(objects, revision);
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }
    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.read().get(key).cloned()
    }
    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.read().list().cloned().collect()
    }
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.shared.read().list_namespace(namespace).cloned().collect()
    }
    pub fn len(&self) -> usize {
        self.shared.read().len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Adds an index by a function from object to values; a name already there is left alone.
    pub fn add_index(&self, name: &'static str, of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        self.shared.write().add_index(name, Arc::new(of));
    }
    /// The objects that have `value` in the index. Panics when no such index was added.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.shared.read().by_index(name, value).cloned().collect()
    }

    /// Calls `callback` for every object there is (as added) and then for every change.
    pub fn on_change(&self, callback: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut callbacks = self.shared.callbacks();
        for object in self.list() {
            callback(&Change::Added(object));
        }
        callbacks.push(Box::new(callback));
    }
    /// Every object there is (as added) and then every change, as a channel. Its length is limited only by the reader: read it promptly.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Change<K>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.on_change(move |change| _ = sender.send(change.clone()));
        receiver
    }
    /// A counter that grows with every change: for readers that work from the whole state. `changed().await` on it wakes.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }
    /// Waits until the first complete list is in; false when the informer was stopped before.
    pub async fn synced(&self) -> bool {
        let mut synced = self.shared.synced.subscribe();
        let complete = async { synced.wait_for(|synced| *synced).await.is_ok() };
        self.shared.stop.run_until_cancelled(complete).await.unwrap_or(false)
    }
    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }
    /// Shows a write of this process, as the server answered it, before the watch tells of it.
    pub fn acknowledge(&self, object: K) {
        let object = self.shared.slim(object);
        self.shared.change(|cache| cache.acknowledge(object).into_iter().collect());
    }
    /// Hides an object whose complete deletion the server acknowledged to this process.
    pub fn acknowledge_deletion(&self, key: &ObjectKey, uid: &str) {
        self.shared.change(|cache| cache.acknowledge_deletion(key, uid).into_iter().collect());
    }
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }
}

/// The informers of one process: each kind and scope is listed and watched once, however many ask for it.
#[derive(Clone)]
pub struct Informers {
    client: kube::Client,
    options: Options,
    stop: CancellationToken,
    running: Arc<Mutex<Running>>,
}

/// Kind and scope -> its `Informer<K>`.
type Running = HashMap<(TypeId, Scope), Box<dyn Any + Send + Sync>>;

impl Informers {
    pub fn new(client: kube::Client, stop: CancellationToken) -> Self {
        Informers { client, options: Options::default(), stop, running: Arc::default() }
    }
    pub fn with_options(self, options: Options) -> Self {
        Informers { options, ..self }
    }
    /// The informer of all objects of a kind.
    pub fn of<K>(&self) -> Informer<K>
    where
        K: Watched + kube::Resource,
        K::DynamicType: Default,
    {
        self.scoped(Scope::all())
    }
    /// The informer of some objects of a kind.
    pub fn scoped<K>(&self, scope: Scope) -> Informer<K>
    where
        K: Watched + kube::Resource,
        K::DynamicType: Default,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = running.entry((TypeId::of::<K>(), scope.clone())).or_insert_with(|| {
            let path = K::url_path(&K::DynamicType::default(), Some(scope.namespace.as_str()).filter(|ns| !ns.is_empty()));
            Box::new(Informer::<K>::start(self.client.clone(), &path, &scope, self.options, self.stop.child_token()))
        });
        slot.downcast_ref::<Informer<K>>().expect("the slot's key holds the type").clone()
    }
}
