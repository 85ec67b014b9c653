//! IngressClass: which controller serves an Ingress (networking.k8s.io/v1).

use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
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
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "sample"}, "spec": {"controller": "example.com/ingress"}}))
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
