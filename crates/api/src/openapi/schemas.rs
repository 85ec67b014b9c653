//! A type as an OpenAPI v3 schema.

use crate::TypeRef;
use crate::schema::{Descriptions, FieldRef, ListType, MapType, Presence, Scalar, Shape};
use serde_json::{Map, Value, json};

/// Types of which one field may be set, the name of that which says so (or none), and the fields with its values.
const UNIONS: &[(&str, &str, &[(&str, &str)])] = &[
    ("io.k8s.api.core.v1.AppArmorProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("io.k8s.api.core.v1.PodSchedulingGroup", "", &[("podGroupName", "PodGroupName")]),
    ("io.k8s.api.core.v1.SeccompProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("io.k8s.api.flowcontrol.v1.LimitResponse", "type", &[("queuing", "Queuing")]),
    ("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec", "type", &[("exempt", "Exempt"), ("limited", "Limited")]),
    ("io.k8s.api.flowcontrol.v1.Subject", "kind", &[("group", "Group"), ("serviceAccount", "ServiceAccount"), ("user", "User")]),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupSchedulingPolicy", "", &[("basic", "Basic"), ("gang", "Gang")]),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupTemplateReference", "", &[("workload", "Workload")]),
];

fn put_unions(name: &str, out: &mut Map<String, Value>) {
    let Some((_, discriminator, fields)) = UNIONS.iter().find(|(n, ..)| *n == name) else { return };
    let fields: Map<String, Value> = fields.iter().map(|(f, v)| ((*f).to_owned(), (*v).into())).collect();
    let mut union = json!({"fields-to-discriminateBy": fields});
    if !discriminator.is_empty() {
        union["discriminator"] = (*discriminator).into();
    }
    out.insert("x-kubernetes-unions".into(), json!([union]));
}

/// The schema of a named type, and the names of the types it refers to.
pub(super) fn of_type(ty: TypeRef, texts: &Descriptions) -> (Value, Vec<String>) {
    let mut refers_to = Vec::new();
    let mut out = Map::new();
    put_text(&mut out, texts.of_type(ty.name()));
    match ty.shape() {
        Shape::Object(o) => {
            let descriptions: std::collections::HashMap<&str, String> = texts.fields(o.name()).collect();
            let mut properties = Map::new();
            let mut required = Vec::new();
            for f in o.fields() {
                properties.insert(f.name().into(), property(f, descriptions.get(f.name()).map_or("", String::as_str), &mut refers_to));
                if f.required() {
                    required.push(f.name());
                }
            }
            out.insert("type".into(), "object".into());
            if !properties.is_empty() {
                out.insert("properties".into(), properties.into());
            }
            if !required.is_empty() {
                out.insert("required".into(), required.into());
            }
            let gvks: Vec<Value> = o.gvks().map(|(g, v, k)| json!({"group": g, "version": v, "kind": k})).collect();
            if !gvks.is_empty() {
                out.insert("x-kubernetes-group-version-kind".into(), gvks.into());
            }
            put_map_type(&mut out, o.map_type());
            put_unions(o.name(), &mut out);
        }
        _ => named_scalar(ty, &mut out),
    }
    (Value::Object(out), refers_to)
}

fn named_scalar(ty: TypeRef, out: &mut Map<String, Value>) {
    let last = ty.name().rsplit('.').next().unwrap_or_default();
    let facts = match last {
        "Quantity" => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        "IntOrString" => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        "Time" | "MicroTime" => json!({"type": "string", "format": "date-time"}),
        "Duration" => json!({"type": "string"}),
        "RawExtension" | "FieldsV1" | "Patch" => json!({"type": "object"}),
        _ => json!({}),
    };
    if let Value::Object(facts) = facts {
        out.extend(facts);
    }
}

fn put_text(out: &mut Map<String, Value>, text: impl Into<String>) {
    let text = text.into();
    if !text.is_empty() {
        out.insert("description".into(), text.into());
    }
}

fn put_map_type(out: &mut Map<String, Value>, m: MapType) {
    let word = match m {
        MapType::Unset => return,
        MapType::Atomic => "atomic",
        MapType::Granular => "granular",
    };
    out.insert("x-kubernetes-map-type".into(), word.into());
}

fn property(f: FieldRef, text: &str, refers_to: &mut Vec<String>) -> Value {
    let mut out = match inline(f.ty(), refers_to) {
        Value::Object(o) => o,
        _ => Map::new(),
    };
    let default = f.default().cloned().or_else(|| enforced_default(f));
    // A reference has no siblings in OpenAPI 3.0.
    if out.contains_key("$ref") && (!text.is_empty() || default.is_some()) {
        out = Map::from_iter([("allOf".to_owned(), json!([out]))]);
    }
    put_text(&mut out, text);
    if let Some(d) = default {
        out.insert("default".into(), d);
    }
    let word = match f.list_type() {
        ListType::Unset => "",
        ListType::Atomic => "atomic",
        ListType::Set => "set",
        ListType::Map => "map",
    };
    if !word.is_empty() {
        out.insert("x-kubernetes-list-type".into(), word.into());
    }
    if !f.map_keys().is_empty() {
        out.insert("x-kubernetes-list-map-keys".into(), f.map_keys().iter().map(|k| k.as_ref()).collect());
    }
    if let Some(k) = f.merge_key() {
        out.insert("x-kubernetes-patch-merge-key".into(), k.into());
    }
    let s = f.strategies();
    let words: Vec<&str> = [(s.merge, "merge"), (s.replace, "replace"), (s.retain_keys, "retainKeys")].into_iter().filter_map(|(on, w)| on.then_some(w)).collect();
    if !words.is_empty() {
        out.insert("x-kubernetes-patch-strategy".into(), words.join(",").into());
    }
    put_map_type(&mut out, f.map_type());
    Value::Object(out)
}

/// Upstream's generator gives fields that are always written their zero value as default.
fn enforced_default(f: FieldRef) -> Option<Value> {
    if f.presence() != Presence::Always {
        return None;
    }
    zero(f.ty())
}

fn zero(ty: TypeRef) -> Option<Value> {
    match ty.shape() {
        Shape::Object(_) => Some(json!({})),
        Shape::Scalar(Scalar::String) if ty.name().is_empty() => Some("".into()),
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double) => Some(0.into()),
        Shape::Scalar(Scalar::Bool) => Some(false.into()),
        _ => None,
    }
}

fn inline(ty: TypeRef, refers_to: &mut Vec<String>) -> Value {
    if !ty.name().is_empty() {
        refers_to.push(ty.name().to_owned());
        return json!({"$ref": format!("#/components/schemas/{}", ty.name())});
    }
    match ty.shape() {
        Shape::List(l) => json!({"type": "array", "items": inline(l.item, refers_to)}),
        Shape::Map(m) => json!({"type": "object", "additionalProperties": inline(m.value, refers_to)}),
        Shape::Object(_) => json!({"type": "object"}),
        Shape::Scalar(s) => match s {
            Scalar::String | Scalar::Duration => json!({"type": "string"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Double => json!({"type": "number", "format": "double"}),
            Scalar::Time | Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
            Scalar::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Scalar::IntOrString => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            Scalar::Any => json!({"type": "object"}),
        },
    }
}
