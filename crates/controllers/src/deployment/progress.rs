//! What a Deployment's status says: counts, Available, Progressing, ReplicaFailure.

use super::numbers::{max_unavailable, replicas};
use jiff::{SignedDuration, Timestamp, Unit};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::time::Duration;

pub const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

pub fn condition<'s>(status: &'s DeploymentStatus, kind: &str) -> Option<&'s DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}
fn reason(status: &DeploymentStatus, kind: &str) -> String {
    condition(status, kind).and_then(|condition| condition.reason.clone()).unwrap_or_default()
}
/// Sets a condition; the same status and reason leave it, times included; the same status keeps the transition time.
pub fn set(status: &mut DeploymentStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let held = condition(status, kind).cloned();
    if held.as_ref().is_some_and(|held| held.status == value && held.reason.as_deref() == Some(reason)) {
        return;
    }
    let second = Some(Time(now.round(Unit::Second).unwrap_or(now)));
    let since = held.filter(|held| held.status == value).and_then(|held| held.last_transition_time).or(second.clone());
    remove(status, kind);
    status.conditions.get_or_insert_default().push(DeploymentCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: since,
        last_update_time: second,
    });
}
pub fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}
/// The deadline, unless it is switched off.
pub fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}
/// Equal but for zero against absent.
pub fn same_status(held: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let plain = |status: &DeploymentStatus| {
        let mut status = status.clone();
        let zero = |count: &mut Option<i32>| *count = count.filter(|count| *count != 0);
        zero(&mut status.replicas);
        zero(&mut status.updated_replicas);
        zero(&mut status.ready_replicas);
        zero(&mut status.available_replicas);
        zero(&mut status.unavailable_replicas);
        zero(&mut status.terminating_replicas);
        status.conditions = status.conditions.filter(|conditions| !conditions.is_empty());
        status
    };
    held.map(plain).unwrap_or_default() == plain(new)
}

/// Pausing and resuming stop and restart the clock of the deadline.
pub fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if deadline(deployment).is_none() || reason(status, PROGRESSING) == TIMED_OUT {
        return;
    }
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    let noted = reason(status, PROGRESSING) == PAUSED;
    if paused && !noted {
        set(status, PROGRESSING, "Unknown", PAUSED, "Deployment is paused", now);
    } else if !paused && noted {
        set(status, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed", now);
    }
}
pub fn creation_failed(deployment: &Deployment, status: &mut DeploymentStatus, message: &str, now: Timestamp) {
    if deadline(deployment).is_some() {
        set(status, PROGRESSING, "False", "ReplicaSetCreateError", message, now);
    }
}

/// Counts and Available, over `conditions` as they are.
pub fn counts(deployment: &Deployment, all: &[&ReplicaSet], newest: Option<&ReplicaSet>, working: &DeploymentStatus, now: Timestamp) -> DeploymentStatus {
    let of = |set: &ReplicaSet, field: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| set.status.as_ref().map_or(0, field);
    let sum = |field| all.iter().map(|set| of(set, field)).sum::<i32>();
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let asked: i32 = all.iter().map(|set| crate::replicaset::replicas(set)).sum();
    let nonzero = |count: i32| (count != 0).then_some(count);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sum(|status| status.replicas)),
        updated_replicas: newest.and_then(|set| nonzero(of(set, |status| status.replicas))),
        ready_replicas: nonzero(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((asked - available).max(0)),
        terminating_replicas: Some(sum(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: working.collision_count,
        conditions: working.conditions.clone(),
    };
    if available >= replicas(deployment) - max_unavailable(deployment) {
        set(&mut status, AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now);
    } else {
        set(&mut status, AVAILABLE, "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", now);
    }
    status
}

pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = replicas(deployment);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}
fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let old_pods = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || old_pods(new) < old_pods(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}
fn timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(deadline), Some(condition)) = (deadline(deployment), condition(status, PROGRESSING)) else { return false };
    match condition.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => condition.last_update_time.as_ref().is_some_and(|at| now > at.0 + SignedDuration::from_secs(i64::from(deadline))),
    }
}

/// The Progressing and ReplicaFailure conditions of a rollout. `working` is the status as this reconciliation began, with its own notes.
pub fn rollout(deployment: &Deployment, working: &DeploymentStatus, status: &mut DeploymentStatus, all: &[&ReplicaSet], newest: Option<&ReplicaSet>, now: Timestamp) {
    if deadline(deployment).is_none() {
        remove(status, PROGRESSING);
    }
    let settled = status.replicas == status.updated_replicas && reason(working, PROGRESSING) == NEW_SET_AVAILABLE;
    if deadline(deployment).is_some() && !settled {
        let subject = match newest {
            Some(set) => format!("ReplicaSet {:?}", set.metadata.name.as_deref().unwrap_or_default()),
            None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
        };
        if is_complete(deployment, status) {
            set(status, PROGRESSING, "True", NEW_SET_AVAILABLE, &format!("{subject} has successfully progressed."), now);
        } else if progressed(working, status) {
            let since = condition(working, PROGRESSING).filter(|held| held.status == "True").and_then(|held| held.last_transition_time.clone());
            // Progress restarts the clock even where status and reason stay.
            remove(status, PROGRESSING);
            set(status, PROGRESSING, "True", "ReplicaSetUpdated", &format!("{subject} is progressing."), now);
            if let (Some(since), Some(new)) = (since, status.conditions.iter_mut().flatten().last()) {
                new.last_transition_time = Some(since);
            }
        } else if timed_out(deployment, status, now) {
            set(status, PROGRESSING, "False", TIMED_OUT, &format!("{subject} has timed out progressing."), now);
        }
    }
    match replica_failure(all, newest) {
        Some(failure) => set(status, REPLICA_FAILURE, &failure.status, failure.reason.as_deref().unwrap_or(""), failure.message.as_deref().unwrap_or(""), now),
        None => remove(status, REPLICA_FAILURE),
    }
}
fn replica_failure<'s>(all: &[&'s ReplicaSet], newest: Option<&'s ReplicaSet>) -> Option<&'s k8s_openapi::api::apps::v1::ReplicaSetCondition> {
    let of = |set: &'s ReplicaSet| set.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == REPLICA_FAILURE);
    newest.and_then(of).or_else(|| all.iter().find_map(|set| of(set)))
}

/// When to look again for the deadline, if it runs.
pub fn deadline_in(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let (deadline, condition) = (deadline(deployment)?, condition(status, PROGRESSING)?);
    if is_complete(deployment, status) || matches!(condition.reason.as_deref(), Some(TIMED_OUT | NEW_SET_AVAILABLE | PAUSED)) {
        return None;
    }
    let due = condition.last_update_time.as_ref()?.0.as_second() + i64::from(deadline) + 1;
    Some(Duration::from_secs(u64::try_from(due - now.as_second()).unwrap_or(0).max(1)))
}
