//! The API server's settings: parsed once, before a port is bound.

use crate::audit::Options as Audit;
use keles_auth::authenticators::config::Options as Authentication;
use keles_auth::authorizers::config::Options as Authorization;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// An IPv4 block for service addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    pub base: Ipv4Addr,
    pub prefix_bits: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an IPv4 block like 10.43.0.0/16 with 8 to 30 bits")]
pub struct BadCidr(String);

impl std::str::FromStr for ServiceCidr {
    type Err = BadCidr;
    fn from_str(s: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(s.into());
        let (base, bits) = s.split_once('/').ok_or_else(bad)?;
        let (base, prefix_bits): (Ipv4Addr, u8) = (base.parse().map_err(|_| bad())?, bits.parse().map_err(|_| bad())?);
        if !(8..=30).contains(&prefix_bits) {
            return Err(bad());
        }
        let mask = u32::MAX << (32 - prefix_bits);
        Ok(ServiceCidr { base: Ipv4Addr::from(u32::from(base) & mask), prefix_bits })
    }
}

impl std::fmt::Display for ServiceCidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

impl ServiceCidr {
    /// How many addresses may be given out: all but the first and the last.
    pub fn usable(&self) -> u32 {
        (1u32 << (32 - self.prefix_bits)) - 2
    }
    /// The n-th usable address, from 0; the first one belongs to the `kubernetes` Service.
    pub fn address(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1 + n)
    }
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        let offset = u32::from(ip).wrapping_sub(u32::from(self.base));
        (1..=self.usable()).contains(&offset)
    }
}

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
    pub service_cidr: ServiceCidr,
    pub node_ports: RangeInclusive<u16>,
    /// How often history older than this is forgotten; zero: never.
    pub compaction_interval: Duration,
    /// Issuer of ServiceAccount tokens, which is also their default audience.
    pub issuer: String,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub service_accounts: ServiceAccounts,
    /// What is written down of requests; nothing without a policy.
    pub audit: Audit,
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
pub const SERVICE_CIDR: ServiceCidr = ServiceCidr { base: Ipv4Addr::new(10, 43, 0, 0), prefix_bits: 16 };

impl Config {
    /// Defaults over a data folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        Config {
            data_dir: data_dir.into(),
            port: 6443,
            advertise_address: Ipv4Addr::LOCALHOST.into(),
            extra_ips: Vec::new(),
            extra_names: Vec::new(),
            service_cidr: SERVICE_CIDR,
            node_ports: NODE_PORTS,
            compaction_interval: keles_store::compactor::INTERVAL,
            issuer: keles_auth::tokens::DEFAULT_ISSUER.into(),
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            service_accounts: ServiceAccounts::default(),
            audit: Audit::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_block_gives_its_addresses_but_not_its_ends() {
        let c: ServiceCidr = "10.43.7.9/24".parse().unwrap();
        assert_eq!(c.to_string(), "10.43.7.0/24");
        assert_eq!(c.address(0), Ipv4Addr::new(10, 43, 7, 1));
        assert!(c.contains(c.address(c.usable() - 1)) && !c.contains(c.base) && !c.contains(Ipv4Addr::new(10, 43, 7, 255)));
        assert!("10.0.0.0/31".parse::<ServiceCidr>().is_err() && "x/16".parse::<ServiceCidr>().is_err());
    }
}
