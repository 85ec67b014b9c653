//! Where manifests come from.

use super::complete;
use crate::agent::Agent;
use crate::events::WARNING;
use crate::http_get;
use k8s_openapi::api::core::v1::Pod;
use rustix::fs::inotify;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// Files larger than this are no manifests.
const MAX_BYTES: u64 = 10 << 20;
/// How long the manifest URL may take; upstream's figure.
const FETCH_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Sources {
    /// `--pod-manifest-path`: a folder, or one file.
    pub path: Option<PathBuf>,
    /// `--manifest-url`; http, as the agent's other requests of this kind.
    pub url: Option<String>,
    /// `--manifest-url-header`
    pub headers: Vec<(String, String)>,
    /// `--file-check-frequency` and `--http-check-frequency`.
    pub file_every: Duration,
    pub url_every: Duration,
}

impl Default for Sources {
    /// Upstream's figures.
    fn default() -> Self {
        Self { path: None, url: None, headers: Vec::new(), file_every: Duration::from_secs(20), url_every: Duration::from_secs(20) }
    }
}

/// Follows the sources until `stop`; with none it is over at once, with an empty list told.
pub async fn run(agent: Arc<Agent>, stop: CancellationToken) {
    let sources = agent.config.static_pods.clone();
    let watch = sources.path.as_deref().and_then(watch);
    let mut file_ticks = tokio::time::interval(sources.file_every);
    let mut url_ticks = tokio::time::interval(sources.url_every);
    let (mut of_files, mut of_url) = (sources.path.is_none().then(Vec::new), sources.url.is_none().then(Vec::new));
    loop {
        if let (Some(files), Some(url)) = (&of_files, &of_url) {
            agent.pods.set_static(&agent, files.iter().chain(url).cloned().collect());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = file_ticks.tick(), if sources.path.is_some() => of_files = Some(read_files(&agent).await),
            () = changed(watch.as_ref()), if watch.is_some() => of_files = Some(read_files(&agent).await),
            // What cannot be asked now stays as it was.
            _ = url_ticks.tick(), if sources.url.is_some() => of_url = read_url(&agent).await.or(of_url),
        }
    }
}

/// Tells when something in the folder was written, moved or removed; absent where the kernel cannot, which leaves the clock.
fn watch(path: &Path) -> Option<AsyncFd<OwnedFd>> {
    let folder = if path.is_dir() { path } else { path.parent()? };
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok()?;
    let events = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVE | inotify::WatchFlags::DELETE;
    inotify::add_watch(&watch, folder, events).inspect_err(|error| tracing::warn!(%error, folder = %folder.display(), "static pods are followed by the clock only")).ok()?;
    keles_linux::async_fd::watch(watch).ok()
}

async fn changed(watch: Option<&AsyncFd<OwnedFd>>) {
    let Some(watch) = watch else { return std::future::pending().await };
    if let Ok(mut ready) = watch.readable().await {
        while rustix::io::read(watch.get_ref(), &mut [0; 4096]).is_ok_and(|count| count > 0) {}
        ready.clear_ready();
    }
}

async fn read_files(agent: &Agent) -> Vec<Pod> {
    let (path, node) = (agent.config.static_pods.path.clone().unwrap_or_default(), agent.config.node_name.clone());
    let read = tokio::task::spawn_blocking(move || files_of(&path).into_iter().map(|file| read_file(&file, &node)).collect::<Vec<_>>()).await;
    kept(agent, read.unwrap_or_default())
}

/// The file itself, or the files of the folder but for hidden ones, in the order of their names.
fn files_of(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")).map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

fn read_file(path: &Path, node: &str) -> Result<Pod, String> {
    let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(|error| fault(&error))?.len();
    if size > MAX_BYTES {
        return Err(fault(&"it is too large for a manifest"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fault(&error))?;
    let manifest: Value = serde_yaml_ng::from_str(&text).map_err(|error| fault(&error))?;
    complete(manifest, "file", &path.display().to_string(), node)
}

/// Those that are pods; the others are told in the log and as events of the node.
fn kept(agent: &Agent, read: Vec<Result<Pod, String>>) -> Vec<Pod> {
    let mut names = BTreeMap::new();
    for result in read {
        match result {
            // Of two with one name the first counts.
            Ok(pod) => drop(names.entry((pod.metadata.namespace.clone(), pod.metadata.name.clone())).or_insert(pod)),
            Err(fault) => {
                tracing::error!(fault, "a static pod's manifest is of no use");
                agent.events.node(&agent.config.node_name, WARNING, "FailedStaticPod", fault);
            }
        }
    }
    names.into_values().collect()
}

async fn read_url(agent: &Agent) -> Option<Vec<Pod>> {
    let sources = &agent.config.static_pods;
    let url = sources.url.as_deref()?;
    let fetched = tokio::time::timeout(FETCH_LIMIT, http_get::fetch(url, &sources.headers, MAX_BYTES as usize)).await;
    match fetched.unwrap_or_else(|_| Err("it does not answer".into())).and_then(|body| manifests(&body, url, &agent.config.node_name)) {
        Ok(pods) => Some(kept(agent, pods.into_iter().map(Ok).collect())),
        Err(fault) => {
            tracing::warn!(url, fault, "manifests not taken, what runs goes on");
            None
        }
    }
}

/// A pod or a list of pods; one that is of no use spoils them all, as upstream has it.
fn manifests(body: &str, url: &str, node: &str) -> Result<Vec<Pod>, String> {
    let mut document: Value = serde_yaml_ng::from_str(body).map_err(|error| error.to_string())?;
    let manifests = match document.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => vec![document],
    };
    manifests.into_iter().map(|manifest| complete(manifest, "http", url, node)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_manifest_is_an_error_and_no_panic() {
        let pod = |name: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: i}}]}}}}");
        let read = |body: &str| manifests(body, "http://x", "n").map(|pods| pods.len());
        assert_eq!(read(&pod("a")), Ok(1));
        assert_eq!(read(&format!("items: [{}, {}]", pod("a"), pod("b"))), Ok(2));
        for body in ["<html>", "plain words", "[1, 2]", "", "42", &format!("items: [{}, 5]", pod("a"))] {
            assert!(read(body).is_err(), "{body:?}");
        }
    }
}
