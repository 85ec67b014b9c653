//! DeviceTaintRule: a taint on devices (resource.k8s.io/v1beta2, resource.k8s.io/v1alpha3).

use crate::conditions::conditions;
use crate::field::{Field, clear_status};
use crate::resource::claim_spec::taint;
use crate::resource::identifiers::{driver, label, pool};
use crate::subresource::status;
use crate::table::{AGE, NAME};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
use serde_json::json;

pub struct DeviceTaintRule;

const COLUMNS: &[Column<Object>] = &[NAME, AGE];

impl Kind for DeviceTaintRule {
    type Object = Object;
    const INFO: Info = Info {
        kind: "DeviceTaintRule",
        plural: "devicetaintrules",
        singular: "devicetaintrule",
        scope: Scope::Cluster,
        served: &[
            Served { group: "resource.k8s.io", version: "v1beta2", schema: "io.k8s.api.resource.v1beta2.DeviceTaintRule" },
            Served { group: "resource.k8s.io", version: "v1alpha3", schema: "io.k8s.api.resource.v1alpha3.DeviceTaintRule" },
        ],
        subresources: &[status("DeviceTaintRule")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "resource.k8s.io/v1beta2",
            "kind": "DeviceTaintRule",
            "metadata": {"name": "sample"},
            "spec": {"taint": {"key": "k.example/x", "effect": "NoSchedule"}}
        }))
    }

    fn prepare_create(o: &mut Object, r: &Request) {
        clear_status(o);
        stamp(o, r);
    }

    fn prepare_update(new: &mut Object, _: &Object, r: &Request) {
        stamp(new, r);
    }

    fn validate(o: &Object, p: &mut Problems) {
        validate_spec(&Field::root(o).get("spec"), None, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let before = Field::root(old).get("spec").get("taint");
        validate_spec(&Field::root(new).get("spec"), Some(before.str("effect")), p);
    }

    fn validate_status(new: &Object, _: &Object, p: &mut Problems) {
        conditions(&Field::root(new).get("status"), CONDITIONS_MAX, p);
    }
}

const CONDITIONS_MAX: usize = 8;

/// A taint says since when it is there.
fn stamp(o: &mut Object, r: &Request) {
    if let Some(taint) = o.0.pointer_mut("/spec/taint") {
        crate::field::default(taint, "timeAdded", r.now.as_str());
    }
}

fn validate_spec(spec: &Field, had_effect: Option<&str>, p: &mut Problems) {
    let selector = spec.get("deviceSelector");
    for (name, rule) in [("driver", driver as fn(&mut Problems, &keles_api::Path, &str)), ("pool", pool), ("device", label)] {
        if let Some(text) = selector.opt_str(name) {
            rule(p, &selector.at(name), text);
        }
    }
    taint(&spec.get("taint"), had_effect, p);
}
