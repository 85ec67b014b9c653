//! The node's pods: the watch, admission, one worker a pod, runtime events, what an earlier run left.
//!
//! Entry point: [`Pods::run`]. Invariants: a sandbox whose pod the API does not list is removed only after a complete list was read; a pod of
//! the same name as one that is still ending waits for it.

use crate::admission::{self, Node, Refusal};
use crate::agent::Agent;
use crate::events::WARNING;
use crate::eviction::is_critical;
use crate::log_links::{self, Whose};
use crate::machine::phase;
use crate::pod_worker::{self, Admission, Adopted, End, Handle, View};
use crate::preemption;
use crate::static_pods::{self, Mirrors};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use keles_client::{Change, Scope};
use keles_runtime::api::{ContainerEvent, ContainerState, ContainerStatus, RuntimeError, SandboxConfig, SandboxStatus};
use keles_volumes::quantity::Quantity;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Containers of pods that are gone from the API get this long to end.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);
/// Pauses between attempts to give the volumes of such a pod back.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(122);

/// All workers by pod uid; shared with the agent's API.
#[derive(Clone, Default)]
pub struct Pods {
    handles: Arc<Mutex<HashMap<String, Handle>>>,
    /// This node's own, by uid.
    statics: Arc<Mutex<BTreeMap<String, Arc<Pod>>>>,
    mirrors: Arc<Mirrors>,
    start: Arc<Mutex<Start>>,
    /// True once both the API's pods and this node's own were read.
    known: watch::Sender<bool>,
}

/// What is known of the time before this run, until all is.
#[derive(Default)]
struct Start {
    left: Leftovers,
    /// Uids of the API's list, once it was read whole.
    listed: Option<HashSet<String>>,
    /// The manifests were read.
    knows_statics: bool,
}

impl Pods {
    fn handles(&self) -> std::sync::MutexGuard<'_, HashMap<String, Handle>> {
        self.handles.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn start(&self) -> std::sync::MutexGuard<'_, Start> {
        self.start.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn mirrors(&self) -> Arc<Mirrors> {
        self.mirrors.clone()
    }

    pub fn are_known(&self) -> watch::Receiver<bool> {
        self.known.subscribe()
    }

    /// Something that pods may have waited for is there.
    pub fn all_look_again(&self) {
        self.handles().values().for_each(Handle::look_again);
    }

    #[cfg(test)]
    pub fn insert(&self, uid: &str, handle: Handle) {
        self.handles().insert(uid.to_owned(), handle);
    }

    /// What is known of a pod by its name; the newest incarnation when one is still ending.
    pub fn view(&self, namespace: &str, name: &str) -> Option<View> {
        let handles = self.handles();
        let is_named = |pod: &Pod| pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name);
        let named = handles.values().filter(|handle| !handle.task.is_finished() && is_named(&handle.wish.borrow().pod));
        // Static pods have no creation time: one that is not ending is the newer.
        let age = |handle: &&Handle| (!handle.wish.borrow().ends(), handle.wish.borrow().pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        named.max_by_key(age).map(Handle::view)
    }

    /// Whether a worker runs the pod, or has yet to end it.
    pub fn is_active(&self, uid: &str) -> bool {
        self.handles().get(uid).is_some_and(|handle| !handle.task.is_finished() && !*handle.over.borrow())
    }

    pub fn views(&self) -> Vec<View> {
        self.handles().values().map(Handle::view).collect()
    }

    /// Ends a pod for the sake of others; the future is over once it has given back all it had.
    pub fn end(&self, uid: &str, reason: &'static str, message: String, grace: Duration) -> Option<impl Future<Output = ()> + use<>> {
        let mut over = self.handles().get(uid)?.end(End { reason, message, grace });
        Some(async move { drop(over.wait_for(|over| *over).await) })
    }

    /// The pods that hold resources and ports here, but for one.
    pub fn holding(&self, except_uid: &str) -> Vec<Arc<Pod>> {
        let others = |view: &View| holds(view) && view.pod.metadata.uid.as_deref() != Some(except_uid);
        self.views().into_iter().filter(others).map(|view| view.pod).collect()
    }

