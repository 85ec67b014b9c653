//! Writes one pod's status: the newest wins, a write in flight is followed by at most one more, and nothing is written that the API has.
//!
//! Entry point: [`StatusWriter`]. The write is a strategic merge patch of what changed, so that conditions of others stay.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// First pause after a write that failed for a passing reason; doubles up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(200);
const MAX_RETRY: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
struct Wanted {
    number: u64,
    status: Option<PodStatus>,
}

/// What the API is known to have.
#[derive(Default)]
struct Base {
    revision: u64,
    status: PodStatus,
}

pub struct StatusWriter {
    wanted: watch::Sender<Wanted>,
    written: watch::Receiver<u64>,
    base: Arc<Mutex<Base>>,
    /// When the first change was told that is not being written yet.
    since: Arc<Mutex<Option<Instant>>>,
    /// The object is a static pod's mirror: it may come, go and come again.
    is_mirror: bool,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl StatusWriter {
    pub fn start(client: kube::Client, pod: &Pod) -> Self {
        let (wanted, wanted_rx) = watch::channel(Wanted::default());
        let (written_tx, written) = watch::channel(0);
        let base = Arc::new(Mutex::new(Base { revision: revision(pod), status: pod.status.clone().unwrap_or_default() }));
        let api = Api::namespaced(client, pod.metadata.namespace.as_deref().unwrap_or("default"));
        let name = pod.metadata.name.clone().unwrap_or_default();
        let is_mirror = crate::static_pods::is_static(pod);
        let uid = pod.metadata.uid.clone().filter(|_| !is_mirror);
        let since = Arc::new(Mutex::new(None));
        let task = tokio::spawn(write_all(api, name, uid, wanted_rx, written_tx, base.clone(), since.clone()));
        Self { wanted, written, base, since, is_mirror, task }
    }

    /// The API showed this object.
    pub fn seen(&self, pod: &Pod) {
        if learn(&self.base, pod) && self.is_mirror {
            // Perhaps another object, which knows nothing yet.
            self.wanted.send_modify(|wanted| wanted.number += 1);
        }
    }

    pub fn set(&self, status: PodStatus) {
        self.wanted.send_modify(|wanted| {
            if wanted.status.as_ref() != Some(&status) {
                self.since.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert_with(Instant::now);
                *wanted = Wanted { number: wanted.number + 1, status: Some(status) };
            }
        });
    }

    /// Waits until the newest status is written (or cannot be, because the object is gone).
    pub async fn flush(&self) {
        let number = self.wanted.borrow().number;
        let _ = self.written.clone().wait_for(|written| *written >= number).await;
    }
}

fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// Whether it was news.
fn learn(base: &Mutex<Base>, pod: &Pod) -> bool {
    let mut base = base.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let is_news = revision(pod) > base.revision;
    if is_news {
        *base = Base { revision: revision(pod), status: pod.status.clone().unwrap_or_default() };
    }
    is_news
}

async fn write_all(
    api: Api<Pod>,
    name: String,
    uid: Option<String>,
    mut wanted: watch::Receiver<Wanted>,
    written: watch::Sender<u64>,
    base: Arc<Mutex<Base>>,
    since: Arc<Mutex<Option<Instant>>>,
) {
    let mut retry = FIRST_RETRY;
    let mut begun = None;
    while wanted.changed().await.is_ok() {
        loop {
            let Wanted { number, status } = wanted.borrow_and_update().clone();
            let Some(status) = status else { break };
            let latest = since.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            begun = begun.or(latest);
            let changes = {
                let base = base.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                difference(&base.status, &status)
            };
            let Some(changes) = changes else {
                begun = None;
                let _ = written.send(number);
                break;
            };
            let mut patch = json!({"status": changes});
            if let Some(uid) = &uid {
                patch["metadata"] = json!({"uid": uid});
            }
            match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(pod) => {
                    learn(&base, &pod);
                    retry = FIRST_RETRY;
                    if let Some(begun) = begun.take() {
                        crate::metrics::STATUS_SYNC.with([]).observe_seconds(begun.elapsed());
                    }
                    let _ = written.send(number);
                }
                Err(kube::Error::Api(refusal)) if matches!(refusal.code, 404 | 409 | 422) => {
                    // Gone, another incarnation, or refused for good: writing it again would not help.
                    if refusal.code == 422 {
                        tracing::warn!(pod = name, error = refusal.message, "pod status refused");
                    }
                    begun = None;
                    let _ = written.send(number);
                }
                Err(error) => {
                    tracing::warn!(pod = name, %error, "pod status not written, will be tried again");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(MAX_RETRY);
                    continue;
                }
            }
            if !wanted.has_changed().unwrap_or(false) {
                break;
            }
        }
    }
}

