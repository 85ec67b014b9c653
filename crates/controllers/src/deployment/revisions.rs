//! Revisions: which set is the newest, and what the sets remember.

use super::numbers::{DESIRED_REPLICAS, MAX_REPLICAS};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const HASH_LABEL: &str = "pod-template-hash";
/// Annotations that are about the Deployment itself and do not go to its sets.
const NOT_COPIED: [&str; 6] = ["kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, "deprecated.deployment.rollback.to"];
const HISTORY_CHARS: usize = 2000;

/// Whether the set was made from the Deployment's template: both were defaulted by the same server, so they compare as they are (lesson 56),
/// but for the hash label and for empty against absent.
pub fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let Some(ours) = deployment.spec.as_ref().map(|spec| &spec.template) else { return false };
    let Some(theirs) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return false };
    let canonical = |template| {
        let mut value = serde_json::to_value(template).expect("API types always encode");
        if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove(HASH_LABEL);
        }
        drop_empty(&mut value);
        value
    };
    canonical(ours) == canonical(theirs)
}

fn drop_empty(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(drop_empty);
            // An empty object can carry meaning (emptyDir: {}), an empty map or list of a Go type does not; only strategies of unions are objects.
            map.retain(|key, value| !(value.is_null() || value.as_array().is_some_and(Vec::is_empty) || (value.as_object().is_some_and(|o| o.is_empty()) && is_plain_map(key))));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        _ => {}
    }
}
fn is_plain_map(key: &str) -> bool {
    matches!(key, "labels" | "annotations" | "nodeSelector" | "limits" | "requests" | "resources" | "metadata" | "securityContext" | "overhead")
}

/// The oldest set with the Deployment's template: several can exist after a downgrade, and the choice must not change.
pub fn newest_set<'s>(deployment: &Deployment, sets: &'s [Arc<ReplicaSet>]) -> Option<&'s Arc<ReplicaSet>> {
    let mut by_age: Vec<&Arc<ReplicaSet>> = sets.iter().collect();
    by_age.sort_by_key(|set| (set.metadata.creation_timestamp.clone().map(|t| t.0), set.metadata.name.clone()));
    by_age.into_iter().find(|set| same_template(deployment, set))
}
pub fn revision_text(meta: &ObjectMeta) -> Option<&String> {
    meta.annotations.as_ref()?.get(REVISION)
}
pub fn revision(meta: &ObjectMeta) -> i64 {
    revision_text(meta).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Brings the annotations of the newest set up to date: the Deployment's own, and the revision with its history. True when something changed.
pub fn annotate(deployment: &Deployment, set: &mut ReplicaSet, new_revision: i64, exists: bool) -> bool {
    let old = revision(&set.metadata);
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = copy_annotations(deployment, annotations);
    if old < new_revision {
        let before = annotations.insert(REVISION.into(), new_revision.to_string());
        changed = true;
        // A set that had a revision and gets a new one is one that the Deployment rolled back to.
        if let Some(before) = before.filter(|_| exists) {
            remember(annotations, before);
        }
    }
    changed
}
fn copy_annotations(deployment: &Deployment, annotations: &mut BTreeMap<String, String>) -> bool {
    let mut changed = false;
    for (key, value) in deployment.metadata.annotations.iter().flatten().filter(|(key, _)| !NOT_COPIED.contains(&key.as_str())) {
        if annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    changed
}
fn remember(annotations: &mut BTreeMap<String, String>, revision: String) {
    let history = annotations.entry(REVISION_HISTORY.into()).or_default();
    let mut revisions: Vec<&str> = history.split(',').filter(|text| !text.is_empty()).collect();
    revisions.push(&revision);
    while revisions.len() > 1 && revisions.iter().map(|text| text.len() + 1).sum::<usize>() > HISTORY_CHARS {
        revisions.remove(0);
    }
    *history = revisions.join(",");
}
/// Notes the sizes that proportional scaling starts from. True when something changed.
pub fn note_sizes(set: &mut ReplicaSet, desired: i32, max: i32) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, desired), (MAX_REPLICAS, max)] {
        changed |= annotations.insert(key.into(), value.to_string()).as_deref() != Some(value.to_string().as_str());
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment() -> Deployment {
        let value = json!({
            "metadata": {"annotations": {"note": "x", REVISION: "1"}},
            "spec": {"selector": {}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "resources": {}}], "volumes": [{"name": "v", "emptyDir": {}}]}}},
        });
        serde_json::from_value(value).expect("a deployment")
    }
    fn set(template: serde_json::Value) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {}, "spec": {"selector": {}, "template": template}})).expect("a set")
    }

    #[test]
    fn templates_compare_without_the_hash_and_without_empty_fields() {
        let same = json!({"metadata": {"labels": {"a": "b", HASH_LABEL: "h"}}, "spec": {"containers": [{"name": "c", "env": []}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        assert!(same_template(&deployment(), &set(same)));
        let other = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "v"}]}});
        assert!(!same_template(&deployment(), &set(other)), "emptyDir: {{}} is not nothing");
    }

    #[test]
    fn a_rolled_back_set_gets_the_next_revision_and_remembers_the_old_one() {
        let mut set = set(json!({}));
        assert!(annotate(&deployment(), &mut set, 1, false));
        assert_eq!(revision(&set.metadata), 1);
        let annotations = set.metadata.annotations.clone().expect("annotations");
        assert_eq!((annotations.get("note").map(String::as_str), annotations.get(REVISION_HISTORY)), (Some("x"), None));
        assert!(!annotate(&deployment(), &mut set, 1, true), "nothing new, nothing written");
        annotate(&deployment(), &mut set, 3, true);
        annotate(&deployment(), &mut set, 5, true);
        assert_eq!(set.metadata.annotations.expect("annotations")[REVISION_HISTORY], "1,3");
    }
}
