//! The loop around a controller: wait for its caches, then workers that take keys until shutdown.

use crate::events::Recorder;
use crate::metrics::{Counters, counters};
use crate::queue::{BackOff, Queue};
use crate::writer::WriteError;
use futures::FutureExt;
use futures::future::BoxFuture;
use keles_client::{Change, Informer, ObjectKey, Watched};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a reconciliation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do until something changes.
    Done,
    /// Run again after this time at the latest, because the outcome depends on the clock.
    After(Duration),
}

/// Why a reconciliation must be tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{what}")]
    Read {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The object itself stands in the way; the text says how.
    #[error("{object}: {problem}")]
    Object { object: ObjectKey, problem: String },
}

impl ReconcileError {
    pub fn read(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| ReconcileError::Read { what, source: Box::new(source) }
    }
    /// Somebody else wrote first: the normal course of optimistic concurrency, not worth a log line.
    fn is_race(&self) -> bool {
        match self {
            ReconcileError::Write(error) => error.is_conflict() || error.is_not_found(),
            ReconcileError::Read { source, .. } => matches!(source.as_ref(), kube::Error::Api(status) if status.code == 409),
            ReconcileError::Object { .. } => false,
        }
    }
    /// Why, in the server's own words where it answered.
    fn cause(&self) -> String {
        match self {
            ReconcileError::Write(error) => error.message(),
            ReconcileError::Read { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.message.clone(),
                other => std::error::Error::source(other).map_or_else(|| other.to_string(), ToString::to_string),
            },
            ReconcileError::Object { .. } => String::new(),
        }
    }
}

/// What a reconciliation may use of the runtime.
pub struct Context {
    pub queue: Queue<ObjectKey>,
    pub events: Recorder,
}

/// A controller: level-triggered, idempotent, the same on first run, retry and restart.
pub trait Controller: Send + Sync + 'static {
    const NAME: &'static str;
    /// Keys worked on at the same time.
    const WORKERS: usize = 5;
    /// Says which changes wake which keys.
    fn watches(&self, watches: &mut Watches);
    /// Brings the world nearer to what the key's object asks for. The object may be gone.
    fn reconcile(&self, key: &ObjectKey, context: &Context) -> impl Future<Output = Result<Outcome, ReconcileError>> + Send;
}

/// Collects what a controller watches.
pub struct Watches {
    queue: Queue<ObjectKey>,
    synced: Vec<BoxFuture<'static, bool>>,
}

impl Watches {
    /// Wakes the object's own key at each of its changes.
    pub fn own<K: Watched>(&mut self, informer: &Informer<K>) {
        self.on(informer, |change, queue| queue.add(ObjectKey::of(change.object().as_ref())));
    }
    /// Calls `wake` at each change; it adds keys to the queue and returns at once.
    pub fn on<K: Watched>(&mut self, informer: &Informer<K>, wake: impl Fn(&Change<K>, &Queue<ObjectKey>) + Send + Sync + 'static) {
        let queue = self.queue.clone();
        informer.on_change(move |change| wake(change, &queue));
        self.reads(informer);
    }
    /// Waits for this cache too before the first reconciliation.
    pub fn reads<K: Watched>(&mut self, informer: &Informer<K>) {
        let informer = informer.clone();
        self.synced.push(Box::pin(async move { informer.synced().await }));
    }
    /// A key that is woken once at the start.
    pub fn at_start(&mut self, key: ObjectKey) {
        self.queue.add(key);
    }
}

/// Runs the controller until shutdown; keys being worked on are finished first.
pub async fn run<C: Controller>(controller: C, events: Recorder, shutdown: CancellationToken) {
    let queue = Queue::named(BackOff::default(), C::NAME);
    let mut watches = Watches { queue: queue.clone(), synced: Vec::new() };
    controller.watches(&mut watches);
    let synced = futures::future::join_all(watches.synced);
    if shutdown.run_until_cancelled(synced).await.is_none() {
        return;
    }
    tracing::debug!(controller = C::NAME, "caches are complete, working");
    let shared = Arc::new((controller, Context { queue, events }));
    let mut workers = JoinSet::new();
    for _ in 0..C::WORKERS {
        let (shared, shutdown) = (shared.clone(), shutdown.clone());
        workers.spawn(async move {
            while let Some(key) = shutdown.run_until_cancelled(shared.1.queue.next()).await {
                work(&shared.0, &key, &shared.1).await;
            }
        });
    }
    while workers.join_next().await.is_some() {}
}

async fn work<C: Controller>(controller: &C, key: &ObjectKey, context: &Context) {
    let queue = &context.queue;
    let counters = counters(C::NAME);
    // A controller's state is its caches, which survive a panic whole.
    let started = std::time::Instant::now();
    let result = AssertUnwindSafe(controller.reconcile(key, context)).catch_unwind().await;
    Counters::count(&counters.reconciles);
    queue.worked(started.elapsed());
    match result {
        Ok(Ok(outcome)) => {
            queue.forget(key);
            if let Outcome::After(delay) = outcome {
                queue.add_after(key.clone(), delay);
            }
        }
        Ok(Err(error)) => {
            Counters::count(&counters.errors);
            if error.is_race() {
                tracing::debug!(controller = C::NAME, %key, %error, cause = error.cause(), "lost a race, retrying");
            } else {
                tracing::warn!(controller = C::NAME, %key, %error, cause = error.cause(), "reconcile failed, retrying");
            }
            queue.add_failed(key.clone());
        }
        Err(panic) => {
            Counters::count(&counters.panics);
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            tracing::error!(controller = C::NAME, %key, panic = text, "reconcile panicked, retrying");
            queue.add_failed(key.clone());
        }
    }
    queue.done(key);
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use keles_client::{MetadataOnly, Options};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::mpsc;

    struct Probe {
        objects: Informer<MetadataOnly>,
        calls: AtomicU32,
        seen: Mutex<mpsc::UnboundedSender<(ObjectKey, u32)>>,
    }
    impl Controller for Probe {
        const NAME: &'static str = "probe";
        fn watches(&self, watches: &mut Watches) {
            watches.own(&self.objects);
        }
        async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            self.seen.lock().expect("not poisoned").send((key.clone(), call)).expect("the test listens");
            match call {
                0 => panic!("first attempt"),
                1 => Err(ReconcileError::Object { object: key.clone(), problem: "second attempt".into() }),
                _ => Ok(Outcome::Done),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_and_an_error_cost_one_attempt_each_and_nothing_runs_before_the_caches_are_complete() {
        let stop = CancellationToken::new();
        let objects = Informer::detached(Options::default(), stop.child_token());
        let (sender, mut seen) = mpsc::unbounded_channel();
        let probe = Probe { objects: objects.clone(), calls: AtomicU32::new(0), seen: Mutex::new(sender) };
        let running = tokio::spawn(run(probe, Recorder::discard(), stop.clone()));
        tokio::task::yield_now().await;
        assert!(seen.try_recv().is_err(), "the cache is not complete yet");
        let meta = ObjectMeta { name: Some("a".into()), resource_version: Some("1".into()), ..Default::default() };
        objects.fill(vec![MetadataOnly { metadata: meta }], 1);
        for attempt in 0..3 {
            assert_eq!(seen.recv().await, Some((ObjectKey::cluster("a"), attempt)));
        }
        stop.cancel();
        running.await.expect("the panic stayed inside");
    }
}
