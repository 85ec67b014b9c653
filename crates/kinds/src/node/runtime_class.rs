//! RuntimeClass: which runtime runs a pod (node.k8s.io/v1).

use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct RuntimeClass;

const COLUMNS: &[Column<Object>] = &[NAME, column("Handler", "string", "", |o, _| table::str_cell(o, &["handler"])), AGE];

impl Kind for RuntimeClass {
    type Object = Object;
    const INFO: Info = Info {
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        scope: Scope::Cluster,
        served: &[Served { group: "node.k8s.io", version: "v1", schema: "io.k8s.api.node.v1.RuntimeClass" }],
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "sample"}, "handler": "runc"}))
    }
}
