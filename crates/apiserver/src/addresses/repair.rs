//! Keeps Services and IPAddresses in line: every address of a Service has its IPAddress, every IPAddress its Service; node ports are unique
//! and within their range.
//!
//! Entry points: [`Repair::pass`] (everything, before the server is ready), [`run`]. A Service or IPAddress is looked at when it changes, and all of
//! them now and then. What cannot be repaired is told in events. Source: kubernetes pkg/registry/core/service/ipallocator/controller and
//! portallocator/controller.

use super::allocate::{For, blocks, give_back, object};
use super::range::family;
use super::{ADDRESSES, ALLOCATOR, FAMILY, GROUP, MANAGED_BY, RANGES, Write, of_service};
use crate::server::Inner;
use keles_api::{Object, Status};
use keles_registry::{Follow, Registry, Verb};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// How often everything is looked at.
const EVERYTHING_EVERY: Duration = Duration::from_secs(180);
/// How long a failed step waits for the next try, and a young address for its Service.
const RETRY: Duration = Duration::from_secs(5);
/// A Service that is being made has its address before it is stored: upstream's request timeout.
const GRACE_SECONDS: i64 = 60;

const ADDRESS_REPORTER: &str = "ipallocator-repair-controller";
const PORT_REPORTER: &str = "portallocator-repair-controller";

/// What is known of what was looked at.
pub struct Repair {
    services: HashMap<Arc<str>, u64>,
    /// With the Service each names.
    addresses: HashMap<Arc<str>, (u64, String)>,
    /// Node ports are looked at with everything else.
    ports_due: bool,
    about_addresses: Reporter,
    about_ports: Reporter,
}

impl Repair {
    pub fn new() -> Repair {
        Repair { services: HashMap::new(), addresses: HashMap::new(), ports_due: true, about_addresses: Reporter::new(ADDRESS_REPORTER), about_ports: Reporter::new(PORT_REPORTER) }
    }

    /// Looks at what has changed since the last pass, at everything the first time; false when something is left to do.
    pub async fn pass(&mut self, server: &Inner) -> bool {
        let registry = &server.registry;
        // Addresses first: a Service seen has had its address before.
        let services = registry.peek_all("", "services");
        let addresses = registry.peek_all(GROUP, ADDRESSES);
        let mut looked: BTreeSet<Arc<str>> = services.iter().filter(|(k, o)| self.services.get(*k) != Some(&o.revision)).map(|(k, _)| k.clone()).collect();
        // An address that somebody took away is missed by its Service.
        looked.extend(self.addresses.iter().filter(|(k, _)| !addresses.contains_key(*k)).map(|(_, (_, parent))| Arc::from(parent.as_str())));
        let changed: Vec<_> = addresses.iter().filter(|(k, o)| self.addresses.get(*k).is_none_or(|(r, _)| *r != o.revision)).map(|(k, o)| (k.clone(), o.clone())).collect();
        self.services.retain(|k, _| services.contains_key(k));
        self.addresses.retain(|k, _| addresses.contains_key(k));
        let mut done = true;
        for key in looked {
            let Some(cached) = services.get(&key) else { continue };
            match self.look_at_service(server, &cached.tree()).await {
                Ok(()) => drop(self.services.insert(key, cached.revision)),
                Err(status) => done = failed(&status),
            }
        }
        for (key, cached) in changed {
            let o = cached.tree();
            match self.look_at_address(registry, &o).await {
                Ok(true) => drop(self.addresses.insert(key, (cached.revision, parent_key(&o)))),
                Ok(false) => done = false,
                Err(status) => done = failed(&status),
            }
        }
        if std::mem::take(&mut self.ports_due) {
            self.look_at_ports(server).await;
        }
        done
    }

    /// Each of its addresses has an IPAddress that names it.
    async fn look_at_service(&mut self, server: &Inner, s: &Object) -> Result<(), Status> {
        let (registry, service) = (&server.registry, For { namespace: s.namespace(), name: s.name() });
        let (ns, name) = (s.namespace(), s.name());
        for ip in of_service(s) {
            let of = family(ip);
            if !registry.read_all(GROUP, RANGES, "").iter().any(|o| blocks(o).any(|b| b.contains(ip))) {
                let why = format!("Cluster IP [{of}]: {ip} is not within any configured Service CIDR; please recreate service");
                self.about_addresses.warn(registry, s, "ClusterIPOutOfRange", "ClusterIPAllocation", &why).await;
                continue;
            }
            let Some(there) = registry.read(GROUP, ADDRESSES, "", &ip.to_string()) else {
                let why = format!("Cluster IP [{of}]: {ip} is not allocated; repairing");
                self.about_addresses.warn(registry, s, "ClusterIPNotAllocated", "ClusterIPAllocation", &why).await;
                create(registry, ip, service).await?;
                continue;
            };
            match judge(&there, s, |ns, name| registry.read("", "services", ns, name)) {
                Verdict::Fine => {}
                Verdict::Twice => {
                    let why = format!("Cluster IP [{of}]:{ip} was assigned to multiple services; please recreate service");
                    self.about_addresses.warn(registry, s, "ClusterIPAlreadyAllocated", "ClusterIPAllocation", &why).await;
                }
                Verdict::Wrong => {
                    let why = format!("the ClusterIP [{of}]: {ip} for Service {ns}/{name} has a wrong reference; repairing");
                    self.about_addresses.warn(registry, s, "ClusterIPNotAllocated", "ClusterIPAllocation", &why).await;
                    give_back(registry, there.name()).await?;
                    create(registry, ip, service).await?;
                }
                Verdict::Unlabelled => {
                    give_back(registry, there.name()).await?;
                    create(registry, ip, service).await?;
                }
            }
        }
        Ok(())
    }

