//! ResourceQuota: how much a namespace may use (v1).

use crate::subresource::status;
use crate::table::{AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct ResourceQuota;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Request", "string", "Request represents a minimum amount of cpu/memory that a container may consume.", |o, _| text(used(o, false))),
    column("Limit", "string", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.", |o, _| text(used(o, true))),
    AGE,
];

impl Kind for ResourceQuota {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: &["quota"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.ResourceQuota" }],
        subresources: &[status("ResourceQuota")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "sample", "namespace": "default"}, "spec": {"hard": {"pods": "10"}}}))
    }
}

/// `pods: 1/10, requests.cpu: 0/4`: the limits.* entries, or the others.
fn used(o: &Object, limits: bool) -> String {
    let hard = o.at(&["status", "hard"]).as_object();
    let mut all: Vec<String> = Vec::new();
    for (name, max) in hard.into_iter().flatten().filter(|(name, _)| name.starts_with("limits") == limits) {
        let now = o.at(&["status", "used", name]).as_str().unwrap_or("0");
        all.push(format!("{name}: {now}/{}", max.as_str().unwrap_or("0")));
    }
    all.sort();
    all.join(", ")
}
