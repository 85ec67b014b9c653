//! Job: pods that run to completion (batch/v1).

use crate::apps::workload;
use crate::batch::{job_spec, job_status};
use crate::field::{Field, IMMUTABLE, child_mut, clear_status, default_pointer, immutable, same, set, without};
use crate::gates;
use crate::labels;
use crate::selectable;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::{Object, Problems, names};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Cells, Column, Info, Kind, Request, Selectable, Served, UnknownSelector};
use serde_json::json;

pub struct Job;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Status", "string", "Status of the job.", |o, _| text(state_words(o))),
    column(
        "Completions",
        "string",
        "The number of pods which reached phase Succeeded. The value increases monotonically for a given spec. However, it may decrease in reaction to scale down of elastic indexed jobs.",
        |o, _| text(shown_completions(o)),
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
        unknown_selector: UnknownSelector::Text("field label \"{}\" not supported for batchv1.Job"),
        ..Info::BASE
    };

    const GATED: &'static [GatedAt] = &[(&["spec", "template", "spec"], gates::POD_SPEC)];

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

    fn set_defaults(o: &mut Object) {
        let labels = o.at(&["spec", "template", "metadata", "labels"]).clone();
        if table::len(o.meta("labels")) == 0 && table::len(&labels) > 0 {
            o.set_meta("labels", labels);
        }
        if let Some(spec) = child_mut(&mut o.0, "spec") {
            job_spec::set_defaults(spec);
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
        if o.at(&["spec", "manualSelector"]).as_bool() != Some(true) {
            generate_selector(o);
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        pod_names(&root, p);
        generated_selector(&root, p);
        selected_spec(&root.get("spec"), p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        // Upstream looks at the spec of an update twice, and says twice what is wrong with it.
        Self::validate(new, p);
        selected_spec(&spec, p);
        completions(&spec, &before, p);
        immutable(p, &spec.get("selector"), &before.get("selector"));
        template_kept(&spec, &before, old, p);
        for name in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
            immutable(p, &spec.get(name), &before.get(name));
        }
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        let root = Field::root(new);
        job_status::validate(&root.get("status"), &Field::root(old).get("status"), &root.get("spec"), p);
    }

    fn warnings(new: &Object, old: Option<&Object>, w: &mut Vec<String>) {
        workload::name_warning(new, old, workload::POD_NAMES, w);
        spec_warnings(&Field::root(new).get("spec"), w);
        workload::template_warnings(new, old, &["spec", "template"], w);
    }
}

const COMPLETIONS_SOFT_MAX: i64 = 100_000;
const PARALLELISM_SOFT_MAX: i64 = 10_000;

/// Of the spec of a Job, also where it stands in a CronJob; its pod template aside.
pub fn spec_warnings(spec: &Field, w: &mut Vec<String>) {
    if spec.str("completionMode") == "Indexed" && spec.int("completions") > COMPLETIONS_SOFT_MAX && spec.int("parallelism") > PARALLELISM_SOFT_MAX {
        w.push(format!(
            "{}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail",
            spec.path().as_str()
        ));
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
fn shown_completions(o: &Object) -> String {
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

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const INDEXED_SUFFIX_MAX_BYTES: usize = 63;

/// The spec, and a selector that selects the template.
fn selected_spec(spec: &Field, p: &mut Problems) {
    let selector = spec.get("selector");
    match selector.is_set() {
        true => labels::selector(p, &selector),
        false => p.required(selector.path(), ""),
    }
    let own = spec.get("template").get("metadata").get("labels");
    if workload::is_valid_selector(&selector) && !(selector.is_set() && labels::matches(selector.value(), own.value())) {
        p.invalid(own.path(), own.value().clone(), "`selector` does not match template `labels`");
    }
    job_spec::validate(spec, p);
}

/// Pods of a Job carry its uid; the selector asks for it. Labels that the Job took from its template it shares with it.
fn generate_selector(o: &mut Object) {
    let (uid, name) = (o.uid().to_owned(), o.name().to_owned());
    let shared = o.meta("labels") == o.at(&["spec", "template", "metadata", "labels"]) && table::len(o.meta("labels")) > 0;
    let Some(spec) = child_mut(&mut o.0, "spec") else { return };
    if let Some(labels) = child_mut(spec, "template").and_then(|t| child_mut(t, "metadata")).and_then(|m| child_mut(m, "labels")) {
        for (key, value) in [("controller-uid", &uid), (UID_LABEL, &uid), ("job-name", &name), (NAME_LABEL, &name)] {
            // What the user set himself validation compares.
            default_pointer(labels, key, value.as_str());
        }
    }
    if let Some(wanted) = child_mut(spec, "selector").and_then(|s| child_mut(s, "matchLabels"))
        && wanted[UID_LABEL].is_null()
    {
        set(wanted, UID_LABEL, uid);
    }
    if shared || table::len(o.meta("labels")) == 0 {
        let labels = o.at(&["spec", "template", "metadata", "labels"]).clone();
        o.set_meta("labels", labels);
    }
}

/// A selector that the server made finds only this Job's pods.
fn generated_selector(root: &Field, p: &mut Problems) {
    let (spec, meta) = (root.get("spec"), root.get("metadata"));
    if spec.bool("manualSelector") || !spec.has("selector") || meta.str("uid").is_empty() {
        return;
    }
    let t = spec.get("template").get("metadata");
    let expected = [("controller-uid", meta.str("uid")), (UID_LABEL, meta.str("uid")), ("job-name", meta.str("name")), (NAME_LABEL, meta.str("name"))];
    for (key, value) in expected {
        match t.get("labels").opt_str(key) {
            None => p.required(&t.at("labels").key(key), format!("must be '{value}'")),
            Some(found) if found != value => p.invalid(&t.at("labels").key(key), t.get("labels").value().clone(), format!("must be '{value}'")),
            Some(_) => {}
        }
    }
    let own = json!({"controller-uid": meta.str("uid"), UID_LABEL: meta.str("uid"), "job-name": meta.str("name"), NAME_LABEL: meta.str("name")});
    let selector = spec.get("selector");
    if workload::is_valid_selector(&selector) && !labels::matches(selector.value(), &own) {
        p.invalid(selector.path(), selector.value().clone(), "`selector` not auto-generated");
    }
}

/// Pods of an Indexed Job are named after it and their index.
fn pod_names(root: &Field, p: &mut Problems) {
    let (spec, name) = (root.get("spec"), root.get("metadata").str("name"));
    if spec.str("completionMode") != "Indexed" || !spec.has("completions") || spec.int("completions") <= 0 {
        return;
    }
    let longest = format!("{name}-{}", spec.int("completions") - 1);
    let bad = longest.len() > INDEXED_SUFFIX_MAX_BYTES || !names::dns_label(&longest, false).is_empty();
    if bad {
        p.invalid(&root.get("metadata").at("name"), name, format!("will not able to create pod with invalid DNS label: {longest}"));
    }
}

/// Completions of an Indexed Job may follow its parallelism.
fn completions(spec: &Field, before: &Field, p: &mut Problems) {
    let (now, was) = (spec.get("completions"), before.get("completions"));
    if spec.str("completionMode") != "Indexed" {
        immutable(p, &now, &was);
        return;
    }
    if now.value() != was.value() && now.is_set() && spec.int("completions") != spec.int("parallelism") {
        p.invalid(now.path(), spec.int("completions"), "can only be modified in tandem with spec.parallelism");
    }
}

/// Where the pods of a suspended Job run may still change.
const SCHEDULING: &[&str] = &["nodeSelector", "tolerations", "schedulingGates"];

fn template_kept(spec: &Field, before: &Field, old: &Object, p: &mut Problems) {
    let open = before.bool("suspend") && old.str_at(&["status", "startTime"]).is_empty();
    let (now, was) = (spec.get("template"), before.get("template"));
    if !open {
        immutable(p, &now, &was);
        return;
    }
    let fixed = |t: &Field| {
        let mut pod = without(t.get("spec").value(), SCHEDULING);
        if let Some(affinity) = pod.get_mut("affinity") {
            crate::field::remove(affinity, "nodeAffinity");
            if table::len(affinity) == 0 {
                crate::field::remove(&mut pod, "affinity");
            }
        }
        for list in ["containers", "initContainers"] {
            crate::field::items_mut(&mut pod, list).for_each(|c| crate::field::remove(c, "resources"));
        }
        pod
    };
    if !same(&fixed(&now), &fixed(&was)) {
        p.invalid(&now.at("spec"), now.get("spec").value().clone(), IMMUTABLE);
    }
}
