//! Defaults of a Service, and what it keeps, takes over or loses on an update.

use super::{is_external, is_headless, is_type, needs_health_check};
use crate::field::{child_mut, clear_status, default, default_pointer, items_mut, remove, same, set};
use keles_api::Object;
use serde_json::{Value, json};

const AFFINITY_SECONDS: i64 = 10_800;
const WITH_CLUSTER_IP: &[&str] = &["ClusterIP", "NodePort", "LoadBalancer"];
const WITH_NODE_PORTS: &[&str] = &["NodePort", "LoadBalancer"];

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
    if let Some(balancer) = o.0.pointer_mut("/status/loadBalancer") {
        for ingress in items_mut(balancer, "ingress").filter(|i| i["ip"].as_str().is_some_and(|ip| !ip.is_empty())) {
            default_pointer(ingress, "ipMode", "VIP");
        }
    }
}

pub fn create(o: &mut Object) {
    clear_status(o);
    set(&mut o.0, "status", json!({"loadBalancer": {}}));
    let Some(spec) = child_mut(&mut o.0, "spec") else { return };
    let ip = spec["clusterIP"].as_str().unwrap_or("").to_owned();
    if !ip.is_empty() && is_empty_list(&spec["clusterIPs"]) {
        set(spec, "clusterIPs", json!([ip]));
    }
    families(spec);
}

fn is_empty_list(v: &Value) -> bool {
    v.as_array().is_none_or(Vec::is_empty)
}

/// Address families: those of the given addresses, else IPv4 alone; a headless Service without selector may hold both.
fn families(spec: &mut Value) {
    if !is_type(spec, WITH_CLUSTER_IP) {
        return;
    }
    let selectorless = spec["selector"].as_object().is_none_or(|m| m.is_empty());
    let both = is_headless(spec) && selectorless;
    default_pointer(spec, "ipFamilyPolicy", if both { "RequireDualStack" } else { "SingleStack" });
    if !is_empty_list(&spec["ipFamilies"]) {
        return;
    }
    let given = |s: &Value| s.as_str().map(|s| if s.contains(':') { "IPv6" } else { "IPv4" });
    let mut found: Vec<&str> = if is_headless(spec) { Vec::new() } else { spec["clusterIPs"].as_array().into_iter().flatten().filter_map(given).collect() };
    if found.is_empty() {
        found.push("IPv4");
    }
    if both && spec["ipFamilyPolicy"] != "SingleStack" {
        found.push("IPv6");
    }
    set(spec, "ipFamilies", found);
}

pub fn update(new: &mut Object, old: &Object) {
    let before = old.at(&["spec"]);
    let Some(spec) = child_mut(&mut new.0, "spec") else { return };
    take_over_allocated(spec, before);
    normalise_addresses(spec, before);
    drop_for_type(spec, before);
    families(spec);
}

/// A client that leaves out what the server allocated means the same addresses and ports.
fn take_over_allocated(spec: &mut Value, before: &Value) {
    let with_ip = |s: &Value| is_type(s, WITH_CLUSTER_IP);
    if with_ip(before) && with_ip(spec) {
        default(spec, "clusterIP", before["clusterIP"].clone());
        if is_empty_list(&spec["clusterIPs"]) && spec["clusterIP"] == before["clusterIP"] {
            take(spec, before, "clusterIPs");
        }
    }
    if is_type(before, WITH_NODE_PORTS) && is_type(spec, WITH_NODE_PORTS) {
        for port in items_mut(spec, "ports").filter(|p| p["nodePort"].as_i64().unwrap_or(0) == 0) {
            let same_port = |b: &&Value| b["port"] == port["port"] && b["protocol"] == port["protocol"];
            let found = before["ports"].as_array().into_iter().flatten().find(same_port).and_then(|b| b["nodePort"].as_i64());
            if let Some(n) = found {
                set(port, "nodePort", n);
            }
        }
    }
    if needs_health_check(before) && needs_health_check(spec) && spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0 {
        take(spec, before, "healthCheckNodePort");
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
    let (now, was) = (spec["clusterIP"].as_str().unwrap_or("").to_owned(), before["clusterIP"].as_str().unwrap_or(""));
    if now == was {
        if is_empty_list(&spec["clusterIPs"]) && !is_empty_list(&before["clusterIPs"]) {
            take(spec, before, "clusterIPs");
        }
        return;
    }
    if same(&spec["clusterIPs"], &before["clusterIPs"]) {
        match now.as_str() {
            "" => remove(spec, "clusterIPs"),
            ip => set(spec, "clusterIPs", json!([ip])),
        }
    }
}

/// What only the old type had goes with it, unless the client changed it in the same breath.
fn drop_for_type(spec: &mut Value, before: &Value) {
    let leaves = |spec: &Value, kinds: &[&str]| is_type(before, kinds) && !is_type(spec, kinds);
    if leaves(spec, WITH_CLUSTER_IP) {
        drop_unchanged(spec, before, &["clusterIPs", "clusterIP", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    }
    if leaves(spec, WITH_NODE_PORTS) {
        let before_ports: Vec<Value> = before["ports"].as_array().into_iter().flatten().map(|p| p["nodePort"].clone()).collect();
        let now: Vec<Value> = spec["ports"].as_array().into_iter().flatten().map(|p| p["nodePort"].clone()).collect();
        if now == before_ports {
            items_mut(spec, "ports").for_each(|p| remove(p, "nodePort"));
        }
    }
    if needs_health_check(before) && !needs_health_check(spec) {
        drop_unchanged(spec, before, &["healthCheckNodePort"]);
    }
    if leaves(spec, &["LoadBalancer"]) {
        drop_unchanged(spec, before, &["loadBalancerClass", "allocateLoadBalancerNodePorts"]);
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
