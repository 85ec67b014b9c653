//! Warnings about pods and pod templates: accepted, but probably not meant.

use super::resources::is_whole;
use crate::field::Field;
use keles_api::Object;
use keles_api::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeSet;

pub fn pod(o: &Object, w: &mut Vec<String>) {
    spec(&Field::root(o).get("spec"), w);
}

/// Labels of nodes that have newer names.
const DEPRECATED_NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Volume sources that are gone or on their way, with what is said of them.
const DEPRECATED_VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Warnings about what a PersistentVolume is made of.
pub fn persistent(spec: &Field, w: &mut Vec<String>) {
    for (name, text) in DEPRECATED_VOLUMES.iter().filter(|(name, _)| spec.has(name)) {
        w.push(format!("{}: {text}", spec.at(name)));
    }
}

/// Warnings of a pod spec, in a pod or in a template.
pub fn spec(s: &Field, w: &mut Vec<String>) {
    node_labels(s, w);
    host_aliases(s, w);
    topology_keys(s, w);
    for v in s.items("volumes") {
        volume(&v, w);
    }
    if !s.str("serviceAccount").is_empty() && s.str("serviceAccountName") != s.str("serviceAccount") {
        w.push(format!("{}: deprecated in v1.1, use serviceAccountName instead", s.at("serviceAccount")));
    }
    duplicate_secrets(s, w);
    dns(s, w);
    containers(s, w);
    if s.int("terminationGracePeriodSeconds") < 0 {
        w.push(format!("{}: must be >= 0; negative values are invalid and will be treated as 1", s.at("terminationGracePeriodSeconds")));
    }
    duplicate_host_ports(s, w);
}

fn node_labels(s: &Field, w: &mut Vec<String>) {
    for (old, new) in DEPRECATED_NODE_LABELS {
        if s.get("nodeSelector").has(old) {
            w.push(format!("{}: deprecated since {}; use \"{new}\" instead", s.at("nodeSelector").key(old), since(old)));
        }
    }
}

fn since(label: &str) -> &'static str {
    if label.starts_with("beta.kubernetes.io/arch") || label.starts_with("beta.kubernetes.io/os") { "v1.14" } else { "v1.17" }
}

fn topology_keys(s: &Field, w: &mut Vec<String>) {
    for c in s.items("topologySpreadConstraints") {
        for (old, new) in DEPRECATED_NODE_LABELS.iter().filter(|(old, _)| c.str("topologyKey") == *old) {
            w.push(format!("{}: {old} is deprecated since {}; use \"{new}\" instead", c.at("topologyKey"), since(old)));
        }
        if !c.has("labelSelector") {
            w.push(format!("{}: a null labelSelector results in matching no pod", c.at("labelSelector")));
        }
    }
}

fn host_aliases(s: &Field, w: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for alias in s.items("hostAliases") {
        if !seen.insert(alias.str("ip")) {
            w.push(format!("{}: duplicate ip \"{}\"", alias.at("ip"), alias.str("ip")));
        }
    }
}

fn volume(v: &Field, w: &mut Vec<String>) {
    for (source, text) in DEPRECATED_VOLUMES.iter().filter(|(source, _)| v.has(source)) {
        w.push(format!("{}: {text}", v.at(source)));
    }
    let says_nothing = |s: &Value| s.as_object().is_none_or(|m| m.values().all(Value::is_null));
    for _ in v.get("projected").list("sources").iter().filter(|s| says_nothing(s)) {
        w.push(format!("volume \"{}\" (Projected) has no sources provided", v.str("name")));
    }
    overlapping_paths(v, w);
}

