//! Claims, then the sandbox and its addresses, and the volumes beside them, before any container.

use super::Worker;
use crate::events::WARNING;
use crate::machine::SandboxView;
use crate::pod_network::HostPort;
use crate::{container_config, naming, qos, resources};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use keles_runtime::api::{Dns, NamespaceMode, PortMapping, SandboxConfig, SandboxSecurity};
use keles_volumes::references::references;
use keles_volumes::{Context, Mounted, VolumeError};
use std::collections::{BTreeMap, BTreeSet};

/// Pause after the first failure; doubles up to [`MAX_PAUSE`] (upstream's figures of volume operations).
pub const FIRST_PAUSE: SignedDuration = SignedDuration::from_millis(500);
pub const MAX_PAUSE: SignedDuration = SignedDuration::from_secs(122);

/// Why there is no sandbox.
enum Fault {
    Claims(String),
    Sandbox(String),
    /// The pod is to end.
    Ends,
}

impl Worker {
    /// Makes what is missing. On failure events are written and the time of the next try is returned.
    pub(super) async fn prepare(&mut self, new_sandbox: Option<u32>) -> Result<(), Timestamp> {
        if let Some(attempt) = new_sandbox.filter(|attempt| *attempt > 0) {
            self.agent.events.pod(&self.pod, crate::events::NORMAL, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
            self.end_old_sandbox(attempt).await;
        }
        self.prepared = false;
        self.follow_volumes();
        let (sandbox, volumes, (), ()) =
            tokio::join!(self.claims_and_sandbox(new_sandbox), self.mount_unless_it_ends(), self.name_missing_pull_secrets(), self.agent.allocated.kept());
        let sandbox_fault = match sandbox {
            Ok(view) => {
                // Its addresses count once the volumes are there too: only then containers can start (PodReadyToStartContainers).
                // What had addresses before keeps them.
                let had = self.sandbox.as_ref().is_some_and(|old| !old.ips.is_empty());
                let ips = if volumes.is_ok() || had { view.ips.clone() } else { Vec::new() };
                self.sandbox = Some(SandboxView { ips, ..view });
                if new_sandbox.is_some() {
                    self.pod_figures = self.pod.spec.as_ref().map(|spec| resources::of_pod(spec, &self.agent.config.enforced)).unwrap_or_default();
                }
                None
            }
            Err(fault) => Some(fault),
        };
        match &sandbox_fault {
            Some(Fault::Claims(error)) => self.agent.events.pod(&self.pod, WARNING, "FailedPrepareDynamicResources", format!("Failed to prepare dynamic resources: {error}")),
            Some(Fault::Sandbox(message)) => self.agent.events.pod(&self.pod, WARNING, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {message}")),
            Some(Fault::Ends) | None => {}
        }
        match volumes {
            Ok(mounted) if sandbox_fault.is_none() => {
                self.mounted.extend(mounted);
                self.prepared = true;
                self.prepare_pause = FIRST_PAUSE;
                return Ok(());
            }
            Ok(_) => {}
            Err(faults) => {
                for (volume, fault) in faults {
                    // Persistent volumes speak of themselves by their own names.
                    let text = if matches!(fault, VolumeError::Stage { .. }) { fault.to_string() } else { format!("MountVolume.SetUp failed for volume \"{volume}\" : {fault}") };
                    self.agent.events.pod(&self.pod, WARNING, "FailedMount", text);
                }
            }
        }
        let at = Timestamp::now() + self.prepare_pause;
        self.prepare_pause = (self.prepare_pause * 2).min(MAX_PAUSE);
        Err(at)
    }

    /// The old sandbox died: what is left of it goes before the new one comes.
    async fn end_old_sandbox(&mut self, attempt: u32) {
        tracing::info!(pod = crate::pod_ref(&self.pod), attempt, "making a new sandbox");
        // Kept, as one that is not ready: should the new one fail, the next try is not to take an attempt that was used.
        if let Some(old) = &mut self.sandbox {
            (old.ready, old.ips) = (false, Vec::new());
            let id = old.id.clone();
            if let Err(error) = self.agent.network.detach(&self.uid).await {
                tracing::warn!(%error, pod = self.uid, "network of a dead sandbox not given back");
            }
            if let Err(error) = self.agent.runtime.stop_sandbox(&id).await {
                tracing::warn!(%error, sandbox = id, "dead sandbox not stopped");
            }
        }
        let dir = self.agent.config.pod_dir(&self.uid);
        for name in ["etc-hosts", "resolv.conf", "hostname"] {
            let _ = std::fs::remove_file(dir.join(name));
        }
    }

    /// A pod's claims are prepared before each of its sandboxes (upstream's rule).
    async fn claims_and_sandbox(&self, new: Option<u32>) -> Result<SandboxView, Fault> {
        if new.is_some() {
            tokio::select! {
                prepared = self.agent.placement.dra.prepare(&self.agent.client, &self.pod) => prepared.map_err(|error| Fault::Claims(format!("prepare dynamic resources: {error}")))?,
                // A driver that hangs; what it may have begun is given back.
                () = super::until_ends(self.wish.clone()) => return Err(Fault::Ends),
            }
        }
        if new.is_some() {
            let _ = self.agent.taken.send(());
        }
        let made = self.make_sandbox(new).await;
        if new.is_some() {
            let has_users = self.pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false);
            crate::metrics::sandbox(has_users, made.is_ok());
        }
        made.map_err(Fault::Sandbox)
    }

    async fn make_sandbox(&self, new: Option<u32>) -> Result<SandboxView, String> {
        let on_host = self.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let (id, attempt, netns, handler, given) = match (&self.sandbox, new) {
            (Some(view), None) if !view.ips.is_empty() || on_host => return Ok(view.clone()),
            (Some(view), None) => {
                // An earlier try got no further than the sandbox itself.
                let all = self.agent.runtime.list_sandboxes().await.map_err(|error| error.to_string())?;
                let (netns, given) = all.into_iter().find(|sandbox| sandbox.id == view.id).map(|sandbox| (sandbox.netns, sandbox.ips)).unwrap_or_default();
                (view.id.clone(), view.attempt, netns, view.handler.clone(), given)
            }
            (_, attempt) => {
                let attempt = attempt.unwrap_or(0);
                let mut config = sandbox_config(&self.agent.config, &self.pod, attempt)?;
                if let Some(class) = self.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()) {
                    config.handler = self.agent.objects.runtime_handler(class, &self.agent.features).await?;
                }
                self.agent.placement.pin_pod(&self.uid, &mut config.resources);
                if self.pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false) {
                    // A runtime that does not know of them would run the pod as the host's root.
                    if !self.agent.features.of_handler(&config.handler).user_namespaces {
                        return Err(format!("RuntimeClass handler \"{}\" does not support user namespaces; leave hostUsers out", config.handler));
                    }
                    config.users = Some(self.agent.users.get(&self.uid)?);
                }
                let made = self.agent.runtime.run_sandbox(config).await.map_err(|error| error.to_string())?;
                (made.id, attempt, made.netns, made.config.handler, made.ips)
            }
        };
        // Without a namespace to attach, the runtime has given the pod its network.
        let mut ips = if on_host { self.agent.host_ips() } else { given };
        if let Some(netns) = netns.filter(|_| !on_host) {
            ips = match self.agent.network.attach(&netns, &self.uid, &host_ports(&self.pod)).await {
                Ok(ips) => ips,
                Err(error) => {
                    // A sandbox without a network is no sandbox: it must not look ready.
                    let _ = self.agent.runtime.stop_sandbox(&id).await;
                    let _ = self.agent.runtime.remove_sandbox(&id).await;
                    return Err(format!("failed to set up the pod's network: {error}"));
                }
            };
            self.agent.runtime.set_network(&id, ips.clone()).await.map_err(|error| error.to_string())?;
        }
        Ok(SandboxView { id, attempt, ready: true, ips, handler })
    }

    /// From before the volumes are read for the first time, so that no change is missed.
    fn follow_volumes(&mut self) {
        if !self.followed.is_empty() {
            return;
        }
        let references: BTreeSet<_> = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).flat_map(references).collect();
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        self.followed = references.into_iter().map(|reference| self.agent.followed.follow(namespace, reference, &self.volumes_changed)).collect();
    }

    /// A pod that is to end does not wait for volumes that nobody attaches; what drivers have begun they end.
    async fn mount_unless_it_ends(&self) -> Result<BTreeMap<String, Mounted>, Vec<(String, VolumeError)>> {
        tokio::select! {
            mounted = self.mount(|_| true) => mounted,
            () = super::until_ends(self.wish.clone()) => Err(Vec::new()),
        }
    }

    /// Sets up the volumes that are meant, side by side; the faults by volume name.
    async fn mount(&self, meant: impl Fn(&Volume) -> bool) -> Result<BTreeMap<String, Mounted>, Vec<(String, VolumeError)>> {
        // Image volumes come with the first container that mounts them.
        let volumes: Vec<_> = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter(|volume| volume.image.is_none() && meant(volume)).collect();
        let dir = self.agent.config.pod_dir(&self.uid);
        let facts = self.agent.downward_facts(&[]);
        let context = Context { pod: &self.pod, pod_dir: &dir, objects: &self.agent.objects, facts: &facts, csi: &self.agent.csi };
        let set_up = volumes.iter().map(|volume| keles_volumes::set_up(volume, &context));
        let results = futures::future::join_all(set_up).await;
        let mut mounted = BTreeMap::new();
        let mut faults = Vec::new();
        for (volume, result) in volumes.iter().zip(results) {
            match result {
                Ok(ready) => drop(mounted.insert(volume.name.clone(), ready)),
                Err(fault) => faults.push((volume.name.clone(), fault)),
            }
        }
        if faults.is_empty() { Ok(mounted) } else { Err(faults) }
    }

    /// Lets a running pod's files follow the API.
    pub(super) async fn refresh_volumes(&mut self) {
        self.refresh_at = Timestamp::now() + SignedDuration::try_from(self.agent.config.volume_refresh).unwrap_or(super::LONGEST_WAIT);
        if let Err(faults) = self.mount(|volume| keles_volumes::follows_api(volume) || self.mounted.get(&volume.name).is_some_and(|mounted| mounted.follows)).await {
            for (volume, fault) in faults {
                tracing::debug!(pod = crate::pod_ref(&self.pod), volume, %fault, "volume not refreshed");
            }
        }
    }
}

