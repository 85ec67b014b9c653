//! The methods of pod sandboxes.

use crate::{Cri, events, faults, ports, record, sandbox_config, status};
use keles_cri::{ContainerEventType, PodSandboxConfig};
use keles_cri::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox, PodSandboxFilter, PodSandboxStatusRequest, PodSandboxStatusResponse, RemovePodSandboxRequest,
    RemovePodSandboxResponse, RunPodSandboxRequest, RunPodSandboxResponse, StopPodSandboxRequest, StopPodSandboxResponse, UpdatePodSandboxResourcesRequest,
    UpdatePodSandboxResourcesResponse,
};
use keles_grpc::{Code, Status};
use keles_runtime::api::{NamespaceMode, PodRuntime, SandboxStatus};
use std::collections::BTreeSet;

/// Bytes of the random name of a sandbox's group, which is made before the sandbox has an id.
const GROUP_NAME_BYTES: usize = 8;

impl Cri {
    pub async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Status> {
        let group = format!("cri-{}", hex::encode(rand::random::<[u8; GROUP_NAME_BYTES]>()));
        let config = sandbox_config::translate(&request, &self.cgroup_parent, &group)?;
        let said = request.config.unwrap_or_default();
        let name = format!("sandbox {}_{}_{}_{}", config.name, config.namespace, config.uid, config.attempt);
        let _held = self.names.hold(name.clone())?;
        // Until the sandbox has its address, from when on the check below sees it.
        let with_host_port = said.port_mappings.iter().filter(|mapping| mapping.host_port != 0);
        let fronts: BTreeSet<String> =
            with_host_port.map(|m| format!("a sandbox with host port {} of {:?} (protocol {})", m.host_port, m.host_ip.trim_start_matches("0.0.0.0"), m.protocol)).collect();
        let _fronts = fronts.into_iter().map(|front| self.names.hold(front)).collect::<Result<Vec<_>, Status>>()?;
        let all = self.engine.list_sandboxes().await.map_err(faults::of_runtime)?;
        let same = |other: &&SandboxStatus| {
            let c = &other.config;
            (&c.name, &c.namespace, &c.uid, c.attempt) == (&config.name, &config.namespace, &config.uid, config.attempt)
        };
        if let Some(other) = all.iter().find(same) {
            return Err(Status::new(Code::AlreadyExists, format!("{name} exists as {}; remove it or count metadata.attempt up", other.id)));
        }
        ports::check(&said.port_mappings, &all).map_err(|error| faults::invalid(error.to_string()))?;
        let made = self.engine.run_sandbox(config).await.map_err(faults::of_runtime)?;
        if let Err(status) = self.complete(&made, &said).await {
            // A sandbox without its network is none, and its client has no id to remove it by.
            self.take_away(&made.id).await?;
            return Err(status);
        }
        self.tell(&made.id, &made.id, ContainerEventType::Created).await;
        self.tell(&made.id, &made.id, ContainerEventType::Started).await;
        Ok(RunPodSandboxResponse { pod_sandbox_id: made.id })
    }

    /// Files, address and host ports.
    async fn complete(&self, made: &SandboxStatus, said: &PodSandboxConfig) -> Result<(), Status> {
        self.files.shared(&made.id, said, &sandbox_config::hostname(said))?;
        let Some(netns) = made.netns.as_ref().filter(|_| made.config.network != NamespaceMode::Node) else { return Ok(()) };
        let failed = |what: &str, error: &dyn std::fmt::Display| Status::new(Code::Unknown, format!("failed to set up the pod's {what}: {error}"));
        let ip = self.network.attach(netns, &made.id).await.map_err(|error| failed("network", &error))?;
        self.engine.set_network(&made.id, vec![ip.to_string()]).await.map_err(faults::of_runtime)?;
        self.apply_ports().await
    }

    async fn apply_ports(&self) -> Result<(), Status> {
        self.ports.apply(&self.engine).await.map_err(|error| Status::new(Code::Unknown, error.to_string()))
    }

