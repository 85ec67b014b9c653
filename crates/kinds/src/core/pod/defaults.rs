//! Defaults of pods and of pod specs in templates.
//!
//! A template gets [`spec`]; a pod gets more ([`pod`]): requests from limits, host ports of the host network, service links.

use crate::field::{child_mut, default, default_nonzero, items_mut, set};
use keles_api::Object;
use serde_json::{Value, json};

const GRACE_SECONDS: i64 = 30;
const FILE_MODE: i64 = 0o644;
const TOKEN_EXPIRATION_SECONDS: i64 = 3600;

pub fn pod(o: &mut Object) {
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

/// What a pod as a whole is limited to and asks nothing of: it asks for what its containers ask for together, else for its limit (KEP-2837).
fn pod_requests(s: &mut Value) {
    let Some(limits) = s.get("resources").and_then(|r| r["limits"].as_object()).filter(|l| !l.is_empty()).cloned() else { return };
    let together = keles_rules::requests::of_containers(s);
    let Some(requests) = s.get_mut("resources").and_then(|r| child_mut(r, "requests")).and_then(Value::as_object_mut) else { return };
    for (name, limit) in limits {
        let asked = together.get(&name).filter(|q| q.sign() > 0).map_or(limit, |q| json!(q.to_string()));
        requests.entry(name).or_insert(asked);
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
    default(c, "imagePullPolicy", if image_tag(image) == Some("latest") { "Always" } else { "IfNotPresent" });
    default(c, "terminationMessagePath", "/dev/termination-log");
    default(c, "terminationMessagePolicy", "File");
    default(c, "resources", json!({}));
    for port in items_mut(c, "ports") {
        default(port, "protocol", "TCP");
    }
    for e in items_mut(c, "env") {
        if let Some(field_ref) = e.pointer_mut("/valueFrom/fieldRef") {
            default(field_ref, "apiVersion", "v1");
        }
        if let Some(resource) = e.pointer_mut("/valueFrom/resourceFieldRef") {
            default(resource, "divisor", "0");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = c.get_mut(name).filter(|p| p.is_object()) {
            probe(p);
        }
    }
    for hook in ["/lifecycle/postStart", "/lifecycle/preStop"] {
        if let Some(h) = c.pointer_mut(hook) {
            http_get(h);
        }
    }
}

/// The tag of an image reference: `latest` when neither tag nor digest is given, `None` when only a digest is or nothing can be read.
pub fn image_tag(image: &str) -> Option<&str> {
    if image.is_empty() || image.contains(char::is_whitespace) || image.bytes().any(|b| b"!?#%&*()=+{}[]|\\\"'<>,;^`$~".contains(&b)) {
        return None;
    }
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let repository = name.strip_suffix(last).unwrap_or("");
    let (path, tag) = last.split_once(':').map_or((last, None), |(p, t)| (p, Some(t)));
    let first_is_host = repository.split('/').next().is_some_and(|h| h.contains(['.', ':']) || h == "localhost");
    let lower = |s: &str| !s.bytes().any(|b| b.is_ascii_uppercase());
    let path_parts_fit = lower(path) && !path.is_empty() && (first_is_host || lower(repository)) && image_name_parts_fit(repository, path, first_is_host);
    if !path_parts_fit {
        return None;
    }
    match (tag, digest) {
        (Some(tag), _) => Some(tag),
        (None, Some(_)) => None,
        (None, None) => Some("latest"),
    }
}

/// Longest name an image reference may have.
const IMAGE_NAME_MAX_BYTES: usize = 255;

fn image_name_parts_fit(repository: &str, path: &str, first_is_host: bool) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |s: &str| s.bytes().next().is_some_and(alnum) && s.bytes().last().is_some_and(alnum) && s.bytes().all(|b| alnum(b) || b"._-".contains(&b));
    let mut parts = repository.trim_end_matches('/').split('/').filter(|s| !s.is_empty());
    if first_is_host {
        parts.next();
    }
    repository.len() + path.len() <= IMAGE_NAME_MAX_BYTES && part(path) && parts.all(part)
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
    if let Some(template) = v.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        crate::core::persistent_volume_claim::default_claim_spec(template);
    }
    if let Some(image) = v.get_mut("image").filter(|i| i.is_object()) {
        let reference = image["reference"].as_str().unwrap_or("");
        let policy = if image_tag(reference) == Some("latest") { "Always" } else { "IfNotPresent" };
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
