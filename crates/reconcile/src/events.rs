//! Events: what controllers tell people, deduplicated and limited, written in the background.
//!
//! Entry point: [`Recorder::event`]; it never blocks and never fails (a full buffer drops the event). As upstream's correlator: an event told
//! before becomes a higher count of the first; many alike become one "(combined from similar events)"; an object has a budget of events.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use keles_client::Watched;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::HashMap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const BUFFER_EVENTS: usize = 4096;
/// Distinct messages of one kind about one object before they are combined.
const SIMILAR_LIMIT: usize = 10;
const SIMILAR_WINDOW_SECONDS: i64 = 600;
/// Budget of one object: a burst, then one event in five minutes.
const OBJECT_BURST: f64 = 25.0;
const OBJECT_REFILL_SECONDS: f64 = 300.0;
/// Remembered events; when full, everything is forgotten, which only costs some counts.
const MEMORY_EVENTS: usize = 4096;

/// Which fields name the reporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventStyle {
    /// `source.component`, `count`, `firstTimestamp`: the controllers and the kubelet.
    Core,
    /// `reportingComponent`, `action`, `eventTime`, `series`: the scheduler.
    Series,
}

/// Cheap to clone. The writer ends when all clones are gone or at shutdown.
#[derive(Clone)]
pub struct Recorder {
    queue: Option<mpsc::Sender<Told>>,
}

#[derive(Clone)]
struct Told {
    about: ObjectReference,
    kind: &'static str,
    reason: &'static str,
    action: &'static str,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// Starts the writer. `component` names the reporter (`deployment-controller`); `host` may be empty.
    pub fn start(client: kube::Client, component: &str, host: &str, style: EventStyle, shutdown: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(BUFFER_EVENTS);
        let writer = EventWriter { client, component: component.to_owned(), host: host.to_owned(), style, memory: Memory::default() };
        tokio::spawn(async move { shutdown.run_until_cancelled(writer.run(receiver)).await });
        Recorder { queue: Some(sender) }
    }
    /// A recorder that tells nobody, for tests.
    pub fn discard() -> Self {
        Recorder { queue: None }
    }
    pub fn normal(&self, about: ObjectReference, reason: &'static str, message: impl Into<String>) {
        self.event(about, "Normal", reason, "", message.into());
    }
    pub fn warning(&self, about: ObjectReference, reason: &'static str, message: impl Into<String>) {
        self.event(about, "Warning", reason, "", message.into());
    }
    /// `kind` is `Normal` or `Warning`; `action` is for [`EventStyle::Series`].
    pub fn event(&self, about: ObjectReference, kind: &'static str, reason: &'static str, action: &'static str, message: String) {
        let told = Told { about, kind, reason, action, message, at: Timestamp::now() };
        if let Some(queue) = &self.queue
            && queue.try_send(told).is_err()
        {
            tracing::debug!(reason, "the event buffer is full, dropping an event");
        }
    }
}

