//! Eviction by NoExecute taints: a pod that does not tolerate one is deleted, one that tolerates it for a time is deleted after that.
//!
//! Deletion is graceful, with a deletion timestamp (lesson 97); why is told in the pod's DisruptionTarget condition first. The time of a taint
//! that does not say when it was added (one that a person set) begins when it is first met here with the pod, as upstream; that is kept in memory.

use crate::Start;
use crate::pod_gc::{index_by_node, node_of, pods_of_node};
use jiff::{Timestamp, Unit};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use keles_client::{Change, Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer, reference_of};
use keles_rules::readiness::is_active;
use keles_rules::tolerations::tolerates;
use kube::api::Patch;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub struct TaintEvictionController {
    nodes: Informer<Node>,
    pods: Writer<Pod>,
    /// Pods that tolerate a taint for a time: their uid, and since when.
    waiting: Mutex<HashMap<ObjectKey, (Option<String>, Timestamp)>>,
}

impl TaintEvictionController {
    pub fn new(start: &Start) -> Self {
        let pods: Writer<Pod> = start.writer();
        index_by_node(pods.informer());
        TaintEvictionController { nodes: start.informers.of(), pods, waiting: Mutex::default() }
    }
}

impl TaintEvictionController {
    /// Since when this pod waits: now, if it did not.
    fn since(&self, key: &ObjectKey, pod: &Pod, now: Timestamp) -> Timestamp {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = waiting.entry(key.clone()).or_insert_with(|| (pod.metadata.uid.clone(), now));
        if entry.0 != pod.metadata.uid {
            *entry = (pod.metadata.uid.clone(), now);
        }
        entry.1
    }

    fn forget(&self, key: &ObjectKey) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

fn no_execute(node: &Node) -> Vec<Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

impl Controller for TaintEvictionController {
    const NAME: &'static str = "taint-eviction-controller";
    const WORKERS: usize = 8;

    fn watches(&self, watches: &mut Watches) {
        let pods = self.pods.informer().clone();
        watches.on(&self.nodes, move |change, queue| {
            let same = match change {
                Change::Modified { old, new } => no_execute(old) == no_execute(new),
                Change::Added(node) | Change::Deleted(node) => no_execute(node).is_empty(),
            };
            if !same {
                let name = change.object().metadata.name.as_deref().unwrap_or_default();
                pods_of_node(&pods, name).iter().for_each(|pod| queue.add(ObjectKey::of(pod.as_ref())));
            }
        });
        watches.on(self.pods.informer(), |change, queue| {
            let fresh = match change {
                Change::Added(_) | Change::Deleted(_) => true,
                Change::Modified { old, new } => node_of(old) != node_of(new) || tolerations(old) != tolerations(new),
            };
            if fresh && node_of(change.object()).is_some() {
                queue.add(ObjectKey::of(change.object().as_ref()));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, context: &Context) -> Result<Outcome, ReconcileError> {
        let pod = self.pods.informer().get_key(key).filter(|pod| is_active(pod));
        let node = pod.as_ref().and_then(|pod| self.nodes.get("", node_of(pod)?));
        let (Some(pod), Some(node)) = (pod, node) else {
            self.forget(key);
            return Ok(Outcome::Done);
        };
        let now = Timestamp::now();
        match verdict(&no_execute(&node), tolerations(&pod), self.since(key, &pod, now), now) {
            Verdict::Stay => {
                self.forget(key);
                Ok(Outcome::Done)
            }
            Verdict::In(time) => Ok(Outcome::After(time)),
            Verdict::Now => {
                let time = now.round(Unit::Second).unwrap_or(now);
                let message = "Taint manager: deleting due to NoExecute taint";
                let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": message, "lastTransitionTime": time});
                let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
                self.pods.patch_status(key, &Patch::Strategic(patch)).await?;
                context.events.normal(reference_of(pod.as_ref()), "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
                self.pods.delete(&pod).await?;
                Ok(Outcome::Done)
            }
        }
    }
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    In(Duration),
    Now,
}

/// The shortest of the times for which all taints are tolerated, counted from when each taint was added; `since` for those that do not say.
fn verdict(taints: &[Taint], tolerations: &[Toleration], since: Timestamp, now: Timestamp) -> Verdict {
    let mut due: Option<Timestamp> = None;
    for taint in taints {
        let matching: Vec<&Toleration> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Verdict::Now;
        }
        let added = taint.time_added.as_ref().map_or(since, |time| time.0);
        if let Some(seconds) = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min() {
            let end = added.checked_add(jiff::SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
            due = Some(due.map_or(end, |due| due.min(end)));
        }
    }
    match due {
        None => Verdict::Stay,
        Some(due) if due <= now => Verdict::Now,
        Some(due) => Verdict::In(Duration::try_from(now.duration_until(due)).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn a_pod_stays_goes_at_once_or_goes_after_the_shortest_toleration() {
        let now = Timestamp::from_second(1000).expect("in range");
        let taint =
            |key: &str, added: i64| Taint { key: key.into(), effect: "NoExecute".into(), value: None, time_added: Some(Time(Timestamp::from_second(added).expect("in range"))) };
        let toleration = |key: &str, seconds: Option<i64>| Toleration { key: Some(key.into()), operator: Some("Exists".into()), toleration_seconds: seconds, ..Default::default() };
        for (taints, tolerations, expected) in [
            (vec![], vec![], Verdict::Stay),
            (vec![taint("a", 1000)], vec![], Verdict::Now),
            (vec![taint("a", 1000)], vec![toleration("a", None)], Verdict::Stay),
            (vec![taint("a", 900)], vec![toleration("a", Some(300))], Verdict::In(Duration::from_secs(200))),
            (vec![taint("a", 600)], vec![toleration("a", Some(300))], Verdict::Now),
            (vec![taint("a", 1000), taint("b", 1000)], vec![toleration("a", Some(300)), toleration("b", Some(5))], Verdict::In(Duration::from_secs(5))),
        ] {
            assert_eq!(verdict(&taints, &tolerations, now, now), expected, "{taints:?} {tolerations:?}");
        }
    }
    #[test]
    fn the_time_of_a_taint_that_does_not_say_when_it_came_runs_from_when_it_was_met() {
        let second = |n: i64| Timestamp::from_second(n).expect("in range");
        let taints = [Taint { key: "a".into(), effect: "NoExecute".into(), ..Default::default() }];
        let tolerations = [Toleration { key: Some("a".into()), operator: Some("Exists".into()), toleration_seconds: Some(10), ..Default::default() }];
        assert_eq!(verdict(&taints, &tolerations, second(1000), second(1000)), Verdict::In(Duration::from_secs(10)));
        assert_eq!(verdict(&taints, &tolerations, second(1000), second(1004)), Verdict::In(Duration::from_secs(6)));
        assert_eq!(verdict(&taints, &tolerations, second(1000), second(1010)), Verdict::Now);
    }
}
