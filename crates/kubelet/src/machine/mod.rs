//! The pod state machine: pure functions from what is observed of a pod to what is to be done and what the API is told.
//!
//! Entry points: [`actions::decide`] (what to do next), [`status::generate`] (the pod's status). The shell around them is `pod_worker`.
//! Invariants: no IO, no clock (time is an input), the same input gives the same output, so that a restarted agent goes on where it was.
//! Deliberately absent: volumes, network and images; they are steps of the shell before a container's start.

pub mod actions;
pub mod backoff;
pub mod conditions;
pub mod phase;
pub mod resize;
pub mod restart;
pub mod status;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use keles_runtime::api::{ContainerState, ContainerStatus};
use std::collections::{BTreeMap, BTreeSet};

/// Where a pod is in its life on this node. Only moves down the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its containers are made, watched and restarted.
    Syncing,
    /// Its containers are being ended; none is started any more. `reason` is what the status says then.
    Terminating(Ending),
    /// Nothing of it runs; sandbox, addresses and volumes are given back. The records and logs of its containers stay.
    Terminated,
}

/// Why a pod is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All its containers ended and none is to be restarted.
    Completed,
    /// deletionTimestamp is set or the object is gone.
    Deleted,
    /// The node ends it; phase becomes Failed with this reason and message.
    Failed { reason: &'static str, message: String },
}

/// The state of the pod's newest sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxView {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub ips: Vec<String>,
    /// Of its RuntimeClass; empty for the default.
    pub handler: String,
}

/// What statuses tell of the runtime.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeFacts<'a> {
    /// Before `://` in containers' ids.
    pub id_scheme: &'a str,
    /// It mounts what is below a mount read-only too.
    pub recursive_read_only: bool,
}

/// Probe verdicts of one container. `None`: not evaluated yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    pub startup: Option<bool>,
    pub readiness: Option<bool>,
    pub liveness: Option<bool>,
}

/// Why the last attempt to start a container failed, as its waiting state shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    pub reason: &'static str,
    pub message: String,
}

/// All that is known of a pod at one moment.
pub struct Observed<'a> {
    pub pod: &'a Pod,
    pub life: &'a Life,
    pub sandbox: Option<&'a SandboxView>,
    /// The runtime's records of this pod's containers, all attempts, of all its sandboxes.
    pub records: &'a [ContainerStatus],
    /// By container id.
    pub verdicts: &'a BTreeMap<String, Verdicts>,
    /// By container name.
    pub failures: &'a BTreeMap<String, StartFailure>,
    pub backoffs: &'a backoff::Backoffs,
    /// How a resize in place stands.
    pub resize: &'a resize::State,
    /// Resources that running containers have, by container id, where they differ from the spec's or did; and the pod as a whole.
    pub running_with: &'a resize::Amounts,
    /// Containers that a resize restarts, by id.
    pub resize_restarts: &'a BTreeSet<String>,
    /// Drivers may still hold devices for the pod (KEP-4381).
    pub holds_claims: bool,
    /// Termination messages by container id.
    pub messages: &'a BTreeMap<String, String>,
    pub runtime: RuntimeFacts<'a>,
    pub now: jiff::Timestamp,
}

impl<'a> Observed<'a> {
    pub fn spec(&self) -> &'a PodSpec {
        self.pod.spec.as_ref().expect("the API server admits no pod without a spec")
    }

    /// The newest record of a container, in whichever sandbox.
    pub fn newest(&self, name: &str) -> Option<&'a ContainerStatus> {
        self.records.iter().filter(|record| record.name == name).max_by_key(|record| order(record))
    }

    /// The newest record of a container in the current sandbox: what earlier sandboxes did does not count as done, nor what was before all
    /// containers were to be restarted.
    pub fn current(&self, name: &str) -> Option<&'a ContainerStatus> {
        let sandbox = self.sandbox?;
        let of_sandbox = self.records.iter().filter(|record| record.name == name && record.sandbox_id == sandbox.id);
        let since = restart::asks_for_all(self).map_or(i64::MIN, |trigger| trigger.finished_at_unix_ns);
        of_sandbox.filter(|record| record.created_at_unix_ns > since).max_by_key(|record| order(record))
    }

    /// Whether any regular container was ever made in the current sandbox: then initialization is over.
    pub fn was_initialized(&self) -> bool {
        self.spec().containers.iter().any(|container| self.current(&container.name).is_some())
    }

    pub fn verdicts_of(&self, record: &ContainerStatus) -> Verdicts {
        self.verdicts.get(&record.id).copied().unwrap_or_default()
    }

    /// Started as the API means it: it runs and its startup probe, if any, has succeeded.
    pub fn has_started(&self, container: &Container, record: &ContainerStatus) -> bool {
        record.state == ContainerState::Running && (container.startup_probe.is_none() || self.verdicts_of(record).startup == Some(true))
    }
}

fn order(record: &ContainerStatus) -> (u32, i64) {
    (record.attempt, record.created_at_unix_ns)
}

/// A sidecar: an init container that keeps running (KEP-753).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[cfg(test)]
mod tests;
