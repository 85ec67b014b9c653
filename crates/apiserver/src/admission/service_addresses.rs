//! ServiceAddresses: cluster addresses and node ports of Services (upstream does this in the Service's storage, with the same texts).
//!
//! What is in use is a table of holders, seeded from the stored Services. Nothing is given back by an event that could be missed: when
//! an asked-for value is held, its holder is looked at, and a holder that no longer has it loses it (lessons.md 69).

use super::{is, list};
use crate::config::{Config, ServiceCidr};
use async_trait::async_trait;
use keles_api::{Object, Path, Problems, Status};
use keles_kinds::core::service::prepare::settle;
use keles_registry::{Admission, Attributes, Operation, Registry};
use rand::Rng;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a write may be under way before its claim is doubted.
const CLAIM: Duration = Duration::from_secs(5);
/// The low end of both ranges is left to values that people choose (KEP-3070, KEP-3668).
const STATIC_PORTS: u16 = 86;
const TRIES: u32 = 64;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    Ip(Ipv4Addr),
    /// Protocol as an index, so that keys stay small: TCP, UDP, SCTP.
    Port(u16, u8),
}

struct Holder {
    service: String,
    since: Instant,
}

#[derive(Default)]
struct Held {
    seeded: bool,
    by: HashMap<Key, Holder>,
}

pub struct ServiceAddresses {
    cidr: ServiceCidr,
    ports: RangeInclusive<u16>,
    held: Mutex<Held>,
}

/// Why a value cannot be had; texts are upstream's.
enum Refusal {
    Taken,
    OutOfRange,
    Full,
}

impl ServiceAddresses {
    pub fn new(config: &Config) -> Self {
        ServiceAddresses { cidr: config.service_cidr, ports: config.node_ports.clone(), held: Mutex::default() }
    }

    fn with_held<T>(&self, registry: &Registry, f: impl FnOnce(&mut Held) -> T) -> T {
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        if !held.seeded {
            held.seeded = true;
            let long_ago = Instant::now().checked_sub(CLAIM).unwrap_or_else(Instant::now);
            for s in registry.read_all("", "services", "") {
                let service = full_name(s.namespace(), s.name());
                held.by.extend(keys(&s).into_iter().map(|k| (k, Holder { service: service.clone(), since: long_ago })));
            }
        }
        f(&mut held)
    }

    /// Takes `key` for `service`; a holder that no longer has it loses it.
    fn claim(&self, a: &Attributes<'_>, held: &mut Held, key: Key, service: &str) -> Result<(), Refusal> {
        let in_range = match key {
            Key::Ip(ip) => self.cidr.contains(ip),
            Key::Port(p, _) => self.ports.contains(&p),
        };
        if !in_range {
            return Err(Refusal::OutOfRange);
        }
        if let Some(h) = held.by.get(&key)
            && h.service != service
            && (h.since.elapsed() < CLAIM || still_has(a.registry, &h.service, key))
        {
            return Err(Refusal::Taken);
        }
        if !a.request.dry_run {
            held.by.insert(key, Holder { service: service.into(), since: Instant::now() });
        }
        Ok(())
    }

    fn allocate(&self, a: &Attributes<'_>, held: &mut Held, service: &str, candidate: impl Fn(u32, u32) -> Key, total: u32, reserved: u32) -> Result<Key, Refusal> {
        let mut rng = rand::rng();
        let dynamic = total.saturating_sub(reserved).max(1);
        for _ in 0..TRIES {
            let key = candidate(reserved.min(total - 1), rng.random_range(0..dynamic));
            if self.claim(a, held, key, service).is_ok() {
                return Ok(key);
            }
        }
        // Nearly full: look at every value once, the reserved ones last.
        let mut every = (0..dynamic).map(|n| (reserved.min(total - 1), n)).chain((0..reserved.min(total)).map(|n| (0, n)));
        every.find_map(|(base, n)| Some(candidate(base, n)).filter(|k| self.claim(a, held, *k, service).is_ok())).ok_or(Refusal::Full)
    }

    fn cluster_ip(&self, a: &Attributes<'_>, held: &mut Held, service: &str) -> Result<Ipv4Addr, Refusal> {
        let total = self.cidr.usable();
        let reserved = (total / 16).clamp(16, 256).min(total / 2);
        match self.allocate(a, held, service, |base, n| Key::Ip(self.cidr.address(base + n)), total, reserved)? {
            Key::Ip(ip) => Ok(ip),
            Key::Port(..) => Err(Refusal::Full),
        }
    }

