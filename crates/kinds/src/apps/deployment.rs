//! Deployment: equal pods, rolled from one template to the next (apps/v1).

use crate::subresource::{SCALE, status};
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct Deployment;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Ready", "string", "Number of the pod with ready state", |o, _| text(ready(o))),
    column("Up-to-date", "integer", "Total number of non-terminating pods targeted by this deployment that have the desired template spec.", |o, _| {
        table::int_cell(o, &["status", "updatedReplicas"])
    }),
    column("Available", "integer", "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.", |o, _| {
        table::int_cell(o, &["status", "availableReplicas"])
    }),
    AGE,
    wide("Containers", "string", "Names of each container in the template.", |o, _| table::containers(o.at(&["spec", "template", "spec"]))),
    wide("Images", "string", "Images referenced by each container in the template.", |o, _| table::images(o.at(&["spec", "template", "spec"]))),
    wide("Selector", "string", "Label selector for pods. Existing ReplicaSets whose pods are selected by this will be the ones affected by this deployment.", |o, _| {
        text(table::selector(o.at(&["spec", "selector"])))
    }),
];

impl Kind for Deployment {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        served: &[Served { group: "apps", version: "v1", schema: "io.k8s.api.apps.v1.Deployment" }],
        subresources: &[SCALE, status("Deployment")],
        generation: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {
                "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
            }
        }))
    }
}

/// `2/3`
fn ready(o: &Object) -> String {
    let count = |path: &[&str]| o.at(path).as_i64().unwrap_or(0);
    format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"]))
}
