//! Structural schemas: every field has a type outside of logical junctors, so that pruning and defaulting know what to do
//! (KEP-1002, documented with CustomResourceDefinition).
//!
//! Entry point: [`check`]. Works on the schema's own tree; problems come sorted by their text, as upstream sorts them.

use crate::apiextensions::go_regex;
use crate::field::{Field, same};
use keles_api::{Path, Problems};
use serde_json::{Value, json};

const JUNCTORS: &[&str] = &["anyOf", "allOf", "oneOf"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What keeps the schema `s` of a whole custom resource from being structural.
pub fn check(s: &Field, p: &mut Problems) {
    let mut found = Problems::new();
    invariants(s, Level::Root, &mut found);
    complete(s, &mut found);
    let mut found = found.into_vec();
    found.sort_by_key(ToString::to_string);
    found.into_iter().for_each(|one| p.push(one));
}

/// The named schemas in a field, by name.
pub fn named<'a>(s: &Field<'a>, name: &str) -> Vec<(&'a str, Field<'a>)> {
    let at = s.at(name);
    s.map(name).map(|(k, v)| (k, Field::new(v, at.key(k)))).collect()
}

/// The schema of a field that may hold a boolean or list instead.
pub fn schema_in<'a>(s: &Field<'a>, name: &str) -> Option<Field<'a>> {
    let child = s.get(name);
    child.value().is_object().then_some(child)
}

fn invariants(s: &Field, level: Level, p: &mut Problems) {
    let kind = s.str("type");
    if kind == "array" && schema_in(s, "items").is_none() && s.list("items").is_empty() {
        p.required(&s.at("items"), "must be specified");
    }
    if let Some(items) = schema_in(s, "items") {
        invariants(&items, Level::Item, p);
    }
    for (_, property) in named(s, "properties") {
        invariants(&property, Level::Field, p);
    }
    if s.has("additionalProperties") {
        if level == Level::Root {
            p.forbidden(&s.at("additionalProperties"), "must not be used at the root");
        }
        if let Some(all) = schema_in(s, "additionalProperties") {
            invariants(&all, Level::Field, p);
        }
    }
    extensions(s, p);
    let (skip_any, skip_first_all) = int_or_string(s);
    values(s, skip_any, skip_first_all, p);
    type_of(s, level, p);
    metadata(s, level, p);
    if s.bool("x-kubernetes-embedded-resource") && !s.bool("x-kubernetes-preserve-unknown-fields") && s.map_len("properties") == 0 {
        p.required(&s.at("properties"), "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields");
    }
}

fn type_of(s: &Field, level: Level, p: &mut Problems) {
    let (kind, at) = (s.str("type"), s.at("type"));
    let embedded = s.bool("x-kubernetes-embedded-resource");
    match kind {
        "" if embedded => p.required(&at, "must be object if x-kubernetes-embedded-resource is true"),
        "" if !s.bool("x-kubernetes-int-or-string") && !s.bool("x-kubernetes-preserve-unknown-fields") => {
            let place = match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            };
            p.required(&at, place);
        }
        "" | "object" => {}
        other if embedded => p.invalid(&at, other, "must be object if x-kubernetes-embedded-resource is true"),
        _ => {}
    }
    if embedded && s.has("additionalProperties") {
        p.forbidden(&s.at("additionalProperties"), "must not be used if x-kubernetes-embedded-resource is set");
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        p.invalid(&at, kind, "must be object at the root");
    }
}

fn extensions(s: &Field, p: &mut Problems) {
    if !s.bool("x-kubernetes-int-or-string") {
        return;
    }
    for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"].iter().filter(|n| s.bool(n)) {
        p.invalid(&s.at(name), true, "must be false if x-kubernetes-int-or-string is true");
    }
}

/// The two shapes in which types may stand below junctors: `anyOf` of integer and string itself, or as the first of `allOf`.
fn int_or_string(s: &Field) -> (bool, bool) {
    let both = json!([{"type": "integer"}, {"type": "string"}]);
    let is_both = |v: &Value| same(v, &both);
    let first = s.list("allOf").first().and_then(|f| f.get("anyOf"));
    (is_both(s.get("anyOf").value()), first.is_some_and(is_both))
}

fn values(s: &Field, skip_any: bool, skip_first_all: bool, p: &mut Problems) {
    if !skip_any {
        s.items("anyOf").iter().for_each(|one| nested(one, false, p));
    }
    for (i, one) in s.items("allOf").iter().enumerate() {
        nested(one, skip_first_all && i == 0, p);
    }
    s.items("oneOf").iter().for_each(|one| nested(one, false, p));
    if let Some(not) = schema_in(s, "not") {
        nested(&not, false, p);
    }
    let pattern = s.str("pattern");
    if let Err(why) = go_regex::compile(pattern) {
        p.invalid(&s.at("pattern"), pattern, format!("must be a valid regular expression, but isn't: {why}"));
    }
}

