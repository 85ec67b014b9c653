//! What Endpoints and EndpointSlices share: which pods stand behind a service, and at which of their ports.

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keles_client::{Change, Informer, ObjectKey};
use keles_reconcile::{Queue, Watches};
use keles_rules::labels::{Labels, has_all};
use keles_rules::readiness::{is_ready, is_terminal};
use std::sync::Arc;

pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Wakes the services whose pods change.
pub fn watch_pods(watches: &mut Watches, pods: &Informer<Pod>, services: &Informer<Service>) {
    let services = services.clone();
    watches.on(pods, move |change, queue| {
        if is_relevant(change) {
            wake(change.object(), &services, queue);
            if let Change::Modified { old, new } = change
                && old.metadata.labels != new.metadata.labels
            {
                wake(old, &services, queue);
            }
        }
    });
}

fn wake(pod: &Pod, services: &Informer<Service>, queue: &Queue<ObjectKey>) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for service in services.list_namespace(namespace) {
        if selector(&service).is_some_and(|selector| has_all(selector, pod.metadata.labels.as_ref())) {
            queue.add(ObjectKey::of(service.as_ref()));
        }
    }
}

/// Most pod updates change nothing that endpoints show.
fn is_relevant(change: &Change<Pod>) -> bool {
    let Change::Modified { old, new } = change else { return true };
    let status = |pod: &Pod| pod.status.as_ref().map(|status| (status.pod_ip.clone(), status.pod_ips.clone()));
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let state = |pod: &Pod| (is_ready(pod), is_terminal(pod), pod.metadata.deletion_timestamp.is_some());
    old.metadata.labels != new.metadata.labels || status(old) != status(new) || node(old) != node(new) || state(old) != state(new)
}

/// The service's pod selector; `None` when people or other controllers manage its endpoints.
pub fn selector(service: &Service) -> Option<&Labels> {
    service.spec.as_ref()?.selector.as_ref()
}
pub fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}
/// Whether the pod can be an endpoint at all.
pub fn may_be_endpoint(pod: &Pod, terminating_too: bool) -> bool {
    let has_address =
        pod.status.as_ref().is_some_and(|status| status.pod_ip.as_deref().is_some_and(|ip| !ip.is_empty()) || status.pod_ips.as_ref().is_some_and(|ips| !ips.is_empty()));
    !is_terminal(pod) && has_address && (terminating_too || pod.metadata.deletion_timestamp.is_none())
}
/// The pod's addresses, first the one in `podIP`.
pub fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    match &status.pod_ips {
        Some(ips) if !ips.is_empty() => ips.iter().map(|ip| ip.ip.as_str()).collect(),
        _ => status.pod_ip.as_deref().into_iter().collect(),
    }
}
/// The container port that a service port means in this pod (lesson 119: endpoints carry target ports).
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let mut ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            ports.find(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol).map(|p| p.container_port)
        }
    }
}
pub fn target_of(pod: &Pod) -> ObjectReference {
    ObjectReference { kind: Some("Pod".into()), namespace: pod.metadata.namespace.clone(), name: pod.metadata.name.clone(), uid: pod.metadata.uid.clone(), ..Default::default() }
}
/// The host name a pod has inside its headless service's domain.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let same = spec.subdomain == service.metadata.name && pod.metadata.namespace == service.metadata.namespace;
    spec.hostname.clone().filter(|name| same && !name.is_empty())
}
/// The pods that the service selects, in order of name.
pub fn selected_pods(pods: &Informer<Pod>, service: &Service, selector: &Labels) -> Vec<Arc<Pod>> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    pods.list_namespace(namespace).into_iter().filter(|pod| has_all(selector, pod.metadata.labels.as_ref())).collect()
}