    fn node_port(&self, a: &Attributes<'_>, held: &mut Held, service: &str, protocol: u8) -> Result<u16, Refusal> {
        let (first, total) = (*self.ports.start(), u32::from(*self.ports.end() - *self.ports.start()) + 1);
        let reserved = u32::from(STATIC_PORTS).min(total / 2);
        match self.allocate(a, held, service, |base, n| Key::Port(first + (base + n) as u16, protocol), total, reserved)? {
            Key::Port(p, _) => Ok(p),
            Key::Ip(_) => Err(Refusal::Full),
        }
    }
}

fn full_name(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn still_has(registry: &Registry, service: &str, key: Key) -> bool {
    let Some((namespace, name)) = service.split_once('/') else { return true };
    registry.read("", "services", namespace, name).is_some_and(|s| keys(&s).contains(&key))
}

fn protocol(p: &Value) -> u8 {
    match p["protocol"].as_str() {
        Some("UDP") => 1,
        Some("SCTP") => 2,
        _ => 0,
    }
}

fn port(v: &Value) -> Option<u16> {
    v.as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)
}

/// Every address and port a Service has.
fn keys(s: &Object) -> Vec<Key> {
    let mut ips: Vec<&str> = list(s.at(&["spec", "clusterIPs"])).filter_map(Value::as_str).collect();
    if ips.is_empty() {
        ips.push(s.str_at(&["spec", "clusterIP"]));
    }
    let mut all: Vec<Key> = ips.iter().filter_map(|ip| ip.parse().ok()).map(Key::Ip).collect();
    all.extend(list(s.at(&["spec", "ports"])).filter_map(|p| Some(Key::Port(port(&p["nodePort"])?, protocol(p)))));
    all.extend(port(s.at(&["spec", "healthCheckNodePort"])).map(|p| Key::Port(p, 0)));
    all
}

fn service_type(s: &Object) -> &str {
    match s.str_at(&["spec", "type"]) {
        "" => "ClusterIP",
        t => t,
    }
}
fn needs_cluster_ip(s: &Object) -> bool {
    service_type(s) != "ExternalName"
}
fn needs_node_ports(s: &Object) -> bool {
    match service_type(s) {
        "NodePort" => true,
        "LoadBalancer" => s.at(&["spec", "allocateLoadBalancerNodePorts"]) != false,
        _ => false,
    }
}
fn needs_health_port(s: &Object) -> bool {
    service_type(s) == "LoadBalancer" && s.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}
fn ports_mut(s: &mut Object) -> impl Iterator<Item = &mut Value> {
    s.0["spec"].get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().filter(|p| p.is_object())
}
#[async_trait]
impl Admission for ServiceAddresses {
    fn name(&self) -> &'static str {
        "ServiceAddresses"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        is(a, "", "services") && a.operation != Operation::Connect
    }
    fn mutates(&self) -> bool {
        true
    }

    /// Keeps, drops and allocates; what people chose themselves is claimed after validation.
    async fn mutate(&self, a: &Attributes<'_>, s: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        if !s.0["spec"].is_object() {
            return Ok(());
        }
        let mut p = Problems::new();
        settle(s, a.old, &mut p);
        if !p.is_empty() {
            return Err(Status::invalid("", "Service", s.name(), &p));
        }
        let service = full_name(&a.request.namespace, s.name());
        let full = |what: &str, why: &str| Status::internal(format!("failed to allocate a {what}: {why}"));
        self.with_held(a.registry, |held| {
            if needs_cluster_ip(s) && s.str_at(&["spec", "clusterIP"]).is_empty() {
                let ip = self.cluster_ip(a, held, &service).map_err(|_| full("serviceIP", "range is full"))?.to_string();
                s.0["spec"]["clusterIPs"] = json!([ip]);
                s.0["spec"]["clusterIP"] = ip.into();
            }
            if needs_node_ports(s) {
                self.allocate_node_ports(a, held, s, &service).map_err(|_| full("nodePort", "range is full"))?;
            }
            if needs_health_port(s) && port(s.at(&["spec", "healthCheckNodePort"])).is_none() {
                let p = self.node_port(a, held, &service, 0).map_err(|_| full("HealthCheck NodePort", "range is full"))?;
                s.0["spec"]["healthCheckNodePort"] = p.into();
            }
            Ok(())
        })
    }

    /// Claims every value the Service ends up with.
    async fn validate(&self, a: &Attributes<'_>, s: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        self.doubt(a);
        let Some(s) = s else { return Ok(()) };
        self.no_port_numbers(s)?;
        let service = full_name(&a.request.namespace, s.name());
        let known = a.old.map(keys).unwrap_or_default();
        let refused = self.with_held(a.registry, |held| keys(s).into_iter().filter(|k| !known.contains(k)).find_map(|k| self.claim(a, held, k, &service).err().map(|r| (k, r))));
        let Some((key, refusal)) = refused else { return Ok(()) };
        let mut p = Problems::new();
        self.explain(s, key, &refusal, &mut p);
        Err(Status::invalid("", "Service", s.name(), &p))
    }
}

