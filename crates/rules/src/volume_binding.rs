//! Which volume fits which claim: what the binder and the scheduler must agree on.
//!
//! Entry point: [`best_match`]. Names of annotations are upstream's, as storage drivers read them.

use crate::labels::{self, Labels};
use crate::node_selector;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_api::quantity::Quantity;
use std::sync::Arc;

/// On a claim: binding is complete, both objects say so.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On either object: the binder chose the other one, not a person.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make a volume; the second is the older name.
pub const STORAGE_PROVISIONER: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// On a claim: the node that its first pod was given.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner that makes nothing.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const WAITS: &str = "WaitForFirstConsumer";
const BLOCK: &str = "Block";

pub fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The claim's class; `None` when it names none at all, which a default class may still change.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, BETA_CLASS).or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    annotation(&volume.metadata, BETA_CLASS).or_else(|| volume.spec.as_ref()?.storage_class_name.as_deref()).unwrap_or_default()
}

/// Whether claims of the class are bound only once a pod that uses them has a node.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some(WAITS)
}

/// The class that claims without one get: of several the youngest, then the first by name.
pub fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let marked = |class: &&Arc<StorageClass>| DEFAULT_CLASS.iter().any(|name| annotation(&class.metadata, name) == Some("true"));
    let age = |class: &&Arc<StorageClass>| (std::cmp::Reverse(class.metadata.creation_timestamp.as_ref().map(|at| at.0)), class.metadata.name.clone());
    classes.iter().filter(marked).min_by_key(age)
}

/// The volume a claim names; empty: none yet.
pub fn volume_of(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_of(claim).is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether the volume is reserved for this very claim, or for one of its name.
pub fn is_reserved_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        let same_uid = reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref());
        reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace && same_uid
    })
}

/// Makes the volume point at the claim; false: it does already. One that nobody had reserved is marked as chosen by the binder.
pub fn reserve(volume: &mut PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (meta, held) = (&claim.metadata, claim_ref(volume));
    if held.is_some_and(|reference| reference.uid == meta.uid) {
        return false;
    }
    if held.is_none() {
        volume.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    volume.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    });
    true
}

pub fn is_block(mode: Option<&str>) -> bool {
    mode == Some(BLOCK)
}

/// Bytes of storage under `key` of a list.
fn storage(list: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>) -> Option<Quantity> {
    Quantity::parse(&list?.get("storage")?.0).ok()
}

pub fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    storage(volume.spec.as_ref()?.capacity.as_ref())
}

pub fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    storage(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref())
}

/// Why a volume that the claim names cannot serve it, in upstream's words.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if capacity(volume).is_none_or(|have| requested(claim).is_some_and(|wanted| have < wanted)) {
        return Some("requested PV is too small");
    }
    if class_of_volume(volume) != class_of_claim(claim).unwrap_or_default() {
        return Some("storageClassName does not match");
    }
    if attributes_class_of_volume(volume) != attributes_class_of_claim(claim) {
        return Some("volumeAttributesClassName does not match");
    }
    if !same_mode(volume, claim) {
        return Some("incompatible volumeMode");
    }
    (!has_modes(volume, claim)).then_some("incompatible accessMode")
}

fn attributes_class_of_volume(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or_default()
}

fn attributes_class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or_default()
}

pub fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    is_block(of_volume) == is_block(claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()))
}

fn has_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).collect::<Vec<_>>();
    claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).all(|mode| offered.contains(&mode))
}

/// Whether a node, by name and labels, can reach the volume.
pub fn is_reachable(volume: &PersistentVolume, node: &str, labels: Option<&Labels>) -> bool {
    let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()).and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|selector| node_selector::selects(selector, node, labels))
}

/// The smallest free volume that serves the claim, or the one that is reserved for it. `reachable` says which volumes count; a claim that `waits` for
/// its consumer gets none but a reserved one.
pub fn best_match<'v>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = &'v Arc<PersistentVolume>>,
    waits: bool,
    reachable: impl Fn(&PersistentVolume) -> bool,
) -> Option<&'v Arc<PersistentVolume>> {
    let wanted = requested(claim);
    let fits = |volume: &&Arc<PersistentVolume>| {
        let enough = capacity(volume).is_some_and(|have| wanted.is_none_or(|wanted| have >= wanted));
        enough && volume.metadata.deletion_timestamp.is_none() && same_mode(volume, claim) && attributes_class_of_volume(volume) == attributes_class_of_claim(claim)
    };
    let mut candidates: Vec<_> = volumes.filter(fits).collect();
    if let Some(reserved) = candidates.iter().find(|volume| is_reserved_for(volume, claim)) {
        return Some(*reserved).filter(|volume| reachable(volume));
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let class = class_of_claim(claim).unwrap_or_default();
    candidates.retain(|volume| {
        let free = claim_ref(volume).is_none() && volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available");
        let selected = selector.is_none_or(|selector| labels::selects(selector, volume.metadata.labels.as_ref()));
        !waits && free && selected && class_of_volume(volume) == class && has_modes(volume, claim) && reachable(volume)
    });
    candidates.into_iter().min_by_key(|volume| (capacity(volume), volume.metadata.name.clone()))
}

