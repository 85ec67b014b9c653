//! What to do next for a pod.

use super::backoff::Wait;
use super::{Life, Observed, is_sidecar, restart};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use keles_runtime::api::{ContainerState, ContainerStatus};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Init,
    Main,
    Ephemeral,
}

/// End one container; it may be started again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    /// The Killing event's text.
    pub message: String,
    /// The failed probe's own grace period, if it has one.
    pub grace_seconds: Option<i64>,
    /// Start it again right after the kill. Back-off counts from the end before this one, as upstream counts it: a container that ran until
    /// its probe failed is not held for that.
    pub restart: Option<Start>,
    /// The end that the restart is counted against.
    pub ended_before: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub role: Role,
    pub index: usize,
    /// Restart count of the new container.
    pub attempt: u32,
}

/// A restart that has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub name: String,
    pub wait: Wait,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Every container has ended for good (or can never start): end what is left and give everything back.
    pub finish: bool,
    /// Make a sandbox of this attempt first; whatever an older one still runs is ended with it.
    pub sandbox: Option<u32>,
    pub kill: Vec<Kill>,
    /// In order; each may fail without the next being skipped.
    pub start: Vec<Start>,
    pub held: Vec<Held>,
}

/// Decides for a pod that is [`Life::Syncing`]; other lives need no decision.
pub fn decide(observed: &Observed<'_>) -> Actions {
    if *observed.life != Life::Syncing {
        return Actions::default();
    }
    match observed.sandbox {
        Some(sandbox) if sandbox.ready => in_sandbox(observed),
        lost => without_sandbox(observed, lost.map_or(0, |sandbox| sandbox.attempt + 1)),
    }
}

/// There is no sandbox, or it died: a new one, unless everything is over.
fn without_sandbox(observed: &Observed<'_>, attempt: u32) -> Actions {
    let spec = observed.spec();
    let never = spec.restart_policy.as_deref() == Some("Never");
    let ran = attempt > 0 && !observed.records.is_empty();
    let done = |container: &Container| {
        let record = observed.newest(&container.name);
        record.is_some_and(|record| record.state == ContainerState::Exited && !restart::after_exit(observed, container, false, record.exit_code))
    };
    if ran && (never || spec.containers.iter().all(done)) {
        return Actions { finish: true, ..Default::default() };
    }
    Actions { sandbox: Some(attempt), ..Default::default() }
}

fn in_sandbox(observed: &Observed<'_>) -> Actions {
    let mut actions = Actions::default();
    if let Some(trigger) = restart::asks_for_all(observed) {
        actions.kill = left_over(observed, trigger).collect();
        let ended = finished_at(trigger);
        let wait = ended.filter(|_| actions.kill.is_empty() && !has_begun_again(observed)).and_then(|ended| observed.backoffs.waiting(&trigger.name, ended, observed.now));
        actions.held.extend(wait.map(|wait| Held { name: trigger.name.clone(), wait }));
        if !(actions.kill.is_empty() && actions.held.is_empty()) {
            return actions;
        }
    }
    let spec = observed.spec();
    for (index, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        if observed.current(&container.name).is_none() {
            actions.start.push(Start { role: Role::Ephemeral, index, attempt: 0 });
        }
    }
    match initialize(observed, &mut actions) {
        Initialization::Done => run_main(observed, &mut actions),
        Initialization::Pending => {}
        Initialization::Failed => actions.finish = true,
    }
    actions
}

/// What still runs from before `trigger` asked for a restart of all containers: killed at once, without hooks or grace (KEP-5532).
fn left_over<'a>(observed: &'a Observed<'_>, trigger: &'a ContainerStatus) -> impl Iterator<Item = Kill> + 'a {
    let spec = observed.spec();
    let is_ours = |name: &str| spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|container| container.name == name);
    let before = |record: &&ContainerStatus| record.sandbox_id == trigger.sandbox_id && record.created_at_unix_ns <= trigger.finished_at_unix_ns;
    let running = observed.records.iter().filter(before).filter(move |record| record.state == ContainerState::Running && is_ours(&record.name));
    running.map(|record| Kill {
        id: record.id.clone(),
        name: record.name.clone(),
        message: format!("Container {} will be restarted with all containers of the pod", record.name),
        grace_seconds: Some(0),
        restart: None,
        ended_before: None,
    })
}

/// Whether any container was made after all were to be restarted.
fn has_begun_again(observed: &Observed<'_>) -> bool {
    let spec = observed.spec();
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|container| observed.current(&container.name).is_some())
}

/// Whether all containers are being ended to be started again; `None` when that never was.
pub fn restarting_all(observed: &Observed<'_>) -> Option<bool> {
    restart::asks_for_all(observed).map(|trigger| left_over(observed, trigger).next().is_some() || !has_begun_again(observed))
}

enum Initialization {
    Done,
    Pending,
    /// An init container failed and nothing restarts it.
    Failed,
}