impl ServiceAddresses {
    fn allocate_node_ports(&self, a: &Attributes<'_>, held: &mut Held, s: &mut Object, service: &str) -> Result<(), Refusal> {
        // One service port under two protocols gets one node port where that is free, as upstream does for DNS.
        let mut given: HashMap<u64, u16> = HashMap::new();
        for p in list(s.at(&["spec", "ports"])) {
            if let (Some(number), Some(node)) = (p["port"].as_u64(), port(&p["nodePort"])) {
                given.insert(number, node);
            }
        }
        for p in ports_mut(s).filter(|p| p["nodePort"].as_i64().unwrap_or(0) == 0) {
            let (number, proto) = (p["port"].as_u64().unwrap_or(0), protocol(p));
            let twin = given.get(&number).copied().filter(|n| a.old.is_none() && self.claim(a, held, Key::Port(*n, proto), service).is_ok());
            let node = match twin {
                Some(n) => n,
                None => self.node_port(a, held, service, proto)?,
            };
            given.insert(number, node);
            p["nodePort"] = node.into();
        }
        Ok(())
    }

    /// Refuses node ports that are no port numbers at all.
    fn no_port_numbers(&self, s: &Object) -> Result<(), Status> {
        let mut p = Problems::new();
        for (i, of) in list(s.at(&["spec", "ports"])).enumerate() {
            if let Some(n) = of["nodePort"].as_i64().filter(|n| *n != 0 && port(&of["nodePort"]).is_none()) {
                p.invalid(&Path::new("spec").child("ports").index(i).child("nodePort"), n, self.out_of_range());
            }
        }
        if p.is_empty() { Ok(()) } else { Err(Status::invalid("", "Service", s.name(), &p)) }
    }

    fn out_of_range(&self) -> String {
        format!("provided port is not in the valid range. The range of valid ports is {}-{}", self.ports.start(), self.ports.end())
    }

    /// What a stored Service has needs no claim: the next to ask for it looks whether the Service, changed or deleted, still has it.
    fn doubt(&self, a: &Attributes<'_>) {
        let service = full_name(&a.request.namespace, &a.request.name);
        let Some(long_ago) = Instant::now().checked_sub(CLAIM) else { return };
        self.with_held(a.registry, |held| {
            for key in a.old.map(keys).unwrap_or_default() {
                if let Some(h) = held.by.get_mut(&key).filter(|h| h.service == service) {
                    h.since = long_ago;
                }
            }
        });
    }

    fn explain(&self, s: &Object, key: Key, refusal: &Refusal, p: &mut Problems) {
        let spec = Path::new("spec");
        match key {
            Key::Ip(ip) => {
                let why = match refusal {
                    Refusal::OutOfRange => format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}", self.cidr),
                    _ => "provided IP is already allocated".to_owned(),
                };
                p.invalid(&spec.child("clusterIPs"), s.at(&["spec", "clusterIPs"]).clone(), format!("failed to allocate IP {ip}: {why}"));
            }
            Key::Port(n, _) => {
                let why = match refusal {
                    Refusal::OutOfRange => self.out_of_range(),
                    _ => "provided port is already allocated".to_owned(),
                };
                let index = list(s.at(&["spec", "ports"])).position(|p| port(&p["nodePort"]) == Some(n));
                let at = index.map_or_else(|| spec.child("healthCheckNodePort"), |i| spec.child("ports").index(i).child("nodePort"));
                p.invalid(&at, n, why);
            }
        }
    }
}
