//! Workload: pods that are scheduled together (scheduling.k8s.io/v1alpha2).

use crate::table::{AGE, NAME};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct Workload;

const COLUMNS: &[Column<Object>] = &[NAME, AGE];

impl Kind for Workload {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Workload",
        plural: "workloads",
        singular: "workload",
        served: &[Served { group: "scheduling.k8s.io", version: "v1alpha2", schema: "io.k8s.api.scheduling.v1alpha2.Workload" }],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "scheduling.k8s.io/v1alpha2",
            "kind": "Workload",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"podGroupTemplates": [{"name": "g", "schedulingPolicy": {"basic": {}}}]}
        }))
    }
}
