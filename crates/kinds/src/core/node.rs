//! Node: a machine that runs pods (v1).

use crate::core::pod::resources;
use crate::core::pod::scheduling::TAINT_EFFECTS;
use crate::field::{Field, invalid_each, one_of, remove, set};
use crate::formats;
use crate::ip;
use crate::labels;
use crate::selectable;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::{Object, Problem, ProblemKind, Problems, names};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, Request, Scope, Selectable, Served, Subresource, UnknownSelector};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub struct Node;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Status", "string", "The status of the node", |o, _| text(state_words(o))),
    column("Roles", "string", "The roles of the node", |o, _| text(roles(o))),
    AGE,
    column("Version", "string", "Kubelet Version reported by the node.", |o, _| table::str_cell(o, &["status", "nodeInfo", "kubeletVersion"])),
    wide(
        "Internal-IP",
        "string",
        "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses Note: This field is declared as mergeable, but the merge key is not sufficiently unique, which can cause data corruption when it is merged. Callers should instead use a full-replacement patch. See https://pr.k8s.io/79391 for an example. Consumers should assume that addresses can change during the lifetime of a Node. However, there are some exceptions where this may not be possible, such as Pods that inherit a Node's address in its own status or consumers of the downward API (status.hostIP).",
        |o, _| text(address(o, "InternalIP")),
    ),
    wide(
        "External-IP",
        "string",
        "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses Note: This field is declared as mergeable, but the merge key is not sufficiently unique, which can cause data corruption when it is merged. Callers should instead use a full-replacement patch. See https://pr.k8s.io/79391 for an example. Consumers should assume that addresses can change during the lifetime of a Node. However, there are some exceptions where this may not be possible, such as Pods that inherit a Node's address in its own status or consumers of the downward API (status.hostIP).",
        |o, _| text(address(o, "ExternalIP")),
    ),
    wide("OS-Image", "string", "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).", |o, _| {
        table::str_or(o, &["status", "nodeInfo", "osImage"], "<unknown>")
    }),
    wide("Kernel-Version", "string", "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).", |o, _| {
        table::str_or(o, &["status", "nodeInfo", "kernelVersion"], "<unknown>")
    }),
    wide("Container-Runtime", "string", "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).", |o, _| {
        table::str_or(o, &["status", "nodeInfo", "containerRuntimeVersion"], "<unknown>")
    }),
];

impl Kind for Node {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        scope: Scope::Cluster,
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Node" }],
        subresources: &[Subresource { name: "proxy", kind: "NodeProxyOptions", group: "", version: "", verbs: &["create", "delete", "get", "patch", "update"] }, status("Node")],
        selectable: &[Selectable { path: "spec.unschedulable", value: |o| selectable::boolean(o, &["spec", "unschedulable"]) }],
        unknown_selector: UnknownSelector::NotSupported,
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "sample"}}))
    }

    fn set_defaults(o: &mut Object) {
        if let Some(spec) = o.0.get_mut("spec") {
            mirror_pod_cidrs(spec);
        }
        if let Some(status) = o.0.get_mut("status").filter(|s| s["allocatable"].is_null() && !s["capacity"].is_null()) {
            let capacity = status["capacity"].clone();
            set(status, "allocatable", capacity);
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        taints(&root, p);
        amounts(&root, p);
        pod_cidrs(&root.get("spec"), p);
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        drop_dynamic_configuration(o, "spec", "configSource", None);
        drop_dynamic_configuration(o, "status", "config", None);
    }

    fn prepare_update(new: &mut Object, old: &Object, _: &Request) {
        drop_dynamic_configuration(new, "spec", "configSource", Some(old));
    }

    fn prepare_status(new: &mut Object, old: &Object, _: &Request) {
        drop_dynamic_configuration(new, "status", "config", Some(old));
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        changes(new, old, p);
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        changes(new, old, p);
    }

    fn warnings(new: &Object, _old: Option<&Object>, w: &mut Vec<String>) {
        let spec = Field::root(new).get("spec");
        if spec.has("configSource") {
            w.push("spec.configSource: the feature is removed".into());
        }
        if !spec.str("externalID").is_empty() {
            w.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".into());
        }
        spec.items("podCIDRs").iter().for_each(|c| ip::warn_cidr(w, c.path(), c.text()));
    }
}

