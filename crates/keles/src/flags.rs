//! Every flag, declared once; clap makes `--help` of it and `config_file` reads the same names from YAML.
//!
//! Boolean flags take a value as all of upstream's do: `--flag`, `--flag=true`, `--flag=false`.

use crate::datastore_flags::DatastoreFlags;
use crate::image_flags::{PullFlags, RegistryFlags};
use crate::lifecycle_flags::LifecycleFlags;
use crate::node_flags::NodeFlags;
use crate::observe_flags::{LogFlags, ObserveFlags};
use crate::part_http::flags::{LeaderFlags, SecureFlags};
use crate::security_flags::{AuditFlags, AuthenticationFlags, AuthorizationFlags, ServingFlags, SigningFlags};
use clap::{ArgAction, Args, Parser, Subcommand};
use keles_apiserver::ServiceCidrs;
use keles_network::Cidr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

pub const DEFAULT_DATA_DIR: &str = "/var/lib/keles";

/// Kubernetes v1.36 in one binary.
#[derive(Parser)]
#[command(name = "keles", version, about, long_about = None, after_help = "keles oci is an OCI runtime with runc's commands: keles oci --help.")]
pub struct Cli {
    #[command(subcommand)]
    pub role: Role,
    #[command(flatten)]
    pub logs: LogFlags,
}

#[derive(Subcommand)]
pub enum Role {
    /// Run control plane and node in one process.
    Server(Box<Server>),
    /// Run the API server alone.
    Apiserver(Box<Apiserver>),
    /// Run the scheduler alone, against any API server.
    Scheduler(Box<Elected>),
    /// Run the controllers alone, against any API server.
    ControllerManager(Box<ControllerManager>),
    /// Run the node agent alone (pods, their network and volumes), against any API server.
    Kubelet(Box<Kubelet>),
    /// Run the service proxy alone, against any API server.
    Proxy(Box<Proxy>),
    /// Serve our container runtime, images and pod network over the CRI (runtime.v1) to node agents of others and to crictl.
    Cri(Box<Cri>),
    /// Print a kubeconfig for a user, signed by the cluster's CA in the data folder.
    Kubeconfig(Kubeconfig),
    /// Sign a serving certificate with the cluster's CA in the data folder, as a node agent that runs alone needs one.
    Certificate(Certificate),
    /// Load images from a docker-archive or OCI layout.
    Load(Load),
    /// List the node's images.
    Images(Images),
    /// Pull an image from a registry.
    Pull(Pull),
    /// Give an image another name.
    Tag(Tag),
    /// Remove an image.
    Rmi(Rmi),
}

/// What every API server is told.
#[derive(Args, Clone)]
pub struct ApiFlags {
    /// Folder of all state.
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// Where to write the administrator's kubeconfig [default: <data-dir>/kubeconfig].
    #[arg(long)]
    pub write_kubeconfig: Option<PathBuf>,
    #[arg(long, default_value_t = 6443)]
    pub https_listen_port: u16,
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Range of service addresses: one block, or one of each family, that of Services which name none first.
    #[arg(long, alias = "service-cluster-ip-range", default_value = "10.43.0.0/16")]
    pub service_cidr: ServiceCidrs,
    /// Further names and addresses of the serving certificate.
    #[arg(long, value_delimiter = ',')]
    pub tls_san: Vec<String>,
    #[command(flatten)]
    pub datastore: DatastoreFlags,
    #[command(flatten)]
    pub serving: ServingFlags,
    #[command(flatten)]
    pub authentication: AuthenticationFlags,
    #[command(flatten)]
    pub authorization: AuthorizationFlags,
    #[command(flatten)]
    pub audit: AuditFlags,
    #[command(flatten)]
    pub observe: ObserveFlags,
    #[command(flatten)]
    pub lifecycle: LifecycleFlags,
}

impl ApiFlags {
    pub fn kubeconfig(&self) -> PathBuf {
        self.write_kubeconfig.clone().unwrap_or_else(|| self.data_dir.join("kubeconfig"))
    }
}

