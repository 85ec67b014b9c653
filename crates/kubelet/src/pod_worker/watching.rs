//! What a worker sees: runtime records, termination messages, probe verdicts; and what it waits for.

use super::{Worker, until};
use crate::container_config::{MESSAGE_FILE, MESSAGE_POLICY};
use crate::machine::{Life, is_sidecar};
use crate::probe::{self, Kind, Report, Subject};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use keles_runtime::api::{ContainerState, ContainerStatus, RuntimeError};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Until a list that failed is asked for again.
const RELIST_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a termination message file that are shown.
const MAX_MESSAGE_BYTES: u64 = 4096;
/// Lines and bytes of the log that stand in for a message.
const FALLBACK_LINES: usize = 80;
const FALLBACK_BYTES: usize = 2048;

/// Running probe workers by container id.
#[derive(Default)]
pub(super) struct Probes {
    running: BTreeMap<String, Vec<(Kind, JoinHandle<()>)>>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop(|_, _| true);
    }
}

impl Probes {
    fn has(&self, id: &str, kind: Kind) -> bool {
        self.running.get(id).is_some_and(|tasks| tasks.iter().any(|(running, _)| *running == kind))
    }

    pub(super) fn stop(&mut self, which: impl Fn(&str, Kind) -> bool) {
        for (id, tasks) in &mut self.running {
            tasks.retain(|(kind, task)| {
                let stop = which(id, *kind);
                if stop {
                    task.abort();
                }
                !stop
            });
        }
        self.running.retain(|_, tasks| !tasks.is_empty());
    }
}

impl Worker {
    /// Reads the records of all containers that could have changed.
    pub(super) async fn refresh(&mut self) {
        let open: Vec<String> = self.records.iter().filter(|record| record.state != ContainerState::Exited).map(|record| record.id.clone()).collect();
        for id in open {
            self.learn(&id).await;
        }
        self.read_messages();
    }

    /// Reads one record; whether it says something new.
    pub(super) async fn learn(&mut self, id: &str) -> bool {
        let status = match self.agent.runtime.container_status(id).await {
            Ok(status) => status,
            Err(RuntimeError::NotFound { .. }) => {
                let before = self.records.len();
                self.records.retain(|record| record.id != id);
                return self.records.len() != before;
            }
            Err(error) => {
                tracing::warn!(%error, container = id, "state of a container not read");
                return false;
            }
        };
        match self.records.iter_mut().find(|record| record.id == id) {
            Some(record) => {
                let news = record.state != status.state;
                *record = status;
                news
            }
            None => {
                self.records.push(status);
                true
            }
        }
    }

    /// Lists everything of this pod: events were lost.
    async fn relist(&mut self) {
        // Both or nothing: what a runtime that is down does not list has not ended.
        let (Ok(all), Ok(sandboxes)) = (self.agent.runtime.list_containers().await, self.agent.runtime.list_sandboxes().await) else {
            // Nobody tells a second time of what was missed.
            let dirty = self.dirty.clone();
            tokio::spawn(async move {
                tokio::time::sleep(RELIST_PAUSE).await;
                dirty.notify_one();
            });
            return;
        };
        let ours: Vec<String> = sandboxes.iter().filter(|sandbox| sandbox.config.uid == self.uid).map(|sandbox| sandbox.id.clone()).collect();
        self.records = all.into_iter().filter(|record| ours.contains(&record.sandbox_id)).collect();
        if let Some(view) = &mut self.sandbox {
            view.ready = sandboxes.iter().any(|sandbox| sandbox.id == view.id && sandbox.ready);
        }
    }

    fn read_messages(&mut self) {
        let logs = self.log_dir();
        for record in &self.records {
            if record.state == ContainerState::Exited && !self.messages.contains_key(&record.id) {
                self.messages.insert(record.id.clone(), termination_message(record, &logs));
            }
        }
    }

    pub(super) fn log_dir(&self) -> std::path::PathBuf {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        self.agent.config.log_dir(&text(&self.pod.metadata.namespace), &text(&self.pod.metadata.name), &self.uid)
    }

