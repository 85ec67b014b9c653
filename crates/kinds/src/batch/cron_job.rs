//! CronJob: Jobs at set times (batch/v1).

use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::Object;
use keles_registry::kind::{Cells, Column, Info, Kind, Served};
use serde_json::json;

pub struct CronJob;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Schedule", "string", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron.", |o, _| table::str_cell(o, &["spec", "schedule"])),
    column(
        "Timezone",
        "string",
        "The time zone name for the given schedule, see https://en.wikipedia.org/wiki/List_of_tz_database_time_zones. If not specified, this will default to the time zone of the kube-controller-manager process. The set of valid time zone names and the time zone offset is loaded from the system-wide time zone database by the API server during CronJob validation and the controller manager during execution. If no system-wide time zone database can be found a bundled version of the database is used instead. If the time zone name becomes invalid during the lifetime of a CronJob or due to a change in host configuration, the controller will stop creating new new Jobs and will create a system event with the reason UnknownTimeZone. More information can be found in https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#time-zones",
        |o, _| table::str_or(o, &["spec", "timeZone"], "<none>"),
    ),
    column(
        "Suspend",
        "boolean",
        "This flag tells the controller to suspend subsequent executions, it does not apply to already started executions.  Defaults to false.",
        |o, _| text(suspended(o)),
    ),
    column("Active", "integer", "A list of pointers to currently running jobs.", |o, _| table::len_cell(o, &["status", "active"])),
    column("Last Schedule", "string", "Information when was the last time the job was successfully scheduled.", |o, c| text(last_schedule(o, c))),
    AGE,
    wide("Containers", "string", "Names of each container in the template.", |o, _| table::containers(o.at(&["spec", "jobTemplate", "spec", "template", "spec"]))),
    wide("Images", "string", "Images referenced by each container in the template.", |o, _| table::images(o.at(&["spec", "jobTemplate", "spec", "template", "spec"]))),
    wide(
        "Selector",
        "string",
        "A label query over pods that should match the pod count. Normally, the system sets this field for you. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
        |o, _| text(table::selector(o.at(&["spec", "jobTemplate", "spec", "selector"]))),
    ),
];

impl Kind for CronJob {
    type Object = Object;
    const INFO: Info = Info {
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        categories: &["all"],
        served: &[Served { group: "batch", version: "v1", schema: "io.k8s.api.batch.v1.CronJob" }],
        subresources: &[status("CronJob")],
        generation: true,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {
                "schedule": "*/5 * * * *",
                "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}
            }
        }))
    }
}

fn suspended(o: &Object) -> &'static str {
    match o.at(&["spec", "suspend"]).as_bool() {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    }
}

fn last_schedule(o: &Object, c: &Cells) -> String {
    match o.str_at(&["status", "lastScheduleTime"]) {
        "" => "<none>".into(),
        at => table::age(at, c),
    }
}
