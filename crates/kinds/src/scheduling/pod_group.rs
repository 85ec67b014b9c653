//! PodGroup: one group of a Workload (scheduling.k8s.io/v1alpha2).

use crate::field::clear_status;
use crate::subresource::status;
use crate::table::{AGE, NAME};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Request, Served};
use serde_json::json;

pub struct PodGroup;

const COLUMNS: &[Column<Object>] = &[NAME, AGE];

impl Kind for PodGroup {
    type Object = Object;
    const INFO: Info = Info {
        kind: "PodGroup",
        plural: "podgroups",
        singular: "podgroup",
        served: &[Served { group: "scheduling.k8s.io", version: "v1alpha2", schema: "io.k8s.api.scheduling.v1alpha2.PodGroup" }],
        subresources: &[status("PodGroup")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "scheduling.k8s.io/v1alpha2",
            "kind": "PodGroup",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"schedulingPolicy": {"basic": {}}}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }
}
