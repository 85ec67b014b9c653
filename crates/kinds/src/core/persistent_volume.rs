//! PersistentVolume: storage that outlives pods (v1).

use crate::core::persistent_volume_source::SOURCE;
use crate::core::pod::affinity::node_selector;
use crate::core::pod::persistent;
use crate::field::{Field, NOT_POSITIVE, child_mut, default, default_pointer, immutable, invalid_each, one_of, same, set};
use crate::go_dump;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::quantity::Quantity;
use keles_api::{Object, Path, Problems, names};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, Request, Scope, Served};
use serde_json::{Value, json};

pub struct PersistentVolume;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Capacity", "string", "capacity is the description of the persistent volume's resources and capacity.", |o, _| table::str_cell(o, &["spec", "capacity", "storage"])),
    column("Access Modes", "string", "accessModes contains all ways the volume can be mounted.", |o, _| text(table::access_modes(o.at(&["spec", "accessModes"])))),
    column("Reclaim Policy", "string", "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim.", |o, _| {
        table::str_cell(o, &["spec", "persistentVolumeReclaimPolicy"])
    }),
    column("Status", "string", "phase indicates if a volume is available, bound to a claim, or released by a claim.", |o, _| text(phase(o))),
    column("Claim", "string", "claimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim.", |o, _| text(claim(o))),
    column("StorageClass", "string", "StorageClass of the pv", |o, _| text(class(o))),
    column("VolumeAttributesClass", "string", "volumeAttributesClassName is the name of the VolumeAttributesClass to which this persistent volume belongs.", |o, _| {
        table::str_or(o, &["spec", "volumeAttributesClassName"], "<unset>")
    }),
    column("Reason", "string", "reason is a brief CamelCase string that describes any failure and is meant for machine parsing and tidy display in the CLI.", |o, _| {
        table::str_cell(o, &["status", "reason"])
    }),
    AGE,
    wide("VolumeMode", "string", "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block state.", |o, _| {
        table::str_or(o, &["spec", "volumeMode"], "<unset>")
    }),
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
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
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

    fn set_defaults(o: &mut Object) {
        if let Some(spec) = child_mut(&mut o.0, "spec") {
            default(spec, "persistentVolumeReclaimPolicy", "Retain");
            default_pointer(spec, "volumeMode", "Filesystem");
            if let Some(path) = spec.get_mut("hostPath").filter(|h| h.is_object()) {
                default_pointer(path, "type", "");
            }
        }
        if let Some(status) = child_mut(&mut o.0, "status") {
            default(status, "phase", "Pending");
        }
    }

    fn prepare_create(o: &mut Object, r: &Request) {
        set(&mut o.0, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": r.now}));
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        access_modes(&spec, p);
        capacity(&spec, p);
        let policy = spec.str("persistentVolumeReclaimPolicy");
        if !policy.is_empty() {
            one_of(p, &spec.at("persistentVolumeReclaimPolicy"), policy, &["Delete", "Recycle", "Retain"]);
        }
        if spec.has("nodeAffinity") {
            let affinity = spec.get("nodeAffinity");
            match affinity.has("required") {
                true => node_selector(&affinity.get("required"), p),
                false => p.required(&affinity.at("required"), "must specify required node constraints"),
            }
        }
        persistent::source(&spec, o.name(), p);
        let class = spec.str("storageClassName");
        if !class.is_empty() {
            invalid_each(p, &spec.at("storageClassName"), class, names::dns_subdomain(class, false));
        }
        if let Some(mode) = spec.opt_str("volumeMode") {
            one_of(p, &spec.at("volumeMode"), mode, &["Block", "Filesystem"]);
        }
        no_recycled_root(&spec, p);
        attributes_class(&spec, p);
    }

    fn validate_status(new: &Object, _: &Object, p: &mut Problems) {
        if new.resource_version().is_empty() {
            p.required(&Path::new("resourceVersion"), "");
        }
    }

    fn warnings(new: &Object, _: Option<&Object>, w: &mut Vec<String>) {
        warn(&Field::root(new), w);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        // Upstream looks at an update twice, and says twice what is wrong with it.
        Self::validate(new, p);
        Self::validate(new, p);
        let settled = with_old_expansion_secret(new, old);
        let (spec, before) = (Field::root(&settled).get("spec"), Field::root(old).get("spec"));
        if SOURCE.iter().any(|(_, name, _)| !same(spec.get(name).value(), before.get(name).value())) {
            let changes = go_dump::difference(&go_dump::pretty(before.value(), SOURCE), &go_dump::pretty(spec.value(), SOURCE));
            p.forbidden(&spec.at("persistentvolumesource"), format!("spec.persistentvolumesource is immutable after creation\n{changes}"));
        }
        immutable(p, &Field::new(spec.get("volumeMode").value(), Path::new("volumeMode")), &before.get("volumeMode"));
        if before.has("nodeAffinity") && !same(spec.get("nodeAffinity").value(), &with_stable_labels(before.get("nodeAffinity").value(), spec.get("nodeAffinity").value())) {
            p.invalid(&Path::new("nodeAffinity"), spec.get("nodeAffinity").value().clone(), "field is immutable, except for updating from beta label to GA");
        }
        if before.has("volumeAttributesClassName") && !spec.has("volumeAttributesClassName") {
            p.forbidden(&spec.at("volumeAttributesClassName"), "update from non-nil value to nil is forbidden");
        }
    }
}

