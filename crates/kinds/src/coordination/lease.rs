//! Lease: who holds something, and until when (coordination.k8s.io/v1).

use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct Lease;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Holder",
        "string",
        "holderIdentity contains the identity of the holder of a current lease. If Coordinated Leader Election is used, the holder identity must be equal to the elected LeaseCandidate.metadata.name field.",
        |o, _| table::str_cell(o, &["spec", "holderIdentity"]),
    ),
    AGE,
];

impl Kind for Lease {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        served: &[Served { group: "coordination.k8s.io", version: "v1", schema: "io.k8s.api.coordination.v1.Lease" }],
        create_on_update: true,
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "sample", "namespace": "default"}, "spec": {}}))
    }
}
