//! ControllerRevision: a remembered state of a controller (apps/v1).

use crate::field::{Field, immutable, non_negative};
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct ControllerRevision;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Controller", "string", "Controller of the object", |o, _| text(controller(o))),
    column("Revision", "string", "Revision indicates the revision of the state represented by Data.", |o, _| table::int_cell(o, &["revision"])),
    AGE,
];

impl Kind for ControllerRevision {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        served: &[Served { group: "apps", version: "v1", schema: "io.k8s.api.apps.v1.ControllerRevision" }],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {"name": "sample", "namespace": "default"},
            "revision": 1,
            "data": {"a": 1}
        }))
    }

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        match root.get("data").value() {
            serde_json::Value::Null => p.required(&root.at("data"), "data is mandatory"),
            serde_json::Value::Object(_) => {}
            _ => p.required(&root.at("data"), "data must be a valid JSON object"),
        }
        non_negative(p, &root, "revision");
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (now, before) = (Field::root(new), Field::root(old));
        immutable(p, &now.get("data"), &before.get("data"));
        non_negative(p, &now, "revision");
    }
}

/// `statefulset.apps/web`
fn controller(o: &Object) -> String {
    let Some(owner) = o.owner_references().iter().find(|r| r["controller"] == true) else {
        return "<none>".into();
    };
    let part = |f: &str| owner[f].as_str().unwrap_or("");
    let kind = part("kind").to_lowercase();
    match part("apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", part("name")),
        None => format!("{kind}/{}", part("name")),
    }
}
