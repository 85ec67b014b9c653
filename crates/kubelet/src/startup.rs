//! How long one pod's start took, by the definition of the pod startup latency SLI. Pure: times are inputs.
//!
//! Entry points: [`Startup::of`] when the pod is first seen, [`Startup::told`], [`Startup::seen`]. A pod counts once, when the API shows all of its
//! containers as started; one that began before this run or could not be scheduled at once does not.
//! Source: kubernetes pkg/kubelet/util/pod_startup_latency_tracker.go.

use crate::machine::phase;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{CSIVolumeSource, Pod, PodStatus, Volume};

#[derive(Debug, Default)]
pub struct Startup {
    /// Its start is still to be told.
    is_open: bool,
    /// The agent itself has told that all containers started.
    is_running: bool,
    /// Pulls one after the other, as a worker makes them.
    pulling: SignedDuration,
}

/// What a start took.
#[derive(Debug, PartialEq, Eq)]
pub struct Took {
    pub whole: SignedDuration,
    /// Without pulls and init containers; none for a pod with volumes that others must give.
    pub own: Option<SignedDuration>,
}

impl Startup {
    pub fn of(pod: &Pod) -> Self {
        let began = pod.status.as_ref().is_some_and(|status| status.start_time.is_some() || status.phase.as_deref().is_some_and(phase::is_terminal));
        Self { is_open: !began, ..Self::default() }
    }

    pub fn pulled(&mut self, took: SignedDuration) {
        self.pulling += took;
    }

    /// The agent tells this status.
    pub fn told(&mut self, status: &PodStatus) {
        self.is_running |= self.is_open && has_started(status);
    }

    /// The API shows the pod.
    pub fn seen(&mut self, pod: &Pod, now: Timestamp) -> Option<Took> {
        let status = pod.status.as_ref().filter(|_| self.is_open)?;
        if status.phase.as_deref().is_some_and(phase::is_terminal) || waited_for_a_node(status) {
            self.is_open = false;
            return None;
        }
        if !self.is_running || !has_started(status) {
            return None;
        }
        self.is_open = false;
        let whole = now.duration_since(pod.metadata.creation_timestamp.as_ref()?.0);
        let needs_others = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|volume| !is_own(volume));
        Some(Took { whole, own: (!needs_others).then(|| whole - self.pulling - of_init_containers(status)) })
    }
}

fn has_started(status: &PodStatus) -> bool {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let started = |state: &k8s_openapi::api::core::v1::ContainerState| state.running.as_ref().is_some_and(|running| running.started_at.is_some());
    !containers.is_empty() && containers.iter().all(|container| container.state.as_ref().is_some_and(started))
}

/// By the SLI's definition a pod is schedulable at once.
fn waited_for_a_node(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
}

/// What the node makes for the pod, or what comes and goes with it.
fn is_own(volume: &Volume) -> bool {
    let is_inline = |csi: &CSIVolumeSource| csi.volume_attributes.as_ref().and_then(|all| all.get("csi.storage.k8s.io/ephemeral")).is_some_and(|is| is == "true");
    let of_objects = volume.secret.is_some() || volume.config_map.is_some() || volume.downward_api.is_some() || volume.projected.is_some();
    let of_node = volume.empty_dir.is_some() || volume.git_repo.is_some() || volume.image.is_some();
    of_objects || of_node || volume.ephemeral.is_some() || volume.csi.as_ref().is_some_and(is_inline)
}

fn of_init_containers(status: &PodStatus) -> SignedDuration {
    let ended = status.init_container_statuses.iter().flatten().filter_map(|container| container.state.as_ref()?.terminated.as_ref());
    let ran = ended.filter_map(|end| Some(end.finished_at.as_ref()?.0.duration_since(end.started_at.as_ref()?.0)));
    ran.filter(SignedDuration::is_positive).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const CREATED: &str = "2026-01-01T00:00:00Z";

    fn at(seconds: i64) -> Timestamp {
        CREATED.parse::<Timestamp>().expect("a time") + SignedDuration::from_secs(seconds)
    }

    fn pod(spec: Value, status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "creationTimestamp": CREATED}, "spec": spec, "status": status})).expect("a pod")
    }

    fn running() -> Value {
        let init = json!({"name": "i", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "startedAt": "2026-01-01T00:00:02Z", "finishedAt": "2026-01-01T00:00:05Z"}}});
        let main = json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:09Z"}}});
        json!({"phase": "Running", "startTime": CREATED, "containerStatuses": [main], "initContainerStatuses": [init]})
    }

    fn plain() -> Value {
        json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {}}, {"name": "token", "projected": {"sources": []}}]})
    }

    fn started(spec: Value) -> Startup {
        let mut startup = Startup::of(&pod(spec, json!({})));
        startup.pulled(SignedDuration::from_secs(4));
        startup.told(pod(plain(), running()).status.as_ref().expect("a status"));
        startup
    }

    #[test]
    fn pulls_and_init_containers_are_not_the_pods_own_time() {
        let mut startup = started(plain());
        let seen = startup.seen(&pod(plain(), running()), at(10));
        assert_eq!(seen, Some(Took { whole: SignedDuration::from_secs(10), own: Some(SignedDuration::from_secs(3)) }));
        assert_eq!(startup.seen(&pod(plain(), running()), at(20)), None, "once");
    }

    #[test]
    fn a_pod_that_needs_volumes_of_others_counts_as_a_whole_alone() {
        let spec = json!({"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
        assert_eq!(started(spec.clone()).seen(&pod(spec, running()), at(10)).map(|took| took.own), Some(None));
    }

    #[test]
    fn what_began_before_or_waited_for_a_node_does_not_count() {
        let told = pod(plain(), running());
        let mut before = Startup::of(&told);
        before.told(told.status.as_ref().expect("a status"));
        assert_eq!(before.seen(&told, at(10)), None);
        let mut waited = started(plain());
        assert_eq!(waited.seen(&pod(plain(), json!({"conditions": [{"type": "PodScheduled", "status": "False"}]})), at(1)), None);
        assert_eq!(waited.seen(&told, at(10)), None);
        let mut untold = Startup::of(&pod(plain(), json!({})));
        assert_eq!(untold.seen(&told, at(10)), None, "the agent has not told it yet");
    }
}
