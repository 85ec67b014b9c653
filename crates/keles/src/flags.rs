//! Every flag, declared once; clap makes `--help` of it and `config_file` reads the same names from YAML.

use clap::{Args, Parser, Subcommand};
use keles_apiserver::ServiceCidr;
use keles_network::Cidr;
use keles_observe::LogFormat;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

pub const DEFAULT_DATA_DIR: &str = "/var/lib/keles";

/// Kubernetes v1.36 in one binary.
#[derive(Parser)]
#[command(name = "keles", version, about, long_about = None)]
pub struct Cli {
    #[command(subcommand)]
    pub role: Role,
    /// Write logs as JSON lines.
    #[arg(long, global = true)]
    pub log_json: bool,
}

impl Cli {
    pub fn log_format(&self) -> LogFormat {
        if self.log_json { LogFormat::Json } else { LogFormat::Text }
    }
}

#[derive(Subcommand)]
pub enum Role {
    /// Run control plane and node in one process.
    Server(Box<Server>),
    /// Run the API server alone.
    Apiserver(Box<Apiserver>),
    /// Run the scheduler alone, against any API server.
    Scheduler(Part),
    /// Run the controllers alone, against any API server.
    ControllerManager(Part),
    /// Run the service proxy alone, against any API server.
    Proxy(Box<Proxy>),
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
    /// Range of service addresses.
    #[arg(long, default_value = "10.43.0.0/16")]
    pub service_cidr: ServiceCidr,
    /// Further names and addresses of the serving certificate.
    #[arg(long, value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Where the state is kept: absent for the embedded store.
    #[arg(long)]
    pub datastore_endpoint: Option<String>,
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
    /// Range of pod addresses; this node takes its first /24.
    #[arg(long, default_value = "10.42.0.0/16")]
    pub cluster_cidr: Cidr,
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
    #[arg(long)]
    pub disable_agent: bool,
    /// Socket of another container runtime; absent for our own.
    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
    /// Port of the node agent's API.
    #[arg(long, default_value_t = keles_kubelet::DEFAULT_PORT)]
    pub kubelet_port: u16,
    /// Name of the pods' bridge and of what else is one a machine; give a second cluster on a machine another.
    #[arg(long, default_value = "keles0")]
    pub bridge: String,
    #[arg(long, default_value_t = keles_kubelet::DEFAULT_MAX_PODS)]
    pub max_pods: u32,
    /// Give containers that name no seccomp profile RuntimeDefault instead of Unconfined (the kubelet's flag of this name).
    #[arg(long)]
    pub seccomp_default: bool,
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

#[derive(Args)]
pub struct Proxy {
    #[command(flatten)]
    pub part: Part,
    #[arg(long)]
    pub node_name: Option<String>,
    #[arg(long, default_value = "10.42.0.0/16")]
    pub cluster_cidr: Cidr,
    #[arg(long, default_value = "10.43.0.0/16")]
    pub service_cidr: Cidr,
    #[arg(long, default_value = "keles0")]
    pub bridge: String,
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
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub data: Data,
}

#[derive(Args)]
pub struct Pull {
    pub image: String,
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
    fn the_kubeconfig_lies_in_the_data_folder_unless_told() {
        let Role::Server(s) = Cli::parse_from(["keles", "server", "--data-dir", "/x"]).role else { panic!("a server") };
        assert_eq!(s.api.kubeconfig(), PathBuf::from("/x/kubeconfig"));
    }
}
