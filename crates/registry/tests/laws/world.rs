//! A registry of sample kinds over an embedded store in a folder of its own, and short words for requests.

use crate::kinds;
use crate::lifecycle::NamespaceLifecycle;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use keles_api::{Object, Status};
use keles_registry::kind::{AnyKind, Erased};
use keles_registry::{Answer, Body, Call, Form, PatchType, Query, Registry, Request, Settings, Verb};
use keles_store::Store;
use keles_store::embedded::{Embedded, Options};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

pub struct World {
    pub registry: Arc<Registry>,
    pub store: Arc<Embedded>,
    _dir: tempfile::TempDir,
    run: tokio::task::JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.run.abort();
    }
}

pub const NOW: &str = "2026-11-21T06:00:00Z";

impl World {
    /// With namespaces `default` and `other`.
    pub async fn new() -> World {
        let w = World::empty().await;
        for ns in ["default", "other"] {
            w.req("namespaces").create(&format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{ns}"}}}}"#)).await.expect("a namespace can be made");
        }
        w
    }
    pub async fn empty() -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Embedded::open(dir.path(), Options::default()).expect("a store");
        let registry = start(store.clone()).await;
        let run = spawn(&registry);
        World { registry, store, _dir: dir, run }
    }
    /// Another API server over the same store, as after a restart.
    pub async fn restarted(&self) -> Arc<Registry> {
        let r = start(self.store.clone()).await;
        spawn(&r);
        r
    }
    pub fn req(&self, plural: &str) -> Req {
        Req::new(self.registry.clone(), plural)
    }
    pub async fn revision(&self) -> u64 {
        self.store.revision().await.expect("a revision")
    }
}

pub fn spawn(r: &Arc<Registry>) -> tokio::task::JoinHandle<()> {
    let r = r.clone();
    tokio::spawn(async move {
        r.run().await.expect("the store can be followed");
    })
}

pub async fn start(store: Arc<dyn Store>) -> Arc<Registry> {
    start_with(store, Default::default()).await
}

pub async fn start_with(store: Arc<dyn Store>, lifetimes: keles_registry::Lifetimes) -> Arc<Registry> {
    let kinds: Vec<Arc<dyn AnyKind>> = vec![
        Arc::new(Erased::<kinds::Namespace>::new()),
        Arc::new(Erased::<kinds::Config>::new()),
        Arc::new(Erased::<kinds::Pod>::new()),
        Arc::new(Erased::<kinds::Deployment>::new()),
        Arc::new(Erased::<kinds::Lease>::new()),
        Arc::new(Erased::<kinds::Event>::new()),
        Arc::new(Erased::<kinds::Foreign>::new()),
        Arc::new(Erased::<kinds::Budget>::new()),
    ];
    Registry::start(Settings { store, kinds, admission: vec![Arc::new(NamespaceLifecycle)], lifetimes }).await.expect("a registry")
}

/// A request being put together.
#[derive(Clone)]
pub struct Req {
    registry: Arc<Registry>,
    pub call: Call,
}

