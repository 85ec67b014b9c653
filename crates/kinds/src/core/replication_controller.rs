//! ReplicationController: a number of equal pods, the oldest form (v1).

use crate::apps::workload;
use crate::core::pod::template;
use crate::field::{Field, child_mut, default_pointer, non_negative, set};
use crate::gates;
use crate::selectable;
use crate::subresource::{SCALE, status};
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::{Object, Problems};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Column, Info, Kind, Request, Selectable, Served, UnknownSelector};
use serde_json::json;

pub struct ReplicationController;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Desired",
        "integer",
        "Replicas is the number of desired replicas. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
        |o, _| table::int_cell(o, &["spec", "replicas"]),
    ),
    column(
        "Current",
        "integer",
        "Replicas is the most recently observed number of replicas. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
        |o, _| table::int_cell(o, &["status", "replicas"]),
    ),
    column("Ready", "integer", "The number of ready replicas for this replication controller.", |o, _| table::int_cell(o, &["status", "readyReplicas"])),
    AGE,
    wide("Containers", "string", "Names of each container in the template.", |o, _| table::containers(o.at(&["spec", "template", "spec"]))),
    wide("Images", "string", "Images referenced by each container in the template.", |o, _| table::images(o.at(&["spec", "template", "spec"]))),
    wide(
        "Selector",
        "string",
        "Selector is a label query over pods that should match the Replicas count. If Selector is empty, it is defaulted to the labels present on the Pod template. Label keys and values that must match in order to be controlled by this replication controller, if empty defaulted to labels on Pod template. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
        |o, _| text(table::labels(o.at(&["spec", "selector"]))),
    ),
];

impl Kind for ReplicationController {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: &["all"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.ReplicationController" }],
        subresources: &[SCALE, status("ReplicationController")],
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
            "apiVersion": "v1",
            "kind": "ReplicationController",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"selector": {"app": "x"}, "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}
        }))
    }

    fn set_defaults(o: &mut Object) {
        let labels = o.at(&["spec", "template", "metadata", "labels"]).clone();
        let has_labels = labels.as_object().is_some_and(|m| !m.is_empty());
        if has_labels && table::len(o.meta("labels")) == 0 {
            o.set_meta("labels", labels.clone());
        }
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        if has_labels && table::len(&spec["selector"]) == 0 {
            set(spec, "selector", labels);
        }
        default_pointer(spec, "replicas", 1);
        default_pointer(spec, "minReadySeconds", 0);
        if !spec["template"].is_null() {
            template::set_defaults(spec);
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        set(&mut o.0, "status", json!({"replicas": 0}));
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        non_negative(p, &spec, "minReadySeconds");
        if spec.map_len("selector") == 0 {
            p.required(&spec.at("selector"), "");
        }
        non_negative(p, &spec, "replicas");
        let t = spec.get("template");
        if !t.is_set() {
            p.required(t.path(), "");
            return;
        }
        let labels = t.get("metadata").get("labels");
        if !spec.map("selector").all(|(k, v)| labels.value().get(k) == Some(v)) {
            p.invalid(labels.path(), labels.value().clone(), "`selector` does not match template `labels`");
        }
        template::validate(&t, p);
        workload::always_running(&t, "ReplicationController", p);
    }

    fn validate_status(new: &Object, _old: &Object, p: &mut Problems) {
        let status = Field::root(new).get("status");
        let counts = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
        workload::status_counts(&status, &counts, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], p);
    }

    fn warnings(new: &Object, old: Option<&Object>, w: &mut Vec<String>) {
        workload::name_warning(new, old, workload::POD_NAMES, w);
        workload::template_warnings(new, old, &["spec", "template"], w);
    }
}
