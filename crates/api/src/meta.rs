//! Validation of object metadata on create and update, in upstream's words and order.
//!
//! Source: k8s.io/apimachinery/pkg/api/validation/objectmeta.go. Paths start at `at`, `metadata` for objects themselves and
//! `spec.template.metadata` or such for templates. Deliberately absent: filling metadata in (the registry does).

use crate::names;
use crate::{Object, Path, Problems};
use serde_json::Value;

/// What a valid name is: upstream's messages of why `name` is not one, as in [`crate::names`]. `prefix`: it is a generateName.
pub type NameCheck = fn(name: &str, prefix: bool) -> Vec<String>;

/// Keys and values of all annotations together.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
pub const FIELD_MANAGER_BYTES_MAX: usize = 128;
const SUBRESOURCE_BYTES_MAX: usize = 256;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];

/// Metadata of an object about to be created.
pub fn validate_create(o: &Object, namespaced: bool, name: NameCheck, at: &Path, p: &mut Problems) {
    validate_create_with(o, namespaced, name, Finalizers::Kube, at, p);
}

/// Which finalizers an object may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finalizers {
    /// With a domain, or one of Kubernetes' own: kinds of k8s.io/kubernetes.
    Kube,
    /// Any qualified name: kinds of other API servers (CustomResourceDefinition, APIService) and custom resources.
    Any,
}

/// As [`validate_create`], for any kind.
pub fn validate_create_with(o: &Object, namespaced: bool, name: NameCheck, finalizers: Finalizers, at: &Path, p: &mut Problems) {
    let generate = o.meta_str("generateName");
    if !generate.is_empty() {
        for m in name(generate, true) {
            p.invalid(&at.child("generateName"), generate, m);
        }
    }
    if o.name().is_empty() {
        p.required(&at.child("name"), "name or generateName is required");
    } else {
        for m in name(o.name(), false) {
            p.invalid(&at.child("name"), o.name(), m);
        }
    }
    let ns = o.namespace();
    if namespaced && ns.is_empty() {
        p.required(&at.child("namespace"), "");
    } else if namespaced {
        for m in names::dns_label(ns, false) {
            p.invalid(&at.child("namespace"), ns, m);
        }
    } else if !ns.is_empty() {
        p.forbidden(&at.child("namespace"), "not allowed on this type");
    }
    if o.generation() < 0 {
        p.invalid(&at.child("generation"), o.generation(), "must be greater than or equal to 0");
    }
    validate_labels(o.meta("labels"), &at.child("labels"), p);
    validate_annotations(o.meta("annotations"), &at.child("annotations"), p);
    validate_owner_references(o.meta("ownerReferences"), &at.child("ownerReferences"), p);
    validate_finalizers(o.meta("finalizers"), finalizers, &at.child("finalizers"), p);
    validate_managed_fields(o.meta("managedFields"), &at.child("managedFields"), p);
}

/// Metadata of an object about to be updated.
pub fn validate_update(new: &Object, old: &Object, at: &Path, p: &mut Problems) {
    if old.deletion_timestamp().is_some() {
        let had = old.finalizers();
        let fresh: Vec<String> = new.finalizers().iter().filter(|f| !had.contains(f)).map(|f| format!("\"{f}\"")).collect();
        if !fresh.is_empty() {
            p.forbidden(&at.child("finalizers"), format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}", fresh.join(", ")));
        }
    }
    if new.resource_version().is_empty() {
        p.invalid(&at.child("resourceVersion"), "", "must be specified for an update");
    }
    if new.generation() < old.generation() {
        p.invalid(&at.child("generation"), new.generation(), "must not be decremented");
    }
    for field in ["name", "namespace", "uid"] {
        if new.meta_str(field) != old.meta_str(field) {
            p.invalid(&at.child(field), new.meta_str(field), "field is immutable");
        }
    }
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new.meta(field) != old.meta(field) {
            p.invalid(&at.child(field), new.meta(field).clone(), "field is immutable");
        }
    }
    validate_labels(new.meta("labels"), &at.child("labels"), p);
    validate_annotations(new.meta("annotations"), &at.child("annotations"), p);
    validate_owner_references(new.meta("ownerReferences"), &at.child("ownerReferences"), p);
    validate_managed_fields(new.meta("managedFields"), &at.child("managedFields"), p);
}

fn entries(v: &Value) -> impl Iterator<Item = (&str, &str)> {
    v.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or("")))
}

/// A map of labels.
pub fn validate_labels(labels: &Value, at: &Path, p: &mut Problems) {
    for (k, v) in entries(labels) {
        for m in names::qualified_name(k) {
            p.invalid(at, k, m);
        }
        for m in names::label_value(v) {
            p.invalid(at, v, m);
        }
    }
}

/// A map of annotations; keys compare in lower case.
pub fn validate_annotations(annotations: &Value, at: &Path, p: &mut Problems) {
    for (k, _) in entries(annotations) {
        for m in names::qualified_name(&k.to_lowercase()) {
            p.invalid(at, k, m);
        }
    }
    if entries(annotations).map(|(k, v)| k.len() + v.len()).sum::<usize>() > ANNOTATIONS_BYTES_MAX {
        p.too_long(at, ANNOTATIONS_BYTES_MAX);
    }
}

