//! Defaulting from a structural schema.
//!
//! Source: k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting/algorithm.go.

use crate::structural::Node;
use serde_json::Value;

/// Sets what is absent, or null where null is not allowed, and has a default; never inside what is absent. Idempotent.
pub fn apply(v: &mut Value, n: &Node) {
    match v {
        Value::Object(o) => {
            for (name, p) in &n.properties {
                if let Some(d) = &p.default {
                    match o.get(&**name) {
                        None => drop(o.insert((**name).to_owned(), (**d).clone())),
                        Some(Value::Null) if !p.nullable => drop(o.insert((**name).to_owned(), (**d).clone())),
                        _ => {}
                    }
                }
            }
            for (k, v) in o.iter_mut() {
                if let Some(p) = n.property(k) {
                    apply(v, p);
                } else if let Some(a) = n.additional_schema() {
                    instead_of_null(v, a);
                    apply(v, a);
                }
            }
        }
        Value::Array(items) => {
            if let Some(n) = &n.items {
                for v in items {
                    instead_of_null(v, n);
                    apply(v, n);
                }
            }
        }
        _ => {}
    }
}

fn instead_of_null(v: &mut Value, n: &Node) {
    if let (Value::Null, false, Some(d)) = (&*v, n.nullable, &n.default) {
        *v = (**d).clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_fill_what_is_absent_and_nulls_that_may_not_be() {
        let n = Node::parse(&json!({"type": "object", "properties": {
            "a": {"type": "object", "default": {}, "properties": {"x": {"type": "integer", "default": 1}}},
            "b": {"type": "object", "properties": {"y": {"type": "integer", "default": 2}}},
            "c": {"type": "string", "nullable": true, "default": "c"}, "d": {"type": "string", "default": "d"},
            "l": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
            "m": {"type": "object", "additionalProperties": {"type": "string", "default": "z"}}}}));
        let mut v = json!({"c": null, "d": null, "l": [{}, {"p": "UDP"}], "m": {"k": null}});
        apply(&mut v, &n);
        let once = json!({"a": {"x": 1}, "c": null, "d": "d", "l": [{"p": "TCP"}, {"p": "UDP"}], "m": {"k": "z"}});
        assert_eq!(v, once);
        apply(&mut v, &n);
        assert_eq!(v, once, "a second time changes nothing");
    }
}
