//! DeviceTaintRule: a taint on devices (resource.k8s.io/v1beta2, resource.k8s.io/v1alpha3).

use crate::field::clear_status;
use crate::subresource::status;
use crate::table::{AGE, NAME};
use keles_api::Object;
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

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }
}