/// Two entries of one volume that write the same file, or one below the other.
fn overlapping_paths(v: &Field, w: &mut Vec<String>) {
    for (source, called) in [("configMap", "ConfigMap"), ("secret", "Secret"), ("downwardAPI", "DownwardAPI")] {
        let items = v.get(source);
        let paths: Vec<&str> = items.list("items").iter().filter_map(|i| i["path"].as_str()).map(|p| p.trim_end_matches('/')).collect();
        for (i, path) in paths.iter().enumerate() {
            let earlier = paths[..i].iter().any(|p| p == path);
            if earlier {
                let owner = if source == "secret" { items.str("secretName") } else { items.str("name") };
                w.push(format!("volume \"{}\" ({called} \"{owner}\"): overlapping path \"{path}\"", v.str("name")));
            }
        }
    }
}

fn duplicate_secrets(s: &Field, w: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, secret) in s.items("imagePullSecrets").iter().enumerate() {
        let name = secret.str("name");
        if name.is_empty() {
            w.push(format!("{}: invalid empty name \"\"", s.at("imagePullSecrets").index(i)));
        } else if !seen.insert(name) {
            w.push(format!("{}: duplicate name \"{name}\"", s.at("imagePullSecrets").index(i)));
        }
    }
}

fn dns(s: &Field, w: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for option in s.get("dnsConfig").items("options") {
        if !seen.insert(option.str("name")) {
            w.push(format!("{}: duplicate option name \"{}\"", option.path(), option.str("name")));
        }
    }
}

fn containers(s: &Field, w: &mut Vec<String>) {
    for c in ["initContainers", "containers"].iter().flat_map(|l| s.items(l)) {
        let mut seen = BTreeSet::new();
        for e in c.items("env") {
            if !seen.insert(e.str("name")) && !refers_to_earlier(e.str("name"), e.str("value")) {
                w.push(format!("{}: hides previous definition of \"{}\", which may be dropped when using apply", e.path(), e.str("name")));
            }
        }
        for list in ["limits", "requests"] {
            for (name, value) in c.get("resources").map(list) {
                let Ok(amount) = Quantity::parse(value.as_str().unwrap_or("")) else { continue };
                if (name == "memory" || name == "ephemeral-storage") && !is_whole(amount) {
                    let at = c.get("resources").at(list).key(name);
                    w.push(format!("{at}: fractional byte value \"{}\" is invalid, must be an integer", value.as_str().unwrap_or("")));
                }
            }
        }
        duplicate_ports(&c, w);
    }
}

/// `PATH=$(PATH):/x` builds on the earlier value and is meant.
fn refers_to_earlier(name: &str, value: &str) -> bool {
    value.contains(&format!("$({name})"))
}

/// The same port twice in one container.
fn duplicate_ports(c: &Field, w: &mut Vec<String>) {
    let ports = c.items("ports");
    for (i, port) in ports.iter().enumerate() {
        let same = |o: &&Field| o.int("containerPort") == port.int("containerPort") && o.str("protocol") == port.str("protocol");
        let same_host = |o: &&Field| o.int("hostPort") == port.int("hostPort") && o.str("hostIP") == port.str("hostIP");
        if let Some(earlier) = ports[..i].iter().filter(same).find(same_host) {
            w.push(format!("{}: duplicate port definition with {}", port.path(), earlier.path()));
        }
    }
}

/// The same port of the host in two containers is refused; across init containers it is only said.
fn duplicate_host_ports(s: &Field, w: &mut Vec<String>) {
    let mut seen: Vec<(String, String)> = Vec::new();
    for c in s.items("containers") {
        for port in c.items("ports") {
            let key = format!("{}/{}", port.int("containerPort"), port.str("protocol"));
            match seen.iter().find(|(k, owner)| *k == key && *owner != c.path().as_str()) {
                Some(_) => {
                    let earlier = s.items("containers").into_iter().flat_map(|c| c.items("ports")).find(|p| format!("{}/{}", p.int("containerPort"), p.str("protocol")) == key);
                    if let Some(earlier) = earlier {
                        w.push(format!("{}: duplicate port definition with {}", port.path(), earlier.path()));
                    }
                }
                None => seen.push((key, c.path().as_str().to_owned())),
            }
        }
    }
}
