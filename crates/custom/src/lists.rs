//! The laws of `x-kubernetes-list-type`: no item of a set and no key of a map twice.
//!
//! Source: k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype.

use crate::structural::{ListType, Node};
use keles_api::{Path, Problems};
use serde_json::{Map, Value};
use std::collections::HashSet;

pub fn validate(v: &Value, n: &Node, path: &Path, p: &mut Problems) {
    match v {
        Value::Array(items) => {
            match n.list_type {
                ListType::Set => twice(items, Value::clone, path, p),
                ListType::Map => twice(items, |v| keys_of(v, n), path, p),
                _ => {}
            }
            if let Some(n) = &n.items {
                items.iter().enumerate().for_each(|(i, v)| validate(v, n, &path.index(i), p));
            }
        }
        Value::Object(o) => {
            for (k, v) in o {
                if let Some(c) = n.property(k) {
                    validate(v, c, &path.child(k), p);
                } else if let Some(c) = n.additional_schema() {
                    validate(v, c, &path.key(k), p);
                }
            }
        }
        _ => {}
    }
}

fn keys_of(v: &Value, n: &Node) -> Value {
    Value::Object(n.map_keys.iter().filter_map(|k| Some(((**k).to_owned(), v.get(&**k)?.clone()))).collect::<Map<_, _>>())
}

/// Names each item that was there already, once a value.
fn twice(items: &[Value], identity: impl Fn(&Value) -> Value, path: &Path, p: &mut Problems) {
    let (mut seen, mut named) = (HashSet::new(), HashSet::new());
    for (i, v) in items.iter().enumerate() {
        let id = identity(v);
        let text = id.to_string();
        if !seen.insert(text.clone()) && named.insert(text) {
            p.duplicate(&path.index(i), id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sets_and_maps_hold_nothing_twice() {
        let n = Node::parse(&json!({"type": "object", "properties": {
            "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
            "l": {"type": "array", "items": {"type": "string"}}}}));
        let mut p = Problems::new();
        validate(&json!({"s": ["a", "b", "a", "a"], "m": [{"name": "x", "v": 1}, {"name": "x", "v": 2}], "l": ["a", "a"]}), &n, &Path::root(), &mut p);
        let mut all: Vec<String> = p.iter().map(ToString::to_string).collect();
        all.sort();
        assert_eq!(all, ["m[1]: Duplicate value: {\"name\":\"x\"}", "s[2]: Duplicate value: \"a\""]);
    }
}
