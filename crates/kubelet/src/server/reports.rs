//! `/pods`, `/stats/summary` and `/metrics`.

use crate::agent::Agent;
use crate::pods::Pods;
use keles_runtime::api::ContainerState;
use serde_json::{Value, json};

pub fn pod_list(pods: &Pods) -> Value {
    let items = pods.views().into_iter().map(|view| {
        let mut pod = (*view.pod).clone();
        pod.status = Some(view.status);
        serde_json::to_value(pod).unwrap_or_default()
    });
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items.collect::<Vec<_>>()})
}

/// The summary API's cpu and memory of running containers; other figures are absent, not zero.
pub async fn summary(agent: &Agent, pods: &Pods) -> Value {
    let mut list = Vec::new();
    let now = jiff::Timestamp::now().to_string();
    for view in pods.views() {
        let mut containers = Vec::new();
        let (mut cpu, mut working_set) = (0, 0);
        for record in view.records.iter().filter(|record| record.state == ContainerState::Running) {
            let Ok(stats) = agent.runtime.stats(&record.id).await else { continue };
            cpu += stats.cpu_usage_ns;
            working_set += stats.memory_working_set_bytes;
            containers.push(json!({
                "name": record.name,
                "cpu": {"time": now, "usageCoreNanoSeconds": stats.cpu_usage_ns},
                "memory": {"time": now, "usageBytes": stats.memory_usage_bytes, "workingSetBytes": stats.memory_working_set_bytes},
            }));
        }
        let metadata = &view.pod.metadata;
        list.push(json!({
            "podRef": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
            "startTime": view.status.start_time,
            "containers": containers,
            "cpu": {"time": now, "usageCoreNanoSeconds": cpu},
            "memory": {"time": now, "workingSetBytes": working_set},
        }));
    }
    json!({"node": {"nodeName": agent.config.node_name}, "pods": list})
}

pub fn metrics(pods: &Pods) -> String {
    let views = pods.views();
    let running = |state| views.iter().flat_map(|view| &view.records).filter(|record| record.state == state).count();
    let sandboxes = views.iter().filter(|view| view.sandbox.is_some()).count();
    format!(
        "# HELP kubelet_running_pods Number of pods that have a running pod sandbox\n# TYPE kubelet_running_pods gauge\nkubelet_running_pods {sandboxes}\n\
         # HELP kubelet_running_containers Number of containers currently running\n# TYPE kubelet_running_containers gauge\n\
         kubelet_running_containers{{container_state=\"running\"}} {}\nkubelet_running_containers{{container_state=\"exited\"}} {}\n",
        running(ContainerState::Running),
        running(ContainerState::Exited),
    )
}
