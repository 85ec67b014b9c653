//! `x-kubernetes-validations`: the rules of a schema, compiled when the first object of it is handled, under one budget an object.
//!
//! A transition rule (one that reads `oldSelf`) runs only where there is an old value to compare with: through fields, and through items of
//! `map` lists by their keys. What a rule says against a value that has not changed is not reported (ratcheting).
//! Source: k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/validation.go.

use crate::structural::Node;
use crate::validate::old_item;
use keles_api::problems::ProblemKind;
use keles_api::{Path, Problem, Problems};
use keles_cel::{Activation, Budget, Decl, EvalError, Program, Type as CelType, Value as CelValue, uses};
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// Longest text a message expression may give, in bytes.
const MESSAGE_BYTES_MAX: usize = 5 << 10;

/// The rules of one schema, with the schema as it stands.
#[derive(Debug)]
pub struct Rules {
    schema: Box<Value>,
    made: OnceLock<Made>,
}

#[derive(Debug)]
struct Made {
    decl: Option<Arc<Decl>>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    message: String,
    reason: Option<String>,
    /// Where the problem is told, below the value; empty: at the value.
    field_path: String,
    optional_old: bool,
    /// `Err`: why the rule cannot be run.
    program: Result<Program, String>,
    message_program: Option<Program>,
}

impl Rules {
    /// Of a schema that has some.
    pub fn of(schema: &Value) -> Option<Box<Rules>> {
        let there = schema["x-kubernetes-validations"].as_array().is_some_and(|r| !r.is_empty());
        there.then(|| Box::new(Rules { schema: Box::new(schema.clone()), made: OnceLock::new() }))
    }

    /// `root`: the schema of a whole resource, whose metadata rules may read.
    fn made(&self, root: bool) -> &Made {
        self.made.get_or_init(|| {
            let decl = Decl::from_json_schema(&self.schema, root);
            let all = self.schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
            let rules = all.iter().filter(|r| !r["rule"].as_str().unwrap_or_default().trim().is_empty()).map(|r| Rule::compile(r, decl.as_ref())).collect();
            Made { decl, rules }
        })
    }
}

impl Rule {
    fn compile(r: &Value, decl: Option<&Arc<Decl>>) -> Rule {
        let text = |k: &str| r[k].as_str().unwrap_or_default().trim().to_owned();
        let optional_old = r["optionalOldSelf"].as_bool().unwrap_or(false);
        let compiled = |expression: &str, ty: &CelType| {
            let decl = decl.ok_or_else(|| "the schema has no type that rules know".to_owned())?;
            let p = uses::validation_rule(decl, optional_old).compile(expression).map_err(|e| format!("compilation failed: {e}"))?;
            if p.returns(ty) { Ok(p) } else { Err("cel expression must evaluate to a bool".to_owned()) }
        };
        let message_expression = text("messageExpression");
        Rule {
            program: compiled(&text("rule"), &CelType::Bool),
            message_program: Some(message_expression).filter(|m| !m.is_empty()).and_then(|m| compiled(&m, &CelType::String).ok()),
            text: text("rule"),
            message: text("message"),
            reason: r["reason"].as_str().map(str::to_owned),
            field_path: text("fieldPath").trim_start_matches('.').to_owned(),
            optional_old,
        }
    }
    fn is_transition(&self) -> bool {
        self.program.as_ref().is_ok_and(|p| p.uses("oldSelf"))
    }
    /// The rule as problems name it.
    fn shown(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }
    }
    fn complaint(&self) -> String {
        if self.message.is_empty() { format!("failed rule: {}", self.text) } else { self.message.clone() }
    }
}

/// Checks the rules of a schema on a well-formed resource. `old`: its state before, on update.
pub fn validate(v: &Value, old: Option<&Value>, root: &Node, p: &mut Problems) {
    Run { budget: Budget::default(), p }.value(v, old, root, &Path::root(), true);
}

/// Whether a schema has rules at all.
pub fn has_rules(root: &Node) -> bool {
    root.any(&|n| n.rules.is_some())
}

struct Run<'p> {
    budget: Budget,
    p: &'p mut Problems,
}

/// No further rule is run.
struct Stop;

