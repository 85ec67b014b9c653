//! The variables that tell a container of the services it can reach (`WEB_SERVICE_HOST`, …).
//!
//! Entry point: [`Services`], fed by the agent's informer of all services; [`Services::variables`] for a pod.

use k8s_openapi::api::core::v1::Service;
use keles_client::{Informer, Informers};
use std::collections::BTreeMap;

/// Where the API server is found: in every pod, whatever its namespace.
const MASTER: (&str, &str) = ("default", "kubernetes");

#[derive(Clone)]
pub struct Services {
    all: Informer<Service>,
}

impl Services {
    pub fn watch(informers: &Informers) -> Self {
        Self { all: informers.of() }
    }

    /// The variables for a pod of `namespace`; waits for the first list unless the pod must start without an API server.
    pub async fn variables(&self, namespace: &str, links: bool, waits: bool) -> BTreeMap<String, String> {
        if waits {
            self.all.synced().await;
        }
        let mut out = BTreeMap::new();
        for service in self.all.list() {
            let (ns, name) = (service.metadata.namespace.as_deref().unwrap_or_default(), service.metadata.name.as_deref().unwrap_or_default());
            if (ns, name) == MASTER || (links && ns == namespace) {
                add(&service, &mut out);
            }
        }
        out
    }
}

/// Adds one service in the forms of Kubernetes and of Docker links.
fn add(service: &Service, out: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let name = upper(service.metadata.name.as_deref().unwrap_or_default());
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    out.insert(format!("{name}_SERVICE_HOST"), ip.into());
    out.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in ports.iter().enumerate() {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            out.insert(format!("{name}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            out.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        out.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        out.insert(format!("{prefix}_PORT"), port.port.to_string());
        out.insert(format!("{prefix}_ADDR"), ip.into());
        out.insert(prefix, url);
    }
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_told_in_both_forms() {
        let service =
            serde_json::json!({"metadata": {"name": "my-web", "namespace": "n"}, "spec": {"clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}});
        let mut out = BTreeMap::new();
        add(&serde_json::from_value(service).expect("a service"), &mut out);
        for (name, value) in [
            ("MY_WEB_SERVICE_HOST", "10.43.0.9"),
            ("MY_WEB_SERVICE_PORT", "80"),
            ("MY_WEB_SERVICE_PORT_HTTP", "80"),
            ("MY_WEB_PORT", "tcp://10.43.0.9:80"),
            ("MY_WEB_PORT_80_TCP", "tcp://10.43.0.9:80"),
            ("MY_WEB_PORT_80_TCP_PROTO", "tcp"),
            ("MY_WEB_PORT_80_TCP_PORT", "80"),
            ("MY_WEB_PORT_80_TCP_ADDR", "10.43.0.9"),
        ] {
            assert_eq!(out.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(out.len(), 8);
    }

    #[test]
    fn a_headless_service_has_no_variables() {
        let service = serde_json::json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
        let mut out = BTreeMap::new();
        add(&serde_json::from_value(service).expect("a service"), &mut out);
        assert!(out.is_empty());
    }
}
