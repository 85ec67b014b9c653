//! What to write for a Deployment: the pure heart of the controller.
//!
//! One call makes at most one step of a rollout (grow the newest set, or shrink the old ones), as upstream does: the sets' own status then says
//! what came of it and wakes the next call.

use super::numbers::{DESIRED_REPLICAS, annotated, is_rolling, max_surge, max_unavailable, new_set_size, proportion, replicas};
use super::progress;
use super::revisions::{self, HASH_LABEL};
use crate::replicaset::replicas as size;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_rules::owners::controller_reference;
use keles_rules::template_hash::template_hash;
use std::sync::Arc;
use std::time::Duration;

/// What is known.
pub struct World<'w> {
    pub deployment: &'w Deployment,
    pub sets: &'w [Arc<ReplicaSet>],
    /// Pods of older sets still run or terminate.
    pub old_pods_run: bool,
    pub now: Timestamp,
}

#[derive(Debug)]
pub enum Action {
    Create(Box<ReplicaSet>),
    /// Annotations or minReadySeconds of a set.
    Update(Box<ReplicaSet>),
    Scale {
        set: Box<ReplicaSet>,
        from: i32,
        to: i32,
    },
    Delete(Arc<ReplicaSet>),
}

#[derive(Debug, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub status: DeploymentStatus,
    /// The Deployment's revision annotation, where it is known.
    pub revision: Option<String>,
    /// When only the clock will change something.
    pub again: Option<Duration>,
}

pub fn plan(world: World) -> Plan {
    let mut rollout = Rollout::new(&world);
    if world.deployment.metadata.deletion_timestamp.is_some() {
        rollout.revise();
        return rollout.finish(false);
    }
    progress::note_pause(world.deployment, &mut rollout.working, world.now);
    let paused = world.deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    if paused || rollout.is_scaling() {
        rollout.revise();
        rollout.scale_all();
        if paused {
            rollout.clean_up();
        }
        return rollout.finish(false);
    }
    if is_rolling(world.deployment) {
        rollout.revise_or_create();
        if !rollout.grow_new() {
            rollout.shrink_old();
        }
    } else {
        rollout.recreate(world.old_pods_run);
    }
    rollout.finish(true)
}

/// The sets as they will be after the actions so far.
struct Rollout<'w> {
    deployment: &'w Deployment,
    newest: Option<ReplicaSet>,
    old: Vec<ReplicaSet>,
    actions: Vec<Action>,
    working: DeploymentStatus,
    revision: Option<String>,
    now: Timestamp,
}

impl<'w> Rollout<'w> {
    fn new(world: &World<'w>) -> Self {
        let newest = revisions::newest_set(world.deployment, world.sets);
        let uid = newest.and_then(|set| set.metadata.uid.as_ref());
        let mut old: Vec<ReplicaSet> = world.sets.iter().filter(|set| set.metadata.uid.as_ref() != uid).map(|set| set.as_ref().clone()).collect();
        old.sort_by_key(|set| (set.metadata.creation_timestamp.clone().map(|t| t.0), set.metadata.name.clone()));
        Rollout {
            deployment: world.deployment,
            newest: newest.map(|set| set.as_ref().clone()),
            old,
            actions: Vec::new(),
            working: world.deployment.status.clone().unwrap_or_default(),
            revision: None,
            now: world.now,
        }
    }

    fn wanted(&self) -> i32 {
        replicas(self.deployment)
    }
    fn all_pods(&self) -> i32 {
        self.old.iter().chain(&self.newest).map(size).sum()
    }
    fn next_revision(&self) -> i64 {
        self.old.iter().map(|set| revisions::revision(&set.metadata)).max().unwrap_or(0) + 1
    }