/// The reference that an event about this object carries.
pub fn reference_of<K>(object: &K) -> ObjectReference
where
    K: Watched + kube::Resource,
    K::DynamicType: Default,
{
    let meta = object.metadata();
    let dynamic = K::DynamicType::default();
    ObjectReference {
        api_version: Some(K::api_version(&dynamic).into_owned()),
        kind: Some(K::kind(&dynamic).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// What to do with one told event.
#[derive(Debug, PartialEq)]
enum Decision {
    Create { message: String },
    Count { name: String, count: i32, message: Option<String> },
    Drop,
}

#[derive(Default)]
struct Memory {
    /// Exact event -> its object's name and count.
    written: HashMap<String, (String, i32)>,
    /// Alike but for the message -> when the first came, and the messages.
    similar: HashMap<String, (Timestamp, Vec<String>)>,
    /// Object -> tokens left, when counted.
    budget: HashMap<String, (f64, Timestamp)>,
}

impl Memory {
    fn decide(&mut self, told: &Told, name: &str) -> Decision {
        if self.written.len() + self.similar.len() + self.budget.len() > MEMORY_EVENTS {
            *self = Memory::default();
        }
        let object = format!("{:?}/{:?}/{:?}", told.about.namespace, told.about.name, told.about.uid);
        if !self.spend(&object, told.at) {
            return Decision::Drop;
        }
        let alike = format!("{object}/{}/{}/{:?}", told.kind, told.reason, told.about.field_path);
        let combined = self.combined(&alike, told);
        let message = if combined { format!("(combined from similar events): {}", told.message) } else { told.message.clone() };
        let exact = if combined { alike } else { format!("{alike}/{message}") };
        match self.written.get_mut(&exact) {
            Some((name, count)) => {
                *count += 1;
                Decision::Count { name: name.clone(), count: *count, message: combined.then_some(message) }
            }
            None => {
                self.written.insert(exact, (name.to_owned(), 1));
                Decision::Create { message }
            }
        }
    }
    fn combined(&mut self, alike: &str, told: &Told) -> bool {
        let (since, messages) = self.similar.entry(alike.to_owned()).or_insert_with(|| (told.at, Vec::new()));
        if told.at.as_second() - since.as_second() > SIMILAR_WINDOW_SECONDS {
            (*since, *messages) = (told.at, Vec::new());
        }
        if messages.contains(&told.message) {
            return false;
        }
        if messages.len() >= SIMILAR_LIMIT {
            return true;
        }
        messages.push(told.message.clone());
        false
    }
    fn spend(&mut self, object: &str, now: Timestamp) -> bool {
        let (tokens, since) = self.budget.entry(object.to_owned()).or_insert((OBJECT_BURST, now));
        let gained = (now.as_second() - since.as_second()) as f64 / OBJECT_REFILL_SECONDS;
        *tokens = (*tokens + gained).min(OBJECT_BURST);
        *since = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
    fn forget(&mut self, name: &str) {
        self.written.retain(|_, (written, _)| written != name);
    }
}

struct EventWriter {
    client: kube::Client,
    component: String,
    host: String,
    style: EventStyle,
    memory: Memory,
}

impl EventWriter {
    async fn run(mut self, mut queue: mpsc::Receiver<Told>) {
        let mut last = 0;
        while let Some(told) = queue.recv().await {
            // Names are the object's and a time; two in one nanosecond must still differ.
            last = i128::max(last + 1, told.at.as_nanosecond());
            let name = format!("{}.{last:x}", told.about.name.as_deref().unwrap_or_default());
            self.write(&told, name).await;
        }
    }
    async fn write(&mut self, told: &Told, name: String) {
        let namespace = told.about.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let result = match self.memory.decide(told, &name) {
            Decision::Drop => return,
            Decision::Create { message } => api.create(&PostParams::default(), &self.event(told, name, namespace, message)).await,
            Decision::Count { name: first, count, message } => {
                let patch = Patch::Strategic(self.count(told, count, message));
                match api.patch(&first, &PatchParams::default(), &patch).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {
                        self.memory.forget(&first);
                        api.create(&PostParams::default(), &self.event(told, name, namespace, told.message.clone())).await
                    }
                    other => other,
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(reason = told.reason, %error, "an event was refused");
        }
    }
    fn count(&self, told: &Told, count: i32, message: Option<String>) -> serde_json::Value {
        let mut patch = match self.style {
            EventStyle::Core => json!({"count": count, "lastTimestamp": Time(told.at)}),
            EventStyle::Series => json!({"series": {"count": count, "lastObservedTime": MicroTime(told.at)}}),
        };
        if let Some(message) = message {
            patch["message"] = message.into();
        }
        patch
    }
    fn instance(&self) -> String {
        match (self.style, self.host.as_str()) {
            (EventStyle::Core, host) => host.to_owned(),
            (EventStyle::Series, "") => self.component.clone(),
            (EventStyle::Series, host) => format!("{}-{host}", self.component),
        }
    }
    fn event(&self, told: &Told, name: String, namespace: &str, message: String) -> Event {
        let core = self.style == EventStyle::Core;
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.to_owned()), ..Default::default() },
            involved_object: told.about.clone(),
            reason: Some(told.reason.to_owned()),
            message: Some(message),
            type_: Some(told.kind.to_owned()),
            first_timestamp: core.then_some(Time(told.at)),
            last_timestamp: core.then_some(Time(told.at)),
            count: core.then_some(1),
            source: core.then(|| EventSource { component: Some(self.component.clone()), host: Some(self.host.clone()).filter(|host| !host.is_empty()) }),
            event_time: (!core).then_some(MicroTime(told.at)),
            action: (!core).then(|| told.action.to_owned()),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.instance()),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(message: &str, second: i64) -> Told {
        let about = ObjectReference { name: Some("p".into()), ..Default::default() };
        Told { about, kind: "Warning", reason: "Failed", action: "", message: message.into(), at: Timestamp::from_second(second).expect("in range") }
    }

    #[test]
    fn the_same_event_again_raises_the_count_of_the_first() {
        let mut memory = Memory::default();
        assert_eq!(memory.decide(&told("m", 0), "e1"), Decision::Create { message: "m".into() });
        assert_eq!(memory.decide(&told("m", 1), "e2"), Decision::Count { name: "e1".into(), count: 2, message: None });
        memory.forget("e1");
        assert_eq!(memory.decide(&told("m", 2), "e3"), Decision::Create { message: "m".into() });
    }

    #[test]
    fn many_alike_events_are_combined_into_one() {
        let mut memory = Memory::default();
        for i in 0..10 {
            assert!(matches!(memory.decide(&told(&format!("m{i}"), i), "e"), Decision::Create { .. }));
        }
        assert_eq!(memory.decide(&told("m10", 10), "c"), Decision::Create { message: "(combined from similar events): m10".into() });
        let expected = Decision::Count { name: "c".into(), count: 2, message: Some("(combined from similar events): m11".into()) };
        assert_eq!(memory.decide(&told("m11", 11), "x"), expected);
    }

    #[test]
    fn an_object_has_a_budget_of_events_that_refills() {
        let mut memory = Memory::default();
        let dropped = (0..30).filter(|_| memory.decide(&told("m", 0), "e") == Decision::Drop).count();
        assert_eq!(dropped, 5);
        assert_ne!(memory.decide(&told("m", 301), "e"), Decision::Drop);
    }
}
