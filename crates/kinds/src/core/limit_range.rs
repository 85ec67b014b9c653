//! LimitRange: smallest, largest and default requests in a namespace (v1).

use crate::core::pod::resources;
use crate::field::{Field, child_mut, invalid_each, items_mut};
use crate::table::{CREATED_AT, NAME};
use keles_api::quantity::Quantity;
use keles_api::{Object, Path, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Request, Served};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub struct LimitRange;

const COLUMNS: &[Column<Object>] = &[NAME, CREATED_AT];

impl Kind for LimitRange {
    type Object = Object;
    const INFO: Info = Info {
        kind: "LimitRange",
        plural: "limitranges",
        singular: "limitrange",
        short_names: &["limits"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.LimitRange" }],
        create_on_update: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}
        }))
    }

    fn set_defaults(o: &mut Object) {
        let Some(spec) = o.0.get_mut("spec") else { return };
        for limit in items_mut(spec, "limits").filter(|l| l["type"] == "Container") {
            fill(limit, "default", "max");
            fill(limit, "defaultRequest", "default");
            fill(limit, "defaultRequest", "min");
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        // A range without a name gets one that nobody else has.
        if o.name().is_empty() {
            let name = o.uid().to_owned();
            o.set_meta("name", name);
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        let mut seen = BTreeSet::new();
        for limit in Field::root(o).get("spec").items("limits") {
            let kind = limit.str("type");
            type_name(&limit, kind, p);
            if !seen.insert(kind) {
                p.duplicate(&limit.at("type"), kind);
            }
            let forbidden: &[&str] = if kind == "Pod" { &["default", "defaultRequest"] } else { &[] };
            for name in forbidden.iter().filter(|n| limit.map_len(n) > 0) {
                p.forbidden(&limit.at(name), "may not be specified when `type` is 'Pod'");
            }
            for list in LISTS.iter().filter(|l| !forbidden.contains(l)) {
                for (name, _) in limit.map(list) {
                    resource_name(p, &limit.at(list).key(name), kind, name);
                }
            }
            if kind == "PersistentVolumeClaim" && !limit.get("min").has("storage") && !limit.get("max").has("storage") {
                p.required(&limit.at("limits"), "either minimum or maximum storage value is required, but neither was provided");
            }
            let names: BTreeSet<&str> = LISTS.iter().flat_map(|l| limit.map(l)).map(|e| e.0).collect();
            names.into_iter().for_each(|name| compare(&limit, name, p));
        }
    }
}

const LISTS: &[&str] = &["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

/// Amounts that one list lacks come from another.
fn fill(limit: &mut Value, list: &str, from: &str) {
    let Some(source) = limit[from].as_object().filter(|m| !m.is_empty()).cloned() else { return };
    let Some(target) = child_mut(limit, list).and_then(Value::as_object_mut) else { return };
    for (name, amount) in source {
        target.entry(name).or_insert(amount);
    }
}

fn type_name(limit: &Field, kind: &str, p: &mut Problems) {
    let bad = names::qualified_name(kind);
    let good = bad.is_empty();
    invalid_each(p, &limit.at("type"), kind, bad);
    if good && !kind.contains('/') && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind) {
        p.invalid(&limit.at("type"), kind, "must be a standard limit type or fully qualified");
    }
}

fn resource_name(p: &mut Problems, at: &Path, kind: &str, name: &str) {
    match kind {
        "Pod" | "Container" => resources::container_name(p, at, name),
        _ => drop(resources::name(p, at, name)),
    }
}

/// The amounts of one resource must be in order: min, default request, default, max.
fn compare(limit: &Field, name: &str, p: &mut Problems) {
    let of = |list: &str| limit.get(list).opt_str(name).and_then(|q| Some((Quantity::parse(q).ok()?, q.to_owned())));
    let (min, max, default, request, ratio) = (of("min"), of("max"), of("default"), of("defaultRequest"), of("maxLimitRequestRatio"));
    let at = |list: &str| limit.at(list).key(name);
    let mut above = |low: &Option<(Quantity, String)>, low_name: &str, high: &Option<(Quantity, String)>, high_name: &str, list: &str, shown_high: bool| {
        if let (Some(low), Some(high)) = (low, high)
            && low.0 > high.0
        {
            let shown = if shown_high { &high.1 } else { &low.1 };
            p.invalid(&at(list), shown.as_str(), format!("{low_name} value {} is greater than {high_name} value {}", low.1, high.1));
        }
    };
    above(&min, "min", &max, "max", "min", false);
    above(&min, "min", &request, "default request", "defaultRequest", true);
    above(&request, "default request", &max, "max", "defaultRequest", false);
    above(&request, "default request", &default, "default limit", "defaultRequest", false);
    above(&min, "min", &default, "default", "default", false);
    above(&default, "default", &max, "max", "default", true);
    if let (Some(default), Some(request)) = (&default, &request)
        && !resources::may_overcommit(name)
        && default.0 != request.0
    {
        p.invalid(&at("defaultRequest"), request.1.as_str(), format!("default value {} must equal to defaultRequest value {} in {name}", default.1, request.1));
    }
    let Some((ratio, shown)) = ratio else { return };
    if ratio < Quantity::new(1, ratio.format()) {
        p.invalid(&at("maxLimitRequestRatio"), shown.as_str(), format!("ratio {shown} is less than 1"));
    }
    if let (Some((min, _)), Some((max, _))) = (min, max) {
        let limit = max.as_f64() / min.as_f64();
        if ratio.as_f64() > limit {
            p.invalid(&at("maxLimitRequestRatio"), shown.as_str(), format!("ratio {shown} is greater than max/min = {limit:.6}"));
        }
    }
}
