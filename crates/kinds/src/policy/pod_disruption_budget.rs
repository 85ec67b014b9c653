//! PodDisruptionBudget: how many pods may be taken away at once (policy/v1).

use crate::apps::workload;
use crate::conditions::conditions;
use crate::field::{Field, non_negative, one_of, set};
use crate::labels;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, NameRule, Request, Served};
use serde_json::json;

pub struct PodDisruptionBudget;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Min Available", "string", "The minimum number of pods that must be available.", |o, _| table::scalar_or(o, &["spec", "minAvailable"], "N/A")),
    column("Max Unavailable", "string", "The maximum number of pods that may be unavailable.", |o, _| table::scalar_or(o, &["spec", "maxUnavailable"], "N/A")),
    column("Allowed Disruptions", "integer", "Calculated number of pods that may be disrupted at this time.", |o, _| table::int_cell(o, &["status", "disruptionsAllowed"])),
    AGE,
];

impl Kind for PodDisruptionBudget {
    type Object = Object;
    const INFO: Info = Info {
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        short_names: &["pdb"],
        served: &[Served { group: "policy", version: "v1", schema: "io.k8s.api.policy.v1.PodDisruptionBudget" }],
        subresources: &[status("PodDisruptionBudget")],
        generation: true,
        unconditional_update: false,
        // Upstream checks nothing of its name but that it fits into a path.
        name_rule: NameRule::PathSegment,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        set(&mut o.0, "status", json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}));
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        if spec.has("minAvailable") && spec.has("maxUnavailable") {
            p.invalid(spec.path(), spec.value().clone(), "minAvailable and maxUnavailable cannot be both set");
        }
        for name in ["minAvailable", "maxUnavailable"] {
            let v = spec.get(name);
            workload::count_or_percent(p, v.path(), v.value());
            workload::not_over_100_percent(p, v.path(), v.value());
        }
        labels::selector(p, &spec.get("selector"));
        if let Some(policy) = spec.opt_str("unhealthyPodEvictionPolicy") {
            one_of(p, &spec.at("unhealthyPodEvictionPolicy"), policy, &["AlwaysAllow", "IfHealthyBudget"]);
        }
    }

    fn validate_status(new: &Object, _old: &Object, p: &mut Problems) {
        let status = Field::root(new).get("status");
        for name in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            non_negative(p, &status, name);
        }
        conditions(&status, usize::MAX, p);
    }
}
