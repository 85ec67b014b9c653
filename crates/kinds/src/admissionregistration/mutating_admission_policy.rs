//! MutatingAdmissionPolicy: expressions that change what is written (admissionregistration.k8s.io/v1, admissionregistration.k8s.io/v1beta1, admissionregistration.k8s.io/v1alpha1).

use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct MutatingAdmissionPolicy;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Mutations", "integer", "mutations contain operations to perform on matching objects.", |o, _| table::len_cell(o, &["spec", "mutations"])),
    column("ParamKind", "string", "paramKind specifies the kind of resources used to parameterize this policy.", |o, _| text(param_kind(o))),
    AGE,
];

impl Kind for MutatingAdmissionPolicy {
    type Object = Object;
    const INFO: Info = Info {
        kind: "MutatingAdmissionPolicy",
        plural: "mutatingadmissionpolicies",
        singular: "mutatingadmissionpolicy",
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        served: &[
            Served { group: "admissionregistration.k8s.io", version: "v1", schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy" },
            Served { group: "admissionregistration.k8s.io", version: "v1beta1", schema: "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicy" },
            Served { group: "admissionregistration.k8s.io", version: "v1alpha1", schema: "io.k8s.api.admissionregistration.v1alpha1.MutatingAdmissionPolicy" },
        ],
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
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": "sample"},
            "spec": {
                "reinvocationPolicy": "Never",
                "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}]},
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}]
            }
        }))
    }
}

fn param_kind(o: &Object) -> String {
    let kind = o.at(&["spec", "paramKind"]);
    if kind.is_null() { "<unset>".into() } else { format!("{}/{}", kind["apiVersion"].as_str().unwrap_or(""), kind["kind"].as_str().unwrap_or("")) }
}
