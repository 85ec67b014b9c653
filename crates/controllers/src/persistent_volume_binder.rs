//! Claims to volumes: binds what fits, marks what is missing, frees what a deleted claim leaves.
//!
//! `claim` and `volume` decide purely what the next step of either object is; this file reads the caches and carries steps out. One worker, so
//! that no two claims are given the same volume. A claim and a volume point at each other (`volumeName`, `claimRef`); the volume is written first,
//! and every step can be repeated from whatever half stands. Deliberately absent: making volumes (an external provisioner is asked through the
//! claim's annotations), removing their content (hostPath and local volumes lie on nodes, and a controller speaks only to the API), recycling.

mod claim;
mod volume;

use crate::Start;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use keles_client::{Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer, reference_of};
use keles_rules::volume_binding::{BIND_COMPLETED, BOUND_BY_CONTROLLER, STORAGE_PROVISIONER, claim_ref, class_of_claim, default_class, is_bound, reserve, volume_of};
use std::sync::Arc;

pub struct PersistentVolumeBinder {
    claims: Writer<PersistentVolumeClaim>,
    volumes: Writer<PersistentVolume>,
    classes: Informer<StorageClass>,
}

impl PersistentVolumeBinder {
    pub fn new(start: &Start) -> Self {
        PersistentVolumeBinder { claims: start.writer(), volumes: start.writer(), classes: start.informers.of() }
    }

    fn class(&self, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
        self.classes.get("", class_of_claim(claim)?)
    }

