//! The status the API is told.

use super::conditions::second;
use super::{Ending, Life, Observed, conditions, is_sidecar, phase, resize, restart};
use crate::container_config::is_recursively_read_only;
use crate::qos;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP, PodIP, PodStatus, ResourceRequirements,
    VolumeMountStatus,
};
use keles_runtime::api::{ContainerState, ContainerStatus as Record};

/// What all containers of a pod together may leave as termination messages; each gets an equal part (upstream's limit).
const MAX_POD_MESSAGES_BYTES: usize = 12 << 10;

/// The whole status; `old` is what the API has.
pub fn generate(observed: &Observed<'_>, old: &PodStatus, host_ips: &[String]) -> PodStatus {
    let spec = observed.spec();
    let waiting = if spec.init_containers.as_ref().is_some_and(|inits| !inits.is_empty()) { "PodInitializing" } else { "ContainerCreating" };
    let of = |containers: &[Container], old: Option<&Vec<ContainerStatus>>, is_init: bool| -> Vec<ContainerStatus> {
        let old = old.map(Vec::as_slice).unwrap_or_default();
        containers.iter().map(|container| container_status(observed, container, is_init, waiting, old)).collect()
    };
    let inits = of(spec.init_containers.as_deref().unwrap_or_default(), old.init_container_statuses.as_ref(), true);
    let mut mains = of(&spec.containers, old.container_statuses.as_ref(), false);
    mains.sort_by(|a, b| a.name.cmp(&b.name));
    let phase = reported_phase(observed, &inits, &mains, old);
    let ips = pod_ips(observed, old, host_ips);
    let (reason, message) = match observed.life {
        Life::Terminating(Ending::Failed { reason, message }) if phase == phase::FAILED => (Some((*reason).to_string()), Some(message.clone())),
        _ => (old.reason.clone(), old.message.clone()),
    };
    let mut status = PodStatus {
        observed_generation: observed.pod.metadata.generation,
        conditions: Some(conditions::generate(observed, &inits, &mains, &phase, old.conditions.as_deref().unwrap_or_default())),
        phase: Some(phase),
        reason,
        message,
        host_ip: host_ips.first().cloned(),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        start_time: old.start_time.clone().or_else(|| Some(second(observed.now))),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(mains),
        ephemeral_container_statuses: ephemeral(observed),
        qos_class: Some(qos::class(spec).to_string()),
        allocated_resources: spec.resources.as_ref().and_then(|whole| whole.requests.clone()).filter(|requests| !requests.is_empty()),
        resources: spec.resources.as_ref().map(|given| observed.running_with.get(resize::POD).unwrap_or(given).clone()),
        ..old.clone()
    };
    if status.phase.as_deref().is_some_and(phase::is_terminal) {
        account_for_all(&mut status);
    }
    shorten_messages(&mut status);
    status
}

/// Once a pod has ended, a container that it had come to and that tells no end counts as failed (upstream's `TerminatePod`).
fn account_for_all(status: &mut PodStatus) {
    let has_begun = |container: &ContainerStatus| !waits(container) || container.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
    let initialized = {
        let inits = status.init_container_statuses.as_deref().unwrap_or_default();
        let last_is_done =
            inits.last().is_none_or(|last| last.ready || [&last.state, &last.last_state].into_iter().flatten().any(|s| s.terminated.as_ref().is_some_and(|t| t.exit_code == 0)));
        last_is_done || status.container_statuses.iter().flatten().any(has_begun)
    };
    let inits = status.init_container_statuses.as_deref_mut().unwrap_or_default();
    // An ended pod had come to its first one at least.
    let reached = inits.iter().rposition(|init| has_begun(init)).map_or(1, |last| last + 1).min(inits.len());
    let mains = status.container_statuses.as_deref_mut().filter(|_| initialized).unwrap_or_default();
    for container in inits[..reached].iter_mut().chain(mains) {
        if container.state.as_ref().is_none_or(|state| state.terminated.is_none()) {
            container.state = Some(lost_state(None));
        }
    }
}

fn waits(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_none_or(|state| state.running.is_none() && state.terminated.is_none())
}

/// What is told of a container whose end nobody saw.
fn lost_state(container_id: Option<String>) -> ApiState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was terminated".into()),
        container_id,
        ..Default::default()
    };
    ApiState { terminated: Some(terminated), ..Default::default() }
}

