//! FlowSchema: which requests share a priority level (flowcontrol.apiserver.k8s.io/v1).

use crate::field::clear_status;
use crate::field::{Field, child_mut, default_nonzero, invalid_each, same};
use crate::flowcontrol::bootstrap;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, Request, Scope, Served};
use serde_json::json;
use std::collections::BTreeSet;

pub struct FlowSchema;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("PriorityLevel", "string", "`name` is the name of the priority level configuration being referenced Required.", |o, _| {
        table::str_cell(o, &["spec", "priorityLevelConfiguration", "name"])
    }),
    column(
        "MatchingPrecedence",
        "string",
        "`matchingPrecedence` is used to choose among the FlowSchemas that match a given request. The chosen FlowSchema is among those with the numerically lowest (which we take to be logically highest) MatchingPrecedence.  Each MatchingPrecedence value must be ranged in [1,10000]. Note that if the precedence is not specified, it will be set to 1000 as default.",
        |o, _| table::int_cell(o, &["spec", "matchingPrecedence"]),
    ),
    column(
        "DistinguisherMethod",
        "string",
        "`distinguisherMethod` defines how to compute the flow distinguisher for requests that match this schema. `nil` specifies that the distinguisher is disabled and thus will always be the empty string.",
        |o, _| table::str_or(o, &["spec", "distinguisherMethod", "type"], "<none>"),
    ),
    AGE,
    column("MissingPL", "string", "references a broken or non-existent PriorityLevelConfiguration", |o, _| text(missing_level(o))),
];

impl Kind for FlowSchema {
    type Object = Object;
    const INFO: Info = Info {
        kind: "FlowSchema",
        plural: "flowschemas",
        singular: "flowschema",
        scope: Scope::Cluster,
        served: &[Served { group: "flowcontrol.apiserver.k8s.io", version: "v1", schema: "io.k8s.api.flowcontrol.v1.FlowSchema" }],
        subresources: &[status("FlowSchema")],
        generation: true,
        unconditional_update: false,
        metadata_checks: MetadataChecks { status: 2, ..MetadataChecks::USUAL },
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "FlowSchema",
            "metadata": {"name": "sample"},
            "spec": {"priorityLevelConfiguration": {"name": "workload-low"}, "matchingPrecedence": 500}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }

    fn set_defaults(o: &mut Object) {
        if let Some(spec) = child_mut(&mut o.0, "spec") {
            default_nonzero(spec, "matchingPrecedence", 1000);
        }
    }

