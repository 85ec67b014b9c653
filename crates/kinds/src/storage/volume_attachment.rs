//! VolumeAttachment: a volume to be attached to a node (storage.k8s.io/v1).

use crate::subresource::status;
use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct VolumeAttachment;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    Column {
        format: "name",
        ..column("Attacher", "string", "attacher indicates the name of the volume driver that MUST handle this request. This is the name returned by GetPluginName().", |o, _| {
            table::str_cell(o, &["spec", "attacher"])
        })
    },
    column("PV", "string", "persistentVolumeName represents the name of the persistent volume to attach.", |o, _| table::str_cell(o, &["spec", "source", "persistentVolumeName"])),
    column("Node", "string", "nodeName represents the node that the volume should be attached to.", |o, _| table::str_cell(o, &["spec", "nodeName"])),
    column(
        "Attached",
        "boolean",
        "attached indicates the volume is successfully attached. This field must only be set by the entity completing the attach operation, i.e. the external-attacher.",
        |o, _| table::bool_cell(o, &["status", "attached"]),
    ),
    AGE,
];

impl Kind for VolumeAttachment {
    type Object = Object;
    const INFO: Info = Info {
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        singular: "volumeattachment",
        scope: Scope::Cluster,
        served: &[Served { group: "storage.k8s.io", version: "v1", schema: "io.k8s.api.storage.v1.VolumeAttachment" }],
        subresources: &[status("VolumeAttachment")],
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "VolumeAttachment",
            "metadata": {"name": "sample"},
            "spec": {"attacher": "d.example", "nodeName": "n", "source": {"persistentVolumeName": "pv"}}
        }))
    }
}