    /// Follows the API and the runtime until `stop`.
    pub async fn run(&self, agent: Arc<Agent>, stop: CancellationToken) {
        let events = agent.runtime.events();
        let Some(left) = stop.run_until_cancelled(Leftovers::read(&agent)).await else { return };
        self.start().left = left;
        let forward = self.clone().forward(events, stop.clone());
        let follow = async {
            tokio::select! { () = self.follow(&agent) => {}, () = stop.cancelled() => {} }
        };
        tokio::join!(forward, follow, static_pods::run(agent.clone(), stop.clone()));
        // Workers end with the agent; the containers do not.
        for (_, handle) in self.handles().drain() {
            handle.task.abort();
        }
    }

    /// Takes changes as the informer tells them; once its first list is whole, what no listed pod claimed is removed.
    async fn follow(&self, agent: &Arc<Agent>) {
        let informer = agent.informers.scoped::<Pod>(Scope::fields(&format!("spec.nodeName={}", agent.config.node_name)));
        let mut changes = informer.subscribe();
        let mut listed = HashSet::new();
        // The list's changes are in the channel before it counts as whole.
        let whole = loop {
            tokio::select! {
                biased;
                change = changes.recv() => match change {
                    Some(change) => self.take(agent, change, &mut listed),
                    None => return,
                },
                whole = informer.synced() => break whole,
            }
        };
        while let Ok(change) = changes.try_recv() {
            self.take(agent, change, &mut listed);
        }
        if whole {
            self.start().listed = Some(listed);
            self.remove_orphans(agent);
        }
        while let Some(change) = changes.recv().await {
            self.take(agent, change, &mut HashSet::new());
        }
    }

    fn take(&self, agent: &Arc<Agent>, change: Change<Pod>, listed: &mut HashSet<String>) {
        let (object, is_there) = match &change {
            Change::Added(pod) | Change::Modified { new: pod, .. } => (pod, true),
            Change::Deleted(pod) => (pod, false),
        };
        if static_pods::is_mirror(object) {
            return self.see_mirror(object, is_there);
        }
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        // One name, two pods: the first went and the second came while nobody watched.
        if let Change::Modified { old, new } = &change
            && uid(old) != uid(new)
        {
            self.remove(&uid(old), Some(old.clone()));
        }
        match change {
            Change::Added(pod) | Change::Modified { new: pod, .. } => {
                listed.insert(uid(&pod));
                self.apply(agent, static_pods::of_api(pod));
            }
            Change::Deleted(pod) => self.remove(&uid(&pod), Some(pod)),
        }
    }

    /// A static pod's worker learns what the API shows of it.
    fn see_mirror(&self, mirror: &Arc<Pod>, is_there: bool) {
        let Some(pod) = self.mirrors.saw(mirror, is_there) else { return };
        if let Some(handle) = self.handles().get(pod.metadata.uid.as_deref().unwrap_or_default()) {
            handle.wish.send_modify(|wish| wish.pod = Arc::new(static_pods::with_mirror(&pod, mirror)));
        }
    }

    /// Runs these static pods and ends those that are not among them any more.
    pub fn set_static(&self, agent: &Arc<Agent>, pods: Vec<Pod>) {
        let mut new: BTreeMap<String, Arc<Pod>> = pods.into_iter().map(|pod| (pod.metadata.uid.clone().unwrap_or_default(), Arc::new(pod))).collect();
        {
            let mut handles = self.handles();
            handles.retain(|_, handle| !handle.task.is_finished());
            // One that was taken away and came back waits until it is gone; the sources are read again soon.
            new.retain(|uid, _| handles.get(uid).is_none_or(|handle| !handle.wish.borrow().removed));
        }
        let old = std::mem::replace(&mut *self.statics.lock().unwrap_or_else(std::sync::PoisonError::into_inner), new.clone());
        for (uid, pod) in old.iter().filter(|(uid, _)| !new.contains_key(*uid)) {
            self.end_static(uid, pod);
        }
        self.mirrors.want(&new.values().cloned().collect::<Vec<_>>());
        for (_, pod) in new.into_iter().filter(|(uid, _)| !old.contains_key(uid)) {
            let seen = self.mirrors.of(&pod).map_or_else(|| pod.clone(), |mirror| Arc::new(static_pods::with_mirror(&pod, &mirror)));
            self.apply(agent, seen);
        }
        self.start().knows_statics = true;
        self.remove_orphans(agent);
    }

