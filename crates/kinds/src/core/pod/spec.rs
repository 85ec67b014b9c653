//! A pod spec: the order of its checks. Each check stands in the file of its topic.

use super::{affinity, annotations, containers, env, resources, scheduling, security, volumes, windows};
use crate::field::{Field, invalid_each, required_one_of};
use crate::formats;
use crate::labels;
use keles_api::{Object, Problems, names};

/// A pod about to be created.
pub fn create(o: &Object, p: &mut Problems) {
    let root = Field::root(o);
    let spec = root.get("spec");
    pod(&root, p);
    annotations::match_fields(&root, p);
    if !spec.list("ephemeralContainers").is_empty() {
        p.forbidden(&spec.at("ephemeralContainers"), "cannot be set on create");
    }
    if !spec.str("nodeName").is_empty() && !spec.list("schedulingGates").is_empty() {
        p.forbidden(&spec.at("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

/// What create and update check alike; metadata is the pipeline's.
pub fn pod(root: &Field, p: &mut Problems) {
    let spec = root.get("spec");
    annotations::validate(&root.get("metadata").get("annotations"), &spec, p);
    validate(&spec, Some(&root.get("metadata")), p);
    if spec.str("serviceAccountName").is_empty() {
        no_token_without_account(&spec, p);
    }
    for list in ["containers", "initContainers"] {
        for c in spec.items(list) {
            let image = c.str("image");
            if image.trim() != image {
                p.invalid(&c.at("image"), image, "must not have leading or trailing whitespace");
            }
        }
    }
}

fn no_token_without_account(spec: &Field, p: &mut Problems) {
    for v in spec.items("volumes") {
        for s in v.get("projected").items("sources") {
            if s.has("serviceAccountToken") {
                p.forbidden(&s.at("serviceAccountToken"), "must not be specified when serviceAccountName is not set");
            }
        }
    }
}

/// A pod spec. `pod` is the pod's metadata, or `None` in a template.
pub fn validate(spec: &Field, pod: Option<&Field>, p: &mut Problems) {
    let volumes = volumes::validate(spec, pod.map(|meta| meta.str("name")), p);
    let claims = resources::claims(spec, pod.is_some_and(annotations::is_mirror), p);
    let scope = containers::Scope::of(spec, volumes, claims);
    containers::regular(spec, &scope, p);
    containers::init(spec, &scope, p);
    containers::ephemeral(spec, &scope, p);
    resources::pod_level(spec, p);
    containers::host_network_ports(spec, pod.is_some(), p);
    required_one_of(p, &spec.at("restartPolicy"), spec.str("restartPolicy"), &["Always", "OnFailure", "Never"]);
    required_one_of(p, &spec.at("dnsPolicy"), spec.str("dnsPolicy"), &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    labels::labels(p, &spec.get("nodeSelector"));
    security::pod(spec, p);
    affinity::validate(&spec.get("affinity"), p);
    scheduling::dns(spec, p);
    scheduling::readiness_gates(spec, p);
    scheduling::gates(spec, p);
    scheduling::topology_spread(spec, p);
    windows::host_process(spec, p);
    security::host_users(spec, p);
    identity(spec, p);
    scheduling::tolerations(&spec.items("tolerations"), p);
    scheduling::host_aliases(spec, p);
    classes(spec, p);
    env::file_volumes(spec, p);
}

/// Account, node, deadline, host name.
const HOSTNAME_MAX_BYTES: usize = 64;

fn identity(spec: &Field, p: &mut Problems) {
    for name in ["serviceAccountName", "nodeName"] {
        if !spec.str(name).is_empty() {
            invalid_each(p, &spec.at(name), spec.str(name), names::dns_subdomain(spec.str(name), false));
        }
    }
    if let Some(seconds) = spec.opt_int("activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        p.invalid(&spec.at("activeDeadlineSeconds"), seconds, formats::between(1, i64::from(i32::MAX)));
    }
    if let Some(name) = spec.opt_str("hostnameOverride") {
        let at = spec.at("hostnameOverride");
        if spec.bool("setHostnameAsFQDN") {
            p.forbidden(&at, "may not be specified when setHostnameAsFQDN is true");
        }
        if spec.bool("hostNetwork") {
            p.forbidden(&at, "may not be specified when hostNetwork is true");
        }
        if name.len() > HOSTNAME_MAX_BYTES {
            p.too_long(&at, HOSTNAME_MAX_BYTES);
        }
        invalid_each(p, &at, name, names::dns_subdomain(name, false));
    }
    for name in ["hostname", "subdomain"] {
        if !spec.str(name).is_empty() {
            invalid_each(p, &spec.at(name), spec.str(name), names::dns_label(spec.str(name), false));
        }
    }
}

/// Priority, runtime class, preemption, overhead, operating system.
fn classes(spec: &Field, p: &mut Problems) {
    for name in ["priorityClassName", "runtimeClassName"] {
        let value = spec.str(name);
        if !value.is_empty() || name == "runtimeClassName" && spec.has(name) {
            invalid_each(p, &spec.at(name), value, names::dns_subdomain(value, false));
        }
    }
    if let Some(policy) = spec.opt_str("preemptionPolicy") {
        required_one_of(p, &spec.at("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    resources::overhead(&spec.get("overhead"), &spec.at("overhead"), p);
    if spec.has("os") {
        let os = spec.get("os");
        match os.str("name") {
            "" => p.required(&os.at("name"), ""),
            "linux" => windows::linux_pod(spec, p),
            "windows" => windows::windows_pod(spec, p),
            other => p.not_supported(os.path(), other, &["linux", "windows"]),
        }
    }
}
