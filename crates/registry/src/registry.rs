//! The table of resources, fed by one watch of the store.
//!
//! Entry points: [`Registry::start`], [`Registry::run`] (a service), [`Registry::serve`] (a request), [`Registry::read`] (a look at
//! another object, for admission and authorization).

use crate::admission::Admission;
use crate::call::{Answer, Call, Verb};
use crate::kind::AnyKind;
use keles_api::{Object, Status};
use keles_store::{Store, StoreError};
use std::sync::Arc;

/// What the registry is built from.
pub struct Settings {
    pub store: Arc<dyn Store>,
    pub kinds: Vec<Arc<dyn AnyKind>>,
    /// In the order they are called.
    pub admission: Vec<Arc<dyn Admission>>,
}

pub struct Registry {
    _settings: Settings,
}

impl Registry {
    /// Reads everything stored into the watch caches. The caches then follow through [`Registry::run`].
    pub async fn start(settings: Settings) -> Result<Arc<Self>, StoreError> {
        Ok(Arc::new(Registry { _settings: settings }))
    }
    /// Follows the store until it closes. Spawn it as a service right after `start`; reads wait for it.
    pub async fn run(self: Arc<Self>) -> Result<(), StoreError> {
        Ok(())
    }
    /// The kind served at this place, for routing, discovery and authorization.
    pub fn kind(&self, _group: &str, _version: &str, _plural: &str) -> Option<Arc<dyn AnyKind>> {
        None
    }
    /// All kinds, in the order given at start.
    pub fn kinds(&self) -> Vec<Arc<dyn AnyKind>> {
        self._settings.kinds.clone()
    }
    /// Serves the main resource and the subresources `status`, `scale`, `finalize`, `binding`, `eviction` of `call.request`.
    /// 404 when nothing is served there, 405 when the verb is not.
    pub async fn serve(&self, _verb: Verb, _call: Call) -> Result<Answer, Status> {
        Err(Status::not_implemented("the registry"))
    }
    /// An object from the watch cache, in its storage version; `group`/`plural` as in a path. As fresh as the cache.
    pub fn read(&self, _group: &str, _plural: &str, _namespace: &str, _name: &str) -> Option<Object> {
        None
    }
    /// All objects of a resource (of one namespace unless `""`), as fresh as the cache.
    pub fn read_all(&self, _group: &str, _plural: &str, _namespace: &str) -> Vec<Object> {
        Vec::new()
    }
    /// A number that grows whenever an object of the resource changed: for caches derived from it (RBAC rules).
    pub fn changed(&self, _group: &str, _plural: &str) -> u64 {
        0
    }
    /// The revision the caches have seen.
    pub fn seen(&self) -> u64 {
        0
    }
}