    /// One of ours belongs to a Service that has it; false: too young to say.
    async fn look_at_address(&mut self, registry: &Registry, o: &Object) -> Result<bool, Status> {
        if o.label(MANAGED_BY) != Some(ALLOCATOR) {
            return Ok(true);
        }
        let part = |f: &str| o.str_at(&["spec", "parentRef", f]);
        let (ns, name) = (part("namespace"), part("name"));
        let (reason, why) = if !part("group").is_empty() || part("resource") != "services" {
            let parent = format!("&ParentReference{{Group:{},Resource:{},Namespace:{ns},Name:{name},}}", part("group"), part("resource"));
            ("IPAddressNotAllocated", format!("IPAddress {} appears to have been modified, not referencing a Service {parent}: cleaning up", o.name()))
        } else {
            match registry.read("", "services", ns, name) {
                Some(s) if of_service(&s).iter().any(|ip| ip.to_string() == o.name()) => return Ok(true),
                Some(_) if age_seconds(o) <= GRACE_SECONDS => return Ok(false),
                Some(_) => ("IPAddressWrongReference", format!("IPAddress: {} for Service {ns}/{name} has a wrong reference; cleaning up", o.name())),
                None if age_seconds(o) <= GRACE_SECONDS => return Ok(false),
                None => ("IPAddressNotAllocated", format!("IPAddress: {} for Service {ns}/{name} appears to have leaked: cleaning up", o.name())),
            }
        };
        self.about_addresses.warn(registry, o, reason, "IPAddressAllocation", &why).await;
        give_back(registry, o.name()).await?;
        Ok(true)
    }

    /// Two Services with one node port, and node ports out of the range, are told of; the table of the allocator follows the Services.
    async fn look_at_ports(&mut self, server: &Inner) {
        let registry = &server.registry;
        let mut holders: HashMap<u16, Object> = HashMap::new();
        for s in registry.read_all("", "services", "") {
            for port in node_ports(&s).into_iter().collect::<BTreeSet<_>>() {
                if let Some(why) = port_problem(port, &server.config.node_ports) {
                    self.about_ports.warn(registry, &s, "PortOutOfRange", "PortAllocation", &why).await;
                } else if holders.contains_key(&port) {
                    let why = format!("Port {port} was assigned to multiple services; please recreate service");
                    self.about_ports.warn(registry, &s, "PortAlreadyAllocated", "PortAllocation", &why).await;
                } else {
                    holders.insert(port, s.clone());
                }
            }
        }
    }
}

