//! Event: something that happened to an object (v1, events.k8s.io/v1).

use crate::field::{Field, IMMUTABLE, immutable, invalid_each, same};
use crate::selectable;
use crate::table::{self, NAME, column, text, wide};
use keles_api::{Object, Path, Problem, ProblemKind, Problems, names};
use keles_registry::kind::{Cells, Column, Info, Kind, MetadataChecks, NameRule, Request, Selectable, Served, UnknownSelector};
use serde_json::json;
use std::borrow::Cow;

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
            Selectable { path: "source", value: reporter },
            Selectable { path: "type", value: |o| selectable::text(o, &["type"]) },
            Selectable { path: "regarding.kind", value: |o| selectable::text(o, &["involvedObject", "kind"]) },
            Selectable { path: "regarding.namespace", value: |o| selectable::text(o, &["involvedObject", "namespace"]) },
            Selectable { path: "regarding.name", value: |o| selectable::text(o, &["involvedObject", "name"]) },
            Selectable { path: "regarding.uid", value: |o| selectable::text(o, &["involvedObject", "uid"]) },
            Selectable { path: "regarding.apiVersion", value: |o| selectable::text(o, &["involvedObject", "apiVersion"]) },
            Selectable { path: "regarding.resourceVersion", value: |o| selectable::text(o, &["involvedObject", "resourceVersion"]) },
            Selectable { path: "regarding.fieldPath", value: |o| selectable::text(o, &["involvedObject", "fieldPath"]) },
            Selectable { path: "reportingController", value: |o| selectable::text(o, &["reportingComponent"]) },
        ],
        unknown_selector: UnknownSelector::NotSupported,
        create_on_update: true,
        name_rule: NameRule::PathSegment,
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

    /// Of old events only what holds for every kind is asked.
    fn metadata_checks(r: &Request) -> MetadataChecks {
        if r.group == EVENTS_GROUP { MetadataChecks::USUAL } else { MetadataChecks { update: 2, last: true, ..MetadataChecks::USUAL } }
    }

    fn validate_request(new: &Object, old: Option<&Object>, r: &Request, p: &mut Problems) {
        let root = Field::root(new);
        let is_new_api = r.group == EVENTS_GROUP;
        legacy(&root, if is_new_api { "reportingController" } else { "reportingComponent" }, p);
        match (is_new_api, old) {
            (false, _) => {}
            (true, None) => strict(&root, p),
            (true, Some(old)) => unchanged(&root, &Field::root(old), p),
        }
    }

    /// Each group selects by its own names.
    fn selects(served: &Served, field: &str) -> bool {
        let of_new = field.starts_with("regarding.") || field == "reportingController";
        let of_old = field.starts_with("involvedObject.") || matches!(field, "reportingComponent" | "source");
        if served.group == EVENTS_GROUP { !of_old } else { !of_new }
    }

    fn convert(o: &mut Object, from: &str, _to: &str) {
        let to_new = !from.starts_with(EVENTS_GROUP);
        for (old, new) in RENAMED {
            let (from, to) = if to_new { (old, new) } else { (new, old) };
            if let Some(v) = o.root_mut().remove(*from) {
                o.root_mut().insert((*to).into(), v);
            }
        }
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

/// Who reported an event, in either way of saying it.
fn reporter(o: &Object) -> Cow<'_, str> {
    match o.str_at(&["source", "component"]) {
        "" => o.str_at(&["reportingComponent"]).into(),
        component => component.into(),
    }
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

const EVENTS_GROUP: &str = "events.k8s.io";
/// Fields that the two groups call differently: `v1` and `events.k8s.io/v1`.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];
const WORD_MAX_BYTES: usize = 128;
const NOTE_MAX_BYTES: usize = 1024;

/// What every event must keep to; most of it only when it has an eventTime, since old clients set none.
fn legacy(root: &Field, controller: &str, p: &mut Problems) {
    let (namespace, about, is_new) = (root.get("metadata").str("namespace"), root.get("involvedObject"), !root.str("eventTime").is_empty());
    let place = about.str("namespace");
    let fits = match (is_new, place) {
        (true, "") => matches!(namespace, "default" | "kube-system"),
        (true, _) => true,
        (false, "") => matches!(namespace, "" | "default"),
        (false, place) => place == namespace,
    };
    if !fits {
        p.invalid(&about.at("namespace"), place, "does not match event.namespace");
    }
    if !is_new {
        return;
    }
    let reporter = root.str("reportingComponent");
    if reporter.is_empty() {
        p.required(&Path::new(controller), "");
    }
    invalid_each(p, &Path::new(controller), reporter, names::qualified_name(reporter));
    for (name, needed, max) in [("reportingInstance", true, WORD_MAX_BYTES), ("action", true, WORD_MAX_BYTES), ("reason", true, WORD_MAX_BYTES), ("message", false, NOTE_MAX_BYTES)]
    {
        let value = root.str(name);
        if needed && value.is_empty() {
            p.required(&root.at(name), "");
        }
        if value.len() > max {
            p.invalid(&root.at(name), "", format!("can have at most {max} characters"));
        }
    }
}

/// What a new event of the newer group must hold, and may not.
fn strict(root: &Field, p: &mut Problems) {
    let name = root.get("metadata").str("name");
    if !name.is_empty() {
        invalid_each(p, &root.get("metadata").at("name"), name, names::dns_subdomain(name, false));
    }
    series(root, p);
    if root.str("eventTime").is_empty() {
        p.required(&root.at("eventTime"), "");
    }
    let kind = root.str("type");
    if kind != "Normal" && kind != "Warning" {
        p.invalid(&root.at("type"), "", format!("has invalid value: {kind}"));
    }
    let source = root.get("source");
    let unset = [("firstTimestamp", root.has("firstTimestamp")), ("lastTimestamp", root.has("lastTimestamp")), ("count", root.int("count") != 0)];
    for (name, _) in unset.iter().filter(|u| u.1) {
        p.invalid(&root.at(name), "", "needs to be unset");
    }
    if !source.str("component").is_empty() || !source.str("host").is_empty() {
        p.invalid(source.path(), "", "needs to be unset");
    }
}

fn series(root: &Field, p: &mut Problems) {
    let series = root.get("series");
    if !series.is_set() {
        return;
    }
    if series.int("count") < 2 {
        p.invalid(&series.at("count"), "", "should be at least 2");
    }
    if series.str("lastObservedTime").is_empty() {
        p.required(&series.at("lastObservedTime"), "");
    }
}

const REFERENCE: &[(&str, &str)] = &[
    ("Kind", "kind"),
    ("Namespace", "namespace"),
    ("Name", "name"),
    ("UID", "uid"),
    ("APIVersion", "apiVersion"),
    ("ResourceVersion", "resourceVersion"),
    ("FieldPath", "fieldPath"),
];
const SOURCE: &[(&str, &str)] = &[("Component", "component"), ("Host", "host")];

/// Upstream prints structs with the names of their Go fields, in Go's order; only `related` may be absent.
fn go_struct(of: &Field, fields: &[(&str, &str)]) -> String {
    if !of.is_set() && of.path().as_str() == "related" {
        return "null".into();
    }
    let shown: Vec<String> = fields.iter().map(|(go, name)| format!("{:?}:{}", go, json!(of.str(name)))).collect();
    format!("{{{}}}", shown.join(","))
}

/// In the newer group only the series of an event changes.
fn unchanged(new: &Field, old: &Field, p: &mut Problems) {
    if !same(new.get("series").value(), old.get("series").value()) {
        series(new, p);
    }
    for (name, fields) in [("involvedObject", REFERENCE), ("source", SOURCE), ("related", REFERENCE)] {
        if !same(new.get(name).value(), old.get(name).value()) {
            p.push(Problem { kind: ProblemKind::Invalid, field: name.into(), value: None, detail: format!("{}: {IMMUTABLE}", go_struct(&new.get(name), fields)) });
        }
    }
    for name in ["firstTimestamp", "lastTimestamp"] {
        immutable(p, &new.get(name), &old.get(name));
    }
    if new.int("count") != old.int("count") {
        p.invalid(&new.at("count"), new.int("count"), IMMUTABLE);
    }
    for (name, shown) in [
        ("reason", "reason"),
        // Upstream asks twice.
        ("reason", "reason"),
        ("message", "message"),
        ("type", "type"),
        ("action", "action"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        if new.str(name) != old.str(name) {
            p.invalid(&new.at(shown), new.str(name), IMMUTABLE);
        }
    }
    let at = |f: &Field| f.str("eventTime").parse::<jiff::Timestamp>().ok().map(|t| t.as_microsecond());
    if at(new) != at(old) {
        p.invalid(&new.at("eventTime"), new.get("eventTime").value().clone(), IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_the_same_in_both_groups() {
        let core = Event::example();
        let mut o = core.clone();
        Event::convert(&mut o, "v1", "events.k8s.io/v1");
        assert_eq!(o.str_at(&["note"]), "m");
        assert_eq!(o.str_at(&["regarding", "name"]), "p");
        Event::convert(&mut o, "events.k8s.io/v1", "v1");
        assert_eq!(o, core);
    }

    #[test]
    fn the_newer_group_asks_for_more() {
        let check = |group: &str| {
            let mut p = Problems::new();
            Event::validate_request(&Event::example(), None, &Request { group: group.into(), ..Request::default() }, &mut p);
            p.aggregate()
        };
        assert_eq!(check(""), "[]");
        assert_eq!(check(EVENTS_GROUP), "eventTime: Required value");
    }

    #[test]
    fn selectors_of_both_groups_find_the_same_event() {
        let o = Event::example();
        for (path, value) in [("involvedObject.name", "p"), ("regarding.name", "p"), ("regarding.kind", "Pod")] {
            let found = Event::INFO.selectable.iter().find(|s| s.path == path).expect("selectable");
            assert_eq!((found.value)(&o), value, "{path}");
        }
    }

    #[test]
    fn each_group_selects_by_its_own_names() {
        let [core, new] = Event::INFO.served else { panic!("two groups serve events") };
        assert!(Event::selects(core, "involvedObject.name") && !Event::selects(core, "regarding.name"));
        assert!(Event::selects(new, "regarding.name") && !Event::selects(new, "involvedObject.name"));
        assert!(Event::selects(core, "reason") && Event::selects(new, "reason"));
    }

    #[test]
    fn what_an_event_is_about_is_fixed_in_the_newer_group() {
        let old = Event::example();
        let mut new = old.clone();
        new.0["involvedObject"]["name"] = "q".into();
        let mut p = Problems::new();
        unchanged(&Field::root(&new), &Field::root(&old), &mut p);
        let shown = "{\"Kind\":\"Pod\",\"Namespace\":\"default\",\"Name\":\"q\",\"UID\":\"\",\"APIVersion\":\"\",\"ResourceVersion\":\"\",\"FieldPath\":\"\"}";
        assert_eq!(p.aggregate(), format!("involvedObject: Invalid value: {shown}: field is immutable"));
    }
}
