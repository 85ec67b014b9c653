//! ServiceAddresses: cluster addresses and node ports of Services (upstream does this in the Service's storage, with the same texts).
//!
//! Addresses are objects ([`crate::addresses`]). Which node ports are in use is a table of holders, seeded from the stored Services; where other
//! servers store Services too it takes theirs in before each look, and ports are claimed in the store while a Service is written
//! ([`crate::addresses::ports`]). Nothing of it is given back by an event that could be missed: when an asked-for port is held, its holder is looked at, and a holder that no
//! longer has it loses it (lessons.md 69).

use super::{is, list};
use crate::addresses::allocate::{self, For, Refusal};
use crate::addresses::of_service;
use crate::addresses::ports::{self, Unclaimed};
use crate::addresses::range::ServiceCidrs;
use crate::config::Config;
use async_trait::async_trait;
use keles_api::{Object, Path, Problems, Status};
use keles_kinds::core::service::prepare::settle;
use keles_registry::{Admission, Attributes, Ending, Operation, Registry};
use rand::Rng;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a write may be under way before its claim is doubted.
const CLAIM: Duration = Duration::from_secs(5);
/// The low end of the range is left to ports that people choose (KEP-3668): one in so many, within these bounds.
const RESERVED_PART: u32 = 32;
const RESERVED_MIN: u32 = 16;
const RESERVED_MAX: u32 = 128;
const TRIES: u32 = 64;
/// Begins the note of a node port among what an attempt has taken; the others are addresses.
const PORT: &str = "port ";

struct Holder {
    service: String,
    since: Instant,
    /// Stored, or asked for by several attempts: no one attempt's to give back.
    kept: bool,
}

#[derive(Default)]
struct Held {
    /// The last change of Services that was taken in; absent before the first look.
    seen: Option<u64>,
    by: HashMap<u16, Holder>,
}

impl Held {
    /// What Services that changed after `seen` have is theirs, whoever was about to take it.
    fn take_in(&mut self, registry: &Registry, seen: u64) {
        let long_ago = Instant::now().checked_sub(CLAIM).unwrap_or_else(Instant::now);
        for s in registry.peek_all("", "services").values().filter(|s| s.revision > seen) {
            for port in node_ports(&s.tree()) {
                let since = self.by.get(&port).filter(|h| *h.service == *s.key).map_or(long_ago, |h| h.since);
                self.by.insert(port, Holder { service: s.key.to_string(), since, kept: true });
            }
        }
    }
}

pub struct ServiceAddresses {
    cidrs: ServiceCidrs,
    ports: RangeInclusive<u16>,
    held: Mutex<Held>,
}

/// Why a port cannot be had.
enum NoPort {
    Taken,
    OutOfRange,
    Full,
}

impl ServiceAddresses {
    pub fn new(config: &Config) -> Self {
        ServiceAddresses { cidrs: config.service_cidrs, ports: config.node_ports.clone(), held: Mutex::default() }
    }

    fn with_held<T>(&self, registry: &Registry, f: impl FnOnce(&mut Held) -> T) -> T {
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        let changed = registry.changed("", "services");
        if held.seen.is_none_or(|seen| seen < changed && registry.is_shared()) {
            let seen = held.seen.replace(changed).unwrap_or(0);
            held.take_in(registry, seen);
        }
        f(&mut held)
    }

    /// Takes a port for `service`, which may have it already (under another protocol); a holder that no longer has it loses it.
    fn claim(&self, a: &Attributes<'_>, held: &mut Held, port: u16, service: &str) -> Result<(), NoPort> {
        if !self.ports.contains(&port) {
            // Upstream's dry run asks who has a port, not whether the range does.
            return if a.request.dry_run { Ok(()) } else { Err(NoPort::OutOfRange) };
        }
        if let Some(h) = held.by.get(&port)
            && h.service != service
            && (h.since.elapsed() < CLAIM || still_has(a.registry, &h.service, port))
        {
            return Err(NoPort::Taken);
        }
        if !a.request.dry_run {
            let note = format!("{PORT}{port}");
            // One that the Service, or another attempt to write it, has already is not this attempt's to give back, nor the other's.
            let (first, kept) = match held.by.get(&port).filter(|h| h.service == service) {
                Some(own) => (false, own.kept || !a.taken.any(|n| n == note)),
                None => (true, false),
            };
            held.by.insert(port, Holder { service: service.into(), since: Instant::now(), kept });
            if first {
                a.taken.note(note);
            }
        }
        Ok(())
    }

