//! Validation of a custom resource against its structural schema, in upstream's words and order.
//!
//! Entry point: [`validate`]. On update a part that was invalid before and has not changed stays allowed (ratcheting): a value that equals
//! its old self is not reported. Old values are followed through fields and through items of `map` lists, by their keys.
//! Source: k8s.io/kube-openapi/pkg/validation/validate, k8s.io/apiextensions-apiserver/pkg/apiserver/validation.

use crate::structural::{Additional, Checks, ListType, Node, Type};
use keles_api::{Path, Problem, ProblemKind, Problems};
use serde_json::{Map, Value};

/// Problems found in one value, and how much of it fitted: the best of several alternatives is the one that is reported.
#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    fits: usize,
}

impl Found {
    fn merge(&mut self, other: Found) {
        self.problems.extend(other.problems);
        self.fits += other.fits;
    }
    fn add(&mut self, kind: ProblemKind, path: &str, value: Option<Value>, detail: impl Into<String>) {
        self.problems.push(Problem { kind, field: path.trim_start_matches('.').to_owned(), value, detail: detail.into() });
    }
    fn invalid(&mut self, path: &str, value: impl Into<Value>, detail: impl Into<String>) {
        self.add(ProblemKind::Invalid, path, Some(value.into()), detail);
    }
    /// A problem that upstream reports without a field.
    fn nowhere(&mut self, detail: impl Into<String>) {
        self.add(ProblemKind::Invalid, "", Some("".into()), detail);
    }
    fn wrong_type(&mut self, path: &str, wanted: &str, found: &str) {
        self.add(ProblemKind::TypeInvalid, path, Some(found.into()), format!("{path} in body must be of type {wanted}: {found:?}"));
    }
}

/// Checks a whole resource. `old`: its state before, on update.
pub fn validate(v: &Value, old: Option<&Value>, n: &Node, p: &mut Problems) {
    let found = value(v, old, n, "");
    if old == Some(v) {
        return;
    }
    found.problems.into_iter().for_each(|x| p.push(x));
}

/// One value. `path` is as upstream writes it in texts: `spec.list[0].x`.
fn value(v: &Value, old: Option<&Value>, n: &Node, path: &str) -> Found {
    let mut f = Found::default();
    type_of(v, n, path, &mut f);
    if v.is_null() {
        if let Some(c) = &n.checks {
            enumeration(v, c, path, &mut f);
        }
        return f;
    }
    f.fits += 1;
    let c = n.checks.as_deref();
    if let Some(c) = c {
        alternatives(v, old, c, path, &mut f);
    }
    match v {
        Value::String(s) => {
            if let Some(c) = c {
                text(s, c, path, &mut f);
            }
        }
        Value::Number(_) => number(v, n, path, &mut f),
        Value::Array(items) => list(items, old, n, path, &mut f),
        _ => {}
    }
    if let Some(c) = c {
        enumeration(v, c, path, &mut f);
    }
    if let Value::Object(o) = v {
        object(o, old, n, path, &mut f);
    }
    f.fits += 1;
    f
}

/// A field or item: what has not changed is not reported.
fn part(v: &Value, old: Option<&Value>, n: &Node, path: &str) -> Found {
    let mut f = value(v, old, n, path);
    if !f.problems.is_empty() && old == Some(v) {
        f.problems.clear();
    }
    f
}

/// The JSON type of a value, and Go's format of it.
fn kind_of(v: &Value) -> (&'static str, &'static str) {
    match v {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
        Value::Number(n) if n.is_i64() => ("integer", "int64"),
        Value::Number(_) => ("number", "float64"),
    }
}

fn is_whole(v: &Value) -> bool {
    v.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() <= 9_007_199_254_740_991.0)
}

fn type_of(v: &Value, n: &Node, path: &str, f: &mut Found) {
    let wanted = if n.int_or_string { "integer,string" } else { n.ty.name() };
    let format = n.checks.as_ref().and_then(|c| c.format).map_or("", |f| f.0);
    if wanted.is_empty() && format.is_empty() {
        return;
    }
    let (kind, kind_format) = kind_of(v);
    let contains = |t: &str| wanted.split(',').any(|w| w == t);
    if v.is_null() {
        if !wanted.is_empty() && !n.nullable {
            f.wrong_type(path, wanted, "null");
        }
        return;
    }
    let whole = kind == "number" && contains("integer") && is_whole(v);
    let fits = contains(kind) || whole || kind == "integer" && contains("number");
    let textual = matches!(v, Value::String(_) | Value::Array(_));
    if !textual && !format.is_empty() && !fits && kind_format != format {
        return f.wrong_type(path, format, kind_format);
    }
    if textual && !format.is_empty() && !contains("number") && !contains("integer") {
        return;
    }
    if !wanted.is_empty() && !fits {
        f.wrong_type(path, wanted, kind);
    }
}

