//! The objects an informer holds, by key and by index: a pure state machine fed with watch events and acknowledged writes.
//!
//! Invariants: an object is never replaced by an older version of itself; an acknowledged write older than what the watch has passed changes
//! nothing (it is in already, or was undone since); every method returns exactly the changes it made.

use crate::watched::{Watched, revision_of};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Namespace and name; the namespace is empty for cluster-scoped objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }
    pub fn cluster(name: impl Into<String>) -> Self {
        ObjectKey { namespace: String::new(), name: name.into() }
    }
    pub fn of<K: Watched>(object: &K) -> Self {
        let meta = object.metadata();
        ObjectKey::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// One change of one object.
#[derive(Clone, Debug)]
pub enum Change<K> {
    Added(Arc<K>),
    Modified {
        old: Arc<K>,
        new: Arc<K>,
    },
    /// The last state known.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest state known, also of a deleted object.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(o) | Change::Deleted(o) | Change::Modified { new: o, .. } => o,
        }
    }
    /// The state before, where there was one.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Change::Added(_) => None,
            Change::Modified { old, .. } => Some(old),
            Change::Deleted(o) => Some(o),
        }
    }
}

type IndexFn<K> = Arc<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Index<K> {
    of: IndexFn<K>,
    entries: HashMap<String, BTreeSet<ObjectKey>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.of)(object) {
            self.entries.entry(value).or_default().insert(key.clone());
        }
    }
    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.of)(object) {
            if let Some(keys) = self.entries.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

pub(crate) struct Cache<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
    /// The revision the watch has reached.
    seen: u64,
    /// Uids whose deletion was acknowledged to us before the watch told of it.
    gone: HashSet<String>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Cache { objects: BTreeMap::new(), indexes: HashMap::new(), seen: 0, gone: HashSet::new() }
    }
}

