//! Which objects a workload owns: adoption of orphans that match, release of own objects that no longer do.
//!
//! The decision is pure ([`claim`]); [`adopt_and_release`] carries it out. Before adopting, the owner is read past every cache, since a cached
//! owner may be deleted already and would adopt what another incarnation of it needs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use keles_client::{ObjectKey, Watched};
use keles_reconcile::{WriteError, Writer};
use keles_rules::labels::selects;
use keles_rules::owners::controller_of;
use kube::api::Patch;
use serde_json::json;
use std::future::Future;
use std::sync::Arc;

/// What to do with the objects seen.
#[derive(Debug)]
pub struct Claim<K> {
    /// Owned and matching.
    pub owned: Vec<Arc<K>>,
    /// Matching, without controller.
    pub adopt: Vec<Arc<K>>,
    /// Owned, but matching no longer.
    pub release: Vec<Arc<K>>,
}

/// Sorts `objects` (of the owner's namespace) by what the owner should do with them.
pub fn claim<K: Watched>(objects: Vec<Arc<K>>, owner: &ObjectMeta, selector: &LabelSelector) -> Claim<K> {
    let mut claim = Claim { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    let owner_goes = owner.deletion_timestamp.is_some();
    for object in objects {
        let meta = object.metadata();
        let matches = selects(selector, meta.labels.as_ref());
        match controller_of(meta) {
            Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => {}
            Some(_) if matches => claim.owned.push(object),
            Some(_) if !owner_goes => claim.release.push(object),
            None if matches && !owner_goes && meta.deletion_timestamp.is_none() => claim.adopt.push(object),
            _ => {}
        }
    }
    claim
}

/// Adopts and releases, and gives everything owned then. `fresh_owner` reads the owner's metadata from the server.
pub async fn adopt_and_release<K, F>(writer: &Writer<K>, claim: Claim<K>, reference: &OwnerReference, fresh_owner: F) -> Result<Vec<Arc<K>>, WriteError>
where
    K: Watched + kube::Resource + serde::Serialize,
    K::DynamicType: Default,
    F: Future<Output = Result<ObjectMeta, WriteError>>,
{
    let mut owned = claim.owned;
    if !claim.adopt.is_empty() {
        let fresh = fresh_owner.await?;
        if fresh.uid.as_deref() == Some(&reference.uid) && fresh.deletion_timestamp.is_none() {
            for object in claim.adopt {
                owned.extend(patch_owner(writer, &object, json!(reference)).await?.map(Arc::new));
            }
        }
    }
    for object in claim.release {
        patch_owner(writer, &object, json!({"$patch": "delete", "uid": reference.uid})).await?;
    }
    Ok(owned)
}

/// The uid in the patch makes it fail on a new object of the same name. `None`: the object is gone or another now.
async fn patch_owner<K>(writer: &Writer<K>, object: &Arc<K>, reference: serde_json::Value) -> Result<Option<K>, WriteError>
where
    K: Watched + kube::Resource + serde::Serialize,
    K::DynamicType: Default,
{
    let patch = json!({"metadata": {"uid": object.metadata().uid, "ownerReferences": [reference]}});
    match writer.patch(&ObjectKey::of(object.as_ref()), &Patch::Strategic(patch)).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() || error.code() == Some(422) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use keles_rules::owners::controller_reference;

    fn meta(name: &str, label: &str, owner: Option<&str>) -> ObjectMeta {
        let owner = owner.map(|uid| controller_reference("apps/v1", "ReplicaSet", &ObjectMeta { uid: Some(uid.into()), ..Default::default() }));
        ObjectMeta { name: Some(name.into()), labels: Some([("app".to_owned(), label.to_owned())].into()), owner_references: owner.map(|o| vec![o]), ..Default::default() }
    }
    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
    }

    #[test]
    fn matching_orphans_are_adopted_own_strays_released_and_others_left_alone() {
        let pods = [meta("own", "a", Some("me")), meta("orphan", "a", None), meta("stray", "b", Some("me")), meta("foreign", "a", Some("other")), meta("nobody", "b", None)];
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(|metadata| Arc::new(Pod { metadata, ..Default::default() })).collect();
        let selector = LabelSelector { match_labels: Some([("app".to_owned(), "a".to_owned())].into()), ..Default::default() };
        let mut owner = ObjectMeta { uid: Some("me".into()), ..Default::default() };
        let claimed = claim(pods.clone(), &owner, &selector);
        assert_eq!((names(&claimed.owned), names(&claimed.adopt), names(&claimed.release)), (vec!["own"], vec!["orphan"], vec!["stray"]));
        owner.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        let claimed = claim(pods, &owner, &selector);
        assert_eq!((names(&claimed.owned), claimed.adopt.len(), claimed.release.len()), (vec!["own"], 0, 0), "a dying owner changes nothing");
    }
}
