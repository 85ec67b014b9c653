//! What is wrong with a HorizontalPodAutoscaler.

use crate::core::pod::resources;
use crate::field::{Field, NEGATIVE, NOT_POSITIVE, invalid_each, one_of};
use keles_api::quantity::Quantity;
use keles_api::{Object, Problems, names};

const SOURCES: &[(&str, &str)] = &[("Object", "object"), ("External", "external"), ("Pods", "pods"), ("Resource", "resource"), ("ContainerResource", "containerResource")];
const WINDOW_MAX_SECONDS: i64 = 3600;
const PERIOD_MAX_SECONDS: i64 = 1800;

pub fn autoscaler(o: &Object, p: &mut Problems) {
    let spec = Field::root(o).get("spec");
    let (min, max) = (spec.opt_int("minReplicas"), spec.int("maxReplicas"));
    if let Some(min) = min.filter(|n| *n < 1) {
        p.invalid(&spec.at("minReplicas"), min, "must be greater than or equal to 1");
    }
    match max {
        0 => p.required(&spec.at("maxReplicas"), "must be set and greater than 0"),
        n if n < 1 => p.invalid(&spec.at("maxReplicas"), n, "must be greater than or equal to 1"),
        _ => {}
    }
    if min.is_some_and(|min| max < min) {
        p.invalid(&spec.at("maxReplicas"), max, "must be greater than or equal to `minReplicas`");
    }
    let scaled = spec.get("scaleTargetRef");
    // What has always been part of the core group is let off the group.
    reference(&scaled, scaled.str("kind") == "ReplicationController", p);
    let metrics = spec.items("metrics");
    for metric in &metrics {
        source(metric, p);
    }
    let from_outside = metrics.iter().any(|m| m.has("object") || m.has("external"));
    if min == Some(0) && !from_outside {
        p.forbidden(&spec.at("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas");
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.get("behavior").get(direction);
        if rules.is_set() {
            scaling(&rules, p);
        }
    }
}

fn reference(r: &Field, core_group: bool, p: &mut Problems) {
    for name in ["kind", "name"] {
        match r.str(name) {
            "" => p.required(&r.at(name), ""),
            value => invalid_each(p, &r.at(name), value, names::path_segment(value, false)),
        }
    }
    let version = r.str("apiVersion");
    match version.split_once('/') {
        Some((_, rest)) if rest.contains('/') => p.invalid(&r.at("apiVersion"), version, format!("unexpected GroupVersion string: {version}")),
        None | Some(("", _)) if !core_group => p.invalid(&r.at("apiVersion"), version, "apiVersion must specify API group"),
        _ => {}
    }
}

fn source(metric: &Field, p: &mut Problems) {
    let kind = metric.str("type");
    if kind.is_empty() {
        p.required(&metric.at("type"), "must specify a metric source type");
    }
    // Upstream says it twice.
    for _ in 0..2 {
        one_of(p, &metric.at("type"), kind, &["ContainerResource", "External", "Object", "Pods", "Resource"]);
    }
    let present: Vec<&str> = SOURCES.iter().map(|s| s.1).filter(|s| metric.has(s)).collect();
    if let Some(first) = present.first() {
        of_kind(first, &metric.get(first), p);
    }
    let expected = SOURCES.iter().find(|s| s.0 == kind).map(|s| s.1);
    if let Some(name) = expected.filter(|name| !metric.has(name)) {
        p.required(&metric.at(name), "must populate information for the given metric source");
    }
    if present.len() != 1 {
        for other in present.iter().filter(|s| Some(**s) != expected) {
            p.forbidden(&metric.at(other), "must populate the given metric source only");
        }
    }
}

fn of_kind(kind: &str, s: &Field, p: &mut Problems) {
    let t = s.get("target");
    match kind {
        "object" => {
            reference(&s.get("describedObject"), true, p);
            identifier(&s.get("metric"), p);
            target(&t, p);
            if !t.has("value") && !t.has("averageValue") {
                p.required(&t.at("averageValue"), "must set either a target value or averageValue");
            }
        }
        "external" => {
            identifier(&s.get("metric"), p);
            target(&t, p);
            match (t.has("value"), t.has("averageValue")) {
                (false, false) => p.required(&t.at("averageValue"), "must set either a target value for metric or a per-pod target"),
                (true, true) => p.forbidden(&t.at("value"), "may not set both a target value for metric and a per-pod target"),
                _ => {}
            }
        }
        "pods" => {
            identifier(&s.get("metric"), p);
            target(&t, p);
            if !positive(&t, "averageValue") {
                p.required(&t.at("averageValue"), "must specify a positive target averageValue");
            }
        }
        _ => of_resource(kind, s, &t, p),
    }
}

fn of_resource(kind: &str, s: &Field, t: &Field, p: &mut Problems) {
    match s.str("name") {
        "" => p.required(&s.at("name"), "must specify a resource name"),
        name if kind == "containerResource" => resources::container_name(p, &s.at("name"), name),
        _ => {}
    }
    if kind == "containerResource" {
        match s.str("container") {
            "" => p.required(&s.at("container"), "must specify a container"),
            name => invalid_each(p, &s.at("container"), name, names::dns_label(name, false)),
        }
    }
    target(t, p);
    match (t.has("averageUtilization"), t.has("averageValue")) {
        (false, false) => p.required(&t.at("averageUtilization"), "must set either a target raw value or a target utilization"),
        (true, true) => p.forbidden(&t.at("averageValue"), "may not set both a target raw value and a target utilization"),
        _ => {}
    }
}

fn positive(t: &Field, name: &str) -> bool {
    Quantity::parse(t.str(name)).is_ok_and(|q| q.sign() > 0)
}

fn identifier(m: &Field, p: &mut Problems) {
    match m.str("name") {
        "" => p.required(&m.at("name"), "must specify a metric name"),
        name => invalid_each(p, &m.at("name"), name, names::path_segment(name, false)),
    }
}

fn target(t: &Field, p: &mut Problems) {
    let kind = t.str("type");
    if kind.is_empty() {
        p.required(&t.at("type"), "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        p.invalid(&t.at("type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for name in ["value", "averageValue"].iter().filter(|n| t.has(n) && !positive(t, n)) {
        p.invalid(&t.at(name), t.str(name), "must be positive");
    }
    if let Some(n) = t.opt_int("averageUtilization").filter(|n| *n < 1) {
        p.invalid(&t.at("averageUtilization"), n, "must be greater than 0");
    }
}

fn scaling(rules: &Field, p: &mut Problems) {
    if let Some(seconds) = rules.opt_int("stabilizationWindowSeconds") {
        let at = rules.at("stabilizationWindowSeconds");
        if seconds < 0 {
            p.invalid(&at, seconds, "must be greater than or equal to zero");
        }
        if seconds > WINDOW_MAX_SECONDS {
            p.invalid(&at, seconds, format!("must be less than or equal to {WINDOW_MAX_SECONDS}"));
        }
    }
    if let Some(tolerance) = rules.opt_str("tolerance").filter(|t| Quantity::parse(t).is_ok_and(|q| q.sign() < 0)) {
        p.invalid(&rules.at("tolerance"), tolerance, NEGATIVE);
    }
    if let Some(policy) = rules.opt_str("selectPolicy") {
        one_of(p, &rules.at("selectPolicy"), policy, &["Disabled", "Max", "Min"]);
    }
    let policies = rules.items("policies");
    if policies.is_empty() {
        p.required(&rules.at("policies"), "must specify at least one Policy");
    }
    for policy in policies {
        one_of(p, &policy.at("type"), policy.str("type"), &["Percent", "Pods"]);
        for name in ["value", "periodSeconds"].iter().filter(|n| policy.int(n) <= 0) {
            p.invalid(&policy.at(name), policy.int(name), NOT_POSITIVE);
        }
        if policy.int("periodSeconds") > PERIOD_MAX_SECONDS {
            p.invalid(&policy.at("periodSeconds"), policy.int("periodSeconds"), format!("must be less than or equal to {PERIOD_MAX_SECONDS}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_api::Path;
    use serde_json::json;

    #[test]
    fn a_reference_names_its_group() {
        let said = |version: &str, core_group: bool| {
            let (mut p, value) = (Problems::new(), json!({"kind": "K", "name": "n", "apiVersion": version}));
            reference(&Field::new(&value, Path::new("ref")), core_group, &mut p);
            p.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (version, core_group) in [("apps/v1", false), ("v1", true), ("", true)] {
            assert!(said(version, core_group).is_empty(), "{version}");
        }
        for version in ["v1", "", "/v1"] {
            assert_eq!(said(version, false), [format!("ref.apiVersion: Invalid value: {version:?}: apiVersion must specify API group")]);
        }
        assert_eq!(said("a/b/c", true), ["ref.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"]);
    }
}
