//! Pod conditions the node owns: PodReadyToStartContainers, Initialized, Ready, ContainersReady. Others pass through untouched.

use super::{Ending, Life, Observed, actions, is_sidecar, phase};
use crate::preemption::PREEMPTING;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Condition types that are always reported, in their order.
const ALWAYS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
/// Condition types that are reported while they hold.
const RESIZE_PENDING: &str = "PodResizePending";
const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";
/// All that the node writes; others are of others.
pub const OWNED: [&str; 7] = [ALWAYS[0], ALWAYS[1], ALWAYS[2], ALWAYS[3], RESIZE_PENDING, RESIZE_IN_PROGRESS, RESTARTING_ALL];
/// KEP-5532; once there, it stays and says whether it is so now.
const RESTARTING_ALL: &str = "AllContainersRestarting";

/// The reason of a pod that the node evicts.
pub const EVICTED: &str = "Evicted";
/// Why a pod ended that had to go with the machine.
pub const TERMINATED: &str = "Terminated";
const DISRUPTION: &str = "DisruptionTarget";

struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn holds() -> Self {
        Self { holds: true, reason: None, message: None }
    }
    fn fails(reason: Option<&'static str>, message: Option<String>) -> Self {
        Self { holds: false, reason, message }
    }
}

/// All conditions to report: ours, then the ones of others as `old` has them.
pub fn generate(observed: &Observed<'_>, inits: &[ContainerStatus], mains: &[ContainerStatus], phase: &str, old: &[PodCondition]) -> Vec<PodCondition> {
    let containers_ready = containers_ready(observed, inits, mains, phase);
    let ready = ready(observed, &containers_ready, old);
    let verdicts = [sandbox_ready(observed), initialized(observed, inits, mains, phase), ready, containers_ready];
    let restarting = actions::restarting_all(observed).map(|now| (RESTARTING_ALL, if now { Verdict::holds() } else { Verdict::fails(None, None) }));
    let ours = ALWAYS.into_iter().zip(verdicts).chain(resize(observed)).chain(restarting).map(|(kind, verdict)| condition(observed, kind, verdict, old));
    let disrupted = disruption(observed).map(|verdict| condition(observed, DISRUPTION, verdict, old));
    let is_told = disrupted.is_some();
    let others = old.iter().filter(|condition| !OWNED.contains(&condition.type_.as_str()) && !(is_told && condition.type_ == DISRUPTION)).cloned();
    ours.chain(disrupted).chain(others).collect()
}

/// KEP-3329: the node ends the pod for the sake of others. Not [`OWNED`]: others disrupt pods too.
fn disruption(observed: &Observed<'_>) -> Option<Verdict> {
    let disrupted = |message: &str| Some(Verdict { holds: true, reason: Some("TerminationByKubelet"), message: Some(message.into()) });
    match observed.life {
        Life::Terminating(Ending::Failed { reason: PREEMPTING, .. }) => disrupted("Pod was preempted by Kubelet to accommodate a critical pod."),
        Life::Terminating(Ending::Failed { reason: EVICTED | TERMINATED, message }) => disrupted(message),
        _ => None,
    }
}

/// KEP-1287: present only while a resize waits or is under way.
fn resize(observed: &Observed<'_>) -> Vec<(&'static str, Verdict)> {
    let pending = observed.resize.pending.as_ref().map(|pending| (RESIZE_PENDING, Verdict { holds: true, reason: Some(pending.reason), message: Some(pending.message.clone()) }));
    let running = observed.resize.in_progress.as_ref().map(|fault| {
        let reason = fault.as_ref().map(|_| "Error");
        (RESIZE_IN_PROGRESS, Verdict { holds: true, reason, message: fault.clone() })
    });
    pending.into_iter().chain(running).collect()
}

fn condition(observed: &Observed<'_>, kind: &str, verdict: Verdict, old: &[PodCondition]) -> PodCondition {
    let status = if verdict.holds { "True" } else { "False" };
    let unchanged = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: verdict.reason.map(Into::into),
        message: verdict.message,
        last_transition_time: unchanged.and_then(|condition| condition.last_transition_time.clone()).or_else(|| Some(second(observed.now))),
        last_probe_time: None,
        observed_generation: observed.pod.metadata.generation,
    }
}

/// API times have seconds; a finer one would differ from what is read back and be written again.
pub fn second(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn sandbox_ready(observed: &Observed<'_>) -> Verdict {
    let has_address = |ips: &[String]| !ips.is_empty() || observed.spec().host_network == Some(true);
    match observed.sandbox {
        Some(sandbox) if sandbox.ready && has_address(&sandbox.ips) => Verdict::holds(),
        _ => Verdict::fails(None, None),
    }
}

fn initialized(observed: &Observed<'_>, inits: &[ContainerStatus], mains: &[ContainerStatus], phase: &str) -> Verdict {
    if phase == phase::SUCCEEDED {
        return Verdict { reason: Some("PodCompleted"), ..Verdict::holds() };
    }
    // A sidecar that restarts later does not undo initialization.
    if mains.iter().any(has_begun) {
        return Verdict::holds();
    }
    let incomplete = |status: &&ContainerStatus| {
        let sidecar = observed.spec().init_containers.iter().flatten().any(|container| container.name == status.name && is_sidecar(container));
        !if sidecar { status.started == Some(true) } else { status.ready }
    };
    let names: Vec<&str> = inits.iter().filter(incomplete).map(|status| status.name.as_str()).collect();
    if names.is_empty() {
        return Verdict::holds();
    }
    Verdict::fails(Some("ContainersNotInitialized"), Some(format!("containers with incomplete status: [{}]", names.join(" "))))
}

fn has_begun(status: &ContainerStatus) -> bool {
    status.started == Some(true)
        || status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
        || status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
}

fn containers_ready(observed: &Observed<'_>, inits: &[ContainerStatus], mains: &[ContainerStatus], phase: &str) -> Verdict {
    match phase {
        phase::SUCCEEDED => return Verdict::fails(Some("PodCompleted"), None),
        phase::FAILED => return Verdict::fails(Some("PodFailed"), None),
        _ => {}
    }
    let spec = observed.spec();
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let is_ready = |name: &str| inits.iter().chain(mains).any(|status| status.name == name && status.ready);
    let unready: Vec<&str> = sidecars.chain(&spec.containers).map(|container| container.name.as_str()).filter(|name| !is_ready(name)).collect();
    if unready.is_empty() {
        return Verdict::holds();
    }
    Verdict::fails(Some("ContainersNotReady"), Some(format!("containers with unready status: [{}]", unready.join(" "))))
}

/// Ready: the containers are, and every readiness gate (KEP-580) holds.
fn ready(observed: &Observed<'_>, containers: &Verdict, old: &[PodCondition]) -> Verdict {
    if !containers.holds {
        return Verdict::fails(containers.reason, containers.message.clone());
    }
    let mut faults = Vec::new();
    for gate in observed.spec().readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match old.iter().find(|condition| condition.type_ == *kind) {
            None => faults.push(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            Some(found) if found.status != "True" => faults.push(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {}", found.status)),
            Some(_) => {}
        }
    }
    if faults.is_empty() { Verdict::holds() } else { Verdict::fails(Some("ReadinessGatesNotReady"), Some(faults.join(", "))) }
}
