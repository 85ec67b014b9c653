//! VolumeRestrictions: a claim that one pod alone may have (ReadWriteOncePod, KEP-2485) is not given to a second, and an iSCSI or RBD disk that pods write to
//! not to two pods of a node.

use super::volume_binding::claims_of;
use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Event, Plugin, PreFilter, Rejection};
use k8s_openapi::api::core::v1::{Pod, Volume};
use keles_client::ObjectKey;

const NAME: &str = "VolumeRestrictions";
const ALONE: &str = "ReadWriteOncePod";
const TAKEN: &str = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
const NO_DISK: &str = "node(s) had no available disk";

pub struct VolumeRestrictions;

/// What PreFilter found.
struct Found {
    /// Some pod, wherever it is, has a claim that is to be this pod's alone.
    taken: bool,
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// Whether two volumes are one disk that cannot be had twice.
fn is_same_disk(one: &Volume, other: &Volume) -> bool {
    if let (Some(a), Some(b)) = (&one.iscsi, &other.iscsi) {
        return a.iqn == b.iqn && !(a.read_only == Some(true) && b.read_only == Some(true));
    }
    if let (Some(a), Some(b)) = (&one.rbd, &other.rbd) {
        let shared = a.monitors.iter().any(|monitor| b.monitors.contains(monitor));
        return shared && a.pool == b.pool && a.image == b.image && !(a.read_only == Some(true) && b.read_only == Some(true));
    }
    false
}

fn has_disk(volume: &Volume) -> bool {
    volume.iscsi.is_some() || volume.rbd.is_some()
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        NAME
    }
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo) -> Result<PreFilter, Rejection> {
        let mut alone: Vec<ObjectKey> = Vec::new();
        if let Some(storage) = &state.storage {
            let is_alone =
                |key: &ObjectKey| storage.claims.get_key(key).is_some_and(|claim| claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).any(|mode| mode == ALONE));
            alone = claims_of(pod).into_iter().map(|(key, _)| key).filter(is_alone).collect();
        }
        let taken = !alone.is_empty() && state.nodes.iter().flat_map(|node| node.pods()).any(|other| claims_of(other).iter().any(|(key, _)| alone.contains(key)));
        if !taken && !volumes(&pod.pod).any(has_disk) {
            return Ok(PreFilter::Skip);
        }
        state.put(NAME, Found { taken });
        Ok(PreFilter::Continue)
    }
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let disks = || volumes(&pod.pod).filter(|volume| has_disk(volume));
        if node.pods().any(|other| volumes(&other.pod).any(|held| disks().any(|wanted| is_same_disk(wanted, held)))) {
            return Err(Rejection::resolvable(NO_DISK));
        }
        match state.get::<Found>(NAME) {
            Some(Found { taken: true }) => Err(Rejection::resolvable(TAKEN)),
            _ => Ok(()),
        }
    }
    fn helps(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::NodeChanged { .. } => false,
            Event::StorageChanged(_) => !claims_of(pod).is_empty(),
            Event::PodRemoved(gone) => {
                let wanted = claims_of(pod);
                let shares_claim = claims_of(gone).iter().any(|(key, _)| wanted.iter().any(|(own, _)| own == key));
                shares_claim || volumes(&gone.pod).any(|held| volumes(&pod.pod).any(|wanted| is_same_disk(wanted, held)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::cache::tests::{node, pod};
    use crate::cycle::{Rotation, schedule};
    use crate::storage::tests::{claim, storage, using};
    use serde_json::json;

    #[test]
    fn a_claim_for_one_pod_alone_is_not_given_to_a_second() {
        let mut alone = claim("one", "", "v");
        alone["spec"]["accessModes"] = json!([ALONE]);
        let storage = storage(json!([alone]), json!([{"metadata": {"name": "v"}, "spec": {}}]));
        let mut cache = Cache::default();
        ["n1", "n2"].into_iter().for_each(|name| cache.set_node(node(name, json!({}))));
        let run = |cache: &Cache| schedule(&using("b", "one"), &cache.snapshot(), &mut Rotation::default(), Some(&storage)).map_err(|no_fit| no_fit.message);
        assert!(run(&cache).is_ok());
        cache.assume(using("a", "one"), "n1");
        let refused = run(&cache).expect_err("it is another's");
        assert!(refused.contains(&format!("2 {TAKEN}")), "{refused}");
        assert!(VolumeRestrictions.helps(&Event::PodRemoved(using("a", "one")), &using("b", "one")));
        assert!(!VolumeRestrictions.helps(&Event::PodRemoved(using("a", "two")), &using("b", "one")));
    }

    #[test]
    fn a_disk_that_is_written_to_is_given_once_a_node() {
        let wants = |name: &str, read_only: bool| pod(name, json!({"volumes": [{"name": "v", "iscsi": {"iqn": "i", "lun": 0, "targetPortal": "t", "readOnly": read_only}}]}));
        let mut cache = Cache::default();
        cache.set_node(node("n1", json!({})));
        cache.assume(wants("a", true), "n1");
        let filter = |pod: &PodInfo| VolumeRestrictions.filter(&CycleState::default(), pod, &cache.snapshot()[0]);
        assert!(filter(&wants("b", true)).is_ok());
        assert_eq!(filter(&wants("b", false)), Err(Rejection::resolvable(NO_DISK)));
    }
}
