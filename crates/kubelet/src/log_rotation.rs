//! Keeps containers' logs from filling the disk: a log over its size gets a new name, and only so many old ones stay.
//!
//! Entry point: [`run`]. The names are upstream's: `0.log` and `0.log.<time>`. Deliberately absent: compression of old ones.

use crate::agent::Agent;
use jiff::Timestamp;
use keles_runtime::api::ContainerState;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Upstream's figures (containerLogMaxSize, containerLogMaxFiles, containerLogMonitorInterval).
const MAX_BYTES: u64 = 10 << 20;
const MAX_FILES: usize = 5;
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// Looks at the logs of all running containers until `stop`.
pub async fn run(agent: Arc<Agent>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(CHECK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! { _ = ticks.tick() => {}, () = stop.cancelled() => return }
        for view in agent.pods.views() {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let metadata = &view.pod.metadata;
            let dir = agent.config.log_dir(&text(&metadata.namespace), &text(&metadata.name), &text(&metadata.uid));
            for record in view.records.iter().filter(|record| record.state == ContainerState::Running) {
                let path = dir.join(&record.log_path);
                if !std::fs::metadata(&path).is_ok_and(|info| info.len() > MAX_BYTES) {
                    continue;
                }
                let rotated = rotate(&path, Timestamp::now(), MAX_FILES).map_err(|error| error.to_string());
                let reopened = match rotated {
                    Ok(()) => agent.runtime.reopen_log(&record.id).await.map_err(|error| error.to_string()),
                    Err(error) => Err(error),
                };
                if let Err(error) = reopened {
                    tracing::warn!(error, path = %path.display(), "log not rotated");
                }
            }
        }
    }
}

/// Renames `path` and removes the oldest of its old ones, so that with the new file there are at most `max_files`.
fn rotate(path: &Path, now: Timestamp, max_files: usize) -> std::io::Result<()> {
    let mut old = old_ones(path)?;
    // Times in names sort as text.
    old.sort();
    let keep = max_files.saturating_sub(2);
    for gone in &old[..old.len().saturating_sub(keep)] {
        std::fs::remove_file(gone)?;
    }
    let mut name = path.as_os_str().to_os_string();
    name.push(format!(".{}.{:09}", now.strftime("%Y%m%d-%H%M%S"), now.subsec_nanosecond()));
    std::fs::rename(path, name)
}

/// Removes a log with its old ones.
pub fn remove(path: &Path) {
    for gone in old_ones(path).unwrap_or_default().iter().map(PathBuf::as_path).chain([path]) {
        let _ = std::fs::remove_file(gone);
    }
}

fn old_ones(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return Ok(Vec::new()) };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(dir)?.flatten();
    Ok(entries.filter(|entry| entry.file_name().to_str().is_some_and(|other| other.starts_with(&prefix))).map(|entry| entry.path()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_logs_stay_the_newest() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for round in 0..7 {
            std::fs::write(&path, round.to_string()).expect("written");
            std::fs::write(dir.path().join("1.log"), "another's").expect("written");
            rotate(&path, start + jiff::SignedDuration::from_secs(round), 3).expect("rotated");
        }
        let mut kept = old_ones(&path).expect("listed");
        kept.sort();
        let texts: Vec<String> = kept.iter().map(|path| std::fs::read_to_string(path).expect("readable")).collect();
        assert_eq!(texts, ["5", "6"], "with the new one there are three");
        assert!(dir.path().join("1.log").exists() && !path.exists());
    }
}
