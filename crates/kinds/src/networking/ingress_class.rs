//! IngressClass: which controller serves an Ingress (networking.k8s.io/v1).

use crate::field::{Field, IMMUTABLE, default_pointer, domain_path, invalid_each};
use crate::networking::ingress::object_reference;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, Scope, Served};
use serde_json::json;

pub struct IngressClass;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Controller", "string", "Controller that is responsible for handling this class", |o, _| table::str_cell(o, &["spec", "controller"])),
    column("Parameters", "string", "A reference to a resource with additional parameters", |o, _| text(parameters(o))),
    AGE,
];

impl Kind for IngressClass {
    type Object = Object;
    const INFO: Info = Info {
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        scope: Scope::Cluster,
        served: &[Served { group: "networking.k8s.io", version: "v1", schema: "io.k8s.api.networking.v1.IngressClass" }],
        generation: true,
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "sample"}, "spec": {"controller": "example.com/ingress"}}))
    }

    fn set_defaults(o: &mut Object) {
        if let Some(parameters) = o.at_mut(&["spec", "parameters"]).filter(|p| p.is_object()) {
            default_pointer(parameters, "scope", "Cluster");
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        let controller = spec.str("controller");
        if controller.len() > CONTROLLER_MAX_BYTES {
            p.too_long(&spec.at("controller"), CONTROLLER_MAX_BYTES);
        }
        domain_path(&spec.get("controller"), p);
        let parameters = spec.get("parameters");
        if parameters.is_set() {
            references(&parameters, p);
        }
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        Self::validate(new, p);
        if spec.str("controller") != before.str("controller") {
            p.invalid(&spec.at("controller"), spec.str("controller"), IMMUTABLE);
        }
    }
}

/// `Kind.group/name`
fn parameters(o: &Object) -> String {
    let part = |f: &str| o.str_at(&["spec", "parameters", f]);
    if o.at(&["spec", "parameters"]).is_null() {
        return "<none>".into();
    }
    if part("apiGroup").is_empty() { format!("{}/{}", part("kind"), part("name")) } else { format!("{}.{}/{}", part("kind"), part("apiGroup"), part("name")) }
}

const CONTROLLER_MAX_BYTES: usize = 250;

fn references(r: &Field, p: &mut Problems) {
    object_reference(r, p);
    let namespace = r.opt_str("namespace");
    match r.opt_str("scope") {
        None => p.required(&r.at("scope"), ""),
        Some("Cluster") if namespace.is_some() => p.forbidden(&r.at("namespace"), "`parameters.scope` is set to 'Cluster'"),
        Some("Namespace") => match namespace {
            None => p.required(&r.at("namespace"), "`parameters.scope` is set to 'Namespace'"),
            Some(name) => invalid_each(p, &r.at("namespace"), name, names::dns_label(name, false)),
        },
        Some("Cluster") => {}
        Some(other) => p.not_supported(&r.at("scope"), other, &["Cluster", "Namespace"]),
    }
}
