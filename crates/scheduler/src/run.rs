//! The scheduler at work: watches in, bindings out.

use crate::cache::{Cache, DEFAULT_PROFILE, PodInfo, profile_of};
use crate::cycle::{NoFit, Rotation, schedule};
use crate::framework::{BindError, Binding, Event};
use crate::metrics::{self, Outcome};
use crate::plugins::ALL;
use crate::queue::Queue;
use crate::report::{SCHEDULER_ERROR, UNSCHEDULABLE, is_told};
use crate::storage::Storage;
use jiff::{Timestamp, Unit};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keles_client::{Change, Informer, Informers, Scope};
use keles_reconcile::{EventStyle, Recorder, reference_of};
use keles_rules::readiness::is_terminal;
use kube::Resource;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use serde_json::json;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// Bindings under way at the same time.
const MAX_BINDINGS: usize = 256;

/// What the operator sets.
#[derive(Clone)]
pub struct Options {
    /// Pods with this `schedulerName` are ours.
    pub name: String,
    /// Names this process in events.
    pub host: String,
    /// Caches to share with other parts of the process; made by `run` when absent.
    pub informers: Option<Informers>,
}

impl Default for Options {
    fn default() -> Self {
        Options { name: DEFAULT_PROFILE.into(), host: String::new(), informers: None }
    }
}

struct State {
    cache: Cache,
    queue: Queue,
    rotation: Rotation,
}

struct Scheduler {
    client: kube::Client,
    name: String,
    events: Recorder,
    state: Mutex<State>,
    wake: Notify,
    storage: Storage,
    bindings: Arc<Semaphore>,
}

/// Schedules pods until shutdown.
pub async fn run(client: kube::Client, options: Options, shutdown: CancellationToken) {
    metrics::start();
    let events = Recorder::start(client.clone(), &options.name, &options.host, EventStyle::Series, shutdown.clone());
    let state = State { cache: Cache::default(), queue: Queue::default(), rotation: Rotation::default() };
    let (nodes, pods, storage) = match &options.informers {
        Some(informers) => (informers.of::<Node>(), informers.of::<Pod>(), Storage::of(informers)),
        None => {
            let informers = Informers::new(client.clone(), shutdown.child_token());
            (informers.of(), informers.scoped(Scope::fields("status.phase!=Succeeded,status.phase!=Failed")), Storage::of(&informers))
        }
    };
    let bindings = Arc::new(Semaphore::new(MAX_BINDINGS));
    let scheduler = Arc::new(Scheduler { client, name: options.name, events, state: Mutex::new(state), wake: Notify::new(), storage: storage.clone(), bindings });
    scheduler.watch(&nodes, &pods);
    if !(nodes.synced().await && pods.synced().await && storage.synced().await) {
        return;
    }
    shutdown.run_until_cancelled(scheduler.work()).await;
}

