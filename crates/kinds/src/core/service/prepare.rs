//! Defaults of a Service, and what it keeps, takes over or loses on an update.
//!
//! [`settle`] is upstream's step before allocation: values allocated once come back, `clusterIP` and `clusterIPs` are brought in step,
//! families and their policy filled in. The allocator (`apiserver`) runs it first, with the families of the cluster, for its problems end
//! the request; it is idempotent, so that the kind's own run finds nothing left to do.

use super::validate::cluster_ips;
use super::{is_external, is_type, needs_health_check};
use crate::field::{Field, child_mut, default, default_pointer, items_mut, remove, same, set};
use keles_api::{Object, Path, Problems};
use serde_json::{Value, json};

const AFFINITY_SECONDS: i64 = 10_800;
const WITH_CLUSTER_IP: &[&str] = &["ClusterIP", "NodePort", "LoadBalancer"];
const WITH_NODE_PORTS: &[&str] = &["NodePort", "LoadBalancer"];
/// Families of a cluster that nothing else is known of.
const FAMILIES: &[&str] = &["IPv4"];

pub fn defaults(o: &mut Object) {
    let Some(spec) = child_mut(&mut o.0, "spec") else { return };
    default(spec, "sessionAffinity", "None");
    match spec["sessionAffinity"].as_str() {
        Some("None") => remove(spec, "sessionAffinityConfig"),
        Some("ClientIP") if spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].is_null() => {
            set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}));
        }
        _ => {}
    }
    default(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        default(port, "protocol", "TCP");
        let target = &port["targetPort"];
        if target.is_null() || target == 0 || target == "" {
            let same_port = port["port"].as_i64().unwrap_or(0);
            set(port, "targetPort", same_port);
        }
    }
    if is_external(spec) {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if is_type(spec, WITH_CLUSTER_IP) {
        default_pointer(spec, "internalTrafficPolicy", "Cluster");
    }
    if is_type(spec, &["LoadBalancer"]) {
        default_pointer(spec, "allocateLoadBalancerNodePorts", true);
    }
    if let Some(balancer) = o.at_mut(&["status", "loadBalancer"]) {
        for ingress in items_mut(balancer, "ingress").filter(|i| i["ip"].as_str().is_some_and(|ip| !ip.is_empty())) {
            default_pointer(ingress, "ipMode", "VIP");
        }
    }
}

pub fn create(o: &mut Object) {
    set(&mut o.0, "status", json!({"loadBalancer": {}}));
    settle(o, None, FAMILIES, &mut Problems::new());
}

pub fn update(new: &mut Object, old: &Object) {
    settle(new, Some(old), FAMILIES, &mut Problems::new());
    let Some(spec) = child_mut(&mut new.0, "spec") else { return };
    drop_for_type(spec, old.at(&["spec"]));
    if !is_type(spec, &["LoadBalancer"])
        && let Some(status) = new.0.get_mut("status")
    {
        set(status, "loadBalancer", json!({}));
    }
}

/// Everything before allocation; problems are those that upstream answers without looking further. `cluster`: the families that the cluster
/// has addresses of, the default first.
pub fn settle(o: &mut Object, old: Option<&Object>, cluster: &[&str], p: &mut Problems) {
    let nothing = Value::Null;
    let before = old.map_or(&nothing, |old| old.at(&["spec"]));
    let Some(spec) = child_mut(&mut o.0, "spec") else { return };
    if before.is_null() {
        let ip = text(spec, "clusterIP").to_owned();
        if !ip.is_empty() && is_empty_list(&spec["clusterIPs"]) {
            set(spec, "clusterIPs", json!([ip]));
        }
    } else {
        take_over_allocated(spec, before);
        normalise_addresses(spec, before);
    }
    families(spec, before, cluster, p);
}

fn text<'v>(v: &'v Value, name: &str) -> &'v str {
    v.get(name).and_then(Value::as_str).unwrap_or("")
}

fn is_empty_list(v: &Value) -> bool {
    v.as_array().is_none_or(Vec::is_empty)
}

fn len(v: &Value) -> usize {
    v.as_array().map_or(0, Vec::len)
}

/// Any type but ExternalName, types that nobody knows included.
fn needs_cluster_ip(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName"
}

