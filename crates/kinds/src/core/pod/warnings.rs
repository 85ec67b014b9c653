//! Warnings about pods and pod templates: accepted, but probably not meant.

use super::annotations::{APP_ARMOR, SECCOMP_CONTAINER, SECCOMP_POD};
use super::containers;
use super::resources::is_whole;
use crate::core::persistent_volume_claim;
use crate::field::Field;
use crate::ip;
use keles_api::quantity::Quantity;
use keles_api::{Path, names};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

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
    let said_of_pods_alone = ["flocker", "quobyte", "gitRepo"];
    for (name, text) in DEPRECATED_VOLUMES.iter().filter(|(name, _)| spec.has(name) && !said_of_pods_alone.contains(name)) {
        w.push(format!("{}: {text}", spec.at(shown(name))));
    }
}

/// Upstream's name of a source in warnings.
fn shown(source: &str) -> &str {
    if source == "storageos" { "storageOS" } else { source }
}

/// Annotations that fields replaced long ago.
const DEPRECATED_ANNOTATIONS: &[(&str, &str)] = &[
    ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Warnings of a pod, or of a template (`is_template`), in upstream's order.
pub fn pod(owner: &Field, is_template: bool, w: &mut Vec<String>) {
    let (s, annotations) = (owner.get("spec"), owner.get("metadata").get("annotations"));
    node_labels(&s, w);
    spread(&s, w);
    for (key, text) in DEPRECATED_ANNOTATIONS.iter().filter(|(key, _)| annotations.has(key)) {
        w.push(format!("{}: {text}", annotations.path().key(key)));
    }
    for v in s.items("volumes") {
        deprecated_volume(&v, w);
    }
    for v in s.items("volumes") {
        overlapping_paths(&v, w);
    }
    host_aliases(&s, w);
    pull_secrets(&s, w);
    fractions(&s.get("overhead"), w);
    let profile = |of: &Field, field: &str| of.get("securityContext").has(field);
    if !profile(&s, "seccompProfile") && annotations.has(SECCOMP_POD) {
        w.push(format!("{}: {OLD_SECCOMP}", annotations.path().key(SECCOMP_POD)));
    }
    for c in containers::all(&s) {
        let key = format!("{SECCOMP_CONTAINER}{}", c.str("name"));
        if !profile(&c, "seccompProfile") && annotations.has(&key) {
            w.push(format!("{}: {OLD_SECCOMP}", annotations.path().key(&key)));
        }
        let key = format!("{APP_ARMOR}{}", c.str("name"));
        if is_template && !profile(&s, "appArmorProfile") && !profile(&c, "appArmorProfile") && annotations.has(&key) {
            w.push(format!("{}: deprecated since v1.30; use the \"appArmorProfile\" field instead", annotations.path().key(&key)));
        }
        fractions(&c.get("resources").get("limits"), w);
        fractions(&c.get("resources").get("requests"), w);
        hidden_variables(&c, w);
    }
    ports(&s, w);
    if s.int("terminationGracePeriodSeconds") < 0 {
        w.push(format!("{}: must be >= 0; negative values are invalid and will be treated as 1", s.at("terminationGracePeriodSeconds")));
    }
    affinity(&s, w);
    for server in s.get("dnsConfig").items("nameservers") {
        ip::warn(w, server.path(), server.text());
    }
    for alias in s.items("hostAliases") {
        ip::warn(w, &alias.at("ip"), alias.str("ip"));
    }
}

const OLD_SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";

/// What is said of labels of nodes in a selector that chooses nodes.
pub fn node_selector(selector: &Field, w: &mut Vec<String>) {
    for e in selector.items("matchExpressions") {
        if let Some(text) = deprecated_label(e.str("key")) {
            w.push(format!("{}: {} is {text}", e.at("key"), e.str("key")));
        }
    }
    for (label, _) in selector.map("matchLabels") {
        if let Some(text) = deprecated_label(label) {
            w.push(format!("{}: {text}", selector.at("matchLabels").child(label)));
        }
    }
}

/// What is said of a node label that has a newer name.
pub fn deprecated_label(label: &str) -> Option<String> {
    if label == "node-role.kubernetes.io/master" {
        return Some("use \"node-role.kubernetes.io/control-plane\" instead".into());
    }
    let (_, new) = DEPRECATED_NODE_LABELS.iter().find(|(old, _)| *old == label)?;
    Some(format!("deprecated since {}; use \"{new}\" instead", since(label)))
}

fn since(label: &str) -> &'static str {
    if label.starts_with("beta.kubernetes.io/arch") || label.starts_with("beta.kubernetes.io/os") { "v1.14" } else { "v1.17" }
}

