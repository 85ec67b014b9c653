//! ResourceQuota: how much a namespace may use (v1).

use crate::core::pod::resources;
use crate::field::{Field, IMMUTABLE, clear_status};
use crate::subresource::status;
use crate::table::{AGE, NAME, column, text};
use keles_api::{Object, Path, Problems};
use keles_registry::kind::{Column, Info, Kind, Request, Served};
use serde_json::json;
use std::collections::BTreeSet;

pub struct ResourceQuota;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Request", "string", "Request represents a minimum amount of cpu/memory that a container may consume.", |o, _| text(used(o, false))),
    column("Limit", "string", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.", |o, _| text(used(o, true))),
    AGE,
];

impl Kind for ResourceQuota {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: &["quota"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.ResourceQuota" }],
        subresources: &[status("ResourceQuota")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "sample", "namespace": "default"}, "spec": {"hard": {"pods": "10"}}}))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        amounts(&spec, "hard", p);
        scopes(&spec, p);
        let selector = spec.get("scopeSelector");
        let at = selector.at("matchExpressions");
        for e in selector.list("matchExpressions") {
            // Problems name the list, not the entry, as upstream has it.
            let e = Field::new(e, at.clone());
            scope_requirement(&e, p);
            for _ in 0..unfit(&spec, e.str("scopeName")) {
                p.invalid(&at, selector.value().clone(), UNFIT_SCOPE);
            }
        }
        let named: Vec<&str> = selector.list("matchExpressions").iter().filter_map(|e| e["scopeName"].as_str()).collect();
        conflicts(&named, &at, spec.get("scopes").value(), p);
    }

    fn validate_status(new: &Object, _: &Object, p: &mut Problems) {
        let status = Field::root(new).get("status");
        amounts(&status, "hard", p);
        amounts(&status, "used", p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        let set_of = |f: &Field| f.strings("scopes").into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        if set_of(&spec) != set_of(&before) {
            p.invalid(&spec.at("scopes"), spec.get("scopes").value().clone(), IMMUTABLE);
        }
    }
}

/// `pods: 1/10, requests.cpu: 0/4`: the limits.* entries, or the others.
fn used(o: &Object, limits: bool) -> String {
    let hard = o.at(&["status", "hard"]).as_object();
    // In the order of the names, which the tree keeps.
    let mut all: Vec<String> = Vec::new();
    for (name, max) in hard.into_iter().flatten().filter(|(name, _)| name.starts_with("limits") == limits) {
        let now = o.at(&["status", "used", name]).as_str().unwrap_or("0");
        all.push(format!("{name}: {now}/{}", max.as_str().unwrap_or("0")));
    }
    all.join(", ")
}

const QUOTA_RESOURCES: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const SCOPES: &[&str] = &["Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity", "VolumeAttributesClass"];

fn quota_name(p: &mut Problems, at: &Path, name: &str) {
    resources::name(p, at, name);
    let huge = resources::is_huge_page(name.strip_prefix("requests.").unwrap_or(name));
    if !name.contains('/') && !QUOTA_RESOURCES.contains(&name) && !huge {
        p.invalid(at, name, "must be a standard resource for quota");
    }
}

fn scopes(spec: &Field, p: &mut Problems) {
    let all = spec.get("scopes");
    for scope in spec.strings("scopes") {
        if !SCOPES.contains(&scope) {
            p.invalid(all.path(), all.value().clone(), "unsupported scope");
        }
        for _ in 0..unfit(spec, scope) {
            p.invalid(all.path(), all.value().clone(), UNFIT_SCOPE);
        }
    }
    conflicts(&spec.strings("scopes"), all.path(), all.value(), p);
}

/// Scopes that exclude each other.
fn conflicts(scopes: &[&str], at: &Path, shown: &serde_json::Value, p: &mut Problems) {
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            p.invalid(at, shown.clone(), "conflicting scopes");
        }
    }
}

const UNFIT_SCOPE: &str = "unsupported scope applied to resource";
const POD_COMPUTE: &[&str] = &["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

fn is_standard(name: &str) -> bool {
    QUOTA_RESOURCES.contains(&name) || name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// How many of the limited resources a scope says nothing about.
fn unfit(spec: &Field, scope: &str) -> usize {
    let fits = |name: &str| match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => POD_COMPUTE.contains(&name),
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    };
    spec.map("hard").filter(|(name, _)| is_standard(name) && !fits(name)).count()
}

fn amounts(of: &Field, list: &str, p: &mut Problems) {
    for (name, value) in of.map(list) {
        let at = of.at(list).key(name);
        quota_name(p, &at, name);
        resources::amount(p, &at, name, value);
    }
}

fn scope_requirement(e: &Field, p: &mut Problems) {
    let (scope, operator, count) = (e.str("scopeName"), e.str("operator"), e.list("values").len());
    if !SCOPES.contains(&scope) {
        p.invalid(&e.at("scopeName"), scope, "unsupported scope");
    }
    if matches!(scope, "BestEffort" | "NotBestEffort" | "Terminating" | "NotTerminating" | "CrossNamespacePodAffinity") && operator != "Exists" {
        p.invalid(&e.at("operator"), operator, format!("must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"));
    }
    match operator {
        "In" | "NotIn" if count == 0 => p.required(&e.at("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"),
        "Exists" | "DoesNotExist" if count > 0 => {
            p.invalid(&e.at("values"), e.get("values").value().clone(), "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector")
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => p.invalid(&e.at("operator"), other, "not a valid selector operator"),
    }
}
