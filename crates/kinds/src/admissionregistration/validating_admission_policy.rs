//! ValidatingAdmissionPolicy: expressions that must hold for a change (admissionregistration.k8s.io/v1).

use crate::admissionregistration::expressions::{Names, Wanted};
use crate::admissionregistration::rules;
use crate::conditions::conditions;
use crate::field::clear_status;
use crate::field::{Field, invalid_each, one_of};
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, Request, Scope, Served};
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
        metadata_checks: MetadataChecks { status: 2, ..MetadataChecks::USUAL },
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
        validate_spec(o, None, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        validate_spec(new, Some(&Field::root(old).get("spec")), p);
    }

    fn validate_status(new: &Object, _: &Object, p: &mut Problems) {
        let status = Field::root(new).get("status");
        for w in status.get("typeChecking").items("expressionWarnings") {
            for name in ["warning", "fieldRef"].iter().filter(|n| w.str(n).trim().is_empty()) {
                p.required(&w.at(name), "");
            }
        }
        conditions(&status, usize::MAX, p);
    }
}

fn validate_spec(o: &Object, old: Option<&Field>, p: &mut Problems) {
    let spec = Field::root(o).get("spec");
    let names_there = rules::policy(&spec, old, Names::of_requests(spec.has("paramKind")), p);
    let (validations, audits) = (spec.items("validations"), spec.items("auditAnnotations"));
    if validations.is_empty() && audits.is_empty() {
        for name in ["validations", "auditAnnotations"] {
            p.required(&spec.at(name), "validations or auditAnnotations must contain at least one item");
        }
    }
    for v in &validations {
        validation(v, &names_there, p);
        if let Some(reason) = v.opt_str("reason") {
            one_of(p, &v.at("reason"), reason, &["Forbidden", "Invalid", "RequestEntityTooLarge"]);
        }
    }
    if audits.len() > AUDITS_MAX_COUNT {
        let shown = spec.get("auditAnnotations").value().clone();
        p.invalid(&spec.at("auditAnnotations"), shown, format!("must not have more than {AUDITS_MAX_COUNT} auditAnnotations"));
    }
    let mut seen = BTreeSet::new();
    for a in &audits {
        audit(a, o.name(), &names_there, p);
        if !seen.insert(a.str("key")) {
            p.duplicate(&a.at("key"), a.str("key"));
        }
    }
}

fn param_kind(o: &Object) -> String {
    let kind = o.at(&["spec", "paramKind"]);
    if kind.is_null() { "<unset>".into() } else { format!("{}/{}", kind["apiVersion"].as_str().unwrap_or(""), kind["kind"].as_str().unwrap_or("")) }
}

const AUDITS_MAX_COUNT: usize = 20;
const AUDIT_MAX_BYTES: usize = 5 * 1024;

fn validation(v: &Field, names_there: &Names, p: &mut Problems) {
    let (expression, message, text) = (v.str("expression").trim(), v.str("message"), v.str("messageExpression"));
    let breaks = |s: &str| s.contains(['\r', '\n']);
    if expression.is_empty() {
        p.required(&v.at("expression"), "expression is not specified");
    } else {
        names_there.check(v, "expression", Wanted::Bool, p);
    }
    if !text.is_empty() && text.trim().is_empty() {
        p.invalid(&v.at("messageExpression"), text, "must be non-empty if specified");
    } else if !text.is_empty() {
        // The authorizer is not there for messages.
        names_there.clone().without_authorizer().check(v, "messageExpression", Wanted::Text, p);
    }
    if !message.is_empty() && message.trim().is_empty() {
        p.invalid(&v.at("message"), message, "message must be non-empty if specified");
    } else if breaks(message.trim()) {
        p.invalid(&v.at("message"), message, "message must not contain line breaks");
    }
}

/// An audit annotation is named after its policy.
fn audit(a: &Field, policy: &str, names_there: &Names, p: &mut Problems) {
    let key = a.str("key");
    if policy.is_empty() {
        p.invalid(&a.at("key"), key, "requires metadata.name be non-empty");
    } else {
        let full = format!("{policy}/{key}");
        invalid_each(p, &a.at("key"), &full, names::qualified_name(&full));
    }
    let text = a.str("valueExpression");
    if text.trim().is_empty() {
        p.required(&a.at("valueExpression"), "valueExpression is not specified");
    } else if text.len() > AUDIT_MAX_BYTES {
        p.required(&a.at("valueExpression"), format!("must not exceed {AUDIT_MAX_BYTES} bytes in length"));
    } else {
        names_there.check(a, "valueExpression", Wanted::TextOrNull, p);
    }
}