impl<K: Watched> Cache<K> {
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<K>> {
        self.objects.get(key)
    }
    pub fn len(&self) -> usize {
        self.objects.len()
    }
    pub fn list(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }
    pub fn list_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> + 'a {
        self.objects.range(ObjectKey::new(namespace, "")..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, object)| object)
    }
    pub fn add_index(&mut self, name: &'static str, of: IndexFn<K>) {
        if self.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { of, entries: HashMap::new() };
        for (key, object) in &self.objects {
            index.insert(key, object);
        }
        self.indexes.insert(name, index);
    }
    /// The objects with this value in this index; panics when the index was never added, which is a programming error.
    pub fn by_index<'a>(&'a self, name: &str, value: &str) -> impl Iterator<Item = &'a Arc<K>> + 'a {
        let index = self.indexes.get(name).unwrap_or_else(|| panic!("index {name} was not added to this informer"));
        index.entries.get(value).into_iter().flatten().filter_map(|key| self.objects.get(key))
    }

    /// A watch event ADDED or MODIFIED.
    pub fn apply(&mut self, object: K) -> Option<Change<K>> {
        self.seen = self.seen.max(revision_of(object.metadata()));
        if object.metadata().uid.as_ref().is_some_and(|uid| self.gone.contains(uid)) {
            return None;
        }
        self.put(object)
    }
    /// A watch event DELETED.
    pub fn delete(&mut self, object: K) -> Option<Change<K>> {
        self.seen = self.seen.max(revision_of(object.metadata()));
        if let Some(uid) = &object.metadata().uid {
            self.gone.remove(uid);
        }
        let key = ObjectKey::of(&object);
        let held = self.objects.get(&key)?;
        let newer_incarnation = held.metadata().uid != object.metadata().uid && revision_of(held.metadata()) > revision_of(object.metadata());
        if newer_incarnation {
            return None;
        }
        self.take(&key);
        Some(Change::Deleted(Arc::new(object)))
    }
    /// A watch bookmark: the watch has reached this revision.
    pub fn reached(&mut self, revision: u64) {
        self.seen = self.seen.max(revision);
    }
    /// A complete list at `revision` takes the place of everything, except writes acknowledged after it.
    pub fn replace(&mut self, objects: Vec<K>, revision: u64) -> Vec<Change<K>> {
        let mut changes = Vec::new();
        let mut present = HashSet::with_capacity(objects.len());
        self.gone.clear();
        self.seen = revision.max(1);
        for object in objects {
            present.insert(ObjectKey::of(&object));
            changes.extend(self.put(object));
        }
        let stale: Vec<ObjectKey> =
            self.objects.iter().filter(|(key, object)| !present.contains(key) && revision_of(object.metadata()) <= revision).map(|(key, _)| key.clone()).collect();
        changes.extend(stale.iter().filter_map(|key| self.take(key)).map(Change::Deleted));
        changes
    }
    /// A write of this process that the server acknowledged.
    pub fn acknowledge(&mut self, object: K) -> Option<Change<K>> {
        if revision_of(object.metadata()) <= self.seen {
            return None;
        }
        self.put(object)
    }
    /// A deletion by this process that the server acknowledged as complete.
    pub fn acknowledge_deletion(&mut self, key: &ObjectKey, uid: &str) -> Option<Change<K>> {
        if self.objects.get(key)?.metadata().uid.as_deref() != Some(uid) {
            return None;
        }
        self.gone.insert(uid.to_owned());
        self.take(key).map(Change::Deleted)
    }

    fn put(&mut self, object: K) -> Option<Change<K>> {
        let key = ObjectKey::of(&object);
        if let Some(held) = self.objects.get(&key) {
            let (have, new) = (revision_of(held.metadata()), revision_of(object.metadata()));
            if new != 0 && new <= have {
                return None;
            }
        }
        let new = Arc::new(object);
        let old = self.take(&key);
        for index in self.indexes.values_mut() {
            index.insert(&key, &new);
        }
        self.objects.insert(key, new.clone());
        Some(match old {
            Some(old) => Change::Modified { old, new },
            None => Change::Added(new),
        })
    }
    fn take(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MetadataOnly;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn object(name: &str, uid: &str, revision: u64) -> MetadataOnly {
        MetadataOnly { metadata: ObjectMeta { name: Some(name.into()), uid: Some(uid.into()), resource_version: Some(revision.to_string()), ..Default::default() } }
    }
    fn names(cache: &Cache<MetadataOnly>) -> Vec<String> {
        cache.list().map(|o| format!("{}@{}", o.metadata.name.as_deref().unwrap_or(""), o.metadata.resource_version.as_deref().unwrap_or(""))).collect()
    }

    #[test]
    fn an_acknowledged_write_is_visible_at_once_and_the_watch_does_not_undo_it() {
        let mut cache = Cache::default();
        cache.replace(vec![object("a", "1", 5)], 7);
        assert!(matches!(cache.acknowledge(object("b", "2", 9)), Some(Change::Added(_))));
        assert!(matches!(cache.acknowledge(object("a", "1", 10)), Some(Change::Modified { .. })));
        assert!(cache.apply(object("a", "1", 8)).is_none(), "the watch is behind the acknowledged write");
        assert!(cache.apply(object("b", "2", 9)).is_none(), "the watch tells what is known");
        assert_eq!(names(&cache), ["a@10", "b@9"]);
    }

    #[test]
    fn an_acknowledgement_that_comes_after_the_deletion_leaves_no_ghost() {
        let mut cache = Cache::default();
        cache.replace(vec![], 7);
        cache.apply(object("a", "1", 8));
        cache.delete(object("a", "1", 9));
        assert!(cache.acknowledge(object("a", "1", 8)).is_none());
        assert!(names(&cache).is_empty());
    }

    #[test]
    fn an_acknowledged_deletion_hides_the_object_from_older_events() {
        let mut cache = Cache::default();
        cache.replace(vec![object("a", "1", 5)], 7);
        assert!(cache.acknowledge_deletion(&ObjectKey::cluster("a"), "1").is_some());
        assert!(cache.apply(object("a", "1", 8)).is_none());
        assert!(cache.delete(object("a", "1", 9)).is_none());
        assert!(cache.apply(object("a", "2", 10)).is_some(), "a new incarnation is another object");
        assert_eq!(names(&cache), ["a@10"]);
    }

    #[test]
    fn a_relist_removes_what_is_gone_but_keeps_writes_acknowledged_after_it() {
        let mut cache = Cache::default();
        cache.replace(vec![object("a", "1", 5), object("b", "2", 6)], 7);
        cache.acknowledge(object("c", "3", 12));
        let changes = cache.replace(vec![object("b", "2", 6)], 10);
        assert_eq!(changes.len(), 1);
        assert_eq!(names(&cache), ["b@6", "c@12"]);
    }

    #[test]
    fn an_index_follows_every_change() {
        let mut cache = Cache::default();
        cache.add_index("uid", Arc::new(|o: &MetadataOnly| o.metadata.uid.clone().into_iter().collect()));
        cache.apply(object("a", "1", 1));
        cache.apply(object("a", "2", 2));
        assert_eq!(cache.by_index("uid", "1").count(), 0);
        assert_eq!(cache.by_index("uid", "2").count(), 1);
        cache.delete(object("a", "2", 3));
        assert_eq!(cache.by_index("uid", "2").count(), 0);
    }
}
