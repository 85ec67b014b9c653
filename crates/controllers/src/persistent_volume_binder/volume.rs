//! What a volume needs next: a pure function over the volume and the claim it is bound to.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use keles_rules::volume_binding::{BOUND_BY_CONTROLLER, PROVISIONED_BY, annotation, claim_ref, same_mode, volume_of};

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Phase(&'static str),
    /// Its claim does not name it yet: the claim's turn.
    AskClaim,
    /// Its claim took another volume. A reservation that a person made stays.
    Unbind {
        keep_reservation: bool,
    },
    Fail {
        reason: &'static str,
        message: String,
    },
    Nothing,
}

/// `claim`: the one that `claimRef` means by its uid, where it still is.
pub fn next(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Step {
    let Some(reference) = claim_ref(volume) else { return Step::Phase("Available") };
    if reference.uid.as_ref().is_none_or(String::is_empty) {
        return Step::Phase("Available");
    }
    let Some(claim) = claim else { return released(volume) };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    match volume_of(claim) {
        "" if same_mode(volume, claim) => Step::AskClaim,
        "" => Step::Nothing,
        other if other == name => Step::Phase("Bound"),
        // Made for the claim, which took another: its maker removes it.
        _ if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(volume) == "Delete" => released(volume),
        _ => Step::Unbind { keep_reservation: annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_none() },
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// The claim is gone: first the phase says so, then the policy rules.
fn released(volume: &PersistentVolume) -> Step {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if !matches!(phase, "Released" | "Failed") {
        return Step::Phase("Released");
    }
    let is_ours = annotation(&volume.metadata, PROVISIONED_BY).is_none_or(|by| by.starts_with("kubernetes.io/"));
    let is_driven = volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some());
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    match policy(volume) {
        "Recycle" => Step::Fail { reason: "VolumeFailedRecycle", message: "No recycler plugin found for the volume!".into() },
        // Who made it removes it.
        "Delete" if !is_ours || is_driven => Step::Nothing,
        "Delete" => Step::Fail { reason: "VolumeFailedDelete", message: format!("error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched") },
        _ => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(phase: &str, policy: &str, reference: Value, annotations: Value) -> PersistentVolume {
        let spec = json!({"persistentVolumeReclaimPolicy": policy, "claimRef": reference});
        serde_json::from_value(json!({"metadata": {"name": "v", "annotations": annotations}, "spec": spec, "status": {"phase": phase}})).expect("a volume")
    }
    fn claim(volume: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"volumeName": volume}})).expect("a claim")
    }
    fn bound() -> Value {
        json!({"name": "c", "namespace": "n", "uid": "u"})
    }

    #[test]
    fn a_volume_follows_its_claim() {
        assert_eq!(next(&volume("Pending", "Retain", Value::Null, json!({})), None), Step::Phase("Available"));
        assert_eq!(next(&volume("Pending", "Retain", json!({"name": "c", "namespace": "n"}), json!({})), None), Step::Phase("Available"), "only reserved");
        assert_eq!(next(&volume("Available", "Retain", bound(), json!({})), Some(&claim(""))), Step::AskClaim);
        assert_eq!(next(&volume("Available", "Retain", bound(), json!({})), Some(&claim("v"))), Step::Phase("Bound"));
        assert_eq!(next(&volume("Available", "Retain", bound(), json!({})), Some(&claim("w"))), Step::Unbind { keep_reservation: true });
        let chosen = json!({"pv.kubernetes.io/bound-by-controller": "yes"});
        assert_eq!(next(&volume("Available", "Retain", bound(), chosen), Some(&claim("w"))), Step::Unbind { keep_reservation: false });
        let made = json!({"pv.kubernetes.io/bound-by-controller": "yes", "pv.kubernetes.io/provisioned-by": "d.example"});
        assert_eq!(next(&volume("Bound", "Delete", bound(), made), Some(&claim("w"))), Step::Phase("Released"), "made for a claim that took another");
    }

    #[test]
    fn a_volume_without_its_claim_is_released_and_then_treated_by_its_policy() {
        assert_eq!(next(&volume("Bound", "Delete", bound(), json!({})), None), Step::Phase("Released"));
        assert_eq!(next(&volume("Released", "Retain", bound(), json!({})), None), Step::Nothing);
        let failed = |policy| match next(&volume("Released", policy, bound(), json!({})), None) {
            Step::Fail { reason, message } => format!("{reason}: {message}"),
            other => format!("{other:?}"),
        };
        assert_eq!(failed("Recycle"), "VolumeFailedRecycle: No recycler plugin found for the volume!");
        assert_eq!(failed("Delete"), "VolumeFailedDelete: error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched");
        let external = json!({"pv.kubernetes.io/provisioned-by": "d.example"});
        assert_eq!(next(&volume("Released", "Delete", bound(), external), None), Step::Nothing, "its maker removes it");
    }
}
