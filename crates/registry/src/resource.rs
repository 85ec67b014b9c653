//! One served kind: its cache, its keys, and how its objects turn from one version into another.

use crate::cache::{Cached, WatchCache};
use crate::encode::Head;
use crate::kind::{AnyKind, Info, Scope, Served};
use keles_api::decode::{self, FieldValidation};
use keles_api::{GroupVersion, Object, Status};
use std::sync::Arc;

pub struct Resource {
    pub kind: Arc<dyn AnyKind>,
    pub cache: WatchCache,
    /// `/registry/apps/deployments/`; the core group is `core`. The group keeps CRDs of the same plural apart.
    pub prefix: String,
}

/// `apps/v1`, or `v1` for the core group.
pub fn api_version(s: &Served) -> String {
    GroupVersion::new(s.group, s.version).to_string()
}

impl Resource {
    pub fn new(kind: Arc<dyn AnyKind>) -> Self {
        let info = kind.info();
        let storage = &info.served[0];
        let group = if storage.group.is_empty() { "core" } else { storage.group };
        let prefix = format!("/registry/{group}/{}/", info.plural);
        let head = Head::new(info.kind, &api_version(storage));
        Resource { cache: WatchCache::new(head), prefix, kind }
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
        match self.kind.schema(to) {
            Some(ty) if *to != self.storage() => decode::conform(o.0.clone(), ty, FieldValidation::Ignore).map_or(o, |d| d.object),
            _ => o,
        }
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
    pub fn not_found(&self, served: &Served, name: &str) -> Status {
        Status::not_found(served.group, self.info().plural, name)
    }
}