impl Req {
    pub fn new(registry: Arc<Registry>, plural: &str) -> Req {
        let group = match plural {
            "deployments" => "apps",
            "leases" => "coordination.k8s.io",
            "poddisruptionbudgets" => "policy",
            _ => "",
        };
        let namespace = if plural == "namespaces" { "" } else { "default" };
        let request = Request { group: group.into(), version: "v1".into(), plural: plural.into(), namespace: namespace.into(), now: NOW.into(), ..Request::default() };
        Req { registry, call: Call { request, ..Call::default() } }
    }
    pub fn ns(mut self, ns: &str) -> Req {
        self.call.request.namespace = ns.into();
        self
    }
    pub fn group(mut self, group: &str) -> Req {
        self.call.request.group = group.into();
        self
    }
    pub fn named(mut self, name: &str) -> Req {
        self.call.request.name = name.into();
        self
    }
    pub fn sub(mut self, sub: &str) -> Req {
        self.call.request.subresource = sub.into();
        self
    }
    pub fn query(mut self, q: &str) -> Req {
        self.call.query = Query::parse(q);
        self
    }
    pub fn form(mut self, f: Form) -> Req {
        self.call.form = f;
        self
    }
    pub async fn serve(self, verb: Verb) -> Result<Answer, Status> {
        self.registry.clone().serve(verb, self.call).await
    }
    async fn json(self, verb: Verb) -> Result<Value, Status> {
        let a = self.serve(verb).await?;
        Ok(serde_json::from_slice(&a.body.collect()).expect("answers are JSON"))
    }
    fn body(mut self, body: &str) -> Req {
        self.call.body = Bytes::from(body.to_owned());
        self
    }
    pub async fn create_answer(self, body: &str) -> Result<Answer, Status> {
        self.body(body).serve(Verb::Create).await
    }
    pub async fn create(self, body: &str) -> Result<Object, Status> {
        self.body(body).json(Verb::Create).await.map(Object)
    }
    pub async fn put(self, o: &Object) -> Result<Object, Status> {
        self.body(&o.0.to_string()).json(Verb::Update).await.map(Object)
    }
    pub async fn patch(mut self, t: PatchType, body: &str) -> Result<Object, Status> {
        self.call.patch_type = Some(t);
        self.body(body).json(Verb::Patch).await.map(Object)
    }
    pub async fn merge(self, body: &str) -> Result<Object, Status> {
        self.patch(PatchType::Merge, body).await
    }
    pub async fn get(self) -> Result<Object, Status> {
        self.json(Verb::Get).await.map(Object)
    }
    pub async fn delete(self, options: &str) -> Result<Object, Status> {
        self.body(options).json(Verb::Delete).await.map(Object)
    }
    pub async fn delete_all(self, options: &str) -> Result<Value, Status> {
        self.body(options).json(Verb::DeleteCollection).await
    }
    pub async fn list(self) -> Result<Value, Status> {
        self.json(Verb::List).await
    }
    pub async fn watch(self) -> Watch {
        match self.serve(Verb::Watch).await.expect("a watch").body {
            Body::Watch(lines) => Watch { lines, rest: Vec::new() },
            _ => panic!("a watch answers with a stream"),
        }
    }
}

/// An open watch, read line by line.
pub struct Watch {
    lines: BoxStream<'static, Bytes>,
    rest: Vec<Value>,
}

/// Nothing is expected to come for this long.
const QUIET: Duration = Duration::from_millis(80);
/// What must come comes within this.
const PATIENCE: Duration = Duration::from_secs(60);

impl Watch {
    async fn fill(&mut self) -> bool {
        while self.rest.is_empty() {
            let Some(piece) = self.lines.next().await else { return false };
            let lines = piece.split(|b| *b == b'\n').filter(|l| !l.is_empty());
            self.rest = lines.map(|l| serde_json::from_slice(l).expect("a line is JSON")).collect();
        }
        true
    }
    /// The next event; `None` when the watch has ended.
    pub async fn next(&mut self) -> Option<Value> {
        let more = tokio::time::timeout(PATIENCE, self.fill()).await.expect("an event was to come");
        more.then(|| self.rest.remove(0))
    }
    /// The next event in short: `ADDED default/a@7 x` (the last word is `data.t`, or the annotation that ends initial events).
    pub async fn short(&mut self) -> String {
        let Some(e) = self.next().await else { return "END".into() };
        let o = Object(e["object"].clone());
        let text = o.str_at(&["data", "t"]);
        let end = if o.annotation("k8s.io/initial-events-end") == Some("true") { "end-of-initial" } else { "" };
        format!("{} {} {text}{end}", e["type"].as_str().unwrap_or(""), o.name()).trim().to_owned()
    }
    pub async fn shorts(&mut self, n: usize) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..n {
            all.push(self.short().await);
        }
        all
    }
    pub async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(QUIET, self.fill()).await.is_err()
    }
}

pub fn config(name: &str, text: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"t":"{text}"}}}},"data":{{"t":"{text}"}}}}"#)
}
pub fn pod(name: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"containers":[{{"name":"c","image":"i"}}]}}}}"#)
}
pub fn deployment(name: &str) -> String {
    let mut o = <kinds::Deployment as keles_registry::Kind>::example();
    o.set_meta("name", name);
    o.0.to_string()
}
pub fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().into_iter().flatten().map(|o| o["metadata"]["name"].as_str().unwrap_or("").to_owned()).collect()
}
pub fn rv(o: &Object) -> u64 {
    o.resource_version().parse().expect("a resourceVersion is a number")
}
