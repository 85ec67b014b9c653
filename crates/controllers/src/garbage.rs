//! The garbage collector: dependents of owners that are gone, in the background, in the foreground, or orphaned instead.
//!
//! A graph of who owns whom is kept from metadata-only watches of every deletable kind that discovery names; custom kinds join when their
//! definition appears. The graph only says where to look: before anything is deleted, object and owners are read again, by uid (lesson 127).
//! Keys of the queue: `check/UID` (is an owner missing?), `orphan/UID` (its dependents are to be kept), `sync/` (discovery changed).

mod graph;

use crate::Start;
use crate::discovery::{Resource, discover};
use crate::slim::Slim;
use graph::{Graph, Node, Todo};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use keles_client::{Change, Informer, MetadataOnly, ObjectKey, Options, Scope};
use keles_reconcile::{Context, Controller, Outcome, Queue, ReconcileError, Watches};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::Request;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const CHECK: &str = "check";
const ORPHAN: &str = "orphan";
const SYNC: &str = "sync";
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";
pub const ORPHAN_FINALIZER: &str = "orphan";
/// Written often, owned by nobody, own nothing.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];
/// Their changes change what discovery says.
const SYNC_PATHS: [&str; 2] = ["/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/apis/apiregistration.k8s.io/v1/apiservices"];

const SYNC_PATIENCE: Duration = Duration::from_secs(30);

pub struct GarbageCollector {
    /// Reads and watches, as the shared caches do.
    reader: kube::Client,
    writer: kube::Client,
    graph: Arc<Mutex<Graph>>,
    monitors: tokio::sync::Mutex<HashMap<Arc<Resource>, Informer<Slim>>>,
    complete: tokio::sync::watch::Sender<bool>,
    definitions: Vec<Informer<Slim>>,
    shutdown: CancellationToken,
}

