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
        generation: true,
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

    fn prepare_update(new: &mut Object, old: &Object, r: &Request) {
        let (now, before) = (new.at(&["spec", "taint"]), old.at(&["spec", "taint"]));
        // The time is that of the effect, unless the client says another.
        if now["effect"] != before["effect"] && now["timeAdded"] == before["timeAdded"] {
            new.0["spec"]["taint"]["timeAdded"] = r.now.as_str().into();
        }
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
    if let Some(taint) = o.at_mut(&["spec", "taint"]) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_effect_is_there_since_now() {
        let mut old = DeviceTaintRule::example();
        old.0["spec"]["taint"]["timeAdded"] = "2026-01-01T00:00:00Z".into();
        let at = |now: &str| Request { now: now.into(), ..Request::default() };
        let mut new = old.clone();
        DeviceTaintRule::prepare_update(&mut new, &old, &at("2026-02-02T00:00:00Z"));
        assert_eq!(new, old);
        new.0["spec"]["taint"]["effect"] = "NoExecute".into();
        DeviceTaintRule::prepare_update(&mut new, &old, &at("2026-02-02T00:00:00Z"));
        assert_eq!(new.str_at(&["spec", "taint", "timeAdded"]), "2026-02-02T00:00:00Z");
        new.0["spec"]["taint"]["timeAdded"] = "2026-01-15T00:00:00Z".into();
        DeviceTaintRule::prepare_update(&mut new, &old, &at("2026-02-02T00:00:00Z"));
        assert_eq!(new.str_at(&["spec", "taint", "timeAdded"]), "2026-01-15T00:00:00Z", "the client's own time stays");
    }
}
