//! A volume that is bound is not removed: its finalizer goes only when it is to be deleted and no claim has it.

use crate::{Start, protection};
use k8s_openapi::api::core::v1::PersistentVolume;
use keles_client::ObjectKey;
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};

const FINALIZER: &str = "kubernetes.io/pv-protection";

pub struct PvProtectionController {
    volumes: Writer<PersistentVolume>,
}

impl PvProtectionController {
    pub fn new(start: &Start) -> Self {
        PvProtectionController { volumes: start.writer() }
    }
}

impl Controller for PvProtectionController {
    const NAME: &'static str = "persistentvolume-protection-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.volumes.informer());
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let Some(volume) = self.volumes.informer().get_key(key) else { return Ok(Outcome::Done) };
        let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let Some(finalizers) = protection::finalizers(&volume.metadata, FINALIZER, !bound) else { return Ok(Outcome::Done) };
        let mut wanted = PersistentVolume::clone(&volume);
        wanted.metadata.finalizers = Some(finalizers);
        self.volumes.update(&wanted).await?;
        Ok(Outcome::Done)
    }
}
