//! This host as a node: its name and address, and what the node agent is made of.

use crate::node_flags::NodeLimits;
use async_trait::async_trait;
use keles_kubelet::certificates::ClientRotation;
use keles_kubelet::{ClusterDns, HostPort, Kubelet, KubeletConfig, NetworkError, NetworkOfRuntime, ServerTls, ServingCertificate};
use keles_network::{Cidr, PodNetwork};
use keles_pki::{Names, Pki, PkiError};
use keles_runtime::{Engine, EngineOptions};
use keles_supervise::{BoxError, Handle};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A cluster's nodes each have a range of this length for their pods (upstream's default).
pub const POD_PREFIX: u8 = 24;
/// Where manifests of plugins look for the agent.
const UPSTREAM_ROOT: &str = "/var/lib/kubelet";
/// Where log collectors look; a cluster of its own data folder keeps its logs there, so that two on one machine do not meet.
const UPSTREAM_POD_LOGS: &str = "/var/log/pods";
const UPSTREAM_LOG_LINKS: &str = "/var/log/containers";

pub struct Options {
    pub name: String,
    pub ip: Ipv4Addr,
    pub data_dir: PathBuf,
    /// Of the agent, see [`root_dir`].
    pub root_dir: PathBuf,
    pub bridge: String,
    /// Empty: pods use the node's resolvers.
    pub dns_addresses: Vec<IpAddr>,
    pub domain: String,
    pub listen: SocketAddr,
    pub max_pods: u32,
    pub labels: BTreeMap<String, String>,
    pub allowed_unsafe_sysctls: Vec<String>,
    pub seccomp_default: bool,
    pub pulls: crate::image_flags::Pulls,
    /// Callers of the agent's API need not show who they are; RBAC decides what they may.
    pub anonymous_auth: bool,
    pub limits: NodeLimits,
    /// Socket of another's container runtime; absent for our own.
    pub runtime_endpoint: Option<String>,
    /// How the agent's client certificate is renewed, where it is.
    pub client_rotation: Option<ClientRotation>,
}

/// The host's name as a node's: lower case.
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_ascii_lowercase();
    (!name.is_empty() && name != "(none)").then_some(name)
}

/// The address that the default route would use. Connecting a UDP socket asks the routing table and sends nothing.
pub fn primary_address() -> Option<Ipv4Addr> {
    /// TEST-NET-1, RFC 5737: never somebody's.
    const ANYWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ANYWHERE).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) if !ip.is_unspecified() && !ip.is_loopback() => Some(ip),
        _ => None,
    }
}

/// What the runtime has one of a machine carries the bridge's name, so that two clusters do not meet. Sockets and pinned
/// namespaces lie under /run, in a folder named by the data folder: a socket's path has at most 107 bytes, and a reboot ends both.
pub fn engine_options(data_dir: &Path, bridge: &str) -> EngineOptions {
    let cgroup_root = if bridge == "keles0" { "keles".to_owned() } else { format!("keles-{bridge}") };
    EngineOptions::new(data_dir.join("runtime"), run_dir(data_dir), cgroup_root)
}

/// The same for the same data folder at every start: FNV-1a of its path.
fn run_dir(data_dir: &Path) -> PathBuf {
    let path = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let hash = path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    Path::new("/run/keles").join(format!("{hash:016x}"))
}

/// The certificate of the node's API, of the cluster's own authority.
pub fn serving(name: &str, ip: Ipv4Addr, pki: &Pki) -> Result<ServerTls, PkiError> {
    let serving = pki.kubelet_server(name, &Names { dns: vec![], ips: vec![ip.into()] })?;
    Ok(ServerTls { certificate: ServingCertificate::Given(serving), client_ca_pem: pki.ca_pem().to_owned() })
}

/// The agent's root: what was asked for, else upstream's /var/lib/kubelet beside the default data folder, which is where the manifests of CSI drivers and
/// device plugins look for it; a cluster of its own data folder has it there, so that two on one machine do not meet. Where an older build left pods in
/// the data folder, it stays their root until they are gone: what is mounted cannot be moved.
pub fn root_dir(data_dir: &Path, asked: Option<&Path>) -> PathBuf {
    if let Some(asked) = asked {
        return asked.to_owned();
    }
    if data_dir != Path::new(crate::flags::DEFAULT_DATA_DIR) {
        return data_dir.to_owned();
    }
    let has_pods = std::fs::read_dir(data_dir.join("pods")).is_ok_and(|mut pods| pods.next().is_some());
    if has_pods {
        tracing::warn!("pods of an older build lie in {}: the agent's root stays there until they are gone, and plugins find it there only", data_dir.display());
        return data_dir.to_owned();
    }
    UPSTREAM_ROOT.into()
}