fn node_labels(s: &Field, w: &mut Vec<String>) {
    let selector = s.get("nodeSelector");
    for (label, _) in s.map("nodeSelector") {
        if let Some(text) = deprecated_label(label) {
            w.push(format!("{}: {text}", selector.path().key(label)));
        }
    }
    let affinity = s.get("affinity").get("nodeAffinity");
    for term in affinity.get(REQUIRED).items("nodeSelectorTerms") {
        node_term(&term, false, w);
    }
    for term in affinity.items(PREFERRED) {
        node_term(&term.get("preference"), true, w);
    }
}

/// A term of a mere preference may hold label values that no node can have.
pub fn node_term(term: &Field, is_preference: bool, w: &mut Vec<String>) {
    for e in term.items("matchExpressions") {
        if let Some(text) = deprecated_label(e.str("key")) {
            w.push(format!("{}: {} is {text}", e.at("key"), e.str("key")));
        }
        for v in e.items("values").iter().filter(|_| is_preference) {
            for message in names::label_value(v.text()) {
                w.push(format!("{}: {} is invalid, {message}", v.path(), v.text()));
            }
        }
    }
}

fn spread(s: &Field, w: &mut Vec<String>) {
    for c in s.items("topologySpreadConstraints") {
        let key = c.str("topologyKey");
        if let Some(text) = deprecated_label(key) {
            w.push(format!("{}: {key} is {text}", c.at("topologyKey")));
        }
        if !c.has("labelSelector") {
            w.push(format!("{}: {NO_SELECTOR}", c.at("labelSelector")));
        }
    }
}

fn affinity(s: &Field, w: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = s.get("affinity").get(kind);
        let preferred = affinity.items(PREFERRED).into_iter().map(|t| t.get("podAffinityTerm"));
        for term in affinity.items(REQUIRED).into_iter().chain(preferred).filter(|t| !t.has("labelSelector")) {
            w.push(format!("{}: {NO_SELECTOR}", term.at("labelSelector")));
        }
    }
}

fn deprecated_volume(v: &Field, w: &mut Vec<String>) {
    for (source, text) in DEPRECATED_VOLUMES {
        if *source == "cephfs" && v.get("ephemeral").has("volumeClaimTemplate") {
            persistent_volume_claim::spec_warnings(&v.get("ephemeral").get("volumeClaimTemplate").get("spec"), w);
        }
        if v.has(source) {
            w.push(format!("{}: {text}", v.at(shown(source))));
        }
    }
}

/// A file of a volume, and the source it comes from (empty where there is one only).
struct File {
    path: String,
    from: String,
}

impl File {
    fn new(path: &str, from: &str) -> Self {
        File { path: path.trim_end_matches('/').to_owned(), from: from.to_owned() }
    }
    /// The same file, or one is a folder above the other.
    fn overlaps(&self, other: &File) -> bool {
        let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        !self.path.is_empty() && !other.path.is_empty() && (below(&self.path, &other.path) || below(&other.path, &self.path))
    }
    fn shown(&self) -> String {
        if self.from.is_empty() { format!("{:?}", self.path) } else { format!("{:?} ({})", self.path, self.from) }
    }
}

/// Two entries of one volume that write the same file, or one below the other.
fn overlapping_paths(v: &Field, w: &mut Vec<String>) {
    let name = v.str("name");
    let items = |source: &Field, from: &str| source.list("items").iter().map(|i| File::new(i["path"].as_str().unwrap_or(""), from)).collect::<Vec<_>>();
    for (field, shown, named) in [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName"), ("downwardAPI", "DownwardAPI", "")].iter().filter(|s| v.has(s.0)) {
        let source = v.get(field);
        let what = || if named.is_empty() { (*shown).to_owned() } else { format!("{shown} {:?}", source.str(named)) };
        overlaps(&mut Vec::new(), what, items(&source, ""), name, w);
    }
    let mut known = Vec::new();
    for source in v.get("projected").items("sources") {
        if source.value().as_object().is_none_or(|m| m.values().all(Value::is_null)) {
            w.push(format!("volume \"{name}\" (Projected) has no sources provided"));
        } else {
            overlaps(&mut known, || "Projected".into(), projected_files(&source), name, w);
        }
    }
}

/// Adds files to those known of a volume, and says which of them collide.
fn overlaps(known: &mut Vec<File>, what: impl Fn() -> String, files: Vec<File>, volume: &str, w: &mut Vec<String>) {
    for file in files {
        for earlier in known.iter().filter(|e| e.overlaps(&file)) {
            w.push(format!("volume \"{volume}\" ({}): overlapping paths: {} with {}", what(), file.shown(), earlier.shown()));
        }
        known.push(file);
    }
}

