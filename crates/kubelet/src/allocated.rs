//! What resources each pod of the node was given, kept from its admission on over restarts of the agent (upstream's `allocated_pods_state`): a spec that
//! changed while no agent ran is a resize like any other (KEP-1287).
//!
//! Entry points: [`Allocated::open`], [`Allocated::set`], [`Allocated::kept`]. Invariant: once [`Allocated::kept`] returns well, all that was set before is
//! on the disk; pods that come at once share a write. What containers run with is in their pod's folder (`pod_worker::resizing`).

use crate::machine::resize::{self, Amounts, POD};
use crate::placement::checkpoint;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub const FILE: &str = "allocated_pods_state";

#[derive(Debug, thiserror::Error)]
#[error("could not restore state from checkpoint: {source}, please drain this node and delete pod resource information checkpoint file {path:?} before restarting the agent")]
pub struct AllocatedError {
    path: String,
    source: FileError,
}

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Read(#[from] std::io::Error),
    #[error(transparent)]
    Form(#[from] serde_json::Error),
    #[error("checkpoint is corrupted: checksum {written}, counted {counted}")]
    Corrupted { written: u64, counted: u64 },
}

#[derive(Serialize, Deserialize)]
struct File {
    /// [`Data`].
    data: String,
    checksum: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Data {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    container_resources: Option<BTreeMap<String, ResourceRequirements>>,
    #[serde(default)]
    pod_level_resources: Option<ResourceRequirements>,
}

impl From<&Amounts> for Entry {
    fn from(amounts: &Amounts) -> Self {
        let containers = amounts.iter().filter(|(name, _)| *name != POD).map(|(name, amount)| (name.clone(), amount.clone())).collect();
        let whole = amounts.get(POD).filter(|whole| **whole != ResourceRequirements::default());
        Self { container_resources: Some(containers), pod_level_resources: whole.cloned() }
    }
}

impl From<Entry> for Amounts {
    fn from(entry: Entry) -> Self {
        entry.container_resources.into_iter().flatten().chain([(POD.to_owned(), entry.pod_level_resources.unwrap_or_default())]).collect()
    }
}

/// As Go's spew prints a string, which is what upstream's checksum is of.
fn checksum(data: &str) -> u64 {
    checkpoint::checksum(&format!("(string){data}"))
}

#[derive(Default)]
struct State {
    /// By uid.
    pods: BTreeMap<String, Amounts>,
    /// Counts up with each change that must be kept.
    changes: u64,
}

pub struct Allocated {
    path: PathBuf,
    state: Mutex<State>,
    /// Up to which change is written; one writes at a time.
    written: tokio::sync::Mutex<u64>,
}

impl Allocated {
    /// Reads what an earlier run gave; a damaged file is refused, as what containers have would be taken for something else.
    pub fn open(folder: &Path) -> Result<Self, AllocatedError> {
        let path = folder.join(FILE);
        let pods = read(&path).map_err(|source| AllocatedError { path: path.display().to_string(), source })?;
        Ok(Self { path, state: Mutex::new(State { pods, changes: 0 }), written: tokio::sync::Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pod was given, for the containers that it has now; `None`: it was never admitted.
    pub fn get(&self, pod: &Pod) -> Option<Amounts> {
        let kept = self.state().pods.get(pod.metadata.uid.as_deref().unwrap_or_default())?.clone();
        let mut amounts = resize::wanted(pod);
        for (name, amount) in kept {
            if let Some(own) = amounts.get_mut(&name) {
                *own = amount;
            }
        }
        Some(amounts)
    }

    /// The pod with what it was given.
    pub fn applied(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.get(pod) {
            Some(amounts) if amounts != resize::wanted(pod) => Arc::new(resize::given(pod, &amounts)),
            _ => pod.clone(),
        }
    }

    /// On the disk after the next [`Allocated::kept`].
    pub fn set(&self, uid: &str, amounts: &Amounts) {
        let mut state = self.state();
        if state.pods.get(uid) != Some(amounts) {
            state.pods.insert(uid.to_owned(), amounts.clone());
            state.changes += 1;
        }
    }

    /// The pod is over. The file says so with the next change (upstream's rule): an entry too many does no harm.
    pub fn remove(&self, uid: &str) {
        self.state().pods.remove(uid);
    }

    /// All pods but these are over.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.state().pods.retain(|uid, _| uids.contains(uid));
    }

    /// Writes what was set since the last time; says in the log when that fails, as the pods run all the same.
    pub async fn kept(&self) {
        if self.state().changes == 0 {
            return;
        }
        let mut written = self.written.lock().await;
        let (changes, data) = {
            let state = self.state();
            if *written >= state.changes {
                return;
            }
            (state.changes, Data { entries: state.pods.iter().map(|(uid, amounts)| (uid.clone(), amounts.into())).collect() })
        };
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || checkpoint::write(&path, &encode(&data)?)).await;
        match done.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(()) => *written = changes,
            Err(error) => tracing::warn!(%error, path = %self.path.display(), "what pods were given is not kept; a resize while no agent runs would not be seen"),
        }
    }
}

fn encode(data: &Data) -> std::io::Result<Vec<u8>> {
    let data = serde_json::to_string(data).map_err(std::io::Error::other)?;
    serde_json::to_vec(&File { checksum: checksum(&data), data }).map_err(std::io::Error::other)
}

fn read(path: &Path) -> Result<BTreeMap<String, Amounts>, FileError> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text?,
    };
    let File { data, checksum: written } = serde_json::from_slice(&text)?;
    let counted = checksum(&data);
    if written != counted {
        return Err(FileError::Corrupted { written, counted });
    }
    let data: Data = serde_json::from_str(&data)?;
    Ok(data.entries.into_iter().map(|(uid, entry)| (uid, entry.into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, cpu: &str) -> Arc<Pod> {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": [container]}})).expect("a pod"))
    }

    fn cpu(pod: &Pod) -> String {
        let resources = pod.spec.as_ref().expect("a spec").containers[0].resources.clone().expect("resources");
        resources.requests.expect("requests")["cpu"].0.clone()
    }

    /// Checksums as upstream's agent counts them: this file is one of its own.
    #[test]
    fn a_file_of_upstreams_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = r#"{"data":"{\"entries\":{\"pod1\":{\"ContainerResources\":{\"container1\":{\"requests\":{\"cpu\":\"1Ki\",\"memory\":\"1Ki\"}}}}}}","checksum":1178570812}"#;
        std::fs::write(folder.path().join(FILE), text).expect("written");
        let kept = Allocated::open(folder.path()).expect("whole");
        let amounts = kept.state().pods["pod1"].clone();
        assert_eq!(json!(amounts), json!({"": {}, "container1": {"requests": {"cpu": "1Ki", "memory": "1Ki"}}}));
    }

    #[tokio::test]
    async fn what_was_given_is_found_by_the_next_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = Allocated::open(folder.path()).expect("nothing yet");
        let (a, b) = (pod("a", "1"), pod("b", "2"));
        assert_eq!(kept.get(&a), None);
        for pod in [&a, &b] {
            kept.set(pod.metadata.uid.as_deref().expect("a uid"), &resize::wanted(pod));
        }
        tokio::join!(kept.kept(), kept.kept());
        let next = Allocated::open(folder.path()).expect("whole");
        assert_eq!(cpu(&next.applied(&pod("a", "3"))), "1", "the spec has changed meanwhile");
        assert!(Arc::ptr_eq(&next.applied(&b), &b), "nothing has changed");
        next.retain(&["a".to_owned()].into());
        next.set("c", &resize::wanted(&pod("c", "1")));
        next.kept().await;
        let last = Allocated::open(folder.path()).expect("whole");
        assert_eq!((last.get(&b), last.get(&a).is_some(), last.get(&pod("c", "1")).is_some()), (None, true, true));
        last.remove("a");
        assert_eq!(last.get(&a), None);
    }

    #[test]
    fn a_damaged_file_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(FILE), r#"{"data":"{\"entries\":{}}","checksum":1}"#).expect("written");
        let error = Allocated::open(folder.path()).err().expect("damaged").to_string();
        assert!(error.contains("checkpoint is corrupted") && error.contains("please drain this node and delete"), "{error}");
    }
}
