//! What a ReplicaSet's status says.

use super::replicas;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keles_rules::labels::has_all;
use keles_rules::readiness::{available_in, is_ready};
use std::sync::Arc;
use std::time::Duration;

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What was found in this reconciliation.
pub struct Seen<'a> {
    /// The active pods before anything was made or deleted.
    pub active: &'a [Arc<Pod>],
    pub terminating: usize,
    /// Why making or deleting failed.
    pub failure: Option<&'a str>,
}

/// The status, and when the next ready pod becomes available by its age alone.
pub fn status(set: &ReplicaSet, seen: &Seen, now: Timestamp) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let template_labels = spec.template.and_then(|template| template.metadata).and_then(|meta| meta.labels).unwrap_or_default();
    let waits: Vec<Duration> = seen.active.iter().filter_map(|pod| available_in(pod, min_ready, now)).collect();
    let count = |pods: usize| i32::try_from(pods).unwrap_or(i32::MAX);
    let status = ReplicaSetStatus {
        replicas: count(seen.active.len()),
        fully_labeled_replicas: positive(count(seen.active.iter().filter(|pod| has_all(&template_labels, pod.metadata.labels.as_ref())).count())),
        ready_replicas: positive(count(seen.active.iter().filter(|pod| is_ready(pod)).count())),
        available_replicas: positive(count(waits.iter().filter(|wait| wait.is_zero()).count())),
        terminating_replicas: Some(count(seen.terminating)),
        observed_generation: set.metadata.generation,
        conditions: conditions(set, seen, now),
    };
    (status, waits.into_iter().filter(|wait| !wait.is_zero()).min())
}

/// Go leaves zero counts out.
fn positive(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// ReplicaFailure is set while a refusal lasts and cleared after (lesson 136).
fn conditions(set: &ReplicaSet, seen: &Seen, now: Timestamp) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let failing = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match seen.failure {
        Some(message) if !failing => conditions.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: Some(if i64::from(replicas(set)) > seen.active.len() as i64 { "FailedCreate" } else { "FailedDelete" }.into()),
            message: Some(message.into()),
            last_transition_time: Some(Time(now.round(jiff::Unit::Second).unwrap_or(now))),
        }),
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(_) => {}
    }
    Some(conditions).filter(|conditions| !conditions.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set() -> ReplicaSet {
        let value =
            json!({"metadata": {"name": "s", "generation": 3}, "spec": {"replicas": 2, "minReadySeconds": 10, "selector": {}, "template": {"metadata": {"labels": {"a": "b"}}}}});
        serde_json::from_value(value).expect("a set")
    }
    fn pod(ready_since: Option<&str>) -> Arc<Pod> {
        let conditions = ready_since.map(|since| json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]));
        Arc::new(serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running", "conditions": conditions}})).expect("a pod"))
    }

    #[test]
    fn counts_and_the_time_of_the_next_availability() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        let pods = [pod(None), pod(Some("2026-01-01T00:00:00Z")), pod(Some("2026-01-01T00:00:57Z"))];
        let (status, next) = status(&set(), &Seen { active: &pods, terminating: 1, failure: None }, now);
        assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (3, Some(2), Some(1)));
        assert_eq!((status.fully_labeled_replicas, status.terminating_replicas, status.observed_generation), (Some(3), Some(1), Some(3)));
        assert_eq!(next, Some(Duration::from_secs(7)));
    }

    #[test]
    fn replica_failure_is_set_and_cleared() {
        let now = Timestamp::UNIX_EPOCH;
        let mut set = set();
        let (failed, _) = status(&set, &Seen { active: &[], terminating: 0, failure: Some("exceeded quota: q") }, now);
        let condition = &failed.conditions.as_ref().expect("a condition")[0];
        assert_eq!((condition.reason.as_deref(), condition.message.as_deref()), (Some("FailedCreate"), Some("exceeded quota: q")));
        set.status = Some(failed);
        let (healed, _) = status(&set, &Seen { active: &[], terminating: 0, failure: None }, now);
        assert_eq!(healed.conditions, None);
    }
}