/// The files of one source of a projected volume.
fn projected_files(source: &Field) -> Vec<File> {
    let items = |kind: &str, from: String| source.get(kind).list("items").iter().map(|i| File::new(i["path"].as_str().unwrap_or(""), &from)).collect::<Vec<_>>();
    let named = |kind: &str, shown: &str| items(kind, format!("{shown} {:?}", source.get(kind).str("name")));
    for (kind, shown) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        if !source.get(kind).list("items").is_empty() {
            return named(kind, shown);
        }
    }
    if source.has("downwardAPI") {
        return items("downwardAPI", "DownwardAPI".into());
    }
    if source.has("serviceAccountToken") {
        return vec![File::new(source.get("serviceAccountToken").str("path"), "ServiceAccountToken")];
    }
    let bundle = source.get("clusterTrustBundle");
    if bundle.is_set() {
        let name = if bundle.has("name") { bundle.str("name") } else { bundle.str("signerName") };
        return vec![File::new(bundle.str("path"), &format!("ClusterTrustBundle {name:?}"))];
    }
    let certificate = source.get("podCertificate");
    let paths = [("certificateChainPath", "PodCertificate chain"), ("keyPath", "PodCertificate key"), ("credentialBundlePath", "PodCertificate credential bundle")];
    paths.iter().filter(|(field, _)| !certificate.str(field).is_empty()).map(|(field, from)| File::new(certificate.str(field), from)).collect()
}

fn host_aliases(s: &Field, w: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for alias in s.items("hostAliases") {
        if !seen.insert(alias.str("ip")) {
            w.push(format!("{}: duplicate ip \"{}\"", alias.at("ip"), alias.str("ip")));
        }
    }
}

fn pull_secrets(s: &Field, w: &mut Vec<String>) {
    let all = s.items("imagePullSecrets");
    let mut seen = BTreeSet::new();
    for secret in all.iter().filter(|secret| !seen.insert(secret.str("name"))) {
        w.push(format!("{}: duplicate name \"{}\"", secret.at("name"), secret.str("name")));
    }
    for secret in all.iter().filter(|secret| secret.str("name").is_empty()) {
        w.push(format!("{}: invalid empty name \"\"", secret.at("name")));
    }
}

/// Bytes come whole.
fn fractions(amounts: &Field, w: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let text = amounts.str(name);
        if Quantity::parse(text).is_ok_and(|q| !is_whole(q)) {
            w.push(format!("{}: fractional byte value \"{text}\" is invalid, must be an integer", amounts.path().key(name)));
        }
    }
}

fn hidden_variables(c: &Field, w: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for e in c.items("env") {
        // `PATH=$(PATH):/x` builds on the earlier value and is meant.
        let builds_on = || {
            let earlier = format!("$({})", e.str("name"));
            e.str("value").contains(&earlier) && e.str("value") != earlier && !e.has("valueFrom")
        };
        if !seen.insert(e.str("name")) && !builds_on() {
            w.push(format!("{}: hides previous definition of \"{}\", which may be dropped when using apply", e.path(), e.str("name")));
        }
    }
}

/// The same port twice, by number or by name.
fn ports(s: &Field, w: &mut Vec<String>) {
    let all: Vec<Field> = containers::all(s).iter().flat_map(|c| c.items("ports")).collect();
    for (i, port) in all.iter().enumerate() {
        let (ip, host) = (port.str("hostIP"), port.int("hostPort"));
        if !ip.is_empty() && host == 0 {
            let shown = format!("{{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{ip}}}", port.str("name"), port.int("containerPort"), port.str("protocol"));
            w.push(format!("{}: hostIP set without hostPort: {shown}", port.path()));
        }
        let same = |o: &&Field| o.int("containerPort") == port.int("containerPort") && o.str("protocol") == port.str("protocol");
        for other in all[..i].iter().filter(same) {
            let (other_ip, other_host) = (other.str("hostIP"), other.int("hostPort"));
            let what = match () {
                _ if ip == other_ip && host == other_host => "duplicate",
                _ if host == 0 || other_host == 0 => "overlapping",
                _ if host == other_host && ip.is_empty() != other_ip.is_empty() => "dangerously ambiguous",
                _ => continue,
            };
            w.push(format!("{}: {what} port definition with {}", port.path(), other.path()));
        }
    }
    port_names(s, w);
}

/// Services and probes find a port by name in the first container that has it.
fn port_names(s: &Field, w: &mut Vec<String>) {
    let runs_on = |c: &Field| !c.path().as_str().contains("initContainers[") || c.str("restartPolicy") == "Always";
    let mut seen: BTreeMap<&str, Path> = BTreeMap::new();
    for port in containers::all(s).iter().filter(|c| runs_on(c)).flat_map(|c| c.items("ports")) {
        let name = port.str("name");
        match seen.get(name) {
            _ if name.is_empty() => {}
            Some(first) => w.push(format!("{}: duplicate port name {name:?} with {first}, services and probes that select ports by name will use {first}", port.path())),
            None => drop(seen.insert(name, port.path().clone())),
        }
    }
}
