//! Sandboxes: what the runtime is told of a pod, and what it tells.

use crate::call::{LONG, USUAL, gone};
use crate::{Inner, Known, OWNER, SANDBOX_CONFIG, container, held, make_folder};
use keles_cri as cri;
use keles_runtime::api::{NamespaceMode, Resources, Result, RuntimeError, SandboxConfig, SandboxStatus, UserRange};
use std::collections::BTreeMap;

impl Inner {
    pub(crate) async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus> {
        // Of a try whose answer was lost: nobody knows it and it holds the name. Before the group is made, which goes with it.
        for left in self.sandboxes("").await? {
            if left.metadata.as_ref().is_some_and(|of| of.uid == config.uid && of.attempt == config.attempt) {
                self.remove_sandbox(&left.id).await?;
            }
        }
        make_folder(&config.log_directory)?;
        let group = self.groups.path(&config.cgroup);
        self.groups.make(&group, &config.resources).await?;
        match self.make_sandbox(&config).await {
            Ok(status) => Ok(status),
            Err(error) => {
                // Another of the same pod may have it.
                if !self.shares_group(&config, "")
                    && let Err(error) = self.groups.remove(&group).await
                {
                    tracing::warn!(%error, group, "the group of a pod that could not be made was not removed");
                }
                Err(error)
            }
        }
    }

    async fn make_sandbox(&self, config: &SandboxConfig) -> Result<SandboxStatus> {
        let request = cri::RunPodSandboxRequest { config: Some(self.sandbox_config(config)), runtime_handler: config.handler.clone() };
        let made: cri::RunPodSandboxResponse = self.caller.sandbox(cri::RUN_POD_SANDBOX, "run sandbox", &config.uid, &request, LONG).await?;
        let id = made.pod_sandbox_id;
        match self.look_at(&id, config).await {
            Ok(status) => Ok(status),
            Err(error) => {
                // A sandbox that nobody knows of would keep its name and its address.
                let _ = self.remove_sandbox(&id).await;
                Err(error)
            }
        }
    }

    /// The state of a new sandbox; one that should have an address has it by now.
    async fn look_at(&self, id: &str, config: &SandboxConfig) -> Result<SandboxStatus> {
        let (ips, created_at_unix_ns) = self.addresses(id).await?;
        if ips.is_empty() && config.network == NamespaceMode::Pod {
            let message = format!("sandbox {id}: {} gave it no address; look at its network configuration", self.version);
            return Err(RuntimeError::Step { step: "run sandbox", message });
        }
        held(&self.sandboxes).insert(id.to_owned(), Known { config: config.clone(), ips: ips.clone(), stopped: false });
        Ok(SandboxStatus { id: id.to_owned(), config: config.clone(), ready: true, created_at_unix_ns, netns: None, ips })
    }

