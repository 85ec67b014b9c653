//! The API server's settings: parsed once, before a port is bound.

use crate::addresses::range::{ServiceCidr, ServiceCidrs};
use crate::audit::Options as Audit;
use crate::features::Features;
use crate::lifecycle::Options as Lifecycle;
use keles_auth::authenticators::config::Options as Authentication;
use keles_auth::authorizers::config::Options as Authorization;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// What an API server is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Certificates and keys live in `<data_dir>/pki`.
    pub data_dir: PathBuf,
    /// The port clients reach; goes into the `kubernetes` Endpoints and discovery.
    pub port: u16,
    /// The address that the `kubernetes` Service leads to.
    pub advertise_address: IpAddr,
    /// Further addresses and names for the serving certificate (node name, host addresses, load balancers).
    pub extra_ips: Vec<IpAddr>,
    pub extra_names: Vec<String>,
    /// Where addresses of Services come from.
    pub service_cidrs: ServiceCidrs,
    pub node_ports: RangeInclusive<u16>,
    /// How often history older than this is forgotten; zero: never.
    pub compaction_interval: Duration,
    /// Issuer of ServiceAccount tokens, which is also their default audience.
    pub issuer: String,
    /// What is shown to clients who ask for no name that a certificate of ours has; absent: ours.
    pub serving: Option<NamedFiles>,
    /// Further certificates, for names.
    pub serving_by_name: Vec<NamedFiles>,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub service_accounts: ServiceAccounts,
    /// What is written down of requests; nothing without a policy.
    pub audit: Audit,
    /// How many requests at once, and how long things take.
    pub lifecycle: Lifecycle,
    pub features: Features,
    /// `/debug/pprof` and `/debug/flags` are served.
    pub profiling: bool,
    /// Flags as `/flagz` shows them, secrets already left out.
    pub flags: BTreeMap<String, String>,
}

/// A serving certificate, its key, and the names of servers it is shown for; without names those it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub names: Vec<String>,
}

impl std::str::FromStr for NamedFiles {
    type Err = String;
    /// `cert,key` or `cert,key:name,…`, the form of `--tls-sni-cert-key`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (files, names) = text.split_once(':').unwrap_or((text, ""));
        let names = names.split(',').map(|n| n.trim().to_ascii_lowercase()).filter(|n| !n.is_empty()).collect();
        match files.split_once(',') {
            Some((certificate, key)) if !certificate.is_empty() && !key.is_empty() => Ok(NamedFiles { certificate: certificate.into(), key: key.into(), names }),
            _ => Err("expected comma separated certificate and key file paths".into()),
        }
    }
}

/// `--service-account-*` and `--api-audiences`.
#[derive(Clone, Debug, Default)]
pub struct ServiceAccounts {
    /// Issuers beside [`Config::issuer`] whose tokens count.
    pub further_issuers: Vec<String>,
    /// Audiences of this API server; empty: its issuers.
    pub api_audiences: Vec<String>,
    /// The key that signs; absent: one of our own, made on the first start.
    pub signing_key_file: Option<PathBuf>,
    /// Further keys whose tokens count.
    pub key_files: Vec<PathBuf>,
    /// Longest life of a token that is asked for; absent: no limit but the API's.
    pub max_expiration: Option<Duration>,
    /// Tokens of kubelets live a year (`--service-account-extend-token-expiration`).
    pub no_extension: bool,
    /// What discovery names as the address of the keys; absent: this server's own.
    pub jwks_uri: Option<String>,
}

/// Upstream's default range.
pub const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
/// k3s's default block.
pub const SERVICE_CIDR: ServiceCidr = ServiceCidr::v4(10, 43, 16);

impl Config {
    /// Defaults over a data folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        Config {
            data_dir: data_dir.into(),
            port: 6443,
            advertise_address: Ipv4Addr::LOCALHOST.into(),
            extra_ips: Vec::new(),
            extra_names: Vec::new(),
            service_cidrs: ServiceCidrs::one(SERVICE_CIDR),
            node_ports: NODE_PORTS,
            compaction_interval: keles_store::compactor::INTERVAL,
            issuer: keles_auth::tokens::DEFAULT_ISSUER.into(),
            serving: None,
            serving_by_name: Vec::new(),
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            service_accounts: ServiceAccounts::default(),
            audit: Audit::default(),
            lifecycle: Lifecycle::default(),
            features: Features::default(),
            profiling: true,
            flags: BTreeMap::new(),
        }
    }
}
