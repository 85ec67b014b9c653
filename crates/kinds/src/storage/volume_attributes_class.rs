//! VolumeAttributesClass: changeable parameters of volumes (storage.k8s.io/v1, storage.k8s.io/v1beta1).

use crate::field::{Field, invalid_each, same};
use crate::storage::storage_class::parameters;
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct VolumeAttributesClass;

const COLUMNS: &[Column<Object>] = &[NAME, column("DriverName", "string", "Name of the CSI driver", |o, _| table::str_cell(o, &["driverName"])), AGE];

impl Kind for VolumeAttributesClass {
    type Object = Object;
    const INFO: Info = Info {
        kind: "VolumeAttributesClass",
        plural: "volumeattributesclasses",
        singular: "volumeattributesclass",
        short_names: &["vac"],
        scope: Scope::Cluster,
        served: &[
            Served { group: "storage.k8s.io", version: "v1", schema: "io.k8s.api.storage.v1.VolumeAttributesClass" },
            Served { group: "storage.k8s.io", version: "v1beta1", schema: "io.k8s.api.storage.v1beta1.VolumeAttributesClass" },
        ],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "VolumeAttributesClass",
            "metadata": {"name": "sample"},
            "driverName": "d.example",
            "parameters": {"a": "b"}
        }))
    }

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        match root.str("driverName") {
            "" => p.required(&root.at("driverName"), ""),
            name => {
                let lower = name.to_lowercase();
                invalid_each(p, &root.at("driverName"), &lower, names::qualified_name(&lower));
            }
        }
        if root.map_len("parameters") == 0 {
            p.required(&root.at("parameters"), "must contain at least one key/value pair");
        }
        parameters(&root, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        let (now, before) = (Field::root(new), Field::root(old));
        for name in ["driverName", "parameters"] {
            if !same(now.get(name).value(), before.get(name).value()) {
                p.forbidden(&now.at(name), format!("updates to {name} are forbidden."));
            }
        }
    }
}
