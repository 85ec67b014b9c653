//! Defaults of pods and of pod specs in templates.
//!
//! A template gets [`spec`]; a pod gets more ([`pod`]): requests from limits, host ports of the host network, service links.

use super::resources;
use crate::field::{below_mut, child_mut, default, default_nonzero, items_mut, remove, set};
use keles_api::Object;
use keles_oci::reference::Reference;
use serde_json::{Value, json};

const GRACE_SECONDS: i64 = 30;
const FILE_MODE: i64 = 0o644;
const TOKEN_EXPIRATION_SECONDS: i64 = 3600;

/// Annotations of releases before 1.8 that nobody reads: init containers and their statuses.
const INIT_CONTAINER_ANNOTATIONS: &[&str] = &[
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// What the metadata of a pod or of a template loses.
pub fn metadata(owner: &mut Value) {
    if let Some(annotations) = below_mut(owner, &["metadata", "annotations"]) {
        INIT_CONTAINER_ANNOTATIONS.iter().for_each(|name| remove(annotations, name));
    }
}

/// `podIP` is the first of `podIPs`; where both are given and differ, it is the only one, as clients say that know no other.
fn addresses(status: &mut Value) {
    let ip = status["podIP"].as_str().unwrap_or("").to_owned();
    let first = status["podIPs"].get(0).map(|first| first["ip"].as_str().unwrap_or("").to_owned());
    match first {
        Some(first) if ip.is_empty() && !first.is_empty() => set(status, "podIP", first),
        Some(first) if first == ip => {}
        _ if !ip.is_empty() => set(status, "podIPs", json!([{"ip": ip}])),
        _ => {}
    }
}

pub fn pod(o: &mut Object) {
    metadata(&mut o.0);
    if let Some(status) = o.0.get_mut("status").filter(|s| s.is_object()) {
        addresses(status);
    }
    let Some(pod_spec) = child_mut(&mut o.0, "spec") else { return };
    spec(pod_spec);
    default(pod_spec, "enableServiceLinks", true);
    let host_network = pod_spec["hostNetwork"] == true;
    for list in ["containers", "initContainers"] {
        for c in items_mut(pod_spec, list) {
            requests_from_limits(c);
            if host_network {
                host_ports(c);
            }
        }
    }
    pod_requests(pod_spec);
}

/// A pod with amounts of its own (KEP-2837) has the limits of huge pages that its containers have together; where it has limits, it asks for what
/// its containers ask for together, else for its limit.
fn pod_requests(s: &mut Value) {
    if !s["resources"].is_object() {
        return;
    }
    let (asked, limited) = (keles_rules::requests::of_containers(s), keles_rules::requests::limits_of_containers(s));
    let of_pod = &mut s["resources"];
    for (name, limit) in limited.iter().filter(|(name, _)| resources::is_huge_page(name)) {
        if of_pod["requests"].get(name).is_none_or(Value::is_null) && child_mut(of_pod, "limits").is_some() {
            default(&mut of_pod["limits"], name, limit.to_string());
        }
    }
    let Some(limits) = of_pod["limits"].as_object().filter(|l| !l.is_empty()).cloned() else { return };
    let Some(requests) = child_mut(of_pod, "requests").and_then(Value::as_object_mut) else { return };
    for (name, amount) in asked.iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")) {
        requests.entry(name.as_str()).or_insert_with(|| amount.to_string().into());
    }
    for (name, limit) in limits.into_iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory") || resources::is_huge_page(name)) {
        requests.entry(name).or_insert(limit);
    }
}

