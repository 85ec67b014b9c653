//! ResourceSlice: devices that a driver offers (resource.k8s.io/v1, resource.k8s.io/v1beta2, resource.k8s.io/v1beta1).

use crate::selectable;
use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Selectable, Served, UnknownSelector};
use serde_json::json;

pub struct ResourceSlice;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Node", "string", "nodeName identifies the node which provides the resources in this pool.", |o, _| table::str_cell(o, &["spec", "nodeName"])),
    column("Driver", "string", "driver identifies the DRA driver providing the capacity information.", |o, _| table::str_cell(o, &["spec", "driver"])),
    column("Pool", "string", "pool describes the pool that this ResourceSlice belongs to.", |o, _| table::str_cell(o, &["spec", "pool", "name"])),
    AGE,
];

impl Kind for ResourceSlice {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ResourceSlice",
        plural: "resourceslices",
        singular: "resourceslice",
        scope: Scope::Cluster,
        served: &[
            Served { group: "resource.k8s.io", version: "v1", schema: "io.k8s.api.resource.v1.ResourceSlice" },
            Served { group: "resource.k8s.io", version: "v1beta2", schema: "io.k8s.api.resource.v1beta2.ResourceSlice" },
            Served { group: "resource.k8s.io", version: "v1beta1", schema: "io.k8s.api.resource.v1beta1.ResourceSlice" },
        ],
        selectable: &[
            Selectable { path: "spec.nodeName", value: |o| selectable::text(o, &["spec", "nodeName"]) },
            Selectable { path: "spec.driver", value: |o| selectable::text(o, &["spec", "driver"]) },
        ],
        generation: true,
        unknown_selector: UnknownSelector::Text("field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: {}"),
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": "sample"},
            "spec": {"driver": "d.example", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}
        }))
    }
}
