//! The cgroups above pods': all pods together are held to what the node has besides what is reserved, and Burstable and BestEffort ones weigh what
//! they ask for, so that a crowd of them does not outweigh a Guaranteed pod.
//!
//! Entry points: [`hold_all`] before the first pod, [`run`] from then on. Guaranteed pods' groups lie beside those of the classes, with weights of their
//! own. Source: kubernetes pkg/kubelet/cm/node_container_manager_linux.go, qos_container_manager_linux.go.

use crate::agent::Agent;
use crate::events::{NORMAL, WARNING};
use crate::{qos, resources};
use k8s_openapi::api::core::v1::PodSpec;
use keles_runtime::api::Resources;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often what could not be held is tried again (upstream's figure).
const RETRY: Duration = Duration::from_secs(60);
/// Pods that come together are weighed together.
const REST: Duration = Duration::from_millis(250);
/// The least weight there is.
const LEAST: u64 = 2;

/// Makes the groups and holds them; false: not all that should be, which [`run`] tries again.
pub async fn hold_all(agent: &Agent) -> bool {
    let held = hold_allocatable(agent).await;
    let best_effort = Resources { cpu_shares: Some(LEAST), ..Resources::default() };
    let weighed = limit(agent, qos::BEST_EFFORT_GROUP, best_effort).await && weigh_burstable(agent, None).await.is_some();
    held && weighed
}

/// Keeps the weight of Burstable pods what they ask for until `stop`; `is_held` as [`hold_all`] said.
pub async fn run(agent: Arc<Agent>, mut is_held: bool, stop: CancellationToken) {
    let (mut taken, mut freed) = (agent.taken.subscribe(), agent.freed.subscribe());
    let mut weight = None;
    loop {
        tokio::select! {
            Ok(()) = taken.changed() => {}
            Ok(()) = freed.changed() => {}
            () = tokio::time::sleep(RETRY), if !is_held => is_held = hold_all(&agent).await,
            () = stop.cancelled() => return,
        }
        match weigh_burstable(&agent, weight).await {
            Some(now) => weight = Some(now),
            None => is_held = false,
        }
        let Some(()) = stop.run_until_cancelled(tokio::time::sleep(REST)).await else { return };
    }
}

async fn limit(agent: &Agent, group: &str, resources: Resources) -> bool {
    match agent.runtime.limit_group(group, resources).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, group, "a group of pods is not held as it should be, will be tried again");
            false
        }
    }
}

/// All pods together.
async fn hold_allocatable(agent: &Agent) -> bool {
    if !agent.config.enforced.allocatable {
        return true;
    }
    let pids = crate::figures::machine::pid_max(std::path::Path::new("/proc"));
    let node = &agent.config.node_name;
    match agent.runtime.limit_group("", allocatable(agent.facts.cpus, agent.facts.memory_bytes, pids, &agent.config.reserved)).await {
        Ok(()) => {
            agent.events.node(node, NORMAL, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "pods are not held to what the node has for them, will be tried again");
            agent.events.node(node, WARNING, "FailedNodeAllocatableEnforcement", format!("Failed to update Node Allocatable Limits \"\": {error}"));
            false
        }
    }
}

/// Thresholds of eviction are not taken off: eviction is to come before the kernel.
fn allocatable(cpus: i64, memory_bytes: i64, pids: Option<u64>, reserved: &crate::config::Reserved) -> Resources {
    Resources {
        cpu_shares: Some(resources::shares(cpus * 1000 - reserved.cpu_milli)),
        memory_limit_bytes: Some(memory_bytes - reserved.memory_bytes).filter(|bytes| *bytes > 0),
        pids_limit: pids.and_then(|all| i64::try_from(all).ok()).map(|all| all - reserved.processes).filter(|count| *count > 0),
        ..Resources::default()
    }
}

/// The weight of the class, told to the kernel where it is not what it was; none: it could not be.
async fn weigh_burstable(agent: &Agent, before: Option<u64>) -> Option<u64> {
    let pods = agent.pods.holding("");
    let weight = burstable_weight(pods.iter().filter_map(|pod| pod.spec.as_ref()));
    let figures = Resources { cpu_shares: Some(weight), ..Resources::default() };
    (before == Some(weight) || limit(agent, qos::BURSTABLE_GROUP, figures).await).then_some(weight)
}

fn burstable_weight<'a>(pods: impl Iterator<Item = &'a PodSpec>) -> u64 {
    resources::shares(pods.filter(|spec| qos::class(spec) == qos::BURSTABLE).map(resources::cpu_request_milli).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Reserved;
    use serde_json::json;

    #[test]
    fn pods_have_what_is_not_reserved() {
        let reserved = Reserved { cpu_milli: 500, memory_bytes: 1 << 30, disk_bytes: 9, processes: 1000 };
        let all = allocatable(4, 8 << 30, Some(32_768), &reserved);
        assert_eq!((all.cpu_shares, all.memory_limit_bytes, all.pids_limit, all.cpu_quota_us), (Some(3584), Some(7 << 30), Some(31_768), None));
        let too_much = allocatable(1, 1 << 30, None, &Reserved { cpu_milli: 2000, memory_bytes: 2 << 30, ..Reserved::default() });
        assert_eq!((too_much.cpu_shares, too_much.memory_limit_bytes, too_much.pids_limit), (Some(LEAST), None, None));
    }

    #[test]
    fn burstable_pods_weigh_what_they_ask_for_together() {
        let spec = |resources: serde_json::Value| -> PodSpec { serde_json::from_value(json!({"containers": [{"name": "c", "resources": resources}]})).expect("a spec") };
        let guaranteed = spec(json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "1Mi"}}));
        let all = [spec(json!({"requests": {"cpu": "250m"}})), spec(json!({"requests": {"cpu": "750m"}, "limits": {"cpu": "1"}})), guaranteed, spec(json!({}))];
        assert_eq!(burstable_weight(all.iter()), 1024);
        assert_eq!(burstable_weight(std::iter::empty()), LEAST);
    }
}