fn validate_owner_references(refs: &Value, at: &Path, p: &mut Problems) {
    let mut controller: Option<String> = None;
    for r in refs.as_array().into_iter().flatten() {
        let text = |k: &str| r.get(k).and_then(Value::as_str).unwrap_or("");
        let version = text("apiVersion").rsplit('/').next().unwrap_or("");
        if version.is_empty() || text("apiVersion").matches('/').count() > 1 {
            p.invalid(&at.child("apiVersion"), text("apiVersion"), "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                p.invalid(&at.child(field), "", "must not be empty");
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            p.invalid(at, r.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if r.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => p.invalid(at, refs.clone(), format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}")),
                None => controller = Some(this),
            }
        }
    }
}

fn validate_finalizers(finalizers: &Value, which: Finalizers, at: &Path, p: &mut Problems) {
    let all: Vec<&str> = finalizers.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for f in &all {
        for m in names::qualified_name(f) {
            p.invalid(at, *f, m);
        }
    }
    if all.contains(&ORPHAN) && all.contains(&FOREGROUND) {
        p.invalid(at, finalizers.clone(), format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set"));
    }
    if which == Finalizers::Kube {
        for (i, f) in all.iter().enumerate() {
            validate_kube_finalizer(f, &at.index(i), p);
        }
    }
}

/// A finalizer without a domain must be one of Kubernetes' own.
pub fn validate_kube_finalizer(finalizer: &str, at: &Path, p: &mut Problems) {
    if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
        p.invalid(at, finalizer, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

fn validate_managed_fields(list: &Value, at: &Path, p: &mut Problems) {
    for (i, entry) in list.as_array().into_iter().flatten().enumerate() {
        let text = |k: &str| entry.get(k).and_then(Value::as_str).unwrap_or("");
        let at = at.index(i);
        if !matches!(text("operation"), "Apply" | "Update") {
            p.invalid(&at.child("operation"), text("operation"), "must be `Apply` or `Update`");
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            p.invalid(&at.child("fieldsType"), text("fieldsType"), "must be `FieldsV1`");
        }
        validate_field_manager(text("manager"), &at.child("manager"), p);
        if text("subresource").len() > SUBRESOURCE_BYTES_MAX {
            p.too_long(&at.child("subresource"), SUBRESOURCE_BYTES_MAX);
        }
    }
}

/// The `fieldManager` of a request or a managedFields entry.
pub fn validate_field_manager(manager: &str, at: &Path, p: &mut Problems) {
    if manager.len() > FIELD_MANAGER_BYTES_MAX {
        p.too_long(at, FIELD_MANAGER_BYTES_MAX);
    }
    if let Some((i, c)) = manager.char_indices().find(|(_, c)| c.is_control()) {
        p.invalid(at, manager, format!("invalid character '\\u{:04x}' (at position {i})", c as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn create(metadata: Value, namespaced: bool) -> Vec<String> {
        let mut p = Problems::new();
        validate_create(&Object(json!({"metadata": metadata})), namespaced, names::dns_subdomain, &Path::new("metadata"), &mut p);
        p.iter().map(ToString::to_string).collect()
    }
    fn update(new: Value, old: Value) -> Vec<String> {
        let mut p = Problems::new();
        validate_update(&Object(json!({"metadata": new})), &Object(json!({"metadata": old})), &Path::new("metadata"), &mut p);
        p.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn creation_needs_a_name_and_a_namespace() {
        assert_eq!(create(json!({}), true), ["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"]);
        assert_eq!(create(json!({"name": "a", "namespace": "b"}), false), ["metadata.namespace: Forbidden: not allowed on this type"]);
        assert!(create(json!({"name": "a", "namespace": "b", "labels": {"x": "y"}, "finalizers": ["a.io/b"]}), true).is_empty());
    }
    #[test]
    fn labels_annotations_owners_and_finalizers_are_checked() {
        assert!(create(json!({"name": "a", "labels": {"-": "b"}}), false)[0].starts_with("metadata.labels: Invalid value: \"-\": name part must consist of"));
        assert!(create(json!({"name": "a", "labels": {"b": "-"}}), false)[0].starts_with("metadata.labels: Invalid value: \"-\": a valid label must be"));
        assert_eq!(create(json!({"name": "a", "annotations": {"b": "x".repeat(300_000)}}), false), ["metadata.annotations: Too long: may not be more than 262144 bytes"]);
        assert_eq!(
            create(json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x"}]}), false),
            ["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"]
        );
        assert_eq!(
            create(json!({"name": "a", "finalizers": ["bare"]}), false),
            ["metadata.finalizers[0]: Invalid value: \"bare\": name is neither a standard finalizer name nor is it fully qualified"]
        );
    }
    #[test]
    fn identity_is_immutable() {
        let old = json!({"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"});
        assert!(update(old.clone(), old.clone()).is_empty());
        let mut new = old.clone();
        new["uid"] = "v".into();
        new["resourceVersion"] = "".into();
        assert_eq!(
            update(new, old.clone()),
            ["metadata.resourceVersion: Invalid value: \"\": must be specified for an update", "metadata.uid: Invalid value: \"v\": field is immutable"]
        );
        let dying = json!({"name": "a", "resourceVersion": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let mut more = dying.clone();
        more["finalizers"] = json!(["x/y"]);
        assert_eq!(update(more, dying), ["metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/y\"}"]);
    }
}
