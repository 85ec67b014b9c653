//! ConfigMap: configuration that pods read as files or variables (v1).

use crate::core::config_data;
use crate::field::Field;
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Path, Problems, meta, names};
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

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        let mut bytes = 0;
        for (key, value) in root.map("data") {
            config_data::key(p, &root, "data", key);
            if root.get("binaryData").has(key) {
                p.invalid(&root.at("data").key(key), key, "duplicate of key present in binaryData");
            }
            bytes += value.as_str().unwrap_or("").len();
        }
        for (key, value) in root.map("binaryData") {
            config_data::key(p, &root, "binaryData", key);
            bytes += config_data::decoded_bytes(value);
        }
        if bytes > config_data::MAX_BYTES {
            // Upstream names the whole object by a path without a name.
            p.too_long(&Path::new("[]"), config_data::MAX_BYTES);
        }
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (now, before) = (Field::root(new), Field::root(old));
        config_data::only_if_mutable(&now, &before, &["data", "binaryData"], p);
        meta::validate_create(new, true, names::dns_subdomain, &Path::new("metadata"), p);
        Self::validate(new, p);
    }
}
