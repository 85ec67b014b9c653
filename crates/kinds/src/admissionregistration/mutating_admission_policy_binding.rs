//! MutatingAdmissionPolicyBinding: where a mutating policy holds (admissionregistration.k8s.io/v1, admissionregistration.k8s.io/v1beta1, admissionregistration.k8s.io/v1alpha1).

use crate::admissionregistration::rules;
use crate::field::Field;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct MutatingAdmissionPolicyBinding;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("PolicyName", "string", "policyName references a MutatingAdmissionPolicy name which the MutatingAdmissionPolicyBinding binds to.", |o, _| {
        table::str_cell(o, &["spec", "policyName"])
    }),
    column("ParamRef", "string", "paramRef specifies the parameter resource used to configure the admission control policy.", |o, _| text(param_ref(o))),
    AGE,
];

impl Kind for MutatingAdmissionPolicyBinding {
    type Object = Object;
    const INFO: Info = Info {
        kind: "MutatingAdmissionPolicyBinding",
        plural: "mutatingadmissionpolicybindings",
        singular: "mutatingadmissionpolicybinding",
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        served: &[
            Served { group: "admissionregistration.k8s.io", version: "v1", schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding" },
            Served { group: "admissionregistration.k8s.io", version: "v1beta1", schema: "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicyBinding" },
            Served { group: "admissionregistration.k8s.io", version: "v1alpha1", schema: "io.k8s.api.admissionregistration.v1alpha1.MutatingAdmissionPolicyBinding" },
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
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": "sample"},
            "spec": {"policyName": "p"}
        }))
    }

    fn set_defaults(o: &mut Object) {
        if let Some(spec) = o.0.get_mut("spec") {
            rules::default_match(spec, "matchResources");
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        rules::binding(&Field::root(o).get("spec"), p);
    }
}

/// `namespace/name`, `name`, or a selector.
fn param_ref(o: &Object) -> String {
    let param = o.at(&["spec", "paramRef"]);
    let (namespace, name) = (param["namespace"].as_str().unwrap_or(""), param["name"].as_str().unwrap_or(""));
    match () {
        _ if param.is_null() => "<unset>".into(),
        _ if !name.is_empty() && namespace.is_empty() => name.to_owned(),
        _ if !name.is_empty() => format!("{namespace}/{name}"),
        _ if !param["selector"].is_null() => table::selector(&param["selector"]),
        _ => "<unset>".into(),
    }
}