/// `Ready,SchedulingDisabled`
fn state_words(o: &Object) -> String {
    let mut shown = match table::condition(o, "Ready") {
        None => "Unknown".to_owned(),
        Some(_) if table::condition_true(o, "Ready") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
    };
    if o.at(&["spec", "unschedulable"]).as_bool() == Some(true) {
        shown.push_str(",SchedulingDisabled");
    }
    shown
}

/// Roles are label keys `node-role.kubernetes.io/ROLE`, or the older label `kubernetes.io/role`.
fn roles(o: &Object) -> String {
    let role = |(k, v): (&str, &str)| match k.strip_prefix("node-role.kubernetes.io/") {
        Some(r) if !r.is_empty() => Some(r.to_owned()),
        _ => (k == "kubernetes.io/role" && !v.is_empty()).then(|| v.to_owned()),
    };
    let mut all: Vec<String> = o.labels().filter_map(role).collect();
    all.sort();
    all.dedup();
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}

fn address(o: &Object, kind: &str) -> String {
    let of_kind = |a: &&Value| a.get("type").and_then(Value::as_str) == Some(kind);
    let found = table::list(o.at(&["status", "addresses"])).iter().find(of_kind).and_then(|a| a.get("address")?.as_str());
    found.unwrap_or("<none>").to_owned()
}

const CIDR_KEPT: &str = "node updates may not change podCIDR except from \"\" to valid";

/// `podCIDR` is the older name of the first of `podCIDRs`; where both are given and differ it wins.
fn mirror_pod_cidrs(spec: &mut Value) {
    let one = spec["podCIDR"].as_str().unwrap_or("").to_owned();
    let first = spec["podCIDRs"][0].as_str().unwrap_or("").to_owned();
    let none = spec["podCIDRs"].as_array().is_none_or(Vec::is_empty);
    if !one.is_empty() && (none || one != first) {
        set(spec, "podCIDRs", json!([one]));
    } else if one.is_empty() && !first.is_empty() {
        set(spec, "podCIDR", first);
    }
}

/// Problems name `metadata.taints`, as upstream has it.
fn taints(root: &Field, p: &mut Problems) {
    let spec = root.get("spec");
    let at = root.get("metadata").at("taints");
    let mut seen = BTreeSet::new();
    for (i, taint) in spec.list("taints").iter().enumerate() {
        let taint = Field::new(taint, at.index(i));
        let (key, value, effect) = (taint.str("key"), taint.str("value"), taint.str("effect"));
        labels::key(p, &taint.at("key"), key);
        let bad = names::label_value(value);
        if !bad.is_empty() {
            p.invalid(&taint.at("value"), value, bad.join(";"));
        }
        match effect {
            "" => p.required(&taint.at("effect"), ""),
            _ => one_of(p, &taint.at("effect"), effect, TAINT_EFFECTS),
        }
        if !seen.insert((key, effect)) {
            p.push(same_taint(&taint));
        }
    }
}

/// Upstream prints the whole taint here, with the names of its Go fields.
fn same_taint(t: &Field) -> Problem {
    let (key, value, effect) = (json!(t.str("key")), json!(t.str("value")), json!(t.str("effect")));
    let shown = format!("{{\"Key\":{key},\"Value\":{value},\"Effect\":{effect},\"TimeAdded\":{}}}", t.get("timeAdded").value());
    Problem { kind: ProblemKind::Duplicate, field: t.path().as_str().into(), value: None, detail: format!("{shown}: taints must be unique by key and effect pair") }
}

/// Capacity and allocatable hold amounts.
fn amounts(root: &Field, p: &mut Problems) {
    let status = root.get("status");
    for list in ["capacity", "allocatable"] {
        for (name, value) in status.map(list) {
            resources::amount(p, &status.at(list).child(name), name, value);
        }
    }
}

fn pod_cidrs(spec: &Field, p: &mut Problems) {
    let all = spec.items("podCIDRs");
    for cidr in &all {
        ip::legacy_cidr(p, cidr.path(), cidr.text(), &[]);
    }
    if all.len() < 2 {
        return;
    }
    if let Some(bad) = all.iter().find(|c| ip::parse_cidr_sloppy(c.text()).is_none()) {
        p.internal(&spec.at("podCIDRs"), format!("invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR address: {}", bad.text()));
    }
    let parsed: Vec<_> = all.iter().filter_map(|c| ip::parse_cidr_sloppy(c.text())).map(|(ip, _)| ip).collect();
    if parsed.len() < all.len() || !ip::both_families(&parsed) || all.len() > 2 {
        p.invalid(&spec.at("podCIDRs"), spec.get("podCIDRs").value().clone(), "may specify no more than one CIDR for each IP family");
    }
}

