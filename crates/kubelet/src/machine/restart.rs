//! Whether a container that ended is to be started again.

use super::{Observed, is_sidecar};
use k8s_openapi::api::core::v1::Container;
use keles_runtime::api::{ContainerState, ContainerStatus};

/// The policy that holds for a container: its own (KEP-753, KEP-5307) or the pod's.
fn policy<'a>(observed: &Observed<'a>, container: &'a Container, is_init: bool) -> &'a str {
    let of_pod = observed.spec().restart_policy.as_deref().unwrap_or("Always");
    match container.restart_policy.as_deref() {
        Some(own) => own,
        // An init container that succeeded is done, whatever the pod's policy.
        None if is_init && of_pod == "Always" => "OnFailure",
        None => of_pod,
    }
}

/// Whether `exit_code` of this container leads to another attempt.
pub fn after_exit(observed: &Observed<'_>, container: &Container, is_init: bool, exit_code: i32) -> bool {
    if by_rule(container, exit_code) {
        return true;
    }
    match policy(observed, container, is_init) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// `restartPolicyRules`: whether the first rule that matches the exit code asks for a restart of the container.
fn by_rule(container: &Container, exit_code: i32) -> bool {
    matching(container, exit_code) == Some("Restart")
}

/// The action of the first rule that matches.
fn matching(container: &Container, exit_code: i32) -> Option<&str> {
    let matches = |rule: &&k8s_openapi::api::core::v1::ContainerRestartRule| {
        let Some(codes) = &rule.exit_codes else { return false };
        codes.values.iter().flatten().any(|code| *code == exit_code) == (codes.operator == "In")
    };
    container.restart_policy_rules.iter().flatten().find(matches).map(|rule| rule.action.as_str())
}

/// The newest end in the current sandbox whose container has a rule that restarts all containers for it (KEP-5532).
pub fn asks_for_all<'a>(observed: &Observed<'a>) -> Option<&'a ContainerStatus> {
    let sandbox = observed.sandbox?;
    let spec = observed.spec();
    let matches = |record: &&ContainerStatus| {
        let container = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| container.name == record.name);
        container.is_some_and(|container| matching(container, record.exit_code).is_some_and(|action| action == "RestartAllContainers"))
    };
    let ended = observed.records.iter().filter(|record| record.sandbox_id == sandbox.id && record.state == ContainerState::Exited);
    ended.filter(matches).max_by_key(|record| record.finished_at_unix_ns)
}

/// Whether a container is to be started, given its newest record in the current sandbox.
pub fn is_due(observed: &Observed<'_>, container: &Container, is_init: bool, record: Option<&ContainerStatus>) -> bool {
    let Some(record) = record else { return true };
    match record.state {
        ContainerState::Running => false,
        // Made but never started, or lost: try again.
        ContainerState::Created | ContainerState::Unknown => true,
        ContainerState::Exited => after_exit(observed, container, is_init, record.exit_code),
    }
}

/// Whether a running container whose probe failed is started again after the kill.
pub fn after_kill(observed: &Observed<'_>, container: &Container, is_init: bool) -> bool {
    is_sidecar(container) || policy(observed, container, is_init) != "Never"
}
