//! Workload: pods that are scheduled together (scheduling.k8s.io/v1alpha2).

use crate::field::{Field, immutable, invalid_each};
use crate::gates;
use crate::scheduling::policy;
use crate::table::{AGE, NAME};
use keles_api::{Object, Problems, names};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;
use std::collections::BTreeSet;

pub struct Workload;

const COLUMNS: &[Column<Object>] = &[NAME, AGE];

impl Kind for Workload {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Workload",
        plural: "workloads",
        singular: "workload",
        served: &[Served { group: "scheduling.k8s.io", version: "v1alpha2", schema: "io.k8s.api.scheduling.v1alpha2.Workload" }],
        ..Info::BASE
    };

    const GATED: &'static [GatedAt] = &[(&["spec"], gates::WORKLOAD)];

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "scheduling.k8s.io/v1alpha2",
            "kind": "Workload",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"podGroupTemplates": [{"name": "g", "schedulingPolicy": {"basic": {}}}]}
        }))
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        controller(&spec.get("controllerRef"), p);
        let all = spec.items("podGroupTemplates");
        match all.len() {
            0 => p.required(&spec.at("podGroupTemplates"), "must have at least one item"),
            n if n > TEMPLATES_MAX => p.too_many(&spec.at("podGroupTemplates"), n, TEMPLATES_MAX),
            _ => templates(&all, p),
        }
    }

    /// The templates stay; who controls the workload may be said once.
    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        match before.has("controllerRef") {
            true => immutable(p, &spec.get("controllerRef"), &before.get("controllerRef")),
            false => controller(&spec.get("controllerRef"), p),
        }
        immutable(p, &spec.get("podGroupTemplates"), &before.get("podGroupTemplates"));
    }
}

const TEMPLATES_MAX: usize = 8;

fn templates(all: &[Field], p: &mut Problems) {
    let mut seen = BTreeSet::new();
    for t in all {
        match t.str("name") {
            "" => p.required(&t.at("name"), ""),
            name => invalid_each(p, &t.at("name"), name, names::dns_label(name, false)),
        }
        if !seen.insert(t.str("name")) {
            p.duplicate(t.path(), t.value().clone());
        }
        policy::scheduling(&t.get("schedulingPolicy"), p);
    }
}

fn controller(r: &Field, p: &mut Problems) {
    if !r.is_set() {
        return;
    }
    if !r.str("apiGroup").is_empty() {
        invalid_each(p, &r.at("apiGroup"), r.str("apiGroup"), names::dns_subdomain(r.str("apiGroup"), false));
    }
    for name in ["kind", "name"] {
        match r.str(name) {
            "" => p.required(&r.at(name), ""),
            text => invalid_each(p, &r.at(name), text, names::path_segment(text, false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_named_apart_and_stay() {
        let old = Workload::example();
        let mut two = old.clone();
        let first = two.0["spec"]["podGroupTemplates"][0].clone();
        two.0["spec"]["podGroupTemplates"] = json!([first, first]);
        let mut p = Problems::new();
        Workload::validate(&two, &mut p);
        assert_eq!(p.iter().map(|p| p.field.clone()).collect::<Vec<_>>(), ["spec.podGroupTemplates[1]"]);
        let mut p = Problems::new();
        Workload::validate_update(&two, &old, &mut p);
        assert_eq!(p.len(), 1);
    }

    #[test]
    fn templates_lose_what_is_switched_off() {
        let basic = Workload::example();
        let mut o = basic.clone();
        o.0["spec"]["podGroupTemplates"][0]["priorityClassName"] = "high".into();
        o.0["spec"]["podGroupTemplates"][0]["schedulingConstraints"] = json!({"topology": [{"key": "zone"}]});
        keles_registry::gates::take_away(&mut o, None, Workload::GATED);
        assert_eq!(o, basic);
    }
}
