//! Endpoints (the older form) of services with a selector. Everything new reads EndpointSlices; clients of the old API read these.

use crate::Start;
use crate::service_ports::{HEADLESS_LABEL, addresses, hostname, is_headless, may_be_endpoint, selected_pods, selector, target_of, target_port, watch_pods};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_client::{Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use keles_rules::readiness::is_ready;
use std::collections::BTreeMap;
use std::sync::Arc;

const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

pub struct EndpointsController {
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Writer<Endpoints>,
}

impl EndpointsController {
    pub fn new(start: &Start) -> Self {
        EndpointsController { services: start.informers.of(), pods: start.informers.of(), endpoints: start.writer() }
    }
}

impl Controller for EndpointsController {
    const NAME: &'static str = "endpoints-controller";

    fn watches(&self, watches: &mut Watches) {
        watches.own(&self.services);
        watches.own(self.endpoints.informer());
        watch_pods(watches, &self.pods, &self.services);
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let held = self.endpoints.informer().get_key(key);
        let Some(service) = self.services.get_key(key) else {
            // Only what this controller made goes with the service.
            if let Some(held) = held.filter(|held| label(held, MANAGED_BY_LABEL) == Some(MANAGER)) {
                self.endpoints.delete(&held).await?;
            }
            return Ok(Outcome::Done);
        };
        let Some(selector) = selector(&service) else { return Ok(Outcome::Done) };
        let pods = selected_pods(&self.pods, &service, selector);
        let (wanted, written) = match held {
            None => (wanted(&service, &pods, None), true),
            Some(held) => {
                let wanted = wanted(&service, &pods, Some(&held));
                let same = wanted.subsets.as_deref().unwrap_or_default() == held.subsets.as_deref().unwrap_or_default() && wanted.metadata == held.metadata;
                if same {
                    return Ok(Outcome::Done);
                }
                (wanted, false)
            }
        };
        let result = if written { self.endpoints.create(&wanted).await } else { self.endpoints.update(&wanted).await };
        match result {
            Err(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(Outcome::Done),
        }
    }
}

fn label<'e>(endpoints: &'e Endpoints, key: &str) -> Option<&'e str> {
    endpoints.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn wanted(service: &Service, pods: &[Arc<Pod>], held: Option<&Endpoints>) -> Endpoints {
    let mut metadata = held.map(|held| held.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..Default::default()
    });
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    labels.insert(MANAGED_BY_LABEL.into(), MANAGER.into());
    if service.spec.as_ref().is_some_and(is_headless) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    metadata.labels = Some(labels);
    let (subsets, truncated) = subsets(service, pods);
    if truncated {
        metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.into(), "truncated".into());
    } else if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    metadata.annotations = metadata.annotations.filter(|annotations| !annotations.is_empty());
    Endpoints { metadata, subsets: Some(subsets).filter(|subsets| !subsets.is_empty()) }
}

/// Addresses with the same ports stand together.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.clone().unwrap_or_default();
    let publish_all = spec.publish_not_ready_addresses.unwrap_or(false);
    let family6 = spec.ip_families.as_ref().and_then(|families| families.first()).is_some_and(|family| family == "IPv6");
    let mut groups: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let candidates: Vec<&Arc<Pod>> = pods.iter().filter(|pod| may_be_endpoint(pod, publish_all)).collect();
    for pod in candidates.iter().take(MAX_ADDRESSES) {
        let Some(ip) = addresses(pod).into_iter().find(|ip| ip.contains(':') == family6) else { continue };
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(pod, service),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            target_ref: Some(target_of(pod)),
        };
        let ports = ports_of(service, pod);
        if ports.is_empty() && spec.ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
            continue;
        }
        let group = groups
            .entry(serde_json::to_string(&ports).expect("API types always encode"))
            .or_insert_with(|| EndpointSubset { ports: Some(ports).filter(|ports| !ports.is_empty()), ..Default::default() });
        let side = if publish_all || is_ready(pod) { &mut group.addresses } else { &mut group.not_ready_addresses };
        side.get_or_insert_default().push(address);
    }
    for group in groups.values_mut() {
        for side in [&mut group.addresses, &mut group.not_ready_addresses].into_iter().flatten() {
            side.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    (groups.into_values().collect(), candidates.len() > MAX_ADDRESSES)
}

fn ports_of(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut resolved: Vec<EndpointPort> = ports
        .filter_map(|port| {
            let protocol = Some(port.protocol.clone().unwrap_or_else(|| "TCP".into()));
            Some(EndpointPort { name: port.name.clone(), port: target_port(pod, port)?, protocol, app_protocol: port.app_protocol.clone() })
        })
        .collect();
    resolved.sort_by(|a, b| a.name.cmp(&b.name));
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_and_not_ready_pods_stand_apart_and_terminating_ones_are_left_out() {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": 8080}]}}))
                .expect("a service");
        let pod = |name: &str, ready: &str, deleted: Option<&str>| -> Arc<Pod> {
            let status = json!({"phase": "Running", "podIP": format!("10.0.0.{}", name.len()), "conditions": [{"type": "Ready", "status": ready}]});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "deletionTimestamp": deleted}, "status": status})).expect("a pod"))
        };
        let pods = [pod("a", "True", None), pod("bb", "False", None), pod("ccc", "True", Some("2026-01-01T00:00:00Z"))];
        let made = wanted(&service, &pods, None);
        let subset = &made.subsets.as_ref().expect("subsets")[0];
        let ips = |side: &Option<Vec<EndpointAddress>>| side.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>();
        assert_eq!((ips(&subset.addresses), ips(&subset.not_ready_addresses)), (vec!["10.0.0.1".to_owned()], vec!["10.0.0.2".to_owned()]));
        assert_eq!(subset.ports.as_ref().expect("ports")[0].port, 8080);
        assert_eq!(wanted(&service, &pods, Some(&made)), made, "an unchanged world gives the same object");
    }
}
