//! Policies with their bindings, compiled once a change of either.

use crate::admission::dynamic::OnFailure;
use crate::admission::dynamic::conditions::Conditions;
use crate::admission::dynamic::rules::Matching;
use keles_api::Object;
use keles_cel::uses::Admission as Variables;
use keles_cel::{Environment, Program, Type};
use keles_registry::Registry;
use serde_json::Value;
use std::sync::{Arc, Mutex};

const GROUP: &str = "admissionregistration.k8s.io";

/// A compiled expression, or why it is none; the text is shown in messages.
pub struct Expression {
    pub text: String,
    pub program: Result<Program, String>,
}

impl Expression {
    fn new(environment: &Environment, text: &str) -> Expression {
        Expression { text: text.trim().to_owned(), program: environment.compile(text).map_err(|e| format!("compilation failed: {e}")) }
    }
    /// `None` for an absent or empty text.
    fn optional(environment: &Environment, v: &Value) -> Option<Expression> {
        v.as_str().filter(|t| !t.is_empty()).map(|t| Expression::new(environment, t))
    }
}

pub struct Validation {
    pub expression: Expression,
    pub message: String,
    pub message_expression: Option<Expression>,
    pub reason: String,
}

pub enum Mutation {
    /// The expression gives an object to be applied.
    Apply(Expression),
    /// The expression gives a list of JSON patch operations.
    Patch(Expression),
}

/// `paramRef`
#[derive(Clone, Debug)]
pub struct ParamRef {
    pub name: String,
    pub namespace: String,
    /// Absent: `name` says which.
    pub selector: Option<keles_api::Selector>,
    /// `parameterNotFoundAction: Allow`
    pub may_be_absent: bool,
}

pub struct Binding {
    pub name: String,
    pub param_ref: Option<ParamRef>,
    pub matching: Option<Matching>,
    pub denies: bool,
    pub warns: bool,
    pub audits: bool,
}

pub struct Policy {
    pub name: String,
    /// apiVersion and kind of parameters; empty when the policy takes none.
    pub param_kind: (String, String),
    pub matching: Matching,
    pub conditions: Conditions,
    pub on_failure: OnFailure,
    pub variables: Vec<(String, Program)>,
    pub validations: Vec<Validation>,
    /// Keys of the audit event, without the policy's name, and what gives their values.
    pub annotations: Vec<(String, Expression)>,
    pub mutations: Vec<Mutation>,
    pub reinvokes: bool,
    pub bindings: Vec<Binding>,
}

/// All policies of one of the two kinds that some binding names, by name.
pub struct Configs {
    policies: &'static str,
    bindings: &'static str,
    parsed: Mutex<((u64, u64), Arc<Vec<Policy>>)>,
}

impl Configs {
    pub fn new(policies: &'static str, bindings: &'static str) -> Self {
        Configs { policies, bindings, parsed: Mutex::default() }
    }

    pub fn all(&self, registry: &Registry) -> Arc<Vec<Policy>> {
        let change = (registry.changed(GROUP, self.policies), registry.changed(GROUP, self.bindings));
        let mut parsed = self.parsed.lock().expect("no holder panics");
        if parsed.0 != change {
            let by_name = |plural| {
                let mut all = registry.read_all(GROUP, plural, "");
                all.sort_by(|a, b| a.name().cmp(b.name()));
                all
            };
            let bindings = by_name(self.bindings);
            let of = |p: &Object| bindings.iter().filter(|b| b.str_at(&["spec", "policyName"]) == p.name()).map(binding).collect::<Vec<_>>();
            let policies = by_name(self.policies).iter().map(|p| policy(p, of(p))).filter(|p| !p.bindings.is_empty()).collect();
            *parsed = (change, Arc::new(policies));
        }
        parsed.1.clone()
    }
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn binding(b: &Object) -> Binding {
    let spec = b.at(&["spec"]);
    let r = &spec["paramRef"];
    let actions: Vec<&str> = list(&spec["validationActions"]).filter_map(Value::as_str).collect();
    Binding {
        name: b.name().to_owned(),
        param_ref: r.is_object().then(|| ParamRef {
            name: text(&r["name"]),
            namespace: text(&r["namespace"]),
            selector: r["selector"].is_object().then(|| keles_api::Selector::from_object(&r["selector"]).ok()).flatten(),
            may_be_absent: r["parameterNotFoundAction"] == "Allow",
        }),
        matching: spec["matchResources"].is_object().then(|| Matching::parse(&spec["matchResources"])),
        denies: actions.contains(&"Deny"),
        warns: actions.contains(&"Warn"),
        audits: actions.contains(&"Audit"),
    }
}

fn policy(p: &Object, bindings: Vec<Binding>) -> Policy {
    let spec = p.at(&["spec"]);
    let first = Variables { params: spec["paramKind"].is_object(), authorizer: true, ..Variables::default() };
    let environment = |known: &[(String, Type)], constructors| Variables { variables: (!known.is_empty()).then_some(known), constructors, ..first }.environment();
    // A variable may use those before it.
    let (mut known, mut compiled) = (Vec::new(), Vec::new());
    for v in list(&spec["variables"]) {
        let name = text(&v["name"]);
        let e = Expression::new(&environment(&known, false), v["expression"].as_str().unwrap_or_default());
        match e.program {
            Ok(program) => {
                known.push((name.clone(), program.result().clone()));
                compiled.push((name, program));
            }
            Err(why) => tracing::warn!(policy = p.name(), variable = name, why, "a variable of an admission policy does not compile; expressions that read it fail"),
        }
    }
    let (environment, constructing) = (environment(&known, false), environment(&known, true));
    let validation = |v: &Value| Validation {
        expression: Expression::new(&environment, v["expression"].as_str().unwrap_or_default()),
        message: v["message"].as_str().unwrap_or_default().trim().to_owned(),
        message_expression: Expression::optional(&environment, &v["messageExpression"]),
        reason: text(&v["reason"]),
    };
    let mutation = |m: &Value| match m["patchType"].as_str() {
        Some("JSONPatch") => Mutation::Patch(Expression::new(&constructing, m["jsonPatch"]["expression"].as_str().unwrap_or_default())),
        _ => Mutation::Apply(Expression::new(&constructing, m["applyConfiguration"]["expression"].as_str().unwrap_or_default())),
    };
    Policy {
        name: p.name().to_owned(),
        param_kind: (text(&spec["paramKind"]["apiVersion"]), text(&spec["paramKind"]["kind"])),
        matching: Matching::parse(&spec["matchConstraints"]),
        conditions: Conditions::parse_in(&environment, &spec["matchConditions"]),
        on_failure: OnFailure::parse(spec["failurePolicy"].as_str().unwrap_or_default()),
        variables: compiled,
        validations: list(&spec["validations"]).map(validation).collect(),
        annotations: list(&spec["auditAnnotations"]).map(|a| (text(&a["key"]), Expression::new(&environment, a["valueExpression"].as_str().unwrap_or_default()))).collect(),
        mutations: list(&spec["mutations"]).map(mutation).collect(),
        reinvokes: spec["reinvocationPolicy"] == "IfNeeded",
        bindings,
    }
}
