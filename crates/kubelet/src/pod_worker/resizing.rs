//! In-place resize, the shell's part: what the node gives the pod, told to running containers without a restart where their policy allows it.
//!
//! Entry points: [`Worker::take_pod`] (each new version of the pod), [`Worker::actuate`] (each sync). Invariants: `pod` always carries what the node
//! has given, `wished` what the API asks for; both what was given (`crate::allocated`) and what containers run with survive a restart of the agent.

use super::Worker;
use crate::events::{NORMAL, WARNING};
use crate::machine::{Life, is_sidecar, resize};
use crate::resources;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use keles_runtime::api::{ContainerState, Resources};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Pause after a resize that a cgroup refused.
const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// In the pod's folder: [`Allocation`], or its first two parts as a list, as builds before resize of whole pods wrote it.
const FILE: &str = "allocation.json";

/// What a resize gave, and what runs with it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Allocation {
    /// Given, by container name; earlier builds kept it only here.
    pub allocated: resize::Amounts,
    /// What containers have of their own, by id; and the pod as a whole.
    pub running_with: resize::Amounts,
    /// What the pod as a whole had when a container was told last, by container id: limits it has no own for come from there.
    #[serde(default)]
    pub inherited: resize::Amounts,
}

impl Allocation {
    fn parse(text: &[u8]) -> Option<Self> {
        let of_before = || serde_json::from_slice(text).ok().map(|(allocated, running_with)| Self { allocated, running_with, ..Self::default() });
        serde_json::from_slice(text).ok().or_else(of_before)
    }
}

impl Worker {
    /// Takes a version of the pod from the API and decides about a resize it asks for.
    pub(super) fn take_pod(&mut self, pod: Arc<Pod>) {
        for [operation, requirement, resource] in resize::operations(&self.wished, &pod) {
            crate::metrics::RESIZES.with([operation, requirement, resource]).increment();
        }
        let wanted = resize::wanted(&pod);
        if self.amounts.allocated.is_empty() {
            self.amounts.allocated = wanted.clone();
        }
        if wanted == self.amounts.allocated || self.life != Life::Syncing {
            self.resize.pending = None;
        } else {
            // Containers that were started since the last sync have what was given until now.
            self.note_what_runs();
            self.decide_resize(&pod, wanted);
        }
        self.pod = if resize::wanted(&pod) == self.amounts.allocated { pod.clone() } else { Arc::new(resize::given(&pod, &self.amounts.allocated)) };
        // downwardAPI files show these.
        if (&pod.metadata.labels, &pod.metadata.annotations, pod.metadata.generation)
            != (&self.wished.metadata.labels, &self.wished.metadata.annotations, self.wished.metadata.generation)
        {
            self.refresh_at = Timestamp::now();
        }
        self.wished = pod;
    }

    fn decide_resize(&mut self, pod: &Arc<Pod>, wanted: resize::Amounts) {
        let forbidden = match self.mirror_of_file() {
            true => Some("In-place resize of static-pods is not supported".into()),
            false => self.agent.placement.forbids_resize(pod).or_else(|| self.agent.facts.swap.forbids_resize(&self.pod, pod)),
        };
        let pending = match forbidden {
            Some(message) => Some(resize::Pending { reason: "Infeasible", message }),
            None => {
                let others = self.agent.pods.holding(&self.uid);
                let others: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
                resize::judge(pod, &crate::pods::node_of(&self.agent), &others)
            }
        };
        if let Some(found) = &pending {
            if self.resize.pending.as_ref() != Some(found) {
                let text = format!("Pod resize {}: {}", found.reason, resize::summary(pod));
                self.agent.events.pod(pod, WARNING, &format!("Resize{}", found.reason), text);
            }
        } else {
            self.agent.events.pod(pod, NORMAL, "ResizeStarted", format!("Pod resize started: {}", resize::summary(pod)));
            self.agent.allocated.set(&self.uid, &wanted);
            self.amounts.allocated = wanted;
            self.resize.in_progress = Some(None);
            self.save_allocation();
        }
        self.resize.pending = pending;
    }

