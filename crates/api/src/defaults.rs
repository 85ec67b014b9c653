//! Static defaults from the schema table: only what upstream marks `+default`. Dynamic defaults are the kinds' business.

use crate::TypeRef;
use crate::schema::Shape;
use serde_json::Value;

/// Sets every absent field that has a static default, in the object and everything it holds. Idempotent. A default is not set inside an
/// absent object.
pub fn apply_static(object: &mut Value, ty: TypeRef) {
    if !ty.has_defaults() {
        return;
    }
    match ty.resolve(object).shape() {
        Shape::Object(o) => {
            let Some(map) = object.as_object_mut() else { return };
            let mut missing = Vec::new();
            for (f, value) in o.fields_beside(map) {
                match (value, f.default()) {
                    (Some(Value::Null) | None, Some(d)) => missing.push((f.name(), d)),
                    (Some(v), _) => apply_static(v, f.ty()),
                    (None, None) => {}
                }
            }
            for (name, default) in missing {
                map.insert(name.to_owned(), default.clone());
            }
        }
        Shape::List(l) => object.as_array_mut().into_iter().flatten().for_each(|v| apply_static(v, l.item)),
        Shape::Map(m) => object.as_object_mut().into_iter().flatten().for_each(|(_, v)| apply_static(v, m.value)),
        Shape::Scalar(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn static_defaults_fill_only_what_is_absent() {
        let pod = crate::schema::builtin().get("io.k8s.api.core.v1.Pod").unwrap();
        let mut v = json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1}, {"containerPort": 2, "protocol": "UDP"}]}]}});
        apply_static(&mut v, pod);
        assert_eq!(v.pointer("/spec/containers/0/ports/0/protocol"), Some(&"TCP".into()));
        assert_eq!(v.pointer("/spec/containers/0/ports/1/protocol"), Some(&"UDP".into()));
        let once = v.clone();
        apply_static(&mut v, pod);
        assert_eq!(v, once);
    }

    #[test]
    fn types_know_whether_defaults_are_below_them() {
        let of = |name: &str| crate::schema::builtin().get(name).unwrap();
        let pod = of("io.k8s.api.core.v1.Pod");
        for (path, has) in [
            (&["spec", "containers", "ports", "protocol"][..], false),
            (&["spec", "containers", "ports"], true),
            (&["spec"], true),
            (&["metadata"], false),
            (&["status", "phase"], false),
        ] {
            assert_eq!(pod.walk(path).unwrap().has_defaults(), has, "{path:?}");
        }
        // A type that holds itself, and none.
        assert!(!of("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").has_defaults());
        assert!(of("io.k8s.api.apps.v1.Deployment").has_defaults());
    }
}
