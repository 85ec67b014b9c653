//! ReplicaSets: as many pods as asked for.
//!
//! The decisions (how many, which to delete, what the status says) are pure, in `replicaset/`; this file reads and writes. The cache shows our own
//! acknowledged writes, so no expectations are kept (lesson 125).

mod ranking;
mod status;

use crate::Start;
use crate::claims::{adopt_and_release, claim};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keles_client::ObjectKey;
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, WriteError, Writer, reference_of};
use keles_rules::labels::selects;
use keles_rules::owners::{controller_of, controller_reference, is_controlled_by};
use keles_rules::readiness::{is_active, is_terminating};
use std::sync::Arc;

/// Pods made or deleted in one reconciliation.
const BURST_PODS: usize = 500;
/// First batch of creations; batches double while all succeed, so that a refusal (quota) costs few requests.
const FIRST_BATCH_PODS: usize = 1;
const BY_CONTROLLER: &str = "controller";

pub struct ReplicaSetController {
    sets: Writer<ReplicaSet>,
    pods: Writer<Pod>,
}

impl ReplicaSetController {
    pub fn new(start: &Start) -> Self {
        let sets: Writer<ReplicaSet> = start.writer();
        sets.informer().add_index(BY_CONTROLLER, |set| controller_of(&set.metadata).map(|owner| owner.uid.clone()).into_iter().collect());
        ReplicaSetController { sets, pods: start.writer() }
    }

    /// The pods of all sets of the same Deployment: deletion prefers nodes where these are doubled up.
    fn related_pods(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let owner = controller_of(&set.metadata).map(|owner| owner.uid.as_str());
        let siblings = owner.map(|uid| self.sets.informer().by_index(BY_CONTROLLER, uid)).unwrap_or_default();
        let mut uids: Vec<&str> = siblings.iter().filter_map(|sibling| sibling.metadata.uid.as_deref()).collect();
        uids.extend(set.metadata.uid.as_deref());
        let pods = self.pods.informer().list_namespace(namespace).into_iter();
        pods.filter(|pod| is_active(pod) && controller_of(&pod.metadata).is_some_and(|owner| uids.contains(&owner.uid.as_str()))).collect()
    }

    async fn create(&self, set: &ReplicaSet, count: usize, reference: &OwnerReference, context: &Context) -> Result<(), WriteError> {
        let pod = pod_of(set, reference);
        let (mut left, mut batch) = (count.min(BURST_PODS), FIRST_BATCH_PODS);
        while left > 0 {
            let size = batch.min(left);
            let results = join_all((0..size).map(|_| self.pods.create(&pod))).await;
            let mut failure = None;
            for result in results {
                match result {
                    Ok(made) => {
                        context.events.normal(reference_of(set), "SuccessfulCreate", format!("Created pod: {}", made.metadata.name.unwrap_or_default()));
                    }
                    // Content of a dying namespace is refused for good.
                    Err(error) if error.is_namespace_terminating() => return Ok(()),
                    Err(error) => {
                        context.events.warning(reference_of(set), "FailedCreate", format!("Error creating: {}", error.message()));
                        failure = Some(error);
                    }
                }
            }
            if let Some(error) = failure {
                return Err(error);
            }
            left -= size;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, set: &ReplicaSet, pods: Vec<Arc<Pod>>, context: &Context) -> Result<(), WriteError> {
        let results = join_all(pods.iter().map(|pod| self.pods.delete(pod))).await;
        let mut failure = Ok(());
        for (pod, result) in pods.iter().zip(results) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match result {
                Ok(()) => context.events.normal(reference_of(set), "SuccessfulDelete", format!("Deleted pod: {name}")),
                Err(error) => {
                    context.events.warning(reference_of(set), "FailedDelete", format!("Error deleting: {}", error.message()));
                    failure = Err(error);
                }
            }
        }
        failure
    }

    async fn scale(&self, set: &ReplicaSet, active: &[Arc<Pod>], reference: &OwnerReference, context: &Context) -> Result<(), WriteError> {
        let wanted = usize::try_from(replicas(set)).unwrap_or(0);
        if active.len() < wanted {
            return self.create(set, wanted - active.len(), reference, context).await;
        }
        if active.len() > wanted {
            let surplus = (active.len() - wanted).min(BURST_PODS);
            let victims = ranking::victims(active, &self.related_pods(set), surplus, Timestamp::now());
            return self.delete(set, victims, context).await;
        }
        Ok(())
    }
}

impl Controller for ReplicaSetController {
    const NAME: &'static str = "replicaset-controller";

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.sets.informer());
        let sets = self.sets.informer().clone();
        watches.on(self.pods.informer(), move |change, queue| {
            for pod in [Some(change.object()), change.old()].into_iter().flatten() {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                match controller_of(&pod.metadata) {
                    Some(owner) if owner.kind == "ReplicaSet" => queue.add(ObjectKey::new(namespace, &owner.name)),
                    Some(_) => {}
                    // An orphan: whoever selects it may adopt it.
                    None => {
                        let candidates = sets.list_namespace(namespace).into_iter();
                        let matching = candidates.filter(|set| set.spec.as_ref().is_some_and(|spec| selects(&spec.selector, pod.metadata.labels.as_ref())));
                        matching.for_each(|set| queue.add(ObjectKey::of(set.as_ref())));
                    }
                }
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, context: &Context) -> Result<Outcome, ReconcileError> {
        let Some(set) = self.sets.informer().get_key(key) else { return Ok(Outcome::Done) };
        let Some(spec) = &set.spec else { return Ok(Outcome::Done) };
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let all = self.pods.informer().list_namespace(&key.namespace);
        let terminating = all.iter().filter(|pod| is_terminating(pod) && is_controlled_by(&pod.metadata, uid)).count();
        let candidates = all.into_iter().filter(|pod| is_active(pod)).collect();
        let reference = controller_reference("apps/v1", "ReplicaSet", &set.metadata);
        let fresh = async { self.sets.get(key).await.map(|set| set.metadata) };
        let active = adopt_and_release(&self.pods, claim(candidates, &set.metadata, &spec.selector), &reference, fresh).await?;

        let scaled = if set.metadata.deletion_timestamp.is_none() { self.scale(&set, &active, &reference, context).await } else { Ok(()) };
        let failure = scaled.as_ref().err().map(WriteError::message);
        let now = Timestamp::now();
        let seen = status::Seen { active: &active, terminating, failure: failure.as_deref() };
        let (status, available_in) = status::status(&set, &seen, now);
        if set.status.as_ref() != Some(&status) {
            let mut update = set.as_ref().clone();
            update.status = Some(status);
            match self.sets.update_status(&update).await {
                // The set is gone: its status is nobody's concern.
                Err(error) if error.is_not_found() => {}
                other => _ = other?,
            }
        }
        scaled?;
        Ok(available_in.map_or(Outcome::Done, Outcome::After))
    }
}

pub(crate) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn template(spec: &ReplicaSetSpec) -> PodTemplateSpec {
    spec.template.clone().unwrap_or_default()
}

/// The pod that a set makes.
fn pod_of(set: &ReplicaSet, reference: &OwnerReference) -> Pod {
    let template = set.spec.as_ref().map(template).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
        namespace: set.metadata.namespace.clone(),
        labels: meta.labels,
        annotations: meta.annotations,
        finalizers: meta.finalizers,
        owner_references: Some(vec![reference.clone()]),
        ..Default::default()
    };
    Pod { metadata, spec: template.spec, status: None }
}
