//! Job: pods that run to completion (batch/v1).

use crate::selectable;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::Object;
use keles_registry::kind::{Cells, Column, Info, Kind, Selectable, Served, UnknownSelector};
use serde_json::json;

pub struct Job;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Status", "string", "Status of the job.", |o, _| text(state_words(o))),
    column(
        "Completions",
        "string",
        "The number of pods which reached phase Succeeded. The value increases monotonically for a given spec. However, it may decrease in reaction to scale down of elastic indexed jobs.",
        |o, _| text(completions(o)),
    ),
    column("Duration", "string", "Time required to complete the job.", |o, c| text(duration(o, c))),
    AGE,
    wide("Containers", "string", "Names of each container in the template.", |o, _| table::containers(o.at(&["spec", "template", "spec"]))),
    wide("Images", "string", "Images referenced by each container in the template.", |o, _| table::images(o.at(&["spec", "template", "spec"]))),
    wide(
        "Selector",
        "string",
        "A label query over pods that should match the pod count. Normally, the system sets this field for you. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
        |o, _| text(table::selector(o.at(&["spec", "selector"]))),
    ),
];

impl Kind for Job {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Job",
        plural: "jobs",
        singular: "job",
        categories: &["all"],
        served: &[Served { group: "batch", version: "v1", schema: "io.k8s.api.batch.v1.Job" }],
        subresources: &[status("Job")],
        selectable: &[Selectable { path: "status.successful", value: |o| selectable::number(o, &["status", "succeeded"]) }],
        generation: true,
        unknown_selector: UnknownSelector::NotSupported,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}
        }))
    }
}

fn state_words(o: &Object) -> &'static str {
    let terminating = o.deletion_timestamp().is_some();
    match () {
        _ if table::condition_true(o, "Complete") => "Complete",
        _ if table::condition_true(o, "Failed") => "Failed",
        _ if terminating => "Terminating",
        _ if table::condition_true(o, "Suspended") => "Suspended",
        _ if table::condition_true(o, "FailureTarget") => "FailureTarget",
        _ if table::condition_true(o, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        _ => "Running",
    }
}

/// `1/4`, or `0/1 of 3` for a work queue of three workers.
fn completions(o: &Object) -> String {
    let succeeded = o.at(&["status", "succeeded"]).as_i64().unwrap_or(0);
    if let Some(wanted) = o.at(&["spec", "completions"]).as_i64() {
        return format!("{succeeded}/{wanted}");
    }
    match o.at(&["spec", "parallelism"]).as_i64().unwrap_or(0) {
        workers if workers > 1 => format!("{succeeded}/1 of {workers}"),
        _ => format!("{succeeded}/1"),
    }
}

fn duration(o: &Object, c: &Cells) -> String {
    let at = |field: &str| o.str_at(&["status", field]).parse::<jiff::Timestamp>().ok().map(|t| t.as_second());
    match (at("startTime"), at("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => table::duration(end.unwrap_or(c.now_unix_seconds) - start),
    }
}