impl GarbageCollector {
    pub fn new(start: &Start) -> Self {
        let watch = |path: &&str| Informer::start(start.client.clone(), path, &Scope::all(), Options::default(), start.shutdown.child_token());
        GarbageCollector {
            reader: start.client.clone(),
            writer: start.client.clone(),
            graph: Arc::default(),
            monitors: tokio::sync::Mutex::default(),
            complete: tokio::sync::watch::channel(false).0,
            definitions: SYNC_PATHS.iter().map(watch).collect(),
            shutdown: start.shutdown.clone(),
        }
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches exactly the resources that there are now.
    async fn sync(&self, queue: &Queue<ObjectKey>) -> Result<(), ReconcileError> {
        let found = discover(&self.reader).await.map_err(ReconcileError::read("reading what resources there are"))?;
        let wanted =
            found.resources.into_iter().filter(|r| ["delete", "list", "watch"].iter().all(|verb| r.can(verb)) && !IGNORED.contains(&(r.group.as_str(), r.plural.as_str())));
        let wanted: Vec<Arc<Resource>> = wanted.map(Arc::new).collect();
        let mut monitors = self.monitors.lock().await;
        monitors.retain(|resource, informer| {
            let stays = wanted.contains(resource) || found.stale.iter().any(|version| *version == format!("{}/{}", resource.group, resource.version));
            if !stays {
                informer.stop();
                self.graph().forget_resource(resource);
            }
            stays
        });
        for resource in wanted {
            monitors.entry(resource.clone()).or_insert_with(|| self.monitor(resource, queue));
        }
        self.graph().set_resources(monitors.keys().cloned());
        let synced: Vec<Informer<Slim>> = monitors.values().cloned().collect();
        drop(monitors);
        // A resource whose server is down must not hold up the others; owners are read again before anything is deleted.
        let all = futures::future::join_all(synced.iter().map(Informer::synced));
        if tokio::time::timeout(SYNC_PATIENCE, all).await.is_err() {
            tracing::warn!("some resources could not be listed, collecting garbage without them");
        }
        self.complete.send_replace(true);
        Ok(())
    }
    fn monitor(&self, resource: Arc<Resource>, queue: &Queue<ObjectKey>) -> Informer<Slim> {
        let informer = Informer::start(self.reader.clone(), &resource.path(""), &Scope::all(), Options::default(), self.shutdown.child_token());
        let (graph, queue) = (self.graph.clone(), queue.clone());
        informer.on_change(move |change: &Change<Slim>| {
            let mut graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
            let todo = match change {
                Change::Deleted(object) => graph.remove(&object.metadata),
                _ => graph.set(&resource, &change.object().metadata),
            };
            drop(graph);
            for todo in todo {
                queue.add(key_of(&todo));
            }
        });
        informer
    }

    /// The object's metadata as the server holds it, unless it is gone or another one.
    async fn live(&self, resource: &Resource, namespace: &str, name: &str, uid: &str) -> Result<Option<MetadataOnly>, ReconcileError> {
        let request = Request::new(resource.path(namespace)).get_metadata(name, &Default::default()).map_err(kube::Error::BuildRequest);
        let answer = match request {
            Ok(request) => self.reader.request::<MetadataOnly>(request).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(object) if object.metadata.uid.as_deref() == Some(uid) => Ok(Some(object)),
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(ReconcileError::read(format!("reading {} {namespace}/{name}", resource.name()))(error)),
        }
    }

    /// Whether each owner stands, waits for its dependents to go, or is gone.
    async fn classify(&self, node: &Node, owners: &[OwnerReference]) -> Result<Owners, ReconcileError> {
        let mut sorted = Owners::default();
        for owner in owners {
            let held = self.graph().get(&owner.uid).map(|held| (held.waits_for_dependents, held.resource.namespaced && held.namespace != node.namespace));
            let standing = match held {
                // A namespaced owner elsewhere cannot be one.
                Some((_, true)) => None,
                Some((waits, false)) => Some(waits),
                None => self.look_up(node, owner).await?,
            };
            match standing {
                Some(true) => sorted.waiting.push(owner.uid.clone()),
                Some(false) => sorted.solid = true,
                None => sorted.dangling.push(owner.uid.clone()),
            }
        }
        Ok(sorted)
    }
    /// Reads an owner that the graph does not know: `Some(waits for dependents)`, or `None` when it is gone for sure.
    async fn look_up(&self, node: &Node, owner: &OwnerReference) -> Result<Option<bool>, ReconcileError> {
        let resource = self.graph().resource_of(owner);
        let Some(resource) = resource else {
            let problem = format!("no resource is known for owner {} {}", owner.api_version, owner.kind);
            return Err(ReconcileError::Object { object: ObjectKey::new(&node.namespace, &node.name), problem });
        };
        if resource.namespaced && node.namespace.is_empty() {
            return Ok(Some(false)); // A cluster-scoped object with a namespaced owner is invalid; upstream leaves it alone too.
        }
        let namespace = if resource.namespaced { node.namespace.as_str() } else { "" };
        let live = self.live(&resource, namespace, &owner.name, &owner.uid).await?;
        Ok(live.map(|object| graph::waits_for_dependents(&object.metadata)))
    }

    async fn check(&self, uid: &str) -> Result<(), ReconcileError> {
        let Some(node) = self.graph().get(uid).cloned() else { return Ok(()) };
        if node.waits_for_dependents {
            return self.finish_foreground(&node).await;
        }
        if node.being_deleted || node.owners.is_empty() || self.graph().owners_stand(&node) {
            return Ok(());
        }
        let Some(live) = self.live(&node.resource, &node.namespace, &node.name, uid).await? else { return Ok(()) };
        let owners = live.metadata.owner_references.clone().unwrap_or_default();
        if live.metadata.deletion_timestamp.is_some() || owners.is_empty() {
            return Ok(());
        }
        let sorted = self.classify(&node, &owners).await?;
        if sorted.solid {
            let gone: Vec<&String> = sorted.dangling.iter().chain(&sorted.waiting).collect();
            return if gone.is_empty() { Ok(()) } else { self.drop_owners(&node, &gone).await };
        }
        let waits = !sorted.waiting.is_empty() && self.graph().has_dependents(uid);
        self.delete(&node, &live, waits).await
    }
    /// Deletes a dependent whose owners are all gone or going. One that has dependents itself, under an owner that waits, goes in the foreground too.
    async fn delete(&self, node: &Node, live: &MetadataOnly, foreground: bool) -> Result<(), ReconcileError> {
        let finalizers = live.metadata.finalizers.clone().unwrap_or_default();
        let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
        let policy = match (foreground || has(FOREGROUND_FINALIZER), has(ORPHAN_FINALIZER)) {
            (_, true) => PropagationPolicy::Orphan,
            (true, _) => PropagationPolicy::Foreground,
            _ => PropagationPolicy::Background,
        };
        let preconditions = Preconditions { uid: live.metadata.uid.clone(), resource_version: live.metadata.resource_version.clone() };
        let params = DeleteParams { propagation_policy: Some(policy), preconditions: Some(preconditions), ..Default::default() };
        let request = Request::new(node.resource.path(&node.namespace)).delete(&node.name, &params);
        tracing::debug!(object = %format!("{} {}/{}", node.resource.name(), node.namespace, node.name), "its owners are gone, deleting");
        self.write(node, request).await
    }
    /// An owner deleted in the foreground goes when no dependent that blocks it is left.
    async fn finish_foreground(&self, node: &Node) -> Result<(), ReconcileError> {
        let blocking = self.graph().blocking_dependents(&node.uid);
        if blocking.is_empty() {
            return self.remove_finalizer(node, FOREGROUND_FINALIZER).await;
        }
        for uid in blocking {
            Box::pin(self.check(&uid)).await?;
        }
        Ok(())
    }
    /// Takes the owner out of every dependent's references, then lets the owner go (only then, so that none is collected).
    async fn orphan(&self, uid: &str) -> Result<(), ReconcileError> {
        let (node, dependents) = {
            let graph = self.graph();
            let Some(node) = graph.get(uid).cloned() else { return Ok(()) };
            (node, graph.dependents(uid))
        };
        for dependent in dependents {
            self.drop_owners(&dependent, &[&node.uid]).await?;
        }
        self.remove_finalizer(&node, ORPHAN_FINALIZER).await
    }

    async fn drop_owners(&self, node: &Node, uids: &[&String]) -> Result<(), ReconcileError> {
        let Some(live) = self.live(&node.resource, &node.namespace, &node.name, &node.uid).await? else { return Ok(()) };
        let mut owners = live.metadata.owner_references.clone().unwrap_or_default();
        owners.retain(|owner| !uids.contains(&&owner.uid));
        self.patch_metadata(node, &live, json!({"ownerReferences": owners})).await
    }
    async fn remove_finalizer(&self, node: &Node, finalizer: &str) -> Result<(), ReconcileError> {
        let Some(live) = self.live(&node.resource, &node.namespace, &node.name, &node.uid).await? else { return Ok(()) };
        let mut finalizers = live.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|held| held == finalizer) {
            return Ok(());
        }
        finalizers.retain(|held| held != finalizer);
        self.patch_metadata(node, &live, json!({"finalizers": finalizers})).await
    }
    /// A merge patch (custom resources know no other), guarded by the revision that was read.
    async fn patch_metadata(&self, node: &Node, live: &MetadataOnly, mut fields: serde_json::Value) -> Result<(), ReconcileError> {
        fields["resourceVersion"] = json!(live.metadata.resource_version);
        fields["uid"] = json!(live.metadata.uid);
        let patch = Patch::Merge(json!({"metadata": fields}));
        let request = Request::new(node.resource.path(&node.namespace)).patch(&node.name, &PatchParams::default(), &patch);
        self.write(node, request).await
    }
    async fn write(&self, node: &Node, request: Result<http::Request<Vec<u8>>, kube::core::request::Error>) -> Result<(), ReconcileError> {
        let result = match request.map_err(kube::Error::BuildRequest) {
            Ok(request) => self.writer.request::<serde_json::Value>(request).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(ReconcileError::read(format!("collecting {} {}/{}", node.resource.name(), node.namespace, node.name))(error)),
        }
    }
}

