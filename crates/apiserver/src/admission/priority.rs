//! Priority: a pod's priority is what its PriorityClass says; one class at most is the default.

use super::is;
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_registry::{Admission, Attributes, Operation};
use std::sync::Arc;

pub struct Priority;

const GROUP: &str = "scheduling.k8s.io";
const PREEMPT: &str = "PreemptLowerPriority";

#[async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        matches!(a.operation, Operation::Create | Operation::Update) && (is(a, "", "pods") || is(a, GROUP, "priorityclasses"))
    }
    fn mutates(&self) -> bool {
        true
    }
    async fn mutate(&self, a: &Attributes<'_>, o: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        if !is(a, "", "pods") || !o.0["spec"].is_object() {
            return Ok(());
        }
        match a.old {
            None => set(a, o),
            Some(old) => {
                keep(o, old);
                Ok(())
            }
        }
    }
    async fn validate(&self, a: &Attributes<'_>, o: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        let Some(o) = o.filter(|o| is(a, GROUP, "priorityclasses") && o.at(&["globalDefault"]) == true) else { return Ok(()) };
        match default_class(a).filter(|d| d.name() != o.name()) {
            Some(other) => {
                Err(Status::forbidden(GROUP, "priorityclasses", o.name(), format!("PriorityClass {} is already marked as default. Only one default can exist", other.name())))
            }
            None => Ok(()),
        }
    }
}

fn default_class(a: &Attributes<'_>) -> Option<Arc<Object>> {
    a.registry.read_few(GROUP, "priorityclasses", "").into_iter().filter(|c| c.at(&["globalDefault"]) == true).min_by_key(|c| c.at(&["value"]).as_i64())
}

/// An update that leaves priority out keeps the old one.
fn keep(new: &mut Object, old: &Object) {
    for field in ["priority", "preemptionPolicy"] {
        let was = old.at(&["spec", field]);
        if new.at(&["spec", field]).is_null() && !was.is_null() {
            new.0["spec"][field] = was.clone();
        }
    }
}

fn set(a: &Attributes<'_>, pod: &mut Object) -> Result<(), Status> {
    let refuse = |pod: &Object, why: String| Status::forbidden("", "pods", pod.name(), why);
    let named = pod.str_at(&["spec", "priorityClassName"]).to_owned();
    let class = if named.is_empty() {
        default_class(a)
    } else {
        let found = a.registry.read(GROUP, "priorityclasses", "", &named);
        Some(found.ok_or_else(|| refuse(pod, format!("no PriorityClass with name {named} was found")))?)
    };
    let (priority, policy) = match &class {
        Some(c) => (c.at(&["value"]).as_i64().unwrap_or(0), c.at(&["preemptionPolicy"]).as_str().unwrap_or(PREEMPT).to_owned()),
        None => (0, PREEMPT.to_owned()),
    };
    if let (true, Some(c)) = (named.is_empty(), &class) {
        pod.0["spec"]["priorityClassName"] = c.name().into();
    }
    if let Some(given) = pod.at(&["spec", "priority"]).as_i64().filter(|g| *g != priority) {
        return Err(refuse(
            pod,
            format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            ),
        ));
    }
    pod.0["spec"]["priority"] = priority.into();
    let given = pod.str_at(&["spec", "preemptionPolicy"]);
    if !given.is_empty() && given != policy {
        return Err(refuse(
            pod,
            format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            ),
        ));
    }
    pod.0["spec"]["preemptionPolicy"] = policy.into();
    Ok(())
}
