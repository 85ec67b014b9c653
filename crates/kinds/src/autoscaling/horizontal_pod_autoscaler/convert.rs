//! autoscaling/v1 knows one metric, the use of cpu; everything else of v2 stands in annotations there.

use crate::field::{child_mut, remove, set};
use keles_api::Object;
use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

fn annotate(o: &mut Object, key: &str, v: &Value) {
    if let Some(annotations) = child_mut(&mut o.0, "metadata").and_then(|m| child_mut(m, "annotations")) {
        set(annotations, key, v.to_string());
    }
}

/// Takes an annotation away; answers its JSON.
fn take_annotation(o: &mut Object, key: &str) -> Option<Value> {
    let annotations = o.0.get_mut("metadata")?.get_mut("annotations")?;
    let text = annotations.get(key)?.as_str()?.to_owned();
    remove(annotations, key);
    serde_json::from_str(&text).ok()
}

pub fn to_v1(o: &mut Object) {
    let (mut others, mut current_others) = (Vec::new(), Vec::new());
    if let Some(spec) = o.0.get_mut("spec") {
        let mut seen_cpu = false;
        for metric in spec["metrics"].as_array().cloned().unwrap_or_default() {
            let target = metric["resource"]["target"]["averageUtilization"].clone();
            // Only the first cpu metric counts; v1 loses further ones, as upstream.
            let first = is_cpu(&metric) && !seen_cpu;
            seen_cpu |= is_cpu(&metric);
            match (is_cpu(&metric), target.is_null()) {
                (true, false) if first => set(spec, "targetCPUUtilizationPercentage", target),
                (true, false) => {}
                _ => others.push(flat(&metric, "target")),
            }
        }
        remove(spec, "metrics");
    }
    let behavior = o.0.get_mut("spec").and_then(|s| s.as_object_mut()).and_then(|s| s.remove("behavior"));
    let mut conditions = Value::Null;
    if let Some(status) = o.0.get_mut("status") {
        for metric in status["currentMetrics"].as_array().cloned().unwrap_or_default() {
            let used = &metric["resource"]["current"]["averageUtilization"];
            if is_cpu(&metric) && !used.is_null() {
                let used = used.clone();
                set(status, "currentCPUUtilizationPercentage", used);
            }
            current_others.push(flat(&metric, "current"));
        }
        conditions = status["conditions"].take();
        remove(status, "currentMetrics");
        remove(status, "conditions");
    }
    if !others.is_empty() {
        annotate(o, METRICS, &others.into());
    }
    if let Some(behavior) = behavior {
        annotate(o, BEHAVIOR, &go_names(behavior));
    }
    if !current_others.is_empty() {
        annotate(o, CURRENT, &current_others.into());
    }
    if conditions.as_array().is_some_and(|l| !l.is_empty()) {
        annotate(o, CONDITIONS, &conditions);
    }
}

pub fn to_v2(o: &mut Object) {
    let metrics = take_annotation(o, METRICS);
    let behavior = take_annotation(o, BEHAVIOR);
    let current = take_annotation(o, CURRENT);
    let conditions = take_annotation(o, CONDITIONS);
    if let Some(spec) = o.0.get_mut("spec") {
        let mut all: Vec<Value> = metrics.and_then(|m| m.as_array().cloned()).unwrap_or_default().iter().map(|m| nested(m, "target")).collect();
        if let Some(percent) = spec.as_object_mut().and_then(|s| s.remove("targetCPUUtilizationPercentage")) {
            all.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}));
        }
        if !all.is_empty() {
            set(spec, "metrics", all);
        }
        if let Some(behavior) = behavior {
            set(spec, "behavior", json_names(behavior));
        }
    }
    if let Some(status) = o.0.get_mut("status") {
        let mut all: Vec<Value> = current.and_then(|m| m.as_array().cloned()).unwrap_or_default().iter().map(|m| nested(m, "current")).collect();
        if let Some(percent) = status.as_object_mut().and_then(|s| s.remove("currentCPUUtilizationPercentage"))
            && all.is_empty()
        {
            all.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}));
        }
        if !all.is_empty() {
            set(status, "currentMetrics", all);
        }
        if let Some(conditions) = conditions {
            set(status, "conditions", conditions);
        }
    }
}

