//! Defaults inside a schema: each must itself be what the schema allows.
//!
//! Entry point: [`check`]. Deliberately absent: defaults below `additionalProperties`, which are never applied.

use crate::apiextensions::schema::TYPES;
use crate::apiextensions::structural::{named, schema_in};
use crate::field::Field;
use keles_api::{Path, Problem, ProblemKind, Problems};
use keles_custom::Node;
use serde_json::Value;

/// Every default of a structural schema.
pub fn check(s: &Field, p: &mut Problems) {
    if s.has("default") {
        one(s, p);
    }
    if let Some(items) = schema_in(s, "items") {
        check(&items, p);
    }
    named(s, "properties").iter().for_each(|(_, property)| check(property, p));
}

fn one(s: &Field, p: &mut Problems) {
    let (value, at) = (s.get("default"), s.at("default"));
    if !specified(value.value(), s.value(), s.value()["x-kubernetes-embedded-resource"] == true) {
        p.invalid(&at, value.value().clone(), "must not have unspecified fields");
    }
    let kind = s.str("type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        // The value is of no such type, whichever it is; the type itself is refused elsewhere.
        let found = type_of(value.value());
        p.push(Problem { kind: ProblemKind::TypeInvalid, field: at.as_str().into(), value: Some(found.into()), detail: format!(" in body must be of type {kind}: {found:?}") });
        return;
    }
    let mut found = Problems::new();
    keles_custom::validate(value.value(), None, &Node::parse(s.value()), &mut found);
    found.into_vec().into_iter().for_each(|one| p.push(Problem { field: below(&at, &one.field), ..one }));
}

/// The place of a problem found in the default by itself.
fn below(at: &Path, field: &str) -> String {
    match field {
        "" => at.as_str().to_owned(),
        _ if field.starts_with('[') => format!("{at}{field}"),
        _ => format!("{at}.{field}"),
    }
}

fn type_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether pruning leaves the value as it is.
fn specified(v: &Value, schema: &Value, resource: bool) -> bool {
    let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
    match v {
        Value::Array(all) => all.iter().all(|item| specified(item, &schema["items"], schema["items"]["x-kubernetes-embedded-resource"] == true)),
        Value::Object(map) => map.iter().all(|(name, v)| {
            if resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                return true;
            }
            let property = schema.get("properties").and_then(|m| m.get(name)).or(schema.get("additionalProperties").filter(|a| a.is_object()));
            match property {
                Some(s) => specified(v, s, s["x-kubernetes-embedded-resource"] == true),
                None => keeps || schema.get("additionalProperties") == Some(&Value::Bool(true)),
            }
        }),
        _ => true,
    }
}