#[derive(Args)]
pub struct Server {
    #[command(flatten)]
    pub api: ApiFlags,
    #[command(flatten)]
    pub signing: SigningFlags,
    /// Range of pod addresses; this node takes the first part of it.
    #[arg(long, default_value = "10.42.0.0/16")]
    pub cluster_cidr: Cidr,
    /// Bits of a node's part of --cluster-cidr: 24 has 253 addresses for pods.
    #[arg(long, default_value_t = crate::node::POD_PREFIX, value_parser = clap::value_parser!(u8).range(8..=28))]
    pub node_cidr_mask_size: u8,
    /// Address of cluster DNS [default: the tenth of the service range].
    #[arg(long)]
    pub cluster_dns: Option<Ipv4Addr>,
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Name of this node [default: the host's name].
    #[arg(long)]
    pub node_name: Option<String>,
    /// Address of this node [default: the one its default route uses].
    #[arg(long)]
    pub node_ip: Option<Ipv4Addr>,
    /// Secret that nodes join with.
    #[arg(long)]
    pub token: Option<String>,
    /// Leave a part out: dns, proxy, scheduler, controllers.
    #[arg(long, value_delimiter = ',')]
    pub disable: Vec<String>,
    /// Run no containers here.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub disable_agent: bool,
    /// Socket of another container runtime (containerd's, CRI-O's), as unix:///run/containerd/containerd.sock; absent for our own. Its driver of control
    /// groups must be cgroupfs, and the range of its CNI network another than --cluster-cidr's.
    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
    /// Port of the node agent's API.
    #[arg(long, default_value_t = keles_kubelet::DEFAULT_PORT)]
    pub kubelet_port: u16,
    /// Folder of the node agent's pods and plugins [default: /var/lib/kubelet beside the default data folder, else --data-dir].
    #[arg(long)]
    pub root_dir: Option<PathBuf>,
    /// Name of the pods' bridge and of what else is one a machine; give a second cluster on a machine another.
    #[arg(long, default_value = "keles0")]
    pub bridge: String,
    #[arg(long, default_value_t = keles_kubelet::DEFAULT_MAX_PODS)]
    pub max_pods: u32,
    #[command(flatten)]
    pub pulls: PullFlags,
    /// Give containers that name no seccomp profile RuntimeDefault; without it they run Unconfined.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub seccomp_default: bool,
    #[command(flatten)]
    pub node: NodeFlags,
}

#[derive(Args)]
pub struct Apiserver {
    #[command(flatten)]
    pub api: ApiFlags,
}

/// A part that finds its API server by kubeconfig.
#[derive(Args)]
pub struct Part {
    #[arg(long)]
    pub kubeconfig: PathBuf,
}

/// A part of the control plane that may stand several times, of which one works.
#[derive(Args)]
pub struct Elected {
    #[command(flatten)]
    pub part: Part,
    #[command(flatten)]
    pub secure: SecureFlags,
    #[command(flatten)]
    pub leader: LeaderFlags,
}

#[derive(Args)]
pub struct ControllerManager {
    #[command(flatten)]
    pub elected: Elected,
    /// Let each controller speak as its own service account, whose token the kubeconfig's user asks for; with =false all speak as that user.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub use_service_account_credentials: bool,
    #[command(flatten)]
    pub signing: SigningFlags,
}

/// The node agent alone, in upstream's names; where `keles server` has another, both do.
#[derive(Args)]
pub struct Kubelet {
    #[command(flatten)]
    pub part: Part,
    /// Folder of all state.
    #[arg(long, visible_alias = "root-dir", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// Name of this node [default: the host's name]; the kubeconfig's user must be system:node:NAME.
    #[arg(long, visible_alias = "hostname-override")]
    pub node_name: Option<String>,
    /// Address of this node [default: the one its default route uses].
    #[arg(long)]
    pub node_ip: Option<Ipv4Addr>,
    /// Labels the node registers with: key=value.
    #[arg(long, value_delimiter = ',', value_parser = label)]
    pub node_labels: Vec<(String, String)>,
    /// Where the agent's API listens.
    #[arg(long, default_value = "0.0.0.0")]
    pub address: IpAddr,
    /// Port of the agent's API.
    #[arg(long, visible_alias = "kubelet-port", default_value_t = keles_kubelet::DEFAULT_PORT)]
    pub port: u16,
    /// Where --kubeconfig does not exist, or its client certificate cannot be used any more: the credentials by which this node asks for one and has
    /// --kubeconfig written.
    #[arg(long)]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Ask for another client certificate before the one in force ends; it is kept in --cert-dir.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub rotate_certificates: bool,
    /// Ask for the certificate of the agent's API by a request that an administrator approves (KubeletConfiguration's serverTLSBootstrap), and again
    /// before it ends; it is kept in --cert-dir. Until it is issued, nobody can call the API.
    #[arg(long, conflicts_with = "tls_cert_file", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub rotate_server_certificates: bool,
    /// Certificate of the agent's API, followed [default: a self-signed one in --cert-dir].
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of --tls-cert-file.
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Folder of the certificates that are asked for or self-signed [default: <data-dir>/pki].
    #[arg(long)]
    pub cert_dir: Option<PathBuf>,
    /// Authority of those who may call the agent's API [default: the kubeconfig's].
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Callers of the agent's API who show neither certificate nor token are system:anonymous; without it they are refused.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub anonymous_auth: bool,
    /// Addresses of cluster DNS; absent: pods ask the node's resolvers.
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    #[command(flatten)]
    pub ranges: RangeFlags,
    /// Name of the pods' bridge and of what else is one a machine; the proxy's must be the same.
    #[arg(long, default_value = "keles0")]
    pub bridge: String,
    /// Socket of another container runtime (containerd's, CRI-O's), as unix:///run/containerd/containerd.sock; absent for our own. Its driver of control
    /// groups must be cgroupfs, and the range of its CNI network another than --cluster-cidr's.
    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
    #[arg(long, default_value_t = keles_kubelet::DEFAULT_MAX_PODS)]
    pub max_pods: u32,
    /// Sysctls outside the safe list that pods may set; a trailing * matches a prefix.
    #[arg(long, value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
    #[command(flatten)]
    pub pulls: PullFlags,
    /// Give containers that name no seccomp profile RuntimeDefault; without it they run Unconfined.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub seccomp_default: bool,
    #[command(flatten)]
    pub node: NodeFlags,
}

/// Of addresses, for who makes the pods' network.
#[derive(Args)]
pub struct RangeFlags {
    /// Range of this node's pods [default: the first /24 of --cluster-cidr].
    #[arg(long)]
    pub pod_cidr: Option<Cidr>,
    /// Range of all pods.
    #[arg(long, default_value = "10.42.0.0/16")]
    pub cluster_cidr: Cidr,
    /// Range of service addresses, which is routed to the pods' bridge.
    #[arg(long, default_value = "10.43.0.0/16")]
    pub service_cidr: Cidr,
}

impl RangeFlags {
    /// Range of this node's pods.
    pub fn pods(&self) -> Cidr {
        self.pod_cidr.unwrap_or_else(|| self.cluster_cidr.first(crate::node::POD_PREFIX))
    }
}

/// `key=value`.
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[derive(Args)]
pub struct Cri {
    /// Folder of all state; a node agent of ours must not use it at the same time.
    #[arg(long, visible_alias = "root-dir", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// Socket that clients call: a path, with unix:// before it or not.
    #[arg(long, default_value = "/run/keles/cri.sock")]
    pub listen: String,
    /// Where exec, attach and port-forward stream; only who may call the socket learns of a URL there.
    #[arg(long, default_value = "127.0.0.1")]
    pub stream_address: IpAddr,
    /// 0: any that is free.
    #[arg(long, default_value_t = 0)]
    pub stream_port: u16,
    #[command(flatten)]
    pub ranges: RangeFlags,
    /// Name of the pods' bridge and of what else is one a machine.
    #[arg(long, default_value = "keles0")]
    pub bridge: String,
    #[command(flatten)]
    pub registries: RegistryFlags,
}

#[derive(Args)]
pub struct Kubeconfig {
    #[command(flatten)]
    pub data: Data,
    /// The user: system:kube-scheduler, system:kube-controller-manager, system:kube-proxy, system:node:NAME, or anybody.
    #[arg(long)]
    pub client_name: String,
    /// The user's group; a node's is system:nodes.
    #[arg(long)]
    pub org: Option<String>,
    /// Where the API server is reached.
    #[arg(long, default_value = "https://127.0.0.1:6443")]
    pub server: String,
}

#[derive(Args)]
pub struct Certificate {
    #[command(flatten)]
    pub data: Data,
    /// Name of the node.
    #[arg(long, visible_alias = "hostname-override")]
    pub node_name: String,
    /// Further names and addresses.
    #[arg(long, value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Folder to write kubelet.crt and kubelet.key to.
    #[arg(long)]
    pub cert_dir: PathBuf,
}

#[derive(Args)]
pub struct Proxy {
    #[command(flatten)]
    pub part: Part,
    /// Where metrics, flags and status are served, without TLS; empty: not served.
    #[arg(long, default_value = "127.0.0.1:10249", value_parser = address)]
    pub metrics_bind_address: Address,
    /// Where health is served, without TLS; empty: not served.
    #[arg(long, default_value = "0.0.0.0:10256", value_parser = address)]
    pub healthz_bind_address: Address,
    /// Serve CPU profiles at /debug/pprof and the verbosity at /debug/flags/v, with the metrics.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub profiling: bool,
    /// The node's own kubeconfig, to read its pods for their host ports, which the proxy's user may not [default: --kubeconfig].
    #[arg(long)]
    pub node_kubeconfig: Option<PathBuf>,
    /// Name of this node [default: the host's name].
    #[arg(long, visible_alias = "hostname-override")]
    pub node_name: Option<String>,
    #[arg(long, default_value = "10.42.0.0/16")]
    pub cluster_cidr: Cidr,
    #[arg(long, default_value = "10.43.0.0/16")]
    pub service_cidr: Cidr,
    #[arg(long, default_value = "keles0")]
    pub bridge: String,
}

/// Where to listen; none when empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub Option<SocketAddr>);

fn address(text: &str) -> Result<Address, String> {
    match text {
        "" => Ok(Address(None)),
        text => text.parse().map(|at| Address(Some(at))).map_err(|_| format!("{text:?} is not ADDRESS:PORT")),
    }
}

#[derive(Args)]
pub struct Data {
    /// Folder of all state.
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
}

#[derive(Args)]
pub struct Load {
    /// The archive; `-` or absent for standard input.
    #[arg(short, long)]
    pub input: Option<PathBuf>,
    #[command(flatten)]
    pub data: Data,
}

#[derive(Args)]
pub struct Images {
    /// Only ids.
    #[arg(short, long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub quiet: bool,
    #[command(flatten)]
    pub data: Data,
}

#[derive(Args)]
pub struct Pull {
    pub image: String,
    #[command(flatten)]
    pub registries: RegistryFlags,
    #[command(flatten)]
    pub data: Data,
}

#[derive(Args)]
pub struct Tag {
    pub image: String,
    pub name: String,
    #[command(flatten)]
    pub data: Data,
}

#[derive(Args)]
pub struct Rmi {
    #[arg(required = true)]
    pub images: Vec<String>,
    #[command(flatten)]
    pub data: Data,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_node_agent_has_upstreams_names_and_a_boolean_takes_a_value() {
        let parse = |more: &[&str]| match Cli::try_parse_from([&["keles", "kubelet", "--kubeconfig", "/k"], more].concat()) {
            Ok(Cli { role: Role::Kubelet(k), .. }) => Ok(k),
            Ok(_) => panic!("a kubelet"),
            Err(e) => Err(e.to_string()),
        };
        let given = parse(&["--hostname-override", "n1", "--root-dir", "/d", "--port", "1", "--node-labels", "a=b,c=", "--cluster-dns", "10.0.0.1,10.0.0.2"]).expect("parses");
        assert_eq!((given.node_name.as_deref(), given.data_dir.to_str(), given.port), (Some("n1"), Some("/d"), 1));
        assert_eq!(given.node_labels, [("a".into(), "b".into()), ("c".into(), String::new())]);
        assert_eq!(given.cluster_dns.len(), 2);
        assert!(!given.seccomp_default, "Unconfined unless told otherwise, as upstream");
        assert!(parse(&["--seccomp-default"]).expect("parses").seccomp_default);
        assert!(!parse(&["--seccomp-default=false"]).expect("parses").seccomp_default);
        assert!(parse(&["--tls-cert-file", "/c"]).is_err_and(|e| e.contains("--tls-private-key-file")), "a certificate needs its key");
    }

