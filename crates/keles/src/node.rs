//! This host as a node: its name and address, and what the node agent is made of.

use async_trait::async_trait;
use keles_kubelet::{ClusterDns, HostPort, KubeletConfig, NetworkError, ServerTls};
use keles_network::PodNetwork;
use keles_pki::{Names, Pki, PkiError};
use keles_runtime::EngineOptions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

pub struct Options {
    pub name: String,
    pub ip: Ipv4Addr,
    pub data_dir: PathBuf,
    /// Absent: pods use the node's resolvers.
    pub dns_address: Option<Ipv4Addr>,
    pub domain: String,
    pub port: u16,
    pub max_pods: u32,
    pub seccomp_default: bool,
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

pub fn kubelet_config(o: Options, pki: &Pki) -> Result<KubeletConfig, PkiError> {
    let serving = pki.kubelet_server(&o.name, &Names { dns: vec![], ips: vec![o.ip.into()] })?;
    let mut c = KubeletConfig::new(o.name, o.ip.into(), o.data_dir);
    c.cluster_dns = ClusterDns { servers: o.dns_address.iter().map(|ip| (*ip).into()).collect(), domain: o.domain };
    c.listen = SocketAddr::from(([0, 0, 0, 0], o.port));
    c.tls = Some(ServerTls { certificate_pem: serving.certificate_pem, key_pem: serving.key_pem, client_ca_pem: pki.ca_pem().to_owned() });
    c.max_pods = o.max_pods;
    c.seccomp_default = o.seccomp_default;
    Ok(c)
}

/// The pod network as the node agent asks for it. Host ports are the service proxy's, which reads them from the pods.
pub struct Network(pub PodNetwork);

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