    fn end_static(&self, uid: &str, pod: &Pod) {
        let Some(mut cleared) = self.handles().get(uid).map(|handle| handle.cleared.clone()) else { return };
        let (mirrors, name) = (self.mirrors.clone(), static_pods::full_name(pod));
        mirrors.set_ending(name.clone(), true);
        self.remove(uid, None);
        tokio::spawn(async move {
            let _ = cleared.wait_for(|cleared| *cleared).await;
            mirrors.set_ending(name, false);
        });
    }

    /// Once the API's list and the manifests are known, what neither names has no pod any more.
    fn remove_orphans(&self, agent: &Arc<Agent>) {
        let mut start = self.start();
        if !start.knows_statics {
            return;
        }
        let Some(mut known) = start.listed.take() else { return };
        known.extend(self.statics.lock().unwrap_or_else(std::sync::PoisonError::into_inner).keys().cloned());
        let orphans = start.left.orphans(agent, &known);
        known.extend(orphans.iter().map(|(uid, _)| uid.clone()));
        agent.placement.retain(&known);
        agent.allocated.retain(&known);
        let ended: Vec<_> = orphans.into_iter().map(|(uid, adopted)| end_orphan(agent, uid, adopted)).collect();
        let agent = agent.clone();
        tokio::spawn(async move {
            // What pods of a build that kept nothing were given, too.
            agent.allocated.kept().await;
            futures::future::join_all(ended).await;
            agent.placement.settle();
        });
        self.mirrors.knows_all();
        self.known.send_replace(true);
    }

    fn apply(&self, agent: &Arc<Agent>, pod: Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut handles = self.handles();
        handles.retain(|other, handle| other == &uid || !handle.task.is_finished());
        if let Some(handle) = handles.get(&uid) {
            handle.wish.send_modify(|wish| wish.pod = pod);
            return;
        }
        let adopted = self.start().left.take(&uid);
        let known = !adopted.sandboxes.is_empty() || pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(phase::is_terminal);
        let mut after = Vec::new();
        let admission = match known || pod.metadata.deletion_timestamp.is_some() {
            true => Admission::Taken,
            false => match self.admit(agent, &agent.allocated.applied(&pod), &handles) {
                Ok(preempted) => {
                    after = preempted;
                    Admission::ToPlace
                }
                Err(status) => Admission::Refused(status),
            },
        };
        let full_name = |pod: &Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let same_name = handles.values().find(|handle| full_name(&handle.wish.borrow().pod) == full_name(&pod));
        after.extend(same_name.map(|handle| handle.cleared.clone()));
        handles.insert(uid, pod_worker::spawn(agent.clone(), pod, adopted, admission, after));
    }

    /// The ends that a pod which is taken has to wait for; the status of one that this node cannot take.
    fn admit(&self, agent: &Agent, pod: &Pod, handles: &HashMap<String, Handle>) -> Result<Vec<watch::Receiver<bool>>, Box<PodStatus>> {
        let views: Vec<View> = handles.values().map(Handle::view).collect();
        let others: Vec<&Pod> = views.iter().filter(|view| holds(view)).map(|view| view.pod.as_ref()).collect();
        let refuse = |refusal| Err(Box::new(refused(agent, pod, refusal)));
        if *agent.shutting_down.borrow() {
            let message = "Pod was rejected as the node is shutting down.".into();
            return refuse(Refusal { reason: "NodeShutdown".into(), message });
        }
        let node = node_of(agent);
        match admission::admit(pod, &node, &others) {
            Ok(()) => Ok(Vec::new()),
            Err(refusal) if !is_critical(pod) => refuse(refusal),
            Err(_) => match preemption::victims(pod, &node, &others) {
                Ok(plan) => Ok(preempt(agent, &plan, handles)),
                Err(refusal) => refuse(refusal),
            },
        }
    }

