//! The loop around the pure parts: read, decide, take back, end a pod, wait until it is gone.

use super::machine::{Machine, Pressure, Shortage};
use super::ranking::{Candidate, Use, rank, request};
use super::signals::Signal;
use super::{EVERY, is_critical, measure};
use crate::agent::Agent;
use crate::events::WARNING;
use crate::local_storage;
use crate::pod_worker::View;
use jiff::Timestamp;
use keles_runtime::api::{ContainerState, ContainerStatus, DiskUsage};
use keles_volumes::quantity::Quantity;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What the node is short of, for its status and for admission.
pub type SharedPressure = tokio::sync::watch::Sender<Pressure>;

/// How long one pod's end is waited for before the figures are looked at again (upstream's limit).
const CLEANUP: Duration = Duration::from_secs(30);
/// A pod that a hard threshold ends gets no more (upstream's immediate eviction).
const AT_ONCE: Duration = Duration::from_secs(1);

/// Watches the node's figures until `stop`.
pub async fn run(agent: Arc<Agent>, stop: CancellationToken) {
    let mut machine = Machine::new(agent.config.eviction.clone());
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { _ = ticks.tick() => {}, () = stop.cancelled() => return }
        tokio::select! { () = step(&agent, &mut machine) => {}, () = stop.cancelled() => return }
    }
}

async fn step(agent: &Arc<Agent>, machine: &mut Machine) {
    let Some(shortage) = look(agent, machine).await else { return };
    let resource = shortage.threshold.signal.resource();
    tracing::warn!(signal = shortage.threshold.signal.name(), available = shortage.figure.available, "the node is short of {resource}");
    agent.events.node(&agent.config.node_name, WARNING, "EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
    let shortage = if is_disk(shortage.threshold.signal) {
        crate::image_gc::free_all(agent).await;
        match look(agent, machine).await {
            Some(still) => still,
            None => return,
        }
    } else {
        shortage
    };
    end_one(agent, &shortage).await;
}

fn is_disk(signal: Signal) -> bool {
    signal.condition() == super::Condition::Disk
}

/// Reads the figures, tells the conditions; what is to be taken back.
async fn look(agent: &Agent, machine: &mut Machine) -> Option<Shortage> {
    let (dir, images) = (agent.config.data_dir.clone(), agent.images_dir.clone());
    let figures = tokio::task::spawn_blocking(move || measure::figures(&dir, &images)).await.ok()?;
    let verdict = machine.step(&figures, Timestamp::now());
    agent.pressure.send_if_modified(|now| {
        let is_new = *now != verdict.pressure;
        *now = verdict.pressure;
        is_new
    });
    verdict.shortage
}

/// Ends the pod whose turn it is, if there is one that may be ended.
async fn end_one(agent: &Agent, shortage: &Shortage) {
    let signal = shortage.threshold.signal;
    // Asked of the runtime: right after a start the pods' own views may not know yet what they took over.
    let sandboxes = agent.runtime.list_sandboxes().await.unwrap_or_default();
    let records = agent.runtime.list_containers().await.unwrap_or_default();
    let mut candidates = Vec::new();
    for view in agent.pods.views().into_iter().filter(may_be_ended) {
        let uid = view.pod.metadata.uid.as_deref().unwrap_or_default();
        let own: Vec<ContainerStatus> = records.iter().filter(|record| sandboxes.iter().any(|s| s.id == record.sandbox_id && s.config.uid == uid)).cloned().collect();
        candidates.push(candidate(agent, signal, &view, &own).await);
    }
    let Some(first) = rank(signal, candidates).into_iter().next() else {
        tracing::warn!("no pod may be ended to free {}", signal.resource());
        return;
    };
    let grace = if shortage.threshold.grace.is_some() { agent.config.eviction.max_pod_grace.max(AT_ONCE) } else { AT_ONCE };
    if let Some(given_back) = agent.pods.end(&first.uid, crate::machine::conditions::EVICTED, first.message(shortage), grace) {
        crate::metrics::EVICTIONS.with([signal.name()]).increment();
        let _ = tokio::time::timeout(CLEANUP, given_back).await;
    }
}

fn may_be_ended(view: &View) -> bool {
    let over = view.status.phase.as_deref().is_some_and(crate::machine::phase::is_terminal);
    !over && !is_critical(&view.pod)
}

async fn candidate(agent: &Agent, signal: Signal, view: &View, records: &[ContainerStatus]) -> Candidate {
    let spec = view.pod.spec.clone().unwrap_or_default();
    let resource = signal.resource();
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let (mut containers, mut others) = (Vec::new(), 0);
    let of_disk = |usage: DiskUsage| if signal.is_count() { usage.inodes } else { usage.bytes };
    for record in local_storage::newest(records).filter(|record| record.state == ContainerState::Running || is_disk(signal)) {
        let used = if is_disk(signal) {
            of_disk(local_storage::of_container(agent, record).await)
        } else {
            let stats = agent.runtime.stats(&record.id).await.unwrap_or_default();
            if signal == Signal::PidAvailable { stats.pids } else { stats.memory_working_set_bytes }
        };
        match all().find(|container| container.name == record.name) {
            Some(container) => containers.push(Use { name: record.name.clone(), used: used as i64, requested: request(container, resource) }),
            None => others += used as i64,
        }
    }
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    if is_disk(signal) {
        others += of_disk(local_storage::of_volumes(agent, &view.pod).await) as i64;
    }
    let requested = crate::admission::requests(&view.pod).get(resource).copied().map_or(0, Quantity::whole);
    let uid = view.pod.metadata.uid.clone().unwrap_or_default();
    Candidate { uid, priority: spec.priority.unwrap_or(0), containers, others, requested }
}
