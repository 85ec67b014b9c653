//! NetworkPolicy: who may talk to pods (networking.k8s.io/v1).

use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct NetworkPolicy;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Pod-Selector", "string", "podSelector selects the pods to which this NetworkPolicy object applies.", |o, _| text(table::selector(o.at(&["spec", "podSelector"])))),
    AGE,
];

impl Kind for NetworkPolicy {
    type Object = Object;
    const INFO: Info = Info {
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        served: &[Served { group: "networking.k8s.io", version: "v1", schema: "io.k8s.api.networking.v1.NetworkPolicy" }],
        generation: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"podSelector": {}}
        }))
    }
}
