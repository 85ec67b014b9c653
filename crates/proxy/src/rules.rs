//! What the kernel should hold, from Services, EndpointSlices and this node's host ports. Pure.
//!
//! A service port with N endpoints is one entry of a verdict map, pointing to the chain that picks among N, and N entries of
//! an endpoint map; so chains are as many as there are different N, not as many as there are services.

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use keles_linux::nft::Words;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Endpoints of one service port that are used; upstream has no limit, the picking chains here count up to it.
pub const MAX_ENDPOINTS: usize = 4096;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// A chain that picks one of `count` endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    pub count: u32,
    /// By source address (ClientIP affinity) instead of at random.
    pub by_source: bool,
    /// Keyed by protocol and port alone: NodePorts and host ports, whatever the node's address.
    pub node_port: bool,
}

impl Pick {
    pub fn chain(self) -> String {
        format!("{}-{}{}", if self.node_port { "nodeport" } else { "service" }, self.count, if self.by_source { "-by-source" } else { "" })
    }
}

/// The contents of all maps and sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// address . protocol . port → picking chain
    pub services: BTreeMap<Words, Pick>,
    /// address . protocol . port . slot → endpoint address . port
    pub endpoints: BTreeMap<Words, Words>,
    /// protocol . port → picking chain
    pub node_ports: BTreeMap<Words, Pick>,
    /// protocol . port . slot → endpoint address . port
    pub node_port_endpoints: BTreeMap<Words, Words>,
    /// endpoint . endpoint: a pod that reaches itself through a service must see another source.
    pub hairpin: BTreeSet<Words>,
    /// UDP service address and port → its endpoints; flows to others are forgotten.
    pub udp: BTreeMap<(Ipv4Addr, u16), BTreeSet<Ipv4Addr>>,
}

/// What the rules are computed from.
pub struct State<'a> {
    pub services: &'a [Arc<Service>],
    pub slices: &'a [Arc<EndpointSlice>],
    /// Pods of this node; only their host ports matter.
    pub pods: &'a [Arc<Pod>],
    pub node: &'a str,
}

type Target = (Ipv4Addr, u16);

pub fn compute(state: &State) -> Rules {
    let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in state.slices {
        let name = slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"));
        if let (Some(name), "IPv4") = (name, slice.address_type.as_str()) {
            by_service.entry((slice.metadata.namespace.as_deref().unwrap_or(""), name)).or_default().push(slice);
        }
    }
    let mut rules = Rules::default();
    for service in state.services {
        let key = (service.metadata.namespace.as_deref().unwrap_or(""), service.metadata.name.as_deref().unwrap_or(""));
        add_service(&mut rules, service, by_service.get(&key).map_or(&[], Vec::as_slice), state.node);
    }
    for pod in state.pods {
        add_host_ports(&mut rules, pod);
    }
    rules
}

fn protocol(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(TCP),
        "UDP" => Some(UDP),
        "SCTP" => Some(SCTP),
        _ => None,
    }
}

fn add_service(rules: &mut Rules, service: &Service, slices: &[&EndpointSlice], node: &str) {
    let Some(spec) = &service.spec else { return };
    if spec.type_.as_deref() == Some("ExternalName") {
        return;
    }
    let by_source = spec.session_affinity.as_deref() == Some("ClientIP");
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    for port in spec.ports.iter().flatten() {
        let (Some(proto), Ok(number)) = (protocol(port.protocol.as_deref()), u16::try_from(port.port)) else { continue };
        let internal = targets(slices, port, internal_local.then_some(node));
        for address in cluster_addresses(spec) {
            rules.add(Some(address), proto, number, by_source, &internal);
        }
        let external = if external_local == internal_local { internal } else { targets(slices, port, external_local.then_some(node)) };
        for address in external_addresses(service) {
            rules.add(Some(address), proto, number, by_source, &external);
        }
        if let Some(node_port) = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0) {
            rules.add(None, proto, node_port, by_source, &external);
        }
    }
}

