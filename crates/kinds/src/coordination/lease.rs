//! Lease: who holds something, and until when (coordination.k8s.io/v1).

use crate::field::{Field, NEGATIVE, invalid_each};
use crate::gates;
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems, names};
use keles_registry::gates::GatedAt;
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

    const GATED: &'static [GatedAt] = &[(&["spec"], gates::LEASE)];

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "sample", "namespace": "default"}, "spec": {}}))
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        if let Some(seconds) = spec.opt_int("leaseDurationSeconds").filter(|s| *s <= 0) {
            p.invalid(&spec.at("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if spec.opt_int("leaseTransitions").is_some_and(|n| n < 0) {
            p.invalid(&spec.at("leaseTransitions"), spec.int("leaseTransitions"), NEGATIVE);
        }
        if let Some(strategy) = spec.opt_str("strategy") {
            match strategy {
                "OldestEmulationVersion" => {}
                qualified => invalid_each(p, &spec.at("strategy"), qualified, names::qualified_name(qualified)),
            }
        }
        if spec.has("preferredHolder") && spec.str("strategy").is_empty() {
            p.forbidden(&spec.at("preferredHolder"), "may only be specified if `strategy` is defined");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_registry::gates::take_away;

    #[test]
    fn fields_of_coordinated_election_stay_only_where_they_are_in_use() {
        let lease = |strategy: Option<&str>| {
            let mut o = Lease::example();
            if let Some(s) = strategy {
                o.0["spec"]["strategy"] = s.into();
            }
            o
        };
        let mut new = lease(Some("OldestEmulationVersion"));
        take_away(&mut new, None, Lease::GATED);
        assert!(new.at(&["spec", "strategy"]).is_null());
        let mut new = lease(Some("OldestEmulationVersion"));
        take_away(&mut new, Some(&lease(Some("OldestEmulationVersion"))), Lease::GATED);
        assert_eq!(new.str_at(&["spec", "strategy"]), "OldestEmulationVersion");
    }
}
