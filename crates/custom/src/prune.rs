//! Pruning: fields that a structural schema does not know go, and are named.
//!
//! Source: k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning and …/defaulting/prune.go.

use crate::structural::{Additional, Node};
use serde_json::{Map, Value};

/// What every object has without its schema saying so.
const TYPE_AND_METADATA: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops what the schema of a whole resource does not know; returns the paths of what went, sorted.
pub fn prune(resource: &mut Value, root: &Node) -> Vec<String> {
    let mut p = Pruner::default();
    if root.preserve {
        p.skip(resource, Some(root), true);
    } else {
        p.prune(resource, Some(root), true);
    }
    p.gone.sort();
    p.gone
}

#[derive(Default)]
struct Pruner {
    path: String,
    gone: Vec<String>,
}

impl Pruner {
    fn under(&mut self, step: &str, f: impl FnOnce(&mut Self)) {
        let mark = self.path.len();
        if !step.starts_with('[') && mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(step);
        f(self);
        self.path.truncate(mark);
    }
    fn lose(&mut self, field: &str) {
        let path = if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) };
        self.gone.push(path);
    }

    fn prune(&mut self, v: &mut Value, n: Option<&Node>, root: bool) {
        if n.is_some_and(|n| n.preserve) {
            return self.skip(v, n, root);
        }
        match v {
            Value::Object(o) => self.fields(o, n, root),
            Value::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.under(&format!("[{i}]"), |p| p.prune(item, n.and_then(|n| n.items.as_deref()), false));
                }
            }
            _ => {}
        }
    }

    fn fields(&mut self, o: &mut Map<String, Value>, n: Option<&Node>, root: bool) {
        let mut gone = Vec::new();
        for (k, v) in o.iter_mut() {
            let Some(n) = n else {
                gone.push(k.clone());
                continue;
            };
            if (root || n.embedded) && TYPE_AND_METADATA.contains(&k.as_str()) {
                continue;
            }
            match (n.property(k), &n.additional) {
                (Some(p), _) => self.under(k, |s| s.prune(v, Some(p), false)),
                (None, Additional::Schema(a)) => self.under(k, |s| s.prune(v, Some(a), false)),
                (None, Additional::Any | Additional::Forbidden) => self.under(k, |s| s.prune(v, None, false)),
                (None, Additional::Absent) => gone.push(k.clone()),
            }
        }
        for k in gone {
            self.lose(&k);
            o.remove(&k);
        }
    }

    /// Below a node that keeps unknown fields the known ones are still pruned.
    fn skip(&mut self, v: &mut Value, n: Option<&Node>, root: bool) {
        let Some(n) = n else { return };
        match v {
            Value::Object(o) => {
                for (k, v) in o.iter_mut().filter(|(k, _)| !((root || n.embedded) && TYPE_AND_METADATA.contains(&k.as_str()))) {
                    if let Some(c) = n.child(k) {
                        self.under(k, |s| s.prune(v, Some(c), false));
                    }
                }
            }
            Value::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.under(&format!("[{i}]"), |s| s.skip(item, n.items.as_deref(), false));
                }
            }
            _ => {}
        }
    }
}

/// Drops every null that is neither allowed nor replaced by a default.
pub fn drop_nulls(v: &mut Value, n: &Node) {
    match v {
        Value::Object(o) => {
            o.retain(|k, v| {
                let (child, replaced) = match n.property(k) {
                    Some(p) => (Some(p), p.default.is_some()),
                    None => (n.additional_schema(), false),
                };
                let Some(c) = child else { return true };
                if v.is_null() && !c.nullable && !replaced {
                    return false;
                }
                drop_nulls(v, c);
                true
            });
        }
        Value::Array(items) => {
            if let Some(n) = &n.items {
                items.iter_mut().for_each(|v| drop_nulls(v, n));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pruned(schema: Value, mut v: Value) -> (Value, Vec<String>) {
        let gone = prune(&mut v, &Node::parse(&schema));
        (v, gone)
    }

    #[test]
    fn unknown_fields_go_and_are_named_in_order() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string"}, "l": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
            "m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "integer"}}}}}}}});
        let (v, gone) = pruned(
            schema,
            json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "z": 1,
                   "spec": {"a": "1", "b": 2, "l": [{"k": "x", "y": 1}], "m": {"q": {"x": 1, "w": 2}}}}),
        );
        assert_eq!(v, json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "spec": {"a": "1", "l": [{"k": "x"}], "m": {"q": {"x": 1}}}}));
        assert_eq!(gone, ["spec.b", "spec.l[0].y", "spec.m.q.w", "z"]);
    }

    #[test]
    fn preserved_fields_stay_but_known_ones_below_are_pruned() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}}}});
        let (v, gone) = pruned(schema, json!({"spec": {"free": {"x": [1]}, "known": {"a": "1", "b": 2}}}));
        assert_eq!(v, json!({"spec": {"free": {"x": [1]}, "known": {"a": "1"}}}));
        assert_eq!(gone, ["spec.known.b"]);
    }

    #[test]
    fn an_embedded_resource_keeps_its_type_and_metadata() {
        let schema = json!({"type": "object", "properties": {"t": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}});
        let (v, gone) = pruned(schema, json!({"t": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "other": 1}}));
        assert_eq!(v, json!({"t": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}}));
        assert_eq!(gone, ["t.other"]);
    }

    #[test]
    fn nulls_stay_only_where_they_are_allowed_or_a_default_comes() {
        let n = Node::parse(&json!({"type": "object", "properties": {
            "a": {"type": "string"}, "b": {"type": "string", "nullable": true}, "c": {"type": "string", "default": "x"}}}));
        let mut v = json!({"a": null, "b": null, "c": null});
        drop_nulls(&mut v, &n);
        assert_eq!(v, json!({"b": null, "c": null}));
    }
}
