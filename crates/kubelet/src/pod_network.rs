//! The seam to the pod network; crate `network` implements it by an adapter in the main binary.

use async_trait::async_trait;
use std::path::Path;

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub host_ip: Option<String>,
    pub host_port: u16,
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NetworkError(pub String);

/// For a runtime that gives pods their networks itself: nothing is left to be done.
pub struct NetworkOfRuntime;

#[async_trait]
impl PodNetwork for NetworkOfRuntime {
    async fn attach(&self, netns: &Path, pod_uid: &str, _: &[HostPort]) -> Result<Vec<String>, NetworkError> {
        Err(NetworkError(format!("the network of pod {pod_uid} is the container runtime's, which was not to leave {} to the agent", netns.display())))
    }
    async fn detach(&self, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }
}

#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the namespace at `netns` an interface and addresses; the same pod gets the same addresses again. Idempotent.
    async fn attach(&self, netns: &Path, pod_uid: &str, host_ports: &[HostPort]) -> Result<Vec<String>, NetworkError>;
    /// Gives addresses and host ports back. Detaching what is not attached is fine.
    async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError>;
}
