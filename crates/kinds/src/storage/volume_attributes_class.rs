//! VolumeAttributesClass: changeable parameters of volumes (storage.k8s.io/v1, storage.k8s.io/v1beta1).

use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
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
}
