//! PersistentVolumeClaim: a wish for storage (v1).

use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct PersistentVolumeClaim;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Status", "string", "", |o, _| text(phase(o))),
    column("Volume", "string", "", |o, _| table::str_cell(o, &["spec", "volumeName"])),
    column("Capacity", "string", "", |o, _| text(if bound(o) { o.str_at(&["status", "capacity", "storage"]) } else { "" })),
    column("Access Modes", "string", "", |o, _| text(if bound(o) { table::access_modes(o.at(&["status", "accessModes"])) } else { String::new() })),
    column("StorageClass", "string", "", |o, _| text(class(o))),
    column("VolumeAttributesClass", "string", "", |o, _| table::str_or(o, &["spec", "volumeAttributesClassName"], "<unset>")),
    AGE,
    wide("VolumeMode", "string", "", |o, _| table::str_or(o, &["spec", "volumeMode"], "<unset>")),
];

impl Kind for PersistentVolumeClaim {
    type Object = Object;
    const INFO: Info = Info {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short_names: &["pvc"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.PersistentVolumeClaim" }],
        subresources: &[status("PersistentVolumeClaim")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        }))
    }
}

fn phase(o: &Object) -> &str {
    if o.deletion_timestamp().is_some() { "Terminating" } else { o.str_at(&["status", "phase"]) }
}

fn bound(o: &Object) -> bool {
    !o.str_at(&["spec", "volumeName"]).is_empty()
}

/// The annotation came before the field and still wins.
fn class(o: &Object) -> &str {
    o.annotation("volume.beta.kubernetes.io/storage-class").unwrap_or(o.str_at(&["spec", "storageClassName"]))
}