/// Makes or finds the pods' bridge; its files lie in the data folder.
pub async fn network(bridge: &str, pod_cidr: Cidr, service_cidr: Cidr, data_dir: &Path) -> Result<PodNetwork, keles_network::NetworkError> {
    PodNetwork::open(keles_network::Options { bridge: bridge.to_owned(), pod_cidr, service_cidr, state_dir: data_dir.join("addresses") }).await
}

/// Opens runtime and images and runs the node agent until it is told to stop. With another's runtime the network is its own too; `network` then carries
/// no pods, only what the cluster has on the node (DNS, the way to Services).
pub async fn run(o: Options, tls: ServerTls, client: kube::Client, network: PodNetwork, h: Handle) -> Result<(), BoxError> {
    let engine = EngineOptions { cpusets: o.limits.placement.pins(), ..engine_options(&o.data_dir, &o.bridge) };
    if let Some(endpoint) = &o.runtime_endpoint {
        let runtime = keles_cri_client::Remote::open(endpoint, &engine.cgroup_root).await?;
        let images = runtime.images(o.pulls.options.parallel_pulls);
        h.ready();
        Kubelet::run(kubelet_config(o, tls), client, Arc::new(runtime), images, Arc::new(NetworkOfRuntime), h.stop()).await?;
        return Ok(());
    }
    let runtime = Engine::open(engine).await?;
    let images = keles_images::Images::open_with(&crate::images::folder(&o.data_dir), o.pulls.options.clone())?;
    h.ready();
    Kubelet::run(kubelet_config(o, tls), client, Arc::new(runtime), Arc::new(images), Arc::new(Network(network)), h.stop()).await?;
    Ok(())
}

fn kubelet_config(o: Options, tls: ServerTls) -> KubeletConfig {
    let mut c = KubeletConfig::new(o.name, o.ip.into(), o.data_dir);
    c.root_dir = o.root_dir;
    if c.data_dir == Path::new(crate::flags::DEFAULT_DATA_DIR) {
        (c.pod_logs_dir, c.log_links_dir) = (UPSTREAM_POD_LOGS.into(), UPSTREAM_LOG_LINKS.into());
    }
    if let Some(asked) = o.limits.pod_logs_dir {
        c.pod_logs_dir = asked;
    }
    c.cluster_dns = ClusterDns { servers: o.dns_addresses, domain: o.domain };
    c.listen = o.listen;
    c.tls = Some(tls);
    c.client_rotation = o.client_rotation;
    c.max_pods = o.max_pods;
    c.labels = o.labels;
    c.allowed_unsafe_sysctls = o.allowed_unsafe_sysctls;
    c.seccomp_default = o.seccomp_default;
    c.credential_providers = o.pulls.providers;
    c.anonymous_auth = o.anonymous_auth;
    c.flags = crate::observe_flags::all();
    c.enforced = o.limits.enforced;
    c.max_restart_wait = o.limits.max_restart_wait;
    c.resolver_file = o.limits.resolver_file;
    c.taints = o.limits.taints;
    c.healthz = o.limits.healthz;
    c.system_logs = o.limits.system_logs;
    c.eviction = o.limits.eviction;
    c.image_gc = o.limits.image_gc;
    c.logs = o.limits.logs;
    c.reserved = o.limits.reserved;
    c.static_pods = o.limits.static_pods;
    c.placement = o.limits.placement;
    c.swap = o.limits.swap;
    c.shutdown = o.limits.shutdown;
    c
}

/// The pod network as the node agent asks for it. Host ports are the service proxy's, which reads them from the pods.
struct Network(PodNetwork);

#[async_trait]
impl keles_kubelet::PodNetwork for Network {
    async fn attach(&self, netns: &Path, pod_uid: &str, _host_ports: &[HostPort]) -> Result<Vec<String>, NetworkError> {
        let ip = self.0.attach(netns, pod_uid).await.map_err(|e| NetworkError(e.to_string()))?;
        Ok(vec![ip.to_string()])
    }
    async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError> {
        self.0.detach(pod_uid).await.map_err(|e| NetworkError(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_root_is_where_plugins_look_unless_the_cluster_has_a_place_of_its_own() {
        let own = Path::new("/srv/second-cluster");
        assert_eq!(root_dir(own, None), own);
        assert_eq!(root_dir(own, Some(Path::new("/elsewhere"))), Path::new("/elsewhere"));
        let default = Path::new(crate::flags::DEFAULT_DATA_DIR);
        let old_pods = std::fs::read_dir(default.join("pods")).is_ok_and(|mut pods| pods.next().is_some());
        assert_eq!(root_dir(default, None), if old_pods { default } else { Path::new("/var/lib/kubelet") });
    }
}
