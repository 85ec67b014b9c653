//! LimitRanger: defaults and bounds of containers, pods and claims in namespaces that have LimitRanges.

use super::{is, list};
use async_trait::async_trait;
use keles_api::{Object, Quantity, Status};
use keles_registry::{Admission, Attributes, Operation};
use serde_json::{Map, Value};
use std::sync::Arc;

pub struct LimitRanger;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

#[async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        match a.operation {
            Operation::Create => is(a, "", "pods") || is(a, "", "persistentvolumeclaims"),
            Operation::Update => is(a, "", "persistentvolumeclaims"),
            _ => false,
        }
    }
    fn mutates(&self) -> bool {
        true
    }
    async fn mutate(&self, a: &Attributes<'_>, o: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        if !is(a, "", "pods") || !o.0["spec"].is_object() {
            return Ok(());
        }
        for range in ranges(a) {
            set_defaults(o, &range);
        }
        Ok(())
    }
    async fn validate(&self, a: &Attributes<'_>, o: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        let Some(o) = o else { return Ok(()) };
        for range in ranges(a) {
            let broken = if is(a, "", "pods") { pod_problems(o, &range) } else { claim_problems(o, &range) };
            match broken.as_slice() {
                [] => {}
                [one] => return Err(Status::forbidden("", a.info.plural, o.name(), one)),
                many => return Err(Status::forbidden("", a.info.plural, o.name(), format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

fn ranges(a: &Attributes<'_>) -> Vec<Arc<Object>> {
    a.registry.read_few("", "limitranges", &a.request.namespace)
}

fn limits<'a>(range: &'a Object, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    list(range.at(&["spec", "limits"])).filter(move |l| l["type"] == kind)
}

/// The defaults of a range for containers: (limits, requests).
fn container_defaults(range: &Object) -> (Map<String, Value>, Map<String, Value>) {
    let (mut on_limits, mut on_requests) = (Map::new(), Map::new());
    for l in limits(range, "Container") {
        on_requests.extend(l["defaultRequest"].as_object().cloned().unwrap_or_default());
        on_limits.extend(l["default"].as_object().cloned().unwrap_or_default());
    }
    (on_limits, on_requests)
}

fn set_defaults(pod: &mut Object, range: &Object) {
    let (on_limits, on_requests) = container_defaults(range);
    if on_limits.is_empty() && on_requests.is_empty() {
        return;
    }
    let mut said = Vec::new();
    for (field, word) in [("containers", "container"), ("initContainers", "init container")] {
        for c in pod.0["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter(|c| c.is_object()) {
            let name = c["name"].as_str().unwrap_or_default().to_owned();
            for (side, singular, defaults) in [("requests", "request", &on_requests), ("limits", "limit", &on_limits)] {
                let set = fill(c, side, defaults);
                if !set.is_empty() {
                    said.push(format!("{} {singular} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !said.is_empty() {
        let text = format!("LimitRanger plugin set: {}", said.join("; "));
        let annotations = pod.meta_mut().entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        annotations[ANNOTATION] = text.into();
    }
}

/// Sets absent quantities; the names that were set, sorted.
fn fill(container: &mut Value, side: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (resource, quantity) in defaults {
        if container["resources"][side].get(resource).is_none() {
            container["resources"][side][resource] = quantity.clone();
            set.push(resource.clone());
        }
    }
    set.sort();
    set
}

fn quantity(v: &Value) -> Option<Quantity> {
    v.as_str().and_then(|s| Quantity::parse(s).ok())
}

/// What a container, pod or claim asks for, against one limit item, in upstream's words.
fn check(limit: &Value, what: &str, requests: &Value, limits: &Value, problems: &mut Vec<String>) {
    let bound = |side: &'static str| limit[side].as_object().into_iter().flatten().filter_map(|(k, v)| Some((k, quantity(v)?, v.as_str().unwrap_or_default())));
    for (resource, min, text) in bound("min") {
        let (asked, most) = (quantity(&requests[resource]), quantity(&limits[resource]));
        match asked {
            None => problems.push(format!("minimum {resource} usage per {what} is {text}.  No request is specified")),
            Some(q) if q < min => problems.push(format!("minimum {resource} usage per {what} is {text}, but request is {}", shown(&requests[resource]))),
            _ => {}
        }
        if most.is_some_and(|q| q < min) {
            problems.push(format!("minimum {resource} usage per {what} is {text}, but limit is {}", shown(&limits[resource])));
        }
    }
    for (resource, max, text) in bound("max") {
        let (asked, most) = (quantity(&requests[resource]), quantity(&limits[resource]));
        match most {
            None => problems.push(format!("maximum {resource} usage per {what} is {text}.  No limit is specified")),
            Some(q) if q > max => problems.push(format!("maximum {resource} usage per {what} is {text}, but limit is {}", shown(&limits[resource]))),
            _ => {}
        }
        if asked.is_some_and(|q| q > max) {
            problems.push(format!("maximum {resource} usage per {what} is {text}, but request is {}", shown(&requests[resource])));
        }
    }
    for (resource, ratio, text) in bound("maxLimitRequestRatio") {
        let (Some(asked), Some(most)) = (quantity(&requests[resource]), quantity(&limits[resource])) else {
            problems.push(format!("{resource} max limit to request ratio per {what} is {text}, but no request is specified or request is 0"));
            continue;
        };
        let given = value(&most) / value(&asked);
        if given > value(&ratio) {
            problems.push(format!("{resource} max limit to request ratio per {what} is {text}, but provided ratio is {given:.6}"));
        }
    }
}

fn shown(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

fn value(q: &Quantity) -> f64 {
    q.as_f64()
}

fn pod_problems(pod: &Object, range: &Object) -> Vec<String> {
    let mut problems = Vec::new();
    for l in limits(range, "Container") {
        for c in list(pod.at(&["spec", "containers"])).chain(list(pod.at(&["spec", "initContainers"]))) {
            check(l, "Container", &c["resources"]["requests"], &c["resources"]["limits"], &mut problems);
        }
    }
    problems
}

fn claim_problems(claim: &Object, range: &Object) -> Vec<String> {
    let mut problems = Vec::new();
    for l in limits(range, "PersistentVolumeClaim") {
        let asked = &claim.0["spec"]["resources"]["requests"];
        for (side, word, over) in [("min", "minimum", false), ("max", "maximum", true)] {
            for (resource, v) in l[side].as_object().into_iter().flatten() {
                let (Some(bound), Some(q)) = (quantity(v), quantity(&asked[resource])) else { continue };
                if (over && q > bound) || (!over && q < bound) {
                    problems.push(format!("{word} {resource} usage per PersistentVolumeClaim is {}, but request is {}", shown(v), shown(&asked[resource])));
                }
            }
        }
    }
    problems
}
