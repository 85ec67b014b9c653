//! Events (core/v1) about pods and the node: the same event again counts up instead of being made anew.
//!
//! Entry point: [`Recorder::pod`], [`Recorder::container`], [`Recorder::node`]; they never wait. Invariants: one writer keeps the order;
//! each object has a budget, so that a failing probe cannot flood the store.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::HashMap;
use tokio::sync::mpsc;

/// Events not yet written; more are dropped.
const QUEUE_LEN: usize = 4096;
/// Distinct events remembered for counting.
const REMEMBERED: usize = 4096;
/// An object's budget: so many at once, one more each `REFILL_SECONDS` (upstream's figures).
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

pub const NORMAL: &str = "Normal";
pub const WARNING: &str = "Warning";

struct Entry {
    about: ObjectReference,
    kind: &'static str,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Hands events to their writer.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Entry>,
}

impl Recorder {
    /// Starts the writer; it ends when all recorders are gone.
    pub fn start(client: kube::Client, node: &str) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE_LEN);
        tokio::spawn(Writer { client, node: node.into(), known: HashMap::new(), budgets: HashMap::new() }.run(entries));
        Self { queue }
    }

    pub fn pod(&self, pod: &Pod, kind: &'static str, reason: &str, message: impl Into<String>) {
        self.send(pod_reference(pod, None), kind, reason, message.into());
    }

    /// `field` names the container: `spec.containers{c}`.
    pub fn container(&self, pod: &Pod, field: &str, kind: &'static str, reason: &str, message: impl Into<String>) {
        self.send(pod_reference(pod, Some(field.into())), kind, reason, message.into());
    }

    pub fn node(&self, name: &str, kind: &'static str, reason: &str, message: impl Into<String>) {
        let about = ObjectReference { kind: Some("Node".into()), name: Some(name.into()), uid: Some(name.into()), ..Default::default() };
        self.send(about, kind, reason, message.into());
    }

    fn send(&self, about: ObjectReference, kind: &'static str, reason: &str, message: String) {
        let entry = Entry { about, kind, reason: reason.into(), message, at: Timestamp::now() };
        if self.queue.try_send(entry).is_err() {
            tracing::warn!(reason, "an event was dropped: the queue is full or closed");
        }
    }
}

fn pod_reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

struct Known {
    name: String,
    count: i32,
}

struct Budget {
    tokens: f64,
    at: Timestamp,
}

struct Writer {
    client: kube::Client,
    node: String,
    known: HashMap<String, Known>,
    budgets: HashMap<String, Budget>,
}

impl Writer {
    async fn run(mut self, mut entries: mpsc::Receiver<Entry>) {
        while let Some(entry) = entries.recv().await {
            if !self.within_budget(&entry) {
                continue;
            }
            if let Err(error) = self.write(&entry).await {
                tracing::debug!(%error, reason = entry.reason, "an event could not be written");
            }
        }
    }

    fn within_budget(&mut self, entry: &Entry) -> bool {
        if self.budgets.len() > REMEMBERED {
            self.budgets.clear();
        }
        let budget = self.budgets.entry(entry.about.uid.clone().unwrap_or_default()).or_insert(Budget { tokens: BURST, at: entry.at });
        let passed = entry.at.duration_since(budget.at).as_secs_f64();
        budget.tokens = (budget.tokens + passed / REFILL_SECONDS).min(BURST);
        budget.at = entry.at;
        let enough = budget.tokens >= 1.0;
        if enough {
            budget.tokens -= 1.0;
        }
        enough
    }

    async fn write(&mut self, entry: &Entry) -> Result<(), kube::Error> {
        let namespace = entry.about.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let key = format!("{:?}|{:?}|{}|{}|{}", entry.about.uid, entry.about.field_path, entry.kind, entry.reason, entry.message);
        if let Some(known) = self.known.get_mut(&key) {
            let count = known.count + 1;
            let patch = json!({"count": count, "lastTimestamp": Time(seconds(entry.at))});
            match api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    known.count = count;
                    return Ok(());
                }
                // It expired: begin anew.
                Err(kube::Error::Api(status)) if status.code == 404 => drop(self.known.remove(&key)),
                Err(error) => return Err(error),
            }
        }
        let event = self.fresh(entry, &namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &event).await?;
        if self.known.len() > REMEMBERED {
            self.known.clear();
        }
        self.known.insert(key, Known { name, count: 1 });
        Ok(())
    }

    fn fresh(&self, entry: &Entry, namespace: &str) -> Event {
        let name = format!("{}.{:x}", entry.about.name.as_deref().unwrap_or_default(), entry.at.as_nanosecond());
        let at = Some(Time(seconds(entry.at)));
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.into()), ..Default::default() },
            involved_object: entry.about.clone(),
            type_: Some(entry.kind.into()),
            reason: Some(entry.reason.clone()),
            message: Some(entry.message.clone()),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(self.node.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            first_timestamp: at.clone(),
            last_timestamp: at,
            count: Some(1),
            ..Default::default()
        }
    }
}

fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