/// A schema below a junctor may restrict values, not say what is there.
fn nested(s: &Field, skip_any: bool, p: &mut Problems) {
    const EMPTY: &str = "must be empty to be structural";
    const UNDEFINED: &str = "must be undefined to be structural";
    const FALSE: &str = "must be false to be structural";
    values(s, skip_any, false, p);
    if let Some(items) = schema_in(s, "items") {
        nested(&items, false, p);
    }
    let properties = named(s, "properties");
    properties.iter().for_each(|(_, one)| nested(one, false, p));
    let texts = ["type", "title", "description"];
    texts.iter().filter(|n| !s.str(n).is_empty()).for_each(|n| p.forbidden(&s.at(n), EMPTY));
    let pointers = ["additionalProperties", "default", "x-kubernetes-list-type", "x-kubernetes-map-type"];
    pointers.iter().filter(|n| s.has(n)).for_each(|n| p.forbidden(&s.at(n), UNDEFINED));
    let flags = ["nullable", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource", "x-kubernetes-int-or-string"];
    flags.iter().filter(|n| s.bool(n)).for_each(|n| p.forbidden(&s.at(n), FALSE));
    let lists = ["x-kubernetes-list-map-keys", "x-kubernetes-validations"];
    lists.iter().filter(|n| !s.list(n).is_empty()).for_each(|n| p.forbidden(&s.at(n), EMPTY));
    if let Some((_, one)) = properties.iter().find(|(name, _)| *name == "metadata") {
        p.forbidden(one.path(), "must not be specified in a nested context");
    }
}

/// What every resource has, a schema may hardly restrict: the names in its metadata only.
fn metadata(s: &Field, level: Level, p: &mut Problems) {
    let checked = level == Level::Root || s.bool("x-kubernetes-embedded-resource");
    for (name, property) in named(s, "properties") {
        match name {
            "kind" | "apiVersion" if checked && property.str("type") != "string" => p.invalid(&property.at("type"), property.str("type"), "must be string"),
            "metadata" => {
                if checked && property.str("type") != "object" {
                    p.invalid(&property.at("type"), property.str("type"), "must be object");
                }
                if level == Level::Root && !only_names(&property) {
                    p.forbidden(property.path(), "must not specify anything other than name and generateName, but metadata is implicitly specified");
                }
            }
            _ => {}
        }
    }
}

fn only_names(s: &Field) -> bool {
    let free = |name: &str| matches!(name, "type" | "default" | "properties");
    let others = s.value().as_object().into_iter().flatten().filter(|(k, _)| !free(k));
    let zero = |v: &Value| same(v, &Value::Null) || *v == json!(false);
    others.clone().all(|(_, v)| zero(v)) && s.map("properties").all(|(k, _)| k == "name" || k == "generateName")
}

fn complete(s: &Field, p: &mut Problems) {
    complete_values(s, Some(s), s.path(), p);
    if let Some(items) = schema_in(s, "items") {
        complete(&items, p);
    }
    named(s, "properties").iter().for_each(|(_, one)| complete(one, p));
    if let Some(all) = schema_in(s, "additionalProperties") {
        complete(&all, p);
    }
}

/// What junctors of `v` speak of must stand in `s`, whose place is `at`.
fn complete_values(v: &Field, s: Option<&Field>, at: &Path, p: &mut Problems) {
    if let Some(not) = schema_in(v, "not") {
        complete_nested(&not, s, at, p);
    }
    for junctor in JUNCTORS {
        v.items(junctor).iter().for_each(|one| complete_nested(one, s, at, p));
    }
}

fn complete_nested(v: &Field, s: Option<&Field>, at: &Path, p: &mut Problems) {
    let missing = |p: &mut Problems, at: &Path, by: &Path| p.required(at, format!("because it is defined in {by}"));
    let Some(s) = s else {
        missing(p, at, v.path());
        return;
    };
    complete_values(v, Some(s), at, p);
    if let Some(items) = schema_in(v, "items") {
        complete_nested(&items, schema_in(s, "items").as_ref(), &s.at("items"), p);
    }
    let all = schema_in(s, "additionalProperties");
    for (name, one) in named(v, "properties") {
        let property = named(s, "properties").into_iter().find(|(n, _)| *n == name).map(|(_, f)| f);
        match (property, &all) {
            (Some(property), _) => complete_nested(&one, Some(&property), property.path(), p),
            (None, Some(all)) => complete_nested(&one, Some(all), all.path(), p),
            (None, None) => missing(p, &s.at("properties").key(name), one.path()),
        }
    }
}
