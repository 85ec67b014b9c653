//! `additionalPrinterColumns`: what `kubectl get` shows of a custom resource.
//!
//! Source: k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor.

use crate::jsonpath::JsonPath;
use crate::validate::go_float;
use keles_api::{Object, time};
use keles_registry::{Cells, ColumnInfo};
use serde_json::Value;

const NAME_TEXT: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const AGE_TEXT: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

#[derive(Debug)]
pub struct Column {
    info: ColumnInfo,
    /// `None` is the name.
    path: Option<JsonPath>,
}

/// The columns of a version, its name first; an age where the definition says nothing.
pub fn of_version(version: &Value) -> Vec<Column> {
    let text = |v: &Value, k: &str| v[k].as_str().unwrap_or_default().to_owned();
    let name = ColumnInfo { name: "Name".into(), kind: "string".into(), format: "name".into(), description: NAME_TEXT.into(), priority: 0 };
    let mut all = vec![Column { info: name, path: None }];
    let own = version["additionalPrinterColumns"].as_array().map(Vec::as_slice).unwrap_or_default();
    if own.is_empty() {
        let info = ColumnInfo { name: "Age".into(), kind: "date".into(), format: "".into(), description: AGE_TEXT.into(), priority: 0 };
        all.push(Column { info, path: JsonPath::parse(".metadata.creationTimestamp") });
        return all;
    }
    all.extend(own.iter().filter_map(|c| {
        let json_path = text(c, "jsonPath");
        let description = match text(c, "description") {
            d if d.is_empty() => format!("Custom resource definition column (in JSONPath format): {json_path}"),
            d => d,
        };
        let info = ColumnInfo {
            name: text(c, "name").into(),
            kind: text(c, "type").into(),
            format: text(c, "format").into(),
            description: description.into(),
            priority: c["priority"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or(0),
        };
        Some(Column { info, path: Some(JsonPath::parse(&json_path)?) })
    }));
    all
}

impl Column {
    pub fn info(&self) -> ColumnInfo {
        self.info.clone()
    }
    pub fn cell(&self, o: &Object, c: &Cells) -> Value {
        let Some(path) = &self.path else { return o.name().into() };
        path.find(&o.0).first().map_or(Value::Null, |v| shown(&self.info.kind, v, c))
    }
}

fn shown(kind: &str, v: &Value, c: &Cells) -> Value {
    match (kind, v) {
        (_, Value::Null) => Value::Null,
        ("string", v) => text(v).into(),
        ("integer", Value::Number(n)) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).map_or(Value::Null, Into::into),
        ("number", Value::Number(n)) => n.clone().into(),
        ("boolean", Value::Bool(b)) => (*b).into(),
        ("date", Value::String(s)) => match s.parse::<jiff::Timestamp>() {
            Ok(t) => time::human_duration(c.now_unix_seconds - t.as_second()).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

/// A value as Go prints it; lists and objects as JSON.
fn text(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Number(n) if !n.is_i64() && !n.is_u64() => go_float(n.as_f64().unwrap_or(0.0)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cells(columns: Value, o: Value) -> Vec<Value> {
        let c = Cells { now_unix_seconds: "2026-01-02T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_second() };
        of_version(&json!({"additionalPrinterColumns": columns})).iter().map(|col| col.cell(&Object(o.clone()), &c)).collect()
    }

    #[test]
    fn cells_follow_the_type_of_their_column() {
        let o = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"n": 3, "f": 1.5, "b": true, "s": "x", "l": ["p", "q"]}});
        let columns = json!([
            {"name": "N", "type": "integer", "jsonPath": ".spec.n"}, {"name": "NS", "type": "string", "jsonPath": ".spec.n"},
            {"name": "F", "type": "number", "jsonPath": ".spec.f"}, {"name": "B", "type": "boolean", "jsonPath": ".spec.b"},
            {"name": "L", "type": "string", "jsonPath": ".spec.l"}, {"name": "All", "type": "string", "jsonPath": ".spec.l[*]"},
            {"name": "Gone", "type": "string", "jsonPath": ".spec.gone"}, {"name": "Wrong", "type": "integer", "jsonPath": ".spec.s"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}, {"name": "Bad", "type": "date", "jsonPath": ".spec.s"}]);
        assert_eq!(
            cells(columns, o.clone()),
            [json!("a"), json!(3), json!("3"), json!(1.5), json!(true), json!("[\"p\",\"q\"]"), json!("p"), Value::Null, Value::Null, json!("24h"), json!("<invalid>")]
        );
        assert_eq!(cells(json!([]), o), [json!("a"), json!("24h")], "without columns of its own a kind shows its age");
    }
}
