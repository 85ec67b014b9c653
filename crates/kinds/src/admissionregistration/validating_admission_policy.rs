//! ValidatingAdmissionPolicy: expressions that must hold for a change (admissionregistration.k8s.io/v1).

use crate::field::clear_status;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
use serde_json::json;

pub struct ValidatingAdmissionPolicy;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Validations", "integer", "Validations indicates the number of validation rules defined in this configuration", |o, _| table::len_cell(o, &["spec", "validations"])),
    column("ParamKind", "string", "ParamKind specifies the kind of resources used to parameterize this policy", |o, _| text(param_kind(o))),
    AGE,
];

impl Kind for ValidatingAdmissionPolicy {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        served: &[Served { group: "admissionregistration.k8s.io", version: "v1", schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy" }],
        subresources: &[status("ValidatingAdmissionPolicy")],
        generation: true,
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "sample"},
            "spec": {
                "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}]},
                "validations": [{"expression": "true"}]
            }
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }
}

fn param_kind(o: &Object) -> String {
    let kind = o.at(&["spec", "paramKind"]);
    if kind.is_null() { "<unset>".into() } else { format!("{}/{}", kind["apiVersion"].as_str().unwrap_or(""), kind["kind"].as_str().unwrap_or("")) }
}