/// Address families and their policy.
fn families(spec: &mut Value, before: &Value, cluster: &[&str], p: &mut Problems) {
    if !needs_cluster_ip(spec) || keeps_dual_stack(spec, before) {
        return;
    }
    let selectorless_headless = text(spec, "clusterIP") == "None" && spec["selector"].as_object().is_none_or(|m| m.is_empty());
    if spec["ipFamilyPolicy"].is_null() {
        let policy = match &before["ipFamilyPolicy"] {
            Value::Null if selectorless_headless => "RequireDualStack".into(),
            Value::Null => "SingleStack".into(),
            policy => policy.clone(),
        };
        set(spec, "ipFamilyPolicy", policy);
    }
    let found = p.len();
    cluster_ips(&Field::new(spec, Path::new("spec")), &[], p);
    if p.len() > found {
        return;
    }
    policy_problems(spec, before, p);
    infer_families(spec, cluster, p);
    if p.len() > found {
        return;
    }
    if selectorless_headless {
        if is_empty_list(&spec["ipFamilies"]) {
            set(spec, "ipFamilies", json!([cluster[0]]));
        }
        if len(&spec["ipFamilies"]) < 2 && text(spec, "ipFamilyPolicy") != "SingleStack" {
            add_other_family(spec);
        }
        return;
    }
    against_cluster(spec, cluster, p);
    if p.len() > found {
        return;
    }
    if is_empty_list(&spec["ipFamilies"]) {
        set(spec, "ipFamilies", json!([cluster[0]]));
    }
    if text(spec, "ipFamilyPolicy") != "SingleStack" && len(&spec["ipFamilies"]) == 1 && cluster.len() == 2 {
        add_other_family(spec);
    }
}

/// A Service that prefers both families keeps what it has when nothing of it changes.
fn keeps_dual_stack(spec: &Value, before: &Value) -> bool {
    let preferred = |s: &Value| text(s, "ipFamilyPolicy") == "PreferDualStack";
    let unchanged = ["type", "clusterIPs", "ipFamilies"].iter().all(|f| same(&spec[*f], &before[*f]));
    !before.is_null() && preferred(spec) && preferred(before) && unchanged
}

fn add_other_family(spec: &mut Value) {
    let other = if spec["ipFamilies"][0] == "IPv4" { "IPv6" } else { "IPv4" };
    if let Some(all) = spec["ipFamilies"].as_array_mut() {
        all.push(other.into());
    }
}

