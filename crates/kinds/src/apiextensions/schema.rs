//! The schema of a version of a CustomResourceDefinition: what OpenAPI v3 and Kubernetes' extensions allow in it.
//!
//! Entry point: [`check`]. Structurality is in `structural`, compiling `x-kubernetes-validations` in `rules`.

use crate::apiextensions::rules::{self, Times, Total, times_of_items};
use crate::apiextensions::structural::{self, named, schema_in};
use crate::apiextensions::{defaults, internal, selectable};
use crate::field::{Field, NULL, one_of};
use keles_api::{Path, Problem, ProblemKind, Problems};
use serde_json::Value;

pub const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
const META_FIELDS: &[&str] = &["metadata", "kind", "apiVersion"];
/// Fields of a root whose status part is validated by itself; the others would be lost on it. Each with its name in Go.
const AT_ROOT: &[(&str, &str)] = &[
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];
const SELECTOR_KEYS: &str = "x-kubernetes-list-map-keys";
const LIST_TYPE: &str = "x-kubernetes-list-type";
const MAP_TYPE: &str = "x-kubernetes-map-type";

/// What the places above a schema say about it.
#[derive(Clone, Copy)]
struct Above<'a> {
    /// Whether it describes kind, apiVersion or metadata of a resource.
    in_meta: bool,
    /// Why it may have no default, if so.
    no_default: Option<&'a str>,
    /// The first place above whose parts of before and after cannot be told from each other.
    uncorrelated: Option<&'a Path>,
    /// How often it may hold for one resource; nothing where rules are not compiled.
    times: Option<Times>,
}

/// What is found on the way. Problems of rules come after all others.
struct Walk<'p> {
    p: &'p mut Problems,
    of_rules: Problems,
    total: Total,
}

/// A `CustomResourceValidation`: `schema` of a version, or `spec.validation` when all versions share one.
pub fn check(validation: &Field, has_status: bool, p: &mut Problems) {
    let Some(s) = schema_in(validation, "openAPIV3Schema") else { return };
    let before = p.len();
    if has_status {
        at_root(&s, p);
    }
    if s.bool("nullable") {
        p.forbidden(&s.at("nullable"), "nullable cannot be true at the root");
    }
    let unreadable = unreadable(&s);
    let mut sound = false;
    if unreadable.is_none() {
        let count = p.len();
        structural::check(&s, p);
        if p.len() == count {
            defaults::check(&s, p);
        }
        sound = p.len() == count;
    }
    let mut walk = Walk { p, of_rules: Problems::new(), total: Total::default() };
    level(&s, true, Above { in_meta: false, no_default: None, uncorrelated: None, times: sound.then_some(Some(1)) }, &mut walk);
    let Walk { p, of_rules, total } = walk;
    of_rules.into_vec().into_iter().for_each(|one| p.push(one));
    total.check(s.path(), p);
    if let Some(why) = unreadable.filter(|_| p.len() == before) {
        p.invalid(s.path(), "", why);
    }
}

/// The first field, in the order of Go's type, that may not stand at the root beside a status subresource.
fn at_root(s: &Field, p: &mut Problems) {
    for name in internal::SCHEMA_FIELDS.iter().map(|f| f.0).filter(|n| !internal::is_zero(s.value().get(*n).unwrap_or(&NULL))) {
        if name == "type" {
            if s.str("type") != "object" {
                p.invalid(&s.at("type"), s.str("type"), "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled");
                return;
            }
        } else if !AT_ROOT.iter().any(|a| a.0 == name) {
            let all: Vec<&str> = AT_ROOT.iter().map(|a| a.1).collect();
            let detail = format!("only [{}] fields are allowed at the root of the schema if the status subresource is enabled", all.join(" "));
            p.push(internal::invalid(s.path(), &internal::schema(s.value()), &detail));
            return;
        }
    }
}

