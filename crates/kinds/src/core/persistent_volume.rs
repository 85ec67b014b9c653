//! PersistentVolume: storage that outlives pods (v1).

use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct PersistentVolume;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Capacity", "string", "", |o, _| table::str_cell(o, &["spec", "capacity", "storage"])),
    column("Access Modes", "string", "", |o, _| text(table::access_modes(o.at(&["spec", "accessModes"])))),
    column("Reclaim Policy", "string", "", |o, _| table::str_cell(o, &["spec", "persistentVolumeReclaimPolicy"])),
    column("Status", "string", "", |o, _| text(phase(o))),
    column("Claim", "string", "", |o, _| text(claim(o))),
    column("StorageClass", "string", "", |o, _| text(class(o))),
    column("VolumeAttributesClass", "string", "", |o, _| table::str_or(o, &["spec", "volumeAttributesClassName"], "<unset>")),
    column("Reason", "string", "", |o, _| table::str_cell(o, &["status", "reason"])),
    AGE,
    wide("VolumeMode", "string", "", |o, _| table::str_or(o, &["spec", "volumeMode"], "<unset>")),
];

impl Kind for PersistentVolume {
    type Object = Object;
    const INFO: Info = Info {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short_names: &["pv"],
        scope: Scope::Cluster,
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.PersistentVolume" }],
        subresources: &[status("PersistentVolume")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "sample"},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/mnt/x"}}
        }))
    }
}

fn phase(o: &Object) -> &str {
    if o.deletion_timestamp().is_some() { "Terminating" } else { o.str_at(&["status", "phase"]) }
}

/// `namespace/name` of the bound claim.
fn claim(o: &Object) -> String {
    if o.at(&["spec", "claimRef"]).is_null() {
        return String::new();
    }
    format!("{}/{}", o.str_at(&["spec", "claimRef", "namespace"]), o.str_at(&["spec", "claimRef", "name"]))
}

/// The annotation came before the field and still wins.
fn class(o: &Object) -> &str {
    o.annotation("volume.beta.kubernetes.io/storage-class").unwrap_or(o.str_at(&["spec", "storageClassName"]))
}
