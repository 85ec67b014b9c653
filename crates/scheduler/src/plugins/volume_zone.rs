//! VolumeZone: a pod goes to the zone and region of its volumes, as these say by labels.

use super::volume_binding::claims_of;
use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Event, Plugin, PreFilter, Rejection};
use keles_rules::volume_binding::volume_of;
use std::collections::BTreeMap;

const NAME: &str = "VolumeZone";
const ELSEWHERE: &str = "node(s) had no available volume zone";
/// The labels, and the names they had before.
const TOPOLOGY: [(&str, &str); 2] =
    [("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"), ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")];
/// Between the values of a volume that is in several zones.
const SEPARATOR: &str = "__";

pub struct VolumeZone;

/// Index into [`TOPOLOGY`] and the values that will do.
type Places = Vec<(usize, Vec<String>)>;

fn value(labels: &BTreeMap<String, String>, at: usize) -> Option<&String> {
    let (name, old) = TOPOLOGY[at];
    labels.get(name).or_else(|| labels.get(old))
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo) -> Result<PreFilter, Rejection> {
        let mut places = Places::new();
        if let Some(storage) = &state.storage {
            // A claim without a volume is VolumeBinding's.
            let claims = claims_of(pod).into_iter().filter_map(|(key, _)| storage.claims.get_key(&key));
            for volume in claims.filter_map(|claim| storage.volumes.get("", volume_of(&claim))) {
                let labels = volume.metadata.labels.clone().unwrap_or_default();
                places.extend((0..TOPOLOGY.len()).filter_map(|at| Some((at, value(&labels, at)?.split(SEPARATOR).map(str::to_owned).collect()))));
            }
        }
        if places.is_empty() {
            return Ok(PreFilter::Skip);
        }
        state.put(NAME, places);
        Ok(PreFilter::Continue)
    }
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let Some(places) = state.get::<Places>(NAME) else { return Ok(()) };
        let labels = node.node.as_ref().and_then(|node| node.metadata.labels.clone()).unwrap_or_default();
        // A cluster that knows no zones has one.
        if (0..TOPOLOGY.len()).all(|at| value(&labels, at).is_none()) {
            return Ok(());
        }
        let fits = places.iter().all(|(at, values)| value(&labels, *at).is_some_and(|value| values.contains(value)));
        if fits { Ok(()) } else { Err(Rejection::unresolvable(ELSEWHERE)) }
    }
    fn helps(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::NodeChanged { old, new } => old.metadata.labels != new.metadata.labels,
            Event::StorageChanged(_) => !claims_of(pod).is_empty(),
            Event::PodRemoved(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::cache::tests::node;
    use crate::cycle::{Rotation, schedule};
    use crate::storage::tests::{claim, storage, using};
    use serde_json::{Value, json};

    #[test]
    fn a_pod_goes_to_the_zone_of_its_volume() {
        let run = |volume: Value, labels: Value| {
            let storage = storage(json!([claim("c", "", "v")]), json!([{"metadata": {"name": "v", "labels": volume}, "spec": {}}]));
            let mut cache = Cache::default();
            cache.set_node(node("n1", json!({"metadata": {"labels": labels}})));
            schedule(&using("p", "c"), &cache.snapshot(), &mut Rotation::default(), Some(&storage)).map_err(|no_fit| no_fit.message)
        };
        let zone = |value: &str| json!({"topology.kubernetes.io/zone": value});
        assert!(run(zone("a"), zone("a")).is_ok() && run(zone("a__b"), zone("b")).is_ok() && run(zone("a"), json!({})).is_ok() && run(json!({}), zone("a")).is_ok());
        assert!(run(json!({"failure-domain.beta.kubernetes.io/zone": "a"}), zone("a")).is_ok(), "by the older name");
        let refused = run(zone("a"), zone("b")).expect_err("elsewhere");
        assert!(refused.contains(&format!("1 {ELSEWHERE}")), "{refused}");
    }
}
