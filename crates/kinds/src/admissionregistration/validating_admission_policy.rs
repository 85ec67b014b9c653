//! ValidatingAdmissionPolicy: expressions that must hold for a change (admissionregistration.k8s.io/v1).

use crate::admissionregistration::rules;
use crate::field::clear_status;
use crate::field::{Field, one_of};
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
use serde_json::json;
use std::collections::BTreeSet;

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

    fn set_defaults(o: &mut Object) {
        rules::default_policy(&mut o.0);
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        rules::policy(&spec, p);
        let (validations, audits) = (spec.items("validations"), spec.items("auditAnnotations"));
        if validations.is_empty() && audits.is_empty() {
            for name in ["validations", "auditAnnotations"] {
                p.required(&spec.at(name), "validations or auditAnnotations must contain at least one item");
            }
        }
        for v in &validations {
            if v.str("expression").trim().is_empty() {
                p.required(&v.at("expression"), "expression is not specified");
            }
            if let Some(reason) = v.opt_str("reason") {
                one_of(p, &v.at("reason"), reason, &["Forbidden", "Invalid", "RequestEntityTooLarge"]);
            }
        }
        let mut seen = BTreeSet::new();
        for a in &audits {
            audit(a, o.name(), p);
            if !seen.insert(a.str("key")) {
                p.duplicate(&a.at("key"), a.str("key"));
            }
        }
    }
}

fn param_kind(o: &Object) -> String {
    let kind = o.at(&["spec", "paramKind"]);
    if kind.is_null() { "<unset>".into() } else { format!("{}/{}", kind["apiVersion"].as_str().unwrap_or(""), kind["kind"].as_str().unwrap_or("")) }
}

/// An audit annotation is named after its policy.
fn audit(a: &Field, policy: &str, p: &mut Problems) {
    let full = format!("{policy}/{}", a.str("key"));
    for message in names::qualified_name(&full) {
        p.invalid(&a.at("key"), full.as_str(), message);
    }
    if a.str("valueExpression").trim().is_empty() {
        p.required(&a.at("valueExpression"), "valueExpression is not specified");
    }
}