    #[test]
    fn swap_is_left_alone_unless_told() {
        let parse = |more: &[&str]| match Cli::try_parse_from([&["keles", "server"], more].concat()) {
            Ok(Cli { role: Role::Server(s), .. }) => Ok(s.node.limits().unwrap_or_else(|e| panic!("{e}")).swap),
            Ok(_) => panic!("a server"),
            Err(e) => Err(e.to_string()),
        };
        use keles_kubelet::swap::{Behavior, Settings};
        assert_eq!(parse(&[]), Ok(Settings { behavior: Behavior::NoSwap, fail_on: false }));
        assert_eq!(parse(&["--fail-swap-on", "--memory-swap-behavior=LimitedSwap"]), Ok(Settings { behavior: Behavior::LimitedSwap, fail_on: true }));
        assert_eq!(parse(&["--fail-swap-on=false", "--memory-swap-behavior", ""]), Ok(Settings::default()), "empty is upstream's default");
        assert!(parse(&["--memory-swap-behavior", "UnlimitedSwap"]).is_err_and(|e| e.contains("must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"")));
    }

    #[test]
    fn the_kubeconfig_lies_in_the_data_folder_unless_told() {
        let Role::Server(s) = Cli::parse_from(["keles", "server", "--data-dir", "/x"]).role else { panic!("a server") };
        assert_eq!(s.api.kubeconfig(), PathBuf::from("/x/kubeconfig"));
    }
}
