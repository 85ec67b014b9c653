//! ReplicaSet: a number of equal pods (apps/v1).

use crate::apps::workload;
use crate::core::pod::template;
use crate::field::{Field, child_mut, clear_status, default_pointer, non_negative, set};
use crate::gates;
use crate::selectable;
use crate::subresource::{SCALE, status};
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::{Object, Problems};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Column, Info, Kind, Request, Selectable, Served, UnknownSelector};
use serde_json::json;

pub struct ReplicaSet;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Desired",
        "integer",
        "Replicas is the number of desired pods. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
        |o, _| table::int_cell(o, &["spec", "replicas"]),
    ),
    column(
        "Current",
        "integer",
        "Replicas is the most recently observed number of non-terminating pods. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
        |o, _| table::int_cell(o, &["status", "replicas"]),
    ),
    column("Ready", "integer", "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition.", |o, _| table::int_cell(o, &["status", "readyReplicas"])),
    AGE,
    wide("Containers", "string", "Names of each container in the template.", |o, _| table::containers(o.at(&["spec", "template", "spec"]))),
    wide("Images", "string", "Images referenced by each container in the template.", |o, _| table::images(o.at(&["spec", "template", "spec"]))),
    wide(
        "Selector",
        "string",
        "Selector is a label query over pods that should match the replica count. Label keys and values that must match in order to be controlled by this replica set. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
        |o, _| text(table::selector(o.at(&["spec", "selector"]))),
    ),
];

impl Kind for ReplicaSet {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        served: &[Served { group: "apps", version: "v1", schema: "io.k8s.api.apps.v1.ReplicaSet" }],
        subresources: &[SCALE, status("ReplicaSet")],
        selectable: &[Selectable { path: "status.replicas", value: |o| selectable::number(o, &["status", "replicas"]) }],
        generation: true,
        unknown_selector: UnknownSelector::NotSupported,
        ..Info::BASE
    };

    const GATED: &'static [GatedAt] = &[(&["spec", "template", "spec"], gates::POD_SPEC)];

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {
                "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
            }
        }))
    }

    fn set_defaults(o: &mut Object) {
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        default_pointer(spec, "replicas", 1);
        template::set_defaults(spec);
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
        set(&mut o.0["status"], "replicas", 0);
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        non_negative(p, &spec, "replicas");
        non_negative(p, &spec, "minReadySeconds");
        workload::selector_and_template(&spec, p, "empty selector is invalid for deployment");
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        workload::immutable_selector(&Field::root(new).get("spec"), &Field::root(old).get("spec"), p);
    }

    fn validate_status(new: &Object, _old: &Object, p: &mut Problems) {
        let status = Field::root(new).get("status");
        let counts = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "terminatingReplicas", "observedGeneration"];
        workload::status_counts(&status, &counts, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], p);
    }

    fn warnings(new: &Object, old: Option<&Object>, w: &mut Vec<String>) {
        workload::name_warning(new, old, workload::POD_NAMES, w);
        workload::template_warnings(new, old, &["spec", "template"], w);
    }
}
