//! How the node agent is set up; parsed and checked by the caller.

use crate::credential_provider::Providers;
use crate::eviction::Thresholds;
use crate::image_gc::Limits;
use crate::naming::ClusterDns;
use k8s_openapi::api::core::v1::Taint;
use keles_volumes::quantity::Quantity;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Upstream's defaults.
pub const DEFAULT_PORT: u16 = 10250;
pub const DEFAULT_HEALTHZ_PORT: u16 = 10248;
/// What `/logs/` shows (upstream's nodeLogDir).
pub const SYSTEM_LOGS: &str = "/var/log";
pub const DEFAULT_MAX_PODS: u32 = 110;
/// Logs of pods and links to those of containers, in a data folder of a cluster's own.
pub const POD_LOGS: &str = "pods-logs";
pub const LOG_LINKS: &str = "container-logs";
pub const RESOLVER_FILE: &str = "/etc/resolv.conf";
pub const DEFAULT_RESTART_WAIT: Duration = crate::machine::backoff::MAX_WAIT;
/// What `kubeletVersion` says: the API version this agent speaks.
pub const VERSION: &str = "v1.36.0";

/// Certificates of the agent's own API.
#[derive(Clone)]
pub struct ServerTls {
    pub certificate: ServingCertificate,
    /// Callers' certificates of this authority count; others show a token. PEM.
    pub client_ca_pem: String,
}

/// Where the API's certificate comes from.
#[derive(Clone)]
pub enum ServingCertificate {
    /// It stays for as long as the agent runs.
    Given(keles_pki::Certified),
    /// Followed: somebody may renew them.
    Files { certificate: PathBuf, key: PathBuf },
    /// Asked of the cluster and kept in this folder (upstream's `--rotate-server-certificates`).
    Requested { dir: PathBuf },
}

/// What is kept from pods for the host and the cluster's own parts, besides hard eviction thresholds (`--system-reserved` and `--kube-reserved`,
/// added up). It lowers the node's allocatable, and all pods together are held to what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub processes: i64,
}

impl Reserved {
    /// `cpu=200m,memory=150Mi,ephemeral-storage=1Gi,pid=1000`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reserved = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not RESOURCE=QUANTITY"))?;
            let quantity = Quantity::parse(value.trim()).filter(|quantity| quantity.milli() >= 0).ok_or_else(|| format!("{name}: {value:?} is not a quantity of 0 or more"))?;
            match name.trim() {
                "cpu" => reserved.cpu_milli = quantity.milli(),
                "memory" => reserved.memory_bytes = quantity.whole(),
                "ephemeral-storage" => reserved.disk_bytes = quantity.whole(),
                // The node's status shows no process ids.
                "pid" => reserved.processes = quantity.whole(),
                other => return Err(format!("cannot reserve {other:?} resource")),
            }
        }
        Ok(reserved)
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli + other.cpu_milli,
            memory_bytes: self.memory_bytes + other.memory_bytes,
            disk_bytes: self.disk_bytes + other.disk_bytes,
            processes: self.processes + other.processes,
        }
    }
}

#[derive(Clone)]
pub struct KubeletConfig {
    pub node_name: String,
    /// First the address that the node is known by.
    pub node_ips: Vec<IpAddr>,
    /// Holds `seccomp/` and what other parts of the process keep.
    pub data_dir: PathBuf,
    /// What upstream calls `--root-dir`: holds `pods/`, `plugins/` and `plugins_registry/`. Plugins find these by its path, so it is told to them as it
    /// stands here.
    pub root_dir: PathBuf,
    /// Holds a folder of logs a pod (upstream's podLogsDir).
    pub pod_logs_dir: PathBuf,
    /// Holds a link a container to its log, by which log collectors find it.
    pub log_links_dir: PathBuf,
    pub cluster_dns: ClusterDns,
    /// Where the agent's API listens; port 0 takes a free one, which the Node object then tells.
    pub listen: SocketAddr,
    /// Absent: the agent has no API (logs, exec, attach and port-forward do not work).
    pub tls: Option<ServerTls>,
    /// Absent: the client's certificate is somebody else's to renew.
    pub client_rotation: Option<crate::certificates::ClientRotation>,
    /// Callers of the agent's API who show nothing are system:anonymous, whom RBAC may allow something; otherwise they are refused.
    pub anonymous_auth: bool,
    /// Where `/healthz` is served without TLS; absent: nowhere.
    pub healthz: Option<SocketAddr>,
    /// The folder that the agent's `/logs/` shows; absent: it is refused.
    pub system_logs: Option<PathBuf>,
    /// What `/flagz` shows: flags by name, secrets already left out.
    pub flags: std::collections::BTreeMap<String, String>,
    pub max_pods: u32,
    pub enforced: crate::resources::Enforced,
    /// The longest wait before a container is started again (KEP-4603).
    pub max_restart_wait: Duration,
    /// What pods without cluster DNS ask, in resolv.conf(5)'s form; absent: nobody.
    pub resolver_file: Option<PathBuf>,
    /// RuntimeDefault, not Unconfined, for containers that name no seccomp profile (upstream's `--seccomp-default`; off).
    pub seccomp_default: bool,
    /// Sysctls outside the safe list that pods may set; a trailing `*` matches a prefix.
    pub allowed_unsafe_sysctls: Vec<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    /// The node registers with; later changes are the API's.
    pub taints: Vec<Taint>,
    pub eviction: Thresholds,
    pub image_gc: Limits,
    pub logs: crate::log_rotation::Limits,
    pub reserved: Reserved,
    /// How devices, processors and memory are given to containers for themselves.
    pub placement: crate::placement::Settings,
    pub swap: crate::swap::Settings,
    /// What pods have to end when the machine goes down, by priority; none: it does not wait.
    pub shutdown: Vec<crate::shutdown::Group>,
    pub static_pods: crate::static_pods::Sources,
    /// Running pods' configMap, secret, downwardAPI and projected files are compared with the API this often.
    pub volume_refresh: Duration,
    /// Programs that give credentials for images.
    pub credential_providers: Arc<Providers>,
}

