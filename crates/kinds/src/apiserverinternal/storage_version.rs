//! StorageVersion: the versions that servers store a resource in (internal.apiserver.k8s.io/v1alpha1).

use crate::field::clear_status;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
use serde_json::{Value, json};

pub struct StorageVersion;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("CommonEncodingVersion", "string", "If all API server instances agree on the same encoding storage version, then this field is set to that version.", |o, _| {
        table::str_cell(o, &["status", "commonEncodingVersion"])
    }),
    column("StorageVersions", "string", "The reported versions per API server instance.", |o, _| text(versions(o))),
    AGE,
];

impl Kind for StorageVersion {
    type Object = Object;
    const INFO: Info = Info {
        kind: "StorageVersion",
        plural: "storageversions",
        singular: "storageversion",
        scope: Scope::Cluster,
        served: &[Served { group: "internal.apiserver.k8s.io", version: "v1alpha1", schema: "io.k8s.api.apiserverinternal.v1alpha1.StorageVersion" }],
        subresources: &[status("StorageVersion")],
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "internal.apiserver.k8s.io/v1alpha1", "kind": "StorageVersion", "metadata": {"name": "sample"}, "spec": {}}))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }
}

/// `server-1=v1,server-2=v1`
fn versions(o: &Object) -> String {
    let show = |v: &Value| format!("{}={}", v["apiServerID"].as_str().unwrap_or(""), v["encodingVersion"].as_str().unwrap_or(""));
    let all: Vec<String> = table::list(o.at(&["status", "storageVersions"])).iter().map(show).collect();
    if all.is_empty() { "<unset>".into() } else { table::shorten(&all) }
}
