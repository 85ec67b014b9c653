//! Aggregation: APIServices, those that this server serves itself and those that a Service in the cluster serves.
//!
//! Entry points: [`Aggregation::open`], [`Aggregation::run`] (keeps APIServices in line), [`Aggregation::find`] (where a path leads),
//! [`proxy::serve`]. Invariants: a request reaches another server only after authentication, authorization and with this server's
//! front-proxy certificate; what the caller says of itself in `X-Remote-*` never does. The state follows from the APIService objects
//! alone; a watch on them, on Services and on EndpointSlices wakes what has to be looked at again.
//! Deliberately absent: an APIService of the core group (`v1.`) that is served elsewhere.

mod availability;
pub mod backend;
pub mod documents;
pub mod local;
pub mod priorities;
pub mod proxy;
mod registration;

use crate::server::Inner;
use backend::{Remote, Spec};
use keles_api::Object;
use keles_pki::{Certified, PkiError};
use keles_registry::Follow;
use local::{LOCALS, Local};
use registration::Registrar;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub const GROUP: &str = "apiregistration.k8s.io";
pub const PLURAL: &str = "apiservices";
/// How long a failed pass waits for the next.
const RETRY: Duration = Duration::from_secs(1);

pub type GroupVersion = (String, String);

/// What is known of APIServices, for the request path and the documents.
pub struct Aggregation {
    pub identity: backend::Identity,
    state: RwLock<Arc<State>>,
}

#[derive(Default)]
pub struct State {
    /// Served elsewhere.
    pub remotes: BTreeMap<GroupVersion, Arc<Remote>>,
    /// Served by a handler of this server's own, as no APIService names a Service for it.
    pub locals: BTreeMap<GroupVersion, &'static Local>,
    /// Where APIServices say something else than [`priorities`].
    pub priorities: HashMap<GroupVersion, (i64, i64)>,
}

impl State {
    /// Before any APIService is known.
    fn first() -> State {
        let locals = LOCALS.iter().map(|l| ((l.group.to_owned(), l.version.to_owned()), l)).collect();
        State { locals, ..State::default() }
    }
}

/// An APIService as it was last read.
struct Known {
    revision: u64,
    object: Arc<Object>,
}

impl Aggregation {
    /// `identity` is shown to other servers.
    pub fn open(identity: &Certified) -> Result<Arc<Aggregation>, PkiError> {
        Ok(Arc::new(Aggregation { identity: backend::Identity::new(identity), state: RwLock::new(Arc::new(State::first())) }))
    }

    pub fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Who serves a path below `/apis/GROUP/VERSION`, when it is not this server.
    pub fn find(&self, path: &str) -> Option<Arc<Remote>> {
        let state = self.state();
        if state.remotes.is_empty() {
            return None;
        }
        let (group, version) = group_version(path)?;
        state.remotes.get(&(group.to_owned(), version.to_owned())).cloned()
    }

    /// The handler of a path below `/apis/GROUP/VERSION`, where it is not that of stored kinds.
    pub fn find_local(&self, path: &str) -> Option<&'static Local> {
        let asked = group_version(path)?;
        self.state().locals.values().find(|l| (l.group, l.version) == asked).copied()
    }

    /// Keeps everything in line with the APIServices until the server stops.
    pub async fn run(server: Arc<Inner>) {
        let registry = server.registry.clone();
        let mut changes = Follow::new(&registry, &[(GROUP, PLURAL)], RETRY).and(registry.kinds_changed());
        let mut known: HashMap<Arc<str>, Known> = HashMap::new();
        let mut registrar = Registrar::default();
        let followers = Followers::default();
        loop {
            let all = registry.peek_all(GROUP, PLURAL);
            known.retain(|key, _| all.contains_key(key));
            for (key, o) in &all {
                if known.get(key).is_none_or(|k| k.revision != o.revision) {
                    known.insert(key.clone(), Known { revision: o.revision, object: Arc::new(o.tree()) });
                }
            }
            server.aggregation.follow(&server, &known, &followers);
            let done = registrar.pass(&server, known.values().map(|k| k.object.as_ref())).await;
            let Some(true) = server.stops.run_until_cancelled(changes.next(!done)).await else { return };
        }
    }

    /// Makes the state anew and starts and ends the watching of remote servers.
    fn follow(&self, server: &Arc<Inner>, known: &HashMap<Arc<str>, Known>, followers: &Followers) {
        let before = self.state();
        let mut state = State::first();
        for k in known.values() {
            let o = &k.object;
            let (group, version) = (o.str_at(&["spec", "group"]).to_owned(), o.str_at(&["spec", "version"]).to_owned());
            let number = |name: &str| o.at(&["spec", name]).as_i64().unwrap_or_default();
            let own = (number("groupPriorityMinimum"), number("versionPriority"));
            if own != priorities::of(&group, &version) {
                state.priorities.insert((group.clone(), version.clone()), own);
            }
            let Some(spec) = Spec::read(o).filter(|_| !group.is_empty()) else { continue };
            let key = (group, version);
            let remote = match before.remotes.get(&key) {
                Some(there) if there.spec == spec => there.clone(),
                _ => Arc::new(Remote::new(spec, is_available(o), &self.identity)),
            };
            state.remotes.insert(key, remote);
        }
        state.locals.retain(|key, _| !state.remotes.contains_key(key));
        let same = state.priorities == before.priorities
            && state.locals.len() == before.locals.len()
            && state.remotes.len() == before.remotes.len()
            && state.remotes.iter().all(|(key, r)| before.remotes.get(key).is_some_and(|b| Arc::ptr_eq(b, r)));
        if same {
            return;
        }
        let state = Arc::new(state);
        *self.state.write().unwrap_or_else(|e| e.into_inner()) = state.clone();
        followers.set(server, &state);
        server.registry.touch_kinds();
    }
}

fn group_version(path: &str) -> Option<(&str, &str)> {
    let mut parts = path.strip_prefix("/apis/")?.splitn(3, '/');
    Some((parts.next()?, parts.next()?))
}

/// The tasks that watch remote servers; they end with this.
#[derive(Default)]
struct Followers {
    running: Mutex<HashMap<GroupVersion, (Arc<Remote>, CancellationToken)>>,
}

impl Followers {
    fn set(&self, server: &Arc<Inner>, state: &State) {
        let mut running = self.running.lock().unwrap_or_else(|e| e.into_inner());
        running.retain(|key, (remote, stop)| {
            let stays = state.remotes.get(key).is_some_and(|r| Arc::ptr_eq(r, remote));
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (key, remote) in &state.remotes {
            if !running.contains_key(key) {
                let stop = server.stops.child_token();
                tokio::spawn(availability::follow(server.clone(), remote.clone(), stop.clone()));
                running.insert(key.clone(), (remote.clone(), stop));
            }
        }
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        for (_, stop) in self.running.lock().unwrap_or_else(|e| e.into_inner()).values() {
            stop.cancel();
        }
    }
}

/// The condition `Available` of an APIService.
fn available_condition(o: &Object) -> Option<&Value> {
    o.at(&["status", "conditions"]).as_array()?.iter().find(|c| c["type"] == "Available")
}

fn is_available(o: &Object) -> bool {
    available_condition(o).is_some_and(|c| c["status"] == "True")
}
