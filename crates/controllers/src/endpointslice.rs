//! EndpointSlices of services with a selector, from the service and its pods (lesson 123: never from Endpoints).
//!
//! [`plan`] is pure: it keeps what is right in the slices there are, and writes only slices that change. Ports of a slice are one set, so pods that
//! resolve a named port differently stand in different slices.
//! Deliberately absent: topology hints (`trafficDistribution`).

use crate::Start;
use crate::service_ports::{HEADLESS_LABEL, addresses, hostname, is_headless, may_be_endpoint, selected_pods, selector, target_of, target_port, watch_pods};
use crate::slices::{Groups, MANAGED_BY_LABEL, Plan, SERVICE_NAME_LABEL, fit, managed_by};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_client::{Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use keles_rules::owners::controller_reference;
use keles_rules::readiness::is_ready;
use std::collections::BTreeMap;
use std::sync::Arc;

const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
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
    managed_by(slice, MANAGER)
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
        plan.carry_out(&self.slices).await?;
        Ok(Outcome::Done)
    }
}

/// What the slices should hold.
fn plan(service: &Service, pods: &[Arc<Pod>], held: &[Arc<EndpointSlice>], zone_of: impl Fn(&str) -> Option<String>) -> Plan {
    let spec = service.spec.clone().unwrap_or_default();
    let families: Vec<String> = if spec.type_.as_deref() == Some("ExternalName") { Vec::new() } else { spec.ip_families.clone().unwrap_or_else(|| vec!["IPv4".into()]) };
    let mut groups = groups(service, pods, &families, zone_of);
    // A service without endpoints keeps one empty slice, so that watchers see it is managed.
    for family in &families {
        if !groups.keys().any(|(of, _)| of == family) {
            groups.insert((family.clone(), String::new()), (Vec::new(), Vec::new()));
        }
    }
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let pattern = ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels_of(service)),
        owner_references: Some(vec![controller_reference("v1", "Service", &service.metadata)]),
        ..Default::default()
    };
    fit(groups, held, &pattern)
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

#[cfg(test)]
#[path = "endpointslice_tests.rs"]
mod tests;
