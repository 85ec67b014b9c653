//! What nodes and pods use as Tables and as metadata alone.
//!
//! Entry point: [`shown`]. Source: kubernetes-sigs/metrics-server pkg/api/table.go.

use keles_api::quantity::Quantity;
use keles_registry::{Form, MetaVersion};
use serde_json::{Value, json};

/// What is told of, in the order of the columns.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// A list or an object in the form that was asked for. `kind` is the objects' own; `include`, what of them a Table's rows carry.
pub fn shown(document: Value, kind: &str, form: Form, include: &str) -> Value {
    match form {
        Form::Object => document,
        Form::Table(v) => {
            let rows: Vec<Value> = objects(&document).into_iter().map(|o| row(o, kind, v, include)).collect();
            json!({"kind": "Table", "apiVersion": v.api_version(), "metadata": {}, "columnDefinitions": columns(), "rows": rows})
        }
        Form::Partial(v) if document["items"].is_array() => {
            let items: Vec<Value> = objects(&document).into_iter().map(|o| partial(o, v)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": v.api_version(), "metadata": {}, "items": items})
        }
        Form::Partial(v) => partial(&document, v),
    }
}

fn objects(document: &Value) -> Vec<&Value> {
    document["items"].as_array().map_or_else(|| vec![document], |items| items.iter().collect())
}

fn columns() -> Vec<Value> {
    let column = |name: &str, format: &str, description: &str| json!({"name": name, "type": "string", "format": format, "description": description, "priority": 0});
    let of_resources = RESOURCES.iter().map(|name| column(name, "quantity", ""));
    std::iter::once(column("Name", "name", "Name of the resource")).chain(of_resources).chain([column("Window", "duration", "")]).collect()
}

fn row(o: &Value, kind: &str, v: MetaVersion, include: &str) -> Value {
    let name = std::iter::once(o["metadata"]["name"].clone());
    let used = RESOURCES.iter().map(|resource| used(o, resource).into());
    let cells: Vec<Value> = name.chain(used).chain([o["window"].clone()]).collect();
    let mut row = json!({"cells": cells});
    match include {
        "None" => {}
        "Object" => {
            let mut whole = o.clone();
            super::typed(&mut whole, kind);
            row["object"] = whole;
        }
        _ => row["object"] = partial(o, v),
    }
    row
}

/// A node's, or that of a pod's containers together.
fn used(o: &Value, resource: &str) -> String {
    let own = std::iter::once(&o["usage"]);
    let usages = own.chain(o["containers"].as_array().into_iter().flatten().map(|c| &c["usage"]));
    let all = usages.filter_map(|usage| Quantity::parse(usage[resource].as_str()?).ok());
    all.reduce(Quantity::add).unwrap_or(Quantity::ZERO).to_string()
}

fn partial(o: &Value, v: MetaVersion) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": v.api_version(), "metadata": o["metadata"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Value {
        let container = |name: &str, cpu: &str, memory: &str| json!({"name": name, "usage": {"cpu": cpu, "memory": memory}});
        let containers = [container("a", "1500000n", "2Ki"), container("b", "2m", "1Mi")];
        json!({"kind": "PodMetricsList", "items": [{"metadata": {"name": "p", "namespace": "n"}, "window": "15.1s", "containers": containers}]})
    }

    #[test]
    fn a_table_has_a_row_a_pod_with_its_containers_together() {
        let table = shown(pods(), "PodMetrics", Form::Table(MetaVersion::V1), "");
        let names: Vec<&str> = table["columnDefinitions"].as_array().expect("columns").iter().filter_map(|c| c["name"].as_str()).collect();
        assert_eq!((names, &table["apiVersion"]), (vec!["Name", "cpu", "memory", "Window"], &json!("meta.k8s.io/v1")));
        let object = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "p", "namespace": "n"}});
        assert_eq!(table["rows"], json!([{"cells": ["p", "3500u", "1026Ki", "15.1s"], "object": object}]));
        let whole = shown(pods(), "PodMetrics", Form::Table(MetaVersion::V1), "Object");
        assert_eq!((&whole["rows"][0]["object"]["kind"], &whole["rows"][0]["object"]["window"]), (&json!("PodMetrics"), &json!("15.1s")));
        assert!(shown(pods(), "PodMetrics", Form::Table(MetaVersion::V1), "None")["rows"][0]["object"].is_null());
    }

    #[test]
    fn a_node_alone_is_a_table_of_one_row() {
        let node = || json!({"kind": "NodeMetrics", "metadata": {"name": "n1"}, "window": "10s", "usage": {"cpu": "250m", "memory": "512Mi"}});
        let table = shown(node(), "NodeMetrics", Form::Table(MetaVersion::V1beta1), "None");
        assert_eq!((&table["apiVersion"], &table["rows"]), (&json!("meta.k8s.io/v1beta1"), &json!([{"cells": ["n1", "250m", "512Mi", "10s"]}])));
        assert_eq!(shown(node(), "NodeMetrics", Form::Partial(MetaVersion::V1), ""), partial(&node(), MetaVersion::V1));
        assert_eq!(shown(node(), "NodeMetrics", Form::Object, ""), node());
    }
}