/// Repairs until the server stops.
pub async fn run(server: Arc<Inner>, mut repair: Repair) {
    let mut changes = Follow::new(&server.registry, &[("", "services"), (GROUP, ADDRESSES)], RETRY);
    let mut ranges = Follow::new(&server.registry, &[(GROUP, RANGES)], RETRY);
    let mut all = tokio::time::interval(EVERYTHING_EVERY);
    all.tick().await;
    let mut done = true;
    loop {
        tokio::select! {
            () = server.stops.cancelled() => return,
            more = changes.next(!done) => if !more { return },
            // Another range may hold what was out of range.
            more = ranges.next(false) => if more { repair.services.clear() } else { return },
            _ = all.tick() => {
                repair.services.clear();
                repair.addresses.values_mut().for_each(|(revision, _)| *revision = 0);
                repair.ports_due = true;
            }
        }
        done = repair.pass(&server).await;
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Fine,
    /// It names another Service, or none.
    Wrong,
    /// It names another Service, which has the address too.
    Twice,
    Unlabelled,
}

/// Whether an IPAddress is the one of a Service that has its address.
fn judge(address: &Object, s: &Object, other: impl Fn(&str, &str) -> Option<Arc<Object>>) -> Verdict {
    let part = |f: &str| address.str_at(&["spec", "parentRef", f]);
    if !part("group").is_empty() || part("resource") != "services" {
        return Verdict::Wrong;
    }
    if (part("namespace"), part("name")) != (s.namespace(), s.name()) {
        let has_it = other(part("namespace"), part("name")).is_some_and(|o| of_service(&o).iter().any(|ip| ip.to_string() == address.name()));
        return if has_it { Verdict::Twice } else { Verdict::Wrong };
    }
    let of = address.name().parse::<IpAddr>().map(family).unwrap_or_default();
    if address.label(FAMILY) == Some(of) && address.label(MANAGED_BY) == Some(ALLOCATOR) { Verdict::Fine } else { Verdict::Unlabelled }
}

async fn create(registry: &Registry, ip: IpAddr, service: For<'_>) -> Result<(), Status> {
    (Write { verb: Verb::Create, group: GROUP, plural: ADDRESSES, namespace: "", name: "", body: Some(&object(ip, service)) }).send(registry).await
}

fn parent_key(o: &Object) -> String {
    let part = |f: &str| o.str_at(&["spec", "parentRef", f]);
    format!("{}/{}", part("namespace"), part("name"))
}

fn age_seconds(o: &Object) -> i64 {
    let made = o.meta_str("creationTimestamp").parse::<jiff::Timestamp>();
    made.map_or(i64::MAX, |t| jiff::Timestamp::now().as_second() - t.as_second())
}

/// Every node port a Service has.
fn node_ports(s: &Object) -> Vec<u16> {
    let number = |v: &Value| v.as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
    let of_ports = s.at(&["spec", "ports"]).as_array().into_iter().flatten().filter_map(|p| number(&p["nodePort"]));
    of_ports.chain(number(s.at(&["spec", "healthCheckNodePort"]))).collect()
}

fn port_problem(port: u16, range: &RangeInclusive<u16>) -> Option<String> {
    (!range.contains(&port)).then(|| format!("Port {port} is not within the port range {}-{}; please recreate service", range.start(), range.end()))
}

/// False, for what was to be done; a conflict is a change that wakes the next pass anyway.
fn failed(status: &Status) -> bool {
    if !matches!(status.code, 404 | 409) {
        tracing::warn!(%status, "an address of a Service could not be repaired; trying again");
    }
    false
}

/// Writes events, each thing once.
pub struct Reporter {
    name: &'static str,
    told: HashSet<(String, String)>,
}

/// So many things told are remembered; then all are told again.
const TOLD_MAX: usize = 10_000;

impl Reporter {
    pub fn new(name: &'static str) -> Reporter {
        Reporter { name, told: HashSet::new() }
    }
    /// A warning about `o`, with an event unless there was one of the same words.
    pub async fn warn(&mut self, registry: &Registry, o: &Object, reason: &str, action: &str, note: &str) {
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        if !self.told.insert((o.uid().to_owned(), note.to_owned())) {
            return;
        }
        tracing::warn!(object = o.name(), reason, "{note}");
        let namespace = if o.namespace().is_empty() { "default" } else { o.namespace() };
        let now = jiff::Timestamp::now();
        let action = if action.is_empty() { reason } else { action };
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": format!("{}.{:x}", o.name().replace(':', "-"), now.as_nanosecond()), "namespace": namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
            "reportingController": self.name, "reportingInstance": self.name, "type": "Warning", "reason": reason, "action": action, "note": note,
            "regarding": {"apiVersion": o.api_version(), "kind": o.kind(), "namespace": o.namespace(), "name": o.name(), "uid": o.uid(), "resourceVersion": o.resource_version()},
        });
        let write = Write { verb: Verb::Create, group: "events.k8s.io", plural: "events", namespace, name: "", body: Some(&event) };
        if let Err(status) = write.send(registry).await {
            tracing::warn!(%status, "an event about {} was not written", o.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, ip: &str) -> Object {
        Object(json!({"metadata": {"namespace": "default", "name": name}, "spec": {"clusterIP": ip, "clusterIPs": [ip]}}))
    }
    fn address(of: &str) -> Object {
        Object(object("10.43.0.9".parse().unwrap(), For { namespace: "default", name: of }))
    }

    #[test]
    fn an_address_belongs_to_one_service_that_has_it() {
        let a = service("a", "10.43.0.9");
        assert_eq!(judge(&address("a"), &a, |_, _| None), Verdict::Fine);
        assert_eq!(judge(&address("b"), &a, |_, _| None), Verdict::Wrong, "of a Service that is gone");
        assert_eq!(judge(&address("b"), &a, |_, _| Some(Arc::new(service("b", "10.43.0.8")))), Verdict::Wrong);
        assert_eq!(judge(&address("b"), &a, |_, _| Some(Arc::new(service("b", "10.43.0.9")))), Verdict::Twice);
        let mut bare = address("a");
        bare.0["metadata"]["labels"] = json!({});
        assert_eq!(judge(&bare, &a, |_, _| None), Verdict::Unlabelled);
    }
}
