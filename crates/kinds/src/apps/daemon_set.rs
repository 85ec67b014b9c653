//! DaemonSet: one pod on each node (apps/v1).

use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Served};
use serde_json::json;

pub struct DaemonSet;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Desired",
        "integer",
        "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon pod). More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
        |o, _| table::int_cell(o, &["status", "desiredNumberScheduled"]),
    ),
    column(
        "Current",
        "integer",
        "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod. More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
        |o, _| table::int_cell(o, &["status", "currentNumberScheduled"]),
    ),
    column(
        "Ready",
        "integer",
        "numberReady is the number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition.",
        |o, _| table::int_cell(o, &["status", "numberReady"]),
    ),
    column("Up-to-date", "integer", "The total number of nodes that are running updated daemon pod", |o, _| table::int_cell(o, &["status", "updatedNumberScheduled"])),
    column(
        "Available",
        "integer",
        "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available (ready for at least spec.minReadySeconds)",
        |o, _| table::int_cell(o, &["status", "numberAvailable"]),
    ),
    column(
        "Node Selector",
        "string",
        "NodeSelector is a selector which must be true for the pod to fit on a node. Selector which must match a node's labels for the pod to be scheduled on that node. More info: https://kubernetes.io/docs/concepts/configuration/assign-pod-node/",
        |o, _| text(table::labels(o.at(&["spec", "template", "spec", "nodeSelector"]))),
    ),
    AGE,
    wide("Containers", "string", "Names of each container in the template.", |o, _| table::containers(o.at(&["spec", "template", "spec"]))),
    wide("Images", "string", "Images referenced by each container in the template.", |o, _| table::images(o.at(&["spec", "template", "spec"]))),
    wide(
        "Selector",
        "string",
        "A label query over pods that are managed by the daemon set. Must match in order to be controlled. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
        |o, _| text(table::selector(o.at(&["spec", "selector"]))),
    ),
];

impl Kind for DaemonSet {
    type Object = Object;
    const INFO: Info = Info {
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        served: &[Served { group: "apps", version: "v1", schema: "io.k8s.api.apps.v1.DaemonSet" }],
        subresources: &[status("DaemonSet")],
        generation: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {
                "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
            }
        }))
    }
}