/// The claim that a volume of a pod stands for, and whether it is made for the pod (a generic ephemeral volume).
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some((source.claim_name.clone(), false));
    }
    volume.ephemeral.as_ref()?;
    Some((format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name), true))
}

/// Whether the claim was made for this pod.
pub fn is_claim_for(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    crate::owners::controller_of(&claim.metadata).is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, extra: Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "s"});
        let labels = extra.get("labels").cloned().unwrap_or_default();
        for (key, value) in extra.as_object().into_iter().flatten().filter(|(key, _)| *key != "labels" && *key != "phase") {
            spec[key] = value.clone();
        }
        let phase = extra.get("phase").cloned().unwrap_or(json!("Available"));
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"phase": phase}})).expect("a volume"))
    }
    fn claim(extra: Value) -> PersistentVolumeClaim {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "resources": {"requests": {"storage": "2Gi"}}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": spec})).expect("a claim")
    }
    fn chosen(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> Option<String> {
        best_match(claim, volumes.iter(), false, |_| true).and_then(|volume| volume.metadata.name.clone())
    }

    #[test]
    fn the_smallest_volume_that_serves_the_claim_is_chosen() {
        let volumes = [volume("big", "9Gi", json!({})), volume("small", "1Gi", json!({})), volume("right", "3Gi", json!({})), volume("gone", "2Gi", json!({"phase": "Released"}))];
        assert_eq!(chosen(&claim(json!({})), &volumes).as_deref(), Some("right"));
        for (misfit, extra) in [
            ("class", json!({"storageClassName": "other"})),
            ("access mode", json!({"accessModes": ["ReadWriteMany"]})),
            ("volume mode", json!({"volumeMode": "Block"})),
            ("size", json!({"resources": {"requests": {"storage": "10Gi"}}})),
            ("labels", json!({"selector": {"matchLabels": {"a": "b"}}})),
        ] {
            assert_eq!(chosen(&claim(extra), &volumes), None, "{misfit}");
        }
        let labelled = [volume("l", "9Gi", json!({"labels": {"a": "b"}}))];
        assert_eq!(chosen(&claim(json!({"selector": {"matchLabels": {"a": "b"}}})), &labelled).as_deref(), Some("l"));
    }

    #[test]
    fn a_reserved_volume_wins_for_its_claim_and_is_nothing_to_others() {
        let reserved = |uid: Value| [volume("free", "2Gi", json!({})), volume("mine", "9Gi", json!({"claimRef": {"name": "c", "namespace": "n", "uid": uid}}))];
        assert_eq!(chosen(&claim(json!({})), &reserved(Value::Null)).as_deref(), Some("mine"));
        assert_eq!(chosen(&claim(json!({})), &reserved(json!("u"))).as_deref(), Some("mine"));
        assert_eq!(chosen(&claim(json!({})), &reserved(json!("another"))).as_deref(), Some("free"));
    }

    #[test]
    fn a_claim_that_waits_gets_only_what_is_reserved_for_it() {
        let volumes = [volume("free", "2Gi", json!({}))];
        assert!(best_match(&claim(json!({})), volumes.iter(), true, |_| true).is_none());
        let volumes = [volume("mine", "2Gi", json!({"claimRef": {"name": "c", "namespace": "n"}}))];
        assert!(best_match(&claim(json!({})), volumes.iter(), true, |_| true).is_some());
        assert!(best_match(&claim(json!({})), volumes.iter(), true, |_| false).is_none(), "out of reach");
    }

    #[test]
    fn the_youngest_default_class_counts() {
        let class = |name: &str, at: &str, default: &str| -> Arc<StorageClass> {
            let metadata = json!({"name": name, "creationTimestamp": at, "annotations": {"storageclass.kubernetes.io/is-default-class": default}});
            Arc::new(serde_json::from_value(json!({"metadata": metadata, "provisioner": "p"})).expect("a class"))
        };
        let classes = [class("old", "2026-01-01T00:00:00Z", "true"), class("new", "2026-02-01T00:00:00Z", "true"), class("no", "2026-03-01T00:00:00Z", "false")];
        assert_eq!(default_class(&classes).and_then(|class| class.metadata.name.as_deref()), Some("new"));
        assert!(default_class(&classes[2..]).is_none());
    }
}
