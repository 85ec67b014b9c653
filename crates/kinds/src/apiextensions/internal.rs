//! Parts of a definition as upstream prints them inside a problem: its internal types, whose fields have Go names and are all there.

use crate::field::{Field, NULL};
use keles_api::{Path, Problem, ProblemKind};
use serde_json::Value;

/// How a field of a schema is held in Go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Text,
    Flag,
    Pointer,
    List,
    Schema,
    Schemas,
    Named,
    SchemaOrList,
    SchemaOrFlag,
    Raw,
    RawList,
    Rules,
}

/// Fields of a schema in the order of upstream's internal type: name in JSON, name in Go.
pub const SCHEMA_FIELDS: &[(&str, &str, Held)] = &[
    ("id", "ID", Held::Text),
    ("$schema", "Schema", Held::Text),
    ("$ref", "Ref", Held::Pointer),
    ("description", "Description", Held::Text),
    ("type", "Type", Held::Text),
    ("nullable", "Nullable", Held::Flag),
    ("format", "Format", Held::Text),
    ("title", "Title", Held::Text),
    ("default", "Default", Held::Raw),
    ("maximum", "Maximum", Held::Pointer),
    ("exclusiveMaximum", "ExclusiveMaximum", Held::Flag),
    ("minimum", "Minimum", Held::Pointer),
    ("exclusiveMinimum", "ExclusiveMinimum", Held::Flag),
    ("maxLength", "MaxLength", Held::Pointer),
    ("minLength", "MinLength", Held::Pointer),
    ("pattern", "Pattern", Held::Text),
    ("maxItems", "MaxItems", Held::Pointer),
    ("minItems", "MinItems", Held::Pointer),
    ("uniqueItems", "UniqueItems", Held::Flag),
    ("multipleOf", "MultipleOf", Held::Pointer),
    ("enum", "Enum", Held::RawList),
    ("maxProperties", "MaxProperties", Held::Pointer),
    ("minProperties", "MinProperties", Held::Pointer),
    ("required", "Required", Held::List),
    ("items", "Items", Held::SchemaOrList),
    ("allOf", "AllOf", Held::Schemas),
    ("oneOf", "OneOf", Held::Schemas),
    ("anyOf", "AnyOf", Held::Schemas),
    ("not", "Not", Held::Schema),
    ("properties", "Properties", Held::Named),
    ("additionalProperties", "AdditionalProperties", Held::SchemaOrFlag),
    ("patternProperties", "PatternProperties", Held::Named),
    ("dependencies", "Dependencies", Held::Raw),
    ("additionalItems", "AdditionalItems", Held::SchemaOrFlag),
    ("definitions", "Definitions", Held::Named),
    ("externalDocs", "ExternalDocs", Held::Raw),
    ("example", "Example", Held::Raw),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields", Held::Pointer),
    ("x-kubernetes-embedded-resource", "XEmbeddedResource", Held::Flag),
    ("x-kubernetes-int-or-string", "XIntOrString", Held::Flag),
    ("x-kubernetes-list-map-keys", "XListMapKeys", Held::List),
    ("x-kubernetes-list-type", "XListType", Held::Pointer),
    ("x-kubernetes-map-type", "XMapType", Held::Pointer),
    ("x-kubernetes-validations", "XValidations", Held::Rules),
];

/// Whether Go holds nothing there. A pointer to a zero value is something, a bare `false` or `""` nothing.
pub fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s.is_empty(),
        Value::Object(m) => m.is_empty(),
        _ => false,
    }
}

/// `Invalid value: …` of something that is printed already.
pub fn invalid(at: &Path, shown: &str, detail: &str) -> Problem {
    // A value of its own would be quoted or sorted; what is printed stands before the detail as it is.
    Problem { kind: ProblemKind::Invalid, field: at.as_str().into(), value: None, detail: format!("{shown}: {detail}") }
}

