//! DaemonSet: one pod on each node (apps/v1).

use crate::apps::workload;
use crate::core::pod::template;
use crate::field::{Field, child_mut, default, default_pointer, non_negative, same, set};
use crate::gates;
use crate::labels;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::{Object, Problem, ProblemKind, Problems};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Column, Info, Kind, Request, Served};
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

    const GATED: &'static [GatedAt] = &[(&["spec", "template", "spec"], gates::POD_SPEC)];

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

    fn set_defaults(o: &mut Object) {
        // Upstream's conversion writes it before anybody asks who owns it; prepare rules know the number.
        if o.annotation(TEMPLATE_GENERATION).is_none() {
            set_template_generation(o, 0);
        }
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        template::set_defaults(spec);
        default_pointer(spec, "revisionHistoryLimit", 10);
        let Some(strategy) = child_mut(spec, "updateStrategy") else { return };
        default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = child_mut(strategy, "rollingUpdate")
        {
            default_pointer(rolling, "maxUnavailable", 1);
            default_pointer(rolling, "maxSurge", 0);
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        set(&mut o.0, "status", json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}));
        set_template_generation(o, 1);
    }

    fn prepare_update(new: &mut Object, old: &Object, _: &Request) {
        let changed = !same(new.at(&["spec", "template"]), old.at(&["spec", "template"]));
        set_template_generation(new, template_generation(old) + i64::from(changed));
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        let (selector, t) = (spec.get("selector"), spec.get("template"));
        labels::selector(p, &selector);
        if workload::is_valid_selector(&selector) {
            workload::template_labels(&spec, p);
        }
        if selector.is_set() && labels::is_empty(selector.value()) {
            p.invalid(selector.path(), selector.value().clone(), "empty selector is invalid for daemonset");
        }
        template::validate(&t, p);
        workload::always_running(&t, "DaemonSet", p);
        non_negative(p, &spec, "minReadySeconds");
        update_strategy(&spec.get("updateStrategy"), p);
        non_negative(p, &spec, "revisionHistoryLimit");
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        workload::immutable_selector(&Field::root(new).get("spec"), &Field::root(old).get("spec"), p);
        Self::validate(new, p);
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        let status = Field::root(new).get("status");
        for name in STATUS_COUNTS {
            non_negative(p, &status, name);
        }
        workload::collisions_only_grow(&status, &Field::root(old).get("status"), p);
    }

    fn warnings(new: &Object, old: Option<&Object>, w: &mut Vec<String>) {
        workload::template_warnings(new, old, &["spec", "template"], w);
    }
}

/// Remembers how often the template changed, for clients of the old API.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const STATUS_COUNTS: &[&str] = &[
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];

fn template_generation(o: &Object) -> i64 {
    o.annotation(TEMPLATE_GENERATION).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn set_template_generation(o: &mut Object, n: i64) {
    if let Some(annotations) = child_mut(&mut o.0, "metadata").and_then(|m| child_mut(m, "annotations")) {
        set(annotations, TEMPLATE_GENERATION, n.to_string());
    }
}

fn update_strategy(strategy: &Field, p: &mut Problems) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.str("type") {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_set() => p.required(rolling.path(), ""),
        "RollingUpdate" => rolling_update(&rolling, p),
        other => p.push(unsupported_strategy(strategy, other)),
    }
}

/// Upstream prints the whole strategy here, with the names of its Go fields.
fn unsupported_strategy(s: &Field, kind: &str) -> Problem {
    let rolling = s.get("rollingUpdate");
    let number = |name: &str| rolling.value().get(name).cloned().unwrap_or(json!(0));
    let rolling = if rolling.is_set() { format!("{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}", number("maxUnavailable"), number("maxSurge")) } else { "null".into() };
    let detail = format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}: supported values: \"RollingUpdate\", \"OnDelete\"", json!(kind));
    Problem { kind: ProblemKind::NotSupported, field: s.path().as_str().into(), value: None, detail }
}

fn rolling_update(r: &Field, p: &mut Problems) {
    let (unavailable, surge) = (r.get("maxUnavailable"), r.get("maxSurge"));
    for v in [&unavailable, &surge] {
        workload::count_or_percent(p, v.path(), v.value());
        workload::not_over_100_percent(p, v.path(), v.value());
    }
    match (workload::is_zero(unavailable.value()), workload::is_zero(surge.value())) {
        (false, false) => p.invalid(surge.path(), surge.value().clone(), "may not be set when maxUnavailable is non-zero"),
        (true, true) => p.required(unavailable.path(), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}
