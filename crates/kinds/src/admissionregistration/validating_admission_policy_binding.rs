//! ValidatingAdmissionPolicyBinding: where a policy holds (admissionregistration.k8s.io/v1).

use crate::admissionregistration::rules;
use crate::field::{Field, one_of};
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;
use std::collections::BTreeSet;

pub struct ValidatingAdmissionPolicyBinding;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("PolicyName", "string", "PolicyName indicates the policy definition which the policy binding binded to", |o, _| table::str_cell(o, &["spec", "policyName"])),
    column("ParamRef", "string", "ParamRef indicates the param resource which sets the configuration param", |o, _| text(param_ref(o))),
    AGE,
];

impl Kind for ValidatingAdmissionPolicyBinding {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        singular: "validatingadmissionpolicybinding",
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        served: &[Served { group: "admissionregistration.k8s.io", version: "v1", schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding" }],
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
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "sample"},
            "spec": {"policyName": "p", "validationActions": ["Deny"]}
        }))
    }

    fn set_defaults(o: &mut Object) {
        if let Some(spec) = o.0.get_mut("spec") {
            rules::default_match(spec, "matchResources");
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        rules::binding(&Field::root(o).get("spec"), p);
        let spec = Field::root(o).get("spec");
        let actions = spec.items("validationActions");
        if actions.is_empty() {
            p.required(&spec.at("validationActions"), "at least one validation action is required");
        }
        let mut seen = BTreeSet::new();
        for action in &actions {
            one_of(p, action.path(), action.text(), &["Audit", "Deny", "Warn"]);
            if !seen.insert(action.text()) {
                p.duplicate(action.path(), action.text());
            }
        }
        if seen.contains("Deny") && seen.contains("Warn") {
            p.invalid(
                &spec.at("validationActions"),
                spec.get("validationActions").value().clone(),
                "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
            );
        }
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
