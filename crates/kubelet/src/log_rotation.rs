//! Keeps containers' logs from filling the disk: a log over its size gets a new name, older ones are compressed, and only so many stay.
//!
//! Entry point: [`run`]. The names are upstream's: `0.log`, `0.log.<time>` for the one before, which readers may still have open, and
//! `0.log.<time>.gz` for the rest. Invariant: what is compressed is whole under its name before the original goes, so that a stop at any point
//! loses nothing; the next turn removes what was begun.

use crate::agent::Agent;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use keles_runtime::api::ContainerState;
use keles_volumes::quantity::Quantity;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Upstream's containerLogMonitorInterval.
const CHECK_EVERY: Duration = Duration::from_secs(10);
const COMPRESSED: &str = ".gz";
/// Being written, or left by a stop.
const UNFINISHED: &str = ".tmp";

/// How much of logs is kept (`containerLogMaxSize`, `containerLogMaxFiles`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// None: logs are never rotated.
    pub max_bytes: Option<u64>,
    /// Of one container, the one that is written among them.
    pub max_files: usize,
    /// The size as it was given.
    pub shown: String,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: Some(10 << 20), max_files: 5, shown: "10Mi".into() }
    }
}

impl Limits {
    /// `size` is a quantity; one below zero turns rotation off (upstream's rule).
    pub fn parse(size: &str, files: usize) -> Result<Self, String> {
        let bytes = Quantity::parse(size).ok_or_else(|| format!("failed to parse container log max size {size:?}: it is no quantity, as 10Mi is"))?.whole();
        if files <= 1 {
            return Err(format!("invalid container log max files {files}: it must be more than 1"));
        }
        Ok(Self { max_bytes: u64::try_from(bytes).ok(), max_files: files, shown: size.into() })
    }
}

/// Looks at the logs of all running containers until `stop`.
pub async fn run(agent: Arc<Agent>, stop: CancellationToken) {
    let limits = agent.config.logs.clone();
    let Some(max_bytes) = limits.max_bytes else { return };
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
                let done = match fs::metadata(&path) {
                    Ok(info) if info.len() > max_bytes => rotate_and_reopen(&agent, &record.id, path.clone(), limits.max_files).await,
                    // A stop came between the new name and the new file: the container still writes under the old one.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => agent.runtime.reopen_log(&record.id).await.map_err(|error| error.to_string()),
                    _ => continue,
                };
                if let Err(error) = done {
                    tracing::warn!(error, path = %path.display(), "log not rotated");
                }
            }
        }
    }
}

async fn rotate_and_reopen(agent: &Agent, id: &str, path: PathBuf, max_files: usize) -> Result<(), String> {
    let log = path.clone();
    // Compressing takes a processor for a while.
    let rotated = tokio::task::spawn_blocking(move || rotate(&log, Timestamp::now(), max_files)).await;
    let rotated = rotated.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let reopened = agent.runtime.reopen_log(id).await.map_err(|error| error.to_string());
    if reopened.is_err() {
        // The container still writes into it: it must be found under its name.
        fs::rename(&rotated, &path).map_err(|error| error.to_string())?;
    }
    reopened
}

/// Renames `path`, having removed the oldest of its old ones, so that with the new file there are at most `max_files`, and compressed the others.
/// The log's name from now on.
fn rotate(path: &Path, now: Timestamp, max_files: usize) -> io::Result<PathBuf> {
    let mut old = finished(old_ones(path)?)?;
    // Times in names sort as text.
    old.sort();
    let keep = max_files.saturating_sub(2);
    let (gone, kept) = old.split_at(old.len().saturating_sub(keep));
    gone.iter().try_for_each(fs::remove_file)?;
    kept.iter().filter(|log| !ends_with(log, COMPRESSED)).try_for_each(|log| compress(log))?;
    let name = with(path, &format!(".{}.{:09}", now.strftime("%Y%m%d-%H%M%S"), now.subsec_nanosecond()));
    fs::rename(path, &name)?;
    Ok(name)
}