/// A field that structural schemas do not know, said only where nothing else is wrong.
fn unreadable(s: &Field) -> Option<String> {
    let unknown = [
        ("id", "id"),
        ("$schema", "schema"),
        ("$ref", "ref"),
        ("definitions", "definitions"),
        ("dependencies", "dependencies"),
        ("patternProperties", "patternProperties"),
        ("additionalItems", "additionalItems"),
    ];
    let here = unknown.iter().find(|(field, _)| !internal::is_zero(s.get(field).value()));
    if let Some((_, name)) = here {
        return Some(format!("OpenAPIV3Schema '{name}' is not supported"));
    }
    if s.opt_bool("x-kubernetes-preserve-unknown-fields") == Some(false) {
        return Some("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".into());
    }
    // Neither schema nor list, which is how an empty list and any scalar are held, is as good as no items.
    if !s.list("items").is_empty() {
        return Some("OpenAPIV3Schema 'items' must be a object, but is an array".into());
    }
    let mut below: Vec<Field> = ["items", "additionalProperties", "not"].iter().filter_map(|n| schema_in(s, n)).collect();
    below.extend(named(s, "properties").into_iter().map(|(_, f)| f));
    ["allOf", "anyOf", "oneOf"].iter().for_each(|n| below.extend(s.items(n)));
    below.iter().find_map(unreadable)
}

