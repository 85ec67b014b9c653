//! Namespace: a room for names (v1).

use crate::field::{Field, child_mut, invalid_each, set};
use crate::selectable;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, NameRule, Request, Scope, Selectable, Served, Subresource, UnknownSelector};
use serde_json::{Value, json};

pub struct Namespace;

const COLUMNS: &[Column<Object>] = &[NAME, column("Status", "string", "The status of the namespace", |o, _| table::str_cell(o, &["status", "phase"])), AGE];

impl Kind for Namespace {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        scope: Scope::Cluster,
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Namespace" }],
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[Subresource { name: "finalize", kind: "Namespace", group: "", version: "", verbs: &["update"] }, status("Namespace")],
        selectable: &[Selectable { path: "status.phase", value: |o| selectable::text(o, &["status", "phase"]) }],
        unknown_selector: UnknownSelector::NotSupported,
        name_rule: NameRule::DnsLabel,
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "sample"}}))
    }

    fn set_defaults(o: &mut Object) {
        let name = o.name().to_owned();
        if name.is_empty() {
            return;
        }
        if let Some(labels) = o.0.get_mut("metadata").and_then(|m| child_mut(m, "labels")) {
            set(labels, NAME_LABEL, name);
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        set(&mut o.0, "status", json!({"phase": "Active"}));
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        let finalizers = spec["finalizers"].as_array().cloned().unwrap_or_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            let all: Vec<Value> = finalizers.into_iter().chain([Value::from(FINALIZER)]).collect();
            set(spec, "finalizers", all);
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        for finalizer in Field::root(o).get("spec").items("finalizers") {
            finalizer_name(&finalizer, p);
        }
    }

    /// Only `/finalize` may change finalizers, and the pipeline has put the old ones back.
    fn validate_update(_new: &Object, _old: &Object, _: &mut Problems) {}

    fn validate_status(new: &Object, _old: &Object, p: &mut Problems) {
        let status = Field::root(new).get("status");
        let deleted = new.deletion_timestamp().is_some();
        match (deleted, status.str("phase")) {
            (false, phase) if phase != "Active" => p.invalid(&status.at("Phase"), phase, "may only be 'Active' if `deletionTimestamp` is empty"),
            (true, phase) if phase != "Terminating" => p.invalid(&status.at("Phase"), phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"),
            _ => {}
        }
    }
}

/// The label that every namespace has, its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Holds a namespace until its content is gone.
const FINALIZER: &str = "kubernetes";

/// A qualified name; without a domain only Kubernetes' own.
fn finalizer_name(f: &Field, p: &mut Problems) {
    let name = f.text();
    let own = [FINALIZER, "orphan", "foregroundDeletion"];
    invalid_each(p, f.path(), name, names::qualified_name(name));
    if !name.contains('/') && !own.contains(&name) {
        p.invalid(f.path(), name, "name is neither a standard finalizer name nor is it fully qualified");
    }
}
