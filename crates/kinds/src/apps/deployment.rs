//! Deployment: equal pods, rolled from one template to the next (apps/v1).

use crate::apps::workload;
use crate::core::pod::template;
use crate::field::{Field, child_mut, clear_status, default, default_pointer, non_negative, same};
use crate::gates;
use crate::subresource::{SCALE, status};
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::{Object, Problem, ProblemKind, Problems};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Column, Info, Kind, Request, Served};
use serde_json::json;

pub struct Deployment;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Ready", "string", "Number of the pod with ready state", |o, _| text(ready(o))),
    column("Up-to-date", "string", "Total number of non-terminating pods targeted by this deployment that have the desired template spec.", |o, _| {
        table::int_cell(o, &["status", "updatedReplicas"])
    }),
    column("Available", "string", "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.", |o, _| {
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

    const GATED: &'static [GatedAt] = &[(&["spec", "template", "spec"], gates::POD_SPEC)];

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

    fn set_defaults(o: &mut Object) {
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        default_pointer(spec, "replicas", 1);
        template::set_defaults(spec);
        default_pointer(spec, "revisionHistoryLimit", 10);
        default_pointer(spec, "progressDeadlineSeconds", 600);
        let Some(strategy) = child_mut(spec, "strategy") else { return };
        default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = child_mut(strategy, "rollingUpdate")
        {
            default_pointer(rolling, "maxUnavailable", "25%");
            default_pointer(rolling, "maxSurge", "25%");
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }

    /// Labels are not for `/status`.
    fn prepare_status(new: &mut Object, old: &Object, _: &Request) {
        new.set_meta("labels", old.meta("labels").clone());
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        non_negative(p, &spec, "replicas");
        workload::selector_and_template(&spec, p, "empty selector is invalid for deployment");
        strategy(&spec.get("strategy"), p);
        non_negative(p, &spec, "minReadySeconds");
        non_negative(p, &spec, "revisionHistoryLimit");
        if let Some(deadline) = spec.opt_int("progressDeadlineSeconds") {
            non_negative(p, &spec, "progressDeadlineSeconds");
            if deadline <= spec.int("minReadySeconds") {
                p.invalid(&spec.at("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
            }
        }
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        workload::immutable_selector(&Field::root(new).get("spec"), &Field::root(old).get("spec"), p);
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        let status = Field::root(new).get("status");
        let counts = ["observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas", "terminatingReplicas", "collisionCount"];
        workload::status_counts(&status, &counts, &["updatedReplicas", "readyReplicas", "availableReplicas"], p);
        workload::collisions_only_grow(&status, &Field::root(old).get("status"), p);
    }

    fn warnings(new: &Object, old: Option<&Object>, w: &mut Vec<String>) {
        workload::name_warning(new, old, workload::POD_NAMES, w);
        workload::template_warnings(new, old, &["spec", "template"], w);
    }

    /// Annotations are a part of what a Deployment is asked to be.
    fn prepare_update(new: &mut Object, old: &Object, _: &Request) {
        if !same(new.meta("annotations"), old.meta("annotations")) {
            new.set_meta("generation", old.generation() + 1);
        }
    }
}

/// `2/3`
fn ready(o: &Object) -> String {
    let count = |path: &[&str]| o.at(path).as_i64().unwrap_or(0);
    format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"]))
}

fn strategy(s: &Field, p: &mut Problems) {
    let rolling = s.get("rollingUpdate");
    match s.str("type") {
        "Recreate" if rolling.is_set() => p.forbidden(rolling.path(), "may not be specified when strategy `type` is 'Recreate'"),
        "Recreate" => {}
        "RollingUpdate" => rolling_update(&rolling, p),
        other => p.push(unsupported_strategy(s, other)),
    }
}

/// Upstream prints the whole strategy here, with the names of its Go fields.
fn unsupported_strategy(s: &Field, kind: &str) -> Problem {
    let rolling = s.get("rollingUpdate");
    let number = |name: &str| rolling.value().get(name).cloned().unwrap_or(json!(0));
    let rolling = if rolling.is_set() { format!("{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}", number("maxUnavailable"), number("maxSurge")) } else { "null".into() };
    let detail = format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}: supported values: \"Recreate\", \"RollingUpdate\"", json!(kind));
    Problem { kind: ProblemKind::NotSupported, field: s.path().as_str().into(), value: None, detail }
}

fn rolling_update(r: &Field, p: &mut Problems) {
    if !r.is_set() {
        p.required(r.path(), "this should be defaulted and never be nil");
        return;
    }
    let (unavailable, surge) = (r.get("maxUnavailable"), r.get("maxSurge"));
    for v in [&unavailable, &surge] {
        workload::count_or_percent(p, v.path(), v.value());
    }
    if workload::is_zero(unavailable.value()) && workload::is_zero(surge.value()) {
        p.invalid(unavailable.path(), unavailable.value().clone(), "may not be 0 when `maxSurge` is 0");
    }
    workload::not_over_100_percent(p, unavailable.path(), unavailable.value());
}
