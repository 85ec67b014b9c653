//! EndpointSlices for Endpoints that people or other controllers write: those of services without a selector (lesson 123).
//!
//! Endpoints labelled `endpointslice.kubernetes.io/skip-mirror` and those used for leader election are left alone.

use crate::Start;
use crate::service_ports::selector;
use crate::slices::{Groups, MANAGED_BY_LABEL, Plan, SERVICE_NAME_LABEL, fit, managed_by};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_client::{Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use keles_rules::owners::controller_reference;
use std::sync::Arc;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";
const MAX_ADDRESSES_PER_SUBSET: usize = 1000;
const BY_SERVICE: &str = "mirrored service";
/// Of the Endpoints' own annotations and labels, those that say nothing about the slice.
const NOT_COPIED: [&str; 3] = ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time", "endpoints.kubernetes.io/managed-by"];

pub struct MirroringController {
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Writer<EndpointSlice>,
}

impl MirroringController {
    pub fn new(start: &Start) -> Self {
        let slices: Writer<EndpointSlice> = start.writer();
        slices.informer().add_index(BY_SERVICE, |slice| managed_by(slice, MANAGER).map(|key| key.to_string()).into_iter().collect());
        MirroringController { services: start.informers.of(), endpoints: start.informers.of(), slices }
    }
}

impl Controller for MirroringController {
    const NAME: &'static str = "endpointslice-mirroring-controller";

    fn watches(&self, watches: &mut Watches) {
        watches.own(&self.services);
        watches.own(&self.endpoints);
        watches.on(self.slices.informer(), |change, queue| {
            for slice in [Some(change.object()), change.old()].into_iter().flatten() {
                if let Some(key) = managed_by(slice, MANAGER) {
                    queue.add(key);
                }
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let held = self.slices.informer().by_index(BY_SERVICE, &key.to_string());
        let endpoints = self.endpoints.get_key(key).filter(|endpoints| is_mirrored(endpoints));
        let by_hand = self.services.get_key(key).is_some_and(|service| selector(&service).is_none());
        let plan = match endpoints.filter(|_| by_hand) {
            Some(endpoints) => plan(&endpoints, &held),
            None => Plan { delete: held, ..Plan::default() },
        };
        plan.carry_out(&self.slices).await?;
        Ok(Outcome::Done)
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skipped = endpoints.metadata.labels.as_ref().is_some_and(|labels| labels.get(SKIP_LABEL).is_some_and(|value| value == "true"));
    let elects = endpoints.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER_ANNOTATION));
    !skipped && !elects && endpoints.metadata.deletion_timestamp.is_none()
}

fn plan(endpoints: &Endpoints, held: &[Arc<EndpointSlice>]) -> Plan {
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let copied = |map: &Option<std::collections::BTreeMap<String, String>>| {
        let mut map = map.clone().unwrap_or_default();
        map.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
        map
    };
    let mut labels = copied(&meta.labels);
    labels.insert(SERVICE_NAME_LABEL.into(), name.clone());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGER.into());
    let pattern = ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: meta.namespace.clone(),
        labels: Some(labels),
        annotations: Some(copied(&meta.annotations)).filter(|annotations| !annotations.is_empty()),
        owner_references: Some(vec![controller_reference("v1", "Endpoints", meta)]),
        ..Default::default()
    };
    let mut groups = Groups::new();
    for subset in endpoints.subsets.iter().flatten() {
        add(&mut groups, subset);
    }
    fit(groups, held, &pattern)
}

fn add(groups: &mut Groups, subset: &EndpointSubset) {
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    });
    let ports: Vec<EndpointPort> = ports.collect();
    let identity = serde_json::to_string(&ports).expect("API types always encode");
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let waiting = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    for (address, ready) in ready.chain(waiting).take(MAX_ADDRESSES_PER_SUBSET) {
        let family = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
        let group = groups.entry((family.into(), identity.clone())).or_insert_with(|| (ports.clone(), Vec::new()));
        group.1.push(endpoint(address, ready));
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn endpoints(ips: &[&str], waiting: &[&str]) -> Endpoints {
        let list = |ips: &[&str]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
        let subset = json!({"addresses": list(ips), "notReadyAddresses": list(waiting), "ports": [{"name": "db", "port": 5432}]});
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "d", "uid": "e", "labels": {"team": "x"}}, "subsets": [subset]})).expect("endpoints")
    }

    #[test]
    fn hand_written_endpoints_become_slices_by_family_and_follow_their_changes() {
        let made = plan(&endpoints(&["192.0.2.1", "2001:db8::1"], &["192.0.2.2"]), &[]).create;
        let families: Vec<(&str, usize)> = made.iter().map(|s| (s.address_type.as_str(), s.endpoints.as_ref().map_or(0, Vec::len))).collect();
        assert_eq!(families, [("IPv4", 2), ("IPv6", 1)]);
        assert_eq!(made[0].metadata.labels.as_ref().expect("labels")[MANAGED_BY_LABEL], MANAGER);
        assert_eq!(made[0].metadata.owner_references.as_ref().expect("an owner")[0].kind, "Endpoints");
        let held: Vec<Arc<EndpointSlice>> = made.into_iter().map(Arc::new).collect();
        let unchanged = plan(&endpoints(&["192.0.2.1", "2001:db8::1"], &["192.0.2.2"]), &held);
        assert!(unchanged.create.is_empty() && unchanged.update.is_empty() && unchanged.delete.is_empty());
        let fewer = plan(&endpoints(&["192.0.2.1"], &[]), &held);
        assert_eq!((fewer.create.len(), fewer.update.len(), fewer.delete.len()), (0, 1, 1));
    }

    #[test]
    fn skipped_and_leader_election_endpoints_are_left_alone() {
        let mut skipped = endpoints(&["192.0.2.1"], &[]);
        assert!(is_mirrored(&skipped));
        skipped.metadata.labels = Some([(SKIP_LABEL.to_owned(), "true".to_owned())].into());
        assert!(!is_mirrored(&skipped));
    }
}
