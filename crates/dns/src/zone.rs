//! What a name of the cluster's domain means. Pure.

use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Seconds an answer may be kept: short, since endpoints come and go (CoreDNS's default).
const TTL_SECONDS: u32 = 5;
/// Version of the specification that `dns-version` names.
const SPECIFICATION: &str = "1.1.0";

/// What the zone looks things up in.
pub trait Directory: Send + Sync {
    fn namespace_exists(&self, name: &str) -> bool;
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    /// The service with this cluster address.
    fn service_at(&self, ip: Ipv4Addr) -> Option<Arc<Service>>;
    /// Slices with an endpoint at this address.
    fn slices_at(&self, ip: Ipv4Addr) -> Vec<Arc<EndpointSlice>>;
    /// Whether all of this is known yet; before, a name that is missing may only be late.
    fn synced(&self) -> bool;
}

/// The outcome of a lookup.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// Records; empty when the name exists without any of this type.
    Records { answers: Vec<Record>, additionals: Vec<Record> },
    /// The name does not exist.
    Nothing,
    /// Not a name of the cluster: ask upstream.
    Elsewhere,
}

/// A zone such as `cluster.local`.
pub struct Zone {
    domain: Name,
}

impl Zone {
    pub fn new(domain: Name) -> Self {
        Zone { domain }
    }
    /// The SOA that goes with negative answers.
    pub fn soa(&self) -> Record {
        let host = |h: &str| Name::from_ascii(h).and_then(|n| n.append_domain(&self.domain)).unwrap_or_else(|_| self.domain.clone());
        let soa = SOA::new(host("ns.dns"), host("hostmaster"), 1, 7200, 1800, 86400, TTL_SECONDS);
        Record::from_rdata(self.domain.clone(), TTL_SECONDS, RData::SOA(soa))
    }
    pub fn find(&self, directory: &dyn Directory, name: &Name, kind: RecordType) -> Found {
        let lower = name.to_lowercase();
        if let Some(ip) = reverse(&lower) {
            return pointers(directory, name, ip, &self.domain, kind);
        }
        if !self.domain.zone_of(&lower) {
            return Found::Elsewhere;
        }
        let own = lower.num_labels() - self.domain.num_labels();
        let labels: Vec<String> = lower.iter().take(usize::from(own)).map(|l| String::from_utf8_lossy(l).into_owned()).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let look = Look { directory, name, kind };
        match labels.as_slice() {
            [] if kind == RecordType::SOA => look.records(vec![self.soa()]),
            [] | ["svc"] | ["pod"] => look.records(vec![]),
            ["dns-version"] => look.text(SPECIFICATION),
            [rest @ .., namespace, "svc"] => look.service_name(rest, namespace),
            [rest @ .., namespace, "pod"] => look.pod_name(rest, namespace),
            _ => Found::Nothing,
        }
    }
}

struct Look<'a> {
    directory: &'a dyn Directory,
    name: &'a Name,
    kind: RecordType,
}

/// An endpoint as DNS names it.
struct Target {
    ip: Ipv4Addr,
    host: String,
    ports: Vec<(String, String, u16)>,
}