    /// Takes the node ports that somebody chose.
    async fn claim_ports(&self, a: &Attributes<'_>, s: &Object, service: &str) -> Result<(), Status> {
        if !matches!(service_type(s), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        if !a.request.dry_run {
            self.no_port_numbers(s)?;
        }
        let known = a.old.map(traffic_ports).unwrap_or_default();
        let new: Vec<u16> = traffic_ports(s).into_iter().filter(|k| !known.contains(k)).collect();
        let Some((taken, refusal)) = self.refused(a, &new, service).await? else { return self.claim_health_port(a, s, service).await };
        let index = list(s.at(&["spec", "ports"])).position(|p| port(&p["nodePort"]) == Some(taken)).unwrap_or_default();
        let mut p = Problems::new();
        p.invalid(&Path::new("spec").child("ports").index(index).child("nodePort"), taken, self.why(&refusal));
        Err(Status::invalid("", "Service", s.name(), &p))
    }

    /// Takes the port that somebody chose for health checks, when these begin; any other is for the rules to refuse. That it cannot be had is
    /// the server's failure to upstream, not the field's.
    async fn claim_health_port(&self, a: &Attributes<'_>, s: &Object, service: &str) -> Result<(), Status> {
        let chosen = health_port(s);
        if chosen == 0 || !needs_health_port(s) || a.old.is_some_and(needs_health_port) {
            return Ok(());
        }
        let refused = match u16::try_from(chosen) {
            Ok(port) if [Some(s), a.old].into_iter().flatten().any(|s| traffic_ports(s).contains(&port)) => Some(NoPort::Taken),
            Ok(port) => self.refused(a, &[port], service).await?.map(|(_, refusal)| refusal),
            Err(_) => (!a.request.dry_run).then_some(NoPort::OutOfRange),
        };
        match refused {
            None => Ok(()),
            Some(refusal) => Err(Status::internal(format!("failed to allocate requested HealthCheck NodePort {chosen}: {}", self.why(&refusal)))),
        }
    }

    /// The first of these ports that cannot be had.
    async fn refused(&self, a: &Attributes<'_>, new: &[u16], service: &str) -> Result<Option<(u16, NoPort)>, Status> {
        let others = self.others_port(a, new, service).await?.map(|k| (k, NoPort::Taken));
        Ok(others.or_else(|| self.with_held(a.registry, |held| new.iter().copied().find_map(|k| self.claim(a, held, k, service).err().map(|r| (k, r))))))
    }

    /// Any free port that the Service does not have yet; `own` are those that it has.
    fn any_port(&self, a: &Attributes<'_>, held: &mut Held, service: &str, own: &[u16]) -> Result<u16, NoPort> {
        let (first, total) = (*self.ports.start(), u32::from(*self.ports.end() - *self.ports.start()) + 1);
        let reserved = if total <= RESERVED_MIN { 0 } else { (total / RESERVED_PART).clamp(RESERVED_MIN, RESERVED_MAX) };
        let mut rng = rand::rng();
        let mut take = |n: u32| {
            let port = first + n as u16;
            (!own.contains(&port) && self.claim(a, held, port, service).is_ok()).then_some(port)
        };
        let found = (0..TRIES).find_map(|_| take(rng.random_range(reserved..total)));
        // Nearly full: look at every port once, the reserved ones last.
        found.or_else(|| (reserved..total).chain(0..reserved).find_map(&mut take)).ok_or(NoPort::Full)
    }

    /// An address of each family that the Service has and no address of.
    async fn allocate_addresses(&self, a: &Attributes<'_>, s: &mut Object) -> Result<(), Refusal> {
        let families: Vec<String> = list(s.at(&["spec", "ipFamilies"])).filter_map(|f| f.as_str().map(str::to_owned)).collect();
        let mut ips: Vec<String> = list(s.at(&["spec", "clusterIPs"])).filter_map(|f| f.as_str().map(str::to_owned)).collect();
        if ips.is_empty() && !s.str_at(&["spec", "clusterIP"]).is_empty() {
            ips.push(s.str_at(&["spec", "clusterIP"]).to_owned());
        }
        if ips.first().is_some_and(|ip| ip == "None") || ips.len() >= families.len().max(1) {
            return Ok(());
        }
        let name = s.name().to_owned();
        let service = For { namespace: &a.request.namespace, name: &name };
        let default = self.cidrs.first.family();
        for family in families.iter().map(String::as_str).chain(families.is_empty().then_some(default)).skip(ips.len()) {
            let ip = allocate::take_any(a.registry, family, service, a.request.dry_run).await?.to_string();
            if !a.request.dry_run {
                a.taken.note(ip.clone());
            }
            ips.push(ip);
        }
        s.0["spec"]["clusterIP"] = ips[0].clone().into();
        s.0["spec"]["clusterIPs"] = json!(ips);
        Ok(())
    }
}

fn full_name(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn still_has(registry: &Registry, service: &str, port: u16) -> bool {
    let Some((namespace, name)) = service.split_once('/') else { return true };
    registry.read("", "services", namespace, name).is_some_and(|s| node_ports(&s).contains(&port))
}

fn port(v: &Value) -> Option<u16> {
    v.as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)
}

/// Every node port a Service has.
fn node_ports(s: &Object) -> Vec<u16> {
    let mut all = traffic_ports(s);
    all.extend(port(s.at(&["spec", "healthCheckNodePort"])));
    all
}

/// Those of its ports, without the one for health checks.
fn traffic_ports(s: &Object) -> Vec<u16> {
    list(s.at(&["spec", "ports"])).filter_map(|p| port(&p["nodePort"])).collect()
}

/// What is written as the port for health checks, a port number or not; 0 where nothing is.
fn health_port(s: &Object) -> i64 {
    s.at(&["spec", "healthCheckNodePort"]).as_i64().unwrap_or(0)
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
    fn keeps_books(&self) -> bool {
        true
    }

    /// Keeps, drops, claims what people chose themselves and allocates the rest: before validation, as upstream, so that a taken address is
    /// told before any other fault. A write that is refused later gives all of it back ([`Self::ended`]).
    async fn mutate(&self, a: &Attributes<'_>, s: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        if !s.0["spec"].is_object() {
            return Ok(());
        }
        let mut p = Problems::new();
        settle(s, a.old, &self.cidrs.families(), &mut p);
        if !p.is_empty() {
            return Err(Status::invalid("", "Service", s.name(), &p));
        }
        let full = |what: &str, why: &str| Status::internal(format!("failed to allocate a {what}: {why}"));
        if needs_cluster_ip(s) {
            self.claim_addresses(a, s).await?;
            self.allocate_addresses(a, s).await.map_err(|e| full("serviceIP", &e.to_string()))?;
        }
        let service = full_name(&a.request.namespace, s.name());
        self.claim_ports(a, s, &service).await?;
        if !needs_node_ports(s) && !needs_health_port(s) {
            return Ok(());
        }
        let before = s.0["spec"].clone();
        let chosen = node_ports(s);
        // What other servers are giving away just now.
        let mut others: Vec<u16> = Vec::new();
        for _ in 0..TRIES {
            self.with_held(a.registry, |held| {
                if needs_node_ports(s) {
                    self.allocate_node_ports(a, held, s, &service, &others).map_err(|_| full("nodePort", "range is full"))?;
                }
                if needs_health_port(s) && health_port(s) == 0 {
                    let p = self.any_port(a, held, &service, &[node_ports(s), others.clone()].concat()).map_err(|_| full("HealthCheck NodePort", "range is full"))?;
                    s.0["spec"]["healthCheckNodePort"] = p.into();
                }
                Ok::<_, Status>(())
            })?;
            let given: Vec<u16> = node_ports(s).into_iter().filter(|p| !chosen.contains(p)).collect();
            match self.others_port(a, &given, &service).await? {
                None => return Ok(()),
                Some(port) => others.push(port),
            }
            s.0["spec"] = before.clone();
        }
        Err(full("nodePort", "other servers took every port that was tried"))
    }

