//! Discovery and OpenAPI of `metrics.k8s.io/v1beta1`.

use super::{GROUP, VERSION};
use crate::aggregation::documents::{Documents, aggregate};
use keles_api::openapi;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const OWN: &str = "io.k8s.metrics.pkg.apis.metrics.v1beta1";

struct Row {
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
}
const ROWS: [Row; 2] = [Row { plural: "nodes", kind: "NodeMetrics", namespaced: false }, Row { plural: "pods", kind: "PodMetrics", namespaced: true }];

/// `/apis/metrics.k8s.io/v1beta1`
pub fn resource_list() -> Value {
    let row = |r: &Row| json!({"name": r.plural, "singularName": "", "namespaced": r.namespaced, "kind": r.kind, "verbs": ["get", "list"]});
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"), "resources": ROWS.iter().map(row).collect::<Vec<_>>()})
}

/// For the merged documents.
pub fn documents() -> Documents {
    let path = format!("apis/{GROUP}/{VERSION}");
    let hash = hex::encode_upper(Sha256::digest(v3().to_string()));
    let v2 = json!({"paths": paths(Form::V2), "definitions": definitions("#/definitions/")});
    Documents {
        resources: aggregate(&resource_list(), GROUP, VERSION),
        stale: false,
        v3: BTreeMap::from([(path.clone(), format!("/openapi/v3/{path}?hash={hash}"))]),
        v2_etag: hash,
        v2: Some(Arc::new(v2)),
    }
}

/// The document of the group-version, whole in itself.
pub fn v3() -> Value {
    let needed = [format!("{META}.ObjectMeta"), format!("{META}.ListMeta"), QUANTITY.to_owned()];
    let mut schemas: Map<String, Value> = openapi::components(keles_api::schema::builtin(), &keles_api::schema::descriptions(), needed).into_iter().collect();
    schemas.extend(definitions("#/components/schemas/"));
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": crate::paths::GIT_VERSION}, "paths": paths(Form::V3), "components": {"schemas": schemas}})
}

fn definitions(prefix: &str) -> Map<String, Value> {
    let reference = |name: &str| json!({"$ref": format!("{prefix}{name}")});
    // A description beside a reference is allowed around it alone.
    let of = |name: &str, text: &str| json!({"allOf": [reference(name)], "description": text});
    let plain = |name: &str, text: &str| {
        let mut v = reference(name);
        if prefix.contains("definitions") {
            v["description"] = text.into();
            v
        } else {
            of(name, text)
        }
    };
    let string = |text: &str| json!({"type": "string", "description": text});
    let usage = || json!({"type": "object", "additionalProperties": reference(QUANTITY), "description": "The memory usage is the memory working set."});
    let gvk = |kind: &str| json!([{"group": GROUP, "version": VERSION, "kind": kind}]);
    let typed = |mut properties: Value| {
        properties["apiVersion"] = string("APIVersion defines the versioned schema of this representation of an object.");
        properties["kind"] = string("Kind is a string value representing the REST resource this object represents.");
        properties
    };
    let measured = |mut properties: Value| {
        properties["metadata"] = plain(&format!("{META}.ObjectMeta"), "Standard object's metadata.");
        properties["timestamp"] = json!({"type": "string", "format": "date-time", "description": "The end of the interval from which metrics were collected."});
        properties["window"] = string("The length of the interval from which metrics were collected.");
        typed(properties)
    };
    let list = |kind: &str| {
        let items = json!({"type": "array", "items": reference(&format!("{OWN}.{kind}")), "description": format!("List of {kind}.")});
        let properties = typed(json!({"items": items, "metadata": plain(&format!("{META}.ListMeta"), "Standard list metadata.")}));
        json!({"type": "object", "description": format!("{kind}List is a list of {kind}."), "required": ["items"], "properties": properties, "x-kubernetes-group-version-kind": gvk(&format!("{kind}List"))})
    };
    let containers =
        json!({"type": "array", "items": reference(&format!("{OWN}.ContainerMetrics")), "description": "Metrics for all containers, collected within the same time window."});
    let rows = [
        (
            "ContainerMetrics",
            json!({"type": "object", "description": "What a container uses.", "required": ["name", "usage"],
            "properties": {"name": string("Container name, as in the pod's spec."), "usage": usage()}}),
        ),
        (
            "NodeMetrics",
            json!({"type": "object", "description": "What a node uses.", "required": ["timestamp", "window", "usage"],
            "properties": measured(json!({"usage": usage()})), "x-kubernetes-group-version-kind": gvk("NodeMetrics")}),
        ),
        (
            "PodMetrics",
            json!({"type": "object", "description": "What a pod's containers use.", "required": ["timestamp", "window", "containers"],
            "properties": measured(json!({"containers": containers})), "x-kubernetes-group-version-kind": gvk("PodMetrics")}),
        ),
        ("NodeMetricsList", list("NodeMetrics")),
        ("PodMetricsList", list("PodMetrics")),
    ];
    rows.into_iter().map(|(name, schema)| (format!("{OWN}.{name}"), schema)).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    V2,
    V3,
}

