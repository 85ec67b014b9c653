//! One pod's actor: the shell around the pure machine. It observes, lets `machine` decide, acts, and tells the API.
//!
//! Entry points: [`spawn`], [`Handle`]. Invariants: one sync at a time; woken by wishes, runtime events, probe reports and timers, never by
//! polling; a pod of the same name starts only after its predecessor gave everything back; the API object goes last.

mod ending;
mod preparing;
mod resizing;
mod starting;
mod watching;

pub use ending::grace_of;

use crate::agent::Agent;
use crate::followed::Following;
use crate::machine::actions::{Actions, decide};
use crate::machine::backoff::Backoffs;
use crate::machine::conditions::EVICTED;
use crate::machine::{Ending, Life, Observed, RuntimeFacts, SandboxView, StartFailure, Verdicts, phase, resize, status};
use crate::metrics;
use crate::probe::Report;
use crate::startup::Startup;
use crate::status_writer::StatusWriter;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use keles_runtime::api::{ContainerEvent, ContainerState, ContainerStatus, Handler, Resources, SandboxStatus};
use keles_volumes::Mounted;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

/// Runtime events not yet looked at; beyond, the worker lists anew.
const EVENTS_LEN: usize = 256;
const REPORTS_LEN: usize = 64;
/// A status in which a restart is held is looked at again at least this often (upstream's sync frequency).
const LONGEST_WAIT: SignedDuration = SignedDuration::from_secs(60);
/// How often a pod that has limits of disk is measured (upstream's eviction interval).
const MEASURE_EVERY: SignedDuration = SignedDuration::from_secs(10);
/// Pause before what failed for a passing reason is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(1);
/// What a turn is for (upstream's SyncPodType).
const CREATE: &str = "create";
const UPDATE: &str = "update";
const SYNC: &str = "sync";
const KILL: &str = "kill";

/// Why and how the node ends a pod.
#[derive(Clone)]
pub struct End {
    pub reason: &'static str,
    pub message: String,
    pub grace: Duration,
}

/// What the API wants of the pod.
#[derive(Clone)]
pub struct Wish {
    pub pod: Arc<Pod>,
    /// The object is gone.
    pub removed: bool,
    /// The node ends the pod for the sake of others: what its status then says, and how long it may take.
    pub end: Option<End>,
}

impl Wish {
    pub fn ends(&self) -> bool {
        self.removed || self.pod.metadata.deletion_timestamp.is_some()
    }
    /// Nothing new is to be started.
    pub fn stops(&self) -> bool {
        self.ends() || self.end.is_some()
    }
}

/// What others may see of the pod: the agent's API and admission.
#[derive(Clone)]
pub struct View {
    pub pod: Arc<Pod>,
    pub status: PodStatus,
    pub sandbox: Option<String>,
    pub records: Vec<ContainerStatus>,
    /// Where its volumes are, and their names in the pod.
    pub volumes: Arc<BTreeMap<PathBuf, String>>,
}

/// The way to a worker.
pub struct Handle {
    pub wish: watch::Sender<Wish>,
    events: mpsc::Sender<ContainerEvent>,
    dirty: Arc<Notify>,
    pub view: Arc<Mutex<View>>,
    /// True once nothing of the pod runs and its volumes are given back.
    pub over: watch::Receiver<bool>,
    /// True once nothing of the pod is left on the node.
    pub cleared: watch::Receiver<bool>,
    pub task: JoinHandle<()>,
}

impl Handle {
    pub fn event(&self, event: ContainerEvent) {
        if self.events.try_send(event).is_err() {
            self.dirty.notify_one();
        }
    }

    /// Events were lost: look at everything.
    pub fn look_again(&self) {
        self.dirty.notify_one();
    }

