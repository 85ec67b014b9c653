//! PersistentVolumeClaim: a wish for storage (v1).

use crate::field::{Field, NOT_POSITIVE, child_mut, default, invalid_each, one_of, remove, same, set};
use crate::labels;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::quantity::Quantity;
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Request, Served};
use serde_json::{Value, json};

pub struct PersistentVolumeClaim;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Status", "string", "phase represents the current phase of PersistentVolumeClaim.", |o, _| text(phase(o))),
    column("Volume", "string", "volumeName is the binding reference to the PersistentVolume backing this claim.", |o, _| table::str_cell(o, &["spec", "volumeName"])),
    column("Capacity", "string", "capacity represents the actual resources of the underlying volume.", |o, _| {
        text(if bound(o) { o.str_at(&["status", "capacity", "storage"]) } else { "" })
    }),
    column("Access Modes", "string", "accessModes contains the actual access modes the volume backing the PVC has.", |o, _| {
        text(if bound(o) { table::access_modes(o.at(&["status", "accessModes"])) } else { String::new() })
    }),
    column("StorageClass", "string", "StorageClass of the pvc", |o, _| text(class(o))),
    column("VolumeAttributesClass", "string", "volumeAttributesClassName may be used to set the VolumeAttributesClass used by this claim.", |o, _| {
        table::str_or(o, &["spec", "volumeAttributesClassName"], "<unset>")
    }),
    AGE,
    wide("VolumeMode", "string", "volumeMode defines what type of volume is required by the claim.", |o, _| table::str_or(o, &["spec", "volumeMode"], "<unset>")),
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

    fn set_defaults(o: &mut Object) {
        if let Some(spec) = child_mut(&mut o.0, "spec") {
            default_claim_spec(spec);
        }
        if let Some(status) = child_mut(&mut o.0, "status") {
            default(status, "phase", "Pending");
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        set(&mut o.0, "status", json!({"phase": "Pending"}));
    }

    fn validate(o: &Object, p: &mut Problems) {
        validate_claim_spec(&Field::root(o).get("spec"), p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        update(&Field::root(new), &Field::root(old), p);
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
    let at = spec.at("resources").key("storage");
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

const SPEC_FIXED: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

/// A claim inside a StatefulSet: it says what it is, and has a status.
pub fn default_template(claim: &mut Value) {
    set(claim, "apiVersion", "v1");
    set(claim, "kind", "PersistentVolumeClaim");
    if let Some(spec) = child_mut(claim, "spec") {
        default_claim_spec(spec);
    }
    if let Some(status) = child_mut(claim, "status") {
        default(status, "phase", "Pending");
    }
}

/// Only a bound claim may ask for more, or for another class of attributes.
fn update(new: &Field, old: &Field, p: &mut Problems) {
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let bound = old.get("status").str("phase") == "Bound";
    let mut munged = spec.value().clone();
    if before.str("volumeName").is_empty() {
        put_back(&mut munged, before.value(), "volumeName");
    }
    if before.str("storageClassName").is_empty() && !before.has("storageClassName") {
        put_back(&mut munged, before.value(), "storageClassName");
    }
    if bound {
        put_back(&mut munged, before.value(), "resources");
        put_back(&mut munged, before.value(), "volumeAttributesClassName");
    }
    if !same(&munged, before.value()) {
        p.forbidden(spec.path(), SPEC_FIXED);
    }
    let storage = |f: &Field| Quantity::parse(f.get("resources").get("requests").str("storage")).unwrap_or(Quantity::ZERO);
    let actual = Quantity::parse(old.get("status").get("capacity").str("storage")).unwrap_or(Quantity::ZERO);
    if storage(&spec) < storage(&before) && storage(&spec) <= actual {
        p.forbidden(&spec.at("resources.requests.storage"), "field can not be less than status.capacity");
    }
}

fn put_back(new: &mut Value, old: &Value, name: &str) {
    match old.get(name) {
        Some(v) => set(new, name, v.clone()),
        None => remove(new, name),
    }
}
