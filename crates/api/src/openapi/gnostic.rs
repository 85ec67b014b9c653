//! An OpenAPI v2 document in the binary form that kubectl asks for: gnostic's `openapi.v2.Document`.
//!
//! Source of the numbers: github.com/google/gnostic, openapiv2/OpenAPIv2.proto. Only what our documents hold is written; vendor extensions
//! are text in YAML, which JSON is.

use serde_json::{Map, Value};

/// As clients ask for it, and as it is named in answers: `@` is no character of a media type.
pub const ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
pub const ANSWERED: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

type Fields = Vec<u8>;

/// The document as bytes.
pub fn encode(swagger: &Value) -> Vec<u8> {
    let mut out = Fields::new();
    text(&mut out, 1, &swagger["swagger"]);
    let mut info = Fields::new();
    text(&mut info, 1, &swagger["info"]["title"]);
    text(&mut info, 2, &swagger["info"]["version"]);
    bytes(&mut out, 2, &info);
    out.extend(addition(entries(&swagger["paths"]), entries(&swagger["definitions"])));
    for requirement in items(&swagger["security"]) {
        let mut all = Fields::new();
        for (name, scopes) in entries(requirement) {
            let mut list = Fields::new();
            texts(&mut list, 1, scopes);
            bytes(&mut all, 1, &named(name, &list));
        }
        bytes(&mut out, 12, &all);
    }
    let mut security = Fields::new();
    for (name, s) in entries(&swagger["securityDefinitions"]) {
        let (mut key, mut item) = (Fields::new(), Fields::new());
        for (n, field) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
            text(&mut key, n, &s[field]);
        }
        bytes(&mut item, 2, &key);
        bytes(&mut security, 1, &named(name, &item));
    }
    bytes(&mut out, 13, &security);
    out
}

/// Further paths and definitions of a document: bytes that may follow it, as messages that come twice are one (protobuf's merging).
pub fn addition<'v>(all_paths: impl IntoIterator<Item = (&'v String, &'v Value)>, definitions: impl IntoIterator<Item = (&'v String, &'v Value)>) -> Vec<u8> {
    let (mut out, mut paths) = (Fields::new(), Fields::new());
    for (name, item) in all_paths {
        bytes(&mut paths, 2, &named(name, &path_item(item)));
    }
    bytes(&mut out, 8, &paths);
    bytes(&mut out, 9, &schemas(definitions));
    out
}

fn path_item(item: &Value) -> Fields {
    let mut out = Fields::new();
    for (n, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")] {
        if let Some(o) = item.get(method) {
            bytes(&mut out, n, &operation(o));
        }
    }
    items(&item["parameters"]).for_each(|p| bytes(&mut out, 9, &parameter(p)));
    out
}

fn operation(o: &Value) -> Fields {
    let mut out = Fields::new();
    texts(&mut out, 1, &o["tags"]);
    text(&mut out, 3, &o["description"]);
    text(&mut out, 5, &o["operationId"]);
    texts(&mut out, 6, &o["produces"]);
    texts(&mut out, 7, &o["consumes"]);
    items(&o["parameters"]).for_each(|p| bytes(&mut out, 8, &parameter(p)));
    let mut responses = Fields::new();
    for (code, r) in entries(&o["responses"]) {
        let (mut response, mut value) = (Fields::new(), Fields::new());
        text(&mut response, 1, &r["description"]);
        if let Some(s) = r.get("schema") {
            let mut item = Fields::new();
            bytes(&mut item, 1, &schema(s));
            bytes(&mut response, 2, &item);
        }
        bytes(&mut value, 1, &response);
        bytes(&mut responses, 1, &named(code, &value));
    }
    bytes(&mut out, 9, &responses);
    texts(&mut out, 10, &o["schemes"]);
    extensions(&mut out, 13, o);
    out
}

/// A `ParametersItem{1: Parameter}`.
fn parameter(p: &Value) -> Fields {
    let (mut one, mut out) = (Fields::new(), Fields::new());
    if p["in"] == "body" {
        let mut body = Fields::new();
        text(&mut body, 1, &p["description"]);
        text(&mut body, 2, &p["name"]);
        text(&mut body, 3, &p["in"]);
        flag(&mut body, 4, &p["required"]);
        bytes(&mut body, 5, &schema(&p["schema"]));
        bytes(&mut one, 1, &body);
    } else {
        // The two forms differ in where `type` and `uniqueItems` stand.
        let (form, ty, unique) = if p["in"] == "path" { (4, 5, 19) } else { (3, 6, 20) };
        let (mut fields, mut other) = (Fields::new(), Fields::new());
        flag(&mut fields, 1, &p["required"]);
        text(&mut fields, 2, &p["in"]);
        text(&mut fields, 3, &p["description"]);
        text(&mut fields, 4, &p["name"]);
        text(&mut fields, ty, &p["type"]);
        flag(&mut fields, unique, &p["uniqueItems"]);
        bytes(&mut other, form, &fields);
        bytes(&mut one, 2, &other);
    }
    bytes(&mut out, 1, &one);
    out
}