/// What an update of a node or of its status may not change.
fn changes(new: &Object, old: &Object, p: &mut Problems) {
    let (root, before) = (Field::root(new), Field::root(old));
    amounts(&root, p);
    unique_addresses(&root, p);
    let (spec, before) = (root.get("spec"), before.get("spec"));
    let (cidrs, cidrs_before) = (spec.strings("podCIDRs"), before.strings("podCIDRs"));
    let moved = match cidrs.len() == cidrs_before.len() {
        true => cidrs.iter().zip(&cidrs_before).filter(|(now, was)| now != was).count(),
        false => usize::from(!cidrs_before.is_empty()),
    };
    (0..moved).for_each(|_| p.forbidden(&spec.at("podCIDRs"), CIDR_KEPT));
    let provider = before.str("providerID");
    if !provider.is_empty() && provider != spec.str("providerID") {
        p.forbidden(&spec.at("providerID"), "node updates may not change providerID except from \"\" to valid");
    }
    if spec.has("configSource") {
        config_source(&spec.get("configSource"), p);
    }
    taints(&root, p);
    if spec.str("externalID") != before.str("externalID") {
        p.forbidden(&spec.at("externalID"), "may not be updated");
    }
}

fn unique_addresses(root: &Field, p: &mut Problems) {
    let mut seen = BTreeSet::new();
    for address in root.get("status").items("addresses") {
        let (kind, text) = (address.str("type"), address.str("address"));
        if !seen.insert((kind, text)) {
            let shown = format!("{{\"Type\":{},\"Address\":{}}}", json!(kind), json!(text));
            p.push(Problem { kind: ProblemKind::Duplicate, field: address.path().as_str().into(), value: None, detail: shown });
        }
    }
}

/// The agent's configuration from a ConfigMap is no feature any more: only who has it keeps it.
fn drop_dynamic_configuration(o: &mut Object, part: &str, name: &str, old: Option<&Object>) {
    if old.is_none_or(|old| old.at(&[part, name]).is_null())
        && let Some(part) = o.0.get_mut(part)
    {
        remove(part, name);
    }
}

/// A removed feature whose checks live on.
fn config_source(source: &Field, p: &mut Problems) {
    let map = source.get("configMap");
    if !map.is_set() {
        return p.invalid(source.path(), source.value().clone(), "exactly one reference subfield must be non-nil");
    }
    for name in ["uid", "resourceVersion"].iter().filter(|n| !map.str(n).is_empty()) {
        p.forbidden(&map.at(name), format!("{name} must not be set in spec"));
    }
    let checks: [(&str, fn(&str) -> Vec<String>); 3] =
        [("namespace", |n| names::dns_label(n, false)), ("name", |n| names::dns_subdomain(n, false)), ("kubeletConfigKey", formats::config_key)];
    for (name, check) in checks {
        match map.str(name) {
            "" => p.required(&map.at(name), format!("{name} must be set")),
            value => invalid_each(p, &map.at(name), value, check(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(new: Value, old: Value) -> Vec<String> {
        let object = |mut v: Value| {
            v["metadata"] = json!({"name": "n", "resourceVersion": "1"});
            Object(v)
        };
        let mut p = Problems::new();
        changes(&object(new), &object(old), &mut p);
        p.iter().map(|p| p.to_string()).collect()
    }

    #[test]
    fn a_nodes_addresses_of_pods_are_given_once() {
        let with = |cidr: &str| json!({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
        assert_eq!(problems(with("10.1.0.0/24"), with("10.0.0.0/24")), [format!("spec.podCIDRs: Forbidden: {CIDR_KEPT}")]);
        assert!(problems(with("10.1.0.0/24"), json!({"spec": {}})).is_empty());
    }

    #[test]
    fn an_amount_that_is_counted_is_whole() {
        let found = problems(json!({"status": {"capacity": {"pods": "1500m", "cpu": "1500m"}}}), json!({}));
        assert_eq!(found, ["status.capacity.pods: Invalid value: \"1500m\": must be an integer"]);
    }
}
