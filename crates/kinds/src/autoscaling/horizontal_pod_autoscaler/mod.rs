//! HorizontalPodAutoscaler: replicas that follow load (autoscaling/v2, autoscaling/v1).

mod convert;
mod validate;

use crate::field::{Field, child_mut, default_pointer, non_negative, set};
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, Request, Served};
use serde_json::{Value, json};

pub struct HorizontalPodAutoscaler;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Reference",
        "string",
        "scaleTargetRef points to the target resource to scale, and is used to the pods for which metrics should be collected, as well as to actually change the replica count.",
        |o, _| text(format!("{}/{}", o.str_at(&["spec", "scaleTargetRef", "kind"]), o.str_at(&["spec", "scaleTargetRef", "name"]))),
    ),
    column(
        "Targets",
        "string",
        "metrics contains the specifications for which to use to calculate the desired replica count (the maximum replica count across all metrics will be used).  The desired replica count is calculated multiplying the ratio between the target value and the current value by the current number of pods.  Ergo, metrics used must decrease as the pod count is increased, and vice-versa.  See the individual metric source types for more information about how each type of metric must respond. If not set, the default metric will be set to 80% average CPU utilization.",
        |o, _| text(targets(o)),
    ),
    column(
        "MinPods",
        "string",
        "minReplicas is the lower limit for the number of replicas to which the autoscaler can scale down.  It defaults to 1 pod.  minReplicas is allowed to be 0 if the alpha feature gate HPAScaleToZero is enabled and at least one Object or External metric is configured.  Scaling is active as long as at least one metric value is available.",
        |o, _| table::scalar_or(o, &["spec", "minReplicas"], "<unset>"),
    ),
    column("MaxPods", "string", "maxReplicas is the upper limit for the number of replicas to which the autoscaler can scale up. It cannot be less that minReplicas.", |o, _| {
        table::int_cell(o, &["spec", "maxReplicas"])
    }),
    column("Replicas", "string", "currentReplicas is current number of replicas of pods managed by this autoscaler, as last seen by the autoscaler.", |o, _| {
        table::int_cell(o, &["status", "currentReplicas"])
    }),
    AGE,
];

impl Kind for HorizontalPodAutoscaler {
    type Object = Object;
    const INFO: Info = Info {
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: &["hpa"],
        categories: &["all"],
        served: &[
            Served { group: "autoscaling", version: "v2", schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler" },
            Served { group: "autoscaling", version: "v1", schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler" },
        ],
        subresources: &[status("HorizontalPodAutoscaler")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 10}
        }))
    }

    fn set_defaults(o: &mut Object) {
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        default_pointer(spec, "minReplicas", 1);
        if table::len(&spec["metrics"]) == 0 {
            set(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]));
        }
        let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) else { return };
        if let Some(up) = child_mut(behavior, "scaleUp") {
            default_pointer(up, "stabilizationWindowSeconds", 0);
            default_pointer(up, "selectPolicy", "Max");
            default_pointer(up, "policies", json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]));
        }
        if let Some(down) = child_mut(behavior, "scaleDown") {
            default_pointer(down, "selectPolicy", "Max");
            default_pointer(down, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        set(&mut o.0, "status", json!({"desiredReplicas": 0, "currentMetrics": null}));
    }

    fn validate(o: &Object, p: &mut Problems) {
        validate::autoscaler(o, p);
    }

    fn validate_status(new: &Object, _old: &Object, p: &mut Problems) {
        let status = Field::root(new).get("status");
        for name in ["currentReplicas", "desiredReplicas"] {
            non_negative(p, &status, name);
        }
    }

    fn convert(o: &mut Object, _from: &str, to: &str) {
        match to {
            "autoscaling/v1" => convert::to_v1(o),
            _ => convert::to_v2(o),
        }
    }
}

/// Metrics shown before the rest is counted.
const TARGETS_SHOWN_MAX_COUNT: usize = 2;

/// `cpu: 12%/70%, memory: 1Gi/2Gi + 1 more...`
fn targets(o: &Object) -> String {
    let metrics = table::list(o.at(&["spec", "metrics"]));
    if metrics.is_empty() {
        return "<none>".into();
    }
    let current = table::list(o.at(&["status", "currentMetrics"]));
    let shown: Vec<String> = metrics.iter().enumerate().map(|(i, m)| target(m, current.get(i).unwrap_or(&Value::Null))).collect();
    let head = shown[..shown.len().min(TARGETS_SHOWN_MAX_COUNT)].join(", ");
    if shown.len() > TARGETS_SHOWN_MAX_COUNT { format!("{head} + {} more...", shown.len() - TARGETS_SHOWN_MAX_COUNT) } else { head }
}

/// `cpu: <unknown>/70%`: what is measured against what is wanted.
fn target(metric: &Value, status: &Value) -> String {
    let (field, average_only) = match metric["type"].as_str().unwrap_or("") {
        "External" => ("external", false),
        "Pods" => ("pods", true),
        "Object" => ("object", false),
        "Resource" => ("resource", false),
        "ContainerResource" => ("containerResource", false),
        _ => return "<unknown type>".into(),
    };
    let (wanted, now) = (&metric[field]["target"], &status[field]["current"]);
    let is_resource = field == "resource" || field == "containerResource";
    let (key, suffix) = match () {
        _ if is_resource && wanted["averageValue"].is_null() => ("averageUtilization", "%"),
        _ if wanted["averageValue"].is_null() => ("value", ""),
        _ if is_resource || average_only => ("averageValue", ""),
        _ => ("averageValue", " (avg)"),
    };
    let show = |v: &Value| match v {
        Value::Null => "<unknown>".to_owned(),
        Value::String(s) => s.clone(),
        other => format!("{other}{}", if suffix == "%" { "%" } else { "" }),
    };
    let wanted = if suffix == "%" && wanted[key].is_null() { "<auto>".to_owned() } else { show(&wanted[key]) };
    let name = if is_resource { format!("{}: ", metric[field]["name"].as_str().unwrap_or("")) } else { String::new() };
    format!("{name}{}/{wanted}{}", show(&now[key]), if suffix == "%" { "" } else { suffix })
}
