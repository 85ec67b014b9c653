//! FlowSchema: which requests share a priority level (flowcontrol.apiserver.k8s.io/v1).

use crate::field::clear_status;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
use serde_json::json;

pub struct FlowSchema;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("PriorityLevel", "string", "`name` is the name of the priority level configuration being referenced Required.", |o, _| {
        table::str_cell(o, &["spec", "priorityLevelConfiguration", "name"])
    }),
    column(
        "MatchingPrecedence",
        "string",
        "`matchingPrecedence` is used to choose among the FlowSchemas that match a given request. The chosen FlowSchema is among those with the numerically lowest (which we take to be logically highest) MatchingPrecedence.  Each MatchingPrecedence value must be ranged in [1,10000]. Note that if the precedence is not specified, it will be set to 1000 as default.",
        |o, _| table::int_cell(o, &["spec", "matchingPrecedence"]),
    ),
    column(
        "DistinguisherMethod",
        "string",
        "`distinguisherMethod` defines how to compute the flow distinguisher for requests that match this schema. `nil` specifies that the distinguisher is disabled and thus will always be the empty string.",
        |o, _| table::str_or(o, &["spec", "distinguisherMethod", "type"], "<none>"),
    ),
    AGE,
    column("MissingPL", "string", "references a broken or non-existent PriorityLevelConfiguration", |o, _| text(missing_level(o))),
];

impl Kind for FlowSchema {
    type Object = Object;
    const INFO: Info = Info {
        kind: "FlowSchema",
        plural: "flowschemas",
        singular: "flowschema",
        scope: Scope::Cluster,
        served: &[Served { group: "flowcontrol.apiserver.k8s.io", version: "v1", schema: "io.k8s.api.flowcontrol.v1.FlowSchema" }],
        subresources: &[status("FlowSchema")],
        generation: true,
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "FlowSchema",
            "metadata": {"name": "sample"},
            "spec": {"priorityLevelConfiguration": {"name": "workload-low"}, "matchingPrecedence": 500}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }
}

fn missing_level(o: &Object) -> &str {
    table::condition(o, "Dangling").and_then(|c| c["status"].as_str()).unwrap_or("?")
}