fn cluster_addresses(spec: &k8s_openapi::api::core::v1::ServiceSpec) -> Vec<Ipv4Addr> {
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    all.filter_map(|a| a.parse().ok()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn external_addresses(service: &Service) -> Vec<Ipv4Addr> {
    let named = service.spec.iter().flat_map(|s| s.external_ips.iter().flatten());
    let balancer = service.status.iter().filter_map(|s| s.load_balancer.as_ref()).flat_map(|l| l.ingress.iter().flatten()).filter_map(|i| i.ip.as_ref());
    named.chain(balancer).filter_map(|a| a.parse().ok()).collect()
}

/// Endpoints of a service port, by the port's name (lessons.md 119): the ready ones, else those that still serve while they
/// terminate. `only_on` keeps one node's.
fn targets(slices: &[&EndpointSlice], port: &ServicePort, only_on: Option<&str>) -> Vec<Target> {
    let wanted = port.name.as_deref().unwrap_or("");
    let mut all: Vec<(&Endpoint, u16)> = Vec::new();
    for slice in slices {
        let number =
            slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or("") == wanted && p.protocol.as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP"));
        let Some(number) = number.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
        all.extend(slice.endpoints.iter().flatten().filter(|e| only_on.is_none() || e.node_name.as_deref() == only_on).map(|e| (e, number)));
    }
    let condition = |e: &Endpoint, of: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>, unset: bool| e.conditions.as_ref().and_then(of).unwrap_or(unset);
    let ready: BTreeSet<Target> = all.iter().filter(|(e, _)| condition(e, |c| c.ready, true)).filter_map(target).collect();
    let chosen = if ready.is_empty() {
        all.iter().filter(|(e, _)| condition(e, |c| c.serving, false) && condition(e, |c| c.terminating, false)).filter_map(target).collect()
    } else {
        ready
    };
    chosen.into_iter().take(MAX_ENDPOINTS).collect()
}

fn target((e, port): &(&Endpoint, u16)) -> Option<Target> {
    Some((e.addresses.first()?.parse().ok()?, *port))
}

fn add_host_ports(rules: &mut Rules, pod: &Pod) {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return };
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let Some(ip) = status.pod_ip.as_ref().and_then(|ip| ip.parse::<Ipv4Addr>().ok()) else { return };
    if over || spec.host_network == Some(true) {
        return;
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    for port in spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()) {
        let host = port.host_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
        let (Some(host), Some(proto), Ok(to)) = (host, protocol(port.protocol.as_deref()), u16::try_from(port.container_port)) else { continue };
        let address = port.host_ip.as_deref().and_then(|h| h.parse::<Ipv4Addr>().ok());
        rules.add_host_port(address, proto, host, (ip, to));
    }
}

impl Rules {
    /// A port of the node that leads to a pod's; without an address (or with 0.0.0.0) of all of the node's addresses. `proto` is IP's number.
    pub fn add_host_port(&mut self, address: Option<Ipv4Addr>, proto: u8, port: u16, target: (Ipv4Addr, u16)) {
        self.add(address.filter(|a| !a.is_unspecified()), proto, port, false, &[target]);
    }
    /// One front (an address, or any address of the node) with its targets. Without targets there is no rule: what is left
    /// over is rejected.
    fn add(&mut self, address: Option<Ipv4Addr>, proto: u8, port: u16, by_source: bool, targets: &[Target]) {
        let key = || address.map_or_else(Words::new, |a| Words::new().ip(a)).protocol(proto).port(port);
        if let Some(a) = address.filter(|_| proto == UDP) {
            self.udp.insert((a, port), targets.iter().map(|t| t.0).collect());
        }
        if targets.is_empty() {
            return;
        }
        let pick = Pick { count: targets.len() as u32, by_source, node_port: address.is_none() };
        let (fronts, ends) = if address.is_some() { (&mut self.services, &mut self.endpoints) } else { (&mut self.node_ports, &mut self.node_port_endpoints) };
        fronts.insert(key(), pick);
        for (slot, (ip, to)) in targets.iter().enumerate() {
            ends.insert(key().number(slot as u32), Words::new().ip(*ip).port(*to));
            self.hairpin.insert(Words::new().ip(*ip).ip(*ip));
        }
    }
    /// The picking chains that the maps point to.
    pub fn picks(&self) -> BTreeSet<Pick> {
        self.services.values().chain(self.node_ports.values()).copied().collect()
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