/// Removes what a stop left half written, and originals that are compressed already; the rest.
fn finished(old: Vec<PathBuf>) -> io::Result<Vec<PathBuf>> {
    let is_left = |log: &PathBuf| ends_with(log, UNFINISHED) || (!ends_with(log, COMPRESSED) && old.contains(&with(log, COMPRESSED)));
    let (left, whole): (Vec<&PathBuf>, Vec<&PathBuf>) = old.iter().partition(|log| is_left(log));
    left.into_iter().try_for_each(fs::remove_file)?;
    Ok(whole.into_iter().cloned().collect())
}

fn compress(log: &Path) -> io::Result<()> {
    let (whole, unfinished) = (with(log, COMPRESSED), with(log, &format!("{COMPRESSED}{UNFINISHED}")));
    let mut encoder = GzEncoder::new(File::create(&unfinished)?, Compression::default());
    io::copy(&mut File::open(log)?, &mut encoder)?;
    encoder.finish()?.sync_data()?;
    fs::rename(unfinished, whole)?;
    fs::remove_file(log)
}

fn with(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(more);
    name.into()
}

fn ends_with(path: &Path, end: &str) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(end))
}

/// Removes a log with its old ones.
pub fn remove(path: &Path) {
    for gone in old_ones(path).unwrap_or_default().iter().map(PathBuf::as_path).chain([path]) {
        let _ = fs::remove_file(gone);
    }
}

fn old_ones(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return Ok(Vec::new()) };
    let prefix = format!("{name}.");
    let entries = fs::read_dir(dir)?.flatten();
    Ok(entries.filter(|entry| entry.file_name().to_str().is_some_and(|other| other.starts_with(&prefix))).map(|entry| entry.path()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    fn start() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn text(path: &Path) -> String {
        let mut text = String::new();
        let file = File::open(path).expect("there");
        let read = if ends_with(path, COMPRESSED) { GzDecoder::new(file).read_to_string(&mut text) } else { io::BufReader::new(file).read_to_string(&mut text) };
        read.expect("readable");
        text
    }

    fn kept(path: &Path) -> Vec<(String, bool)> {
        let mut kept = old_ones(path).expect("listed");
        kept.sort();
        kept.iter().map(|log| (text(log), ends_with(log, COMPRESSED))).collect()
    }

    #[test]
    fn only_so_many_logs_stay_the_newest_and_all_but_the_last_are_compressed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        for round in 0..7 {
            fs::write(&path, round.to_string()).expect("written");
            fs::write(dir.path().join("1.log"), "another's").expect("written");
            rotate(&path, start() + jiff::SignedDuration::from_secs(round), 4).expect("rotated");
        }
        assert_eq!(kept(&path), [("4".into(), true), ("5".into(), true), ("6".into(), false)], "with the new one there are four");
        assert!(dir.path().join("1.log").exists() && !path.exists());
        remove(&path);
        assert_eq!(kept(&path), []);
    }

    #[test]
    fn what_a_stop_left_is_put_right() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        for name in ["0.log.1", "0.log.2", "0.log.2.gz.tmp", "0.log"] {
            fs::write(dir.path().join(name), name).expect("written");
        }
        compress(&dir.path().join("0.log.1")).expect("compressed");
        fs::write(dir.path().join("0.log.1"), "it stopped before the original went").expect("written");
        rotate(&path, start(), 5).expect("rotated");
        assert_eq!(kept(&path), [("0.log.1".into(), true), ("0.log.2".into(), true), ("0.log".into(), false)]);
    }

    #[test]
    fn limits_are_read_as_upstream_reads_them() {
        assert_eq!(Limits::parse("10Mi", 5), Ok(Limits::default()));
        assert_eq!(Limits::parse("-1", 2).expect("valid").max_bytes, None, "never");
        assert!(Limits::parse("much", 5).expect_err("no quantity").contains("\"much\""));
        assert!(Limits::parse("1Mi", 1).expect_err("one").contains("more than 1"));
    }
}
