//! Claims that ask for more than they have: says who is to see to it (upstream's expand controller).
//!
//! Volumes of CSI drivers are grown by the driver's external resizer and the node; this controller tells people so. Of other volumes nobody can, which it says
//! too: upstream's in-tree plugins that could are gone.

use crate::Start;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use keles_client::{Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, reference_of};
use keles_rules::volume_binding::{capacity, is_bound, requested, storage, volume_of};

const REASON: &str = "ExternalExpanding";

pub struct VolumeExpandController {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

impl VolumeExpandController {
    pub fn new(start: &Start) -> Self {
        VolumeExpandController { claims: start.informers.of(), volumes: start.informers.of() }
    }
}

/// Whether the claim has asked for more than it or its volume has.
fn asks_for_more(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let shown = claim.status.as_ref().and_then(|status| storage(status.capacity.as_ref()));
    match (requested(claim), shown) {
        (Some(wanted), Some(shown)) => wanted > shown || capacity(volume).is_some_and(|have| wanted > have),
        _ => false,
    }
}

impl Controller for VolumeExpandController {
    const NAME: &'static str = "persistentvolume-expander-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.on(&self.claims, |change, queue| {
            let wanted = |claim: &PersistentVolumeClaim| (requested(claim), is_bound(claim));
            // Told once for each size that is asked for.
            if change.old().is_none_or(|old| wanted(old) != wanted(change.object())) {
                queue.add(ObjectKey::of(change.object().as_ref()));
            }
        });
        watches.reads(&self.volumes);
    }

    async fn reconcile(&self, key: &ObjectKey, context: &Context) -> Result<Outcome, ReconcileError> {
        let Some(claim) = self.claims.get_key(key).filter(|claim| is_bound(claim)) else { return Ok(Outcome::Done) };
        let Some(volume) = self.volumes.get("", volume_of(&claim)).filter(|volume| asks_for_more(&claim, volume)) else { return Ok(Outcome::Done) };
        match volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some()) {
            true => context.events.normal(reference_of(claim.as_ref()), REASON, "waiting for an external controller to expand this PVC"),
            false => context.events.warning(reference_of(claim.as_ref()), REASON, "didn't find a plugin capable of expanding the volume"),
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_asks_for_more_until_it_and_its_volume_have_it() {
        let asks = |wanted: &str, shown: &str, have: &str| {
            let claim = json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": wanted}}}, "status": {"capacity": {"storage": shown}}});
            let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": have}}});
            asks_for_more(&serde_json::from_value(claim).expect("a claim"), &serde_json::from_value(volume).expect("a volume"))
        };
        assert!(asks("2Gi", "1Gi", "1Gi") && asks("2Gi", "1Gi", "2Gi") && asks("2Gi", "2Gi", "1Gi"));
        assert!(!asks("2Gi", "2Gi", "2Gi") && !asks("1Gi", "2Gi", "2Gi"));
    }
}
