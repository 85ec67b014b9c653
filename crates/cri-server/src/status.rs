//! Sandboxes and containers as the service shows them.

use crate::{record, resources};
use keles_cri::{
    Container, ContainerMetadata, ContainerResources, ContainerState, ContainerStatus, ContainerUser, ImageSpec, LinuxContainerUser, LinuxPodSandboxStatus, Namespace, PodIp,
    PodSandbox, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus, Signal,
};
use keles_runtime::api;
use std::collections::BTreeMap;

/// SIGTERM's number: what ends containers for which nobody named a signal.
const SIGTERM: i32 = 15;

pub fn sandbox_state(sandbox: &api::SandboxStatus) -> PodSandboxState {
    if sandbox.ready { PodSandboxState::Ready } else { PodSandboxState::Notready }
}

pub fn sandbox(sandbox: &api::SandboxStatus) -> PodSandboxStatus {
    let said = record::of_sandbox(sandbox);
    let config = said.config.unwrap_or_default();
    let options = config.linux.and_then(|linux| linux.security_context).and_then(|security| security.namespace_options);
    // Addresses are given back with the network.
    let mut ips = sandbox.ips.iter().filter(|_| sandbox.ready).cloned();
    PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: config.metadata,
        state: sandbox_state(sandbox) as i32,
        created_at: sandbox.created_at_unix_ns,
        network: Some(PodSandboxNetworkStatus { ip: ips.next().unwrap_or_default(), additional_ips: ips.map(|ip| PodIp { ip }).collect() }),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options: Some(options.unwrap_or_default()) }) }),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: said.runtime_handler,
    }
}

pub fn sandbox_item(sandbox: &api::SandboxStatus) -> PodSandbox {
    let said = record::of_sandbox(sandbox);
    let config = said.config.unwrap_or_default();
    PodSandbox {
        id: sandbox.id.clone(),
        metadata: config.metadata,
        state: sandbox_state(sandbox) as i32,
        created_at: sandbox.created_at_unix_ns,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: said.runtime_handler,
    }
}

pub fn container_state(container: &api::ContainerStatus) -> ContainerState {
    match container.state {
        api::ContainerState::Created => ContainerState::Created,
        api::ContainerState::Running => ContainerState::Running,
        api::ContainerState::Exited => ContainerState::Exited,
        api::ContainerState::Unknown => ContainerState::Unknown,
    }
}

/// The name the client gave; the id where it gave none.
fn image_of(container: &api::ContainerStatus, asked: Option<ImageSpec>) -> ImageSpec {
    let spec = asked.unwrap_or_default();
    let named = [&spec.user_specified_image, &spec.image, &container.image_id].into_iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
    ImageSpec { image: named, ..spec }
}

pub fn container_item(container: &api::ContainerStatus) -> Container {
    let said = record::of_container(container);
    Container {
        id: container.id.clone(),
        pod_sandbox_id: container.sandbox_id.clone(),
        metadata: said.metadata,
        image: Some(image_of(container, said.image)),
        image_ref: container.image.clone(),
        state: container_state(container) as i32,
        created_at: container.created_at_unix_ns,
        labels: said.labels,
        annotations: said.annotations,
        image_id: container.image_id.clone(),
    }
}

/// What the image adds to a container's status; nothing once it is gone.
#[derive(Default)]
pub struct OfImage {
    /// Who the first process is.
    pub user: Option<LinuxContainerUser>,
    pub stop_signal: Option<i32>,
}

/// `updated` are limits that it was given since it was made.
pub fn container(container: &api::ContainerStatus, updated: &resources::Updated, image: OfImage) -> ContainerStatus {
    let said = record::of_container(container);
    let first = said.linux.and_then(|linux| linux.resources);
    let signal = Signal::try_from(said.stop_signal).ok().filter(|signal| signal.number().is_some());
    let signal = signal.or_else(|| Signal::of_number(image.stop_signal.unwrap_or(SIGTERM)));
    ContainerStatus {
        id: container.id.clone(),
        metadata: Some(said.metadata.unwrap_or_else(|| ContainerMetadata { name: container.name.clone(), attempt: container.attempt })),
        state: container_state(container) as i32,
        created_at: container.created_at_unix_ns,
        started_at: container.started_at_unix_ns,
        finished_at: container.finished_at_unix_ns,
        exit_code: container.exit_code,
        image: Some(image_of(container, said.image)),
        image_ref: container.image.clone(),
        reason: container.reason.clone(),
        message: container.message.clone(),
        labels: said.labels,
        annotations: said.annotations,
        mounts: said.mounts,
        log_path: if said.log_path.is_empty() { String::new() } else { container.log_path.display().to_string() },
        resources: updated.get(&container.id).or(first).map(|linux| ContainerResources { linux: Some(linux) }),
        image_id: container.image_id.clone(),
        user: image.user.map(|linux| ContainerUser { linux: Some(linux) }),
        stop_signal: signal.unwrap_or(Signal::RuntimeDefault) as i32,
    }
}

/// Whether all labels that are asked for are there.
pub fn has_labels(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