/// The beginning of each message, as far as the container's part of the limit reaches.
fn shorten_messages(status: &mut PodStatus) {
    let lists = [&mut status.init_container_statuses, &mut status.container_statuses, &mut status.ephemeral_container_statuses];
    let mut all: Vec<&mut ContainerStatus> = lists.into_iter().flatten().flatten().collect();
    let part = MAX_POD_MESSAGES_BYTES / all.len().max(1);
    for container in &mut all {
        for ended in [&mut container.state, &mut container.last_state].into_iter().flatten().filter_map(|state| state.terminated.as_mut()) {
            if let Some(message) = ended.message.as_mut().filter(|message| message.len() > part) {
                message.truncate(message.floor_char_boundary(part));
            }
        }
    }
}

/// A terminal phase is told only once nothing runs any more and its claims are given back, and is never taken back.
fn reported_phase(observed: &Observed<'_>, inits: &[ContainerStatus], mains: &[ContainerStatus], old: &PodStatus) -> String {
    let before = old.phase.as_deref().unwrap_or(phase::PENDING);
    if phase::is_terminal(before) {
        return before.into();
    }
    let mut now = phase::of(observed, inits, mains);
    let ended_by_node = matches!(observed.life, Life::Terminating(Ending::Failed { .. }));
    if ended_by_node {
        now = phase::FAILED;
    }
    if phase::is_terminal(now) && (observed.sandbox.is_some_and(|sandbox| sandbox.ready) || any_runs(observed) || observed.holds_claims) {
        return before.into();
    }
    now.into()
}

fn any_runs(observed: &Observed<'_>) -> bool {
    observed.records.iter().any(|record| record.state == ContainerState::Running)
}

fn pod_ips(observed: &Observed<'_>, old: &PodStatus, host_ips: &[String]) -> Vec<String> {
    if observed.spec().host_network == Some(true) {
        return host_ips.to_vec();
    }
    match observed.sandbox {
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        // A stopped sandbox has no addresses, but the API goes on showing the last ones.
        _ => old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    }
}

fn container_status(observed: &Observed<'_>, container: &Container, is_init: bool, waiting: &str, old: &[ContainerStatus]) -> ContainerStatus {
    let mut records: Vec<&Record> = observed.records.iter().filter(|record| record.name == container.name).collect();
    records.sort_by_key(|record| std::cmp::Reverse(super::order(record)));
    let mut status = match records.first() {
        Some(newest) => from_record(observed, container, newest, waiting),
        None => without_record(container, waiting, old),
    };
    status.last_state = records.get(1).map(|record| api_state(observed, record, waiting)).or(status.last_state);
    show_failure(observed, container, is_init, records.first().copied(), &mut status);
    show_readiness(observed, container, is_init, records.first().copied(), &mut status);
    status
}

/// Nothing is known of it here: it waits for its first start, or an earlier agent's account of its end still stands.
fn without_record(container: &Container, waiting: &str, old: &[ContainerStatus]) -> ContainerStatus {
    let known = old.iter().find(|status| status.name == container.name);
    if let Some(ended) = known.filter(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some())) {
        return ended.clone();
    }
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: known.map_or(0, |status| status.restart_count),
        last_state: known.and_then(|status| status.last_state.clone()),
        state: Some(waiting_state(waiting, None)),
        ..Default::default()
    };
    if let Some(lost) = known.filter(|status| status.state.as_ref().is_some_and(|state| state.running.is_some())) {
        status.restart_count += 1;
        status.last_state = Some(lost_state(lost.container_id.clone()));
    }
    status
}

fn from_record(observed: &Observed<'_>, container: &Container, record: &Record, waiting: &str) -> ContainerStatus {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.clone()).filter(|requests| !requests.is_empty());
    let resources = observed.running_with.get(&record.id).cloned().or_else(|| container.resources.clone()).unwrap_or_default();
    let requested = resources.requests.clone().filter(|requests| !requests.is_empty());
    ContainerStatus {
        name: container.name.clone(),
        image: record.image.clone(),
        image_id: record.image_id.clone(),
        container_id: Some(format!("{}://{}", observed.runtime.id_scheme, record.id)),
        restart_count: record.attempt as i32,
        state: Some(api_state(observed, record, waiting)),
        allocated_resources: requests,
        resources: Some(ResourceRequirements { claims: None, limits: resources.limits, requests: requested }),
        user: crate::security::effective_user(observed.spec(), container),
        volume_mounts: mounts(container, observed.runtime.recursive_read_only),
        ..Default::default()
    }
}

