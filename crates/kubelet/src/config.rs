//! How the node agent is set up; parsed and checked by the caller.

use crate::credential_provider::Providers;
use crate::naming::ClusterDns;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Upstream's default.
pub const DEFAULT_PORT: u16 = 10250;
pub const DEFAULT_MAX_PODS: u32 = 110;
/// What `kubeletVersion` says: the API version this agent speaks.
pub const VERSION: &str = "v1.36.0";

/// Certificates of the agent's own API, PEM.
#[derive(Clone)]
pub struct ServerTls {
    pub certificate_pem: String,
    pub key_pem: String,
    /// Callers' certificates of this authority count; others show a token.
    pub client_ca_pem: String,
}

#[derive(Clone)]
pub struct KubeletConfig {
    pub node_name: String,
    /// First the address that the node is known by.
    pub node_ips: Vec<IpAddr>,
    /// Holds `pods/`, `pods-logs/`, `seccomp/`.
    pub data_dir: PathBuf,
    pub cluster_dns: ClusterDns,
    /// Where the agent's API listens; port 0 takes a free one, which the Node object then tells.
    pub listen: SocketAddr,
    /// Absent: the agent has no API (logs, exec, attach and port-forward do not work).
    pub tls: Option<ServerTls>,
    /// Callers of the agent's API who show nothing are system:anonymous, whom RBAC may allow something; otherwise they are refused.
    pub anonymous_auth: bool,
    /// What `/flagz` shows: flags by name, secrets already left out.
    pub flags: std::collections::BTreeMap<String, String>,
    pub max_pods: u32,
    /// RuntimeDefault, not Unconfined, for containers that name no seccomp profile (upstream's `--seccomp-default`; off).
    pub seccomp_default: bool,
    /// Sysctls outside the safe list that pods may set; a trailing `*` matches a prefix.
    pub allowed_unsafe_sysctls: Vec<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    /// Running pods' configMap, secret, downwardAPI and projected files are compared with the API this often.
    pub volume_refresh: Duration,
    /// Programs that give credentials for images.
    pub credential_providers: Arc<Providers>,
}

impl KubeletConfig {
    /// A node with upstream's defaults.
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips: vec![node_ip],
            data_dir: data_dir.into(),
            cluster_dns: ClusterDns { servers: Vec::new(), domain: "cluster.local".into() },
            listen: SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)),
            tls: None,
            anonymous_auth: false,
            flags: Default::default(),
            max_pods: DEFAULT_MAX_PODS,
            seccomp_default: false,
            allowed_unsafe_sysctls: Vec::new(),
            labels: Default::default(),
            volume_refresh: Duration::from_secs(60),
            credential_providers: Arc::default(),
        }
    }

    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// `pods-logs/<ns>_<name>_<uid>`, upstream's /var/log/pods layout.
    pub fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.data_dir.join("pods-logs").join(format!("{namespace}_{name}_{uid}"))
    }

    pub fn seccomp_dir(&self) -> PathBuf {
        self.data_dir.join("seccomp")
    }
}
