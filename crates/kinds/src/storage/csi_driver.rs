//! CSIDriver: a storage driver and what it needs (storage.k8s.io/v1).

use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct CSIDriver;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("AttachRequired", "boolean", "attachRequired indicates this CSI volume driver requires an attach operation.", |o, _| {
        o.at(&["spec", "attachRequired"]).as_bool().unwrap_or(true).into()
    }),
    column("PodInfoOnMount", "boolean", "podInfoOnMount indicates this CSI volume driver requires additional pod information during mount operations.", |o, _| {
        table::bool_cell(o, &["spec", "podInfoOnMount"])
    }),
    column("StorageCapacity", "boolean", "storageCapacity indicates that the CSI volume driver wants pod scheduling to consider the storage capacity.", |o, _| {
        table::bool_cell(o, &["spec", "storageCapacity"])
    }),
    column("TokenRequests", "string", "tokenRequests indicates the CSI driver needs pods' service account tokens.", |o, _| text(token_requests(o))),
    column("RequiresRepublish", "boolean", "requiresRepublish indicates the CSI driver wants NodePublishVolume being periodically called.", |o, _| {
        table::bool_cell(o, &["spec", "requiresRepublish"])
    }),
    column("Modes", "string", "volumeLifecycleModes defines what kind of volumes this CSI volume driver supports.", |o, _| text(modes(o))),
    AGE,
];

impl Kind for CSIDriver {
    type Object = Object;
    const INFO: Info = Info {
        kind: "CSIDriver",
        plural: "csidrivers",
        singular: "csidriver",
        scope: Scope::Cluster,
        served: &[Served { group: "storage.k8s.io", version: "v1", schema: "io.k8s.api.storage.v1.CSIDriver" }],
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "sample"}, "spec": {}}))
    }
}

fn token_requests(o: &Object) -> String {
    let all: Vec<&str> = table::list(o.at(&["spec", "tokenRequests"])).iter().map(|t| t["audience"].as_str().unwrap_or("")).collect();
    if all.is_empty() { "<unset>".into() } else { all.join(",") }
}

fn modes(o: &Object) -> String {
    let all: Vec<&str> = table::list(o.at(&["spec", "volumeLifecycleModes"])).iter().filter_map(|m| m.as_str()).collect();
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}
