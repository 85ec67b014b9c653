//! The cluster as the zone sees it, over shared informers.

use crate::zone::Directory;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keles_client::{Informer, Informers};
use std::net::Ipv4Addr;
use std::sync::Arc;

const BY_ADDRESS: &str = "dns-address";
const BY_SERVICE: &str = "dns-service";

pub struct Cluster {
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

impl Cluster {
    pub fn new(informers: &Informers) -> Self {
        let c = Cluster { namespaces: informers.of(), services: informers.of(), slices: informers.of() };
        c.services.add_index(BY_ADDRESS, |s: &Service| s.spec.iter().filter_map(|s| s.cluster_ip.clone()).collect());
        c.slices.add_index(BY_SERVICE, |s: &EndpointSlice| {
            let name = s.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"));
            name.map(|n| format!("{}/{n}", s.metadata.namespace.as_deref().unwrap_or(""))).into_iter().collect()
        });
        c.slices.add_index(BY_ADDRESS, |s: &EndpointSlice| s.endpoints.iter().flatten().filter_map(|e| e.addresses.first().cloned()).collect());
        c
    }
}

impl Directory for Cluster {
    fn namespace_exists(&self, name: &str) -> bool {
        self.namespaces.get("", name).is_some()
    }
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(namespace, name)
    }
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_SERVICE, &format!("{namespace}/{service}"))
    }
    fn service_at(&self, ip: Ipv4Addr) -> Option<Arc<Service>> {
        self.services.by_index(BY_ADDRESS, &ip.to_string()).into_iter().next()
    }
    fn slices_at(&self, ip: Ipv4Addr) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_ADDRESS, &ip.to_string())
    }
    fn synced(&self) -> bool {
        self.namespaces.has_synced() && self.services.has_synced() && self.slices.has_synced()
    }
}
