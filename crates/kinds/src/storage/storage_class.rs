//! StorageClass: how storage is made (storage.k8s.io/v1).

use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct StorageClass;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Provisioner", "string", "provisioner indicates the type of the provisioner.", |o, _| table::str_cell(o, &["provisioner"])),
    column(
        "ReclaimPolicy",
        "string",
        "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of this storage class. Defaults to Delete.",
        |o, _| table::str_or(o, &["reclaimPolicy"], "Delete"),
    ),
    column(
        "VolumeBindingMode",
        "string",
        "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound.  When unset, VolumeBindingImmediate is used. This field is only honored by servers that enable the VolumeScheduling feature.",
        |o, _| table::str_or(o, &["volumeBindingMode"], "Immediate"),
    ),
    column("AllowVolumeExpansion", "string", "allowVolumeExpansion shows whether the storage class allow volume expand.", |o, _| table::bool_cell(o, &["allowVolumeExpansion"])),
    AGE,
];

impl Kind for StorageClass {
    type Object = Object;
    const INFO: Info = Info {
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short_names: &["sc"],
        scope: Scope::Cluster,
        served: &[Served { group: "storage.k8s.io", version: "v1", schema: "io.k8s.api.storage.v1.StorageClass" }],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "sample"}, "provisioner": "p.example/x"}))
    }
}
