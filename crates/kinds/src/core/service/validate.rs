//! What is wrong with a Service, in upstream's order.

use super::{is_external, is_headless, is_type, needs_health_check};
use crate::core::pod::handlers;
use crate::field::{Field, invalid_each, one_of, required_one_of};
use crate::formats;
use crate::ip;
use crate::labels;
use keles_api::{Object, Path, Problem, ProblemKind, Problems, meta, names};
use serde_json::json;
use std::collections::BTreeSet;

const AFFINITY_MAX_SECONDS: i64 = 86_400;
const CLUSTER_IPS_MAX_COUNT: usize = 2;
pub const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
pub const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const ONLY_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const NOT_FOR_NAMES: &str = "may not be set for ExternalName services";
const FIXED: &str = "may not change once set";

/// `old` only says which sloppy addresses the Service already had.
pub fn service(o: &Object, old: Option<&Object>, p: &mut Problems) {
    let root = Field::root(o);
    let spec = root.get("spec");
    let kept = |list: &str| old.map(|old| Field::root(old).get("spec").strings(list)).unwrap_or_default();
    topology_annotations(&root, p);
    let ports = spec.items("ports");
    if ports.is_empty() && !is_headless(spec.value()) && spec.str("type") != "ExternalName" {
        p.required(&spec.at("ports"), "");
    }
    of_type(&spec, p);
    let mut names_seen = BTreeSet::new();
    for port in &ports {
        service_port(port, ports.len() > 1, &mut names_seen, p);
    }
    labels::labels(p, &spec.get("selector"));
    affinity(&spec, p);
    cluster_ips(&spec, &kept("clusterIPs"), p);
    let known = kept("externalIPs");
    for one in spec.items("externalIPs") {
        if ip::legacy(p, one.path(), one.text(), &known) {
            ip::reachable(p, one.path(), one.text());
        }
    }
    required_one_of(p, &spec.at("type"), spec.str("type"), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    unique_ports(&spec, &ports, p);
    source_ranges(&root, &spec, &kept("loadBalancerSourceRanges"), p);
    balancer(&spec, p);
    traffic(&spec, p);
}

/// Two annotations ask for the same thing.
fn topology_annotations(root: &Field, p: &mut Problems) {
    let annotations = root.get("metadata").get("annotations");
    if let (Some(mode), Some(hints)) = (annotations.opt_str(TOPOLOGY_MODE), annotations.opt_str(TOPOLOGY_HINTS))
        && mode != hints
    {
        p.invalid(&annotations.path().key(TOPOLOGY_MODE), mode, format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified"));
    }
}

fn of_type(spec: &Field, p: &mut Problems) {
    match spec.str("type") {
        kind @ ("LoadBalancer" | "NodePort") if is_headless(spec.value()) => {
            p.invalid(&spec.at("clusterIPs").index(0), "None", format!("may not be set to 'None' for {kind} services"));
        }
        "ExternalName" => {
            for name in ["clusterIPs", "ipFamilies"].iter().filter(|n| !spec.list(n).is_empty()) {
                p.forbidden(&spec.at(name), NOT_FOR_NAMES);
            }
            if spec.has("ipFamilyPolicy") {
                p.forbidden(&spec.at("ipFamilyPolicy"), NOT_FOR_NAMES);
            }
            let name = spec.str("externalName").strip_suffix('.').unwrap_or(spec.str("externalName"));
            match name {
                "" => p.required(&spec.at("externalName"), ""),
                _ => invalid_each(p, &spec.at("externalName"), name, names::dns_subdomain(name, false)),
            }
        }
        _ => {}
    }
}

fn service_port<'a>(port: &Field<'a>, needs_name: bool, seen: &mut BTreeSet<&'a str>, p: &mut Problems) {
    match port.str("name") {
        "" if needs_name => p.required(&port.at("name"), ""),
        "" => {}
        name => {
            invalid_each(p, &port.at("name"), name, names::dns_label(name, false));
            if !seen.insert(name) {
                p.duplicate(&port.at("name"), name);
            }
        }
    }
    let n = port.int("port");
    formats::port_number(n).into_iter().for_each(|m| p.invalid(&port.at("port"), n, m));
    required_one_of(p, &port.at("protocol"), port.str("protocol"), &["SCTP", "TCP", "UDP"]);
    handlers::port(&port.at("targetPort"), port.get("targetPort").value(), p);
    if let Some(app) = port.opt_str("appProtocol") {
        invalid_each(p, &port.at("appProtocol"), app, names::qualified_name(app));
    }
}

fn affinity(spec: &Field, p: &mut Problems) {
    let kind = spec.str("sessionAffinity");
    required_one_of(p, &spec.at("sessionAffinity"), kind, &["ClientIP", "None"]);
    let config = spec.get("sessionAffinityConfig");
    match kind {
        "None" if config.is_set() => p.forbidden(config.path(), "must not be set when session affinity is None"),
        "ClientIP" => {
            let client = config.get("clientIP");
            let needed = "when session affinity type is ClientIP";
            match (config.is_set(), client.is_set(), client.opt_int("timeoutSeconds")) {
                (false, ..) => p.required(config.path(), needed),
                (_, false, _) => p.required(client.path(), needed),
                (.., None) => p.required(&client.at("timeoutSeconds"), needed),
                (.., Some(s)) if s <= 0 || s > AFFINITY_MAX_SECONDS => {
                    p.invalid(&client.at("timeoutSeconds"), s, format!("must be greater than 0 and less than {AFFINITY_MAX_SECONDS}"))
                }
                _ => {}
            }
        }
        _ => {}
    }
}

/// Cluster addresses and their families.
pub fn cluster_ips(spec: &Field, kept: &[&str], p: &mut Problems) {
    if spec.str("type") == "ExternalName" {
        return;
    }
    let (first_ip, ips, at) = (spec.str("clusterIP"), spec.strings("clusterIPs"), spec.at("clusterIPs"));
    let whole = || spec.get("clusterIPs").value().clone();
    match (first_ip, ips.first()) {
        ("", Some(_)) => p.invalid(&at, whole(), "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => p.required(&at, ""),
        (_, Some(first)) if *first != first_ip => p.invalid(&at, whole(), "first value must match `clusterIP`"),
        _ => {}
    }
    families(spec, p);
    let mut bad = false;
    for (i, one) in ips.iter().enumerate() {
        if i == 0 && *one == "None" {
            if ips.len() > 1 {
                bad = true;
                p.invalid(&at, whole(), "'None' must be the first and only value");
            }
            continue;
        }
        bad |= !ip::legacy(p, &at.index(i), one, kept);
    }
    if ips.len() > CLUSTER_IPS_MAX_COUNT {
        p.invalid(&at, whole(), "may only hold up to 2 values");
    }
    if !bad {
        match_families(spec, &ips, p);
    }
}

fn families(spec: &Field, p: &mut Problems) {
    let mut seen = BTreeSet::new();
    for family in spec.items("ipFamilies") {
        one_of(p, family.path(), family.text(), &["IPv4", "IPv6"]);
        if !seen.insert(family.text()) {
            p.duplicate(family.path(), family.text());
        }
    }
    if let Some(policy) = spec.opt_str("ipFamilyPolicy") {
        one_of(p, &spec.at("ipFamilyPolicy"), policy, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    }
}

fn match_families(spec: &Field, ips: &[&str], p: &mut Problems) {
    let at = spec.at("clusterIPs");
    let is_v6 = |ip: &str| ip.contains(':');
    if ips.len() > 1 && (ips.len() > CLUSTER_IPS_MAX_COUNT || is_v6(ips[0]) == is_v6(ips[1])) {
        p.invalid(&at, spec.get("clusterIPs").value().clone(), "may specify no more than one IP for each IP family");
    }
    if is_headless(spec.value()) {
        return;
    }
    for (i, (ip, family)) in ips.iter().zip(spec.strings("ipFamilies")).enumerate() {
        match (family, is_v6(ip)) {
            ("IPv4", true) => p.invalid(&at.index(i), *ip, format!("expected an IPv4 value as indicated by `ipFamilies[{i}]`")),
            ("IPv6", false) => p.invalid(&at.index(i), *ip, format!("expected an IPv6 value as indicated by `ipFamilies[{i}]`")),
            _ => {}
        }
    }
}

fn unique_ports(spec: &Field, ports: &[Field], p: &mut Problems) {
    if spec.str("type") == "ClusterIP" {
        for port in ports.iter().filter(|port| port.int("nodePort") != 0) {
            p.forbidden(&port.at("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
    let (mut node_ports, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for port in ports {
        let (protocol, node_port) = (port.str("protocol"), port.int("nodePort"));
        if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            p.duplicate(&port.at("nodePort"), node_port);
        }
    }
    for port in ports {
        if !seen.insert((port.str("protocol"), port.int("port"))) {
            p.push(same_port(port));
        }
    }
}

/// Upstream prints the port here, with the names of its Go fields.
fn same_port(port: &Field) -> Problem {
    let protocol = json!(port.str("protocol"));
    let shown = format!("{{\"Name\":\"\",\"Protocol\":{protocol},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}", port.int("port"));
    Problem { kind: ProblemKind::Duplicate, field: port.path().as_str().into(), value: None, detail: shown }
}

/// Problems name `LoadBalancerSourceRanges` with a capital, as upstream has it.
fn source_ranges(root: &Field, spec: &Field, kept: &[&str], p: &mut Problems) {
    let ranges = spec.list("loadBalancerSourceRanges");
    let is_balancer = spec.str("type") == "LoadBalancer";
    if !ranges.is_empty() {
        let at = spec.at("LoadBalancerSourceRanges");
        if !is_balancer {
            p.forbidden(&at, ONLY_BALANCERS);
        }
        for (i, range) in ranges.iter().enumerate() {
            let range = range.as_str().unwrap_or("").trim();
            ip::legacy_cidr(p, &at.index(i), range, kept);
        }
    } else if let Some(annotated) = root.get("metadata").get("annotations").opt_str(SOURCE_RANGES) {
        let at = root.get("metadata").at("annotations").key(SOURCE_RANGES);
        if !is_balancer {
            p.forbidden(&at, ONLY_BALANCERS);
        }
        for range in annotated.split(',').map(str::trim).filter(|_| !annotated.trim().is_empty()) {
            ip::legacy_cidr(p, &at, range, kept);
        }
    }
}

fn balancer(spec: &Field, p: &mut Problems) {
    let is_balancer = spec.str("type") == "LoadBalancer";
    match (is_balancer, spec.has("allocateLoadBalancerNodePorts")) {
        (false, true) => p.forbidden(&spec.at("allocateLoadBalancerNodePorts"), ONLY_BALANCERS),
        (true, false) => p.required(&Path::new("allocateLoadBalancerNodePorts"), ""),
        _ => {}
    }
    balancer_class(spec, p);
}

fn balancer_class(spec: &Field, p: &mut Problems) {
    let Some(class) = spec.opt_str("loadBalancerClass") else { return };
    match spec.str("type") == "LoadBalancer" {
        true => invalid_each(p, &spec.at("loadBalancerClass"), class, names::qualified_name(class)),
        false => p.forbidden(&spec.at("loadBalancerClass"), ONLY_BALANCERS),
    }
}

fn traffic(spec: &Field, p: &mut Problems) {
    let (external, at) = (spec.str("externalTrafficPolicy"), spec.at("externalTrafficPolicy"));
    match is_external(spec.value()) {
        true => required_one_of(p, &at, external, &["Cluster", "Local"]),
        false if !external.is_empty() => p.invalid(&at, external, "may only be set for externally-accessible services"),
        false => {}
    }
    let health = spec.int("healthCheckNodePort");
    if health != 0 {
        match needs_health_check(spec.value()) {
            true => formats::port_number(health).into_iter().for_each(|m| p.invalid(&spec.at("healthCheckNodePort"), health, m)),
            false => p.invalid(&spec.at("healthCheckNodePort"), health, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"),
        }
    }
    match spec.opt_str("internalTrafficPolicy") {
        None if is_type(spec.value(), &["NodePort", "LoadBalancer", "ClusterIP"]) => p.required(&spec.at("internalTrafficPolicy"), ""),
        None => {}
        Some(policy) => one_of(p, &spec.at("internalTrafficPolicy"), policy, &["Cluster", "Local"]),
    }
    if let Some(distribution) = spec.opt_str("trafficDistribution") {
        one_of(p, &spec.at("trafficDistribution"), distribution, &["PreferClose", "PreferSameZone", "PreferSameNode"]);
    }
}

pub fn update(new: &Object, old: &Object, p: &mut Problems) {
    let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
    if spec.str("type") != "ExternalName" && before.str("type") != "ExternalName" {
        let (headless, was_headless) = (is_headless(spec.value()), is_headless(before.value()));
        if !(headless && was_headless) {
            fixed_list(&spec, &before, "clusterIPs", "clusterIP", p);
        }
        if !headless && !was_headless {
            fixed_list(&spec, &before, "ipFamilies", "ipFamily", p);
        }
    }
    let both_balance = spec.str("type") == "LoadBalancer" && before.str("type") == "LoadBalancer";
    let (class, class_before) = (spec.get("loadBalancerClass"), before.get("loadBalancerClass"));
    if both_balance && class.value() != class_before.value() {
        p.invalid(class.path(), class.value().clone(), FIXED);
    }
    // Upstream checks the form here, and again with everything else.
    balancer_class(&spec, p);
    let (health, health_before) = (spec.int("healthCheckNodePort"), before.int("healthCheckNodePort"));
    if needs_health_check(spec.value()) && needs_health_check(before.value()) && health != health_before {
        p.forbidden(&spec.at("healthCheckNodePort"), "field is immutable");
    }
    meta::validate_create(new, true, names::dns_label, &Path::new("metadata"), p);
    service(new, Some(old), p);
}

/// The first entry stays; a second may come, or go when the Service says SingleStack.
fn fixed_list(spec: &Field, before: &Field, list: &str, what: &str, p: &mut Problems) {
    let (now, was) = (spec.strings(list), before.strings(list));
    let (at, whole) = (spec.at(list), || spec.get(list).value().clone());
    let of_families = list == "ipFamilies";
    if now.len() == was.len() {
        for (i, _) in now.iter().zip(&was).enumerate().filter(|(_, (n, w))| n != w) {
            p.invalid(&at.index(if of_families { 0 } else { i }), whole(), FIXED);
        }
        return;
    }
    if now.len() < was.len() && spec.list("clusterIPs").is_empty() {
        p.invalid(&at.index(0), whole(), format!("primary {} can not be unset", if of_families { "ipFamily" } else { "clusterIP" }));
    }
    if let (Some(first), Some(first_before)) = (now.first(), was.first())
        && first != first_before
    {
        p.invalid(&at.index(0), spec.get("clusterIPs").value().clone(), FIXED);
    }
    if now.len() < was.len() && now.len() == 1 && spec.str("ipFamilyPolicy") != "SingleStack" {
        p.invalid(&spec.at("ipFamilyPolicy"), spec.get("ipFamilyPolicy").value().clone(), format!("must be set to 'SingleStack' when releasing the secondary {what}"));
    }
}

pub fn status(new: &Object, old: &Object, p: &mut Problems) {
    let (balancer, before) = (Field::root(new).get("status").get("loadBalancer"), Field::root(old).get("status").get("loadBalancer"));
    if !balancer.list("ingress").is_empty() && new.str_at(&["spec", "type"]) != "LoadBalancer" {
        p.forbidden(&balancer.at("ingress"), "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    let known: Vec<&str> = before.list("ingress").iter().filter_map(|i| i["ip"].as_str()).collect();
    load_balancer(&balancer, &known, p);
}

/// The addresses a load balancer answered with.
fn load_balancer(balancer: &Field, known: &[&str], p: &mut Problems) {
    for ingress in balancer.items("ingress") {
        let address = ingress.str("ip");
        if !address.is_empty() {
            ip::legacy(p, &ingress.at("ip"), address, known);
        }
        let at = ingress.at("ipMode");
        match (ingress.opt_str("ipMode"), address.is_empty()) {
            (None, false) => p.required(&at, "must be specified when `ip` is set"),
            (Some(_), true) => p.forbidden(&at, "may not be specified when `ip` is not set"),
            (Some(mode), false) => one_of(p, &at, mode, &["Proxy", "VIP"]),
            (None, true) => {}
        }
        host_name(&ingress.at("hostname"), ingress.str("hostname"), p);
    }
}

fn host_name(at: &Path, name: &str, p: &mut Problems) {
    if name.is_empty() {
        return;
    }
    invalid_each(p, at, name, names::dns_subdomain(name, false));
    if ip::parse_sloppy(name).is_some() {
        p.invalid(at, name, "must be a DNS name, not an IP address");
    }
}