    /// Things that these pods show have changed.
    pub fn look_again(&self, uids: &[String]) {
        let handles = self.handles();
        uids.iter().filter_map(|uid| handles.get(uid)).for_each(Handle::look_again);
    }

    fn remove(&self, uid: &str, last: Option<Arc<Pod>>) {
        if let Some(handle) = self.handles().get(uid) {
            handle.wish.send_modify(|wish| {
                wish.removed = true;
                if let Some(last) = last {
                    wish.pod = last;
                }
            });
        }
    }

    /// Hands runtime events to the pods they are about.
    async fn forward(self, mut events: tokio::sync::broadcast::Receiver<ContainerEvent>, stop: CancellationToken) {
        loop {
            let event = tokio::select! { event = events.recv() => event, () = stop.cancelled() => return };
            match event {
                Ok(event) => {
                    if let Some(handle) = self.handles().get(&event.pod_uid) {
                        if event.container_id.is_empty() { handle.look_again() } else { handle.event(event) }
                    }
                }
                Err(RecvError::Lagged(_)) => self.handles().values().for_each(Handle::look_again),
                Err(RecvError::Closed) => return,
            }
        }
    }
}

/// Ends pods for one that the node cannot do without; tells when each has given back what it had.
fn preempt(agent: &Agent, plan: &preemption::Plan<'_>, handles: &HashMap<String, Handle>) -> Vec<watch::Receiver<bool>> {
    let ends = plan.victims.iter().filter_map(|victim| {
        let handle = handles.get(victim.metadata.uid.as_deref()?)?;
        agent.events.pod(victim, WARNING, preemption::PREEMPTING, preemption::MESSAGE.to_owned());
        crate::metrics::PREEMPTIONS.with([&plan.resource]).increment();
        Some(handle.end(End { reason: preemption::PREEMPTING, message: preemption::MESSAGE.into(), grace: pod_worker::grace_of(victim) }))
    });
    ends.collect()
}

/// Says that a pod is not taken; the status it then has.
pub(crate) fn refused(agent: &Agent, pod: &Pod, Refusal { reason, message }: Refusal) -> PodStatus {
    agent.events.pod(pod, WARNING, &reason, message.clone());
    crate::metrics::refused(&reason);
    PodStatus {
        phase: Some(phase::FAILED.into()),
        reason: Some(reason),
        message: Some(format!("Pod was rejected: {message}")),
        qos_class: pod.spec.as_ref().map(|spec| crate::qos::class(spec).into()),
        observed_generation: pod.metadata.generation,
        start_time: Some(crate::conditions_time(jiff::Timestamp::now())),
        ..Default::default()
    }
}

pub(crate) fn node_of(agent: &Agent) -> Node {
    let allocatable: BTreeMap<String, Quantity> = agent.facts.allocatable().into_iter().filter_map(|(name, text)| Some((name, Quantity::parse(&text)?))).collect();
    Node {
        name: agent.config.node_name.clone(),
        labels: crate::node::label_map(agent),
        allocatable,
        allowed_unsafe_sysctls: agent.config.allowed_unsafe_sysctls.clone(),
        apparmor: agent.facts.apparmor,
        merges_groups_only: !agent.features.supplemental_groups_policy,
        pressure: agent.pressure.borrow().clone(),
    }
}

/// Sandboxes and containers of an earlier run that no worker took over yet.
#[derive(Default)]
struct Leftovers {
    sandboxes: Vec<SandboxStatus>,
    records: Vec<ContainerStatus>,
}

