//! A claim that a pod uses is not removed: its finalizer goes only when it is to be deleted and no pod on a node names it.

use crate::pod_gc::node_of;
use crate::{Start, protection};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use keles_client::{Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use keles_rules::volume_binding::{claim_name, is_claim_for};
use kube::api::{Api, ListParams};
use std::sync::Arc;

const FINALIZER: &str = "kubernetes.io/pvc-protection";
const BY_CLAIM: &str = "claim";

pub struct PvcProtectionController {
    client: kube::Client,
    claims: Writer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

impl PvcProtectionController {
    pub fn new(start: &Start) -> Self {
        let pods: Informer<Pod> = start.informers.of();
        index_by_claim(&pods);
        PvcProtectionController { client: start.client.clone(), claims: start.writer(), pods }
    }

    async fn in_use(&self, key: &ObjectKey, claim: &PersistentVolumeClaim) -> Result<bool, ReconcileError> {
        if pods_of_claim(&self.pods, key).iter().any(|pod| uses(pod, claim)) {
            return Ok(true);
        }
        // A pod may have come that the cache has not seen.
        let pods = Api::<Pod>::namespaced(self.client.clone(), &key.namespace).list(&ListParams::default()).await;
        Ok(pods.map_err(ReconcileError::read("listing the pods of a claim"))?.items.iter().any(|pod| uses(pod, claim)))
    }
}

/// The pods of a claim, by `namespace/name`.
pub fn index_by_claim(pods: &Informer<Pod>) {
    pods.add_index(BY_CLAIM, |pod| claims_of(pod).map(|(key, _)| key.to_string()).collect());
}
pub fn pods_of_claim(pods: &Informer<Pod>, claim: &ObjectKey) -> Vec<Arc<Pod>> {
    pods.by_index(BY_CLAIM, &claim.to_string())
}
/// The claims of a pod, and whether each is made for it.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = (ObjectKey, bool)> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(move |volume| claim_name(pod, volume).map(|(name, own)| (ObjectKey::new(&namespace, &name), own)))
}

/// Its node is done with it, or it was deleted by force: only its removal is left.
fn is_shut_down(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Whether the pod holds the claim: it has a node, ended or not; one that has none yet would not be scheduled any more. A claim of its own may
/// go before it, lest each waits for the other.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let key = ObjectKey::of(claim);
    node_of(pod).is_some() && claims_of(pod).any(|(name, own)| name == key && (!own || (!is_shut_down(pod) && is_claim_for(claim, pod))))
}

impl Controller for PvcProtectionController {
    const NAME: &'static str = "persistentvolumeclaim-protection-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.claims.informer());
        watches.on(&self.pods, |change, queue| {
            if matches!(change, keles_client::Change::Deleted(_)) || is_shut_down(change.object()) {
                claims_of(change.object()).for_each(|(key, _)| queue.add(key));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let Some(claim) = self.claims.informer().get_key(key) else { return Ok(Outcome::Done) };
        let free = protection::is_waiting(&claim.metadata, FINALIZER) && !self.in_use(key, &claim).await?;
        let Some(finalizers) = protection::finalizers(&claim.metadata, FINALIZER, free) else { return Ok(Outcome::Done) };
        let mut wanted = PersistentVolumeClaim::clone(&claim);
        wanted.metadata.finalizers = Some(finalizers);
        self.claims.update(&wanted).await?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_claim_is_used_by_a_pod_on_a_node() {
        let claim = |owner: &str| -> PersistentVolumeClaim {
            let owners = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]);
            serde_json::from_value(json!({"metadata": {"name": "p-v", "namespace": "n", "ownerReferences": owners}})).expect("a claim")
        };
        let pod = |node: &str, phase: &str, source: Value| -> Pod {
            let mut volume = json!({"name": "v"});
            volume.as_object_mut().expect("an object").extend(source.as_object().expect("an object").clone());
            let spec = json!({"nodeName": node, "containers": [], "volumes": [volume]});
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec, "status": {"phase": phase}})).expect("a pod")
        };
        let named = json!({"persistentVolumeClaim": {"claimName": "p-v"}});
        assert!(uses(&pod("n1", "Running", named.clone()), &claim("u")));
        assert!(!uses(&pod("", "Pending", named.clone()), &claim("u")), "not scheduled");
        assert!(uses(&pod("n1", "Succeeded", named), &claim("u")), "over, but there");
        let own = json!({"ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
        assert!(uses(&pod("n1", "Running", own.clone()), &claim("u")));
        assert!(!uses(&pod("n1", "Running", own), &claim("another")), "a claim of that name that is not the pod's");
    }
}