impl Run<'_> {
    fn value(&mut self, v: &Value, old: Option<&Value>, n: &Node, path: &Path, root: bool) -> bool {
        if v.is_null() {
            return true;
        }
        if let Some(r) = &n.rules
            && self.rules(v, old, n, r.made(root || n.embedded), path).is_err()
        {
            return false;
        }
        match v {
            Value::Object(o) => o.iter().all(|(k, v)| {
                let old = old.and_then(|o| o.get(k));
                match (n.property(k), n.additional_schema()) {
                    (Some(c), _) => self.value(v, old, c, &path.child(k), false),
                    (None, Some(c)) => self.value(v, old, c, &path.key(k), false),
                    (None, None) => true,
                }
            }),
            Value::Array(items) => match &n.items {
                Some(c) => items.iter().enumerate().all(|(i, v)| self.value(v, old_item(v, old, n), c, &path.index(i), false)),
                None => true,
            },
            _ => true,
        }
    }

    fn rules(&mut self, v: &Value, old: Option<&Value>, n: &Node, made: &Made, path: &Path) -> Result<(), Stop> {
        let kind = if n.int_or_string { "" } else { n.ty.name() };
        let Some(decl) = &made.decl else { return Ok(()) };
        for r in &made.rules {
            let program = match &r.program {
                Ok(p) => p,
                Err(why) => {
                    self.p.invalid(path, kind, format!("rule compile error: {why}"));
                    continue;
                }
            };
            if r.is_transition() && old.is_none() && !r.optional_old {
                continue;
            }
            let before = match (old, r.optional_old) {
                (Some(o), true) => CelValue::some(CelValue::typed(o, decl)),
                (None, true) => CelValue::NONE,
                (Some(o), false) => CelValue::typed(o, decl),
                (None, false) => CelValue::Null,
            };
            let names = Activation::new().bind("self", CelValue::typed(v, decl)).bind("oldSelf", before);
            match program.eval(&names, &mut self.budget) {
                Ok(x) if x.as_bool() == Some(true) => {}
                Ok(_) => self.failed(r, &names, v, old, kind, path)?,
                Err(e) => self.broken(&e, r, kind, path)?,
            }
        }
        Ok(())
    }

    /// A rule that does not hold.
    fn failed(&mut self, r: &Rule, names: &Activation<'_>, v: &Value, old: Option<&Value>, kind: &str, path: &Path) -> Result<(), Stop> {
        if !r.is_transition() && old == Some(v) {
            return Ok(());
        }
        let own = match &r.message_program {
            None => None,
            Some(m) => match m.eval(names, &mut self.budget) {
                Ok(x) => x.as_str().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty() && !s.contains('\n') && s.len() <= MESSAGE_BYTES_MAX),
                Err(EvalError::Runtime(_)) => None,
                Err(e) => {
                    self.p.invalid(path, kind, e.to_string());
                    return Err(Stop);
                }
            },
        };
        let detail = own.unwrap_or_else(|| r.complaint());
        let at = if r.field_path.is_empty() { path.clone() } else { path.child(&r.field_path) };
        let (problem, value, detail) = match r.reason.as_deref() {
            Some("FieldValueForbidden") => (ProblemKind::Forbidden, None, detail),
            Some("FieldValueRequired") => (ProblemKind::Required, None, detail),
            Some("FieldValueDuplicate") => (ProblemKind::Duplicate, Some(kind.into()), String::new()),
            _ => (ProblemKind::Invalid, Some(kind.into()), detail),
        };
        self.p.push(Problem { kind: problem, field: at.as_str().to_owned(), value, detail });
        Ok(())
    }

    /// A rule that gave no answer.
    fn broken(&mut self, e: &EvalError, r: &Rule, kind: &str, path: &Path) -> Result<(), Stop> {
        let shown = r.shown();
        match e {
            EvalError::Runtime(text) if text.starts_with("no such overload") => {
                self.p.invalid(path, kind, format!("'{text}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"));
                Ok(())
            }
            EvalError::Runtime(text) => {
                self.p.invalid(path, kind, format!("{text} evaluating rule: {shown}"));
                Ok(())
            }
            EvalError::CostExceeded => {
                self.p.invalid(path, kind, format!("'{e}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"));
                Err(Stop)
            }
            EvalError::BudgetExhausted | EvalError::Interrupted => {
                self.p.invalid(path, kind, e.to_string());
                Err(Stop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(schema: Value, v: Value, old: Option<Value>) -> Vec<String> {
        let mut p = Problems::new();
        validate(&v, old.as_ref(), &Node::parse(&schema), &mut p);
        p.iter().map(ToString::to_string).collect()
    }
    fn spec(rules: Value, properties: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": rules, "properties": properties}}})
    }

    #[test]
    fn a_rule_that_does_not_hold_is_told_by_its_message() {
        let properties = json!({"min": {"type": "integer"}, "max": {"type": "integer"}});
        let v = json!({"spec": {"min": 3, "max": 2}});
        let one = |rule: Value| told(spec(json!([rule]), properties.clone()), v.clone(), None);
        assert_eq!(one(json!({"rule": "self.min <= self.max"})), ["spec: Invalid value: \"object\": failed rule: self.min <= self.max"]);
        assert_eq!(one(json!({"rule": "self.min <= self.max", "message": "min above max"})), ["spec: Invalid value: \"object\": min above max"]);
        assert_eq!(
            one(json!({"rule": "self.min <= self.max", "messageExpression": "'min is ' + string(self.min)", "fieldPath": ".min", "reason": "FieldValueForbidden"})),
            ["spec.min: Forbidden: min is 3"]
        );
        assert_eq!(one(json!({"rule": "self.max <= self.min"})), [""; 0]);
        assert_eq!(one(json!({"rule": "self.min / (self.max - 2) > 0", "message": "m"})), ["spec: Invalid value: \"object\": division by zero evaluating rule: m"]);
    }

    #[test]
    fn transition_rules_run_where_there_is_something_to_compare() {
        let schema = spec(json!([{"rule": "self.a == oldSelf.a", "message": "a is immutable"}]), json!({"a": {"type": "string"}}));
        assert_eq!(told(schema.clone(), json!({"spec": {"a": "x"}}), None), [""; 0]);
        assert_eq!(told(schema.clone(), json!({"spec": {"a": "x"}}), Some(json!({}))), [""; 0]);
        assert_eq!(told(schema, json!({"spec": {"a": "x"}}), Some(json!({"spec": {"a": "y"}}))), ["spec: Invalid value: \"object\": a is immutable"]);
        let optional = spec(json!([{"rule": "oldSelf.hasValue() || self.a == 'first'", "optionalOldSelf": true, "message": "m"}]), json!({"a": {"type": "string"}}));
        assert_eq!(told(optional.clone(), json!({"spec": {"a": "x"}}), None).len(), 1);
        assert_eq!(told(optional, json!({"spec": {"a": "x"}}), Some(json!({"spec": {"a": "y"}}))), [""; 0]);
    }

    #[test]
    fn an_unchanged_value_is_not_told_again() {
        let schema = spec(json!([{"rule": "self.a != 'bad'", "message": "bad"}]), json!({"a": {"type": "string"}, "b": {"type": "string"}}));
        let old = json!({"spec": {"a": "bad"}});
        assert_eq!(told(schema.clone(), json!({"spec": {"a": "bad"}, "metadata": {"labels": {}}}), Some(old.clone())), [""; 0]);
        assert_eq!(told(schema, json!({"spec": {"a": "bad", "b": "x"}}), Some(old)).len(), 1);
    }

    #[test]
    fn the_root_sees_names_and_lists_their_items_by_key() {
        let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('x')", "message": "name"}],
            "properties": {"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object",
                "properties": {"k": {"type": "string"}, "n": {"type": "integer"}}, "x-kubernetes-validations": [{"rule": "self.n >= oldSelf.n", "message": "shrinks"}]}}}});
        let old = json!({"metadata": {"name": "a"}, "l": [{"k": "p", "n": 5}, {"k": "q", "n": 5}]});
        let new = json!({"metadata": {"name": "a"}, "l": [{"k": "q", "n": 4}, {"k": "p", "n": 6}, {"k": "r", "n": 0}]});
        assert_eq!(told(schema, new, Some(old)), ["<nil>: Invalid value: \"object\": name", "l[0]: Invalid value: \"object\": shrinks"]);
    }

    #[test]
    fn a_rule_that_costs_too_much_ends_the_checking() {
        let schema =
            spec(json!([{"rule": "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c != 'no')))", "message": "m"}]), json!({"l": {"type": "array", "items": {"type": "string"}}}));
        let l: Vec<String> = (0..200).map(|i| format!("{i:0100}")).collect();
        let all = told(schema, json!({"spec": {"l": l}}), None);
        assert_eq!(
            all,
            [
                "spec: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: m"
            ]
        );
    }
}
