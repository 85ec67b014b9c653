//! CronJob: Jobs at set times (batch/v1).

use crate::apps::workload;
use crate::batch::{job, job_spec, schedule};
use crate::field::{Field, child_mut, clear_status, default, default_pointer, non_negative, required_one_of};
use crate::gates;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::{Object, Path, Problems};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Cells, Column, Info, Kind, Request, Served};
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

    const GATED: &'static [GatedAt] = &[(&["spec", "jobTemplate", "spec", "template", "spec"], gates::POD_SPEC)];

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

    fn set_defaults(o: &mut Object) {
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        default(spec, "concurrencyPolicy", "Allow");
        default_pointer(spec, "suspend", false);
        default_pointer(spec, "successfulJobsHistoryLimit", 3);
        default_pointer(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = child_mut(spec, "jobTemplate") {
            job_spec::set_template_defaults(job);
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }

    fn validate(o: &Object, p: &mut Problems) {
        cron_job(o, false, p);
        let name = o.name();
        if name.len() > NAME_MAX_BYTES {
            p.invalid(&Path::new("metadata").child("name"), name, format!("must be no more than {NAME_MAX_BYTES} characters"));
        }
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        cron_job(new, old.str_at(&["spec", "schedule"]).contains("TZ"), p);
    }

    fn warnings(new: &Object, old: Option<&Object>, w: &mut Vec<String>) {
        workload::name_warning(new, old, workload::POD_NAMES, w);
        job::spec_warnings(&Field::root(new).get("spec").get("jobTemplate").get("spec"), w);
        workload::template_warnings(new, old, &["spec", "jobTemplate", "spec", "template"], w);
    }
}

/// `zone_allowed`: the schedule had a zone before, when that was not refused.
fn cron_job(o: &Object, zone_allowed: bool, p: &mut Problems) {
    let spec = Field::root(o).get("spec");
    match spec.str("schedule") {
        "" => p.required(&spec.at("schedule"), ""),
        schedule => {
            if let Err(why) = schedule::parse(schedule) {
                p.invalid(&spec.at("schedule"), schedule, why);
            }
            if schedule.contains("TZ") && !zone_allowed {
                p.invalid(&spec.at("schedule"), schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
            } else if schedule.contains("TZ") && spec.has("timeZone") {
                p.invalid(&spec.at("schedule"), schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
            }
        }
    }
    non_negative(p, &spec, "startingDeadlineSeconds");
    time_zone(&spec, p);
    required_one_of(p, &spec.at("concurrencyPolicy"), spec.str("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    let job = spec.get("jobTemplate").get("spec");
    if job.has("selector") {
        p.invalid(&job.at("selector"), job.get("selector").value().clone(), "`selector` will be auto-generated");
    }
    if job.bool("manualSelector") {
        p.not_supported(&job.at("manualSelector"), true, &["nil", "false"]);
    }
    job_spec::validate(&job, p);
    non_negative(p, &spec, "successfulJobsHistoryLimit");
    non_negative(p, &spec, "failedJobsHistoryLimit");
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

/// Jobs are named after their CronJob and eleven characters more.
const NAME_MAX_BYTES: usize = 52;

/// Upstream's database is files, whose names have one spelling.
fn is_zone(name: &str) -> bool {
    jiff::tz::TimeZone::get(name).is_ok_and(|zone| zone.iana_name() == Some(name))
}

fn time_zone(spec: &Field, p: &mut Problems) {
    let Some(zone) = spec.opt_str("timeZone") else { return };
    let at = spec.at("timeZone");
    match zone {
        "" => p.invalid(&at, zone, "timeZone must be nil or non-empty string"),
        _ if zone.eq_ignore_ascii_case("local") => p.invalid(&at, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"),
        _ if !is_zone(zone) => p.invalid(&at, zone, format!("unknown time zone {zone}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(change: impl Fn(&mut serde_json::Value), zone_allowed: bool) -> Vec<String> {
        let mut o = CronJob::example();
        CronJob::set_defaults(&mut o);
        change(&mut o.0["spec"]);
        let mut p = Problems::new();
        cron_job(&o, zone_allowed, &mut p);
        p.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_zone_stands_in_its_field() {
        let in_schedule = |spec: &mut serde_json::Value| spec["schedule"] = "TZ=UTC * * * * *".into();
        assert_eq!(said(in_schedule, false), ["spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"]);
        assert!(said(in_schedule, true).is_empty());
        assert_eq!(said(|spec| spec["timeZone"] = "europe/berlin".into(), false), ["spec.timeZone: Invalid value: \"europe/berlin\": unknown time zone europe/berlin"]);
        for zone in ["Europe/Berlin", "UTC", "Etc/UTC", "US/Eastern"] {
            assert!(said(|spec| spec["timeZone"] = zone.into(), false).is_empty(), "{zone}");
        }
    }

    #[test]
    fn the_jobs_selectors_are_made_by_the_server() {
        let chosen = |spec: &mut serde_json::Value| spec["jobTemplate"]["spec"]["manualSelector"] = true.into();
        assert_eq!(said(chosen, false), ["spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\""]);
    }
}
