//! Ports of the host that lead to sandboxes (`port_mappings`), and the masquerade of what leaves the pods' range: one nftables table of our own, in the
//! form of the service proxy's, changed in one transaction.

use keles_cri::{PortMapping, Protocol};
use keles_linux::netlink::{NetlinkError, Socket};
use keles_proxy::rules::{Rules, SCTP, TCP, UDP};
use keles_proxy::table::{self, Frame};
use keles_runtime::api::{NamespaceMode, PodRuntime, RuntimeError, SandboxStatus};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use tokio::sync::Mutex;

#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("host port {0} of port_mappings is no port")]
    Number(i32),
    #[error("host_ip {0:?} of port_mappings is no IPv4 address")]
    Address(String),
    #[error("host port {port} of port_mappings is sandbox {holder}'s already")]
    Taken { port: String, holder: String },
    #[error("nftables refused the host ports: {0}")]
    Refused(#[from] NetlinkError),
    #[error("sandboxes cannot be listed for their host ports: {0}")]
    Runtime(#[from] RuntimeError),
    #[error("the thread of nftables ended early")]
    Thread,
}

pub struct Ports {
    frame: Frame,
    /// What the kernel holds; none before the first transaction and after one that failed.
    applied: Mutex<Option<Rules>>,
}

/// A mapping as the rules have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Front {
    address: Option<Ipv4Addr>,
    protocol: u8,
    port: u16,
}

/// Mappings with a host port; others expose nothing.
fn fronts(mappings: &[PortMapping]) -> Result<Vec<(Front, u16)>, PortError> {
    let number = |n: i32| u16::try_from(n).ok().filter(|n| *n != 0).ok_or(PortError::Number(n));
    let meant = mappings.iter().filter(|mapping| mapping.host_port != 0);
    let front = |m: &PortMapping| {
        let address = match m.host_ip.as_str() {
            "" | "0.0.0.0" => None,
            text => Some(text.parse().map_err(|_| PortError::Address(text.to_owned()))?),
        };
        let protocol = match m.protocol() {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
            Protocol::Sctp => SCTP,
        };
        Ok((Front { address, protocol, port: number(m.host_port)? }, number(m.container_port)?))
    };
    meant.map(front).collect()
}

/// Sandboxes whose mappings count, with their address.
fn mapped(sandboxes: &[SandboxStatus]) -> impl Iterator<Item = (&SandboxStatus, Ipv4Addr, Vec<(Front, u16)>)> {
    let ready = sandboxes.iter().filter(|sandbox| sandbox.ready && sandbox.config.network != NamespaceMode::Node);
    ready.filter_map(|sandbox| {
        let ip = sandbox.ips.first()?.parse().ok()?;
        let config = crate::record::of_sandbox(sandbox).config?;
        // They were good when the sandbox was made.
        Some((sandbox, ip, fronts(&config.port_mappings).ok()?))
    })
}

/// Whether the host's ports are free for a new sandbox.
pub fn check(mappings: &[PortMapping], sandboxes: &[SandboxStatus]) -> Result<(), PortError> {
    let wanted = fronts(mappings)?;
    let held: BTreeMap<Front, &str> = mapped(sandboxes).flat_map(|(sandbox, _, fronts)| fronts.into_iter().map(|(front, _)| (front, sandbox.id.as_str()))).collect();
    let taken = wanted.iter().find_map(|(front, _)| held.get(front).map(|holder| (front, holder)));
    match taken {
        Some((front, holder)) => Err(PortError::Taken { port: front.port.to_string(), holder: (*holder).to_owned() }),
        None => Ok(()),
    }
}

fn rules(sandboxes: &[SandboxStatus]) -> Rules {
    let mut rules = Rules::default();
    for (_, ip, fronts) in mapped(sandboxes) {
        fronts.into_iter().for_each(|(front, to)| rules.add_host_port(front.address, front.protocol, front.port, (ip, to)));
    }
    rules
}

impl Ports {
    pub fn new(frame: Frame) -> Ports {
        Ports { frame, applied: Mutex::default() }
    }

    /// Makes the kernel hold the mappings of the sandboxes that there are and no others.
    pub async fn apply(&self, runtime: &dyn PodRuntime) -> Result<(), PortError> {
        let mut applied = self.applied.lock().await;
        // Listed under the lock: an older list must not replace a newer one.
        let new = rules(&runtime.list_sandboxes().await?);
        if applied.as_ref() == Some(&new) {
            return Ok(());
        }
        let (frame, old) = (self.frame.clone(), applied.take());
        let done = tokio::task::spawn_blocking(move || {
            let mut socket = Socket::netfilter()?;
            let batch = match &old {
                Some(old) => table::update(&frame, old, &new),
                None => table::replace(&frame, &new),
            };
            batch.commit(&mut socket)?;
            keles_proxy::forget_stale_udp(&mut socket, &old.unwrap_or_default(), &new)?;
            Ok::<_, NetlinkError>(new)
        });
        *applied = Some(done.await.map_err(|_| PortError::Thread)??);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;
    use keles_cri::{PodSandboxConfig, RunPodSandboxRequest};
    use keles_runtime::api::SandboxConfig;

    fn mapping(host_port: i32, host_ip: &str, protocol: Protocol) -> PortMapping {
        PortMapping { protocol: protocol as i32, container_port: 80, host_port, host_ip: host_ip.into() }
    }

    fn sandbox(id: &str, ready: bool, mappings: Vec<PortMapping>) -> SandboxStatus {
        let said = RunPodSandboxRequest { config: Some(PodSandboxConfig { port_mappings: mappings, ..PodSandboxConfig::default() }), runtime_handler: String::new() };
        let config = SandboxConfig { annotations: record::annotations(&said), ..SandboxConfig::default() };
        SandboxStatus { id: id.into(), config, ready, created_at_unix_ns: 1, netns: None, ips: vec!["10.0.0.2".into()] }
    }

    #[test]
    fn only_ready_sandboxes_have_ports_and_a_mapping_without_a_host_port_none() {
        let all = [sandbox("a", true, vec![mapping(8080, "", Protocol::Tcp), mapping(0, "", Protocol::Tcp)]), sandbox("b", false, vec![mapping(9090, "", Protocol::Tcp)])];
        assert_eq!((rules(&all).node_ports.len(), rules(&all).services.len()), (1, 0));
        let addressed = [sandbox("a", true, vec![mapping(53, "192.0.2.1", Protocol::Udp)])];
        assert_eq!((rules(&addressed).node_ports.len(), rules(&addressed).services.len()), (0, 1));
    }

    #[test]
    fn a_port_belongs_to_one_sandbox_and_must_be_one() {
        let all = [sandbox("a", true, vec![mapping(8080, "", Protocol::Tcp)])];
        let taken = check(&[mapping(8080, "0.0.0.0", Protocol::Tcp)], &all).expect_err("taken").to_string();
        assert_eq!(taken, "host port 8080 of port_mappings is sandbox a's already");
        check(&[mapping(8080, "", Protocol::Udp)], &all).expect("another protocol");
        assert!(matches!(check(&[mapping(70_000, "", Protocol::Tcp)], &all), Err(PortError::Number(70_000))));
        assert!(matches!(check(&[mapping(1, "::1", Protocol::Tcp)], &all), Err(PortError::Address(_))));
    }
}