    /// The node ends the pod for the sake of others; tells once it has given back all it had.
    pub fn end(&self, end: End) -> watch::Receiver<bool> {
        self.wish.send_modify(|wish| wish.end = Some(end));
        self.over.clone()
    }

    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// What an earlier run of the agent left running.
#[derive(Default)]
pub struct Adopted {
    pub sandboxes: Vec<SandboxStatus>,
    pub records: Vec<ContainerStatus>,
}

/// Whether the node takes a pod.
pub enum Admission {
    /// It did, or it need not be asked.
    Taken,
    /// It does not; the status says why.
    Refused(Box<PodStatus>),
    /// It does if what its containers need for themselves can be found.
    ToPlace,
}

/// Starts a worker once all of `after` say so: its predecessor's [`Handle::cleared`], [`Handle::over`] of those that have to go for it.
pub fn spawn(agent: Arc<Agent>, pod: Arc<Pod>, adopted: Adopted, admission: Admission, after: Vec<watch::Receiver<bool>>) -> Handle {
    let seen = Instant::now();
    metrics::CONTAINERS_PER_POD.with([]).observe(pod.spec.as_ref().map_or(0, |spec| spec.containers.len()) as f64);
    let (wish, wish_rx) = watch::channel(Wish { pod: pod.clone(), removed: false, end: None });
    let (events, events_rx) = mpsc::channel(EVENTS_LEN);
    let (cleared_tx, cleared) = watch::channel(false);
    let (over_tx, over) = watch::channel(false);
    let dirty = Arc::new(Notify::new());
    let told = pod.status.clone().unwrap_or_default();
    let view = Arc::new(Mutex::new(View { pod: pod.clone(), status: told.clone(), sandbox: None, records: Vec::new(), volumes: Arc::default() }));
    let writer = StatusWriter::start(agent.client.clone(), &pod);
    let mut worker = Worker::new(agent, pod, wish_rx, events_rx, dirty.clone(), view.clone(), writer, cleared_tx, over_tx);
    worker.adopt(adopted);
    let task = tokio::spawn(async move {
        for mut after in after {
            let _ = after.wait_for(|cleared| *cleared).await;
        }
        match admission {
            Admission::Taken => {}
            Admission::Refused(status) => worker.refuse(*status),
            Admission::ToPlace => worker.place().await,
        }
        metrics::WORKER_START.with([]).observe_seconds(seen.elapsed());
        worker.run().await;
    });
    Handle { wish, events, dirty, view, over, cleared, task }
}

/// A start that failed for another reason than the container's own end.
#[derive(Clone, Debug)]
struct Retry {
    at: Timestamp,
    /// When ErrImagePull turns into ImagePullBackOff.
    soften_at: Option<Timestamp>,
}

enum Turn {
    Again,
    Wait(Option<Timestamp>),
    Gone,
}

struct Worker {
    agent: Arc<Agent>,
    /// With the resources that the node has given it.
    pod: Arc<Pod>,
    /// As the API has it.
    wished: Arc<Pod>,
    amounts: resizing::Allocation,
    resize: resize::State,
    resize_restarts: BTreeSet<String>,
    /// Limits that the pod's cgroup has.
    pod_figures: Resources,
    freed: watch::Receiver<()>,
    uid: String,
    removed: bool,
    life: Life,
    sandbox: Option<SandboxView>,
    /// All volumes are set up and the sandbox has its addresses.
    prepared: bool,
    mounted: BTreeMap<String, Mounted>,
    prepare_pause: SignedDuration,
    /// Before volumes or claims that could not be given back are tried again.
    volume_pause: SignedDuration,
    records: Vec<ContainerStatus>,
    verdicts: BTreeMap<String, Verdicts>,
    failures: BTreeMap<String, StartFailure>,
    retries: BTreeMap<String, Retry>,
    backoffs: Backoffs,
    image_backoffs: Backoffs,
    messages: BTreeMap<String, String>,
    probes: watching::Probes,
    told: PodStatus,
    published: bool,
    deleted: bool,
    writer: StatusWriter,
    wish: watch::Receiver<Wish>,
    events: mpsc::Receiver<ContainerEvent>,
    dirty: Arc<Notify>,
    reports_tx: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    refresh_at: Timestamp,
    /// The objects whose changes ring `volumes_changed`.
    followed: Vec<Following>,
    volumes_changed: Arc<Notify>,
    /// When the pod's use of the disk is looked at next.
    measure_at: Timestamp,
    view: Arc<Mutex<View>>,
    cleared: watch::Sender<bool>,
    over: watch::Sender<bool>,
    /// What an evicted pod may take to end.
    eviction_grace: Duration,
    /// When the agent saw the pod first; none once it ran.
    seen: Option<Instant>,
    startup: Startup,
    /// What the turn is for, as metrics name it.
    operation: &'static str,
}

impl Worker {
    #[allow(clippy::too_many_arguments, reason = "the ends of a worker's channels; `spawn` is the only caller")]
    fn new(
        agent: Arc<Agent>,
        pod: Arc<Pod>,
        wish: watch::Receiver<Wish>,
        events: mpsc::Receiver<ContainerEvent>,
        dirty: Arc<Notify>,
        view: Arc<Mutex<View>>,
        writer: StatusWriter,
        cleared: watch::Sender<bool>,
        over: watch::Sender<bool>,
    ) -> Self {
        let (reports_tx, reports) = mpsc::channel(REPORTS_LEN);
        let refresh_at = Timestamp::now() + SignedDuration::try_from(agent.config.volume_refresh).unwrap_or(LONGEST_WAIT);
        let pod_figures = pod.spec.as_ref().map(|spec| crate::resources::of_pod(spec, &agent.config.enforced)).unwrap_or_default();
        let backoffs = Backoffs::new(agent.config.max_restart_wait);
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            seen: Some(Instant::now()),
            startup: Startup::of(&pod),
            operation: CREATE,
            told: pod.status.clone().unwrap_or_default(),
            freed: agent.freed.subscribe(),
            agent,
            wished: pod.clone(),
            amounts: resizing::Allocation { allocated: resize::wanted(&pod), ..Default::default() },
            resize: resize::State::default(),
            resize_restarts: BTreeSet::new(),
            pod_figures,
            pod,
            removed: false,
            life: Life::Syncing,
            sandbox: None,
            prepared: false,
            mounted: BTreeMap::new(),
            prepare_pause: preparing::FIRST_PAUSE,
            volume_pause: preparing::FIRST_PAUSE,
            records: Vec::new(),
            verdicts: BTreeMap::new(),
            failures: BTreeMap::new(),
            retries: BTreeMap::new(),
            backoffs,
            image_backoffs: Backoffs::default(),
            messages: BTreeMap::new(),
            probes: watching::Probes::default(),
            published: false,
            deleted: false,
            writer,
            wish,
            events,
            dirty,
            reports_tx,
            reports,
            refresh_at,
            followed: Vec::new(),
            volumes_changed: Arc::default(),
            measure_at: Timestamp::now() + MEASURE_EVERY,
            view,
            cleared,
            over,
            eviction_grace: ending::EVICTION_GRACE,
        }
    }