#[derive(Default)]
struct Owners {
    solid: bool,
    waiting: Vec<String>,
    dangling: Vec<String>,
}

fn key_of(todo: &Todo) -> ObjectKey {
    match todo {
        Todo::Check(uid) => ObjectKey::new(CHECK, uid),
        Todo::Orphan(uid) => ObjectKey::new(ORPHAN, uid),
    }
}

impl Controller for GarbageCollector {
    const NAME: &'static str = "garbage-collector-controller";
    const WORKERS: usize = 20;

    fn watches(&self, watches: &mut Watches) {
        watches.at_start(ObjectKey::new(SYNC, ""));
        for definitions in &self.definitions {
            watches.on(definitions, |_, queue| queue.add(ObjectKey::new(SYNC, "")));
        }
    }

    async fn reconcile(&self, key: &ObjectKey, context: &Context) -> Result<Outcome, ReconcileError> {
        if key.namespace == SYNC {
            return self.sync(&context.queue).await.map(|()| Outcome::Done);
        }
        // An owner may be in a cache that is not complete yet.
        let mut complete = self.complete.subscribe();
        if self.shutdown.run_until_cancelled(complete.wait_for(|complete| *complete)).await.is_none() {
            return Ok(Outcome::Done);
        }
        match key.namespace.as_str() {
            ORPHAN => self.orphan(&key.name).await?,
            _ => self.check(&key.name).await?,
        }
        Ok(Outcome::Done)
    }
}
