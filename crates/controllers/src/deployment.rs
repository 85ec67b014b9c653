//! Deployments: one ReplicaSet a template, and the way from one to the next.
//!
//! [`plan::plan`] is pure: from the Deployment, its sets and pods it gives the writes and the status. This file reads, adopts, carries the plan out
//! in order, tells events, and turns failures of creation into conditions.

mod numbers;
mod plan;
mod progress;
mod revisions;

use crate::Start;
use crate::claims::{adopt_and_release, claim};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use keles_client::{Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, WriteError, Writer, reference_of};
use keles_rules::labels::{is_empty, selects};
use keles_rules::owners::{controller_of, controller_reference, is_controlled_by};
use keles_rules::readiness::is_terminal;
use plan::{Action, Plan, World};
use std::sync::Arc;

const BY_CONTROLLER: &str = "controller";

pub struct DeploymentController {
    deployments: Writer<Deployment>,
    sets: Writer<ReplicaSet>,
    pods: Informer<Pod>,
}

impl DeploymentController {
    pub fn new(start: &Start) -> Self {
        let sets: Writer<ReplicaSet> = start.writer();
        sets.informer().add_index(BY_CONTROLLER, |set| controller_of(&set.metadata).map(|owner| owner.uid.clone()).into_iter().collect());
        DeploymentController { deployments: start.writer(), sets, pods: start.informers.of() }
    }

    /// The sets of this Deployment, after adoption and release.
    async fn owned_sets(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, WriteError> {
        let Some(spec) = &deployment.spec else { return Ok(Vec::new()) };
        let key = ObjectKey::of(deployment);
        let candidates = self.sets.informer().list_namespace(&key.namespace);
        let reference = controller_reference("apps/v1", "Deployment", &deployment.metadata);
        let fresh = async { self.deployments.get(&key).await.map(|deployment| deployment.metadata) };
        adopt_and_release(&self.sets, claim(candidates, &deployment.metadata, &spec.selector), &reference, fresh).await
    }

    /// Whether pods of any set but the newest still run: Recreate waits for them, terminating ones included.
    fn old_pods_run(&self, namespace: &str, sets: &[Arc<ReplicaSet>], newest: Option<&str>) -> bool {
        let old: Vec<&str> = sets.iter().filter_map(|set| set.metadata.uid.as_deref()).filter(|uid| Some(*uid) != newest).collect();
        let pods = self.pods.list_namespace(namespace);
        pods.iter().any(|pod| !is_terminal(pod) && old.iter().any(|uid| is_controlled_by(&pod.metadata, uid)))
    }

    async fn carry_out(&self, deployment: &Deployment, plan: &mut Plan, context: &Context) -> Result<(), ReconcileError> {
        let about = || reference_of(deployment);
        for action in std::mem::take(&mut plan.actions) {
            match action {
                Action::Update(set) => _ = self.sets.update(&set).await?,
                Action::Scale { set, from, to } => {
                    let name = set.metadata.name.clone().unwrap_or_default();
                    self.sets.update(&set).await?;
                    let direction = if to > from { "up" } else { "down" };
                    context.events.normal(about(), "ScalingReplicaSet", format!("Scaled {direction} replica set {name} from {from} to {to}"));
                }
                Action::Create(set) => {
                    let (name, replicas) = (set.metadata.name.clone().unwrap_or_default(), crate::replicaset::replicas(&set));
                    if !self.create(deployment, &set, plan, context).await? {
                        return Ok(());
                    }
                    if replicas > 0 {
                        context.events.normal(about(), "ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {replicas}"));
                    }
                }
                Action::Delete(set) => self.sets.delete(&set).await?,
            }
        }
        Ok(())
    }