fn paths(form: Form) -> Map<String, Value> {
    let root = format!("/apis/{GROUP}/{VERSION}");
    let mut all = Map::new();
    for r in &ROWS {
        let list = format!("{}List", r.kind);
        all.insert(format!("{root}/{}", r.plural), operation(form, r, "list", &list, &[]));
        if r.namespaced {
            all.insert(format!("{root}/namespaces/{{namespace}}/{}", r.plural), operation(form, r, "list", &list, &["namespace"]));
            all.insert(format!("{root}/namespaces/{{namespace}}/{}/{{name}}", r.plural), operation(form, r, "get", r.kind, &["namespace", "name"]));
        } else {
            all.insert(format!("{root}/{}/{{name}}", r.plural), operation(form, r, "get", r.kind, &["name"]));
        }
    }
    all
}

fn operation(form: Form, r: &Row, action: &str, answer: &str, parameters: &[&str]) -> Value {
    let scope = if r.namespaced && !parameters.contains(&"namespace") { "ForAllNamespaces" } else { "" };
    let namespaced = if parameters.contains(&"namespace") { "Namespaced" } else { "" };
    let verb = if action == "get" { "read" } else { "list" };
    let parameter = |name: &&str| {
        let text = format!("{name} of the {}", if *name == "name" { r.kind } else { "objects" });
        match form {
            Form::V2 => json!({"name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true, "description": text}),
            Form::V3 => json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}, "description": text}),
        }
    };
    let selector = |name: &str| match form {
        Form::V2 => json!({"name": name, "in": "query", "type": "string", "uniqueItems": true, "description": "Limits the list."}),
        Form::V3 => json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}, "description": "Limits the list."}),
    };
    let mut all: Vec<Value> = parameters.iter().map(parameter).collect();
    if action == "list" {
        all.extend(["fieldSelector", "labelSelector"].map(selector));
    }
    let schema = format!("{OWN}.{answer}");
    let answers = match form {
        Form::V2 => json!({"200": {"description": "OK", "schema": {"$ref": format!("#/definitions/{schema}")}}, "401": {"description": "Unauthorized"}}),
        Form::V3 => {
            json!({"200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}}}, "401": {"description": "Unauthorized"}})
        }
    };
    let mut get = json!({
        "tags": ["metrics_v1beta1"], "description": if action == "get" { format!("read the specified {}", r.kind) } else { format!("list objects of kind {}", r.kind) },
        "operationId": format!("{verb}MetricsV1beta1{namespaced}{}{scope}", r.kind), "parameters": all, "responses": answers,
        "x-kubernetes-action": action, "x-kubernetes-group-version-kind": {"group": GROUP, "version": VERSION, "kind": r.kind},
    });
    if form == Form::V2 {
        (get["schemes"], get["consumes"], get["produces"]) = (json!(["https"]), json!(["*/*"]), json!(["application/json"]));
    }
    json!({"get": get})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(v: &Value, prefix: &str, found: &mut Vec<String>) {
        match v {
            Value::Object(m) => {
                found.extend(m.get("$ref").and_then(Value::as_str).map(|r| r.strip_prefix(prefix).expect("a reference within the document").to_owned()));
                m.values().for_each(|v| references(v, prefix, found));
            }
            Value::Array(a) => a.iter().for_each(|v| references(v, prefix, found)),
            _ => {}
        }
    }

    #[test]
    fn the_v3_document_is_whole_in_itself() {
        let doc = v3();
        let mut found = Vec::new();
        references(&doc, "#/components/schemas/", &mut found);
        let missing: Vec<_> = found.iter().filter(|name| doc["components"]["schemas"][name.as_str()].is_null()).collect();
        assert!(!found.is_empty() && missing.is_empty(), "{missing:?}");
        assert_eq!(doc["paths"].as_object().map(Map::len), Some(5));
    }
}