    fn validate_status(new: &Object, _: &Object, p: &mut Problems) {
        conditions(new, p);
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        let precedence = spec.int("matchingPrecedence");
        if bootstrap::fixed_schema(o.name()).is_some_and(|wanted| !same(spec.value(), &wanted)) {
            p.invalid(spec.path(), spec.value().clone(), format!("spec of '{}' must equal the fixed value", o.name()));
        }
        if precedence <= 0 {
            p.invalid(&spec.at("matchingPrecedence"), precedence, "must be a positive value");
        }
        if precedence > PRECEDENCE_MAX {
            p.invalid(&spec.at("matchingPrecedence"), precedence, format!("must not be greater than {PRECEDENCE_MAX}"));
        }
        if precedence == 1 && o.name() != "exempt" {
            p.invalid(&spec.at("matchingPrecedence"), precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
        }
        if spec.has("distinguisherMethod") {
            let method = spec.get("distinguisherMethod");
            if !["ByNamespace", "ByUser"].contains(&method.str("type")) {
                p.not_supported(&method.at("type"), json!({"Type": method.str("type")}), &["ByNamespace", "ByUser"]);
            }
        }
        let level = spec.get("priorityLevelConfiguration");
        match level.str("name") {
            "" => p.required(&level.at("name"), "must reference a priority level"),
            name => invalid_each(p, &level.at("name"), name, names::dns_subdomain(name, false)),
        }
        for rule in spec.items("rules") {
            policy_rule(&rule, p);
        }
    }
}

fn missing_level(o: &Object) -> &str {
    table::condition(o, "Dangling").and_then(|c| c["status"].as_str()).unwrap_or("?")
}

const PRECEDENCE_MAX: i64 = 10_000;
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

fn policy_rule(rule: &Field, p: &mut Problems) {
    if rule.list("subjects").is_empty() {
        p.required(&rule.at("subjects"), "subjects must contain at least one value");
    }
    rule.items("subjects").iter().for_each(|s| subject(s, p));
    if rule.list("resourceRules").is_empty() && rule.list("nonResourceRules").is_empty() {
        p.required(rule.path(), "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for r in rule.items("resourceRules") {
        resource_rule(&r, p);
    }
    for r in rule.items("nonResourceRules") {
        verbs(&r, p);
        let urls = r.items("nonResourceURLs");
        if urls.is_empty() {
            p.required(&r.at("nonResourceURLs"), "nonResourceURLs must contain at least one value");
        }
        if urls.len() > 1 && urls.iter().any(|u| u.text() == "*") {
            p.invalid(&r.at("nonResourceURLs"), r.get("nonResourceURLs").value().clone(), "if '*' is present, must not specify other non-resource URLs");
            continue;
        }
        for url in urls {
            let text = url.text();
            match text {
                "" => p.invalid(url.path(), text, "must not be empty"),
                "*" | "/" => {}
                _ if !text.starts_with('/') => p.invalid(url.path(), text, "must start with slash"),
                _ if text.contains(' ') => p.invalid(url.path(), text, "must not contain white-space"),
                _ if text.contains("//") => p.invalid(url.path(), text, "must not contain double slash"),
                _ if text.trim_end_matches("/*").contains('*') => p.invalid(url.path(), text, "wildcard can only do suffix matching"),
                _ => {}
            }
        }
    }
}

fn subject(s: &Field, p: &mut Problems) {
    let missing = |p: &mut Problems, field: &str, kind: &str| p.required(&s.at(field), format!("{field} is required when subject kind is '{kind}'"));
    let account = s.get("serviceAccount");
    match s.str("kind") {
        "ServiceAccount" if !account.is_set() => missing(p, "serviceAccount", "ServiceAccount"),
        "ServiceAccount" => {
            match account.str("name") {
                "" => p.required(&account.at("name"), ""),
                "*" => {}
                name => invalid_each(p, &account.at("name"), name, names::dns_subdomain(name, false)),
            }
            match account.str("namespace") {
                "" => p.required(&account.at("namespace"), "must specify namespace for service account"),
                name => invalid_each(p, &account.at("namespace"), name, names::dns_label(name, false)),
            }
        }
        kind @ ("User" | "Group") => {
            let field = kind.to_lowercase();
            match s.has(&field) {
                false => missing(p, &field, kind),
                true if s.get(&field).str("name").is_empty() => p.required(&s.get(&field).at("name"), ""),
                true => {}
            }
        }
        other => return p.not_supported(&s.at("kind"), other, &["Group", "ServiceAccount", "User"]),
    }
    for (kind, field) in [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")] {
        if kind != s.str("kind") && s.has(field) {
            p.forbidden(&s.at(field), format!("{field} is forbidden when subject kind is not '{kind}'"));
        }
    }
}

/// Conditions of either kind: each type is there, and there once.
pub fn conditions(o: &Object, p: &mut Problems) {
    let mut seen = BTreeSet::new();
    for c in Field::root(o).get("status").items("conditions") {
        if !seen.insert(c.str("type")) {
            p.duplicate(&c.at("type"), c.str("type"));
        }
        if c.str("type").is_empty() {
            p.required(&c.at("type"), "must not be empty");
        }
    }
}

fn verbs(r: &Field, p: &mut Problems) {
    let all = r.strings("verbs");
    if all.is_empty() {
        p.required(&r.at("verbs"), "verbs must contain at least one value");
    }
    if all.contains(&"*") {
        if all.len() > 1 {
            p.invalid(&r.at("verbs"), r.get("verbs").value().clone(), "if '*' is present, must not specify other verbs");
        }
    } else if all.iter().any(|v| !VERBS.contains(v)) {
        p.not_supported(&r.at("verbs"), r.get("verbs").value().clone(), VERBS);
    }
}

fn resource_rule(r: &Field, p: &mut Problems) {
    verbs(r, p);
    for (name, what, missing) in
        [("apiGroups", "api groups", "resource rules must supply at least one api group"), ("resources", "resources", "resource rules must supply at least one resource")]
    {
        let all = r.strings(name);
        if all.is_empty() {
            p.required(&r.at(name), missing);
        }
        if all.len() > 1 && all.contains(&"*") {
            p.invalid(&r.at(name), r.get(name).value().clone(), format!("if '*' is present, must not specify other {what}"));
        }
    }
    if r.list("namespaces").is_empty() && !r.bool("clusterScope") {
        p.required(&r.at("namespaces"), "resource rules that are not cluster scoped must supply at least one namespace");
    }
    let all = r.items("namespaces");
    if all.len() > 1 && all.iter().any(|n| n.text() == "*") {
        p.invalid(&r.at("namespaces"), r.get("namespaces").value().clone(), "if '*' is present, must not specify other namespaces");
        return;
    }
    for namespace in all.iter().filter(|n| n.text() != "*") {
        for bad in names::dns_label(namespace.text(), false) {
            p.invalid(namespace.path(), namespace.text(), format!("each member of this list must be '*' or a DNS-1123 label; {bad}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_one_thing_only() {
        let mut o = FlowSchema::example();
        o.0["spec"]["rules"] = json!([{
            "subjects": [{"kind": "User", "user": {"name": "u"}, "group": {"name": "g"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*", "/x"]}],
        }]);
        let mut p = Problems::new();
        FlowSchema::validate(&o, &mut p);
        let said: Vec<String> = p.iter().map(ToString::to_string).collect();
        assert_eq!(said[0], "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'");
        assert!(said[1].ends_with("if '*' is present, must not specify other non-resource URLs"), "{}", said[1]);
    }
}