/// Init containers one after another; sidecars are kept up beside what follows them.
fn initialize(observed: &Observed<'_>, actions: &mut Actions) -> Initialization {
    let was_initialized = observed.was_initialized();
    let inits = observed.spec().init_containers.as_deref().unwrap_or_default();
    for (index, container) in inits.iter().enumerate() {
        let record = observed.current(&container.name);
        if is_sidecar(container) {
            let up = keep_sidecar(observed, container, record, index, actions);
            if !up && !was_initialized {
                return Initialization::Pending;
            }
            continue;
        }
        // A later init container's record proves that this one was done, even when its own record is gone.
        if was_initialized || (record.is_none() && inits[index + 1..].iter().any(|later| !is_sidecar(later) && observed.current(&later.name).is_some())) {
            continue;
        }
        match record {
            Some(record) if record.state == ContainerState::Exited && record.exit_code == 0 && !restart::after_exit(observed, container, true, 0) => {}
            Some(record) if record.state == ContainerState::Running => return Initialization::Pending,
            Some(record) if !restart::is_due(observed, container, true, Some(record)) => return Initialization::Failed,
            record => {
                start(observed, container, record, Role::Init, index, actions);
                return Initialization::Pending;
            }
        }
    }
    Initialization::Done
}

/// Keeps a sidecar running; `true` when what follows it may start.
fn keep_sidecar(observed: &Observed<'_>, container: &Container, record: Option<&ContainerStatus>, index: usize, actions: &mut Actions) -> bool {
    match record {
        Some(record) if record.state == ContainerState::Running => {
            if let Some(kill) = resized(observed, record, Role::Init, index).or_else(|| failed_probe(observed, container, record, Role::Init, index)) {
                actions.kill.push(kill);
                return false;
            }
            observed.has_started(container, record)
        }
        record => {
            start(observed, container, record, Role::Init, index, actions);
            false
        }
    }
}

fn run_main(observed: &Observed<'_>, actions: &mut Actions) {
    let mut alive = 0;
    let mut due = 0;
    for (index, container) in observed.spec().containers.iter().enumerate() {
        let record = observed.current(&container.name);
        match record {
            Some(record) if record.state == ContainerState::Running => {
                alive += 1;
                actions.kill.extend(resized(observed, record, Role::Main, index).or_else(|| failed_probe(observed, container, record, Role::Main, index)));
            }
            record if restart::is_due(observed, container, false, record) => {
                due += 1;
                start(observed, container, record, Role::Main, index, actions);
            }
            _ => {}
        }
    }
    if alive == 0 && due == 0 {
        // Sidecars end with the last regular container.
        *actions = Actions { finish: true, ..Default::default() };
    }
}

/// Starts now, or notes how long the back-off still holds it.
fn start(observed: &Observed<'_>, container: &Container, record: Option<&ContainerStatus>, role: Role, index: usize, actions: &mut Actions) {
    let attempt = observed.newest(&container.name).map_or(0, |newest| newest.attempt + 1);
    let ended = record.and_then(finished_at);
    match ended.and_then(|ended| observed.backoffs.waiting(&container.name, ended, observed.now)) {
        Some(wait) => actions.held.push(Held { name: container.name.clone(), wait }),
        None => actions.start.push(Start { role, index, attempt }),
    }
}

/// When a container ended; absent while it has not.
pub fn finished_at(record: &ContainerStatus) -> Option<Timestamp> {
    if record.state != ContainerState::Exited {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(record.finished_at_unix_ns)).ok()
}

/// A resize whose policy asks for a restart: at once, and no back-off counts it.
fn resized(observed: &Observed<'_>, record: &ContainerStatus, role: Role, index: usize) -> Option<Kill> {
    observed.resize_restarts.contains(&record.id).then(|| Kill {
        id: record.id.clone(),
        name: record.name.clone(),
        message: format!("Container {} resize requires restart", record.name),
        grace_seconds: None,
        restart: Some(Start { role, index, attempt: record.attempt + 1 }),
        ended_before: None,
    })
}

fn failed_probe(observed: &Observed<'_>, container: &Container, record: &ContainerStatus, role: Role, index: usize) -> Option<Kill> {
    let verdicts = observed.verdicts_of(record);
    let (what, probe): (&str, Option<&Probe>) = if verdicts.startup == Some(false) {
        ("startup", container.startup_probe.as_ref())
    } else if verdicts.liveness == Some(false) {
        ("liveness", container.liveness_probe.as_ref())
    } else {
        return None;
    };
    let restarts = restart::after_kill(observed, container, role == Role::Init);
    let suffix = if restarts { ", will be restarted" } else { "" };
    let before = observed.records.iter().filter(|other| other.name == record.name && other.state == ContainerState::Exited).max_by_key(|other| other.attempt);
    let ended_before = before.and_then(finished_at);
    let is_held = ended_before.is_some_and(|ended| observed.backoffs.waiting(&container.name, ended, observed.now).is_some());
    Some(Kill {
        id: record.id.clone(),
        name: container.name.clone(),
        message: format!("Container {} failed {what} probe{suffix}", container.name),
        grace_seconds: probe.and_then(|probe| probe.termination_grace_period_seconds),
        restart: (restarts && !is_held).then_some(Start { role, index, attempt: record.attempt + 1 }),
        ended_before,
    })
}