fn enumeration(v: &Value, c: &Checks, path: &str, f: &mut Found) {
    let same = |e: &Value| e == v || matches!((e.as_f64(), v.as_f64()), (Some(a), Some(b)) if a == b);
    if c.enumeration.is_empty() || c.enumeration.iter().any(same) {
        return;
    }
    let supported: Vec<String> = c.enumeration.iter().map(|e| e.as_str().map_or_else(|| e.to_string(), str::to_owned)).collect();
    let mut one = Problems::new();
    one.not_supported(&Path::new(path.trim_start_matches('.')), v.clone(), &supported.iter().map(String::as_str).collect::<Vec<_>>());
    f.problems.extend(one.into_vec());
}

fn alternatives(v: &Value, old: Option<&Value>, c: &Checks, path: &str, f: &mut Found) {
    if !c.any_of.is_empty() {
        let mut best: Option<Found> = None;
        let mut first = None;
        for n in &c.any_of {
            let found = value(v, old, n, path);
            if found.problems.is_empty() {
                first = Some(found);
                break;
            }
            if best.as_ref().is_none_or(|b| found.fits > b.fits) {
                best = Some(found);
            }
        }
        if first.is_none() {
            f.nowhere(format!("{path:?} must validate at least one schema (anyOf)"));
        }
        if let Some(found) = first.or(best) {
            f.merge(found);
        }
    }
    if !c.one_of.is_empty() {
        let mut best: Option<Found> = None;
        let mut first = None;
        let mut valid = 0;
        for n in &c.one_of {
            let found = value(v, old, n, path);
            if found.problems.is_empty() {
                valid += 1;
                first.get_or_insert(found);
            } else if best.as_ref().is_none_or(|b| found.fits > b.fits) {
                best = Some(found);
            }
        }
        match valid {
            1 => {}
            0 => f.nowhere(format!("{path:?} must validate one and only one schema (oneOf). Found none valid")),
            n => f.nowhere(format!("{path:?} must validate one and only one schema (oneOf). Found {n} valid alternatives")),
        }
        if let Some(found) = if valid == 0 { best } else { first.filter(|_| valid == 1) } {
            f.merge(found);
        }
    }
    if !c.all_of.is_empty() {
        let mut valid = 0;
        for n in &c.all_of {
            let found = value(v, old, n, path);
            valid += usize::from(found.problems.is_empty());
            f.merge(found);
        }
        if valid != c.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            f.nowhere(format!("{path:?} must validate all the schemas (allOf){none}"));
        }
    }
    if let Some(n) = &c.not
        && value(v, old, n, path).problems.is_empty()
    {
        f.nowhere(format!("{path:?} must not validate the schema (not)"));
    }
    f.fits += 1;
}

fn text(s: &str, c: &Checks, path: &str, f: &mut Found) {
    let chars = || s.chars().count() as u64;
    if let Some(max) = c.max_length.filter(|m| chars() > *m) {
        let mut one = Problems::new();
        one.too_long(&Path::new(path.trim_start_matches('.')), max as usize);
        f.problems.extend(one.into_vec());
    } else if let Some(min) = c.min_length.filter(|m| chars() < *m) {
        f.invalid(path, s, format!("{path} in body should be at least {min} chars long"));
    } else if let Some(p) = c.pattern.as_ref().filter(|p| !p.matches(s)) {
        f.invalid(path, s, format!("{path} in body should match '{}'", p.text));
    }
    if let Some(format) = c.format.filter(|x| !x.matches(s)) {
        f.add(ProblemKind::TypeInvalid, path, Some(s.into()), format!("{path} in body must be of type {}: {}", format.0, keles_api::problems::go_quote(s)));
    }
}

