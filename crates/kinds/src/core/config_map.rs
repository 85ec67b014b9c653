//! ConfigMap: configuration that pods read as files or variables (v1).

use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct ConfigMap;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Data",
        "string",
        "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The keys stored in Data must not overlap with the keys in the BinaryData field, this is enforced during validation process.",
        |o, _| (table::len(o.at(&["data"])) + table::len(o.at(&["binaryData"]))).into(),
    ),
    AGE,
];

impl Kind for ConfigMap {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.ConfigMap" }],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sample", "namespace": "default"}, "data": {"a": "1"}}))
    }
}
