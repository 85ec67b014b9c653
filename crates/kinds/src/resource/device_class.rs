//! DeviceClass: a class of devices (resource.k8s.io/v1, resource.k8s.io/v1beta2, resource.k8s.io/v1beta1).

use crate::table::{AGE, NAME};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct DeviceClass;

const COLUMNS: &[Column<Object>] = &[NAME, AGE];

impl Kind for DeviceClass {
    type Object = Object;
    const INFO: Info = Info {
        kind: "DeviceClass",
        plural: "deviceclasses",
        singular: "deviceclass",
        scope: Scope::Cluster,
        served: &[
            Served { group: "resource.k8s.io", version: "v1", schema: "io.k8s.api.resource.v1.DeviceClass" },
            Served { group: "resource.k8s.io", version: "v1beta2", schema: "io.k8s.api.resource.v1beta2.DeviceClass" },
            Served { group: "resource.k8s.io", version: "v1beta1", schema: "io.k8s.api.resource.v1beta1.DeviceClass" },
        ],
        generation: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "sample"}, "spec": {}}))
    }
}
