//! MutatingAdmissionPolicy: expressions that change what is written (admissionregistration.k8s.io/v1, admissionregistration.k8s.io/v1beta1, admissionregistration.k8s.io/v1alpha1).

use crate::admissionregistration::expressions::{Names, Wanted};
use crate::admissionregistration::rules;
use crate::field::{Field, one_of};
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems};
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

    fn set_defaults(o: &mut Object) {
        rules::default_policy(&mut o.0);
    }

    fn validate(o: &Object, p: &mut Problems) {
        validate_spec(o, None, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        validate_spec(new, Some(&Field::root(old).get("spec")), p);
    }
}

fn validate_spec(o: &Object, old: Option<&Field>, p: &mut Problems) {
    let spec = Field::root(o).get("spec");
    let names_there = rules::policy(&spec, old, Names::of_requests(spec.has("paramKind")).with_constructors(), p);
    for rule in spec.get("matchConstraints").items("resourceRules") {
        for operation in rule.strings("operations") {
            // Problems name the list of rules, not the rule, as upstream has it.
            one_of(p, &spec.get("matchConstraints").at("resourceRules.operations"), operation, &["*", "CONNECT", "CREATE", "UPDATE"]);
        }
    }
    if spec.list("mutations").is_empty() {
        p.required(&spec.at("mutations"), "mutations must contain at least one item");
    }
    for m in spec.items("mutations") {
        mutation(&m, &names_there, p);
    }
    match spec.str("reinvocationPolicy") {
        "" => p.required(&spec.at("reinvocationPolicy"), ""),
        policy => one_of(p, &spec.at("reinvocationPolicy"), policy, &["IfNeeded", "Never"]),
    }
}

fn param_kind(o: &Object) -> String {
    let kind = o.at(&["spec", "paramKind"]);
    if kind.is_null() { "<unset>".into() } else { format!("{}/{}", kind["apiVersion"].as_str().unwrap_or(""), kind["kind"].as_str().unwrap_or("")) }
}

fn mutation(m: &Field, names_there: &Names, p: &mut Problems) {
    let (kind, apply, patch) = (m.str("patchType"), m.get("applyConfiguration"), m.get("jsonPatch"));
    match kind {
        "" => p.required(&m.at("patchType"), ""),
        _ => one_of(p, &m.at("patchType"), kind, &["ApplyConfiguration", "JSONPatch"]),
    }
    for (wanted, name, field, result) in [("ApplyConfiguration", "applyConfiguration", &apply, Wanted::Object), ("JSONPatch", "jsonPatch", &patch, Wanted::Patches)] {
        match (kind == wanted, field.is_set()) {
            (true, false) => p.required(&m.at(name), format!("must be specified when patchType is {wanted}")),
            (true, true) if field.str("expression").trim().is_empty() => p.required(&field.at("expression"), ""),
            (true, true) => {
                names_there.check(field, "expression", result, p);
            }
            _ => {}
        }
    }
}
