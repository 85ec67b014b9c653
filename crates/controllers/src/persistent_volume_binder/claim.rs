//! What a claim needs next: a pure function over the claim, all volumes and its class.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use keles_rules::volume_binding::{
    BOUND_BY_CONTROLLER, SELECTED_NODE, annotation, best_match, claim_ref, class_of_claim, is_bound, is_reserved_for, mismatch, volume_of, waits_for_consumer,
};
use std::sync::Arc;

/// Provisioners that upstream's controller would have in itself: nobody outside answers to these names.
const IN_TREE: &str = "kubernetes.io/";

/// What people are told.
#[derive(Debug, PartialEq, Eq)]
pub struct Why {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug, PartialEq)]
pub enum Step {
    Bind(Arc<PersistentVolume>),
    /// Nothing can be done yet.
    Pend(Option<Why>),
    /// An external provisioner of this name is to make a volume.
    Provision(String),
    /// The volume it was bound to is no longer its own: the reason, and the message.
    Lose(&'static str, &'static str),
}

fn pend(warning: bool, reason: &'static str, message: impl Into<String>) -> Step {
    Step::Pend(Some(Why { warning, reason, message: message.into() }))
}

pub fn next(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], class: Option<&StorageClass>) -> Step {
    let named = volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(volume_of(claim)));
    match (annotation(&claim.metadata, keles_rules::volume_binding::BIND_COMPLETED).is_some(), volume_of(claim).is_empty()) {
        (true, _) => bound(claim, named),
        (false, true) => unbound(claim, volumes, class),
        (false, false) => asked_for(claim, named),
    }
}

fn bound(claim: &PersistentVolumeClaim, volume: Option<&Arc<PersistentVolume>>) -> Step {
    if !is_bound(claim) {
        return Step::Lose("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = volume else { return Step::Lose("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!") };
    match claim_ref(volume) {
        None => Step::Bind(volume.clone()),
        Some(reference) if reference.uid == claim.metadata.uid => Step::Bind(volume.clone()),
        Some(_) => Step::Lose("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
    }
}

fn unbound(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], class: Option<&StorageClass>) -> Step {
    let waits = class.is_some_and(waits_for_consumer);
    if let Some(volume) = best_match(claim, volumes.iter(), waits, |_| true) {
        return Step::Bind(volume.clone());
    }
    if waits && annotation(&claim.metadata, SELECTED_NODE).is_none() {
        return pend(false, "WaitForFirstConsumer", "waiting for first consumer to be created before binding");
    }
    let Some(name) = class_of_claim(claim).filter(|name| !name.is_empty()) else {
        return pend(false, "FailedBinding", "no persistent volumes available for this claim and no storage class is set");
    };
    match class {
        None => pend(true, "ProvisioningFailed", format!("storageclass.storage.k8s.io \"{name}\" not found")),
        Some(class) if class.provisioner.starts_with(IN_TREE) => pend(true, "ProvisioningFailed", "no volume plugin matched"),
        Some(class) => Step::Provision(class.provisioner.clone()),
    }
}

/// The claim names a volume that it wants.
fn asked_for(claim: &PersistentVolumeClaim, volume: Option<&Arc<PersistentVolume>>) -> Step {
    let Some(volume) = volume else { return Step::Pend(None) };
    let name = volume_of(claim);
    match claim_ref(volume) {
        None if volume.metadata.deletion_timestamp.is_some() => {
            pend(true, "VolumeMismatch", format!("Cannot bind to requested volume \"{name}\": the volume is marked for deletion \"{name}\""))
        }
        None => match mismatch(volume, claim) {
            Some(why) => pend(true, "VolumeMismatch", format!("Cannot bind to requested volume \"{name}\": {why}")),
            None => Step::Bind(volume.clone()),
        },
        Some(_) if is_reserved_for(volume, claim) => Step::Bind(volume.clone()),
        Some(_) if annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_none() => pend(true, "FailedBinding", format!("volume \"{name}\" already bound to a different claim.")),
        Some(_) => Step::Pend(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(claim: Value) -> Arc<PersistentVolume> {
        let spec = json!({"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "claimRef": claim});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec, "status": {"phase": "Available"}})).expect("a volume"))
    }
    fn claim(class: &str, volume: &str, annotations: Value) -> PersistentVolumeClaim {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}});
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u", "annotations": annotations}, "spec": spec})).expect("a claim")
    }
    fn class(provisioner: &str, mode: &str) -> StorageClass {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "provisioner": provisioner, "volumeBindingMode": mode})).expect("a class")
    }
    fn told(step: Step) -> String {
        match step {
            Step::Pend(Some(why)) => format!("{}: {}", why.reason, why.message),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_claim_takes_what_fits_or_says_what_it_waits_for() {
        let free = [volume(Value::Null)];
        assert_eq!(next(&claim("", "", json!({})), &free, None), Step::Bind(free[0].clone()));
        assert_eq!(next(&claim("", "v", json!({})), &free, None), Step::Bind(free[0].clone()));
        assert_eq!(told(next(&claim("", "", json!({})), &[], None)), "FailedBinding: no persistent volumes available for this claim and no storage class is set");
        assert_eq!(told(next(&claim("s", "", json!({})), &free, None)), "ProvisioningFailed: storageclass.storage.k8s.io \"s\" not found");
        let waits = class("kubernetes.io/no-provisioner", "WaitForFirstConsumer");
        assert_eq!(told(next(&claim("s", "", json!({})), &[], Some(&waits))), "WaitForFirstConsumer: waiting for first consumer to be created before binding");
        assert_eq!(next(&claim("s", "", json!({})), &[], Some(&class("d.example", "Immediate"))), Step::Provision("d.example".into()));
        assert_eq!(told(next(&claim("s", "v", json!({})), &free, None)), "VolumeMismatch: Cannot bind to requested volume \"v\": storageClassName does not match");
        assert_eq!(next(&claim("", "absent", json!({})), &free, None), Step::Pend(None));
    }

    #[test]
    fn a_bound_claim_keeps_its_volume_or_is_lost() {
        let done = json!({"pv.kubernetes.io/bind-completed": "yes"});
        let mine = [volume(json!({"name": "c", "namespace": "n", "uid": "u"}))];
        let foreign = [volume(json!({"name": "x", "namespace": "n", "uid": "x"}))];
        assert_eq!(next(&claim("", "v", done.clone()), &mine, None), Step::Bind(mine[0].clone()));
        assert!(matches!(next(&claim("", "v", done.clone()), &foreign, None), Step::Lose("ClaimMisbound", _)));
        assert!(matches!(next(&claim("", "v", done), &[], None), Step::Lose("ClaimLost", _)));
        assert_eq!(told(next(&claim("", "v", json!({})), &foreign, None)), "FailedBinding: volume \"v\" already bound to a different claim.");
    }
}