    /// Gives running containers what the pod was given; the ones that need a restart for it are left to the machine.
    pub(super) async fn actuate(&mut self) {
        if self.resize.in_progress.is_some() {
            self.agent.allocated.kept().await;
        }
        let pod = self.pod.clone();
        let Some(spec) = &pod.spec else { return };
        let whole = spec.resources.clone().unwrap_or_default();
        self.amounts.running_with.entry(resize::POD.into()).or_insert_with(|| whole.clone());
        let mut changed = Vec::new();
        self.resize_restarts.clear();
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(|container| is_sidecar(container))) {
            let Some(record) = self.observed().current(&container.name).filter(|record| record.state == ContainerState::Running) else { continue };
            let id = record.id.clone();
            let given = container.resources.clone().unwrap_or_default();
            let has = self.amounts.running_with.entry(id.clone()).or_insert_with(|| given.clone());
            let inherited = self.amounts.inherited.entry(id.clone()).or_insert_with(|| whole.clone());
            let (held_to, to_hold_to) = (resize::effective(has, inherited), resize::effective(&given, &whole));
            if *has == given && held_to == to_hold_to {
                continue;
            }
            if resize::needs_restart(container, &held_to, &to_hold_to) {
                self.resize_restarts.insert(id);
            } else {
                changed.push((id, container.clone()));
            }
        }
        let records = &self.records;
        let is_known = |id: &str| records.iter().any(|record| record.id == id);
        self.amounts.running_with.retain(|id, _| id == resize::POD || is_known(id));
        self.amounts.inherited.retain(|id, _| is_known(id));
        let figures = resources::of_pod(spec, &self.agent.config.enforced);
        if changed.is_empty() && self.pod_figures == figures {
            self.whole_pod_has(whole);
            self.finish_resize(None);
            return;
        }
        // The kernel gives no container more than its pod has: the pod first gets the larger of both, and what it shall have at last.
        let mut fault = self.resize_sandbox(larger(&self.pod_figures, &figures)).await.err();
        for (id, container) in changed {
            if let Err(message) = self.resize_container(&id, &container).await {
                fault = Some(message);
            }
        }
        if fault.is_none() && self.resize_restarts.is_empty() {
            fault = self.resize_sandbox(figures).await.err();
        }
        if fault.is_none() {
            self.whole_pod_has(whole);
        }
        self.save_allocation();
        self.finish_resize(fault);
    }

    /// Told in the status once no container waits for a restart that belongs to it.
    fn whole_pod_has(&mut self, whole: ResourceRequirements) {
        if self.resize_restarts.is_empty() && self.amounts.running_with.insert(resize::POD.into(), whole.clone()) != Some(whole) {
            self.save_allocation();
        }
    }

    async fn resize_container(&mut self, id: &str, container: &Container) -> Result<(), String> {
        let spec = self.pod.spec.as_ref().expect("the API server admits no pod without a spec");
        let figures = resources::of_container(spec, container, self.agent.facts.memory_bytes, &self.agent.config.enforced);
        // A limit below what is used would have the kernel kill; upstream refuses it too.
        if let Some(limit) = figures.memory_limit_bytes
            && let Ok(stats) = self.agent.runtime.stats(id).await
            && stats.memory_usage_bytes > limit as u64
        {
            return Err(format!("attempting to set container \"{}\" memory limit ({limit}) below current usage ({})", container.name, stats.memory_usage_bytes));
        }
        let swap_bytes = self.agent.facts.swap.of_container(&self.pod, container);
        // The score of a running process stays: it is set once, when it starts.
        self.agent.runtime.update_resources(id, Resources { oom_score_adj: None, swap_bytes, ..figures }).await.map_err(|error| error.to_string())?;
        let whole = spec.resources.clone().unwrap_or_default();
        self.amounts.running_with.insert(id.into(), container.resources.clone().unwrap_or_default());
        self.amounts.inherited.insert(id.into(), whole);
        Ok(())
    }

    async fn resize_sandbox(&mut self, figures: Resources) -> Result<(), String> {
        if figures == self.pod_figures {
            return Ok(());
        }
        let Some(sandbox) = self.sandbox.as_ref().map(|sandbox| sandbox.id.clone()) else { return Ok(()) };
        self.agent.runtime.update_sandbox_resources(&sandbox, figures.clone()).await.map_err(|error| error.to_string())?;
        self.pod_figures = figures;
        let _ = self.agent.taken.send(());
        Ok(())
    }

    fn finish_resize(&mut self, fault: Option<String>) {
        if self.resize.in_progress.is_none() {
            return;
        }
        if fault.is_none() && self.resize_restarts.is_empty() {
            self.resize.in_progress = None;
            self.agent.events.pod(&self.pod, NORMAL, "ResizeCompleted", format!("Pod resize completed: {}", resize::summary(&self.pod)));
        } else if self.resize.in_progress.as_ref() != Some(&fault) {
            if let Some(fault) = &fault {
                self.agent.events.pod(&self.pod, WARNING, "ResizeError", format!("Pod resize error: {}: {fault}", resize::summary(&self.pod)));
            }
            self.resize.in_progress = Some(fault);
        }
    }

    /// When a resize that went wrong is tried again.
    pub(super) fn resize_retry(&self) -> Option<Timestamp> {
        self.resize.in_progress.as_ref()?.as_ref().map(|_| Timestamp::now() + RETRY)
    }

    fn save_allocation(&self) {
        let dir = self.agent.config.pod_dir(&self.uid);
        let text = serde_json::to_vec(&self.amounts).unwrap_or_default();
        // Whole or not at all: what is read back decides what containers are told.
        let fresh = dir.join(format!("{FILE}.new"));
        let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&fresh, text)).and_then(|()| std::fs::rename(&fresh, dir.join(FILE)));
        if let Err(error) = written {
            tracing::warn!(%error, pod = crate::pod_ref(&self.pod), "what a resize gave could not be kept");
        }
    }

    /// What an earlier run of the agent had given.
    pub(super) fn load_allocation(&mut self) {
        let resized = std::fs::read(self.agent.config.pod_dir(&self.uid).join(FILE)).ok().and_then(|text| Allocation::parse(&text));
        let was_resized = resized.is_some();
        if let Some(mut kept) = resized {
            // Older builds noted no whole pods, and resized none.
            kept.allocated.entry(resize::POD.into()).or_insert_with(|| resize::wanted(&self.wished).remove(resize::POD).unwrap_or_default());
            self.amounts = kept;
        }
        if let Some(allocated) = self.agent.allocated.get(&self.wished) {
            self.amounts.allocated = allocated;
        }
        // Whether more can be given is for the first turn: here the pods may not be looked at yet.
        self.pod = Arc::new(resize::given(&self.wished, &self.amounts.allocated));
        // Those of a resize that was cut off are not known: no pod's figures are these, so the first turn tells the cgroup again.
        self.pod_figures = self.pod.spec.as_ref().filter(|_| !was_resized).map(|spec| resources::of_pod(spec, &self.agent.config.enforced)).unwrap_or_default();
        self.note_what_runs();
    }

    /// What no resize has told otherwise runs with what it was given.
    fn note_what_runs(&mut self) {
        let amounts = &mut self.amounts;
        let whole = amounts.allocated.get(resize::POD).cloned().unwrap_or_default();
        amounts.running_with.entry(resize::POD.into()).or_insert_with(|| whole.clone());
        for record in self.records.iter().filter(|record| record.state == ContainerState::Running) {
            let Some(given) = amounts.allocated.get(&record.name) else { continue };
            amounts.running_with.entry(record.id.clone()).or_insert_with(|| given.clone());
            amounts.inherited.entry(record.id.clone()).or_insert_with(|| whole.clone());
        }
    }

    fn mirror_of_file(&self) -> bool {
        self.pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key("kubernetes.io/config.mirror"))
    }
}

