//! EndpointSlices of services with a selector, from the service and its pods (lesson 123: never from Endpoints).
//!
//! [`plan`] is pure: it keeps what is right in the slices there are, and writes only slices that change. Ports of a slice are one set, so pods that
//! resolve a named port differently stand in different slices.
//! Deliberately absent: topology hints (`trafficDistribution`) and mirroring of hand-written Endpoints.

use crate::Start;
use crate::service_ports::{HEADLESS_LABEL, addresses, hostname, is_headless, may_be_endpoint, selected_pods, selector, target_of, target_port, watch_pods};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_client::{Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use keles_rules::owners::controller_reference;
use keles_rules::readiness::is_ready;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const MAX_ENDPOINTS_PER_SLICE: usize = 100;
const BY_SERVICE: &str = "service";

pub struct EndpointSliceController {
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Writer<EndpointSlice>,
}

impl EndpointSliceController {
    pub fn new(start: &Start) -> Self {
        let slices: Writer<EndpointSlice> = start.writer();
        slices.informer().add_index(BY_SERVICE, |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
        EndpointSliceController { services: start.informers.of(), pods: start.informers.of(), nodes: start.informers.of(), slices }
    }
}

/// The service of a slice that this controller manages.
fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    (labels.get(MANAGED_BY_LABEL)? == MANAGER).then_some(())?;
    Some(ObjectKey::new(slice.metadata.namespace.clone()?, labels.get(SERVICE_NAME_LABEL)?.clone()))
}

impl Controller for EndpointSliceController {
    const NAME: &'static str = "endpointslice-controller";

    fn watches(&self, watches: &mut Watches) {
        watches.own(&self.services);
        watch_pods(watches, &self.pods, &self.services);
        watches.reads(&self.nodes);
        watches.on(self.slices.informer(), |change, queue| {
            for slice in [Some(change.object()), change.old()].into_iter().flatten() {
                if let Some(key) = service_of(slice) {
                    queue.add(key);
                }
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        // Slices of a deleted service go with it, by the garbage collector.
        let Some(service) = self.services.get_key(key).filter(|service| service.metadata.deletion_timestamp.is_none()) else { return Ok(Outcome::Done) };
        let Some(selector) = selector(&service) else { return Ok(Outcome::Done) };
        let pods = selected_pods(&self.pods, &service, selector);
        let held = self.slices.informer().by_index(BY_SERVICE, &key.to_string());
        let zone_of = |node: &str| self.nodes.get("", node)?.metadata.labels.as_ref()?.get(ZONE_LABEL).cloned();
        let plan = plan(&service, &pods, &held, zone_of);
        for slice in &plan.update {
            self.slices.update(slice).await?;
        }
        for slice in &plan.create {
            match self.slices.create(slice).await {
                Err(error) if error.is_namespace_terminating() => return Ok(Outcome::Done),
                other => other?,
            };
        }
        for slice in &plan.delete {
            self.slices.delete(slice).await?;
        }
        Ok(Outcome::Done)
    }
}

#[derive(Debug, Default)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

/// Endpoints that share an address family and a resolved port set.
type Groups = BTreeMap<(String, String), (Vec<EndpointPort>, Vec<Endpoint>)>;

fn plan(service: &Service, pods: &[Arc<Pod>], held: &[Arc<EndpointSlice>], zone_of: impl Fn(&str) -> Option<String>) -> Plan {
    let mut plan = Plan::default();
    let spec = service.spec.clone().unwrap_or_default();
    let families: Vec<String> = if spec.type_.as_deref() == Some("ExternalName") { Vec::new() } else { spec.ip_families.clone().unwrap_or_else(|| vec!["IPv4".into()]) };
    let mut groups = groups(service, pods, &families, zone_of);
    for family in &families {
        if !groups.keys().any(|(of, _)| of == family) {
            groups.insert((family.clone(), String::new()), (Vec::new(), Vec::new()));
        }
    }
    let labels = labels_of(service);
    let mut spare: Vec<&Arc<EndpointSlice>> = held.iter().collect();
    for ((family, _), (ports, endpoints)) in groups {
        let mine: Vec<&Arc<EndpointSlice>>;
        (mine, spare) = spare.into_iter().partition(|slice| slice.address_type == family && same_ports(slice.ports.as_deref().unwrap_or_default(), &ports));
        let mut contents = place(&mine, endpoints);
        // A service without endpoints keeps one empty slice, so that watchers see it is managed.
        if contents.iter().all(|(_, endpoints)| endpoints.is_empty()) {
            contents.sort_by_key(|(slice, _)| slice.is_none());
            contents.iter_mut().skip(1).for_each(|(_, endpoints)| endpoints.clear());
        } else {
            let empty = contents.iter().filter(|(_, endpoints)| endpoints.is_empty()).filter_map(|(slice, _)| slice.cloned());
            plan.delete.extend(empty);
            contents.retain(|(_, endpoints)| !endpoints.is_empty());
        }
        for (position, (slice, endpoints)) in contents.into_iter().enumerate() {
            match slice {
                Some(slice) if endpoints.is_empty() && position > 0 => plan.delete.push(slice.clone()),
                Some(slice) => plan.update.extend(changed(slice, &endpoints, &labels)),
                None => plan.create.push(new_slice(service, &family, &ports, endpoints, &labels)),
            }
        }
    }
    plan.delete.extend(spare.into_iter().cloned());
    plan
}

/// Distributes endpoints over the slices there are, then over new ones. Endpoints that a slice holds stay in it.
fn place<'s>(slices: &[&'s Arc<EndpointSlice>], endpoints: Vec<Endpoint>) -> Vec<(Option<&'s Arc<EndpointSlice>>, Vec<Endpoint>)> {
    let identity = |endpoint: &Endpoint| endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default();
    let mut wanted: BTreeMap<String, Endpoint> = endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut contents: Vec<(Option<&Arc<EndpointSlice>>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let kept = slice.endpoints.iter().flatten().filter_map(|endpoint| wanted.remove(&identity(endpoint))).take(MAX_ENDPOINTS_PER_SLICE).collect();
        contents.push((Some(slice), kept));
    }
    for endpoint in wanted.into_values() {
        match contents.iter_mut().find(|(_, endpoints)| endpoints.len() < MAX_ENDPOINTS_PER_SLICE) {
            Some((_, endpoints)) => endpoints.push(endpoint),
            None => contents.push((None, vec![endpoint])),
        }
    }
    if contents.is_empty() {
        contents.push((None, Vec::new()));
    }
    contents
}

/// The slice as it should be, or `None` when it is so.
fn changed(slice: &EndpointSlice, endpoints: &[Endpoint], labels: &BTreeMap<String, String>) -> Option<EndpointSlice> {
    let same = slice.endpoints.as_deref().unwrap_or_default() == endpoints && slice.metadata.labels.as_ref() == Some(labels);
    if same {
        return None;
    }
    let mut new = slice.clone();
    new.endpoints = Some(endpoints.to_vec());
    new.metadata.labels = Some(labels.clone());
    Some(new)
}

fn new_slice(service: &Service, family: &str, ports: &[EndpointPort], endpoints: Vec<Endpoint>, labels: &BTreeMap<String, String>) -> EndpointSlice {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![controller_reference("v1", "Service", &service.metadata)]),
            ..Default::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()),
    }
}

