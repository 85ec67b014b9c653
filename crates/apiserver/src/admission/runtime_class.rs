//! RuntimeClass: a pod takes overhead, node selector and tolerations from its class, which must exist.

use super::{is, list, list_mut};
use async_trait::async_trait;
use keles_api::{Object, Quantity, Status};
use keles_registry::{Admission, Attributes, Operation};
use serde_json::{Map, Value};
use std::sync::Arc;

pub struct RuntimeClass;

#[async_trait]
impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && is(a, "", "pods")
    }
    fn mutates(&self) -> bool {
        true
    }
    async fn mutate(&self, a: &Attributes<'_>, pod: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        let Some(class) = class(a, pod)? else { return Ok(()) };
        let overhead = class.at(&["overhead", "podFixed"]);
        if !overhead.is_null() {
            check_overhead(pod, &class)?;
            pod.0["spec"]["overhead"] = overhead.clone();
        }
        if let Some(wanted) = class.at(&["scheduling", "nodeSelector"]).as_object() {
            select_nodes(pod, wanted)?;
        }
        for t in list(class.at(&["scheduling", "tolerations"])) {
            let have = list_mut(&mut pod.0["spec"], "tolerations");
            if !have.contains(t) {
                have.push(t.clone());
            }
        }
        Ok(())
    }
    async fn validate(&self, a: &Attributes<'_>, pod: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        let Some(pod) = pod else { return Ok(()) };
        match class(a, pod)?.filter(|c| !c.at(&["overhead"]).is_null()) {
            Some(class) => check_overhead(pod, &class),
            None if pod.at(&["spec", "overhead"]).as_object().is_none_or(Map::is_empty) => Ok(()),
            None => Err(refused(pod, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
        }
    }
}

fn refused(pod: &Object, why: impl AsRef<str>) -> Status {
    Status::forbidden("", "pods", pod.name(), why.as_ref())
}

/// The class a pod names; 403 when it is absent.
fn class(a: &Attributes<'_>, pod: &Object) -> Result<Option<Arc<Object>>, Status> {
    match pod.str_at(&["spec", "runtimeClassName"]) {
        "" => Ok(None),
        name => match a.registry.read("node.k8s.io", "runtimeclasses", "", name) {
            Some(class) => Ok(Some(class)),
            None => Err(refused(pod, format!("pod rejected: RuntimeClass {name:?} not found"))),
        },
    }
}

/// A pod may repeat its class's overhead, not contradict it.
fn check_overhead(pod: &Object, class: &Object) -> Result<(), Status> {
    let (own, of_class) = (pod.at(&["spec", "overhead"]), class.at(&["overhead", "podFixed"]));
    if own.is_null() || same_quantities(own, of_class) {
        return Ok(());
    }
    Err(refused(pod, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
}

fn same_quantities(a: &Value, b: &Value) -> bool {
    let (empty, amount) = (Map::new(), |v: &Value| v.as_str().and_then(|t| Quantity::parse(t).ok()));
    let (a, b) = (a.as_object().unwrap_or(&empty), b.as_object().unwrap_or(&empty));
    a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|o| amount(o) == amount(v)))
}

fn select_nodes(pod: &mut Object, wanted: &Map<String, Value>) -> Result<(), Status> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    for (key, value) in wanted {
        let own = pod.at(&["spec", "nodeSelector", key]);
        if !own.is_null() && own != value {
            let why = format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}", text(value), text(own));
            return Err(refused(pod, why));
        }
        pod.0["spec"]["nodeSelector"][key] = value.clone();
    }
    Ok(())
}