/// Named schemas: definitions and properties.
fn schemas<'v>(all: impl IntoIterator<Item = (&'v String, &'v Value)>) -> Fields {
    let mut out = Fields::new();
    all.into_iter().for_each(|(name, s)| bytes(&mut out, 1, &named(name, &schema(s))));
    out
}

fn schema(s: &Value) -> Fields {
    let mut out = Fields::new();
    for (n, key) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description")] {
        text(&mut out, n, &s[key]);
    }
    for (n, key) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        if let Some(v) = s[key].as_f64() {
            varint(&mut out, n << 3 | 1);
            out.extend_from_slice(&v.to_le_bytes());
        }
    }
    for (n, key) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems"), (27, "readOnly")] {
        flag(&mut out, n, &s[key]);
    }
    for (n, key) in [(11, "maxLength"), (12, "minLength"), (14, "maxItems"), (15, "minItems"), (17, "maxProperties"), (18, "minProperties")] {
        if let Some(v) = s[key].as_i64() {
            varint(&mut out, n << 3);
            varint(&mut out, v as u64);
        }
    }
    text(&mut out, 13, &s["pattern"]);
    texts(&mut out, 19, &s["required"]);
    items(&s["enum"]).for_each(|v| bytes(&mut out, 20, &any(v)));
    match s.get("additionalProperties") {
        Some(Value::Bool(b)) => bytes(&mut out, 21, &[2 << 3, u8::from(*b)]),
        Some(inner) => {
            let mut item = Fields::new();
            bytes(&mut item, 1, &schema(inner));
            bytes(&mut out, 21, &item);
        }
        None => {}
    }
    if let Some(ty) = s.get("type") {
        let mut item = Fields::new();
        text(&mut item, 1, ty);
        texts(&mut item, 1, ty);
        bytes(&mut out, 22, &item);
    }
    if let Some(inner) = s.get("items") {
        let mut item = Fields::new();
        bytes(&mut item, 1, &schema(inner));
        bytes(&mut out, 23, &item);
    }
    if s.get("properties").is_some() {
        bytes(&mut out, 25, &schemas(entries(&s["properties"])));
    }
    extensions(&mut out, 31, s);
    out
}

/// `x-…` as `NamedAny`.
fn extensions(out: &mut Fields, number: u64, of: &Value) {
    for (name, v) in entries(of).filter(|(n, _)| n.starts_with("x-")) {
        bytes(out, number, &named(name, &any(v)));
    }
}

/// `Any{2: YAML}`
fn any(v: &Value) -> Fields {
    let mut out = Fields::new();
    bytes(&mut out, 2, v.to_string().as_bytes());
    out
}

fn entries(v: &Value) -> impl Iterator<Item = (&String, &Value)> {
    v.as_object().into_iter().flat_map(Map::iter)
}

fn items(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

/// `{1: name, 2: value}`
fn named(name: &str, value: &[u8]) -> Fields {
    let mut out = Fields::with_capacity(name.len() + value.len() + 12);
    bytes(&mut out, 1, name.as_bytes());
    bytes(&mut out, 2, value);
    out
}

fn varint(out: &mut Fields, mut v: u64) {
    while v > 0x7f {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn bytes(out: &mut Fields, number: u64, b: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, b.len() as u64);
    out.extend_from_slice(b);
}

/// A string that is there; proto3 leaves empty ones out.
fn text(out: &mut Fields, number: u64, v: &Value) {
    if let Some(s) = v.as_str().filter(|s| !s.is_empty()) {
        bytes(out, number, s.as_bytes());
    }
}

fn texts(out: &mut Fields, number: u64, v: &Value) {
    items(v).filter_map(Value::as_str).for_each(|s| bytes(out, number, s.as_bytes()));
}

fn flag(out: &mut Fields, number: u64, v: &Value) {
    if v == &Value::Bool(true) {
        varint(out, number << 3);
        out.push(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_definition_is_written_by_gnostics_numbers() {
        let doc = json!({"swagger": "2.0", "definitions": {"A": {"type": "object", "x-k": [1]}}});
        // Document{swagger=1, info=2, paths=8, definitions=9{1: {name=1, value=2{type=22{1}, vendor=31{name=1, value=2{yaml=2}}}}}, 13}
        let schema = b"\xb2\x01\x08\x0a\x06object\xfa\x01\x0c\x0a\x03x-k\x12\x05\x12\x03[1]";
        let mut want = b"\x0a\x032.0\x12\x00\x42\x00\x4a".to_vec();
        let named = [b"\x0a\x01A\x12".as_slice(), &[schema.len() as u8], schema].concat();
        want.extend([named.len() as u8 + 2, 0x0a, named.len() as u8]);
        want.extend(named);
        want.extend(b"\x6a\x00");
        assert_eq!(encode(&doc), want);
    }
}
