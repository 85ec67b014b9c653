//! PersistentVolumeClaim: a wish for storage (v1).

use crate::core::persistent_volume::{alone_if_once_a_pod, fraction};
use crate::field::{Field, NOT_POSITIVE, child_mut, default, default_pointer, immutable, invalid_each, one_of, remove, same, set};
use crate::go_dump::{self, Go, GoField};
use crate::labels;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::quantity::Quantity;
use keles_api::{Object, Path, Problems, names};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, Request, Served};
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
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
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
        settle_sources(o, None);
    }

    fn prepare_update(new: &mut Object, old: &Object, _: &Request) {
        settle_sources(new, Some(old));
    }

    fn validate(o: &Object, p: &mut Problems) {
        validate_claim_spec(&Field::root(o).get("spec"), p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        update(&Field::root(new), &Field::root(old), p);
    }

    fn validate_status(new: &Object, _: &Object, p: &mut Problems) {
        let root = Field::root(new);
        if root.get("spec").list("accessModes").is_empty() {
            p.required(&Path::new("Spec").child("accessModes"), "");
        }
        let status = root.get("status");
        for (name, q) in status.map("capacity") {
            not_negative(p, &status.at("capacity").key(name), q);
        }
        let allocated = status.get("allocatedResources");
        for (name, q) in status.map("allocatedResources") {
            if allocated_name(p, allocated.path(), name) {
                not_negative(p, &allocated.path().key(name), q);
            }
        }
        // Upstream writes the field in the singular, and shows the name of the resource where the state is bad.
        let at = status.at("allocatedResourceStatus");
        for (name, state) in status.map("allocatedResourceStatuses") {
            allocated_name(p, &at, name);
            if !RESIZE_STATES.contains(&state.as_str().unwrap_or("")) {
                p.not_supported(&at, name, RESIZE_STATES);
            }
        }
    }

    fn warnings(new: &Object, _: Option<&Object>, w: &mut Vec<String>) {
        let root = Field::root(new);
        let annotations = root.get("metadata").get("annotations");
        if annotations.opt_str(CLASS_ANNOTATION).is_some() {
            w.push(format!("{}: deprecated since v1.8; use \"storageClassName\" attribute instead", annotations.path().key(CLASS_ANNOTATION)));
        }
        spec_warnings(&root.get("spec"), w);
    }
}

/// Warnings about a claim's spec, also where it stands in a template.
pub fn spec_warnings(spec: &Field, w: &mut Vec<String>) {
    let resources = spec.get("resources");
    fraction(&resources.get("requests"), w);
    fraction(&resources.get("limits"), w);
}

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const RESIZE_STATES: &[&str] = &["ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending"];

fn not_negative(p: &mut Problems, at: &Path, q: &Value) {
    if let Some(amount) = Quantity::parse(q.as_str().unwrap_or("")).ok().filter(|q| q.sign() < 0) {
        p.invalid(at, amount.units(), "must be a valid resource quantity");
    }
}

/// `storage`, or a name of somebody's own domain; `false` when it is neither.
fn allocated_name(p: &mut Problems, at: &Path, name: &str) -> bool {
    let bad = names::qualified_name(name);
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    let good = bad.is_empty() && (name == "storage" || !native);
    if bad.is_empty() && !good {
        p.not_supported(at, name, &["storage"]);
    }
    invalid_each(p, at, name, bad);
    good
}

/// The older field knows claims and snapshots only; it and the newer one say the same.
fn settle_sources(o: &mut Object, old: Option<&Object>) {
    let had = old.is_some_and(|old| old.at(&["spec", "dataSource"]) == o.at(&["spec", "dataSource"]));
    let Some(spec) = o.0.get_mut("spec").filter(|s| s.is_object()) else { return };
    if !had && !spec["dataSource"].is_null() && !is_claim_or_snapshot(&spec["dataSource"]) {
        remove(spec, "dataSource");
    }
    // Of the alpha feature CrossNamespaceVolumeDataSource, which is off.
    if let Some(reference) = spec.get_mut("dataSourceRef") {
        remove(reference, "namespace");
    }
    for (from, to) in [("dataSource", "dataSourceRef"), ("dataSourceRef", "dataSource")] {
        if let Some(v) = spec.get(from).filter(|v| !v.is_null()).cloned() {
            default_pointer(spec, to, v);
        }
    }
}

