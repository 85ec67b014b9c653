//! CSIStorageCapacity: room left in a storage class (storage.k8s.io/v1).

use crate::core::pod::warnings::node_selector;
use crate::field::{Field, NEGATIVE, immutable, invalid_each};
use crate::labels;
use crate::table::{self, NAME, column};
use keles_api::quantity::Quantity;
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct CSIStorageCapacity;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("StorageClassName", "string", "storageClassName represents the name of the StorageClass that the reported capacity applies to.", |o, _| {
        table::str_cell(o, &["storageClassName"])
    }),
    column("Capacity", "string", "capacity is the value reported by the CSI driver in its GetCapacityResponse.", |o, _| table::str_or(o, &["capacity"], "<unset>")),
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

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        labels::selector(p, &root.get("nodeTopology"));
        invalid_each(p, &root.at("storageClassName"), root.str("storageClassName"), names::dns_subdomain(root.str("storageClassName"), false));
        if Quantity::parse(root.str("capacity")).is_ok_and(|q| q.sign() < 0) {
            p.invalid(&root.at("capacity"), root.str("capacity"), NEGATIVE);
        }
    }

    fn warnings(new: &Object, _: Option<&Object>, w: &mut Vec<String>) {
        node_selector(&Field::root(new).get("nodeTopology"), w);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (now, before) = (Field::root(new), Field::root(old));
        Self::validate(new, p);
        immutable(p, &now.get("nodeTopology"), &before.get("nodeTopology"));
        immutable(p, &now.get("storageClassName"), &before.get("storageClassName"));
    }
}