    async fn addresses(&self, id: &str) -> Result<(Vec<String>, i64)> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer: cri::PodSandboxStatusResponse = self.caller.sandbox(cri::POD_SANDBOX_STATUS, "read sandbox", id, &request, USUAL).await?;
        let status = answer.status.unwrap_or_default();
        let network = status.network.unwrap_or_default();
        let all = [network.ip].into_iter().chain(network.additional_ips.into_iter().map(|other| other.ip));
        Ok((all.filter(|ip| !ip.is_empty()).collect(), status.created_at))
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let known = self.known(id).await?;
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone(self.caller.sandbox::<_, cri::StopPodSandboxResponse>(cri::STOP_POD_SANDBOX, "stop sandbox", id, &request, LONG).await)?;
        let Some(known) = known else { return Ok(()) };
        if let Some(known) = held(&self.sandboxes).get_mut(id) {
            known.stopped = true;
        }
        self.remove_group(&known.config, id).await
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.stop_sandbox(id).await?;
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone(self.caller.sandbox::<_, cri::RemovePodSandboxResponse>(cri::REMOVE_POD_SANDBOX, "remove sandbox", id, &request, LONG).await)?;
        held(&self.sandboxes).remove(id);
        held(&self.places).retain(|_, sandbox| sandbox != id);
        Ok(())
    }

    /// A later sandbox of the same pod has the same group, which must live on.
    fn shares_group(&self, config: &SandboxConfig, except: &str) -> bool {
        held(&self.sandboxes).iter().any(|(id, other)| id != except && !other.stopped && other.config.cgroup == config.cgroup)
    }

    async fn remove_group(&self, config: &SandboxConfig, id: &str) -> Result<()> {
        if config.cgroup.is_empty() || self.shares_group(config, id) {
            return Ok(());
        }
        self.groups.remove(&self.groups.path(&config.cgroup)).await
    }

    pub(crate) async fn update_sandbox_resources(&self, id: &str, resources: Resources) -> Result<()> {
        let known = self.known(id).await?.ok_or_else(|| RuntimeError::NotFound { what: "sandbox", id: id.to_owned() })?;
        self.groups.limit(&self.groups.path(&known.config.cgroup), &resources).await
    }

    /// What was kept of a sandbox, or is asked now; none: there is no such sandbox of ours.
    pub(crate) async fn known(&self, id: &str) -> Result<Option<Known>> {
        if let Some(known) = held(&self.sandboxes).get(id) {
            return Ok(Some(known.clone()));
        }
        self.list_sandboxes(id).await?;
        Ok(held(&self.sandboxes).get(id).cloned())
    }

    pub(crate) fn owned(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(OWNER.to_owned(), self.owner.clone())])
    }

    /// As the runtime lists ours; of one with an id, or of all.
    pub(crate) async fn sandboxes(&self, id: &str) -> Result<Vec<cri::PodSandbox>> {
        let filter = cri::PodSandboxFilter { id: id.to_owned(), label_selector: self.owned(), ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let answer: cri::ListPodSandboxResponse = self.caller.sandbox(cri::LIST_POD_SANDBOX, "list sandboxes", id, &request, USUAL).await?;
        Ok(answer.items)
    }

    pub(crate) async fn list_sandboxes(&self, id: &str) -> Result<Vec<SandboxStatus>> {
        let mut all = Vec::new();
        for sandbox in self.sandboxes(id).await? {
            let ready = sandbox.state() == cri::PodSandboxState::Ready;
            let kept = held(&self.sandboxes).get(&sandbox.id).cloned();
            let known = match kept {
                Some(known) => known,
                None => {
                    let ips = if !ready {
                        Vec::new()
                    } else {
                        match self.addresses(&sandbox.id).await {
                            Ok((ips, _)) => ips,
                            // Removed since.
                            Err(RuntimeError::NotFound { .. }) => continue,
                            Err(error) => return Err(error),
                        }
                    };
                    Known { config: config_of(&sandbox), ips, stopped: !ready }
                }
            };
            held(&self.sandboxes).insert(sandbox.id.clone(), known.clone());
            all.push(SandboxStatus { id: sandbox.id, config: known.config, ready, created_at_unix_ns: sandbox.created_at, netns: None, ips: known.ips });
        }
        Ok(all)
    }

    /// The form in which the runtime is told of a sandbox, when it is made and again with each of its containers.
    pub(crate) fn sandbox_config(&self, config: &SandboxConfig) -> cri::PodSandboxConfig {
        let mut annotations = config.annotations.clone();
        annotations.insert(SANDBOX_CONFIG.into(), serde_json::to_string(config).unwrap_or_default());
        let mut labels = config.labels.clone();
        labels.extend(self.owned());
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata { name: config.name.clone(), uid: config.uid.clone(), namespace: config.namespace.clone(), attempt: config.attempt }),
            hostname: config.hostname.clone(),
            log_directory: config.log_directory.display().to_string(),
            dns_config: Some(cri::DnsConfig { servers: config.dns.servers.clone(), searches: config.dns.searches.clone(), options: config.dns.options.clone() }),
            port_mappings: config.host_ports.iter().map(port_mapping).collect(),
            labels,
            annotations,
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.groups.path(&config.cgroup)),
                security_context: Some(security(config)),
                sysctls: config.sysctls.clone(),
                overhead: None,
                resources: Some(container::resources(&config.resources, self.groups.memory_version())),
            }),
        }
    }
}

/// What a sandbox was made of; of one whose annotation somebody changed, what the runtime itself knows.
fn config_of(sandbox: &cri::PodSandbox) -> SandboxConfig {
    let noted = sandbox.annotations.get(SANDBOX_CONFIG).and_then(|text| serde_json::from_str(text).ok());
    noted.unwrap_or_else(|| {
        let metadata = sandbox.metadata.clone().unwrap_or_default();
        tracing::warn!(sandbox = sandbox.id, "the note of what this sandbox was made of cannot be read");
        SandboxConfig {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            attempt: metadata.attempt,
            labels: sandbox.labels.clone(),
            ..SandboxConfig::default()
        }
    })
}

fn port_mapping(port: &keles_runtime::api::PortMapping) -> cri::PortMapping {
    let protocol = match port.protocol.as_str() {
        "UDP" => cri::Protocol::Udp,
        "SCTP" => cri::Protocol::Sctp,
        _ => cri::Protocol::Tcp,
    };
    cri::PortMapping { protocol: protocol.into(), container_port: port.container_port.into(), host_port: port.host_port.into(), host_ip: port.host_ip.clone() }
}

fn mode(mode: NamespaceMode) -> i32 {
    let mode = match mode {
        NamespaceMode::Pod => cri::NamespaceMode::Pod,
        NamespaceMode::Container => cri::NamespaceMode::Container,
        NamespaceMode::Node => cri::NamespaceMode::Node,
    };
    mode.into()
}

fn user_namespace(users: UserRange) -> cri::UserNamespace {
    let ids = vec![cri::IdMapping { host_id: users.first, container_id: 0, length: users.length }];
    cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids }
}

/// The same for a sandbox and its containers; `target`: the container whose processes are seen.
pub(crate) fn namespaces(config: &SandboxConfig, target: Option<&str>) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: mode(config.network),
        pid: if target.is_some() { cri::NamespaceMode::Target.into() } else { mode(config.pid) },
        ipc: mode(config.ipc),
        target_id: target.unwrap_or_default().to_owned(),
        userns_options: config.users.map(user_namespace),
    }
}

fn security(config: &SandboxConfig) -> cri::LinuxSandboxSecurityContext {
    let of = &config.security;
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(config, None)),
        run_as_user: of.run_as_user.map(|value| cri::Int64Value { value }),
        // The CRI takes no group without a user.
        run_as_group: of.run_as_group.filter(|_| of.run_as_user.is_some()).map(|value| cri::Int64Value { value }),
        supplemental_groups: of.supplemental_groups.clone(),
        privileged: of.privileged,
        seccomp: Some(cri::SecurityProfile { profile_type: cri::ProfileType::RuntimeDefault.into(), localhost_ref: String::new() }),
        ..Default::default()
    }
}