/// One schema and all below it.
fn level(s: &Field, is_root: bool, above: Above, w: &mut Walk) {
    let before = w.p.len();
    standard(s, above, w.p);
    if s.bool("uniqueItems") {
        w.p.forbidden(&s.at("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
    }
    if s.has("additionalProperties") {
        if s.map_len("properties") > 0 && s.get("additionalProperties").value() != &Value::Bool(true) {
            w.p.forbidden(&s.at("additionalProperties"), "additionalProperties and properties are mutual exclusive");
        }
        if let Some(all) = schema_in(s, "additionalProperties") {
            let no_default = if above.in_meta { Some("inside additionalProperties applying to object metadata") } else { above.no_default };
            let times = above.times.map(|t| times_of_items(t, s));
            level(&all, false, Above { no_default, times, ..above }, w);
        }
    }
    let uncorrelated = above.uncorrelated.or(s.opt_str(MAP_TYPE).filter(|t| *t != "granular").map(|_| s.path()));
    for (name, property) in named(s, "properties") {
        let meta = (is_root || s.bool("x-kubernetes-embedded-resource")) && META_FIELDS.contains(&name);
        let reason = format!("in top-level {name}");
        let no_default = if meta && is_root { Some(reason.as_str()) } else { above.no_default };
        level(&property, false, Above { in_meta: above.in_meta || meta, no_default, uncorrelated, times: above.times }, w);
    }
    below(s, above, w);
    lists_and_maps(s, w.p);
    keys_of_items(s, w.p);
    texts_of_rules(s, w.p);
    // Rules are compiled where nothing else is wrong here or below: what they would say could not be helped before.
    if let Some(times) = above.times.filter(|_| w.p.len() == before) {
        rules::compile(s, is_root, times, above.uncorrelated, &mut w.total, &mut w.of_rules);
    }
}

fn below(s: &Field, above: Above, w: &mut Walk) {
    let aside = Above { times: None, ..above };
    if let Some(not) = schema_in(s, "not") {
        level(&not, false, aside, w);
    }
    for junctor in ["allOf", "oneOf", "anyOf"] {
        s.items(junctor).iter().for_each(|one| level(one, false, aside, w));
    }
    named(s, "definitions").iter().for_each(|(_, one)| level(one, false, aside, w));
    let uncorrelated = above.uncorrelated.or((s.opt_str(LIST_TYPE) != Some("map")).then_some(s.path()));
    let of_items = Above { uncorrelated, times: above.times.map(|t| times_of_items(t, s)), ..above };
    match schema_in(s, "items") {
        Some(items) => level(&items, false, of_items, w),
        None => s.items("items").iter().for_each(|one| level(one, false, of_items, w)),
    }
    named(s, "dependencies").iter().filter(|(_, d)| d.value().is_object()).for_each(|(_, one)| level(one, false, aside, w));
}

/// What OpenAPI v3 in Kubernetes' reading has.
fn standard(s: &Field, above: Above, p: &mut Problems) {
    let kind = s.str("type");
    if !kind.is_empty() {
        one_of(p, &s.at("type"), kind, TYPES);
    }
    if let Some(reason) = above.no_default.filter(|_| s.has("default")) {
        p.forbidden(&s.at("default"), format!("must not be set {reason}"));
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if !internal::is_zero(s.get(name).value()) {
            p.forbidden(&s.at(name), format!("{name} is not supported"));
        }
    }
    if kind == "null" {
        p.forbidden(&s.at("type"), "type cannot be set to null, use nullable as an alternative");
    }
    if !s.list("items").is_empty() {
        p.forbidden(&s.at("items"), "items must be a schema object and not an array");
    }
    if above.in_meta && s.bool("x-kubernetes-embedded-resource") {
        p.forbidden(&s.at("x-kubernetes-embedded-resource"), "must not be used inside of resource meta");
    }
}

fn lists_and_maps(s: &Field, p: &mut Problems) {
    if s.opt_bool("x-kubernetes-preserve-unknown-fields") == Some(false) {
        p.invalid(&s.at("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
    let kind = s.str("type");
    if let Some(map_type) = s.opt_str(MAP_TYPE) {
        must_be(s, "object", "must be object if x-kubernetes-map-type is specified", p);
        one_of(p, &s.at(MAP_TYPE), map_type, &["atomic", "granular"]);
    }
    let Some(list_type) = s.opt_str(LIST_TYPE) else {
        if !s.list(SELECTOR_KEYS).is_empty() {
            p.required(&s.at(LIST_TYPE), "must be map if x-kubernetes-list-map-keys is non-empty");
        }
        return;
    };
    must_be(s, "array", "must be array if x-kubernetes-list-type is specified", p);
    if kind == "array" && list_type == "set" {
        set_items(s, p);
    }
    one_of(p, &s.at(LIST_TYPE), list_type, &["atomic", "set", "map"]);
    if !s.list(SELECTOR_KEYS).is_empty() && list_type != "map" {
        p.invalid(&s.at(LIST_TYPE), list_type, "must be map if x-kubernetes-list-map-keys is non-empty");
    }
    if list_type == "map" {
        map_items(s, p);
    }
}

fn must_be(s: &Field, wanted: &str, detail: &str, p: &mut Problems) {
    match s.str("type") {
        "" => p.required(&s.at("type"), detail),
        kind if kind != wanted => p.invalid(&s.at("type"), kind, detail),
        _ => {}
    }
}

/// Items of a set are compared whole, so they must be atomic.
fn set_items(s: &Field, p: &mut Problems) {
    const DETAIL: &str = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let Some(items) = schema_in(s, "items") else { return };
    let shown = items.get(LIST_TYPE).value().clone();
    match items.str("type") {
        "array" if items.opt_str(LIST_TYPE).is_some_and(|t| t != "atomic") => p.invalid(&items.at(LIST_TYPE), shown, DETAIL),
        "object" if items.opt_str(MAP_TYPE) != Some("atomic") => p.invalid(&items.at(MAP_TYPE), shown, DETAIL),
        _ => {}
    }
}

fn map_items(s: &Field, p: &mut Problems) {
    let keys = s.strings(SELECTOR_KEYS);
    if keys.is_empty() {
        p.required(&s.at(SELECTOR_KEYS), "must not be empty if x-kubernetes-list-type is map");
    }
    let Some(items) = schema_in(s, "items") else {
        match s.get("items").value() {
            Value::Null => p.required(&s.at("items"), "must have a schema if x-kubernetes-list-type is map"),
            list => p.push(internal::invalid(&s.at("items"), &internal::schema_or_list(list), "must only have a single schema if x-kubernetes-list-type is map")),
        }
        return;
    };
    if items.str("type") != "object" {
        p.invalid(&items.at("type"), items.str("type"), "must be object if parent array's x-kubernetes-list-type is map");
        return;
    }
    let shown = s.get(SELECTOR_KEYS).value();
    for (i, key) in keys.iter().enumerate() {
        match named(&items, "properties").into_iter().find(|(name, _)| name == key) {
            // The type shown is the item's, as upstream has it.
            Some((_, property)) if matches!(property.str("type"), "array" | "object") => {
                p.invalid(&property.at("type"), items.str("type"), "must be a scalar type if parent array's x-kubernetes-list-type is map");
            }
            Some(_) => {}
            None => p.invalid(&s.at(SELECTOR_KEYS), shown.clone(), "entries must all be names of item properties"),
        }
        if keys[..i].contains(key) {
            p.invalid(&s.at(SELECTOR_KEYS), shown.clone(), "must not contain duplicate entries");
        }
    }
}

/// Items of sets and maps are there; keys of maps are always set.
fn keys_of_items(s: &Field, p: &mut Problems) {
    let (Some(items), Some(list_type @ ("set" | "map"))) = (schema_in(s, "items"), s.opt_str(LIST_TYPE)) else { return };
    if items.bool("nullable") {
        p.forbidden(&items.at("nullable"), format!("cannot be nullable when x-kubernetes-list-type is {list_type}"));
    }
    if list_type == "set" {
        return;
    }
    let required = items.strings("required");
    for key in s.strings(SELECTOR_KEYS) {
        let Some((_, property)) = named(&items, "properties").into_iter().find(|(name, _)| *name == key) else { continue };
        if !required.contains(&key) && !property.has("default") {
            p.required(&property.at("default"), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property");
        }
        if property.bool("nullable") {
            p.forbidden(&property.at("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable");
        }
    }
}

/// `x-kubernetes-validations` of one schema, but for their expressions.
fn texts_of_rules(s: &Field, p: &mut Problems) {
    let breaks = |t: &str| t.contains(['\r', '\n', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}']);
    for rule in s.items("x-kubernetes-validations") {
        let (text, message, expression) = (rule.str("rule").trim(), rule.str("message"), rule.str("messageExpression"));
        if text.is_empty() {
            p.required(&rule.at("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            p.invalid(&rule.at("message"), message, "message must be non-empty if specified");
        } else if breaks(message.trim()) {
            p.invalid(&rule.at("message"), message, "message must not contain line breaks");
        } else if breaks(text) && message.trim().is_empty() {
            p.required(&rule.at("message"), "message must be specified if rule contains line breaks");
        }
        if !expression.is_empty() && expression.trim().is_empty() {
            p.required(&rule.at("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = rule.opt_str("reason") {
            one_of(p, &rule.at("reason"), reason, REASONS);
        }
        field_path(s, &rule, breaks, p);
    }
}

fn field_path(s: &Field, rule: &Field, breaks: impl Fn(&str) -> bool, p: &mut Problems) {
    let (path, at) = (rule.str("fieldPath"), rule.at("fieldPath"));
    if path.is_empty() {
        return;
    }
    if path.trim().is_empty() {
        p.invalid(&at, path, "fieldPath must be non-empty if specified");
    }
    if breaks(path) {
        p.invalid(&at, path, "fieldPath must not contain line breaks");
    }
    if selectable::find(path, s.value(), true).is_err() {
        p.push(Problem { kind: ProblemKind::Invalid, field: at.as_str().into(), value: Some(path.into()), detail: "fieldPath must be a valid path".into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(schema: Value) -> Vec<String> {
        let validation = json!({"openAPIV3Schema": {"type": "object", "properties": {"l": schema}}});
        let mut p = Problems::new();
        check(&Field::new(&validation, Path::new("v")), false, &mut p);
        p.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn items_that_are_neither_schema_nor_list_are_as_good_as_none() {
        let list = |items: Value| json!({"type": "array", "items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]});
        let at = "v.openAPIV3Schema.properties[l].items";
        // So the decoder leaves any text, number or boolean.
        assert_eq!(
            told(list(json!([]))),
            [
                format!("{at}: Required value: must be specified"),
                format!("{at}: Invalid value: {{\"Schema\":null,\"JSONSchemas\":null}}: must only have a single schema if x-kubernetes-list-type is map")
            ]
        );
        assert!(told(list(json!([{"type": "object"}]))).iter().any(|t| t.ends_with("items must be a schema object and not an array")));
        assert_eq!(told(list(json!({"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}))), [""; 0]);
    }
}
