//! A version of a definition as it is published in OpenAPI v3.
//!
//! The schema goes out as it was written, with the type and metadata that every object has. Source:
//! k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder.

use serde_json::{Value, json};

pub const API_VERSION_TEXT: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
pub const KIND_TEXT: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const META_REFERENCE: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The published schema of a version; `schema` is its `openAPIV3Schema`.
pub fn of_version(schema: &Value, group: &str, version: &str, kind: &str) -> Value {
    let mut out = if schema.is_object() { schema.clone() } else { json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}) };
    embedded(&mut out, true);
    out["x-kubernetes-group-version-kind"] = json!([{"group": group, "version": version, "kind": kind}]);
    out
}

/// Gives the resource, and those embedded in it, the fields every object has.
fn embedded(s: &mut Value, root: bool) {
    let Some(o) = s.as_object_mut() else { return };
    for part in ["properties"] {
        o.get_mut(part).and_then(Value::as_object_mut).into_iter().flatten().for_each(|(_, v)| embedded(v, false));
    }
    for part in ["items", "additionalProperties"] {
        if let Some(v) = o.get_mut(part) {
            embedded(v, false);
        }
    }
    if root || o.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
        let properties = o.entry("properties").or_insert_with(|| json!({}));
        properties["apiVersion"] = json!({"type": "string", "description": API_VERSION_TEXT});
        properties["kind"] = json!({"type": "string", "description": KIND_TEXT});
        properties["metadata"] = json!({"description": METADATA, "allOf": [{"$ref": META_REFERENCE}]});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_schema_has_type_and_metadata() {
        let s = of_version(&json!({"type": "object", "properties": {"spec": {"type": "object"}}}), "g", "v1", "K");
        assert_eq!(s["properties"]["metadata"]["allOf"][0]["$ref"], META_REFERENCE);
        assert_eq!(s["properties"]["kind"]["type"], "string");
        assert_eq!(s["x-kubernetes-group-version-kind"], json!([{"group": "g", "version": "v1", "kind": "K"}]));
    }
}
