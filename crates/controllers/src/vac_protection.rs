//! A VolumeAttributesClass that a claim or a volume names is not removed: its finalizer goes only when it is to be deleted and nobody has it.
//!
//! A claim has the class that it asks for, the one it has now and the one it is on its way to.

use crate::{Start, protection};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use keles_client::{Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};

const FINALIZER: &str = "kubernetes.io/vac-protection";

pub struct VacProtectionController {
    classes: Writer<VolumeAttributesClass>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

impl VacProtectionController {
    pub fn new(start: &Start) -> Self {
        VacProtectionController { classes: start.writer(), claims: start.informers.of(), volumes: start.informers.of() }
    }

    fn in_use(&self, class: &str) -> bool {
        self.claims.list().iter().any(|claim| classes_of_claim(claim).contains(&class)) || self.volumes.list().iter().any(|volume| classes_of_volume(volume) == Some(class))
    }
}

impl Controller for VacProtectionController {
    const NAME: &'static str = "volumeattributesclass-protection-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.classes.informer());
        watches.on(&self.claims, |change, queue| {
            let classes = change.old().into_iter().chain([change.object()]).flat_map(|claim| classes_of_claim(claim));
            classes.for_each(|class| queue.add(ObjectKey::cluster(class.to_owned())));
        });
        watches.on(&self.volumes, |change, queue| {
            let classes = change.old().into_iter().chain([change.object()]).flat_map(|volume| classes_of_volume(volume));
            classes.for_each(|class| queue.add(ObjectKey::cluster(class.to_owned())));
        });
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let Some(class) = self.classes.informer().get_key(key) else { return Ok(Outcome::Done) };
        let free = protection::is_waiting(&class.metadata, FINALIZER) && !self.in_use(&key.name);
        let Some(finalizers) = protection::finalizers(&class.metadata, FINALIZER, free) else { return Ok(Outcome::Done) };
        let mut wanted = VolumeAttributesClass::clone(&class);
        wanted.metadata.finalizers = Some(finalizers);
        self.classes.update(&wanted).await?;
        Ok(Outcome::Done)
    }
}

fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<&str> {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref());
    [asked, current, target].into_iter().flatten().collect()
}

fn classes_of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_has_the_class_it_asks_for_has_and_is_on_its_way_to() {
        let status = json!({"currentVolumeAttributesClassName": "now", "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "target"}});
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {}, "spec": {"volumeAttributesClassName": "asked"}, "status": status})).expect("a claim");
        assert_eq!(classes_of_claim(&claim), ["asked", "now", "target"]);
        let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {}, "spec": {"volumeAttributesClassName": "has"}})).expect("a volume");
        assert_eq!(classes_of_volume(&volume), Some("has"));
    }
}