    /// Creates the newest set; false when the plan must be made anew (the name is taken, or the namespace goes).
    async fn create(&self, deployment: &Deployment, set: &ReplicaSet, plan: &mut Plan, context: &Context) -> Result<bool, ReconcileError> {
        let error = match self.sets.create(set).await {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        if error.is_namespace_terminating() {
            return Ok(false);
        }
        if error.is_already_exists() {
            let held = self.sets.get(&ObjectKey::of(set)).await?;
            let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
            if is_controlled_by(&held.metadata, uid) && revisions::same_template(deployment, &held) {
                return Ok(false);
            }
            plan.status.collision_count = Some(plan.status.collision_count.unwrap_or(0) + 1);
            return Ok(false);
        }
        let message = format!("Failed to create new replica set {:?}: {}", set.metadata.name.as_deref().unwrap_or_default(), error.message());
        progress::creation_failed(deployment, &mut plan.status, &message, Timestamp::now());
        self.write_status(deployment, plan).await?;
        context.events.warning(reference_of(deployment), "ReplicaSetCreateError", message);
        Err(error.into())
    }

    /// Status and the revision annotation go in one write: the status subresource keeps annotations.
    async fn write_status(&self, deployment: &Deployment, plan: &Plan) -> Result<(), ReconcileError> {
        let revised = plan.revision.as_ref().is_some_and(|revision| revisions::revision_text(&deployment.metadata) != Some(revision));
        if !revised && progress::same_status(deployment.status.as_ref(), &plan.status) {
            return Ok(());
        }
        let mut update = deployment.clone();
        update.status = Some(plan.status.clone());
        if let Some(revision) = &plan.revision {
            update.metadata.annotations.get_or_insert_default().insert(revisions::REVISION.into(), revision.clone());
        }
        match self.deployments.update_status(&update).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(|_| ()).map_err(Into::into),
        }
    }
}

impl Controller for DeploymentController {
    const NAME: &'static str = "deployment-controller";

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.deployments.informer());
        let deployments = self.deployments.informer().clone();
        watches.on(self.sets.informer(), move |change, queue| {
            for set in [Some(change.object()), change.old()].into_iter().flatten() {
                let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
                match controller_of(&set.metadata) {
                    Some(owner) if owner.kind == "Deployment" => queue.add(ObjectKey::new(namespace, &owner.name)),
                    Some(_) => {}
                    None => {
                        let candidates = deployments.list_namespace(namespace).into_iter();
                        let matching = candidates.filter(|d| d.spec.as_ref().is_some_and(|spec| selects(&spec.selector, set.metadata.labels.as_ref())));
                        matching.for_each(|d| queue.add(ObjectKey::of(d.as_ref())));
                    }
                }
            }
        });
        // Recreate waits for the last pod to go; nothing else about pods matters here, sets count them.
        let sets = self.sets.informer().clone();
        watches.on(&self.pods, move |change, queue| {
            let pod = change.object();
            let gone = matches!(change, keles_client::Change::Deleted(_)) || is_terminal(pod);
            let Some(owner) = controller_of(&pod.metadata).filter(|owner| gone && owner.kind == "ReplicaSet") else { return };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            if let Some(set) = sets.get(namespace, &owner.name)
                && let Some(owner) = controller_of(&set.metadata)
            {
                queue.add(ObjectKey::new(namespace, &owner.name));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, context: &Context) -> Result<Outcome, ReconcileError> {
        let Some(deployment) = self.deployments.informer().get_key(key) else { return Ok(Outcome::Done) };
        let Some(spec) = &deployment.spec else { return Ok(Outcome::Done) };
        if is_empty(&spec.selector) {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            context.events.warning(reference_of(deployment.as_ref()), "SelectingAll", message);
            return Ok(Outcome::Done);
        }
        let sets = self.owned_sets(&deployment).await?;
        let newest = revisions::newest_set(&deployment, &sets).and_then(|set| set.metadata.uid.clone());
        let old_pods_run = self.old_pods_run(&key.namespace, &sets, newest.as_deref());
        let mut plan = plan::plan(World { deployment: &deployment, sets: &sets, old_pods_run, now: Timestamp::now() });
        self.carry_out(&deployment, &mut plan, context).await?;
        self.write_status(&deployment, &plan).await?;
        Ok(plan.again.map_or(Outcome::Done, Outcome::After))
    }
}