/// What others write into a pod's status; conditions of others are told by their types.
const FOREIGN: [&str; 3] = ["resourceClaimStatuses", "extendedResourceClaimStatus", "nominatedNodeName"];

/// What to patch so that `old` becomes `new`; `None` when nothing.
pub fn difference(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let tree = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (mut old, mut new) = (tree(old), tree(new));
    for tree in [&mut old, &mut new] {
        tree.retain(|key, _| !FOREIGN.contains(&key.as_str()));
    }
    let mut changes = Map::new();
    for (key, value) in &new {
        if key != "conditions" && old.get(key) != Some(value) {
            changes.insert(key.clone(), replaced(key, old.get(key), value));
        }
    }
    for key in old.keys().filter(|key| *key != "conditions" && !new.contains_key(*key)) {
        changes.insert(key.clone(), Value::Null);
    }
    let conditions = condition_changes(old.get("conditions"), new.get("conditions"));
    if !conditions.is_empty() {
        changes.insert("conditions".into(), Value::Array(conditions));
    }
    (!changes.is_empty()).then_some(Value::Object(changes))
}

/// Lists that the API merges by `ip` name what goes: a pod's old addresses must not stay.
fn replaced(key: &str, old: Option<&Value>, new: &Value) -> Value {
    match (key, old, new) {
        ("podIPs" | "hostIPs", Some(Value::Array(old)), Value::Array(new)) => {
            let gone = old.iter().filter(|item| !new.contains(item)).map(|item| json!({"$patch": "delete", "ip": item["ip"]}));
            Value::Array(new.iter().cloned().chain(gone).collect())
        }
        _ => new.clone(),
    }
}

fn condition_changes(old: Option<&Value>, new: Option<&Value>) -> Vec<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (old, new) = (list(old), list(new));
    let kind = |condition: &Value| condition.get("type").cloned();
    let mut changes: Vec<Value> = Vec::new();
    for condition in &new {
        let before = old.iter().find(|other| kind(other) == kind(condition));
        if before == Some(condition) {
            continue;
        }
        let mut change = condition.clone();
        // A key that went away must be named to go.
        if let (Some(Value::Object(before)), Value::Object(change)) = (before, &mut change) {
            for key in before.keys() {
                change.entry(key.clone()).or_insert(Value::Null);
            }
        }
        changes.push(change);
    }
    let gone = old.iter().filter(|condition| !new.iter().any(|other| kind(other) == kind(condition)));
    changes.extend(gone.map(|condition| json!({"$patch": "delete", "type": kind(condition)})));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).expect("a status")
    }

    #[test]
    fn only_what_changed_is_written() {
        let old = status(json!({"phase": "Pending", "qosClass": "BestEffort", "reason": "x"}));
        let new = status(json!({"phase": "Running", "qosClass": "BestEffort"}));
        assert_eq!(difference(&old, &new), Some(json!({"phase": "Running", "reason": null})));
        assert_eq!(difference(&new, &new), None);
    }

    #[test]
    fn conditions_of_others_stay_and_dropped_ones_are_deleted() {
        let old = status(json!({"conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False", "reason": "r"}]}));
        let new = status(json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]}));
        assert_eq!(difference(&old, &new), Some(json!({"conditions": [{"type": "Ready", "status": "True", "reason": null}]})));
        assert_eq!(
            difference(&old, &status(json!({"conditions": [{"type": "Ready", "status": "False", "reason": "r"}]}))),
            Some(json!({"conditions": [{"$patch": "delete", "type": "PodScheduled"}]}))
        );
    }

    #[test]
    fn addresses_that_went_away_are_deleted() {
        let new = status(json!({"podIPs": [{"ip": "10.42.0.3"}]}));
        assert_eq!(difference(&PodStatus::default(), &new), Some(json!({"podIPs": [{"ip": "10.42.0.3"}]})));
        let old = status(json!({"podIPs": [{"ip": "10.42.0.2"}]}));
        assert_eq!(difference(&old, &new), Some(json!({"podIPs": [{"ip": "10.42.0.3"}, {"$patch": "delete", "ip": "10.42.0.2"}]})));
    }
}
