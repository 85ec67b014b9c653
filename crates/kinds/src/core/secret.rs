//! Secret: bytes that pods read and people should not (v1).

use crate::selectable;
use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Selectable, Served, UnknownSelector};
use serde_json::json;

pub struct Secret;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Type",
        "string",
        "Used to facilitate programmatic handling of secret data. More info: https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
        |o, _| table::str_cell(o, &["type"]),
    ),
    column(
        "Data",
        "string",
        "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'. The serialized form of the secret data is a base64 encoded string, representing the arbitrary (possibly non-string) data value here. Described in https://tools.ietf.org/html/rfc4648#section-4",
        |o, _| table::len_cell(o, &["data"]),
    ),
    AGE,
];

impl Kind for Secret {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.Secret" }],
        selectable: &[Selectable { path: "type", value: |o| selectable::text(o, &["type"]) }],
        unknown_selector: UnknownSelector::NotSupported,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sample", "namespace": "default"}, "type": "Opaque", "data": {"a": "aGVsbG8="}}))
    }
}
