//! Runtime and image store with every call counted and timed (`kubelet_runtime_operations_*`), under the names that upstream gives the CRI's calls.
//!
//! Entry point: [`Instrumented`]. What is no call of a runtime is handed on uncounted: figures read from control groups, addresses kept, events.
//! Source: kubernetes pkg/kubelet/kuberuntime/instrumented_services.go.

use crate::image_store::{ImageError, ImageStore, NodeImage, PulledImage};
use crate::metrics;
use async_trait::async_trait;
use keles_images::Auth;
use keles_runtime::api::{
    ContainerConfig, ContainerEvent, ContainerStatus, DiskUsage, ExecOutput, ExecRequest, ExecStream, Features, PodRuntime, PortConnection, ProcessUsage, Resources, Result,
    SandboxConfig, SandboxStatus, Stats,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

pub struct Instrumented<T>(pub T);

async fn counted<T, E>(operation: &str, call: impl Future<Output = std::result::Result<T, E>>) -> std::result::Result<T, E> {
    let begun = Instant::now();
    let done = call.await;
    metrics::RUNTIME_OPERATIONS.with([operation]).increment();
    metrics::RUNTIME_DURATION.with([operation]).observe_seconds(begun.elapsed());
    if done.is_err() {
        metrics::RUNTIME_ERRORS.with([operation]).increment();
    }
    done
}

#[async_trait]
impl PodRuntime for Instrumented<Arc<dyn PodRuntime>> {
    fn version(&self) -> String {
        self.0.version()
    }
    fn features(&self) -> Features {
        self.0.features()
    }
    async fn not_ready(&self) -> Option<String> {
        self.0.not_ready().await
    }
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus> {
        let (handler, begun) = (config.handler.clone(), Instant::now());
        let made = counted("run_podsandbox", self.0.run_sandbox(config)).await;
        metrics::RUN_SANDBOX.with([&handler]).observe_seconds(begun.elapsed());
        if made.is_err() {
            metrics::RUN_SANDBOX_ERRORS.with([&handler]).increment();
        }
        made
    }
    async fn set_network(&self, sandbox_id: &str, ips: Vec<String>) -> Result<()> {
        self.0.set_network(sandbox_id, ips).await
    }
    async fn stop_sandbox(&self, sandbox_id: &str) -> Result<()> {
        counted("stop_podsandbox", self.0.stop_sandbox(sandbox_id)).await
    }
    async fn remove_sandbox(&self, sandbox_id: &str) -> Result<()> {
        counted("remove_podsandbox", self.0.remove_sandbox(sandbox_id)).await
    }
    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        counted("list_podsandbox", self.0.list_sandboxes()).await
    }
    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        counted("create_container", self.0.create_container(sandbox_id, config)).await
    }
    async fn start_container(&self, id: &str) -> Result<()> {
        counted("start_container", self.0.start_container(id)).await
    }
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        counted("stop_container", self.0.stop_container(id, grace)).await
    }
    async fn remove_container(&self, id: &str) -> Result<()> {
        counted("remove_container", self.0.remove_container(id)).await
    }
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        counted("list_containers", self.0.list_containers()).await
    }
    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        counted("container_status", self.0.container_status(id)).await
    }
    async fn exec(&self, id: &str, request: ExecRequest) -> Result<ExecStream> {
        counted("exec", self.0.exec(id, request)).await
    }
    async fn exec_sync(&self, id: &str, args: Vec<String>, timeout: Duration) -> Result<ExecOutput> {
        counted("exec_sync", self.0.exec_sync(id, args, timeout)).await
    }
    async fn attach(&self, id: &str, request: ExecRequest) -> Result<ExecStream> {
        counted("attach", self.0.attach(id, request)).await
    }
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<PortConnection> {
        counted("port_forward", self.0.port_forward(sandbox_id, port)).await
    }
    async fn stats(&self, id: &str) -> Result<Stats> {
        self.0.stats(id).await
    }
    async fn written(&self, id: &str) -> Result<DiskUsage> {
        self.0.written(id).await
    }
    async fn processes(&self, id: &str) -> Result<ProcessUsage> {
        self.0.processes(id).await
    }
    async fn reopen_log(&self, id: &str) -> Result<()> {
        counted("reopen_container_log", self.0.reopen_log(id)).await
    }
    async fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        counted("update_container", self.0.update_resources(id, resources)).await
    }
    async fn update_sandbox_resources(&self, sandbox_id: &str, resources: Resources) -> Result<()> {
        counted("update_podsandbox_resources", self.0.update_sandbox_resources(sandbox_id, resources)).await
    }
    async fn limit_group(&self, group: &str, resources: Resources) -> Result<()> {
        self.0.limit_group(group, resources).await
    }
    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.0.events()
    }
}

#[async_trait]
impl<I: ImageStore> ImageStore for Instrumented<I> {
    async fn find(&self, reference: &str) -> std::result::Result<Option<NodeImage>, ImageError> {
        counted("image_status", self.0.find(reference)).await
    }
    async fn pull(&self, reference: &str, auths: &[Auth]) -> std::result::Result<PulledImage, ImageError> {
        counted("pull_image", self.0.pull(reference, auths)).await
    }
    async fn list(&self) -> std::result::Result<Vec<NodeImage>, ImageError> {
        counted("list_images", self.0.list()).await
    }
    async fn remove(&self, id: &str) -> std::result::Result<(), ImageError> {
        counted("remove_image", self.0.remove(id)).await
    }
    async fn folder(&self) -> std::result::Result<Option<PathBuf>, ImageError> {
        counted("image_fs_info", self.0.folder()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_and_their_failures_are_counted() {
        let count = |family: &'static keles_observe::metrics::CounterVec<1>| family.with(["test_operation"]).get();
        counted("test_operation", async { Ok::<_, ()>(()) }).await.expect("works");
        counted("test_operation", async { Err::<(), _>(()) }).await.expect_err("fails");
        assert_eq!((count(&metrics::RUNTIME_OPERATIONS), count(&metrics::RUNTIME_ERRORS)), (2, 1));
        assert_eq!(metrics::RUNTIME_DURATION.with(["test_operation"]).count(), 2);
    }
}