    /// Takes over what an earlier run left: containers go on, counts and back-off are what they were.
    fn adopt(&mut self, adopted: Adopted) {
        let newest = adopted.sandboxes.iter().max_by_key(|sandbox| sandbox.config.attempt);
        let view = |sandbox: &SandboxStatus| SandboxView {
            id: sandbox.id.clone(),
            attempt: sandbox.config.attempt,
            ready: sandbox.ready,
            ips: sandbox.ips.clone(),
            handler: sandbox.config.handler.clone(),
        };
        self.sandbox = newest.map(view);
        self.backoffs = Backoffs::rebuild(&adopted.records, self.agent.config.max_restart_wait);
        let is_known = !adopted.sandboxes.is_empty();
        if is_known {
            self.seen = None;
            self.operation = SYNC;
        }
        self.records = adopted.records;
        self.load_allocation();
        if is_known {
            // Of a run that kept nothing, or of what the API has: from now on changes are resizes.
            self.agent.allocated.set(&self.uid, &self.amounts.allocated);
        }
        let statuses = self.told.container_statuses.iter().chain(self.told.init_container_statuses.iter()).flatten();
        let known: Vec<_> = statuses.map(|status| (status.container_id.clone().unwrap_or_default(), status.ready, status.started == Some(true))).collect();
        for record in &self.records {
            // Verdicts of before hold until the probes say otherwise: a restart of the agent must not take pods out of service.
            if let Some((_, ready, started)) = known.iter().find(|(id, _, _)| id.ends_with(&record.id)) {
                let verdicts = Verdicts { startup: started.then_some(true), readiness: ready.then_some(true), liveness: None };
                self.verdicts.insert(record.id.clone(), verdicts);
            }
        }
        let over = self.told.phase.as_deref().is_some_and(phase::is_terminal);
        let holds = self.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready)
            || self.records.iter().any(|record| record.state == ContainerState::Running)
            || self.agent.placement.dra.is_held(&self.uid);
        if over {
            self.life = if holds { Life::Terminating(Ending::Completed) } else { Life::Terminated };
            if !holds {
                self.agent.placement.release(&self.uid);
                self.agent.allocated.remove(&self.uid);
                let _ = self.over.send(true);
            }
        }
    }

    fn refuse(&mut self, status: PodStatus) {
        self.life = Life::Terminated;
        self.tell(status);
        let _ = self.over.send(true);
        let _ = self.agent.freed.send(());
    }

    /// Finds what the pod's containers need for themselves.
    async fn place(&mut self) {
        match self.agent.placement.admit(&self.pod).await {
            Ok(()) => self.agent.allocated.set(&self.uid, &self.amounts.allocated),
            Err(refusal) => self.refuse(crate::pods::refused(&self.agent, &self.pod, refusal)),
        }
    }

    async fn run(mut self) {
        loop {
            match self.turn().await {
                Turn::Again => {}
                Turn::Wait(until) => self.wait(until).await,
                Turn::Gone => return,
            }
        }
    }

    async fn turn(&mut self) -> Turn {
        let begun = Instant::now();
        if self.wish.has_changed().unwrap_or(false) && self.operation != CREATE {
            self.operation = UPDATE;
        }
        self.take_wish();
        self.refresh().await;
        let turn = match self.life.clone() {
            Life::Syncing => self.sync().await,
            Life::Terminating(ending) => {
                self.operation = KILL;
                self.terminate(&ending).await
            }
            Life::Terminated => return self.clear().await,
        };
        metrics::WORKER.with([self.operation]).observe_seconds(begun.elapsed());
        self.operation = SYNC;
        turn
    }

    fn take_wish(&mut self) {
        let wish = self.wish.borrow_and_update().clone();
        self.removed = wish.removed;
        self.writer.seen(&wish.pod);
        self.note_start(&wish.pod);
        let foreign = wish.pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        if let Some(conditions) = &mut self.told.conditions {
            let owned = |kind: &str| crate::machine::conditions::OWNED.contains(&kind);
            conditions.retain(|condition| owned(&condition.type_));
            conditions.extend(foreign.into_iter().filter(|condition| !owned(&condition.type_)));
        }
        // Of the pod's claims others write.
        let claims = wish.pod.status.as_ref().map(|status| (status.resource_claim_statuses.clone(), status.extended_resource_claim_status.clone()));
        (self.told.resource_claim_statuses, self.told.extended_resource_claim_status) = claims.unwrap_or_default();
        self.take_pod(wish.pod.clone());
        if self.life != Life::Syncing {
            return;
        }
        if wish.ends() {
            self.life = Life::Terminating(Ending::Deleted);
        } else if let Some(End { reason, message, grace }) = wish.end {
            self.eviction_grace = grace;
            self.end(reason, message);
        }
    }

    /// What the handler of the pod's RuntimeClass can do.
    fn handler(&self) -> Handler {
        self.agent.features.of_handler(self.sandbox.as_ref().map_or("", |sandbox| sandbox.handler.as_str()))
    }

    fn observed<'a>(&'a self) -> Observed<'a> {
        Observed {
            pod: &self.pod,
            life: &self.life,
            sandbox: self.sandbox.as_ref(),
            records: &self.records,
            verdicts: &self.verdicts,
            failures: &self.failures,
            backoffs: &self.backoffs,
            resize: &self.resize,
            running_with: &self.amounts.running_with,
            resize_restarts: &self.resize_restarts,
            holds_claims: self.agent.placement.dra.is_held(&self.uid),
            messages: &self.messages,
            runtime: RuntimeFacts { id_scheme: &self.agent.id_scheme, recursive_read_only: self.handler().recursive_read_only_mounts },
            now: Timestamp::now(),
        }
    }

    /// Tells the API the present state.
    fn publish(&mut self) {
        let mut status = status::generate(&self.observed(), &self.told, &self.agent.host_ips());
        self.agent.placement.devices.show(&self.uid, &mut status);
        self.agent.placement.dra.show(&self.pod, &mut status);
        self.tell(status);
    }

    /// The API shows the pod: how long its start took, once that is known.
    fn note_start(&mut self, pod: &Pod) {
        let Some(took) = self.startup.seen(pod, Timestamp::now()) else { return };
        metrics::POD_START_TOTAL.with([]).observe(took.whole.as_secs_f64());
        let Some(own) = took.own.map(|own| own.as_secs_f64()) else { return };
        metrics::POD_START_SLI.with([]).observe(own);
        let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        static FIRST: Once = Once::new();
        if !on_host {
            FIRST.call_once(|| metrics::FIRST_POD_START_SLI.with([]).set(own));
        }
    }

    fn tell(&mut self, status: PodStatus) {
        self.startup.told(&status);
        if status.phase.as_deref() == Some(phase::RUNNING)
            && let Some(seen) = self.seen.take()
        {
            metrics::POD_START.with([]).observe_seconds(seen.elapsed());
        }
        self.published = true;
        self.told = status.clone();
        self.writer.set(status);
        self.show();
    }

    fn show(&self) {
        let sandbox = self.sandbox.as_ref().filter(|sandbox| sandbox.ready).map(|sandbox| sandbox.id.clone());
        let volumes = Arc::new(self.mounted.values().map(|mounted| (mounted.path.clone(), mounted.name.clone())).collect());
        let mut view = self.view.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *view = View { pod: self.pod.clone(), status: self.told.clone(), sandbox, records: self.records.clone(), volumes };
    }

    /// One sync of a pod that is to run.
    async fn sync(&mut self) -> Turn {
        if let Some(message) = self.measure().await {
            self.end(EVICTED, message);
            return Turn::Again;
        }
        let deadline = self.deadline();
        if deadline.is_some_and(|at| at <= Timestamp::now()) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.agent.events.pod(&self.pod, crate::events::NORMAL, "DeadlineExceeded", message);
            self.life = Life::Terminating(Ending::Failed { reason: "DeadlineExceeded", message: message.into() });
            return Turn::Again;
        }
        self.actuate().await;
        let actions = decide(&self.observed());
        if actions.finish {
            self.life = Life::Terminating(Ending::Completed);
            return Turn::Again;
        }
        self.soften_failures();
        self.forget_ended_waits(&actions);
        self.keep_probes();
        let due = self.due(&actions);
        // What is about to be started soon has news of its own; telling twice costs the API a write.
        if due.is_empty() || !self.published || actions.sandbox.is_some() {
            self.publish();
        }
        let mut again = None;
        if actions.sandbox.is_some() || !self.prepared {
            match self.prepare(actions.sandbox).await {
                Ok(()) => return Turn::Again,
                Err(at) if actions.sandbox.is_some() || !due.is_empty() => return Turn::Wait(earliest([Some(at), deadline])),
                // What runs already, taken over from an earlier run, goes on meanwhile.
                Err(at) => again = Some(at),
            }
        }
        for kill in &actions.kill {
            self.kill_for_probe(kill).await;
            if let Some(start) = kill.restart.as_ref().filter(|_| !self.wish.borrow().stops()) {
                self.start(start, kill.ended_before).await;
            }
        }
        let acted = !actions.kill.is_empty() || !due.is_empty();
        for start in &due {
            let name = self.container_of(start).name.clone();
            let ended = self.observed().newest(&name).and_then(crate::machine::actions::finished_at);
            self.start(start, ended).await;
            if self.wish.borrow().stops() {
                return Turn::Again;
            }
        }
        let held = self.hold(&actions);
        if acted {
            return Turn::Again;
        }
        let measure = crate::local_storage::is_limited(&self.pod).then_some(self.measure_at);
        Turn::Wait(earliest([deadline, held, self.next_retry(), again, measure, self.resize_retry()]))
    }

    fn end(&mut self, reason: &'static str, message: String) {
        if reason == EVICTED {
            self.agent.events.pod(&self.pod, crate::events::WARNING, EVICTED, message.clone());
        }
        self.life = Life::Terminating(Ending::Failed { reason, message });
    }

    /// What the pod uses too much of, when it is time to look.
    async fn measure(&mut self) -> Option<String> {
        if Timestamp::now() < self.measure_at || !crate::local_storage::is_limited(&self.pod) {
            return None;
        }
        self.measure_at = Timestamp::now() + MEASURE_EVERY;
        let excess = crate::local_storage::exceeded(&self.agent, &self.pod, &self.records).await?;
        metrics::EVICTIONS.with([excess.signal]).increment();
        Some(excess.message)
    }

    /// The starts that no retry pause holds back.
    fn due(&self, actions: &Actions) -> Vec<crate::machine::actions::Start> {
        let now = Timestamp::now();
        let free = |start: &&crate::machine::actions::Start| self.retries.get(self.container_of(start).name.as_str()).is_none_or(|retry| retry.at <= now);
        actions.start.iter().filter(free).cloned().collect()
    }

    fn next_retry(&self) -> Option<Timestamp> {
        let now = Timestamp::now();
        let times = self.retries.values().flat_map(|retry| [Some(retry.at), retry.soften_at]).flatten();
        times.filter(|at| *at > now).min()
    }

    /// A restart whose wait is over no longer shows the wait.
    fn forget_ended_waits(&mut self, actions: &Actions) {
        let names: Vec<String> = actions.start.iter().map(|start| self.container_of(start).name.clone()).collect();
        self.failures.retain(|name, failure| failure.reason != starting::CRASH_LOOP || !names.contains(name));
    }

    /// Notes restarts that must wait. Their statuses show it from the next sync on: the first one after an end shows the end itself.
    fn hold(&mut self, actions: &Actions) -> Option<Timestamp> {
        let pod = crate::pod_ref(&self.pod);
        for held in &actions.held {
            let message = format!("back-off {} restarting failed container={} pod={pod}", held.wait.delay_text(), held.name);
            let failure = StartFailure { reason: starting::CRASH_LOOP, message };
            if self.failures.get(&held.name) != Some(&failure) {
                let field = self.field_of(&held.name);
                let text = format!("Back-off restarting failed container {} in pod {pod}", held.name);
                self.agent.events.container(&self.pod, &field, crate::events::WARNING, "BackOff", text);
                self.failures.insert(held.name.clone(), failure);
            }
        }
        let until = actions.held.iter().map(|held| held.wait.until).min()?;
        Some(until.min(Timestamp::now() + LONGEST_WAIT))
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        Some(self.told.start_time.as_ref()?.0 + SignedDuration::from_secs(seconds))
    }

    /// `spec.containers{c}`, as events name a container.
    fn field_of(&self, name: &str) -> String {
        let spec = self.pod.spec.as_ref();
        let list = if spec.is_some_and(|spec| spec.init_containers.iter().flatten().any(|container| container.name == name)) {
            "initContainers"
        } else if spec.is_some_and(|spec| spec.ephemeral_containers.iter().flatten().any(|container| container.name == name)) {
            "ephemeralContainers"
        } else {
            "containers"
        };
        format!("spec.{list}{{{name}}}")
    }
}

fn earliest<const N: usize>(times: [Option<Timestamp>; N]) -> Option<Timestamp> {
    times.into_iter().flatten().min()
}

/// Resolves when the pod is to end.
async fn until_ends(mut wish: watch::Receiver<Wish>) {
    if wish.wait_for(Wish::stops).await.is_err() {
        // Nobody wishes anything any more: the agent stops, the pod does not.
        std::future::pending().await
    }
}

/// Time from now, zero when it passed.
fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

#[cfg(test)]
mod tests;
