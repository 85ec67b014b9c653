//! Lease: who holds something, and until when (coordination.k8s.io/v1).

use crate::field::{Field, NEGATIVE, invalid_each, remove};
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Request, Served};
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

    fn prepare_create(o: &mut Object, _: &Request) {
        drop_coordination(o, None);
    }

    fn prepare_update(new: &mut Object, old: &Object, _: &Request) {
        drop_coordination(new, Some(old));
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

/// Coordinated leader election is off by default (KEP-4355): its fields stay only where they are already in use.
fn drop_coordination(new: &mut Object, old: Option<&Object>) {
    let in_use = |o: &Object| ["strategy", "preferredHolder"].iter().any(|f| !o.at(&["spec", f]).is_null());
    if old.is_some_and(in_use) {
        return;
    }
    if let Some(spec) = new.0.get_mut("spec") {
        remove(spec, "strategy");
        remove(spec, "preferredHolder");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        Lease::prepare_create(&mut new, &Request::default());
        assert!(new.at(&["spec", "strategy"]).is_null());
        let mut new = lease(Some("OldestEmulationVersion"));
        Lease::prepare_update(&mut new, &lease(Some("OldestEmulationVersion")), &Request::default());
        assert_eq!(new.str_at(&["spec", "strategy"]), "OldestEmulationVersion");
    }
}