fn number(v: &Value, n: &Node, path: &str, f: &mut Found) {
    let Some(x) = v.as_f64() else { return };
    let format = n.checks.as_ref().and_then(|c| c.format).map_or("", |f| f.0);
    in_range("Checked", v.is_i64() || is_whole(v), x, n, format, path, f);
    if let Some(c) = n.checks.as_deref() {
        for (what, bound) in [("MultipleOf", c.multiple_of), ("Maximum boundary", c.maximum), ("Minimum boundary", c.minimum)] {
            if let Some(m) = bound {
                in_range(what, m.fract() == 0.0, m, n, format, path, f);
            }
        }
    }
    if let Some(c) = n.checks.as_deref() {
        if let Some(m) = c.multiple_of.filter(|m| *m > 0.0 && !is_multiple(v, *m)) {
            f.invalid(path, v.clone(), format!("{path} in body should be a multiple of {}", go_float(m)));
        }
        if let Some(m) = c.maximum.filter(|m| x > *m || c.exclusive_maximum && x >= *m) {
            let word = if c.exclusive_maximum { "less than" } else { "less than or equal to" };
            f.invalid(path, v.clone(), format!("{path} in body should be {word} {}", go_float(m)));
        }
        if let Some(m) = c.minimum.filter(|m| x < *m || c.exclusive_minimum && x <= *m) {
            let word = if c.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            f.invalid(path, v.clone(), format!("{path} in body should be {word} {}", go_float(m)));
        }
    }
    f.fits += 1;
}

/// Whether a number, or a bound of it, is one of the type and format.
fn in_range(what: &str, whole: bool, x: f64, n: &Node, format: &str, path: &str, f: &mut Found) {
    let fits = match (n.ty, format) {
        (Type::Integer, "int32") => whole && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&x),
        (Type::Integer, _) => whole,
        (_, "float") => x.abs() <= f64::from(f32::MAX),
        _ => true,
    };
    if !fits {
        let form = if format.is_empty() { "(default format)".to_owned() } else { format!("with format {format}") };
        f.nowhere(format!("{what} value must be of type {} {form} in {path}", n.ty.name()));
    }
}

fn is_multiple(v: &Value, of: f64) -> bool {
    match (v.as_i64(), of.fract() == 0.0 && of.abs() < 9e15) {
        (Some(i), true) => i % (of as i64) == 0,
        _ => {
            let q = v.as_f64().unwrap_or(0.0) / of;
            (q - q.round()).abs() < 1e-9
        }
    }
}

/// A float as Go's `%v` prints it.
pub fn go_float(x: f64) -> String {
    if x == 0.0 || (1e-4..1e21).contains(&x.abs()) {
        return x.to_string();
    }
    let s = format!("{x:e}");
    match s.split_once('e') {
        Some((m, e)) => {
            let (sign, digits) = e.strip_prefix('-').map_or(('+', e), |d| ('-', d));
            format!("{m}e{sign}{digits:0>2}")
        }
        None => s,
    }
}

fn list(items: &[Value], old: Option<&Value>, n: &Node, path: &str, f: &mut Found) {
    if let Some(item) = &n.items {
        for (i, v) in items.iter().enumerate() {
            f.merge(part(v, old_item(v, old, n), item, &format!("{path}[{i}]")));
        }
    }
    if let Some(c) = n.checks.as_deref() {
        let size = items.len() as u64;
        if let Some(min) = c.min_items.filter(|m| size < *m) {
            f.invalid(path, size, format!("{path} in body should have at least {min} items"));
        }
        if let Some(max) = c.max_items.filter(|m| size > *m) {
            too_many(path, size, max, f);
        }
        if c.unique_items && items.iter().enumerate().any(|(i, v)| items[..i].contains(v)) {
            f.invalid(path, "", format!("{path} in body shouldn't contain duplicates"));
        }
    }
    f.fits += 1;
}

fn too_many(path: &str, actual: u64, max: u64, f: &mut Found) {
    let mut one = Problems::new();
    one.too_many(&Path::new(path.trim_start_matches('.')), actual as usize, max as usize);
    f.problems.extend(one.into_vec());
}

/// The item that this one was before, in a list whose items have keys.
pub fn old_item<'o>(v: &Value, old: Option<&'o Value>, n: &Node) -> Option<&'o Value> {
    if n.list_type != ListType::Map || n.map_keys.is_empty() {
        return None;
    }
    let key = |v: &Value, k: &str| v.get(k).cloned().or_else(|| n.items.as_ref()?.property(k)?.default.as_deref().cloned());
    old?.as_array()?.iter().find(|o| n.map_keys.iter().all(|k| key(o, k) == key(v, k)))
}

