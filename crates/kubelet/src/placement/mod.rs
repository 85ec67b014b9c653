//! What of the node a container gets for itself: devices now, and where they are.
//!
//! Entry points: [`Placement::admit`] before a pod starts, [`Placement::release`] when it is over. Invariant: one pod at a time is given
//! something, all of it or nothing.

pub mod checkpoint;
pub mod hints;

use crate::admission::Refusal;
use crate::devices::Devices;
use crate::machine::is_sidecar;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Upstream's `ErrorReasonUnexpected`.
const UNEXPECTED: &str = "UnexpectedAdmissionError";

pub struct Placement {
    pub devices: Devices,
    gate: tokio::sync::Mutex<()>,
}

/// What a pod's containers leave to those after them (devices by resource).
type Reusable = BTreeMap<String, BTreeSet<String>>;

impl Placement {
    pub fn new(devices: Devices) -> Self {
        Self { devices, gate: tokio::sync::Mutex::default() }
    }

    /// Gives a pod's containers what they ask for. Those that have it already keep it: the same pod may come again after a restart.
    pub async fn admit(&self, pod: &Pod) -> Result<(), Refusal> {
        let _one_at_a_time = self.gate.lock().await;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut reusable = Reusable::new();
        for container in containers(pod) {
            if let Err(refusal) = self.allocate(pod, container, &reusable).await {
                self.release(uid);
                return Err(refusal);
            }
            self.note_reusable(pod, container, &mut reusable);
        }
        Ok(())
    }

    async fn allocate(&self, pod: &Pod, container: &Container, reusable: &Reusable) -> Result<(), Refusal> {
        self.devices.allocate(pod, container, None, reusable).await.map_err(|error| unexpected(&error))
    }

    /// What an init container that ends had is there for those after it; what any other takes is not.
    fn note_reusable(&self, pod: &Pod, container: &Container, reusable: &mut Reusable) {
        let ends = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).any(|init| init.name == container.name && !is_sidecar(init));
        for (resource, ids) in self.devices.of_container(pod.metadata.uid.as_deref().unwrap_or_default(), &container.name) {
            let left = reusable.entry(resource).or_default();
            match ends {
                true => left.extend(ids),
                false => left.retain(|id| !ids.contains(id)),
            }
        }
    }

    /// The pod is over.
    pub fn release(&self, uid: &str) {
        self.devices.release(uid);
    }

    /// All pods but these are over.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.devices.retain(uids);
    }
}

/// In the order in which they start.
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

fn unexpected(error: &dyn std::fmt::Display) -> Refusal {
    Refusal { reason: UNEXPECTED.into(), message: format!("Allocate failed due to {error}, which is unexpected") }
}
