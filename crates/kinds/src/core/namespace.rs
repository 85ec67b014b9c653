//! Namespace: a room for names (v1).

use crate::selectable;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, NameRule, Scope, Selectable, Served, Subresource, UnknownSelector};
use serde_json::json;

pub struct Namespace;

const COLUMNS: &[Column<Object>] = &[NAME, column("Status", "string", "The status of the namespace", |o, _| table::str_cell(o, &["status", "phase"])), AGE];

impl Kind for Namespace {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        scope: Scope::Cluster,
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Namespace" }],
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[Subresource { name: "finalize", kind: "Namespace", group: "", version: "", verbs: &["update"] }, status("Namespace")],
        selectable: &[Selectable { path: "status.phase", value: |o| selectable::text(o, &["status", "phase"]) }],
        unknown_selector: UnknownSelector::NotSupported,
        name_rule: NameRule::DnsLabel,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "sample"}}))
    }
}
