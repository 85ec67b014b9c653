//! What is wrong with a Service, in upstream's order.

use super::{is_external, is_headless, is_type, needs_health_check};
use crate::core::endpoints::reachable;
use crate::core::pod::handlers;
use crate::field::{Field, invalid_each, one_of, required_one_of, same};
use crate::formats;
use crate::labels;
use keles_api::{Object, Path, Problem, ProblemKind, Problems, names};
use serde_json::json;
use std::collections::BTreeSet;

const AFFINITY_MAX_SECONDS: i64 = 86_400;
const KUBELET_PORT: i64 = 10_250;
const CLUSTER_IPS_MAX_COUNT: usize = 2;
const ONLY_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const NOT_FOR_NAMES: &str = "may not be set for ExternalName services";
const FIXED: &str = "may not change once set";

pub fn service(o: &Object, p: &mut Problems) {
    let root = Field::root(o);
    let spec = root.get("spec");
    let ports = spec.items("ports");
    if ports.is_empty() && !is_headless(spec.value()) && spec.str("type") != "ExternalName" {
        p.required(&spec.at("ports"), "");
    }
    of_type(&spec, &ports, p);
    let mut names_seen = BTreeSet::new();
    for port in &ports {
        service_port(port, ports.len() > 1, &mut names_seen, p);
    }
    labels::labels(p, &spec.get("selector"));
    affinity(&spec, p);
    addresses(&spec, p);
    for ip in spec.items("externalIPs") {
        let bad = formats::ip(ip.text());
        if bad.is_empty() {
            reachable(p, ip.path(), ip.text());
        }
        invalid_each(p, ip.path(), ip.text(), bad);
    }
    required_one_of(p, &spec.at("type"), spec.str("type"), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    unique_ports(&spec, &ports, p);
    source_ranges(&root, &spec, p);
    balancer(&spec, p);
    traffic(&spec, p);
}

fn of_type(spec: &Field, ports: &[Field], p: &mut Problems) {
    match spec.str("type") {
        "LoadBalancer" => {
            for port in ports.iter().filter(|port| port.int("port") == KUBELET_PORT) {
                p.invalid(port.path(), KUBELET_PORT, format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet"));
            }
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
fn addresses(spec: &Field, p: &mut Problems) {
    if spec.str("type") == "ExternalName" {
        return;
    }
    let (ip, ips, at) = (spec.str("clusterIP"), spec.strings("clusterIPs"), spec.at("clusterIPs"));
    let whole = || spec.get("clusterIPs").value().clone();
    match (ip, ips.first()) {
        ("", Some(_)) => p.invalid(&at, whole(), "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => p.required(&at, ""),
        (_, Some(first)) if *first != ip => p.invalid(&at, whole(), "first value must match `clusterIP`"),
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
        let messages = formats::ip(one);
        bad |= !messages.is_empty();
        invalid_each(p, &at.index(i), one, messages);
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
fn source_ranges(root: &Field, spec: &Field, p: &mut Problems) {
    let ranges = spec.list("loadBalancerSourceRanges");
    let is_balancer = spec.str("type") == "LoadBalancer";
    if !ranges.is_empty() {
        let at = spec.at("LoadBalancerSourceRanges");
        if !is_balancer {
            p.forbidden(&at, ONLY_BALANCERS);
        }
        for (i, range) in ranges.iter().enumerate() {
            let range = range.as_str().unwrap_or("").trim();
            invalid_each(p, &at.index(i), range, formats::cidr(range));
        }
    } else if let Some(annotated) = root.get("metadata").get("annotations").opt_str(SOURCE_RANGES) {
        let at = root.get("metadata").at("annotations").key(SOURCE_RANGES);
        if !is_balancer {
            p.forbidden(&at, ONLY_BALANCERS);
        }
        let annotated = annotated.trim();
        if !annotated.is_empty() && annotated.split(',').any(|r| formats::parse_cidr(r.trim()).is_none()) {
            p.invalid(&at, annotated, "must be a list of IP ranges. For example, 10.240.0.0/24,10.250.0.0/24");
        }
    }
}

fn balancer(spec: &Field, p: &mut Problems) {
    let is_balancer = spec.str("type") == "LoadBalancer";
    match (is_balancer, spec.has("allocateLoadBalancerNodePorts")) {
        (false, true) => p.forbidden(&spec.at("allocateLoadBalancerNodePorts"), ONLY_BALANCERS),
        (true, false) => p.required(&spec.at("allocateLoadBalancerNodePorts"), ""),
        _ => {}
    }
    if let Some(class) = spec.opt_str("loadBalancerClass") {
        match is_balancer {
            true => invalid_each(p, &spec.at("loadBalancerClass"), class, names::qualified_name(class)),
            false => p.forbidden(&spec.at("loadBalancerClass"), ONLY_BALANCERS),
        }
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
        fixed_list(&spec, &before, "clusterIPs", "clusterIP", p);
        fixed_list(&spec, &before, "ipFamilies", "ipFamily", p);
    }
    let both_balance = spec.str("type") == "LoadBalancer" && before.str("type") == "LoadBalancer";
    let (class, class_before) = (spec.get("loadBalancerClass"), before.get("loadBalancerClass"));
    if both_balance && (class.is_set() != class_before.is_set() || !same(class.value(), class_before.value())) {
        p.invalid(class.path(), class.value().clone(), FIXED);
    }
    service(new, p);
}

/// The first entry stays; a second may come, or go when the Service says SingleStack.
fn fixed_list(spec: &Field, before: &Field, list: &str, what: &str, p: &mut Problems) {
    if is_headless(spec.value()) && is_headless(before.value()) && list == "clusterIPs" {
        return;
    }
    let (now, was) = (spec.strings(list), before.strings(list));
    let (at, whole) = (spec.at(list), || spec.get(list).value().clone());
    if now.len() == was.len() {
        for (i, _) in now.iter().zip(&was).enumerate().filter(|(_, (n, w))| n != w) {
            p.invalid(&at.index(i), whole(), FIXED);
        }
    } else if now.is_empty() {
        p.invalid(&at.index(0), whole(), format!("primary {what} can not be unset"));
    } else if was.first().is_some_and(|first| *first != now[0]) {
        p.invalid(&at.index(0), whole(), FIXED);
    }
    if now.len() == 1 && was.len() > 1 && spec.str("ipFamilyPolicy") != "SingleStack" {
        p.invalid(&spec.at("ipFamilyPolicy"), spec.get("ipFamilyPolicy").value().clone(), format!("must be set to 'SingleStack' when releasing the secondary {what}"));
    }
}

pub fn status(o: &Object, p: &mut Problems) {
    load_balancer(&Field::root(o).get("status").get("loadBalancer"), p);
}

/// The addresses a load balancer answered with; Ingresses have the same.
pub fn load_balancer(balancer: &Field, p: &mut Problems) {
    for ingress in balancer.items("ingress") {
        let ip = ingress.str("ip");
        if !ip.is_empty() {
            invalid_each(p, &ingress.at("ip"), ip, formats::ip(ip));
        }
        if let Some(mode) = ingress.opt_str("ipMode") {
            one_of(p, &ingress.at("ipMode"), mode, &["Proxy", "VIP"]);
            if ip.is_empty() {
                p.forbidden(&ingress.at("ipMode"), "may not be specified when `ip` is not set");
            }
        }
        host_name(&ingress.at("hostname"), ingress.str("hostname"), p);
    }
}

fn host_name(at: &Path, name: &str, p: &mut Problems) {
    if name.is_empty() {
        return;
    }
    invalid_each(p, at, name, names::dns_subdomain(name, false));
    if formats::parse_ip(name).is_some() {
        p.invalid(at, name, "must be a DNS name, not an IP address");
    }
}

pub fn warnings(o: &Object, w: &mut Vec<String>) {
    let spec = Field::root(o).get("spec");
    if !spec.list("externalIPs").is_empty() {
        w.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
        if spec.str("type") == "ExternalName" {
            w.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
        }
    }
    if spec.str("type") != "ExternalName" && !spec.str("externalName").is_empty() {
        w.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if is_headless(spec.value()) && spec.str("sessionAffinity") == "ClientIP" {
        w.push("spec.SessionAffinity is ignored for headless services".into());
    }
    if spec.str("trafficDistribution") == "PreferClose" {
        w.push("spec.trafficDistribution: PreferClose is deprecated; use PreferSameZone instead".into());
    }
}
