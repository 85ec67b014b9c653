//! Keeps running containers on the processors they may have: when one gets some for itself, all that share must leave them.
//!
//! Entry point: [`run`]. It is told of changes, and looks every `--cpu-manager-reconcile-period` besides, for containers that were being made then.

use crate::agent::Agent;
use crate::container_config::{LABEL_CONTAINER, LABEL_POD_UID};
use keles_runtime::api::{ContainerState, Resources};
use std::collections::BTreeMap;
use std::sync::Arc;

pub async fn run(agent: Arc<Agent>) {
    if agent.placement.cpus.is_none() {
        return;
    }
    let mut moved = agent.placement.moved.subscribe();
    let mut ticks = tokio::time::interval(agent.config.placement.reconcile_every);
    // What each container was told last.
    let mut told = BTreeMap::new();
    loop {
        tokio::select! { _ = ticks.tick() => {}, Ok(()) = moved.changed() => {} }
        told = pin_all(&agent, told).await;
    }
}

async fn pin_all(agent: &Agent, told: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let containers = match agent.runtime.list_containers().await {
        Ok(containers) => containers,
        Err(error) => {
            tracing::warn!(%error, "containers not listed: they stay on the processors they have");
            return told;
        }
    };
    let mut now = BTreeMap::new();
    for container in containers.into_iter().filter(|container| container.state == ContainerState::Running) {
        let (Some(uid), Some(name)) = (container.labels.get(LABEL_POD_UID), container.labels.get(LABEL_CONTAINER)) else { continue };
        let mut wanted = Resources::default();
        agent.placement.pin(uid, name, &mut wanted);
        let Some(cpus) = wanted.cpuset_cpus else { continue };
        if told.get(&container.id) != Some(&cpus) {
            let change = Resources { cpuset_cpus: Some(cpus.clone()), ..Default::default() };
            if let Err(error) = agent.runtime.update_resources(&container.id, change).await {
                tracing::warn!(%error, container = container.id, cpus, "a container is not on the processors it should be, will be tried again");
                continue;
            }
        }
        now.insert(container.id, cpus);
    }
    now
}