/// Whether the policy fits the number of addresses and families.
fn policy_problems(spec: &mut Value, before: &Value, p: &mut Problems) {
    let at = Path::new("spec").child("ipFamilyPolicy");
    let single = text(spec, "ipFamilyPolicy") == "SingleStack";
    let shown = spec["ipFamilyPolicy"].clone();
    if !before.is_null() && single {
        for list in ["clusterIPs", "ipFamilies"] {
            if same(&spec[list], &before[list]) && len(&spec[list]) > 1 {
                let first = spec[list][0].clone();
                set(spec, list, json!([first]));
            }
        }
    } else if !before.is_null() {
        let reduced = |list: &str| len(&spec[list]) != 0 && len(&spec[list]) < len(&before[list]);
        if reduced("clusterIPs") {
            p.invalid(&at, shown.clone(), "must be 'SingleStack' to release the secondary cluster IP");
        }
        if reduced("ipFamilies") {
            p.invalid(&at, shown.clone(), "must be 'SingleStack' to release the secondary IP family");
        }
    }
    if single && len(&spec["clusterIPs"]) == 2 {
        p.invalid(&at, shown.clone(), "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified");
    }
    if single && len(&spec["ipFamilies"]) == 2 {
        p.invalid(&at, shown, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified");
    }
}

/// Families that the given addresses tell of.
fn infer_families(spec: &mut Value, cluster: &[&str], p: &mut Problems) {
    let ips: Vec<String> = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    let known = len(&spec["ipFamilies"]);
    let mut all = spec["ipFamilies"].as_array().cloned().unwrap_or_default();
    for (i, ip) in ips.iter().enumerate().take_while(|(_, ip)| *ip != "None").skip(known) {
        let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
        if cluster.contains(&family) {
            all.push(family.into());
        } else {
            p.invalid(&Path::new("spec").child("clusterIPs").index(i), spec["clusterIPs"].clone(), format!("{family} is not configured on this cluster"));
        }
    }
    if all.len() > known {
        set(spec, "ipFamilies", all);
    }
}

/// What this cluster cannot give.
fn against_cluster(spec: &Value, cluster: &[&str], p: &mut Problems) {
    let at = Path::new("spec");
    if text(spec, "ipFamilyPolicy") == "RequireDualStack" && cluster.len() < 2 {
        p.invalid(&at.child("ipFamilyPolicy"), spec["ipFamilyPolicy"].clone(), "this cluster is not configured for dual-stack services");
    }
    for (i, family) in spec["ipFamilies"].as_array().into_iter().flatten().enumerate() {
        if !cluster.contains(&family.as_str().unwrap_or("")) {
            p.invalid(&at.child("ipFamilies").index(i), family.clone(), "not configured on this cluster");
        }
    }
}

/// A client that leaves out what the server allocated means the same addresses and ports.
fn take_over_allocated(spec: &mut Value, before: &Value) {
    if needs_cluster_ip(before) && needs_cluster_ip(spec) {
        if !text(before, "clusterIP").is_empty() {
            default(spec, "clusterIP", before["clusterIP"].clone());
        }
        if is_empty_list(&spec["clusterIPs"]) && !is_empty_list(&before["clusterIPs"]) {
            take(spec, before, "clusterIPs");
        }
    }
    if is_type(before, WITH_NODE_PORTS) && is_type(spec, WITH_NODE_PORTS) {
        take_over_node_ports(spec, before);
    }
    if needs_health_check(before) && needs_health_check(spec) && spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0 {
        take(spec, before, "healthCheckNodePort");
    }
}

fn node_ports(spec: &Value) -> Vec<i64> {
    spec["ports"].as_array().into_iter().flatten().filter_map(|p| p["nodePort"].as_i64()).filter(|n| *n != 0).collect()
}

/// Ports keep their node ports by name, but for one that another port now asks for.
fn take_over_node_ports(spec: &mut Value, before: &Value) {
    let now = node_ports(spec);
    for port in items_mut(spec, "ports").filter(|p| p["nodePort"].as_i64().unwrap_or(0) == 0) {
        let same_name = |b: &&Value| text(b, "name") == text(port, "name");
        let known = before["ports"].as_array().into_iter().flatten().rfind(same_name).and_then(|b| b["nodePort"].as_i64());
        if let Some(n) = known.filter(|n| *n != 0 && !now.contains(n)) {
            set(port, "nodePort", n);
        }
    }
}

fn take(spec: &mut Value, before: &Value, name: &str) {
    match before.get(name) {
        Some(v) => set(spec, name, v.clone()),
        None => remove(spec, name),
    }
}

/// Keeps `clusterIP` and `clusterIPs` in step for clients that know only one of them.
fn normalise_addresses(spec: &mut Value, before: &Value) {
    let (now, was) = (text(spec, "clusterIP").to_owned(), text(before, "clusterIP"));
    if now == was {
        if is_empty_list(&spec["clusterIPs"]) && !is_empty_list(&before["clusterIPs"]) {
            take(spec, before, "clusterIPs");
        }
    } else if same(&spec["clusterIPs"], &before["clusterIPs"]) {
        match now.as_str() {
            "" => remove(spec, "clusterIPs"),
            ip => set(spec, "clusterIPs", json!([ip])),
        }
    }
}

/// What only the old type had goes with it, unless the client changed it in the same breath.
fn drop_for_type(spec: &mut Value, before: &Value) {
    let leaves = |spec: &Value, kinds: &[&str]| is_type(before, kinds) && !is_type(spec, kinds);
    if needs_cluster_ip(before) && !needs_cluster_ip(spec) {
        if ["clusterIP", "clusterIPs"].iter().all(|f| same(&spec[*f], &before[*f])) {
            remove(spec, "clusterIP");
            remove(spec, "clusterIPs");
        }
        drop_unchanged(spec, before, &["ipFamilies", "ipFamilyPolicy"]);
    }
    let known = node_ports(before);
    if leaves(spec, WITH_NODE_PORTS) && node_ports(spec).iter().all(|n| known.contains(n)) {
        items_mut(spec, "ports").for_each(|p| remove(p, "nodePort"));
    }
    if needs_health_check(before) && !needs_health_check(spec) {
        drop_unchanged(spec, before, &["healthCheckNodePort"]);
    }
    if leaves(spec, &["LoadBalancer"]) {
        drop_unchanged(spec, before, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if is_external(before) && !is_external(spec) {
        drop_unchanged(spec, before, &["externalTrafficPolicy"]);
    }
}

fn drop_unchanged(spec: &mut Value, before: &Value, names: &[&str]) {
    for name in names {
        if same(&spec[*name], &before[*name]) {
            remove(spec, name);
        }
    }
}