fn access_modes(spec: &Field, p: &mut Problems) {
    let modes = spec.items("accessModes");
    if modes.is_empty() {
        p.required(&spec.at("accessModes"), "");
    }
    for mode in &modes {
        one_of(p, &spec.at("accessModes"), mode.text(), ACCESS_MODES);
    }
    alone_if_once_a_pod(spec, p);
}

fn no_recycled_root(spec: &Field, p: &mut Problems) {
    let path = spec.get("hostPath").str("path");
    if spec.str("persistentVolumeReclaimPolicy") == "Recycle" && path.starts_with('/') && clean_is_root(path) {
        p.forbidden(&spec.at("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    }
}

/// The spec of a volume that an attachment describes by itself: of a CSI driver, and nothing that concerns claims.
pub fn inline_spec(spec: &Field, p: &mut Problems) {
    const NOT_INLINE: &str = "may not be specified in the context of inline volumes";
    if spec.has("claimRef") {
        p.forbidden(&spec.at("claimRef"), NOT_INLINE);
    }
    if spec.map_len("capacity") > 0 {
        p.forbidden(&spec.at("capacity"), NOT_INLINE);
    }
    if !spec.has("csi") {
        p.required(&spec.at("csi"), "has to be specified in the context of inline volumes");
    }
    access_modes(spec, p);
    if !matches!(spec.str("persistentVolumeReclaimPolicy"), "" | "Retain") {
        p.forbidden(&spec.at("persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes");
    }
    if spec.has("nodeAffinity") {
        p.forbidden(&spec.at("nodeAffinity"), NOT_INLINE);
    }
    persistent::source(spec, "", p);
    no_recycled_root(spec, p);
    if !spec.str("storageClassName").is_empty() {
        p.forbidden(&spec.at("storageClassName"), NOT_INLINE);
    }
    if spec.opt_str("volumeMode").is_some_and(|mode| mode != "Filesystem") {
        p.forbidden(&spec.at("volumeMode"), "may not specify volumeMode other than Filesystem in the context of inline volumes");
    }
    attributes_class(spec, p);
}

/// ReadWriteOncePod stands alone among access modes.
pub fn alone_if_once_a_pod(spec: &Field, p: &mut Problems) {
    let modes = spec.strings("accessModes");
    if modes.contains(&ONCE_A_POD) && modes.iter().any(|m| *m != ONCE_A_POD && ACCESS_MODES.contains(m)) {
        p.forbidden(&spec.at("accessModes"), "may not use ReadWriteOncePod with other access modes");
    }
}

const ONCE_A_POD: &str = "ReadWriteOncePod";

/// Whether Go's `path.Clean` makes `/` of an absolute path.
fn clean_is_root(path: &str) -> bool {
    let mut depth = 0usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    depth == 0
}

/// The secret for expansion may still be given to a volume that has none; apart from it, the new object.
fn with_old_expansion_secret(new: &Object, old: &Object) -> Object {
    let mut new = new.clone();
    if old.at(&["spec", "csi", "controllerExpandSecretRef"]).is_null()
        && let Some(csi) = new.at_mut(&["spec", "csi"])
    {
        crate::field::remove(csi, "controllerExpandSecretRef");
    }
    new
}

/// Annotations that fields have replaced.
const DEPRECATED_ANNOTATIONS: &[(&str, &str)] = &[
    ("volume.beta.kubernetes.io/storage-class", "deprecated since v1.8; use \"storageClassName\" attribute instead"),
    ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
];

fn warn(root: &Field, w: &mut Vec<String>) {
    let (spec, annotations) = (root.get("spec"), root.get("metadata").get("annotations"));
    for (key, text) in DEPRECATED_ANNOTATIONS.iter().filter(|(key, _)| annotations.opt_str(key).is_some()) {
        w.push(format!("{}: {text}", annotations.path().key(key)));
    }
    if spec.str("persistentVolumeReclaimPolicy") == "Recycle" {
        w.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".into());
    }
    for term in spec.get("nodeAffinity").get("required").items("nodeSelectorTerms") {
        crate::core::pod::warnings::node_term(&term, false, w);
    }
    crate::core::pod::warnings::persistent(&spec, w);
    fraction(&spec.get("capacity"), w);
}

/// Bytes come whole.
pub fn fraction(of: &Field, w: &mut Vec<String>) {
    let text = of.str("storage");
    if Quantity::parse(text).is_ok_and(|q| q.milli() % 1000 != 0) {
        w.push(format!("{}: fractional byte value {text:?} is invalid, must be an integer", of.path().key("storage")));
    }
}

/// Only CSI volumes have a class of attributes.
fn attributes_class(spec: &Field, p: &mut Problems) {
    let Some(class) = spec.opt_str("volumeAttributesClassName") else { return };
    let at = spec.at("volumeAttributesClassName");
    if class.is_empty() {
        return p.required(&at, "an empty string is disallowed");
    }
    invalid_each(p, &at, class, names::dns_subdomain(class, false));
    if !spec.has("csi") {
        p.required(&spec.at("csi"), "has to be specified when using volumeAttributesClassName");
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

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Node labels that have a lasting name now.
const STABLE_LABELS: &[(&str, &str)] = &[
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// The old affinity, with the new keys where those are the lasting names of its own. Upstream looks names up in a map, so that a key
/// without a lasting name may become an empty one.
fn with_stable_labels(old: &Value, new: &Value) -> Value {
    let mut old = old.clone();
    let terms = |v: &Value| table::list(v.pointer("/required/nodeSelectorTerms").unwrap_or(&Value::Null)).len();
    if terms(&old) != terms(new) {
        return old;
    }
    for t in 0..terms(&old) {
        let at = |e: usize| format!("/required/nodeSelectorTerms/{t}/matchExpressions/{e}");
        let count = |v: &Value| table::list(v.pointer(&format!("/required/nodeSelectorTerms/{t}/matchExpressions")).unwrap_or(&Value::Null)).len();
        if count(&old) != count(new) {
            continue;
        }
        for e in 0..count(new) {
            let key = |v: &Value| v.pointer(&at(e)).and_then(|e| e.get("key")).and_then(Value::as_str).unwrap_or("").to_owned();
            let (was, now) = (key(&old), key(new));
            let lasting = STABLE_LABELS.iter().find(|(beta, _)| *beta == was).map_or("", |(_, stable)| *stable);
            if now == lasting
                && let Some(expression) = old.pointer_mut(&at(e))
            {
                set(expression, "key", now);
            }
        }
    }
    old
}

/// `storage`, more than nothing, and nothing else.
fn capacity(spec: &Field, p: &mut Problems) {
    let capacity = spec.get("capacity");
    if spec.map_len("capacity") == 0 {
        p.required(capacity.path(), "");
    }
    if !capacity.has("storage") || spec.map_len("capacity") > 1 {
        p.not_supported(capacity.path(), capacity.value().clone(), &["storage"]);
    }
    for (name, value) in spec.map("capacity") {
        let Ok(amount) = Quantity::parse(value.as_str().unwrap_or("")) else { continue };
        if amount.sign() < 0 {
            p.invalid(&capacity.path().key(name), amount.units(), "must be a valid resource quantity");
        }
        if amount.sign() <= 0 {
            p.invalid(&capacity.path().key(name), value.as_str().unwrap_or(""), NOT_POSITIVE);
        }
    }
}
