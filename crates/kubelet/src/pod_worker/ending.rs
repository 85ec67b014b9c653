//! The end of containers and pods: hooks and signals within the grace period, then everything is given back, and the API object goes last.

use super::{RETRY, Turn, Wish, Worker};
use crate::events::{NORMAL, WARNING};
use crate::hook;
use crate::log_links::{self, Whose};
use crate::machine::actions::Kill;
use crate::machine::conditions::{EVICTED, TERMINATED};
use crate::machine::{Ending, Life, is_sidecar};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use keles_runtime::api::{ContainerState, ContainerStatus};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const DEFAULT_GRACE_SECONDS: i64 = 30;
/// A pod that is evicted at once gets no more (upstream's figure).
pub(super) const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// What a container is left after its preStop hook, however long that took (upstream's figure).
const MIN_AFTER_HOOK: Duration = Duration::from_secs(2);

fn seconds(count: i64) -> Duration {
    Duration::from_secs(count.max(0) as u64)
}

impl Worker {
    fn pod_grace_seconds(&self) -> i64 {
        self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_SECONDS)
    }

    fn spec_of(&self, name: &str) -> Option<Container> {
        let spec = self.pod.spec.as_ref()?;
        let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| container.name == name).cloned();
        plain.or_else(|| spec.ephemeral_containers.iter().flatten().find(|container| container.name == name).map(crate::ephemeral::as_container))
    }

    pub(super) async fn kill_for_probe(&mut self, kill: &Kill) {
        let grace = seconds(kill.grace_seconds.unwrap_or_else(|| self.pod_grace_seconds()));
        self.probes.stop(|id, _| id == kill.id);
        self.publish();
        self.kill(&kill.id, &kill.name, &kill.message, grace).await;
        self.learn(&kill.id).await;
    }

    pub(super) async fn kill_after_hook(&mut self, container: &Container, id: &str) {
        self.kill(id, &container.name, "FailedPostStartHook", seconds(self.pod_grace_seconds())).await;
        self.learn(id).await;
    }

    /// preStop, then the stop signal, both within `grace`; a wish for a shorter end shortens it.
    async fn kill(&self, id: &str, name: &str, message: &str, grace: Duration) {
        let field = self.field_of(name);
        self.agent.events.container(&self.pod, &field, NORMAL, "Killing", message);
        let begun = Instant::now();
        let mut wish = self.wish.clone();
        let shorter = shortened(&mut wish, grace);
        let work = async {
            let left = self.run_pre_stop(id, name, &field, grace, begun).await;
            self.agent.runtime.stop_container(id, left).await
        };
        let stopped = tokio::select! {
            stopped = work => stopped,
            grace = shorter => self.agent.runtime.stop_container(id, grace.saturating_sub(begun.elapsed())).await,
        };
        if let Err(error) = stopped {
            tracing::warn!(%error, container = id, "container not stopped");
        }
    }

    /// Runs the preStop hook, if any; returns what is left of the grace period.
    async fn run_pre_stop(&self, id: &str, name: &str, field: &str, grace: Duration, begun: Instant) -> Duration {
        let handler = self.spec_of(name).and_then(|container| container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone()).map(|hook| (container, hook)));
        let Some((container, handler)) = handler.filter(|_| !grace.is_zero()) else { return grace };
        let ran = tokio::time::timeout(grace, hook::run(&handler, &container, id, &self.address(), self.agent.runtime.as_ref())).await;
        match ran {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => {
                tracing::info!(pod = crate::pod_ref(&self.pod), container = name, fault, "preStop hook failed");
                self.agent.events.container(&self.pod, field, WARNING, "FailedPreStopHook", "PreStopHook failed");
            }
            Err(_) => tracing::info!(pod = crate::pod_ref(&self.pod), container = name, "preStop hook took the whole grace period"),
        }
        grace.saturating_sub(begun.elapsed()).max(MIN_AFTER_HOOK.min(grace))
    }

    /// One step of a pod's end; it is repeated until all is given back.
    pub(super) async fn terminate(&mut self, ending: &Ending) -> Turn {
        self.probes.stop(|_, kind| kind != crate::probe::Kind::Readiness);
        self.followed.clear();
        self.publish();
        self.end_containers(ending).await;
        self.refresh().await;
        if self.records.iter().any(|record| record.state == ContainerState::Running) {
            return Turn::Wait(Some(Timestamp::now() + RETRY));
        }
        self.probes.stop(|_, _| true);
        if let Err(fault) = self.give_back_sandbox().await {
            tracing::warn!(pod = crate::pod_ref(&self.pod), fault, "sandbox not given back, will be tried again");
            return Turn::Wait(Some(Timestamp::now() + RETRY));
        }
        if let Err(error) = self.agent.placement.dra.unprepare(&self.uid).await {
            tracing::warn!(%error, pod = crate::pod_ref(&self.pod), "claims not given back, will be tried again");
            return self.wait_to_give_back();
        }
        // Told while the reason of the end is still known; nothing runs, so the phase may be final.
        self.publish();
        if let Err(error) = self.agent.tear_down_volumes(&self.uid).await {
            tracing::warn!(%error, pod = crate::pod_ref(&self.pod), "volumes not removed, will be tried again");
            return self.wait_to_give_back();
        }
        self.prepared = false;
        self.agent.users.release(&self.uid);
        self.agent.placement.release(&self.uid);
        self.agent.allocated.remove(&self.uid);
        self.agent.objects.forget(&self.uid);
        crate::probe_metrics::forget(&self.uid);
        self.life = Life::Terminated;
        let _ = self.over.send(true);
        let _ = self.agent.freed.send(());
        Turn::Again
    }

    fn wait_to_give_back(&mut self) -> Turn {
        let at = Timestamp::now() + self.volume_pause;
        self.volume_pause = (self.volume_pause * 2).min(super::preparing::MAX_PAUSE);
        Turn::Wait(Some(at))
    }

    /// Regular containers side by side, then sidecars, last first (KEP-753), all within one grace period.
    async fn end_containers(&self, ending: &Ending) {
        let running: Vec<&ContainerStatus> = self.records.iter().filter(|record| record.state == ContainerState::Running).collect();
        if running.is_empty() {
            return;
        }
        let grace = match ending {
            Ending::Deleted => grace_of(&self.pod),
            Ending::Failed { reason: EVICTED | TERMINATED, .. } => self.eviction_grace.min(seconds(self.pod_grace_seconds()).max(EVICTION_GRACE)),
            _ => seconds(self.pod_grace_seconds()),
        };
        let sidecar_index = |record: &ContainerStatus| {
            let inits = self.pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
            inits.iter().position(|container| container.name == record.name && is_sidecar(container))
        };
        let begun = Instant::now();
        let end = |record: &ContainerStatus, grace: Duration| {
            let (id, name) = (record.id.clone(), record.name.clone());
            async move { self.kill(&id, &name, &format!("Stopping container {name}"), grace).await }
        };
        join_all(running.iter().filter(|record| sidecar_index(record).is_none()).map(|record| end(record, grace))).await;
        let mut sidecars: Vec<_> = running.iter().filter_map(|record| Some((sidecar_index(record)?, *record))).collect();
        sidecars.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (_, record) in sidecars {
            let left = grace.saturating_sub(begun.elapsed()).max(MIN_AFTER_HOOK.min(grace));
            end(record, left).await;
        }
    }

    async fn give_back_sandbox(&mut self) -> Result<(), String> {
        let Some(view) = &mut self.sandbox else { return Ok(()) };
        if !view.ready {
            return Ok(());
        }
        self.agent.network.detach(&self.uid).await.map_err(|error| error.to_string())?;
        self.agent.runtime.stop_sandbox(&view.id).await.map_err(|error| error.to_string())?;
        view.ready = false;
        Ok(())
    }

    /// A pod that ended waits for its deletion, then its records, logs and object go.
    pub(super) async fn clear(&mut self) -> Turn {
        let wish = self.wish.borrow().clone();
        if !wish.ends() {
            self.show();
            return Turn::Wait(None);
        }
        if !*self.cleared.borrow() {
            // A static pod's object is a mirror, which may not be there.
            if !crate::static_pods::is_static(&self.pod) {
                self.writer.flush().await;
            }
            self.remove_records().await;
            let _ = self.cleared.send(true);
        }
        if wish.removed {
            return Turn::Gone;
        }
        if !self.deleted {
            match self.delete_object().await {
                Ok(()) => self.deleted = true,
                Err(error) => {
                    tracing::warn!(%error, pod = crate::pod_ref(&self.pod), "pod object not deleted, will be tried again");
                    return Turn::Wait(Some(Timestamp::now() + RETRY));
                }
            }
        }
        // Finalizers may still hold the object; it is not ours to start again.
        Turn::Wait(None)
    }

    async fn remove_records(&mut self) {
        for record in std::mem::take(&mut self.records) {
            if let Err(error) = self.agent.runtime.remove_container(&record.id).await {
                tracing::warn!(%error, container = record.id, "container not removed");
            }
            log_links::remove(&self.agent.config.log_links_dir, Whose::of(&self.pod, &record));
        }
        remove_sandboxes(&self.agent, &self.uid, self.sandbox.take().map(|view| view.id)).await;
        let _ = std::fs::remove_dir_all(self.log_dir());
    }

    async fn delete_object(&self) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.agent.client.clone(), self.pod.metadata.namespace.as_deref().unwrap_or("default"));
        let params =
            DeleteParams { grace_period_seconds: Some(0), preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }), ..Default::default() };
        match api.delete(self.pod.metadata.name.as_deref().unwrap_or_default(), &params).await {
            Ok(_) => Ok(()),
            // Gone already, or another pod of the same name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Removes all sandboxes a pod ever had.
async fn remove_sandboxes(agent: &crate::agent::Agent, uid: &str, known: Option<String>) {
    let listed = agent.runtime.list_sandboxes().await.unwrap_or_default();
    let ids = listed.into_iter().filter(|sandbox| sandbox.config.uid == uid).map(|sandbox| sandbox.id);
    let mut ids: Vec<String> = ids.chain(known).collect();
    ids.sort();
    ids.dedup();
    for id in ids {
        if let Err(error) = agent.runtime.remove_sandbox(&id).await {
            tracing::debug!(%error, sandbox = id, "sandbox not removed");
        }
    }
}

/// The grace period of a deletion: the request's, else the pod's; at least a second.
pub fn grace_of(pod: &Pod) -> Duration {
    let asked = pod.metadata.deletion_grace_period_seconds;
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    seconds(asked.or(own).unwrap_or(DEFAULT_GRACE_SECONDS).max(1))
}

/// What the end may take, if somebody wants one.
fn asked(wish: &Wish) -> Option<Duration> {
    let deleted = wish.ends().then(|| grace_of(&wish.pod));
    deleted.into_iter().chain(wish.end.as_ref().map(|end| end.grace)).min()
}

/// Ends when the API or the node wants the end sooner than `grace`.
async fn shortened(wish: &mut watch::Receiver<Wish>, grace: Duration) -> Duration {
    let sooner = wish.wait_for(|wish| asked(wish).is_some_and(|asked| asked < grace)).await.ok().and_then(|wish| asked(&wish));
    match sooner {
        Some(grace) => grace,
        None => std::future::pending().await,
    }
}