    /// Starts the probes of what runs and stops those of what ended.
    pub(super) fn keep_probes(&mut self) {
        let pod = self.pod.clone();
        let Some(spec) = &pod.spec else { return };
        let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
        let mut wanted: Vec<(Kind, Container, ContainerStatus)> = Vec::new();
        for container in spec.containers.iter().chain(sidecars) {
            let Some(record) = self.observed().current(&container.name).filter(|record| record.state == ContainerState::Running) else { continue };
            let started = self.observed().has_started(container, record);
            let kinds: &[Kind] = if started { &[Kind::Readiness, Kind::Liveness] } else { &[Kind::Startup] };
            wanted.extend(kinds.iter().filter(|kind| kind.of(container).is_some()).map(|kind| (*kind, container.clone(), record.clone())));
        }
        let alive: Vec<String> = self.records.iter().filter(|record| record.state == ContainerState::Running).map(|record| record.id.clone()).collect();
        self.probes.stop(|id, _| !alive.iter().any(|other| other == id));
        for (kind, container, record) in wanted {
            if !self.probes.has(&record.id, kind) {
                self.spawn_probe(kind, container, &record);
            }
        }
    }

    fn spawn_probe(&mut self, kind: Kind, container: Container, record: &ContainerStatus) {
        let started_at = Timestamp::from_nanosecond(i128::from(record.started_at_unix_ns)).unwrap_or_else(|_| Timestamp::now());
        let field = self.field_of(&container.name);
        let subject = Subject { pod: self.pod.clone(), container, field, container_id: record.id.clone(), started_at, address: self.address() };
        if let Some(task) = probe::spawn(kind, subject, self.agent.runtime.clone(), self.agent.events.clone(), self.reports_tx.clone()) {
            self.probes.running.entry(record.id.clone()).or_default().push((kind, task));
        }
    }

    fn take_report(&mut self, report: Report) {
        let verdicts = self.verdicts.entry(report.container_id).or_default();
        match report.kind {
            Kind::Startup => verdicts.startup = Some(report.success),
            Kind::Readiness => verdicts.readiness = Some(report.success),
            Kind::Liveness => verdicts.liveness = Some(report.success),
        }
    }

    /// Waits for something that asks for another turn. What changes nothing does not end it: a restart that is held back must not be told
    /// earlier for our own echo.
    pub(super) async fn wait(&mut self, at: Option<Timestamp>) {
        loop {
            let refreshes = self.life == Life::Syncing && self.prepared && self.follows_api();
            let timer = async {
                match at {
                    Some(at) => tokio::time::sleep(until(at)).await,
                    None => std::future::pending().await,
                }
            };
            let refresh_at = self.refresh_at;
            tokio::select! {
                changed = self.wish.changed() => {
                    // Nobody wishes anything any more: the agent stops.
                    if changed.is_err() { return std::future::pending().await; }
                    let wish = self.wish.borrow_and_update().clone();
                    let is_evicted = wish.end.is_some() && self.life == Life::Syncing;
                    if wish.removed || is_evicted || matters(&self.wished, &wish.pod) { self.wish.mark_changed(); return; }
                    self.writer.seen(&wish.pod);
                    self.note_start(&wish.pod);
                    self.take_pod(wish.pod);
                }
                Some(event) = self.events.recv() => if self.learn(&event.container_id).await { return },
                () = self.dirty.notified() => { self.relist().await; return }
                Some(report) = self.reports.recv() => { self.take_report(report); return }
                () = self.volumes_changed.notified(), if self.life == Life::Syncing => {
                    // What held the pod up may be there now.
                    if !self.prepared { return; }
                    self.refresh_volumes().await;
                }
                () = tokio::time::sleep(until(refresh_at)), if refreshes => self.refresh_volumes().await,
                // There may be room for a resize that was put off.
                Ok(()) = self.freed.changed(), if self.resize.pending.is_some() => return,
                () = timer => return,
            }
        }
    }

    fn follows_api(&self) -> bool {
        let of_api = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(keles_volumes::follows_api);
        of_api || self.mounted.values().any(|mounted| mounted.follows)
    }
}

