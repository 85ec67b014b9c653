//! NodeVolumeLimits: no more volumes of a CSI driver on a node than the node's CSINode says it can have (`spec.drivers[].allocatable.count`).
//!
//! Counted are volumes, not pods: those of the node's pods, and what is attached to it without a pod. A claim without a volume counts for the provisioner of
//! its class.

use super::volume_binding::claims_of;
use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Event, Plugin, PreFilter, Rejection};
use crate::storage::Storage;
use keles_client::ObjectKey;
use keles_rules::csi::{source, unique_name};
use keles_rules::volume_binding::{class_of_claim, volume_of};
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "NodeVolumeLimits";
const TOO_MANY: &str = "node(s) exceed max volume count";

pub struct NodeVolumeLimits;

/// Driver -> volumes, by their unique names.
type ByDriver = BTreeMap<String, BTreeSet<String>>;

/// The driver of a claim's volume, and what the volume is called.
fn volume(storage: &Storage, key: &ObjectKey) -> Option<(String, String)> {
    let claim = storage.claims.get_key(key)?;
    if let Some(volume) = storage.volumes.get("", volume_of(&claim)) {
        let (driver, handle) = source(&volume)?;
        return Some((driver.into(), unique_name(driver, handle)));
    }
    let class = storage.classes.get("", class_of_claim(&claim)?)?;
    Some((class.provisioner.clone(), format!("{}-{key}", class.provisioner)))
}

fn collect<'p>(storage: &Storage, pods: impl Iterator<Item = &'p PodInfo>) -> ByDriver {
    let mut all = ByDriver::new();
    for (driver, name) in pods.flat_map(claims_of).filter_map(|(key, _)| volume(storage, &key)) {
        all.entry(driver).or_default().insert(name);
    }
    all
}

/// What is attached to the node, of pods that are known here or not.
fn attached(storage: &Storage, node: &str) -> Vec<(String, String)> {
    let all = storage.attachments.list();
    let here = all.iter().filter(|attachment| attachment.spec.node_name == node);
    here.filter_map(|attachment| {
        let volume = storage.volumes.get("", attachment.spec.source.persistent_volume_name.as_deref()?)?;
        let (driver, handle) = source(&volume)?;
        Some((driver.to_owned(), unique_name(driver, handle)))
    })
    .collect()
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo) -> Result<PreFilter, Rejection> {
        let wanted = state.storage.as_ref().map(|storage| collect(storage, std::iter::once(pod))).unwrap_or_default();
        if wanted.is_empty() {
            return Ok(PreFilter::Skip);
        }
        state.put(NAME, wanted);
        Ok(PreFilter::Continue)
    }
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let (Some(storage), Some(wanted)) = (&state.storage, state.get::<ByDriver>(NAME)) else { return Ok(()) };
        let Some(limits) = storage.csi_nodes.get("", node.name()) else { return Ok(()) };
        let limit = |driver: &str| limits.spec.drivers.iter().find(|entry| entry.name == driver)?.allocatable.as_ref()?.count;
        if wanted.keys().all(|driver| limit(driver).is_none()) {
            return Ok(());
        }
        let mut held = collect(storage, node.pods());
        for (driver, name) in attached(storage, node.name()) {
            held.entry(driver).or_default().insert(name);
        }
        let none = BTreeSet::new();
        let exceeds = |(driver, new): (&String, &BTreeSet<String>)| {
            let held = held.get(driver).unwrap_or(&none);
            let fresh = new.difference(held).count();
            limit(driver).is_some_and(|limit| fresh > 0 && i64::try_from(held.len() + fresh).unwrap_or(i64::MAX) > i64::from(limit))
        };
        if wanted.iter().any(exceeds) { Err(Rejection::resolvable(TOO_MANY)) } else { Ok(()) }
    }
    fn helps(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(_) | Event::StorageChanged(_) => !claims_of(pod).is_empty(),
            Event::NodeChanged { .. } => false,
            Event::PodRemoved(gone) => !claims_of(gone).is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::cache::tests::node;
    use crate::cycle::{Rotation, schedule};
    use crate::storage::tests::{claim, informer, storage, using};
    use serde_json::json;

    #[test]
    fn a_node_takes_as_many_volumes_as_its_driver_says_and_one_volume_counts_once() {
        let volume = |name: &str| json!({"metadata": {"name": name}, "spec": {"csi": {"driver": "d.example", "volumeHandle": name}}});
        let mut storage = storage(json!([claim("c1", "", "v1"), claim("c2", "", "v2"), claim("made", "made", "")]), json!([volume("v1"), volume("v2"), volume("v3")]));
        let with_limit =
            |count: i32| informer(json!([{"metadata": {"name": "n1"}, "spec": {"drivers": [{"name": "d.example", "nodeID": "n1", "allocatable": {"count": count}}]}}]));
        let mut cache = Cache::default();
        cache.set_node(node("n1", json!({})));
        cache.assume(using("a", "c1"), "n1");
        let run = |storage: &Storage, claim: &str| schedule(&using("b", claim), &cache.snapshot(), &mut Rotation::default(), Some(storage)).map_err(|no_fit| no_fit.message);
        assert!(run(&storage, "c2").is_ok(), "no limit is known");
        storage.csi_nodes = with_limit(1);
        assert!(run(&storage, "c1").is_ok(), "it is there already");
        let refused = run(&storage, "c2").expect_err("one too many");
        assert!(refused.contains(&format!("1 {TOO_MANY}")), "{refused}");
        storage.csi_nodes = with_limit(2);
        assert!(run(&storage, "c2").is_ok());
        storage.attachments = informer(json!([{"metadata": {"name": "a"}, "spec": {"attacher": "d.example", "nodeName": "n1", "source": {"persistentVolumeName": "v3"}}}]));
        assert!(run(&storage, "c2").is_err(), "what is attached counts");
        assert!(run(&storage, "made").is_err(), "what is yet to be made too");
    }
}
