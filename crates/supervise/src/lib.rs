//! Services of one process: what each needs, when it is ready, how it ends.
//!
//! Entry point: [`Supervisor`]. A service starts once everything it needs is ready, and is told to stop once everything that
//! needs it has stopped. The first service that fails or panics stops all. Invariant: nothing outlives [`Supervisor::run`].
//! Deliberately absent: restarts (a part that can go on does so itself) and any knowledge of what services do.

use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// How long a service may take to stop before it is ended, unless it asks for more.
const DRAIN: Duration = Duration::from_secs(10);

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Run = Box<dyn FnOnce(Handle) -> BoxFuture<'static, Result<(), BoxError>> + Send>;

/// What a service holds: its stop signal and the way to say that it is ready.
#[derive(Clone)]
pub struct Handle {
    stop: CancellationToken,
    ready: watch::Sender<bool>,
}

impl Handle {
    /// Cancelled when the service is to stop.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }
    /// Those that need this service may start.
    pub fn ready(&self) {
        self.ready.send_replace(true);
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error("{name}: {source}")]
    Failed { name: &'static str, source: BoxError },
    #[error("{name} panicked; this is a defect, please report what the log says above")]
    Panicked { name: &'static str },
    #[error("{name} needs {needs}, which is not among the services")]
    Unknown { name: &'static str, needs: &'static str },
    #[error("{name} ended although nobody asked it to")]
    Ended { name: &'static str },
}

struct Service {
    name: &'static str,
    needs: &'static [&'static str],
    run: Run,
}

/// The list of services of a process.
#[derive(Default)]
pub struct Supervisor {
    services: Vec<Service>,
    patience: BTreeMap<&'static str, Duration>,
}

impl Supervisor {
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds a service; `needs` name services that must be ready before it starts.
    pub fn add<F>(&mut self, name: &'static str, needs: &'static [&'static str], run: impl FnOnce(Handle) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.services.push(Service { name, needs, run: Box::new(move |h| Box::pin(run(h))) });
    }

    /// Gives a service a time of its own to stop.
    pub fn wait_for(&mut self, name: &'static str, longest: Duration) {
        self.patience.insert(name, longest);
    }

    /// Runs everything until `stop`, or until a service fails; returns when all have ended.
    pub async fn run(self, stop: CancellationToken) -> Result<(), SuperviseError> {
        let mut running = Running::start(self.services)?;
        running.patience = self.patience;
        let first = tokio::select! {
            () = stop.cancelled() => Ok(()),
            e = running.first_end() => Err(e),
        };
        running.drain().await;
        first
    }
}

struct Running {
    tasks: JoinSet<Result<(), BoxError>>,
    names: BTreeMap<Id, &'static str>,
    handles: BTreeMap<&'static str, Handle>,
    needs: BTreeMap<&'static str, &'static [&'static str]>,
    patience: BTreeMap<&'static str, Duration>,
}

impl Running {
    fn start(services: Vec<Service>) -> Result<Self, SuperviseError> {
        let handles: BTreeMap<_, _> = services.iter().map(|s| (s.name, Handle { stop: CancellationToken::new(), ready: watch::Sender::new(false) })).collect();
        let needs = services.iter().map(|s| (s.name, s.needs)).collect();
        let mut running = Running { tasks: JoinSet::new(), names: BTreeMap::new(), handles, needs, patience: BTreeMap::new() };
        for service in services {
            running.spawn(service)?;
        }
        Ok(running)
    }
    fn spawn(&mut self, service: Service) -> Result<(), SuperviseError> {
        let mut waits = Vec::new();
        for needed in service.needs {
            let other = self.handles.get(needed).ok_or(SuperviseError::Unknown { name: service.name, needs: needed })?;
            waits.push(other.ready.subscribe());
        }
        let handle = self.handles[service.name].clone();
        let task = self.tasks.spawn(async move {
            let all_ready = async {
                for mut w in waits {
                    // An error means that the other has ended; then this one is about to be stopped too.
                    let _ = w.wait_for(|ready| *ready).await;
                }
            };
            tokio::select! {
                () = all_ready => {}
                () = handle.stop.cancelled() => return Ok(()),
            }
            (service.run)(handle).await
        });
        self.names.insert(task.id(), service.name);
        Ok(())
    }
    /// The name of the next service to end, and how it ended.
    async fn next(&mut self) -> Option<(&'static str, Result<(), SuperviseError>)> {
        let ended = self.tasks.join_next_with_id().await?;
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(e) => e.id(),
        };
        let name = self.names.remove(&id).expect("every task was named when it was spawned");
        Some(match ended {
            Ok((_, Ok(()))) => (name, Ok(())),
            Ok((_, Err(source))) => (name, Err(SuperviseError::Failed { name, source })),
            Err(e) if e.is_panic() => (name, Err(SuperviseError::Panicked { name })),
            Err(_) => (name, Ok(())),
        })
    }
    async fn first_end(&mut self) -> SuperviseError {
        match self.next().await {
            Some((name, Ok(()))) => SuperviseError::Ended { name },
            Some((_, Err(e))) => e,
            None => std::future::pending().await,
        }
    }
    /// Stops those that nobody running needs, and so on down.
    async fn drain(&mut self) {
        while !self.names.is_empty() {
            let alive: BTreeSet<&str> = self.names.values().copied().collect();
            let needed: BTreeSet<&str> = alive.iter().flat_map(|n| self.needs[n]).copied().collect();
            let leaving = || alive.iter().filter(|n| !needed.contains(*n));
            leaving().for_each(|n| self.handles[n].stop.cancel());
            let longest = leaving().map(|n| self.patience.get(n).copied().unwrap_or(DRAIN)).max().unwrap_or(DRAIN);
            match tokio::time::timeout(longest, self.next()).await {
                Ok(Some((_, Err(e)))) => tracing::warn!("while stopping: {e}"),
                Ok(_) => {}
                Err(_) => {
                    tracing::warn!("ended without draining after {longest:?}: {alive:?}");
                    self.tasks.shutdown().await;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    type Log = Arc<Mutex<Vec<String>>>;

    fn note(log: &Log, what: impl Into<String>) {
        log.lock().expect("no test panics while it holds the log").push(what.into());
    }

    fn add(s: &mut Supervisor, name: &'static str, needs: &'static [&'static str], log: &Log) {
        let log = log.clone();
        s.add(name, needs, move |h| async move {
            note(&log, format!("+{name}"));
            h.ready();
            h.stop().cancelled().await;
            note(&log, format!("-{name}"));
            Ok(())
        });
    }

    #[tokio::test]
    async fn services_start_after_what_they_need_and_stop_before_it() {
        let (log, mut s, stop) = (Log::default(), Supervisor::new(), CancellationToken::new());
        add(&mut s, "node", &["api"], &log);
        add(&mut s, "api", &["store"], &log);
        add(&mut s, "store", &[], &log);
        let (seen, all) = (log.clone(), stop.clone());
        s.add("watcher", &["node"], move |h| async move {
            note(&seen, "+watcher");
            all.cancel();
            h.stop().cancelled().await;
            Ok(())
        });
        s.run(stop).await.expect("an orderly stop");
        assert_eq!(*log.lock().expect("free"), ["+store", "+api", "+node", "+watcher", "-node", "-api", "-store"]);
    }

    #[tokio::test]
    async fn a_failure_and_a_panic_stop_all_and_are_named() {
        for panics in [false, true] {
            let (log, mut s) = (Log::default(), Supervisor::new());
            add(&mut s, "api", &[], &log);
            s.add("bad", &["api"], move |_| async move {
                assert!(!panics, "on purpose");
                Err("disk on fire".into())
            });
            let e = s.run(CancellationToken::new()).await.expect_err("bad ended").to_string();
            assert!(e.starts_with(if panics { "bad panicked" } else { "bad: disk on fire" }), "{e}");
            assert_eq!(*log.lock().expect("free"), ["+api", "-api"]);
        }
    }

    #[tokio::test]
    async fn one_who_never_stops_is_cut_after_its_own_time() {
        let (log, mut s, stop) = (Log::default(), Supervisor::new(), CancellationToken::new());
        add(&mut s, "api", &[], &log);
        let all = stop.clone();
        s.add("stuck", &["api"], move |_| async move {
            all.cancel();
            std::future::pending().await
        });
        s.wait_for("stuck", Duration::from_millis(10));
        s.run(stop).await.expect("an orderly stop");
        assert_eq!(*log.lock().expect("free"), ["+api"], "who is needed by one that does not stop is cut with it");
    }

    #[tokio::test]
    async fn a_need_that_is_not_there_is_refused() {
        let mut s = Supervisor::new();
        add(&mut s, "node", &["api"], &Log::default());
        assert!(matches!(s.run(CancellationToken::new()).await, Err(SuperviseError::Unknown { name: "node", needs: "api" })));
    }
}
