//! Defaults inside a schema: each must itself be what the schema allows.
//!
//! Entry point: [`check`]. Deliberately absent: defaults below `additionalProperties`, which are never applied.

use crate::apiextensions::structural::{named, schema_in};
use crate::field::Field;
use keles_api::Problems;
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
