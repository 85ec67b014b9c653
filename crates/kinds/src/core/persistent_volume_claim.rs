//! PersistentVolumeClaim: a wish for storage (v1).

use crate::field::{Field, NOT_POSITIVE, default, invalid_each, one_of};
use crate::labels;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::quantity::Quantity;
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::{Value, json};

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

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Defaults of a claim's spec, also where it stands in a template.
pub fn default_claim_spec(spec: &mut Value) {
    default(spec, "volumeMode", "Filesystem");
}

/// A claim's spec, also where it stands in a template.
pub fn validate_claim_spec(spec: &Field, p: &mut Problems) {
    let modes = spec.items("accessModes");
    if modes.is_empty() {
        p.required(&spec.at("accessModes"), "at least 1 access mode is required");
    }
    labels::selector(p, &spec.get("selector"));
    for mode in &modes {
        one_of(p, &spec.at("accessModes"), mode.text(), ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|m| m.text() == "ReadWriteOncePod") {
        p.forbidden(&spec.at("accessModes"), "may not use ReadWriteOncePod with other access modes");
    }
    storage_request(spec, p);
    let class = spec.str("storageClassName");
    if !class.is_empty() {
        invalid_each(p, &spec.at("storageClassName"), class, names::dns_subdomain(class, false));
    }
    if let Some(mode) = spec.opt_str("volumeMode") {
        one_of(p, &spec.at("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    for source in ["dataSource", "dataSourceRef"] {
        if spec.has(source) {
            data_source(&spec.get(source), p);
        }
    }
    let attributes = spec.str("volumeAttributesClassName");
    if !attributes.is_empty() {
        invalid_each(p, &spec.at("volumeAttributesClassName"), attributes, names::dns_subdomain(attributes, false));
    }
}

fn storage_request(spec: &Field, p: &mut Problems) {
    let requests = spec.get("resources").get("requests");
    let at = spec.get("resources").at("requests").key("storage");
    match requests.opt_str("storage").and_then(|q| Quantity::parse(q).ok()) {
        None => p.required(&at, ""),
        Some(q) if q.sign() <= 0 => p.invalid(&at, requests.str("storage"), NOT_POSITIVE),
        Some(_) => {}
    }
}

fn data_source(source: &Field, p: &mut Problems) {
    for name in ["name", "kind"].iter().filter(|n| source.str(n).is_empty()) {
        p.required(&source.at(name), "");
    }
    let (group, kind) = (source.str("apiGroup"), source.str("kind"));
    if group.is_empty() && !kind.is_empty() && kind != "PersistentVolumeClaim" {
        p.invalid(source.path(), kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
}
