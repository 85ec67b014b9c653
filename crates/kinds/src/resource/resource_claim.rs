//! ResourceClaim: a wish for devices (resource.k8s.io/v1, resource.k8s.io/v1beta2, resource.k8s.io/v1beta1).

use crate::field::clear_status;
use crate::field::{default, default_nonzero, items_mut};
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Request, Served};
use serde_json::{Value, json};

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
            default_requests(spec);
        }
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

/// Defaults of the requests of a claim, also where it stands in a template.
pub fn default_requests(spec: &mut Value) {
    let Some(devices) = spec.get_mut("devices") else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly").filter(|e| e.is_object()) {
            one_device(exactly);
        }
        items_mut(request, "firstAvailable").for_each(one_device);
    }
}

fn one_device(request: &mut Value) {
    default(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        default_nonzero(request, "count", 1);
    }
    items_mut(request, "tolerations").for_each(|t| default(t, "operator", "Equal"));
}