    async fn validate(&self, a: &Attributes<'_>, _: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        self.doubt(a, a.old);
        Ok(())
    }

    async fn ended(&self, a: &Attributes<'_>, s: Option<&Object>, ending: Ending) {
        let had = || a.old.map(of_service).unwrap_or_default().into_iter();
        let has = || s.map(of_service).unwrap_or_default();
        if ending == Ending::Stored {
            self.doubt(a, s);
        }
        let name = s.or(a.old).map(Object::name).unwrap_or_default();
        let (mut noted, mut ports) = (Vec::new(), Vec::new());
        for note in a.taken.drain() {
            match note.strip_prefix(PORT) {
                Some(port) => ports.extend(port.parse::<u16>()),
                // Claims end by themselves.
                None if ending == Ending::Unknown || ports::release(a.registry, &note).await => {}
                None => noted.push(note),
            }
        }
        if ending == Ending::Nothing && !ports.is_empty() {
            let service = full_name(&a.request.namespace, name);
            self.with_held(a.registry, |held| held.by.retain(|port, h| h.service != service || h.kept || !ports.contains(port)));
        }
        let free: Vec<String> = match ending {
            Ending::Nothing => noted,
            Ending::Unknown => Vec::new(),
            Ending::Stored => had().filter(|ip| !has().contains(ip)).map(|ip| ip.to_string()).collect(),
            Ending::Gone => had().chain(has()).map(|ip| ip.to_string()).collect(),
        };
        for ip in free {
            if let Err(status) = allocate::give_back_of(a.registry, &ip, For { namespace: &a.request.namespace, name }).await {
                tracing::warn!(%status, ip, "an address of a Service was not given back; the repair will");
            }
        }
    }
}

