//! PodDisruptionBudget: how many pods may be taken away at once (policy/v1).

use crate::subresource::status;
use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
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
}
