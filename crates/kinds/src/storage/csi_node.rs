//! CSINode: the storage drivers of a node (storage.k8s.io/v1).

use crate::core::pod::volumes::csi_driver;
use crate::field::{Field, IMMUTABLE, NEGATIVE, invalid_each, same, without};
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;
use std::collections::BTreeSet;

pub struct CSINode;

const COLUMNS: &[Column<Object>] =
    &[NAME, column("Drivers", "integer", "Drivers indicates the number of CSI drivers registered on the node", |o, _| table::len_cell(o, &["spec", "drivers"])), AGE];

impl Kind for CSINode {
    type Object = Object;
    const INFO: Info = Info {
        kind: "CSINode",
        plural: "csinodes",
        singular: "csinode",
        scope: Scope::Cluster,
        served: &[Served { group: "storage.k8s.io", version: "v1", schema: "io.k8s.api.storage.v1.CSINode" }],
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": "sample"},
            "spec": {"drivers": [{"name": "d.example", "nodeID": "n"}]}
        }))
    }

    fn validate(o: &Object, p: &mut Problems) {
        let mut seen = BTreeSet::new();
        for driver in Field::root(o).get("spec").items("drivers") {
            csi_driver(p, &driver.at("name"), driver.str("name"));
            let id = driver.str("nodeID");
            if id.is_empty() {
                p.required(&driver.at("nodeID"), "");
            } else if id.len() > NODE_ID_MAX_BYTES {
                p.invalid(&driver.at("nodeID"), id, format!("must be {NODE_ID_MAX_BYTES} characters or less"));
            }
            if driver.get("allocatable").int("count") < 0 {
                p.invalid(&driver.get("allocatable").at("count"), driver.get("allocatable").int("count"), NEGATIVE);
            }
            if !seen.insert(driver.str("name")) {
                p.duplicate(&driver.at("name"), driver.str("name"));
            }
            let mut keys = BTreeSet::new();
            for key in driver.strings("topologyKeys") {
                if key.is_empty() {
                    p.required(driver.path(), "");
                }
                if !keys.insert(key) {
                    p.duplicate(driver.path(), key);
                }
                invalid_each(p, driver.path(), key, names::qualified_name(key));
            }
        }
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        for driver in spec.list("drivers") {
            let kept = before.list("drivers").iter().find(|d| d["name"] == driver["name"]);
            if kept.is_some_and(|d| !same(&without(d, &["allocatable"]), &without(driver, &["allocatable"]))) {
                p.invalid(&spec.at("drivers"), driver.clone(), IMMUTABLE);
            }
        }
    }
}

const NODE_ID_MAX_BYTES: usize = 256;