impl Scheduler {
    fn watch(self: &Arc<Self>, nodes: &Informer<Node>, pods: &Informer<Pod>) {
        let this = self.clone();
        nodes.on_change(move |change| this.node_changed(change));
        let this = self.clone();
        pods.on_change(move |change| this.pod_changed(change));
        let (this, storage) = (self.clone(), &self.storage);
        storage.claims.on_change(move |change| this.storage_changed(matches!(change, Change::Added(_)), "PersistentVolumeClaimAdd", "PersistentVolumeClaimUpdate"));
        let this = self.clone();
        storage.volumes.on_change(move |change| this.storage_changed(matches!(change, Change::Added(_)), "PersistentVolumeAdd", "PersistentVolumeUpdate"));
        let this = self.clone();
        storage.classes.on_change(move |change| this.storage_changed(matches!(change, Change::Added(_)), "StorageClassAdd", "StorageClassUpdate"));
        let this = self.clone();
        storage.csi_nodes.on_change(move |change| this.storage_changed(matches!(change, Change::Added(_)), "CSINodeAdd", "CSINodeUpdate"));
        let this = self.clone();
        storage.drivers.on_change(move |change| this.storage_changed(matches!(change, Change::Added(_)), "CSIDriverAdd", "CSIDriverUpdate"));
        let this = self.clone();
        storage.capacities.on_change(move |change| this.storage_changed(matches!(change, Change::Added(_)), "CSIStorageCapacityAdd", "CSIStorageCapacityUpdate"));
        // One that goes gives room; the others tell nothing new.
        let this = self.clone();
        storage.attachments.on_change(move |change| {
            if matches!(change, Change::Deleted(_)) {
                this.storage_changed(false, "VolumeAttachmentAdd", "VolumeAttachmentDelete");
            }
        });
    }
    fn storage_changed(&self, added: bool, add: &'static str, update: &'static str) {
        self.lock().queue.event(Event::StorageChanged(if added { add } else { update }), Instant::now());
        self.wake.notify_one();
    }
    fn node_changed(&self, change: &Change<Node>) {
        let mut state = self.lock();
        match change {
            Change::Added(node) => {
                state.cache.set_node(node.clone());
                state.queue.event(Event::NodeAdded(node.clone()), Instant::now());
            }
            Change::Modified { old, new } => {
                state.cache.set_node(new.clone());
                if matters(old, new) {
                    state.queue.event(Event::NodeChanged { old: old.clone(), new: new.clone() }, Instant::now());
                }
            }
            Change::Deleted(node) => state.cache.remove_node(node.metadata.name.as_deref().unwrap_or_default()),
        }
        drop(state);
        self.wake.notify_one();
    }
    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let gone = matches!(change, Change::Deleted(_)) || is_terminal(pod);
        let info = || Arc::new(PodInfo::new(pod.clone()));
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|name| !name.is_empty());
        let mut state = self.lock();
        if gone {
            state.queue.remove(uid);
            if let Some(held) = state.cache.remove_pod(uid) {
                state.queue.event(Event::PodRemoved(held), Instant::now());
            }
        } else if bound {
            state.queue.remove(uid);
            let info = info();
            // What a resize gave back may be what another pod waits for.
            let had = state.cache.remove_pod(uid);
            let shrunk = had.filter(|had| info.requests.milli_cpu < had.requests.milli_cpu || info.requests.memory < had.requests.memory);
            state.cache.set_pod(info);
            if let Some(had) = shrunk {
                state.queue.event(Event::PodRemoved(had), Instant::now());
            }
        } else if pod.metadata.deletion_timestamp.is_some() {
            // It will never run; what was assumed for it is undone when its binding is refused.
            state.queue.remove(uid);
        } else if self.is_ours(pod) && !state.cache.is_assumed(uid) {
            state.queue.set(info());
        }
        drop(state);
        self.wake.notify_one();
    }
    fn is_ours(&self, pod: &Pod) -> bool {
        profile_of(pod) == self.name
    }

    async fn work(self: Arc<Self>) {
        loop {
            let (next, due) = {
                let mut state = self.lock();
                let next = state.queue.pop(Instant::now());
                metrics::pending(state.queue.waiting());
                let (nodes, pods, assumed) = state.cache.sizes();
                metrics::cached(nodes, pods, assumed);
                (next, state.queue.next_due())
            };
            match (next, due) {
                (Some(pod), _) => {
                    self.attempt(pod);
                    // Bindings run on the same threads: let them.
                    tokio::task::yield_now().await;
                }
                (None, Some(at)) => _ = tokio::time::timeout_at(at.into(), self.wake.notified()).await,
                (None, None) => self.wake.notified().await,
            }
        }
    }
    /// One cycle: assume a node and start binding, or wait for a better world.
    fn attempt(self: &Arc<Self>, pod: Arc<PodInfo>) {
        let started = Instant::now();
        let mut state = self.lock();
        let State { cache, queue, rotation } = &mut *state;
        if cache.is_placed(pod.uid()) {
            return queue.remove(pod.uid());
        }
        match schedule(&pod, &cache.snapshot(), rotation, Some(&self.storage)) {
            Ok(node) => {
                cache.assume(pod.clone(), &node);
                queue.assumed(pod.uid());
                drop(state);
                tokio::spawn(self.clone().bind(pod, node, started));
            }
            Err(no_fit) => {
                let NoFit { message, rejected_by } = no_fit;
                queue.rejected(pod.uid(), rejected_by, Instant::now());
                drop(state);
                metrics::attempted(&self.name, Outcome::Unschedulable, started.elapsed());
                tokio::spawn(self.clone().tell(pod, UNSCHEDULABLE, message));
            }
        }
    }

    async fn bind(self: Arc<Self>, pod: Arc<PodInfo>, node: String, started: Instant) {
        let binding = Binding { client: self.client.clone(), pod: pod.clone(), node: node.clone(), storage: Some(self.storage.clone()) };
        let bound = run_bind(&self.name, &binding, &self.bindings).await;
        metrics::attempted(&self.name, if bound.is_ok() { Outcome::Scheduled } else { Outcome::Error }, started.elapsed());
        match bound {
            Ok(()) => {
                let mut state = self.lock();
                if let Some((attempts, queued)) = state.queue.tries(pod.uid()) {
                    metrics::bound(attempts, queued.elapsed());
                }
                state.queue.remove(pod.uid());
                drop(state);
                let message = format!("Successfully assigned {} to {node}", pod.display());
                self.events.event(reference_of(pod.pod.as_ref()), "Normal", "Scheduled", "Binding", message);
            }
            Err(error) => self.bind_failed(pod, &node, error).await,
        }
    }
    async fn bind_failed(self: &Arc<Self>, pod: Arc<PodInfo>, node: &str, error: BindError) {
        ALL.iter().rev().for_each(|row| row.plugin.unreserve(&pod, node));
        let gone = matches!(&error, BindError::Refused { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 404));
        {
            let mut state = self.lock();
            if state.cache.forget(pod.uid()) {
                state.queue.event(Event::PodRemoved(pod.clone()), Instant::now());
            }
            if gone {
                state.queue.remove(pod.uid());
            } else {
                state.queue.failed(pod.uid(), Instant::now());
            }
        }
        self.wake.notify_one();
        if !gone {
            tracing::debug!(pod = pod.display(), error = &error as &dyn std::error::Error, "binding failed, retrying");
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            self.clone().tell(pod, SCHEDULER_ERROR, format!("{error}: {cause}")).await;
        }
    }
    /// Event and condition of a pod that has no node yet.
    async fn tell(self: Arc<Self>, pod: Arc<PodInfo>, reason: &'static str, message: String) {
        self.events.event(reference_of(pod.pod.as_ref()), "Warning", "FailedScheduling", "Scheduling", message.clone());
        if is_told(&pod.pod, reason, &message) {
            return;
        }
        let meta = &pod.pod.metadata;
        let now = Timestamp::now();
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message, "observedGeneration": meta.generation,
            "lastProbeTime": null, "lastTransitionTime": Time(now.round(Unit::Second).unwrap_or(now)),
        });
        let patch = Patch::Strategic(json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}}));
        let request =
            Request::new(Pod::url_path(&(), meta.namespace.as_deref())).patch_subresource("status", meta.name.as_deref().unwrap_or_default(), &PatchParams::default(), &patch);
        let result = match request.map_err(kube::Error::BuildRequest) {
            Ok(request) => self.client.request::<serde_json::Value>(request).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::debug!(pod = pod.display(), %error, "the condition PodScheduled could not be written");
        }
    }

    // Every change of the state is whole before anything can panic, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Heartbeats change nothing that scheduling looks at.
fn matters(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}

async fn run_bind(profile: &str, binding: &Binding, slots: &Semaphore) -> Result<(), BindError> {
    measured(profile, "PreBind", async {
        for row in ALL {
            row.plugin.pre_bind(binding).await?;
        }
        Ok(())
    })
    .await?;
    // Only now: PreBind may wait minutes for a volume.
    let _slot = slots.acquire().await;
    let Some(bind) = ALL.iter().find_map(|row| row.plugin.bind(binding)) else { return Err(BindError::NoBinder { pod: binding.pod.display() }) };
    measured(profile, "Bind", bind).await?;
    measured(profile, "PostBind", async {
        ALL.iter().for_each(|row| row.plugin.post_bind(binding));
        Ok(())
    })
    .await
}

async fn measured(profile: &str, point: &str, run: impl Future<Output = Result<(), BindError>>) -> Result<(), BindError> {
    let began = Instant::now();
    let said = run.await;
    metrics::point(profile, point, said.is_ok(), began.elapsed());
    said
}