fn is_claim_or_snapshot(source: &Value) -> bool {
    matches!((source["apiGroup"].as_str().unwrap_or(""), source["kind"].as_str().unwrap_or("")), ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot"))
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
    default_pointer(spec, "volumeMode", "Filesystem");
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
    alone_if_once_a_pod(spec, p);
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
    sources_agree(spec, p);
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

/// Both ways to name a source must agree.
fn sources_agree(spec: &Field, p: &mut Problems) {
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    if source.is_set() && reference.is_set() && ["apiGroup", "kind", "name"].iter().any(|n| source.str(n) != reference.str(n)) {
        p.invalid(spec.path(), source.path().as_str(), "must match dataSourceRef");
    }
}

fn data_source(source: &Field, p: &mut Problems) {
    for name in ["name", "kind"].iter().filter(|n| source.str(n).is_empty()) {
        p.required(&source.at(name), "");
    }
    let (group, kind) = (source.str("apiGroup"), source.str("kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        p.invalid(source.path(), kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    if !group.is_empty() {
        invalid_each(p, &source.at("apiGroup"), group, names::dns_subdomain(group, false));
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

const RESOURCES: &[GoField] = &[("Limits", "limits", Go::Nil), ("Requests", "requests", Go::Nil)];
const SOURCE: &[GoField] = &[("APIGroup", "apiGroup", Go::Nil), ("Kind", "kind", Go::Text), ("Name", "name", Go::Text)];
const REFERENCE: &[GoField] = &[("APIGroup", "apiGroup", Go::Nil), ("Kind", "kind", Go::Text), ("Name", "name", Go::Text), ("Namespace", "namespace", Go::Nil)];
/// Go's `PersistentVolumeClaimSpec`.
const SPEC: &[GoField] = &[
    ("AccessModes", "accessModes", Go::Nil),
    ("Selector", "selector", Go::Api(&["matchLabels", "matchExpressions"])),
    ("Resources", "resources", Go::Struct(RESOURCES)),
    ("VolumeName", "volumeName", Go::Text),
    ("StorageClassName", "storageClassName", Go::Nil),
    ("VolumeMode", "volumeMode", Go::Nil),
    ("DataSource", "dataSource", Go::Pointer(SOURCE)),
    ("DataSourceRef", "dataSourceRef", Go::Pointer(REFERENCE)),
    ("VolumeAttributesClassName", "volumeAttributesClassName", Go::Nil),
];

/// Only a bound claim may ask for more, or for another class of attributes.
fn update(new: &Field, old: &Field, p: &mut Problems) {
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let bound = new.get("status").str("phase") == "Bound";
    let (mut now, mut was) = (spec.value().clone(), before.value().clone());
    if before.str("volumeName").is_empty() {
        put(&mut was, spec.value(), "volumeName");
    }
    let class_annotation = |f: &Field| f.get("metadata").get("annotations").str(CLASS_ANNOTATION).to_owned();
    let annotated = class_annotation(old);
    if !annotated.is_empty() && !before.has("storageClassName") && spec.opt_str("storageClassName") == Some(&annotated) {
        // The class moves from the annotation to the field.
        remove(&mut now, "storageClassName");
    } else {
        if class_annotation(new) != annotated {
            let at = Path::new("metadata").child("annotations").key(CLASS_ANNOTATION);
            p.invalid(&at, class_annotation(new), crate::field::IMMUTABLE);
        }
        if annotated.is_empty() && !before.has("storageClassName") && spec.has("storageClassName") {
            remove(&mut now, "storageClassName");
        }
    }
    if bound {
        if let Some(requests) = crate::field::below_mut(&mut now, &["resources", "requests"]) {
            put(requests, before.get("resources").get("requests").value(), "storage");
        }
        if spec.has("volumeAttributesClassName") {
            put(&mut now, before.value(), "volumeAttributesClassName");
        }
    }
    if !same(&now, &was) {
        let changes = go_dump::difference(&go_dump::pretty(&was, SPEC), &go_dump::pretty(&now, SPEC));
        p.forbidden(spec.path(), format!("{SPEC_FIXED}\n{changes}"));
    }
    let storage = |f: &Field| Quantity::parse(f.get("resources").get("requests").str("storage")).unwrap_or(Quantity::ZERO);
    let actual = Quantity::parse(new.get("status").get("capacity").str("storage")).unwrap_or(Quantity::ZERO);
    if storage(&spec) < storage(&before) && storage(&spec) <= actual {
        p.forbidden(&spec.at("resources.requests.storage"), "field can not be less than status.capacity");
    }
    immutable(p, &Field::new(spec.get("volumeMode").value(), Path::new("volumeMode")), &before.get("volumeMode"));
    if before.has("volumeAttributesClassName") && !spec.has("volumeAttributesClassName") {
        p.forbidden(&spec.at("volumeAttributesClassName"), "update from non-nil value to nil is forbidden");
    }
}

fn put(into: &mut Value, from: &Value, name: &str) {
    match from.get(name) {
        Some(v) => set(into, name, v.clone()),
        None => remove(into, name),
    }
}
