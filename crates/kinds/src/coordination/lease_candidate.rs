//! LeaseCandidate: who would like to hold a Lease (coordination.k8s.io/v1beta1, coordination.k8s.io/v1alpha2).

use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct LeaseCandidate;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("LeaseName", "string", "LeaseName is the name of the lease for which this candidate is contending.", |o, _| table::str_cell(o, &["spec", "leaseName"])),
    column("BinaryVersion", "string", "BinaryVersion is the binary version.", |o, _| table::str_cell(o, &["spec", "binaryVersion"])),
    column("EmulationVersion", "string", "EmulationVersion is the emulation version.", |o, _| table::str_cell(o, &["spec", "emulationVersion"])),
    column("Strategy", "string", "Strategy is the strategy that coordinated leader election will use for picking the leader.", |o, _| table::str_cell(o, &["spec", "strategy"])),
    AGE,
];

impl Kind for LeaseCandidate {
    type Object = Object;
    const INFO: Info = Info {
        kind: "LeaseCandidate",
        plural: "leasecandidates",
        singular: "leasecandidate",
        served: &[
            Served { group: "coordination.k8s.io", version: "v1beta1", schema: "io.k8s.api.coordination.v1beta1.LeaseCandidate" },
            Served { group: "coordination.k8s.io", version: "v1alpha2", schema: "io.k8s.api.coordination.v1alpha2.LeaseCandidate" },
        ],
        create_on_update: true,
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "coordination.k8s.io/v1beta1",
            "kind": "LeaseCandidate",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"leaseName": "l", "binaryVersion": "1.36.0", "strategy": "OldestEmulationVersion", "emulationVersion": "1.36.0"}
        }))
    }
}
