//! VolumeAttachment: a volume to be attached to a node (storage.k8s.io/v1).

use crate::core::persistent_volume;
use crate::core::pod::volumes::csi_driver;
use crate::field::{Field, immutable, invalid_each, set};
use crate::formats;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
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

    fn prepare_create(o: &mut Object, _: &Request) {
        set(&mut o.0, "status", json!({"attached": false}));
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        csi_driver(p, &spec.at("attacher"), spec.str("attacher"));
        let source = spec.get("source");
        match (source.opt_str("persistentVolumeName"), source.has("inlineVolumeSpec")) {
            (Some(_), true) => p.forbidden(&spec.at("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
            (None, false) => p.required(&spec.at("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
            (Some(name), false) => {
                if name.is_empty() {
                    p.required(&source.at("persistentVolumeName"), "must specify non empty persistentVolumeName");
                }
                invalid_each(p, &source.at("persistentVolumeName"), name, names::dns_subdomain(name, false));
            }
            (None, true) => persistent_volume::inline_spec(&source.get("inlineVolumeSpec"), p),
        }
        invalid_each(p, &spec.at("nodeName"), spec.str("nodeName"), names::dns_subdomain(spec.str("nodeName"), false));
        attached(&Field::root(o).get("status"), p);
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate_update(new, old, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        immutable(p, &Field::root(new).get("spec"), &Field::root(old).get("spec"));
    }
}

const METADATA_MAX_BYTES: usize = 256 * 1024;
const ERROR_MAX_BYTES: usize = 1024;

/// What the attacher found out.
fn attached(status: &Field, p: &mut Problems) {
    let bytes: usize = status.map("attachmentMetadata").map(|(k, v)| k.len() + v.as_str().unwrap_or("").len()).sum();
    if bytes > METADATA_MAX_BYTES {
        p.too_long(&status.at("attachmentMetadata"), METADATA_MAX_BYTES);
    }
    for error in ["attachError", "detachError"].map(|name| status.get(name)) {
        if error.str("message").len() > ERROR_MAX_BYTES {
            // The number that upstream names is that of the metadata.
            p.too_long(&error.at("message"), METADATA_MAX_BYTES);
        }
        if let Some(code) = error.opt_int("errorCode").filter(|c| *c < 0) {
            p.invalid(&error.at("errorCode"), code, formats::between(0, i32::MAX.into()));
        }
    }
}