impl ServiceAddresses {
    /// Claims ports against other servers; one that another server has given away, or is about to.
    async fn others_port(&self, a: &Attributes<'_>, new: &[u16], service: &str) -> Result<Option<u16>, Status> {
        if new.is_empty() || !a.registry.is_shared() {
            return Ok(None);
        }
        let other = match ports::claim(a, new, service).await {
            Ok(()) => None,
            Err(Unclaimed::By { port }) => Some(port),
            Err(Unclaimed::Failed(status)) => return Err(status),
        };
        Ok(self.with_held(a.registry, |held| match other {
            Some(port) => {
                if held.by.get(&port).is_some_and(|h| h.service == service && !h.kept) {
                    held.by.remove(&port);
                }
                Some(port)
            }
            // The Services that are seen by now have been taken in.
            None => new.iter().copied().find(|p| held.by.get(p).is_some_and(|h| h.service != service && still_has(a.registry, &h.service, *p))),
        }))
    }

    /// Takes the addresses that somebody chose.
    async fn claim_addresses(&self, a: &Attributes<'_>, s: &Object) -> Result<(), Status> {
        let known = a.old.map(of_service).unwrap_or_default();
        // A change of what a Service has is for the rules to refuse: only what comes beside it is taken.
        if a.old.is_some_and(|old| old.str_at(&["spec", "clusterIP"]) == "None") {
            return Ok(());
        }
        let service = For { namespace: &a.request.namespace, name: s.name() };
        for ip in of_service(s).into_iter().skip(known.len()).filter(|ip| !known.contains(ip)) {
            let text = ip.to_string();
            match allocate::take(a.registry, ip, service, a.request.dry_run).await {
                Ok(()) if a.request.dry_run => {}
                Ok(()) => a.taken.note(text),
                Err(refusal) => {
                    let mut p = Problems::new();
                    p.invalid(&Path::new("spec").child("clusterIPs"), s.at(&["spec", "clusterIPs"]).clone(), format!("failed to allocate IP {ip}: {refusal}"));
                    return Err(Status::invalid("", "Service", s.name(), &p));
                }
            }
        }
        Ok(())
    }

    fn allocate_node_ports(&self, a: &Attributes<'_>, held: &mut Held, s: &mut Object, service: &str, others: &[u16]) -> Result<(), NoPort> {
        // One service port under two protocols gets one node port where that is free, as upstream does for DNS.
        let mut given: HashMap<u64, u16> = HashMap::new();
        for p in list(s.at(&["spec", "ports"])) {
            if let (Some(number), Some(node)) = (p["port"].as_u64(), port(&p["nodePort"])) {
                given.insert(number, node);
            }
        }
        let mut own = [node_ports(s).as_slice(), others].concat();
        for p in ports_mut(s).filter(|p| p["nodePort"].as_i64().unwrap_or(0) == 0) {
            let number = p["port"].as_u64().unwrap_or(0);
            let twin = given.get(&number).copied().filter(|n| a.old.is_none() && self.claim(a, held, *n, service).is_ok());
            let node = match twin {
                Some(n) => n,
                None => self.any_port(a, held, service, &own)?,
            };
            given.insert(number, node);
            own.push(node);
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
    fn doubt(&self, a: &Attributes<'_>, stored: Option<&Object>) {
        let Some(stored) = stored else { return };
        let service = full_name(&a.request.namespace, stored.name());
        let Some(long_ago) = Instant::now().checked_sub(CLAIM) else { return };
        self.with_held(a.registry, |held| {
            for port in node_ports(stored) {
                if let Some(h) = held.by.get_mut(&port).filter(|h| h.service == service) {
                    h.since = long_ago;
                }
            }
        });
    }

    fn why(&self, refusal: &NoPort) -> String {
        match refusal {
            NoPort::OutOfRange => self.out_of_range(),
            NoPort::Taken | NoPort::Full => "provided port is already allocated".to_owned(),
        }
    }
}