impl KubeletConfig {
    /// A node with upstream's defaults.
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            node_name: node_name.into(),
            node_ips: vec![node_ip],
            root_dir: data_dir.clone(),
            pod_logs_dir: data_dir.join(POD_LOGS),
            log_links_dir: data_dir.join(LOG_LINKS),
            data_dir,
            cluster_dns: ClusterDns { servers: Vec::new(), domain: "cluster.local".into() },
            listen: SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)),
            tls: None,
            client_rotation: None,
            anonymous_auth: false,
            healthz: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_HEALTHZ_PORT))),
            system_logs: Some(SYSTEM_LOGS.into()),
            flags: Default::default(),
            max_pods: DEFAULT_MAX_PODS,
            enforced: Default::default(),
            max_restart_wait: DEFAULT_RESTART_WAIT,
            resolver_file: Some(RESOLVER_FILE.into()),
            seccomp_default: false,
            allowed_unsafe_sysctls: Vec::new(),
            labels: Default::default(),
            taints: Vec::new(),
            eviction: Thresholds::default(),
            image_gc: Limits::default(),
            logs: Default::default(),
            reserved: Reserved::default(),
            placement: crate::placement::Settings::default(),
            swap: crate::swap::Settings::default(),
            shutdown: Vec::new(),
            static_pods: crate::static_pods::Sources::default(),
            volume_refresh: Duration::from_secs(60),
            credential_providers: Arc::default(),
        }
    }

    /// The node's own resolvers as they are now.
    pub fn node_resolver(&self) -> String {
        self.resolver_file.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
    }

    pub fn pods_dir(&self) -> PathBuf {
        self.root_dir.join("pods")
    }

    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir().join(uid)
    }

    /// Where plugins put the sockets by which they register.
    pub fn plugins_registry(&self) -> PathBuf {
        self.root_dir.join("plugins_registry")
    }

    /// `<ns>_<name>_<uid>` below the folder of logs, upstream's layout.
    pub fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_logs_dir.join(format!("{namespace}_{name}_{uid}"))
    }

    /// Where monitors ask who has which devices.
    pub fn pod_resources_dir(&self) -> PathBuf {
        self.root_dir.join("pod-resources")
    }

    /// Where device plugins and the agent find each other.
    pub fn device_plugins_dir(&self) -> PathBuf {
        self.root_dir.join("device-plugins")
    }

    pub fn seccomp_dir(&self) -> PathBuf {
        self.data_dir.join("seccomp")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_are_read_and_added_up() {
        let system = Reserved::parse("cpu=200m,memory=1Gi,pid=100").expect("valid");
        let kube = Reserved::parse("cpu=1, ephemeral-storage=1Ki").expect("valid");
        assert_eq!(system.plus(kube), Reserved { cpu_milli: 1200, memory_bytes: 1 << 30, disk_bytes: 1024, processes: 100 });
        assert!(Reserved::parse("gpu=1").expect_err("unknown").contains("cannot reserve \"gpu\" resource"));
        Reserved::parse("cpu").expect_err("no amount");
        Reserved::parse("cpu=-1").expect_err("negative");
    }
}