fn object(o: &Map<String, Value>, old: Option<&Value>, n: &Node, path: &str, f: &mut Found) {
    let c = n.checks.as_deref();
    let size = o.len() as u64;
    if let Some(min) = c.and_then(|c| c.min_properties).filter(|m| size < *m) {
        return f.invalid(path, size, format!("{path} in body should have at least {min} properties"));
    }
    if let Some(max) = c.and_then(|c| c.max_properties).filter(|m| size > *m) {
        return too_many(path, size, max, f);
    }
    // At the root type and metadata are not the schema's: they do not ratchet.
    let old_field = |k: &str| if path.is_empty() && matches!(k, "apiVersion" | "kind" | "metadata") { None } else { old.and_then(|o| o.get(k)) };
    match &n.additional {
        Additional::Forbidden => {
            for k in o.keys().filter(|k| n.property(k).is_none()) {
                f.invalid(path, "", format!("{path}.{k} in body is a forbidden property"));
            }
        }
        Additional::Schema(a) => {
            for (k, v) in o.iter().filter(|(k, _)| n.property(k).is_none()) {
                f.merge(part(v, old_field(k), a, &format!("{path}.{k}")));
            }
        }
        _ => {}
    }
    for (k, p) in &n.properties {
        if let Some(v) = o.get(&**k) {
            let at = if path.is_empty() { k.to_string() } else { format!("{path}.{k}") };
            f.merge(part(v, old_field(k), p, &at));
        }
    }
    for k in c.into_iter().flat_map(|c| &c.required).filter(|k| !o.contains_key(&***k)) {
        f.add(ProblemKind::Required, &format!("{path}.{k}"), None, "");
    }
}

