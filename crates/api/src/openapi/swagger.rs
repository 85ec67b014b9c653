//! OpenAPI v2 (Swagger 2.0) made from the v3 documents, so that both say the same of every kind, custom ones included.
//!
//! What Swagger 2 cannot say is left out: `oneOf` and its like, `nullable` (an object that may be null has no shape there), and defaults,
//! which upstream leaves out too.

use serde_json::{Map, Value, json};

/// One document from those of all group-versions. `version` is the server's.
pub fn swagger(documents: impl IntoIterator<Item = Value>, version: &str) -> Value {
    let mut parts = Parts::default();
    documents.into_iter().for_each(|doc| parts.add(doc, |_| true));
    let mut out = frame(version);
    out["paths"] = parts.paths.into();
    out["definitions"] = parts.definitions.into();
    out
}

/// What a document has besides paths and definitions.
pub fn frame(version: &str) -> Value {
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "securityDefinitions": {"BearerToken": {"description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}

/// What v3 documents add to the one of v2.
#[derive(Default)]
pub struct Parts {
    pub paths: Map<String, Value>,
    pub definitions: Map<String, Value>,
}

impl Parts {
    /// Takes in a v3 document; of its schemas those that are `wanted`, by name.
    pub fn add(&mut self, mut doc: Value, wanted: impl Fn(&str) -> bool) {
        if let Some(Value::Object(all)) = doc.get_mut("paths").map(Value::take) {
            self.paths.extend(all.into_iter().map(|(path, item)| (path, path_item(item))));
        }
        if let Some(Value::Object(all)) = doc.pointer_mut("/components/schemas").map(Value::take) {
            for (name, s) in all.into_iter().filter(|(name, _)| wanted(name)) {
                join(&mut self.definitions, name, schema(s));
            }
        }
    }
}

/// Types that stand in several documents (DeleteOptions) list the kinds of all.
fn join(definitions: &mut Map<String, Value>, name: String, new: Value) {
    const KINDS: &str = "x-kubernetes-group-version-kind";
    let Some(there) = definitions.get_mut(&name) else {
        definitions.insert(name, new);
        return;
    };
    let (Some(Value::Array(all)), Some(Value::Array(more))) = (there.get_mut(KINDS), new.get(KINDS)) else { return };
    let missing: Vec<Value> = more.iter().filter(|g| !all.contains(g)).cloned().collect();
    all.extend(missing);
}

/// A v3 schema as a v2 one.
fn schema(v3: Value) -> Value {
    let Value::Object(mut s) = v3 else { return v3 };
    // A reference with a description beside it, which 3.0 can only wrap.
    if let Some([only]) = s.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
        && let Some(to) = only.get("$ref").cloned()
    {
        s.insert("$ref".into(), to);
    }
    let text_or_number = s.get("oneOf").and_then(Value::as_array).is_some_and(|all| all.iter().any(|o| o["type"] == "string"));
    for gone in ["allOf", "anyOf", "oneOf", "not", "default"] {
        s.remove(gone);
    }
    if text_or_number && !s.contains_key("type") {
        s.insert("type".into(), "string".into());
    }
    let is = |s: &Map<String, Value>, key: &str| s.get(key) == Some(&Value::Bool(true));
    if is(&s, "x-kubernetes-int-or-string") {
        s.remove("type");
    }
    if is(&s, "x-kubernetes-preserve-unknown-fields") {
        ["items", "properties"].iter().for_each(|k| drop(s.remove(*k)));
    }
    if s.remove("nullable") == Some(Value::Bool(true)) {
        ["type", "items", "properties", "additionalProperties"].iter().for_each(|k| drop(s.remove(*k)));
    }
    if let Some(Value::String(to)) = s.get_mut("$ref") {
        *to = to.replace("#/components/schemas/", "#/definitions/");
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = s.get_mut(key) {
            *inner = schema(inner.take());
        }
    }
    for inner in s.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(|p| p.values_mut()) {
        *inner = schema(inner.take());
    }
    Value::Object(s)
}

fn path_item(v3: Value) -> Value {
    let Value::Object(all) = v3 else { return v3 };
    let convert = |(key, value): (String, Value)| {
        let value = if key == "parameters" { parameters(&value).into() } else { operation(value) };
        (key, value)
    };
    Value::Object(all.into_iter().map(convert).collect())
}

fn operation(v3: Value) -> Value {
    let Value::Object(mut o) = v3 else { return v3 };
    let mut all = o.remove("parameters").map(|p| parameters(&p)).unwrap_or_default();
    let mut consumes = Vec::new();
    if let Some(body) = o.remove("requestBody") {
        let content = body["content"].as_object().cloned().unwrap_or_default();
        let first = content.values().next().map(|c| schema(c["schema"].clone())).unwrap_or_default();
        let mut p = json!({"name": "body", "in": "body", "schema": first});
        if body["required"] == true {
            p["required"] = true.into();
        }
        all.insert(0, p);
        consumes = content.keys().cloned().collect();
    }
    if consumes.is_empty() {
        consumes.push("*/*".to_owned());
    }
    let mut produces: Vec<String> = Vec::new();
    for (code, r) in o.get_mut("responses").and_then(Value::as_object_mut).into_iter().flatten() {
        let content = r.as_object_mut().and_then(|r| r.remove("content"));
        let Some(Value::Object(content)) = content else { continue };
        if let Some(c) = content.values().next() {
            r["schema"] = schema(c["schema"].clone());
        }
        if code == "200" {
            produces = content.keys().cloned().collect();
        }
    }
    o.insert("consumes".into(), consumes.into());
    o.insert("produces".into(), produces.into());
    o.insert("schemes".into(), json!(["https"]));
    if !all.is_empty() {
        o.insert("parameters".into(), all.into());
    }
    Value::Object(o)
}

fn parameters(v3: &Value) -> Vec<Value> {
    let flat = |p: &Value| {
        let Value::Object(mut p) = p.clone() else { return p.clone() };
        if let Some(Value::Object(s)) = p.remove("schema") {
            p.extend(s);
        }
        Value::Object(p)
    };
    v3.as_array().into_iter().flatten().map(flat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_swagger_2_cannot_say_is_left_out() {
        let v3 = json!({
            "type": "object",
            "properties": {
                "port": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
                "spec": {"allOf": [{"$ref": "#/components/schemas/Spec"}], "description": "d", "default": {}},
                "maybe": {"type": "object", "nullable": true, "properties": {"a": {"type": "string"}}},
                "list": {"type": "array", "items": {"$ref": "#/components/schemas/Spec"}, "x-kubernetes-patch-merge-key": "name"},
            },
        });
        let want = json!({
            "type": "object",
            "properties": {
                "port": {"type": "string", "format": "int-or-string"},
                "spec": {"$ref": "#/definitions/Spec", "description": "d"},
                "maybe": {},
                "list": {"type": "array", "items": {"$ref": "#/definitions/Spec"}, "x-kubernetes-patch-merge-key": "name"},
            },
        });
        assert_eq!(schema(v3), want);
    }

    #[test]
    fn an_operation_names_its_types_and_its_body() {
        let v3 = json!({
            "parameters": [{"name": "dryRun", "in": "query", "schema": {"type": "string", "uniqueItems": true}}],
            "requestBody": {"content": {"*/*": {"schema": {"$ref": "#/components/schemas/A"}}}, "required": true},
            "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}}},
        });
        let got = operation(v3);
        assert_eq!(got["parameters"][0], json!({"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/A"}}));
        assert_eq!(got["parameters"][1], json!({"name": "dryRun", "in": "query", "type": "string", "uniqueItems": true}));
        assert_eq!((&got["consumes"], &got["produces"]), (&json!(["*/*"]), &json!(["application/json"])));
        assert_eq!(got["responses"]["200"], json!({"description": "OK", "schema": {"$ref": "#/definitions/A"}}));
    }
}
