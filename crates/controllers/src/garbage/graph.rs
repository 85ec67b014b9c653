//! Who owns whom: a pure graph by uid, fed with metadata.
//!
//! Each change says which nodes to look at again. A node whose owner is not known is looked at too: the owner may be gone, or its news late; the
//! server decides.

use super::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER};
use crate::discovery::Resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// An owner as the graph remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: String,
    pub blocks: bool,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub resource: Arc<Resource>,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub owners: Vec<Owner>,
    pub being_deleted: bool,
    /// Deleted in the foreground: goes after its dependents.
    pub waits_for_dependents: bool,
}

/// What a change makes worth a look.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Todo {
    Check(String),
    Orphan(String),
}

#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    /// Owner uid -> uids that name it, also while the owner itself is not known.
    dependents: HashMap<String, HashSet<String>>,
    /// Group and kind -> resource.
    resources: HashMap<(String, String), Arc<Resource>>,
}

pub fn waits_for_dependents(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND_FINALIZER)
}
fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }
    pub fn set_resources(&mut self, resources: impl Iterator<Item = Arc<Resource>>) {
        self.resources = resources.map(|resource| ((resource.group.clone(), resource.kind.clone()), resource)).collect();
    }
    pub fn resource_of(&self, owner: &OwnerReference) -> Option<Arc<Resource>> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        self.resources.get(&(group.to_owned(), owner.kind.clone())).cloned()
    }
    /// An object seen, new or changed.
    pub fn set(&mut self, resource: &Arc<Resource>, meta: &ObjectMeta) -> Vec<Todo> {
        let Some(uid) = meta.uid.clone() else { return Vec::new() };
        let owners: Vec<Owner> = meta.owner_references.iter().flatten().map(|owner| Owner { uid: owner.uid.clone(), blocks: owner.block_owner_deletion == Some(true) }).collect();
        let node = Node {
            resource: resource.clone(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: uid.clone(),
            owners,
            being_deleted: meta.deletion_timestamp.is_some(),
            waits_for_dependents: waits_for_dependents(meta),
        };
        let old = self.nodes.remove(&uid);
        let mut todo = Vec::new();
        for owner in old.iter().flat_map(|old| &old.owners).filter(|owner| !node.owners.contains(owner)) {
            self.unlink(&owner.uid, &uid);
            // An owner that waited for this dependent may go now.
            todo.extend(self.waiting(&owner.uid));
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        if node.waits_for_dependents && !old.as_ref().is_some_and(|old| old.waits_for_dependents) {
            todo.extend(self.dependents.get(&uid).into_iter().flatten().cloned().map(Todo::Check));
            todo.push(Todo::Check(uid.clone()));
        }
        if node.being_deleted && has_finalizer(meta, ORPHAN_FINALIZER) {
            todo.push(Todo::Orphan(uid.clone()));
        }
        if !self.owners_stand(&node) {
            todo.push(Todo::Check(uid.clone()));
        }
        self.nodes.insert(uid, node);
        todo
    }
    /// An object is gone: its dependents have lost an owner, and owners that wait have lost a dependent.
    pub fn remove(&mut self, meta: &ObjectMeta) -> Vec<Todo> {
        let Some(node) = meta.uid.as_ref().and_then(|uid| self.nodes.remove(uid)) else { return Vec::new() };
        let mut todo: Vec<Todo> = self.dependents.get(&node.uid).into_iter().flatten().cloned().map(Todo::Check).collect();
        for owner in &node.owners {
            self.unlink(&owner.uid, &node.uid);
            todo.extend(self.waiting(&owner.uid));
        }
        todo
    }
    /// A kind is served no longer: its objects went before, or nobody can tell.
    pub fn forget_resource(&mut self, resource: &Arc<Resource>) {
        let gone: Vec<Node> = self.nodes.values().filter(|node| node.resource == *resource).cloned().collect();
        for node in gone {
            self.nodes.remove(&node.uid);
            node.owners.iter().for_each(|owner| self.unlink(&owner.uid, &node.uid));
        }
    }
    /// Every owner is known and none is going in the foreground: nothing to collect.
    pub fn owners_stand(&self, node: &Node) -> bool {
        node.owners.iter().all(|owner| {
            let held = self.nodes.get(&owner.uid);
            held.is_some_and(|held| !held.waits_for_dependents && (!held.resource.namespaced || held.namespace == node.namespace))
        })
    }
    pub fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.get(uid).is_some_and(|dependents| !dependents.is_empty())
    }
    pub fn dependents(&self, uid: &str) -> Vec<Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|dependent| self.nodes.get(dependent)).cloned().collect()
    }
    pub fn blocking_dependents(&self, uid: &str) -> Vec<String> {
        let blocks = |node: &Node| node.owners.iter().any(|owner| owner.uid == uid && owner.blocks);
        self.dependents(uid).into_iter().filter(blocks).map(|node| node.uid).collect()
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
    fn waiting(&self, owner: &str) -> Option<Todo> {
        self.nodes.get(owner).filter(|node| node.waits_for_dependents).map(|node| Todo::Check(node.uid.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn resource() -> Arc<Resource> {
        Arc::new(Resource { group: "apps".into(), version: "v1".into(), plural: "things".into(), kind: "Thing".into(), namespaced: true, verbs: vec![] })
    }
    fn meta(uid: &str, owners: &[(&str, bool)]) -> ObjectMeta {
        let reference = |(uid, blocks): &(&str, bool)| OwnerReference { uid: (*uid).into(), block_owner_deletion: Some(*blocks), ..Default::default() };
        ObjectMeta {
            uid: Some(uid.into()),
            name: Some(uid.into()),
            namespace: Some("n".into()),
            owner_references: Some(owners.iter().map(reference).collect()),
            ..Default::default()
        }
    }
    fn going(mut meta: ObjectMeta, finalizer: &str) -> ObjectMeta {
        meta.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        meta.finalizers = Some(vec![finalizer.into()]);
        meta
    }
    fn check(uid: &str) -> Todo {
        Todo::Check(uid.into())
    }

    #[test]
    fn dependents_of_an_owner_that_is_gone_are_looked_at_and_those_of_one_that_stands_are_not() {
        let (mut graph, r) = (Graph::default(), resource());
        assert_eq!(graph.set(&r, &meta("owner", &[])), []);
        assert_eq!(graph.set(&r, &meta("child", &[("owner", true)])), [], "the owner stands");
        assert_eq!(graph.remove(&meta("owner", &[])), [check("child")]);
    }

    #[test]
    fn a_newborn_dependent_that_comes_before_its_owner_is_looked_at_not_forgotten() {
        let (mut graph, r) = (Graph::default(), resource());
        assert_eq!(graph.set(&r, &meta("child", &[("owner", true)])), [check("child")]);
        graph.set(&r, &meta("owner", &[]));
        let child = graph.get("child").cloned().expect("known");
        assert!(graph.owners_stand(&child), "the look then finds the owner and deletes nothing");
    }

    #[test]
    fn a_foreground_deletion_waits_for_blocking_dependents_only() {
        let (mut graph, r) = (Graph::default(), resource());
        graph.set(&r, &meta("owner", &[]));
        graph.set(&r, &meta("blocker", &[("owner", true)]));
        graph.set(&r, &meta("bystander", &[("owner", false)]));
        let todo = graph.set(&r, &going(meta("owner", &[]), FOREGROUND_FINALIZER));
        assert!([check("owner"), check("blocker"), check("bystander")].iter().all(|t| todo.contains(t)), "{todo:?}");
        assert_eq!(graph.blocking_dependents("owner"), ["blocker"]);
        assert_eq!(graph.remove(&meta("blocker", &[])), [check("owner")], "the owner is looked at again when a dependent is gone");
        assert!(graph.blocking_dependents("owner").is_empty());
    }

    #[test]
    fn an_owner_deleted_with_orphan_finalizer_is_to_orphan_its_dependents() {
        let (mut graph, r) = (Graph::default(), resource());
        graph.set(&r, &meta("child", &[("owner", true)]));
        assert_eq!(graph.set(&r, &going(meta("owner", &[]), ORPHAN_FINALIZER)), [Todo::Orphan("owner".into())]);
        assert_eq!(graph.dependents("owner").len(), 1);
        graph.set(&r, &meta("child", &[]));
        assert!(graph.dependents("owner").is_empty());
    }

    #[test]
    fn an_owner_in_another_namespace_is_none() {
        let (mut graph, r) = (Graph::default(), resource());
        graph.set(&r, &ObjectMeta { namespace: Some("elsewhere".into()), ..meta("owner", &[]) });
        assert_eq!(graph.set(&r, &meta("child", &[("owner", true)])), [check("child")]);
    }
}