    /// Brings the newest set's annotations up to date, if there is one (lesson 130: the revision is the oldest sets' highest plus one, every time).
    fn revise(&mut self) {
        let next = self.next_revision();
        let min_ready = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let Some(set) = &mut self.newest else { return };
        let mut changed = revisions::annotate(self.deployment, set, next, true);
        if let Some(spec) = &mut set.spec
            && spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0)
        {
            spec.min_ready_seconds = min_ready;
            changed = true;
        }
        let (name, revision) = (set.metadata.name.clone().unwrap_or_default(), revisions::revision_text(&set.metadata).cloned());
        if changed {
            push(&mut self.actions, Action::Update(Box::new(set.clone())));
        }
        self.revision = revision;
        if progress::deadline(self.deployment).is_some() && progress::condition(&self.working, progress::PROGRESSING).is_none() {
            progress::set(&mut self.working, progress::PROGRESSING, "True", "FoundNewReplicaSet", &format!("Found new replica set {name:?}"), self.now);
        }
    }
    fn revise_or_create(&mut self) {
        if self.newest.is_some() {
            return self.revise();
        }
        let set = self.new_set();
        let name = set.metadata.name.clone().unwrap_or_default();
        self.revision = Some(self.next_revision().to_string());
        if progress::deadline(self.deployment).is_some() {
            progress::set(&mut self.working, progress::PROGRESSING, "True", "NewReplicaSetCreated", &format!("Created new replica set {name:?}"), self.now);
        }
        self.actions.push(Action::Create(Box::new(set.clone())));
        self.newest = Some(set);
    }
    fn new_set(&self) -> ReplicaSet {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let hash = template_hash(&spec.template, self.working.collision_count);
        let mut template = spec.template;
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector;
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", self.deployment.metadata.name.as_deref().unwrap_or_default())),
                namespace: self.deployment.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![controller_reference("apps/v1", "Deployment", &self.deployment.metadata)]),
                ..Default::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(new_set_size(self.deployment, self.all_pods(), 0)),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        revisions::annotate(self.deployment, &mut set, self.next_revision(), false);
        revisions::note_sizes(&mut set, self.wanted(), self.wanted() + max_surge(self.deployment));
        set
    }

    /// Whether only `replicas` changed since the sets were last sized.
    fn is_scaling(&self) -> bool {
        let active = self.old.iter().chain(&self.newest).filter(|set| size(set) > 0);
        active.filter_map(|set| annotated(set, DESIRED_REPLICAS)).any(|desired| desired != self.wanted())
    }
    /// Gives the newest set its size; true when it changed.
    fn grow_new(&mut self) -> bool {
        let all = self.all_pods();
        let Some(set) = &mut self.newest else { return false };
        let have = size(set);
        let wanted = replicas(self.deployment);
        let to = if have > wanted { wanted } else { new_set_size(self.deployment, all, have) };
        have != to && resize(self.deployment, set, to, &mut self.actions)
    }
    /// Takes pods from the old sets as far as availability allows; true when it did.
    fn shrink_old(&mut self) -> bool {
        let old_pods: i32 = self.old.iter().map(size).sum();
        if old_pods == 0 {
            return false;
        }
        let min_available = self.wanted() - max_unavailable(self.deployment);
        let new_missing = self.newest.as_ref().map_or(0, |set| size(set) - available(set));
        let budget = self.all_pods() - min_available - new_missing;
        if budget <= 0 {
            return false;
        }
        let mut changed = self.shrink_unhealthy(budget);
        let all_available: i32 = self.old.iter().chain(&self.newest).map(available).sum();
        let mut spare = all_available - min_available;
        for set in &mut self.old {
            let take = size(set).min(spare);
            if take > 0 {
                changed |= resize(self.deployment, set, size(set) - take, &mut self.actions);
                spare -= take;
            }
        }
        changed
    }
    /// Pods of old sets that are not available serve nobody: they go first.
    fn shrink_unhealthy(&mut self, mut budget: i32) -> bool {
        let mut changed = false;
        for set in &mut self.old {
            let take = (size(set) - available(set)).min(budget);
            if size(set) > 0 && take > 0 {
                changed |= resize(self.deployment, set, size(set) - take, &mut self.actions);
                budget -= take;
            }
        }
        changed
    }
    fn recreate(&mut self, old_pods_run: bool) {
        self.revise();
        let mut shrunk = false;
        for set in self.old.iter_mut().filter(|set| size(set) > 0) {
            shrunk |= resize(self.deployment, set, 0, &mut self.actions);
        }
        if shrunk || old_pods_run {
            return;
        }
        if self.newest.is_none() {
            self.revise_or_create();
        }
        self.grow_new();
    }

    /// Scales without a rollout: while paused, or when only `replicas` changed.
    fn scale_all(&mut self) {
        let wanted = self.wanted();
        let deployment = self.deployment;
        let mut actions = std::mem::take(&mut self.actions);
        let alone = self.only_active().map(|only| resize(deployment, only, wanted, &mut actions)).is_some();
        self.actions = actions;
        if alone {
            return;
        }
        let saturated = self.newest.as_ref().is_some_and(|set| size(set) == wanted && annotated(set, DESIRED_REPLICAS) == Some(wanted) && available(set) == wanted);
        if saturated {
            for set in self.old.iter_mut().filter(|set| size(set) > 0) {
                resize(deployment, set, 0, &mut self.actions);
            }
        } else if is_rolling(deployment) {
            self.scale_in_proportion();
        }
    }
    /// The set that alone has pods; with none, the newest, or the youngest old one.
    fn only_active(&mut self) -> Option<&mut ReplicaSet> {
        let active = self.old.iter().chain(&self.newest).filter(|set| size(set) > 0).count();
        match active {
            0 => self.newest.as_mut().or(self.old.last_mut()),
            1 => self.old.iter_mut().chain(&mut self.newest).find(|set| size(set) > 0),
            _ => None,
        }
    }
    fn scale_in_proportion(&mut self) {
        let deployment = self.deployment;
        let allowed = if self.wanted() > 0 { self.wanted() + max_surge(deployment) } else { 0 };
        let to_add = allowed - self.all_pods();
        let mut active: Vec<&mut ReplicaSet> = self.old.iter_mut().chain(&mut self.newest).filter(|set| size(set) > 0).collect();
        // The largest first; of equal ones the newer when growing, the older when shrinking. What rounding leaves goes to the first.
        let created = |set: &ReplicaSet| set.metadata.creation_timestamp.clone().map(|t| t.0);
        active.sort_by(|a, b| {
            let by_age = if to_add > 0 { created(b).cmp(&created(a)) } else { created(a).cmp(&created(b)) };
            size(b).cmp(&size(a)).then(by_age)
        });
        let mut added = 0;
        let mut sizes = Vec::with_capacity(active.len());
        for set in &active {
            let share = proportion(deployment, set, to_add, added);
            added += share;
            sizes.push(size(set) + share);
        }
        if let (Some(first), true) = (sizes.first_mut(), to_add != 0) {
            *first = (*first + to_add - added).max(0);
        }
        for (set, to) in active.into_iter().zip(sizes) {
            resize(deployment, set, to, &mut self.actions);
        }
    }

    /// Deletes the oldest empty sets beyond the history limit.
    fn clean_up(&mut self) {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut old: Vec<&ReplicaSet> = self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        old.sort_by_key(|set| revisions::revision(&set.metadata));
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let is_idle = |set: &ReplicaSet| {
            let status = set.status.clone().unwrap_or_default();
            status.replicas == 0 && size(set) == 0 && set.metadata.generation <= status.observed_generation
        };
        let deletions = old.into_iter().take(surplus).filter(|set| is_idle(set)).map(|set| Action::Delete(Arc::new(set.clone())));
        self.actions.extend(deletions);
    }

    fn finish(mut self, rolling_out: bool) -> Plan {
        if rolling_out && self.actions.is_empty() && progress::is_complete(self.deployment, &self.working) {
            self.clean_up();
        }
        let all: Vec<&ReplicaSet> = self.old.iter().chain(&self.newest).collect();
        let mut status = progress::counts(self.deployment, &all, self.newest.as_ref(), &self.working, self.now);
        let mut again = None;
        if rolling_out {
            progress::rollout(self.deployment, &self.working, &mut status, &all, self.newest.as_ref(), self.now);
            again = progress::deadline_in(self.deployment, &status, self.now);
        }
        Plan { actions: self.actions, status, revision: self.revision, again }
    }
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Notes the new size and the sizes it came from; true when pods are added or taken.
fn resize(deployment: &Deployment, set: &mut ReplicaSet, to: i32, actions: &mut Vec<Action>) -> bool {
    let from = size(set);
    let noted = revisions::note_sizes(set, replicas(deployment), replicas(deployment) + max_surge(deployment));
    if let Some(spec) = &mut set.spec {
        spec.replicas = Some(to);
    }
    if from != to {
        push(actions, Action::Scale { set: Box::new(set.clone()), from, to });
    } else if noted {
        push(actions, Action::Update(Box::new(set.clone())));
    }
    from != to
}

/// Adds a write; it holds everything that an earlier update of the same set held, which it replaces.
fn push(actions: &mut Vec<Action>, action: Action) {
    if let Action::Update(set) | Action::Scale { set, .. } = &action {
        actions.retain(|earlier| !matches!(earlier, Action::Update(held) if held.metadata.name == set.metadata.name));
    }
    actions.push(action);
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