fn mounts(container: &Container, recursive: bool) -> Option<Vec<VolumeMountStatus>> {
    let all = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let status = |mount: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: mount
            .read_only
            .filter(|read_only| *read_only)
            .map(|_| if recursive && is_recursively_read_only(mount) { "Enabled".into() } else { "Disabled".into() }),
        ..Default::default()
    };
    Some(all.iter().map(status).collect())
}

fn waiting_state(reason: &str, message: Option<String>) -> ApiState {
    ApiState { waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }), ..Default::default() }
}

fn api_state(observed: &Observed<'_>, record: &Record, waiting: &str) -> ApiState {
    let time = |ns: i64| Timestamp::from_nanosecond(i128::from(ns)).ok().map(second);
    match record.state {
        ContainerState::Running => ApiState { running: Some(ContainerStateRunning { started_at: time(record.started_at_unix_ns) }), ..Default::default() },
        ContainerState::Created | ContainerState::Unknown => waiting_state(waiting, None),
        ContainerState::Exited => {
            let never_ran = record.reason == "StartError";
            let message = if record.message.is_empty() { observed.messages.get(&record.id).cloned() } else { Some(record.message.clone()) };
            let ended = ContainerStateTerminated {
                // 128 whatever the runtime's own code: what clients know StartError by.
                exit_code: if never_ran { 128 } else { record.exit_code },
                reason: Some(reason_of(record)),
                message: message.filter(|message| !message.is_empty()),
                started_at: time(record.started_at_unix_ns),
                finished_at: time(record.finished_at_unix_ns),
                container_id: Some(format!("{}://{}", observed.runtime.id_scheme, record.id)),
                signal: None,
            };
            ApiState { terminated: Some(ended), ..Default::default() }
        }
    }
}

fn reason_of(record: &Record) -> String {
    match (record.reason.as_str(), record.exit_code) {
        ("", 0) => "Completed".into(),
        ("", _) => "Error".into(),
        (reason, _) => reason.into(),
    }
}

/// A container that is to be started and whose last try failed shows why, and its end becomes the last state.
fn show_failure(observed: &Observed<'_>, container: &Container, is_init: bool, record: Option<&Record>, status: &mut ContainerStatus) {
    let Some(failure) = observed.failures.get(&container.name) else { return };
    if *observed.life != Life::Syncing || !restart::is_due(observed, container, is_init, record) {
        return;
    }
    if status.state.as_ref().is_some_and(|state| state.terminated.is_some()) {
        status.last_state = status.state.take();
    }
    status.state = Some(waiting_state(failure.reason, Some(failure.message.clone())));
}

fn show_readiness(observed: &Observed<'_>, container: &Container, is_init: bool, record: Option<&Record>, status: &mut ContainerStatus) {
    let running = record.filter(|record| record.state == ContainerState::Running && status.state.as_ref().is_some_and(|state| state.running.is_some()));
    let started = running.is_some_and(|record| observed.has_started(container, record));
    status.started = Some(started);
    status.ready = if is_init && !is_sidecar(container) {
        status.state.as_ref().and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.exit_code == 0)
    } else {
        let verdict = running.and_then(|record| observed.verdicts_of(record).readiness);
        started && (container.readiness_probe.is_none() || verdict == Some(true))
    };
}

fn ephemeral(observed: &Observed<'_>) -> Option<Vec<ContainerStatus>> {
    let all = observed.spec().ephemeral_containers.as_ref().filter(|all| !all.is_empty())?;
    let status = |ephemeral: &k8s_openapi::api::core::v1::EphemeralContainer| {
        let container = crate::ephemeral::as_container(ephemeral);
        let mut status = container_status(observed, &container, false, "ContainerCreating", &[]);
        (status.ready, status.started, status.resources) = (false, None, None);
        status
    };
    Some(all.iter().map(status).collect())
}