/// Upstream checks no rules where the object is not well-formed enough for them; it says so.
pub fn blocks_rules(p: &Problems) -> bool {
    use ProblemKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    p.iter().any(|p| matches!(p.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(schema: Value, v: Value) -> Vec<String> {
        ratcheted(schema, v, None)
    }
    fn ratcheted(schema: Value, v: Value, old: Option<Value>) -> Vec<String> {
        let mut p = Problems::new();
        validate(&v, old.as_ref(), &Node::parse(&schema), &mut p);
        p.iter().map(ToString::to_string).collect()
    }
    fn spec(s: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": s}}})
    }

    #[test]
    fn a_wrong_type_is_named_by_what_is_wanted_and_what_is_there() {
        assert_eq!(
            found(spec(json!({"replicas": {"type": "integer"}})), json!({"spec": {"replicas": "x"}})),
            ["spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\""]
        );
        assert_eq!(
            found(spec(json!({"a": {"type": "string"}})), json!({"spec": {"a": null}})),
            ["spec.a: Invalid value: \"null\": spec.a in body must be of type string: \"null\""]
        );
        assert_eq!(found(spec(json!({"a": {"type": "string", "nullable": true}})), json!({"spec": {"a": null}})), [""; 0]);
        assert_eq!(found(spec(json!({"a": {"type": "number"}, "b": {"type": "integer"}})), json!({"spec": {"a": 1, "b": 1.0}})), [""; 0], "whole floats are integers");
        assert_eq!(
            found(spec(json!({"l": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "boolean"}}}}})), json!({"spec": {"l": [{}, {"x": 1}]}})),
            ["spec.l[1].x: Invalid value: \"integer\": spec.l[1].x in body must be of type boolean: \"integer\""]
        );
    }

    #[test]
    fn an_int_or_string_is_told_in_full() {
        let schema = spec(json!({"p": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}));
        assert_eq!(found(schema.clone(), json!({"spec": {"p": "10%"}})), [""; 0]);
        assert_eq!(
            found(schema, json!({"spec": {"p": 1.5}})),
            [
                "spec.p: Invalid value: \"number\": spec.p in body must be of type integer,string: \"number\"",
                "<nil>: Invalid value: \"\": \"spec.p\" must validate at least one schema (anyOf)",
                "spec.p: Invalid value: \"number\": spec.p in body must be of type integer: \"number\"",
                "<nil>: Invalid value: \"\": Checked value must be of type integer (default format) in spec.p",
            ]
        );
    }

    #[test]
    fn bounds_lengths_and_patterns_are_told_in_upstreams_words() {
        let schema = spec(json!({
            "a": {"type": "integer", "minimum": 1, "maximum": 10}, "b": {"type": "number", "exclusiveMinimum": true, "minimum": 0.5, "multipleOf": 2},
            "c": {"type": "string", "maxLength": 3}, "d": {"type": "string", "minLength": 2, "pattern": "^a"}, "e": {"type": "string", "pattern": "^a+$"},
            "f": {"type": "array", "minItems": 2, "items": {"type": "string"}}, "g": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
            "h": {"type": "object", "minProperties": 1}, "i": {"type": "string", "enum": ["x", "y"]}, "j": {"type": "string", "format": "date"}}));
        assert_eq!(
            found(schema, json!({"spec": {"a": 11, "b": 0.5, "c": "long", "d": "b", "e": "b", "f": ["x"], "g": ["a", "b"], "h": {}, "i": "z", "j": "no"}})),
            [
                "spec.a: Invalid value: 11: spec.a in body should be less than or equal to 10",
                "spec.b: Invalid value: 0.5: spec.b in body should be a multiple of 2",
                "spec.b: Invalid value: 0.5: spec.b in body should be greater than 0.5",
                "spec.c: Too long: may not be more than 3 bytes",
                "spec.d: Invalid value: \"b\": spec.d in body should be at least 2 chars long",
                "spec.e: Invalid value: \"b\": spec.e in body should match '^a+$'",
                "spec.f: Invalid value: 1: spec.f in body should have at least 2 items",
                "spec.g: Too many: 2: must have at most 1 item",
                "spec.h: Invalid value: 0: spec.h in body should have at least 1 properties",
                "spec.i: Unsupported value: \"z\": supported values: \"x\", \"y\"",
                "spec.j: Invalid value: \"no\": spec.j in body must be of type date: \"no\"",
            ]
        );
    }

    #[test]
    fn numbers_stay_in_the_range_of_their_format() {
        let schema = spec(json!({"a": {"type": "integer", "format": "int32"}, "b": {"type": "integer", "format": "int64"}, "c": {"type": "number", "format": "float"}}));
        assert_eq!(found(schema.clone(), json!({"spec": {"a": 2147483647, "b": 2147483648u64, "c": 1e30}})), [""; 0]);
        assert_eq!(
            found(schema, json!({"spec": {"a": 2147483648u64, "c": 3.5e38}})),
            [
                "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.a",
                "<nil>: Invalid value: \"\": Checked value must be of type number with format float in spec.c",
            ]
        );
    }

    #[test]
    fn what_is_required_is_named_and_the_best_alternative_is_told() {
        let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "required": ["a"],
            "oneOf": [{"required": ["b"]}, {"required": ["c"]}], "not": {"required": ["d"]}, "properties": {"a": {"type": "string"}, "b": {}, "c": {}, "d": {}}}}});
        assert_eq!(found(schema.clone(), json!({})), ["spec: Required value"]);
        assert_eq!(
            found(schema.clone(), json!({"spec": {}})),
            ["<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found none valid", "spec.b: Required value", "spec.a: Required value"]
        );
        assert_eq!(
            found(schema, json!({"spec": {"a": "", "b": 1, "c": 1, "d": 1}})),
            [
                "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
                "<nil>: Invalid value: \"\": \"spec\" must not validate the schema (not)",
            ]
        );
    }

    #[test]
    fn an_unchanged_invalid_part_stays_allowed() {
        let schema = spec(json!({"a": {"type": "integer", "maximum": 1}, "b": {"type": "integer", "maximum": 1},
            "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                  "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}},
            "plain": {"type": "array", "items": {"type": "integer", "maximum": 1}}}));
        let old = json!({"spec": {"a": 5, "b": 5, "l": [{"k": "x", "v": 9}, {"k": "y", "v": 9}], "plain": [7]}});
        let new = json!({"spec": {"a": 5, "b": 6, "l": [{"k": "y", "v": 9}, {"k": "x", "v": 8}], "plain": [7, 1]}});
        assert_eq!(
            ratcheted(schema, new, Some(old)),
            [
                "spec.b: Invalid value: 6: spec.b in body should be less than or equal to 1",
                "spec.l[1].v: Invalid value: 8: spec.l[1].v in body should be less than or equal to 1",
                "spec.plain[0]: Invalid value: 7: spec.plain[0] in body should be less than or equal to 1",
            ]
        );
    }

    #[test]
    fn floats_print_as_go_does() {
        for (x, want) in [(10.0, "10"), (0.5, "0.5"), (1e21, "1e+21"), (1.5e-7, "1.5e-07"), (-3.0, "-3")] {
            assert_eq!(go_float(x), want);
        }
    }
}