/// A field of a metric's source: `Resource` stands in `resource`.
fn source_of(metric: &Value) -> String {
    let kind = metric["type"].as_str().unwrap_or("");
    let mut chars = kind.chars();
    chars.next().map(|c| c.to_ascii_lowercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// v1 has a metric's numbers beside its name: `targetValue`, `targetAverageValue`, `metricName`.
fn flat(metric: &Value, numbers: &str) -> Value {
    let source = source_of(metric);
    let mut out = Map::new();
    for (k, v) in metric[&source].as_object().into_iter().flatten() {
        match k.as_str() {
            "metric" => {
                out.insert("metricName".into(), v["name"].clone());
                if !v["selector"].is_null() {
                    out.insert(if source == "external" { "metricSelector" } else { "selector" }.into(), v["selector"].clone());
                }
            }
            "describedObject" => drop(out.insert("target".into(), v.clone())),
            k if k == numbers => {
                for (name, v) in v.as_object().into_iter().flatten().filter(|(name, _)| *name != "type") {
                    let mut upper = name.clone();
                    upper[..1].make_ascii_uppercase();
                    out.insert(format!("{numbers}{upper}"), v.clone());
                }
            }
            _ => drop(out.insert(k.clone(), v.clone())),
        }
    }
    json!({"type": metric["type"], (source): out})
}

/// The other way round.
fn nested(metric: &Value, numbers: &str) -> Value {
    let source = source_of(metric);
    let (mut out, mut counts, mut identity) = (Map::new(), Map::new(), Map::new());
    for (k, v) in metric[&source].as_object().into_iter().flatten() {
        match k.as_str() {
            "metricName" => drop(identity.insert("name".into(), v.clone())),
            "metricSelector" | "selector" => drop(identity.insert("selector".into(), v.clone())),
            "target" if v.is_object() => drop(out.insert("describedObject".into(), v.clone())),
            k => match k.strip_prefix(numbers).filter(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase())) {
                Some(rest) => {
                    let mut lower = rest.to_owned();
                    lower[..1].make_ascii_lowercase();
                    counts.insert(lower, v.clone());
                }
                None => drop(out.insert(k.to_owned(), v.clone())),
            },
        }
    }
    if numbers == "target" {
        let kind = if counts.contains_key("averageUtilization") {
            "Utilization"
        } else if counts.contains_key("averageValue") {
            "AverageValue"
        } else {
            "Value"
        };
        counts.insert("type".into(), kind.into());
    }
    if !identity.is_empty() {
        out.insert("metric".into(), identity.into());
    }
    out.insert(numbers.into(), counts.into());
    json!({"type": metric["type"], (source): out})
}

/// The behavior annotation is written with the names of Go fields.
fn go_names(v: Value) -> Value {
    rename(v, |k| k[..1].to_ascii_uppercase() + &k[1..])
}

fn json_names(v: Value) -> Value {
    rename(v, |k| k[..1].to_ascii_lowercase() + &k[1..])
}

fn rename(v: Value, name: fn(&str) -> String) -> Value {
    match v {
        Value::Object(m) => Value::Object(m.into_iter().filter(|(k, v)| !k.is_empty() && !v.is_null()).map(|(k, v)| (name(&k), rename(v, name))).collect()),
        Value::Array(l) => Value::Array(l.into_iter().map(|v| rename(v, name)).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_v1_cannot_say_survives_in_annotations() {
        let metrics = json!([
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
            {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "100"}}},
            {"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "Value", "value": "30"}}},
        ]);
        let spec = json!({"maxReplicas": 3, "metrics": metrics, "behavior": {"scaleDown": {"selectPolicy": "Min"}}});
        let mut o = Object(json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "a"}, "spec": spec}));
        to_v1(&mut o);
        assert_eq!(o.at(&["spec"]), &json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 60}));
        to_v2(&mut o);
        let after = o.at(&["spec", "metrics"]).as_array().expect("a list").clone();
        assert_eq!(after.len(), 3);
        assert!(metrics.as_array().expect("a list").iter().all(|m| after.contains(m)), "{after:?}");
        assert_eq!(o.at(&["spec", "behavior"]), &json!({"scaleDown": {"selectPolicy": "Min"}}));
    }
}
