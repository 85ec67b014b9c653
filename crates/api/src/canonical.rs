//! The canonical tree: what Go's encoder would write of the same object (lessons 41, 42).
//!
//! Zero values of `omitempty` fields go, fields without `omitempty` and structs held by value are always there, pointers keep what was
//! given. Quantities and times are already canonical when they come from the decoder; [`canonicalise`] makes them so when they come from
//! elsewhere, and leaves alone what it cannot read (validation's business). [`as_decoded`] is the form that rules see: an empty list or map
//! that the client wrote is still there, since rules of upstream tell it from an absent one and show it in their messages.

use crate::TypeRef;
use crate::quantity::Quantity;
use crate::schema::{FieldRef, ObjectRef, Presence, Scalar, Shape};
use crate::time;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Brings a tree of this type to the form that is stored and answered. Idempotent.
pub fn canonicalise(v: &mut Value, ty: TypeRef) {
    walk(v, ty, Empty::Dropped);
}

/// Brings a tree of this type to the form that rules see: as [`canonicalise`], but empty lists and maps stay. Idempotent.
pub fn as_decoded(v: &mut Value, ty: TypeRef) {
    walk(v, ty, Empty::Kept);
}

/// Equal in upstream's semantic sense, whichever form the two trees are in: a missing list, map or string equals an empty one.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| equal(v, y.get(k).unwrap_or(&Value::Null))) && y.iter().all(|(k, v)| x.contains_key(k) || equal(&Value::Null, v))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y)),
        (Value::Null, other) | (other, Value::Null) => match other {
            Value::Null => true,
            Value::Array(l) => l.is_empty(),
            Value::Object(m) => m.is_empty(),
            Value::String(s) => s.is_empty(),
            _ => false,
        },
        _ => a == b,
    }
}

/// What becomes of empty lists and maps.
#[derive(Clone, Copy, PartialEq)]
enum Empty {
    /// What is stored as protobuf knows none.
    Dropped,
    /// Go's JSON decoder makes them, not nil.
    Kept,
}

fn walk(v: &mut Value, ty: TypeRef, empty: Empty) {
    match ty.resolve(v).shape() {
        Shape::Object(o) => {
            if let Value::Object(map) = v {
                object(map, o, empty);
            }
        }
        Shape::List(l) => {
            for item in v.as_array_mut().into_iter().flatten() {
                walk(item, l.item, empty);
            }
        }
        Shape::Map(m) => {
            for (_, value) in v.as_object_mut().into_iter().flatten() {
                walk(value, m.value, empty);
            }
        }
        Shape::Scalar(s) => scalar(v, s),
    }
}

fn object(map: &mut Map<String, Value>, o: ObjectRef, empty: Empty) {
    let mut amiss = Vec::new();
    for (f, value) in o.fields_beside(map) {
        let keep = match value {
            Some(v) if !v.is_null() => {
                walk(v, f.ty(), empty);
                match (f.presence(), &*v) {
                    (_, Value::Array(_) | Value::Object(_)) if empty == Empty::Kept => true,
                    (Presence::OmitEmpty, v) => !is_zero(v),
                    (Presence::Always, Value::Object(m)) => !(m.is_empty() && matches!(f.ty().shape(), Shape::Map(_))),
                    (Presence::Always, v) => !v.as_array().is_some_and(Vec::is_empty),
                    (Presence::Pointer | Presence::Nullable, _) => true,
                }
            }
            Some(_) => false,
            None if matches!(f.presence(), Presence::Always | Presence::Nullable) => false,
            None => continue,
        };
        if !keep {
            amiss.push(f);
        }
    }
    for f in amiss {
        match f.presence() {
            Presence::Always => drop(map.insert(f.name().to_owned(), zero(f))),
            Presence::Nullable => drop(map.insert(f.name().to_owned(), Value::Null)),
            _ => drop(map.remove(f.name())),
        }
    }
}

fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// Go's zero value of a field as JSON.
fn zero(f: FieldRef) -> Value {
    match f.ty().shape() {
        Shape::Object(o) => {
            let mut map = Map::new();
            object(&mut map, o, Empty::Dropped);
            Value::Object(map)
        }
        Shape::List(_) | Shape::Map(_) => Value::Null,
        Shape::Scalar(s) => match s {
            Scalar::String | Scalar::Duration => "".into(),
            Scalar::Bool => false.into(),
            Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString => 0.into(),
            Scalar::Quantity => "0".into(),
            Scalar::Bytes | Scalar::Time | Scalar::MicroTime | Scalar::Any => Value::Null,
        },
    }
}

fn scalar(v: &mut Value, s: Scalar) {
    let text = match (s, &*v) {
        (Scalar::Quantity, Value::String(t)) => Quantity::canonical(t).ok().filter(|c| c != t).map(Cow::into_owned),
        (Scalar::Quantity, Value::Number(n)) => Quantity::canonical(&n.to_string()).ok().map(Cow::into_owned),
        (Scalar::Time, Value::String(t)) if t.len() != 20 => time::parse(t).ok().map(time::format),
        (Scalar::MicroTime, Value::String(t)) if t.len() != 27 => time::parse_micro(t).or_else(|_| time::parse(t)).ok().map(time::format_micro),
        _ => None,
    };
    if let Some(t) = text.filter(|t| v.as_str() != Some(t)) {
        *v = t.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn canonical(name: &str, mut v: Value) -> Value {
        canonicalise(&mut v, crate::schema::builtin().get(name).unwrap());
        v
    }

    #[test]
    fn zero_values_are_dropped_or_kept_as_go_does() {
        let pod = canonical(
            "io.k8s.api.core.v1.Pod",
            json!({"metadata": {"name": "a", "labels": {}}, "spec": {"hostNetwork": false, "automountServiceAccountToken": false, "containers": [{"name": "c", "stdin": false}]}}),
        );
        assert_eq!(pod, json!({"metadata": {"name": "a"}, "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "resources": {}}]}, "status": {}}));
    }
    #[test]
    fn rules_see_the_empty_lists_and_maps_that_the_client_wrote() {
        let ty = crate::schema::builtin().get("io.k8s.api.core.v1.Pod").unwrap();
        let mut pod = json!({"metadata": {"name": "", "labels": {}}, "spec": {"containers": [], "volumes": [], "hostNetwork": false}});
        as_decoded(&mut pod, ty);
        assert_eq!(pod, json!({"metadata": {"labels": {}}, "spec": {"containers": [], "volumes": []}, "status": {}}));
        canonicalise(&mut pod, ty);
        assert_eq!(pod, json!({"metadata": {}, "spec": {"containers": null}, "status": {}}));
    }
    #[test]
    fn canonicalising_twice_changes_nothing() {
        let once =
            canonical("io.k8s.api.apps.v1.Deployment", json!({"spec": {"replicas": 0, "template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "1000m"}}}]}}}}));
        assert_eq!(once.pointer("/spec/template/spec/containers/0/resources/limits/cpu"), Some(&"1".into()));
        assert_eq!(canonical("io.k8s.api.apps.v1.Deployment", once.clone()), once);
    }
}
