//! LeaseCandidate: who would like to hold a Lease (coordination.k8s.io/v1beta1, coordination.k8s.io/v1alpha2).

use crate::field::{Field, immutable, invalid_each};
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct LeaseCandidate;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("LeaseName", "string", "LeaseName is the name of the lease for which this candidate is contending.", |o, _| table::str_cell(o, &["spec", "leaseName"])),
    column("BinaryVersion", "string", "", |o, _| table::str_cell(o, &["spec", "binaryVersion"])),
    column("EmulationVersion", "string", "", |o, _| table::str_cell(o, &["spec", "emulationVersion"])),
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

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        if spec.str("leaseName").is_empty() {
            p.required(&spec.at("leaseName"), "");
        }
        let (binary, emulated) = (version(&spec, "binaryVersion", p), version(&spec, "emulationVersion", p));
        if spec.str("binaryVersion").is_empty() {
            p.required(&spec.at("binaryVersion"), "");
        }
        if binary.zip(emulated).is_some_and(|(b, e)| e > b) {
            p.invalid(&spec.at("binaryVersion"), spec.str("binaryVersion"), format!("must be greater than or equal to {:?}", spec.str("emulationVersion")));
        }
        match spec.str("strategy") {
            "" => p.required(&spec.at("strategy"), ""),
            OLDEST if spec.str("emulationVersion").is_empty() => p.required(&spec.at("emulationVersion"), "must be specified when `strategy` is 'OldestEmulationVersion'"),
            OLDEST => {}
            other => invalid_each(p, &spec.at("strategy"), other, names::qualified_name(other)),
        }
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        immutable(p, &Field::root(new).get("spec").get("leaseName"), &Field::root(old).get("spec").get("leaseName"));
    }
}

const OLDEST: &str = "OldestEmulationVersion";

/// `1.36.0`, also without the last parts and with a leading `v`.
fn version(spec: &Field, name: &str, p: &mut Problems) -> Option<[u64; 3]> {
    let text = spec.str(name);
    if text.is_empty() {
        return None;
    }
    let numbers = text.trim_start_matches('v').split(['-', '+']).next().unwrap_or("");
    let parts: Vec<Option<u64>> = numbers.split('.').map(|n| n.parse().ok()).collect();
    if parts.len() > 3 || parts.contains(&None) {
        p.invalid(&spec.at(name), text, "must be a valid semantic version");
        return None;
    }
    let part = |i: usize| parts.get(i).copied().flatten().unwrap_or(0);
    Some([part(0), part(1), part(2)])
}