impl Leftovers {
    /// Until it can be read: what is not known would be started a second time.
    async fn read(agent: &Agent) -> Self {
        let mut pause = FIRST_PAUSE;
        loop {
            let all = async { Ok::<_, RuntimeError>(Self { sandboxes: agent.runtime.list_sandboxes().await?, records: agent.runtime.list_containers().await? }) };
            match all.await {
                Ok(left) => return left,
                Err(error) => tracing::error!(%error, "sandboxes of an earlier run not listed, will be tried again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn take(&mut self, uid: &str) -> Adopted {
        let (sandboxes, rest): (Vec<_>, Vec<_>) = self.sandboxes.drain(..).partition(|sandbox| sandbox.config.uid == uid);
        self.sandboxes = rest;
        let ours: HashSet<&str> = sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect();
        let (records, rest): (Vec<_>, Vec<_>) = self.records.drain(..).partition(|record| ours.contains(record.sandbox_id.as_str()));
        self.records = rest;
        Adopted { sandboxes, records }
    }

    /// The API's whole list was read: what is not in it has no pod any more.
    fn orphans(&mut self, agent: &Agent, listed: &HashSet<String>) -> Vec<(String, Adopted)> {
        let uids: HashSet<String> = self.sandboxes.iter().map(|sandbox| sandbox.config.uid.clone()).chain(pod_dirs(agent)).collect();
        uids.into_iter().filter(|uid| !listed.contains(uid)).map(|uid| (uid.clone(), self.take(&uid))).collect()
    }
}

/// Whether a pod holds resources and ports here.
fn holds(view: &View) -> bool {
    !view.status.phase.as_deref().is_some_and(phase::is_terminal)
}

fn pod_dirs(agent: &Agent) -> Vec<String> {
    let entries = std::fs::read_dir(agent.config.pods_dir()).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A runtime that does not answer at all must not keep everybody else waiting (upstream's runtimeRequestTimeout).
const ORPHAN_LIMIT: std::time::Duration = std::time::Duration::from_secs(120);

/// Removes what is left of a pod that the API no longer has; the future is over once nothing of it runs.
fn end_orphan(agent: &Arc<Agent>, uid: String, adopted: Adopted) -> impl Future<Output = ()> + use<> {
    let (told, ended) = tokio::sync::oneshot::channel::<()>();
    let agent = agent.clone();
    tokio::spawn(async move {
        tracing::info!(uid, "removing what is left of a pod that the API no longer has");
        if stop_orphan(&agent, &uid, &adopted).await {
            agent.placement.release(&uid);
        }
        drop(told);
        remove_orphan(&agent, &uid, adopted).await;
    });
    async move { drop(tokio::time::timeout(ORPHAN_LIMIT, ended).await) }
}

/// Whether all its containers have ended: what they had for themselves is nobody else's before that.
async fn stop_orphan(agent: &Agent, uid: &str, adopted: &Adopted) -> bool {
    let running = adopted.records.iter().filter(|record| record.state == ContainerState::Running);
    let stopped = futures::future::join_all(running.map(|record| agent.runtime.stop_container(&record.id, ORPHAN_GRACE))).await;
    for error in stopped.iter().filter_map(|stopped| stopped.as_ref().err()) {
        tracing::warn!(%error, uid, "orphaned container not stopped; what it has for itself stays its own until the next start");
    }
    stopped.iter().all(Result::is_ok)
}

async fn remove_orphan(agent: &Agent, uid: &str, adopted: Adopted) {
    if let Err(error) = agent.network.detach(uid).await {
        tracing::warn!(%error, uid, "orphaned network not given back");
    }
    for sandbox in &adopted.sandboxes {
        let _ = agent.runtime.stop_sandbox(&sandbox.id).await;
    }
    for record in &adopted.records {
        let _ = agent.runtime.remove_container(&record.id).await;
        let sandbox = adopted.sandboxes.iter().find(|sandbox| sandbox.id == record.sandbox_id);
        if let Some(SandboxConfig { namespace, name: pod, .. }) = sandbox.map(|sandbox| &sandbox.config) {
            log_links::remove(&agent.config.log_links_dir, Whose { namespace, pod, container: &record.name, id: &record.id });
        }
    }
    for sandbox in &adopted.sandboxes {
        let _ = agent.runtime.remove_sandbox(&sandbox.id).await;
        let _ = std::fs::remove_dir_all(&sandbox.config.log_directory);
    }
    let mut drivers = agent.csi.drivers();
    let mut pause = FIRST_PAUSE;
    loop {
        drivers.mark_unchanged();
        match agent.tear_down_volumes(uid).await {
            Ok(()) => break agent.users.release(uid),
            Err(error) => tracing::warn!(%error, uid, "orphaned volumes not removed, will be tried again"),
        }
        // A driver that is not there yet, most likely.
        let _ = tokio::time::timeout(pause, drivers.changed()).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