/// A JSON tree as Go's encoder writes it, which escapes what HTML reads.
fn raw(v: &Value) -> String {
    let text = v.to_string();
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

fn list(v: &Value, each: impl Fn(&Value) -> String) -> String {
    match v.as_array() {
        Some(all) => format!("[{}]", all.iter().map(each).collect::<Vec<_>>().join(",")),
        None => "null".into(),
    }
}

fn member(v: &Value, name: &str, otherwise: &str) -> String {
    v.get(name).filter(|v| !v.is_null()).map_or_else(|| otherwise.to_owned(), raw)
}

pub fn schema(s: &Value) -> String {
    if s.is_null() {
        return "null".into();
    }
    let shown: Vec<String> = SCHEMA_FIELDS.iter().map(|(name, go, held)| format!("\"{go}\":{}", held_as(s.get(*name).unwrap_or(&NULL), *held))).collect();
    format!("{{{}}}", shown.join(","))
}

fn held_as(v: &Value, held: Held) -> String {
    match held {
        Held::Text if v.is_null() => "\"\"".into(),
        Held::Flag if v.is_null() => "false".into(),
        Held::Schema => schema(v),
        Held::Schemas => list(v, schema),
        Held::RawList => list(v, raw),
        Held::Rules => list(v, rule),
        Held::SchemaOrList if !v.is_null() => schema_or_list(v),
        Held::SchemaOrFlag if v.is_object() => format!("{{\"Allows\":true,\"Schema\":{}}}", schema(v)),
        Held::SchemaOrFlag if v.is_boolean() => format!("{{\"Allows\":{v},\"Schema\":null}}"),
        Held::Named => match v.as_object().filter(|m| !m.is_empty()) {
            Some(all) => format!("{{{}}}", all.iter().map(|(k, v)| format!("{}:{}", raw(&k.as_str().into()), schema(v))).collect::<Vec<_>>().join(",")),
            None => "null".into(),
        },
        _ => raw(v),
    }
}

/// `items` of a schema; an empty list is held as neither.
pub fn schema_or_list(v: &Value) -> String {
    match v {
        Value::Array(all) if !all.is_empty() => format!("{{\"Schema\":null,\"JSONSchemas\":{}}}", list(v, schema)),
        Value::Object(_) => format!("{{\"Schema\":{},\"JSONSchemas\":null}}", schema(v)),
        _ => "{\"Schema\":null,\"JSONSchemas\":null}".into(),
    }
}

/// An entry of `x-kubernetes-validations`.
pub fn rule(r: &Value) -> String {
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        member(r, "rule", "\"\""),
        member(r, "message", "\"\""),
        member(r, "messageExpression", "\"\""),
        member(r, "reason", "null"),
        member(r, "fieldPath", "\"\""),
        member(r, "optionalOldSelf", "null"),
    )
}

/// `spec.versions`; `moved` are fields that all versions share, which upstream holds once beside them.
pub fn versions(all: &Field, moved: &[&str]) -> String {
    list(all.value(), |v| {
        let own = |name: &str| v.get(name).filter(|x| !x.is_null() && !moved.contains(&name)).unwrap_or(&NULL);
        let validation = own("schema").as_object().map_or("null".into(), |s| format!("{{\"OpenAPIV3Schema\":{}}}", schema(s.get("openAPIV3Schema").unwrap_or(&NULL))));
        format!(
            "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\"Schema\":{validation},\"Subresources\":{},\"AdditionalPrinterColumns\":{},\"SelectableFields\":{}}}",
            member(v, "name", "\"\""),
            member(v, "served", "false"),
            member(v, "storage", "false"),
            member(v, "deprecated", "false"),
            member(v, "deprecationWarning", "null"),
            subresources(own("subresources")),
            list(own("additionalPrinterColumns"), column),
            list(own("selectableFields"), |f| format!("{{\"JSONPath\":{}}}", member(f, "jsonPath", "\"\""))),
        )
    })
}

fn subresources(s: &Value) -> String {
    if s.is_null() {
        return "null".into();
    }
    let scale = s.get("scale").filter(|x| !x.is_null()).map_or("null".into(), |x| {
        format!(
            "{{\"SpecReplicasPath\":{},\"StatusReplicasPath\":{},\"LabelSelectorPath\":{}}}",
            member(x, "specReplicasPath", "\"\""),
            member(x, "statusReplicasPath", "\"\""),
            member(x, "labelSelectorPath", "null")
        )
    });
    format!("{{\"Status\":{},\"Scale\":{scale}}}", member(s, "status", "null"))
}

fn column(c: &Value) -> String {
    format!(
        "{{\"Name\":{},\"Type\":{},\"Format\":{},\"Description\":{},\"Priority\":{},\"JSONPath\":{}}}",
        member(c, "name", "\"\""),
        member(c, "type", "\"\""),
        member(c, "format", "\"\""),
        member(c, "description", "\"\""),
        member(c, "priority", "0"),
        member(c, "jsonPath", "\"\""),
    )
}