fn sandbox_config(config: &crate::config::KubeletConfig, pod: &Pod, attempt: u32) -> Result<SandboxConfig, String> {
    let spec = pod.spec.as_ref().expect("the API server admits no pod without a spec");
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (name, namespace, uid) = (text(&pod.metadata.name), text(&pod.metadata.namespace), text(&pod.metadata.uid));
    let node_or = |flag: Option<bool>, other| if flag == Some(true) { NamespaceMode::Node } else { other };
    let pid = if spec.share_process_namespace == Some(true) { NamespaceMode::Pod } else { NamespaceMode::Container };
    let network = node_or(spec.host_network, NamespaceMode::Pod);
    let security = spec.security_context.clone().unwrap_or_default();
    let sysctls = security.sysctls.unwrap_or_default();
    let resolver = naming::resolver(pod, &config.cluster_dns, &config.node_resolver());
    let is_privileged = |container: &Container| container.security_context.as_ref().and_then(|security| security.privileged) == Some(true);
    let on_host = network == NamespaceMode::Node;
    Ok(SandboxConfig {
        hostname: if network == NamespaceMode::Node { String::new() } else { naming::kernel_hostname(pod, &config.cluster_dns.domain)? },
        log_directory: config.log_dir(&namespace, &name, &uid),
        labels: container_config::labels(pod, ""),
        annotations: BTreeMap::new(),
        network,
        ipc: node_or(spec.host_ipc, NamespaceMode::Pod),
        pid: node_or(spec.host_pid, pid),
        cgroup: qos::cgroup(spec, &uid),
        resources: resources::of_pod(spec, &config.enforced),
        sysctls: sysctls.into_iter().map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value)).collect(),
        users: None,
        dns: Dns { servers: resolver.servers, searches: resolver.searches, options: resolver.options },
        host_ports: if on_host { Vec::new() } else { host_ports(pod).into_iter().map(port_mapping).collect() },
        handler: String::new(),
        security: SandboxSecurity {
            privileged: spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(is_privileged),
            run_as_user: security.run_as_user,
            run_as_group: security.run_as_group,
            supplemental_groups: security.supplemental_groups.unwrap_or_default().into_iter().chain(security.fs_group).collect(),
        },
        attempt,
        name,
        namespace,
        uid,
    })
}

fn port_mapping(port: HostPort) -> PortMapping {
    PortMapping { protocol: port.protocol, container_port: port.container_port, host_port: port.host_port, host_ip: port.host_ip.unwrap_or_default() }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let containers = |spec: &PodSpec| spec.containers.clone().into_iter().chain(spec.init_containers.clone().unwrap_or_default().into_iter().filter(crate::machine::is_sidecar));
    let ports = pod.spec.iter().flat_map(containers).flat_map(|container| container.ports.unwrap_or_default());
    let mapped = ports.filter_map(|port| {
        let host_port = port.host_port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)?;
        Some(HostPort {
            host_ip: port.host_ip.filter(|ip| !ip.is_empty()),
            host_port,
            container_port: u16::try_from(port.container_port).ok()?,
            protocol: port.protocol.unwrap_or_else(|| "TCP".into()),
        })
    });
    mapped.collect()
}