    async fn sync_claim(&self, key: &ObjectKey, context: &Context) -> Result<(), ReconcileError> {
        let Some(mut claim) = self.claims.informer().get_key(key) else { return Ok(()) };
        let volumes = self.volumes.informer().list();
        let mut step = claim::next(&claim, &volumes, self.class(&claim).as_deref());
        // A claim that no volume serves, and that names neither volume nor class, takes the default class of today.
        let classless = volume_of(&claim).is_empty() && class_of_claim(&claim).is_none() && claim.metadata.deletion_timestamp.is_none();
        if classless
            && matches!(step, claim::Step::Pend(_))
            && let Some(name) = default_class(&self.classes.list()).and_then(|class| class.metadata.name.clone())
        {
            let mut wanted = PersistentVolumeClaim::clone(&claim);
            wanted.spec.get_or_insert_default().storage_class_name = Some(name);
            claim = Arc::new(self.claims.update(&wanted).await?);
            step = claim::next(&claim, &volumes, self.class(&claim).as_deref());
        }
        let tell = |warning: bool, reason: &'static str, message: String| {
            let about = reference_of(claim.as_ref());
            if warning { context.events.warning(about, reason, message) } else { context.events.normal(about, reason, message) }
        };
        match step {
            claim::Step::Bind(volume) => self.bind(&volume, &claim).await,
            claim::Step::Pend(why) => {
                if let Some(claim::Why { warning, reason, message }) = why {
                    tell(warning, reason, message);
                }
                self.set_claim_phase(&claim, "Pending").await
            }
            claim::Step::Provision(provisioner) => {
                let text = format!(
                    "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
                );
                tell(false, "ExternalProvisioning", text);
                let mut wanted = PersistentVolumeClaim::clone(&claim);
                let annotations = wanted.metadata.annotations.get_or_insert_default();
                STORAGE_PROVISIONER.iter().for_each(|name| _ = annotations.insert((*name).into(), provisioner.clone()));
                if wanted.metadata != claim.metadata {
                    claim = Arc::new(self.claims.update(&wanted).await?);
                }
                self.set_claim_phase(&claim, "Pending").await
            }
            claim::Step::Lose(reason, message) => {
                if phase_of_claim(&claim) != "Lost" {
                    tell(true, reason, message.into());
                }
                self.set_claim_phase(&claim, "Lost").await
            }
        }
    }

    /// Makes both objects point at each other and say so; what stands already is not written again.
    async fn bind(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), ReconcileError> {
        let mut wanted = volume.clone();
        if reserve(&mut wanted, claim) {
            wanted = self.volumes.update(&wanted).await?;
        }
        self.set_volume_phase(&wanted, "Bound", None).await?;
        let mut bound = claim.clone();
        let name = volume.metadata.name.clone().unwrap_or_default();
        let annotations = bound.metadata.annotations.get_or_insert_default();
        if volume_of(claim) != name {
            annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
        }
        annotations.insert(BIND_COMPLETED.into(), "yes".into());
        bound.spec.get_or_insert_default().volume_name = Some(name);
        if bound.metadata != claim.metadata || bound.spec != claim.spec {
            bound = self.claims.update(&bound).await?;
        }
        let of_volume = wanted.spec.unwrap_or_default();
        let before = bound.status.clone();
        let status = bound.status.get_or_insert_default();
        status.phase = Some("Bound".into());
        status.access_modes = of_volume.access_modes;
        // Once bound, what the claim has changes only by being resized.
        if before.as_ref().is_none_or(|status| status.phase.as_deref() != Some("Bound")) {
            status.capacity = of_volume.capacity;
        }
        status.current_volume_attributes_class_name = of_volume.volume_attributes_class_name.filter(|name| !name.is_empty());
        if bound.status != before {
            self.claims.update_status(&bound).await?;
        }
        Ok(())
    }

    async fn set_claim_phase(&self, claim: &PersistentVolumeClaim, phase: &str) -> Result<(), ReconcileError> {
        if phase_of_claim(claim) == phase {
            return Ok(());
        }
        let mut wanted = claim.clone();
        let status = wanted.status.get_or_insert_default();
        status.phase = Some(phase.into());
        (status.access_modes, status.capacity) = (None, None);
        self.claims.update_status(&wanted).await?;
        Ok(())
    }

    async fn sync_volume(&self, key: &ObjectKey, context: &Context) -> Result<(), ReconcileError> {
        let Some(volume) = self.volumes.informer().get_key(key) else { return Ok(()) };
        let claim = match claim_ref(&volume) {
            Some(reference) if reference.uid.as_ref().is_some_and(|uid| !uid.is_empty()) => self.claim_of(reference).await?,
            _ => None,
        };
        match volume::next(&volume, claim.as_ref()) {
            volume::Step::Phase(phase) => self.set_volume_phase(&volume, phase, None).await,
            volume::Step::AskClaim => {
                context.queue.add(ObjectKey::of(claim.as_ref().expect("only a claim that is there is asked")));
                Ok(())
            }
            volume::Step::Unbind { keep_reservation } => {
                let mut wanted = PersistentVolume::clone(&volume);
                let spec = wanted.spec.get_or_insert_default();
                match &mut spec.claim_ref {
                    Some(reference) if keep_reservation => (reference.uid, reference.resource_version) = (None, None),
                    _ => spec.claim_ref = None,
                }
                if let Some(annotations) = wanted.metadata.annotations.as_mut().filter(|_| !keep_reservation) {
                    annotations.remove(BOUND_BY_CONTROLLER);
                }
                let freed = self.volumes.update(&wanted).await?;
                self.set_volume_phase(&freed, "Available", None).await
            }
            volume::Step::Fail { reason, message } => {
                context.events.warning(reference_of(volume.as_ref()), reason, message.clone());
                self.set_volume_phase(&volume, "Failed", Some(message)).await
            }
            volume::Step::Nothing => Ok(()),
        }
    }

    /// The claim that a volume is bound to, past the cache when the cache has none: a volume must not lose its claim for our being late.
    async fn claim_of(&self, reference: &ObjectReference) -> Result<Option<PersistentVolumeClaim>, ReconcileError> {
        let key = ObjectKey::new(reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
        let same = |claim: &PersistentVolumeClaim| claim.metadata.uid == reference.uid;
        if let Some(claim) = self.claims.informer().get_key(&key).filter(|claim| same(claim)) {
            return Ok(Some(PersistentVolumeClaim::clone(&claim)));
        }
        match self.claims.get(&key).await {
            Ok(claim) => Ok(Some(claim).filter(same)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn set_volume_phase(&self, volume: &PersistentVolume, phase: &str, message: Option<String>) -> Result<(), ReconcileError> {
        let before = volume.status.clone().unwrap_or_default();
        if before.phase.as_deref() == Some(phase) && before.message == message {
            return Ok(());
        }
        let mut wanted = volume.clone();
        let status = wanted.status.get_or_insert_default();
        (status.phase, status.message) = (Some(phase.into()), message);
        self.volumes.update_status(&wanted).await?;
        Ok(())
    }
}

fn phase_of_claim(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

impl Controller for PersistentVolumeBinder {
    const NAME: &'static str = "persistentvolume-binder-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.on(self.claims.informer(), |change, queue| {
            queue.add(ObjectKey::of(change.object().as_ref()));
            // Of a claim that goes, its volume learns so.
            let volume = volume_of(change.object());
            if !volume.is_empty() {
                queue.add(ObjectKey::cluster(volume));
            }
        });
        let claims = self.claims.informer().clone();
        watches.on(self.volumes.informer(), move |change, queue| {
            let volume = change.object();
            queue.add(ObjectKey::of(volume.as_ref()));
            match claim_ref(volume) {
                Some(reference) => queue.add(ObjectKey::new(reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default())),
                None => claims.list().iter().filter(|claim| !is_bound(claim)).for_each(|claim| queue.add(ObjectKey::of(claim.as_ref()))),
            }
            claims.list().iter().filter(|claim| Some(volume_of(claim)) == volume.metadata.name.as_deref()).for_each(|claim| queue.add(ObjectKey::of(claim.as_ref())));
        });
        let claims = self.claims.informer().clone();
        watches.on(&self.classes, move |_, queue| {
            claims.list().iter().filter(|claim| !is_bound(claim)).for_each(|claim| queue.add(ObjectKey::of(claim.as_ref())));
        });
    }

    async fn reconcile(&self, key: &ObjectKey, context: &Context) -> Result<Outcome, ReconcileError> {
        if key.namespace.is_empty() {
            self.sync_volume(key, context).await?
        } else {
            self.sync_claim(key, context).await?
        }
        Ok(Outcome::Done)
    }
}
