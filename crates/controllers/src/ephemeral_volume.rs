//! Generic ephemeral volumes: makes the claim that a pod's `ephemeral` volume describes. The pod owns it, so the garbage collector removes it.

use crate::Start;
use crate::pvc_protection::claims_of;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_client::{Change, Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer, reference_of};
use keles_rules::owners::controller_reference;
use keles_rules::volume_binding::{claim_name, is_claim_for};

pub struct EphemeralVolumeController {
    pods: Informer<Pod>,
    claims: Writer<PersistentVolumeClaim>,
}

impl EphemeralVolumeController {
    pub fn new(start: &Start) -> Self {
        let pods: Informer<Pod> = start.informers.of();
        crate::pvc_protection::index_by_claim(&pods);
        EphemeralVolumeController { pods, claims: start.writer() }
    }
}

/// The claims that the pod wants made.
fn wanted(pod: &Pod) -> Vec<PersistentVolumeClaim> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let template = |volume: &k8s_openapi::api::core::v1::Volume| volume.ephemeral.as_ref()?.volume_claim_template.clone();
    let made = volumes.filter_map(|volume| Some((claim_name(pod, volume)?.0, template(volume)?)));
    let claim = |(name, template): (String, k8s_openapi::api::core::v1::PersistentVolumeClaimTemplate)| {
        let given = template.metadata.unwrap_or_default();
        let metadata = ObjectMeta {
            name: Some(name),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![controller_reference("v1", "Pod", &pod.metadata)]),
            ..Default::default()
        };
        PersistentVolumeClaim { metadata, spec: Some(template.spec), status: None }
    };
    made.map(claim).collect()
}

impl Controller for EphemeralVolumeController {
    const NAME: &'static str = "ephemeral-volume-controller";

    fn watches(&self, watches: &mut Watches) {
        watches.on(&self.pods, |change, queue| {
            let pod = change.object();
            if change.old().is_none() && !matches!(change, Change::Deleted(_)) && claims_of(pod).any(|(_, own)| own) {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        });
        // A claim that goes is made again for a pod that still waits for it.
        let pods = self.pods.clone();
        watches.on(self.claims.informer(), move |change, queue| {
            if matches!(change, Change::Deleted(_)) {
                let key = ObjectKey::of(change.object().as_ref());
                crate::pvc_protection::pods_of_claim(&pods, &key).iter().for_each(|pod| queue.add(ObjectKey::of(pod.as_ref())));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, context: &Context) -> Result<Outcome, ReconcileError> {
        let Some(pod) = self.pods.get_key(key).filter(|pod| pod.metadata.deletion_timestamp.is_none()) else { return Ok(Outcome::Done) };
        for claim in wanted(&pod) {
            let claim_key = ObjectKey::of(&claim);
            let told = |message: String| context.events.warning(reference_of(pod.as_ref()), "FailedBinding", message);
            match self.claims.informer().get_key(&claim_key) {
                Some(held) if is_claim_for(&held, &pod) => continue,
                Some(_) => {
                    let problem = format!("PVC {claim_key} was not created for pod {key} (pod is not owner)");
                    told(format!("ephemeral volume {}: {problem}", claim_key.name));
                    return Err(ReconcileError::Object { object: key.clone(), problem });
                }
                None => {}
            }
            match self.claims.create(&claim).await {
                Err(error) if error.is_namespace_terminating() => {}
                Err(error) => {
                    told(format!("ephemeral volume {}: create PVC {claim_key}: {}", claim_key.name, error.message()));
                    return Err(error.into());
                }
                Ok(_) => {}
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_claim_is_named_after_pod_and_volume_and_owned_by_the_pod() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s"}});
        let volumes = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "w", "persistentVolumeClaim": {"claimName": "x"}}]);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [], "volumes": volumes}})).expect("a pod");
        let [claim] = &wanted(&pod)[..] else { panic!("one claim") };
        assert_eq!(ObjectKey::of(claim), ObjectKey::new("n", "p-v"));
        assert_eq!(claim.metadata.labels.as_ref().and_then(|labels| labels.get("a")).map(String::as_str), Some("b"));
        assert_eq!(claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()), Some("s"));
        assert!(is_claim_for(claim, &pod));
    }
}
