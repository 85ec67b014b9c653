//! CSINode: the storage drivers of a node (storage.k8s.io/v1).

use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct CSINode;

const COLUMNS: &[Column<Object>] =
    &[NAME, column("Drivers", "integer", "Drivers indicates the number of CSI drivers registered on the node", |o, _| table::len_cell(o, &["spec", "drivers"])), AGE];

impl Kind for CSINode {
    type Object = Object;
    const INFO: Info = Info {
        kind: "CSINode",
        plural: "csinodes",
        singular: "csinode",
        scope: Scope::Cluster,
        served: &[Served { group: "storage.k8s.io", version: "v1", schema: "io.k8s.api.storage.v1.CSINode" }],
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": "sample"},
            "spec": {"drivers": [{"name": "d.example", "nodeID": "n"}]}
        }))
    }
}
