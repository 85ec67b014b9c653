//! Metadata, of the resource itself and of resources embedded in it: read as ObjectMeta, and validated where embedded.
//!
//! Source: k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta.

use crate::structural::Node;
use keles_api::decode::{self, DecodeError, FieldValidation};
use keles_api::{Object, Path, Problems, meta, names, schema};
use serde_json::{Value, json};

/// A type whose metadata is read for all others.
const CARRIER: &str = "io.k8s.api.core.v1.ConfigMap";

/// Brings the metadata of an object at `path` (`""`: the resource itself) into ObjectMeta's form. Names of unknown fields go to `gone`; `Err` is
/// what Go says of a field of the wrong type.
pub fn read(o: &mut Value, path: &str, gone: &mut Vec<String>) -> Result<(), String> {
    let Some(m) = o.get_mut("metadata").filter(|m| !m.is_null()) else {
        if let Some(o) = o.as_object_mut() {
            o.remove("metadata");
        }
        return Ok(());
    };
    let Some(ty) = schema::builtin().get(CARRIER) else { return Ok(()) };
    let d = decode::conform(json!({"metadata": m.take()}), ty, FieldValidation::Warn).map_err(|e| match e {
        DecodeError::Value(why) | DecodeError::Syntax(why) => why,
        other => other.to_string(),
    })?;
    let prefix = |w: &str| if path.is_empty() { w.to_owned() } else { w.replacen("field \"", &format!("field \"{path}."), 1) };
    gone.extend(d.warnings.iter().filter_map(|w| prefix(w).strip_prefix("unknown field \"").map(|w| w.trim_end_matches('"').to_owned())));
    *m = d.object.at(&["metadata"]).clone();
    Ok(())
}

/// Reads the metadata of every embedded resource.
pub fn read_embedded(v: &mut Value, n: &Node, path: &Path, gone: &mut Vec<String>) -> Result<(), String> {
    if n.embedded && v.is_object() {
        read(v, path.as_str(), gone).map_err(|why| format!("{}: Invalid value: {why}", path.child("metadata")))?;
    }
    match v {
        Value::Object(o) => {
            for (k, v) in o.iter_mut() {
                if let Some(c) = n.child(k) {
                    read_embedded(v, c, &path.child(k), gone)?;
                }
            }
        }
        Value::Array(items) => {
            if let Some(n) = &n.items {
                for (i, v) in items.iter_mut().enumerate() {
                    read_embedded(v, n, &path.index(i), gone)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Checks type and metadata of every embedded resource.
pub fn validate(v: &Value, n: &Node, path: &Path, p: &mut Problems) {
    if let (true, Value::Object(_)) = (n.embedded, v) {
        one(v, path, p);
    }
    match v {
        Value::Object(o) => {
            for (k, v) in o {
                if let Some(c) = n.property(k) {
                    validate(v, c, &path.child(k), p);
                } else if let Some(c) = n.additional_schema() {
                    validate(v, c, &path.key(k), p);
                }
            }
        }
        Value::Array(items) => {
            if let Some(n) = &n.items {
                items.iter().enumerate().for_each(|(i, v)| validate(v, n, &path.index(i), p));
            }
        }
        _ => {}
    }
}

fn one(v: &Value, path: &Path, p: &mut Problems) {
    for field in ["apiVersion", "kind"] {
        if v.get(field).is_none() {
            p.required(&path.child(field), "must not be empty");
        }
    }
    for field in ["apiVersion", "kind"] {
        let at = path.child(field);
        match v.get(field) {
            None => {}
            Some(Value::String(s)) if s.is_empty() => p.invalid(&at, "", "must not be empty"),
            Some(Value::String(s)) if field == "apiVersion" => {
                if s.matches('/').count() > 1 {
                    p.invalid(&at, s.as_str(), format!("unexpected GroupVersion string: {s}"));
                }
            }
            Some(Value::String(s)) => {
                let wrong = names::dns1035_label(&s.to_lowercase(), false);
                if !wrong.is_empty() {
                    p.invalid(&at, s.as_str(), format!("may have mixed case, but should otherwise match: {}", wrong.join(",")));
                }
            }
            Some(other) => p.invalid(&at, other.clone(), "must be a string"),
        }
    }
    if let Some(m) = v.get("metadata").filter(|m| m.is_object()) {
        let mut o = Object(json!({ "metadata": m }));
        if o.name().is_empty() {
            o.set_meta("name", "fakename");
        }
        let namespaced = !o.namespace().is_empty();
        meta::validate_create_with(&o, namespaced, names::path_segment, meta::Finalizers::Any, &path.child("metadata"), p);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_resource_needs_a_type_and_sound_metadata() {
        let n = Node::parse(&json!({"type": "object", "properties": {"t": {"type": "object", "x-kubernetes-embedded-resource": true}}}));
        let mut p = Problems::new();
        validate(&json!({"t": {"kind": "A_B", "metadata": {"labels": {"a": "b c"}}}}), &n, &Path::root(), &mut p);
        let all: Vec<String> = p.iter().map(ToString::to_string).collect();
        assert_eq!(all[0], "t.apiVersion: Required value: must not be empty");
        assert!(all[1].starts_with("t.kind: Invalid value: \"A_B\": may have mixed case, but should otherwise match: "), "{all:?}");
        assert!(all[2].starts_with("t.metadata.labels: Invalid value: \"b c\""), "{all:?}");
    }

    #[test]
    fn unknown_metadata_fields_are_named_with_their_place() {
        let n = Node::parse(&json!({"type": "object", "properties": {"t": {"type": "object", "x-kubernetes-embedded-resource": true}}}));
        let (mut v, mut gone) = (json!({"t": {"metadata": {"name": "a", "bogus": 1}}}), Vec::new());
        read_embedded(&mut v, &n, &Path::root(), &mut gone).unwrap();
        assert_eq!(gone, ["t.metadata.bogus"]);
        assert_eq!(v, json!({"t": {"metadata": {"name": "a"}}}));
        let e = read_embedded(&mut json!({"t": {"metadata": {"labels": {"a": 1}}}}), &n, &Path::root(), &mut gone).unwrap_err();
        assert!(e.starts_with("t.metadata: Invalid value: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels"), "{e}");
    }
}
