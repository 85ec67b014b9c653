//! ResourceClaim: a wish for devices (resource.k8s.io/v1, resource.k8s.io/v1beta2, resource.k8s.io/v1beta1).

use crate::field::{Field, clear_status, immutable};
use crate::resource::{allocation, claim_spec, v1beta1};
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, Request, Served};
use serde_json::json;

pub struct ResourceClaim;

const COLUMNS: &[Column<Object>] = &[NAME, column("State", "string", "A summary of the current state (allocated, pending, reserved, etc.).", |o, _| text(state(o))), AGE];

impl Kind for ResourceClaim {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ResourceClaim",
        plural: "resourceclaims",
        singular: "resourceclaim",
        served: &[
            Served { group: "resource.k8s.io", version: "v1", schema: "io.k8s.api.resource.v1.ResourceClaim" },
            Served { group: "resource.k8s.io", version: "v1beta2", schema: "io.k8s.api.resource.v1beta2.ResourceClaim" },
            Served { group: "resource.k8s.io", version: "v1beta1", schema: "io.k8s.api.resource.v1beta1.ResourceClaim" },
        ],
        subresources: &[status("ResourceClaim")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}}]}}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }

    fn set_defaults(o: &mut Object) {
        if let Some(spec) = o.0.get_mut("spec") {
            claim_spec::default_requests(spec);
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        claim_spec::validate(&Field::root(o).get("spec"), false, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        immutable(p, &Field::root(new).get("spec"), &Field::root(old).get("spec"));
    }

    fn prepare_status(new: &mut Object, old: &Object, _: &Request) {
        allocation::drop_deallocated(new, old);
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        let root = Field::root(new);
        allocation::validate_status(&root.get("status"), &Field::root(old).get("status"), &root.get("spec"), new.deletion_timestamp().is_some(), p);
    }

    fn convert(o: &mut Object, from: &str, to: &str) {
        v1beta1::convert_requests(o.0.get_mut("spec"), from, to);
    }
}

/// `allocated,reserved`
fn state(o: &Object) -> String {
    if o.at(&["status", "allocation"]).is_null() {
        return if o.deletion_timestamp().is_some() { "deleted".into() } else { "pending".into() };
    }
    let mut shown = vec!["allocated"];
    if table::len(o.at(&["status", "reservedFor"])) > 0 {
        shown.push("reserved");
    }
    if o.deletion_timestamp().is_some() {
        shown.insert(0, "deleted");
    }
    shown.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_a_device_goes_with_it() {
        let device = |name: &str| json!({"driver": "d.example", "pool": "p", "device": name});
        let with = |allocated: &[&str], said: &[&str]| {
            let all = |names: &[&str]| names.iter().map(|n| device(n)).collect::<Vec<_>>();
            let mut o = ResourceClaim::example();
            o.0["status"] = json!({"allocation": {"devices": {"results": all(allocated)}}, "devices": all(said)});
            o
        };
        let old = with(&["a", "b"], &["a", "b"]);
        let mut new = with(&["b"], &["a", "b", "unknown"]);
        ResourceClaim::prepare_status(&mut new, &old, &Request::default());
        assert_eq!(new.at(&["status", "devices"]), &json!([device("b"), device("unknown")]));
        let mut gone = with(&[], &["a", "b"]);
        ResourceClaim::prepare_status(&mut gone, &old, &Request::default());
        assert!(gone.at(&["status", "devices"]).is_null());
    }
}
