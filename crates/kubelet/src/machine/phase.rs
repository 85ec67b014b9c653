//! The pod's phase from its container statuses.

use super::{Life, Observed, is_sidecar, restart};
use k8s_openapi::api::core::v1::{Container, ContainerStatus};

pub const PENDING: &str = "Pending";
pub const RUNNING: &str = "Running";
pub const SUCCEEDED: &str = "Succeeded";
pub const FAILED: &str = "Failed";

pub fn is_terminal(phase: &str) -> bool {
    phase == SUCCEEDED || phase == FAILED
}

/// `inits` and `mains` are the statuses about to be reported.
pub fn of(observed: &Observed<'_>, inits: &[ContainerStatus], mains: &[ContainerStatus]) -> &'static str {
    let spec = observed.spec();
    match initialization(observed, inits) {
        Initialization::Failed => return FAILED,
        Initialization::Pending if !mains.iter().any(has_run) => return PENDING,
        _ => {}
    }
    let mut tally = Tally::default();
    for container in &spec.containers {
        tally.count(observed, container, mains);
    }
    tally.phase(observed)
}

enum Initialization {
    Done,
    Pending,
    Failed,
}

fn initialization(observed: &Observed<'_>, inits: &[ContainerStatus]) -> Initialization {
    let mut verdict = Initialization::Done;
    for container in observed.spec().init_containers.iter().flatten() {
        let status = inits.iter().find(|status| status.name == container.name);
        if is_sidecar(container) {
            if !status.is_some_and(|status| status.started == Some(true) || has_run(status)) {
                verdict = Initialization::Pending;
            }
            continue;
        }
        match status.and_then(exit_code) {
            Some(0) => {}
            Some(code) if !restart::after_exit(observed, container, true, code) => return Initialization::Failed,
            _ => verdict = Initialization::Pending,
        }
    }
    verdict
}

#[derive(Default)]
struct Tally {
    unknown: usize,
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
    /// Stopped, but another attempt will follow.
    restarting: usize,
}

impl Tally {
    fn count(&mut self, observed: &Observed<'_>, container: &Container, statuses: &[ContainerStatus]) {
        let Some(status) = statuses.iter().find(|status| status.name == container.name) else {
            self.unknown += 1;
            return;
        };
        let state = status.state.as_ref();
        if state.is_some_and(|state| state.running.is_some()) {
            self.running += 1;
        } else if let Some(code) = exit_code(status) {
            self.stopped += 1;
            self.succeeded += usize::from(code == 0 && state.is_some_and(|state| state.terminated.is_some()));
            self.restarting += usize::from(restart::after_exit(observed, container, false, code));
        } else {
            self.waiting += 1;
        }
    }

    fn phase(&self, observed: &Observed<'_>) -> &'static str {
        let over = *observed.life != Life::Syncing;
        if self.waiting > 0 || self.unknown > 0 {
            return PENDING;
        }
        if self.running > 0 {
            return RUNNING;
        }
        match (self.stopped == self.succeeded, self.restarting > 0 && !over) {
            (_, true) => RUNNING,
            (true, false) => SUCCEEDED,
            (false, false) => FAILED,
        }
    }
}

/// The exit code of the present or, while waiting for a restart, the last attempt.
fn exit_code(status: &ContainerStatus) -> Option<i32> {
    let state = status.state.as_ref();
    if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        return Some(ended.exit_code);
    }
    if state.is_some_and(|state| state.running.is_some()) {
        return None;
    }
    Some(status.last_state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn has_run(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some()) || status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
}