    pub async fn stop_pod_sandbox(&self, request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse, Status> {
        if let Some(sandbox) = faults::unless_absent(self.sandbox(&request.pod_sandbox_id).await)? {
            self.stop(&sandbox).await?;
        }
        Ok(StopPodSandboxResponse {})
    }

    async fn stop(&self, sandbox: &SandboxStatus) -> Result<(), Status> {
        self.engine.stop_sandbox(&sandbox.id).await.map_err(faults::of_runtime)?;
        self.release_network(sandbox).await?;
        if sandbox.ready {
            self.tell(&sandbox.id, &sandbox.id, ContainerEventType::Stopped).await;
        }
        Ok(())
    }

    async fn release_network(&self, sandbox: &SandboxStatus) -> Result<(), Status> {
        // Host ports first: nothing may reach the next one who gets the address.
        self.apply_ports().await?;
        let key = if record::is_ours(sandbox) { &sandbox.id } else { &sandbox.config.uid };
        self.network.detach(key).await.map_err(|error| Status::new(Code::Unknown, format!("failed to give back the pod's network: {error}")))
    }

    pub async fn remove_pod_sandbox(&self, request: RemovePodSandboxRequest) -> Result<RemovePodSandboxResponse, Status> {
        let Some(sandbox) = faults::unless_absent(self.sandbox(&request.pod_sandbox_id).await)? else { return Ok(RemovePodSandboxResponse {}) };
        self.stop(&sandbox).await?;
        for container in self.containers_of(&sandbox.id).await? {
            self.remove(&container).await?;
        }
        let last = events::event(self, &sandbox.id, &sandbox.id, ContainerEventType::Deleted).await;
        self.take_away(&sandbox.id).await?;
        self.send(last).await;
        Ok(RemovePodSandboxResponse {})
    }

    /// All that a sandbox has, whatever became of it.
    async fn take_away(&self, id: &str) -> Result<(), Status> {
        self.engine.remove_sandbox(id).await.map_err(faults::of_runtime)?;
        self.apply_ports().await?;
        self.network.detach(id).await.map_err(|error| Status::new(Code::Unknown, format!("failed to give back the pod's network: {error}")))?;
        self.resources.remove(id);
        self.rates.forget(id);
        self.files.remove(id)
    }

    pub async fn pod_sandbox_status(&self, request: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse, Status> {
        let sandbox = self.sandbox(&request.pod_sandbox_id).await?;
        let mut answer = PodSandboxStatusResponse { status: Some(status::sandbox(&sandbox)), timestamp: events::now_unix_ns(), ..PodSandboxStatusResponse::default() };
        for container in self.containers_of(&sandbox.id).await? {
            answer.containers_statuses.push(self.status_of(&container).await);
        }
        if request.verbose {
            let updated = self
                .resources
                .get(&sandbox.id)
                .map(|r| serde_json::json!({"cpuQuota": r.cpu_quota, "cpuPeriod": r.cpu_period, "cpuShares": r.cpu_shares, "memoryLimitInBytes": r.memory_limit_in_bytes}));
            let info = serde_json::json!({"cgroup": sandbox.config.cgroup, "netns": sandbox.netns, "resources": updated});
            answer.info.insert("info".into(), info.to_string());
        }
        Ok(answer)
    }

    pub async fn list_pod_sandbox(&self, request: ListPodSandboxRequest) -> Result<ListPodSandboxResponse, Status> {
        Ok(ListPodSandboxResponse { items: self.sandboxes(request.filter).await? })
    }

    pub async fn sandboxes(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>, Status> {
        let filter = filter.unwrap_or_default();
        let all = self.engine.list_sandboxes().await.map_err(faults::of_runtime)?;
        let fits = |item: &PodSandbox| {
            item.id.starts_with(&filter.id) && filter.state.as_ref().is_none_or(|state| state.state == item.state) && status::has_labels(&item.labels, &filter.label_selector)
        };
        Ok(all.iter().map(status::sandbox_item).filter(fits).collect())
    }

    /// Keeps the figures with the sandbox. The pod's group is the client's, which has changed it before it calls.
    pub async fn update_pod_sandbox_resources(&self, request: UpdatePodSandboxResourcesRequest) -> Result<UpdatePodSandboxResourcesResponse, Status> {
        let sandbox = self.sandbox(&request.pod_sandbox_id).await?;
        if let Some(new) = &request.resources {
            self.resources.set(&sandbox.id, new)?;
        }
        Ok(UpdatePodSandboxResourcesResponse {})
    }
}