/// Of each figure the larger; no limit is larger than any.
fn larger(old: &Resources, new: &Resources) -> Resources {
    let limit = |old: Option<i64>, new: Option<i64>| old.zip(new).map(|(old, new)| old.max(new));
    Resources {
        cpu_shares: old.cpu_shares.max(new.cpu_shares),
        cpu_quota_us: limit(old.cpu_quota_us, new.cpu_quota_us),
        cpu_period_us: new.cpu_period_us,
        memory_limit_bytes: limit(old.memory_limit_bytes, new.memory_limit_bytes),
        pids_limit: new.pids_limit,
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_builds_wrote_is_read() {
        let of_before = Allocation::parse(br#"[{"c":{"requests":{"cpu":"1"}}},{"id":{"requests":{"cpu":"2"}}}]"#).expect("the older form");
        assert_eq!((of_before.allocated.len(), of_before.running_with.len(), of_before.inherited.len()), (1, 1, 0));
        let again = Allocation::parse(&serde_json::to_vec(&of_before).expect("encodes")).expect("the present form");
        assert_eq!((again.allocated, again.running_with), (of_before.allocated, of_before.running_with));
        assert!(Allocation::parse(b"{").is_none());
    }

    #[test]
    fn a_pod_has_the_larger_of_both_while_its_containers_change() {
        let figures = |quota, memory| Resources { cpu_quota_us: quota, memory_limit_bytes: memory, ..Default::default() };
        let both = larger(&figures(Some(10), Some(30)), &figures(Some(20), Some(5)));
        assert_eq!((both.cpu_quota_us, both.memory_limit_bytes), (Some(20), Some(30)));
        assert_eq!(larger(&figures(None, Some(30)), &figures(Some(20), None)), figures(None, None), "no limit is larger than any");
    }
}
