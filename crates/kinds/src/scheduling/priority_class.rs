//! PriorityClass: how important pods are (scheduling.k8s.io/v1).

use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct PriorityClass;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Value", "integer", "value represents the integer value of this priority class.", |o, _| table::int_cell(o, &["value"])),
    column(
        "Global-Default",
        "boolean",
        "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class.",
        |o, _| table::bool_cell(o, &["globalDefault"]),
    ),
    column("PreemptionPolicy", "string", "preemptionPolicy is the Policy for preempting pods with lower priority.", |o, _| {
        table::str_or(o, &["preemptionPolicy"], "PreemptLowerPriority")
    }),
    AGE,
];

impl Kind for PriorityClass {
    type Object = Object;
    const INFO: Info = Info {
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        scope: Scope::Cluster,
        served: &[Served { group: "scheduling.k8s.io", version: "v1", schema: "io.k8s.api.scheduling.v1.PriorityClass" }],
        generation: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "sample"}, "value": 1000}))
    }
}
