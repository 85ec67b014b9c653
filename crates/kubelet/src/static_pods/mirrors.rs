//! The API's side of static pods: an object for each, made again when somebody deletes it, gone once its pod is.

use super::{mirror_of, shows};
use crate::agent::Agent;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Pause before what the API server refused or did not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// Namespace and name, which a static pod and its mirror share.
pub type FullName = (String, String);

pub fn full_name(pod: &Pod) -> FullName {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

/// What there is on both sides.
#[derive(Default)]
pub struct Mirrors {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    wanted: BTreeMap<FullName, Arc<Pod>>,
    /// Static pods that are being ended: their mirrors stay until they are gone.
    ending: BTreeSet<FullName>,
    shown: BTreeMap<FullName, Arc<Pod>>,
    /// The API's list of pods was read whole, and the manifests too.
    knows_all: bool,
}

impl Mirrors {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The static pods that are to run from now on.
    pub fn want(&self, pods: &[Arc<Pod>]) {
        self.state().wanted = pods.iter().map(|pod| (full_name(pod), pod.clone())).collect();
        self.news.notify_one();
    }

    /// A static pod begins or has finished ending.
    pub fn set_ending(&self, name: FullName, ends: bool) {
        let mut state = self.state();
        if ends {
            state.ending.insert(name)
        } else {
            state.ending.remove(&name)
        };
        self.news.notify_one();
    }

    /// The API has or no longer has this mirror; the static pod that it shows, if it does.
    pub fn saw(&self, mirror: &Arc<Pod>, is_there: bool) -> Option<Arc<Pod>> {
        let name = full_name(mirror);
        let mut state = self.state();
        if is_there {
            state.shown.insert(name.clone(), mirror.clone());
        } else if state.shown.get(&name).is_some_and(|shown| shown.metadata.uid == mirror.metadata.uid) {
            state.shown.remove(&name);
        }
        self.news.notify_one();
        state.wanted.get(&name).filter(|pod| is_there && shows(mirror, pod)).cloned()
    }

    /// The mirror of a static pod.
    pub fn of(&self, pod: &Pod) -> Option<Arc<Pod>> {
        self.state().shown.get(&full_name(pod)).filter(|mirror| shows(mirror, pod)).cloned()
    }

    pub fn knows_all(&self) {
        self.state().knows_all = true;
        self.news.notify_one();
    }

    /// What is to be asked of the API now.
    fn due(&self) -> Vec<Step> {
        self.state().due()
    }
}

#[derive(Debug)]
enum Step {
    Make(Arc<Pod>),
    Remove(Arc<Pod>),
}

impl State {
    fn due(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        // The predecessor's mirror shows its end; the next comes after it.
        for (name, pod) in self.wanted.iter().filter(|(name, _)| !self.ending.contains(*name)) {
            match self.shown.get(name) {
                Some(mirror) if shows(mirror, pod) => {}
                // Another pod's, or somebody deletes it: it goes at once and comes back.
                Some(mirror) => steps.push(Step::Remove(mirror.clone())),
                None => steps.push(Step::Make(pod.clone())),
            }
        }
        let orphans = self.shown.iter().filter(|(name, _)| self.knows_all && !self.wanted.contains_key(*name) && !self.ending.contains(*name));
        steps.extend(orphans.map(|(_, mirror)| Step::Remove(mirror.clone())));
        steps
    }
}

/// Keeps the mirrors as they should be, for ever; `registered` is the node's uid once it has one.
pub async fn keep(agent: Arc<Agent>, mut registered: watch::Receiver<Option<String>>) {
    let Ok(node_uid) = registered.wait_for(Option::is_some).await.map(|uid| uid.clone().unwrap_or_default()) else { return };
    let mirrors = agent.pods.mirrors();
    let mut pause = RETRY;
    loop {
        let mut failed = false;
        for step in mirrors.due() {
            if let Err(error) = take(&agent, &step, &node_uid).await {
                tracing::info!(%error, ?step, "mirror pod not written, will be tried again");
                failed = true;
            }
        }
        if failed {
            let _ = tokio::time::timeout(pause, mirrors.news.notified()).await;
            pause = (pause * 2).min(MAX_RETRY);
        } else {
            pause = RETRY;
            mirrors.news.notified().await;
        }
    }
}

async fn take(agent: &Agent, step: &Step, node_uid: &str) -> Result<(), kube::Error> {
    let (Step::Make(pod) | Step::Remove(pod)) = step;
    let (namespace, name) = full_name(pod);
    let api: Api<Pod> = Api::namespaced(agent.client.clone(), &namespace);
    let done = match step {
        Step::Make(pod) => {
            let mirror: Pod = serde_json::from_value(mirror_of(pod, node_uid)).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &mirror).await.map(|made| {
                let _ = agent.pods.mirrors().saw(&Arc::new(made), true);
            })
        }
        Step::Remove(mirror) => {
            let preconditions = Some(Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None });
            api.delete(&name, &DeleteParams { grace_period_seconds: Some(0), preconditions, ..Default::default() }).await.map(drop)
        }
    };
    match done {
        // Gone already, or there already: the watch tells.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) && matches!(step, Step::Remove(_)) => {
            agent.pods.mirrors().saw(pod, false);
            Ok(())
        }
        done => done,
    }
}