impl Look<'_> {
    fn records(&self, answers: Vec<Record>) -> Found {
        Found::Records { answers, additionals: vec![] }
    }
    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), TTL_SECONDS, data)
    }
    fn wants(&self, kind: RecordType) -> bool {
        self.kind == kind || self.kind == RecordType::ANY
    }
    fn text(&self, t: &str) -> Found {
        self.records(if self.wants(RecordType::TXT) { vec![self.record(RData::TXT(TXT::new(vec![t.into()])))] } else { vec![] })
    }
    fn addresses(&self, ips: impl Iterator<Item = Ipv4Addr>) -> Found {
        self.records(if self.wants(RecordType::A) { ips.map(|ip| self.record(RData::A(A(ip)))).collect() } else { vec![] })
    }

    /// `rest.namespace.svc`: a service, one of its ports or one of its endpoints.
    fn service_name(&self, rest: &[&str], namespace: &str) -> Found {
        let Some((service, before)) = rest.split_last() else {
            return if self.directory.namespace_exists(namespace) { self.records(vec![]) } else { Found::Nothing };
        };
        let Some(found) = self.directory.service(namespace, service) else { return Found::Nothing };
        let Some(spec) = &found.spec else { return Found::Nothing };
        if spec.type_.as_deref() == Some("ExternalName") {
            return self.external(before, spec.external_name.as_deref().unwrap_or(""));
        }
        let cluster_ip = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
        let targets = || targets(&self.directory.slices(namespace, service));
        match (before, cluster_ip) {
            ([], Some(ip)) => self.addresses([ip].into_iter()),
            ([], None) => self.nonempty(targets()),
            ([port, proto], Some(ip)) if port.starts_with('_') && proto.starts_with('_') => self.cluster_port(spec, &port[1..], &proto[1..], ip),
            ([port, proto], None) if port.starts_with('_') && proto.starts_with('_') => self.endpoint_ports(&targets(), &port[1..], &proto[1..]),
            ([host], _) => self.nonempty(targets().into_iter().filter(|t| t.host == *host).collect()),
            _ => Found::Nothing,
        }
    }

    fn external(&self, before: &[&str], to: &str) -> Found {
        let Some(target) = Name::from_utf8(to).ok().filter(|_| before.is_empty() && !to.is_empty()) else { return Found::Nothing };
        let mut target = target;
        target.set_fqdn(true);
        self.records(vec![self.record(RData::CNAME(CNAME(target)))])
    }

    /// A headless service or host without ready endpoints does not exist.
    fn nonempty(&self, targets: Vec<Target>) -> Found {
        if targets.is_empty() {
            return Found::Nothing;
        }
        self.addresses(targets.into_iter().map(|t| t.ip))
    }

    fn cluster_port(&self, spec: &k8s_openapi::api::core::v1::ServiceSpec, port: &str, proto: &str, ip: Ipv4Addr) -> Found {
        let matching = spec.ports.iter().flatten().filter(|p| p.name.as_deref() == Some(port) && p.protocol.as_deref().unwrap_or("TCP").eq_ignore_ascii_case(proto));
        let host = self.name.trim_to(usize::from(self.name.num_labels()).saturating_sub(2));
        let ports: Vec<u16> = matching.filter_map(|p| u16::try_from(p.port).ok()).collect();
        self.service_records(ports.into_iter().map(|p| (p, host.clone(), ip)).collect())
    }

    fn endpoint_ports(&self, targets: &[Target], port: &str, proto: &str) -> Found {
        let service = self.name.trim_to(usize::from(self.name.num_labels()).saturating_sub(2));
        let of = |t: &Target| -> Vec<(u16, Name, Ipv4Addr)> {
            let Ok(host) = Name::from_ascii(&t.host).and_then(|h| h.append_domain(&service)) else { return vec![] };
            t.ports.iter().filter(|(n, p, _)| n == port && p.eq_ignore_ascii_case(proto)).map(|(_, _, number)| (*number, host.clone(), t.ip)).collect()
        };
        self.service_records(targets.iter().flat_map(of).collect())
    }

    fn service_records(&self, all: Vec<(u16, Name, Ipv4Addr)>) -> Found {
        if all.is_empty() {
            return Found::Nothing;
        }
        if !self.wants(RecordType::SRV) {
            return self.records(vec![]);
        }
        let weight = (100 / all.len()).max(1) as u16;
        let answers = all.iter().map(|(port, host, _)| self.record(RData::SRV(SRV::new(0, weight, *port, host.clone())))).collect();
        let additionals = all.iter().map(|(_, host, ip)| Record::from_rdata(host.clone(), TTL_SECONDS, RData::A(A(*ip)))).collect();
        Found::Records { answers, additionals }
    }

    /// `10-42-0-3.namespace.pod`: the address that the name spells.
    fn pod_name(&self, rest: &[&str], namespace: &str) -> Found {
        if !self.directory.namespace_exists(namespace) {
            return Found::Nothing;
        }
        match rest {
            [] => self.records(vec![]),
            [dashed] => match dashed.replace('-', ".").parse() {
                Ok(ip) => self.addresses([ip].into_iter()),
                Err(_) => Found::Nothing,
            },
            _ => Found::Nothing,
        }
    }
}

/// The endpoints that DNS publishes: the ready ones (a service that publishes the others has them marked ready by its controller).
fn targets(slices: &[Arc<EndpointSlice>]) -> Vec<Target> {
    let mut out: Vec<Target> = Vec::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let ports = || {
            slice
                .ports
                .iter()
                .flatten()
                .filter_map(|p| Some((p.name.clone().unwrap_or_default(), p.protocol.clone().unwrap_or_else(|| "TCP".into()), u16::try_from(p.port?).ok()?)))
                .collect()
        };
        for e in slice.endpoints.iter().flatten().filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)) {
            let Some(ip) = e.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            out.push(Target { ip, host: host_of(e, ip), ports: ports() });
        }
    }
    out.sort_by_key(|t| t.ip);
    out
}

/// The endpoint's own name: its hostname, or its address with dashes.
fn host_of(e: &Endpoint, ip: Ipv4Addr) -> String {
    e.hostname.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_string().replace('.', "-"))
}

/// The address of `d.c.b.a.in-addr.arpa`.
fn reverse(name: &Name) -> Option<Ipv4Addr> {
    let labels: Vec<String> = name.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    match labels.as_slice() {
        [d, c, b, a, arpa_in, arpa] if arpa_in == "in-addr" && arpa == "arpa" => format!("{a}.{b}.{c}.{d}").parse().ok(),
        _ => None,
    }
}

fn pointers(directory: &dyn Directory, name: &Name, ip: Ipv4Addr, domain: &Name, kind: RecordType) -> Found {
    let mut names = Vec::new();
    if let Some(s) = directory.service_at(ip) {
        names.push(format!("{}.{}.svc", s.metadata.name.as_deref().unwrap_or(""), s.metadata.namespace.as_deref().unwrap_or("")));
    }
    for slice in directory.slices_at(ip) {
        let service = slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name").cloned()).unwrap_or_default();
        let namespace = slice.metadata.namespace.clone().unwrap_or_default();
        let headless = directory.service(&namespace, &service).is_some_and(|s| s.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None"));
        let endpoint = slice.endpoints.iter().flatten().find(|e| e.addresses.first().is_some_and(|a| a.parse() == Ok(ip)));
        if let Some(e) = endpoint.filter(|_| headless) {
            names.push(format!("{}.{service}.{namespace}.svc", host_of(e, ip)));
        }
    }
    if names.is_empty() {
        return Found::Elsewhere;
    }
    let to = |n: &String| Name::from_ascii(n).and_then(|n| n.append_domain(domain)).ok();
    let wanted = kind == RecordType::PTR || kind == RecordType::ANY;
    let answers = names.iter().filter(|_| wanted).filter_map(to).map(|n| Record::from_rdata(name.clone(), TTL_SECONDS, RData::PTR(PTR(n)))).collect();
    Found::Records { answers, additionals: vec![] }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
pub(crate) mod tests;