/// A pod spec, wherever it stands.
pub fn spec(s: &mut Value) {
    default(s, "dnsPolicy", "ClusterFirst");
    default(s, "restartPolicy", "Always");
    default(s, "securityContext", json!({}));
    default(s, "terminationGracePeriodSeconds", GRACE_SECONDS);
    default(s, "schedulerName", "default-scheduler");
    mirror_service_account(s);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for c in items_mut(s, list) {
            container(c);
        }
    }
    for v in items_mut(s, "volumes") {
        volume(v);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are answered.
fn mirror_service_account(s: &mut Value) {
    let name = ["serviceAccountName", "serviceAccount"].iter().find_map(|f| s[*f].as_str().filter(|v| !v.is_empty())).map(str::to_owned);
    if let Some(name) = name {
        set(s, "serviceAccountName", name.as_str());
        set(s, "serviceAccount", name);
    }
}

fn container(c: &mut Value) {
    let image = c["image"].as_str().unwrap_or("");
    default(c, "imagePullPolicy", if image_tag(image).as_deref() == Some("latest") { "Always" } else { "IfNotPresent" });
    default(c, "terminationMessagePath", "/dev/termination-log");
    default(c, "terminationMessagePolicy", "File");
    default(c, "resources", json!({}));
    for port in items_mut(c, "ports") {
        default(port, "protocol", "TCP");
    }
    for e in items_mut(c, "env") {
        if let Some(field_ref) = below_mut(e, &["valueFrom", "fieldRef"]) {
            default(field_ref, "apiVersion", "v1");
        }
        if let Some(resource) = below_mut(e, &["valueFrom", "resourceFieldRef"]) {
            default(resource, "divisor", "0");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = c.get_mut(name).filter(|p| p.is_object()) {
            probe(p);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(h) = below_mut(c, &["lifecycle", hook]) {
            http_get(h);
        }
    }
}

/// The tag of an image reference: `latest` when neither tag nor digest is given, `None` when only a digest is or nothing can be read.
pub fn image_tag(image: &str) -> Option<String> {
    Reference::parse(image).ok()?.tag
}

fn probe(p: &mut Value) {
    http_get(p);
    default_nonzero(p, "timeoutSeconds", 1);
    default_nonzero(p, "periodSeconds", 10);
    default_nonzero(p, "successThreshold", 1);
    default_nonzero(p, "failureThreshold", 3);
    if let Some(grpc) = p.get_mut("grpc").filter(|g| g.is_object()) {
        default(grpc, "service", "");
    }
}

fn http_get(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet").filter(|g| g.is_object()) {
        default(get, "path", "/");
        default(get, "scheme", "HTTP");
    }
}

fn requests_from_limits(c: &mut Value) {
    let Some(limits) = c["resources"]["limits"].as_object().filter(|l| !l.is_empty()).cloned() else { return };
    let Some(requests) = child_mut(&mut c["resources"], "requests").and_then(Value::as_object_mut) else { return };
    for (name, quantity) in limits {
        requests.entry(name).or_insert(quantity);
    }
}

fn host_ports(c: &mut Value) {
    for port in items_mut(c, "ports") {
        if let Some(n) = port["containerPort"].as_i64() {
            default_nonzero(port, "hostPort", n);
        }
    }
}

/// What stands in a volume beside its name is its source; without one it is an emptyDir.
fn volume(v: &mut Value) {
    let sourceless = v.as_object().is_some_and(|m| m.iter().all(|(k, v)| k == "name" || v.is_null()));
    if sourceless {
        set(v, "emptyDir", json!({}));
    }
    for (source, defaults) in VOLUME_DEFAULTS {
        let Some(s) = v.get_mut(*source).filter(|s| s.is_object()) else { continue };
        for (field, value) in *defaults {
            default(s, field, value.to_value());
        }
    }
    if let Some(items) = v.get_mut("downwardAPI") {
        downward_items(items);
    }
    for source in v.get_mut("projected").map(|p| items_mut(p, "sources")).into_iter().flatten() {
        if let Some(token) = source.get_mut("serviceAccountToken").filter(|t| t.is_object()) {
            default(token, "expirationSeconds", TOKEN_EXPIRATION_SECONDS);
        }
        if let Some(api) = source.get_mut("downwardAPI") {
            downward_items(api);
        }
    }
    if let Some(template) = below_mut(v, &["ephemeral", "volumeClaimTemplate", "spec"]) {
        crate::core::persistent_volume_claim::default_claim_spec(template);
    }
    if let Some(image) = v.get_mut("image").filter(|i| i.is_object()) {
        let reference = image["reference"].as_str().unwrap_or("");
        let policy = if image_tag(reference).as_deref() == Some("latest") { "Always" } else { "IfNotPresent" };
        default(image, "pullPolicy", policy);
    }
}

fn downward_items(api: &mut Value) {
    for item in items_mut(api, "items") {
        if let Some(field_ref) = item.get_mut("fieldRef").filter(|f| f.is_object()) {
            default(field_ref, "apiVersion", "v1");
        }
        if let Some(resource) = item.get_mut("resourceFieldRef").filter(|f| f.is_object()) {
            default(resource, "divisor", "0");
        }
    }
}

enum Scalar {
    Int(i64),
    Text(&'static str),
    Bool(bool),
}

impl Scalar {
    fn to_value(&self) -> Value {
        match self {
            Scalar::Int(n) => (*n).into(),
            Scalar::Text(s) => (*s).into(),
            Scalar::Bool(b) => (*b).into(),
        }
    }
}

/// Source, and what its fields are when missing.
const VOLUME_DEFAULTS: &[(&str, &[(&str, Scalar)])] = &[
    ("secret", &[("defaultMode", Scalar::Int(FILE_MODE))]),
    ("configMap", &[("defaultMode", Scalar::Int(FILE_MODE))]),
    ("downwardAPI", &[("defaultMode", Scalar::Int(FILE_MODE))]),
    ("projected", &[("defaultMode", Scalar::Int(FILE_MODE))]),
    ("hostPath", &[("type", Scalar::Text(""))]),
    ("iscsi", &[("iscsiInterface", Scalar::Text("default"))]),
    ("rbd", &[("pool", Scalar::Text("rbd")), ("user", Scalar::Text("admin")), ("keyring", Scalar::Text("/etc/ceph/keyring"))]),
    ("scaleIO", &[("storageMode", Scalar::Text("ThinProvisioned")), ("fsType", Scalar::Text("xfs"))]),
    ("azureDisk", &[("cachingMode", Scalar::Text("ReadWrite")), ("kind", Scalar::Text("Shared")), ("fsType", Scalar::Text("ext4")), ("readOnly", Scalar::Bool(false))]),
];
