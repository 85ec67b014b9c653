//! LimitRange: smallest, largest and default requests in a namespace (v1).

use crate::table::{CREATED_AT, NAME};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct LimitRange;

const COLUMNS: &[Column<Object>] = &[NAME, CREATED_AT];

impl Kind for LimitRange {
    type Object = Object;
    const INFO: Info = Info {
        kind: "LimitRange",
        plural: "limitranges",
        singular: "limitrange",
        short_names: &["limits"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.LimitRange" }],
        create_on_update: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}
        }))
    }
}