/// The service's own labels, without those that say who manages the slice, and those.
fn labels_of(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    labels.insert(SERVICE_NAME_LABEL.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGER.into());
    if service.spec.as_ref().is_some_and(is_headless) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels
}

fn groups(service: &Service, pods: &[Arc<Pod>], families: &[String], zone_of: impl Fn(&str) -> Option<String>) -> Groups {
    let mut groups = Groups::new();
    for pod in pods.iter().filter(|pod| may_be_endpoint(pod, true)) {
        let ports = ports_of(service, pod);
        let identity = serde_json::to_string(&ports).expect("API types always encode");
        for family in families {
            let addresses: Vec<String> = addresses(pod).into_iter().filter(|ip| ip.contains(':') == (family == "IPv6")).map(str::to_owned).collect();
            if addresses.is_empty() {
                continue;
            }
            let group = groups.entry((family.clone(), identity.clone())).or_insert_with(|| (ports.clone(), Vec::new()));
            group.1.push(endpoint(service, pod, addresses, &zone_of));
        }
    }
    groups
}

fn endpoint(service: &Service, pod: &Pod, mut addresses: Vec<String>, zone_of: &impl Fn(&str) -> Option<String>) -> Endpoint {
    let publish_all = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let (serving, terminating) = (is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty());
    // One address an endpoint: the family has several only if the pod was given several, and consumers use the first.
    addresses.truncate(1);
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions { ready: Some(publish_all || (serving && !terminating)), serving: Some(serving), terminating: Some(terminating) }),
        hostname: hostname(pod, service),
        zone: node.as_deref().and_then(zone_of),
        node_name: node,
        target_ref: Some(target_of(pod)),
        ..Default::default()
    }
}

fn ports_of(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut resolved: Vec<EndpointPort> = ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    resolved.sort_by(|a, b| a.name.cmp(&b.name));
    resolved
}

fn same_ports(held: &[EndpointPort], wanted: &[EndpointPort]) -> bool {
    let sorted = |ports: &[EndpointPort]| {
        let mut ports: Vec<String> = ports.iter().map(|p| format!("{:?}/{:?}/{:?}/{:?}", p.name.as_deref().unwrap_or(""), p.port, p.protocol, p.app_protocol)).collect();
        ports.sort();
        ports
    };
    sorted(held) == sorted(wanted)
}

#[cfg(test)]
#[path = "endpointslice_tests.rs"]
mod tests;
