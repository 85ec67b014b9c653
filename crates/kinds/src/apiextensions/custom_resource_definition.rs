//! CustomResourceDefinition: a kind made at run time (apiextensions.k8s.io/v1).

use crate::field::clear_status;
use crate::field::{child_mut, default, default_pointer};
use crate::subresource::status;
use crate::table::{CREATED_AT, NAME};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
use serde_json::json;

pub struct CustomResourceDefinition;

const COLUMNS: &[Column<Object>] = &[NAME, CREATED_AT];

impl Kind for CustomResourceDefinition {
    type Object = Object;
    const INFO: Info = Info {
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        served: &[Served { group: "apiextensions.k8s.io", version: "v1", schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition" }],
        subresources: &[status("CustomResourceDefinition")],
        generation: true,
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "foos.x.example"},
            "spec": {
                "group": "x.example",
                "scope": "Namespaced",
                "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]
            }
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }

    fn set_defaults(o: &mut Object) {
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        if let Some(names) = child_mut(spec, "names") {
            let kind = names["kind"].as_str().unwrap_or("").to_owned();
            if !kind.is_empty() {
                default(names, "singular", kind.to_lowercase());
                default(names, "listKind", format!("{kind}List"));
            }
        }
        default_pointer(spec, "conversion", json!({"strategy": "None"}));
        if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service").filter(|s| s.is_object()) {
            default_pointer(service, "port", 443);
        }
    }
}
