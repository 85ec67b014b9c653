//! CSIStorageCapacity: room left in a storage class (storage.k8s.io/v1).

use crate::table::{self, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct CSIStorageCapacity;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("StorageClassName", "string", "storageClassName represents the name of the StorageClass that the reported capacity applies to.", |o, _| {
        table::str_cell(o, &["storageClassName"])
    }),
    column("Capacity", "string", "capacity is the value reported by the CSI driver in its GetCapacityResponse.", |o, _| table::str_or(o, &["capacity"], "")),
];

impl Kind for CSIStorageCapacity {
    type Object = Object;
    const INFO: Info = Info {
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        singular: "csistoragecapacity",
        served: &[Served { group: "storage.k8s.io", version: "v1", schema: "io.k8s.api.storage.v1.CSIStorageCapacity" }],
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIStorageCapacity",
            "metadata": {"name": "sample", "namespace": "default"},
            "storageClassName": "slow"
        }))
    }
}
