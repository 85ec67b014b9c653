//! The downward API's values: fields of the pod and resources of its containers, for env and for files.
//!
//! Entry points: [`field`], [`resource`], [`resource_of`]. Errors are the texts users see.

use crate::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use std::collections::BTreeMap;

/// What a pod is told of the node and its addresses.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub node_name: String,
    pub host_ips: Vec<String>,
    pub pod_ips: Vec<String>,
    /// Node allocatable: what a limit that is not set is shown as.
    pub allocatable_cpu: Quantity,
    pub allocatable_memory: Quantity,
    pub allocatable_ephemeral_storage: Quantity,
}

/// The value of a field path such as `metadata.labels['app']` or `status.podIP`.
pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    if let Some((map, key)) = subscript(path) {
        let found = match map {
            "metadata.annotations" => pod.metadata.annotations.as_ref(),
            "metadata.labels" => pod.metadata.labels.as_ref(),
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(found.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => text(pod.metadata.name.as_ref()),
        "metadata.namespace" => text(pod.metadata.namespace.as_ref()),
        "metadata.uid" => text(pod.metadata.uid.as_ref()),
        "metadata.labels" => map_lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => map_lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.hostIP" => text(facts.host_ips.first()),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => text(facts.pod_ips.first()),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `metadata.labels['app']` -> (`metadata.labels`, `app`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let inner = path.strip_suffix("']")?;
    inner.split_once("['")
}

/// `key="escaped value"` lines, sorted, without a last newline.
fn map_lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Go's `%q` for what may stand in labels and annotations.
fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A resource of the container named `container`.
pub fn resource_of(pod: &Pod, container: &str, selector: &ResourceFieldSelector, facts: &Facts) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let all = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let found = all.into_iter().find(|c| c.name == container);
    resource(found.ok_or_else(|| format!("container {container} not found"))?, selector, facts)
}

/// `limits.cpu`, `requests.memory`, … of a container, divided and rounded up. A limit that is not set is the node's allocatable.
pub fn resource(container: &Container, selector: &ResourceFieldSelector, facts: &Facts) -> Result<String, String> {
    let unsupported = || format!("unsupported container resource : {}", selector.resource);
    let (kind, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|r| r.limits.as_ref()).and_then(|map| map.get(name)).and_then(|q| Quantity::parse(&q.0));
    let request = resources.and_then(|r| r.requests.as_ref()).and_then(|map| map.get(name)).and_then(|q| Quantity::parse(&q.0));
    let allocatable = match name {
        "cpu" => facts.allocatable_cpu,
        "memory" => facts.allocatable_memory,
        "ephemeral-storage" => facts.allocatable_ephemeral_storage,
        _ if name.starts_with("hugepages-") => Quantity::default(),
        _ => return Err(unsupported()),
    };
    let value = match kind {
        "limits" => limit.filter(|q| !q.is_zero()).unwrap_or(allocatable),
        "requests" => request.unwrap_or_default(),
        _ => return Err(unsupported()),
    };
    let divisor = selector.divisor.as_ref().and_then(|q| Quantity::parse(&q.0)).unwrap_or_default();
    Ok(value.divided_by(divisor).to_string())
}