/// Whether a new version of the object asks for a sync: not when only our own status came back.
fn matters(old: &Pod, new: &Pod) -> bool {
    let foreign = |pod: &Pod| -> Vec<(String, String)> {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let others = conditions.filter(|condition| !crate::machine::conditions::OWNED.contains(&condition.type_.as_str()));
        others.map(|condition| (condition.type_.clone(), condition.status.clone())).collect()
    };
    let (a, b) = (&old.metadata, &new.metadata);
    a.deletion_timestamp != b.deletion_timestamp
        || a.deletion_grace_period_seconds != b.deletion_grace_period_seconds
        || a.generation != b.generation
        || a.labels != b.labels
        || a.annotations != b.annotations
        || old.spec != new.spec
        || foreign(old) != foreign(new)
}

/// What an ended container left to say.
fn termination_message(record: &ContainerStatus, logs: &std::path::Path) -> String {
    let file = record.annotations.get(MESSAGE_FILE);
    let text = file.map(|path| tail(std::path::Path::new(path), MAX_MESSAGE_BYTES)).unwrap_or_default();
    let falls_back = record.annotations.get(MESSAGE_POLICY).map(String::as_str) == Some("FallbackToLogsOnError");
    if !text.is_empty() || !falls_back || record.exit_code == 0 {
        return text;
    }
    let log = if record.log_path.is_absolute() { record.log_path.clone() } else { logs.join(&record.log_path) };
    crate::logs::last_lines(&log, FALLBACK_LINES, FALLBACK_BYTES)
}

/// The last bytes of a file as text.
fn tail(path: &std::path::Path, max_bytes: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(max_bytes)))?;
        let mut bytes = Vec::new();
        file.take(max_bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(dir: &std::path::Path, policy: &str, exit_code: i32) -> ContainerStatus {
        let annotations = BTreeMap::from([(MESSAGE_FILE.to_string(), dir.join("message").display().to_string()), (MESSAGE_POLICY.to_string(), policy.to_string())]);
        ContainerStatus {
            id: "c0".into(),
            sandbox_id: String::new(),
            name: "c".into(),
            attempt: 0,
            state: ContainerState::Exited,
            created_at_unix_ns: 0,
            started_at_unix_ns: 0,
            finished_at_unix_ns: 0,
            exit_code,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_id: String::new(),
            log_path: "log".into(),
            labels: BTreeMap::new(),
            annotations,
            pid: None,
        }
    }

    #[test]
    fn the_termination_message_is_the_file_or_on_error_the_end_of_the_log() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("log"), "2026-01-01T00:00:00Z stdout F last words\n").expect("written");
        let message = |policy: &str, code| termination_message(&record(dir.path(), policy, code), dir.path());
        assert_eq!(message("FallbackToLogsOnError", 1), "last words\n");
        assert_eq!((message("FallbackToLogsOnError", 0), message("File", 1)), (String::new(), String::new()));
        std::fs::write(dir.path().join("message"), "told").expect("written");
        for (policy, code) in [("File", 0), ("File", 1), ("FallbackToLogsOnError", 1)] {
            assert_eq!(message(policy, code), "told", "{policy} {code}");
        }
        std::fs::write(dir.path().join("message"), "x".repeat(5000)).expect("written");
        assert_eq!(message("File", 0).len(), 4096);
    }

    #[test]
    fn our_own_status_coming_back_asks_for_no_sync() {
        let pod = |value: serde_json::Value| -> Pod { serde_json::from_value(value).expect("a pod") };
        let spec = serde_json::json!({"containers": []});
        let with = |ready: &str, gate: &str| {
            let conditions = serde_json::json!([{"type": "Ready", "status": ready}, {"type": "example.com/gate", "status": gate}]);
            pod(serde_json::json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": ready, "conditions": conditions}}))
        };
        assert!(!matters(&with("False", "False"), &with("True", "False")));
        assert!(matters(&with("True", "False"), &with("True", "True")), "a readiness gate of another's changed");
    }
}
