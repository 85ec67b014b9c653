//! The API as JSON for conformance cases: [`World`] is a namespace of its own, [`Resource`] a collection in it with every verb.
//!
//! Every method panics with what the server answered unless its name starts with `try_`.

use http::{Method, Request};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use kube::{Client, Error};
use serde_json::{Value, json};
use std::future::Future;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// How long a case waits for something that must come.
pub const SOON: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

/// What the server refused: code, reason, message.
#[derive(Debug)]
pub struct Refused {
    pub code: u16,
    pub reason: String,
    pub message: String,
}

pub type Answer = Result<Value, Refused>;

/// A case's own namespace.
#[derive(Clone)]
pub struct World {
    pub client: Client,
    pub namespace: String,
    pub node: &'static str,
}

/// A collection: `/api/v1/namespaces/x/pods`, `/apis/storage.k8s.io/v1/storageclasses`.
#[derive(Clone)]
pub struct Resource {
    client: Client,
    base: String,
}

/// Tries until `f` gives something; the last failure is in the panic's text.
pub async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, mut f: impl FnMut() -> F) -> T {
    let end = tokio::time::Instant::now() + SOON;
    loop {
        match f().await {
            Ok(v) => return v,
            Err(e) => assert!(tokio::time::Instant::now() < end, "{what}: not within {SOON:?}: {e}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn call(client: &Client, method: Method, path: &str, content_type: &str, body: Option<&Value>) -> Answer {
    let bytes = body.map(|b| serde_json::to_vec(b).expect("JSON")).unwrap_or_default();
    let request = Request::builder().method(method).uri(path).header("content-type", content_type).header("accept", "application/json").body(bytes).expect("a request");
    match client.request::<Value>(request).await {
        Ok(v) => Ok(v),
        Err(Error::Api(s)) => Err(Refused { code: s.code, reason: s.reason, message: s.message }),
        Err(e) => panic!("{path}: {e}"),
    }
}

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

impl Resource {
    fn of(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }
    pub async fn try_create(&self, object: &Value) -> Answer {
        call(&self.client, Method::POST, &self.base, JSON, Some(object)).await
    }
    pub async fn create(&self, object: &Value) -> Value {
        self.try_create(object).await.unwrap_or_else(|e| panic!("create in {}: {e:?}\n{object}", self.base))
    }
    /// `name` may go on with a subresource: `x/status`.
    pub async fn try_get(&self, name: &str) -> Answer {
        call(&self.client, Method::GET, &self.of(name), JSON, None).await
    }
    pub async fn get(&self, name: &str) -> Value {
        self.try_get(name).await.unwrap_or_else(|e| panic!("get {}: {e:?}", self.of(name)))
    }
    pub async fn try_update(&self, name: &str, object: &Value) -> Answer {
        call(&self.client, Method::PUT, &self.of(name), JSON, Some(object)).await
    }
    /// Reads, changes and writes until nobody else wrote in between, as clients do.
    pub async fn update(&self, name: &str, change: impl Fn(&mut Value)) -> Value {
        self.try_change(name, change).await.unwrap_or_else(|e| panic!("update {}: {e:?}", self.of(name)))
    }
    pub async fn try_change(&self, name: &str, change: impl Fn(&mut Value)) -> Answer {
        loop {
            let mut object = self.get(name).await;
            change(&mut object);
            match self.try_update(name, &object).await {
                Err(e) if e.reason == "Conflict" => {}
                answer => return answer,
            }
        }
    }
    pub async fn try_patch(&self, name: &str, merge: &Value) -> Answer {
        call(&self.client, Method::PATCH, &self.of(name), MERGE, Some(merge)).await
    }
    pub async fn patch(&self, name: &str, merge: Value) -> Value {
        self.try_patch(name, &merge).await.unwrap_or_else(|e| panic!("patch {}: {e:?}\n{merge}", self.of(name)))
    }
    /// A strategic merge patch.
    pub async fn patch_strategically(&self, name: &str, patch: Value) -> Value {
        let answer = call(&self.client, Method::PATCH, &self.of(name), "application/strategic-merge-patch+json", Some(&patch)).await;
        answer.unwrap_or_else(|e| panic!("patch {}: {e:?}\n{patch}", self.of(name)))
    }
    pub async fn try_delete(&self, name: &str) -> Answer {
        call(&self.client, Method::DELETE, &self.of(name), JSON, None).await
    }
    pub async fn delete(&self, name: &str) {
        self.try_delete(name).await.unwrap_or_else(|e| panic!("delete {}: {e:?}", self.of(name)));
    }
    pub async fn delete_with_grace(&self, name: &str, seconds: u32) {
        let answer = call(&self.client, Method::DELETE, &format!("{}?gracePeriodSeconds={seconds}", self.of(name)), JSON, None).await;
        answer.unwrap_or_else(|e| panic!("delete {}: {e:?}", self.of(name)));
    }
    fn selecting(&self, selector: &str) -> String {
        format!("{}?labelSelector={}", self.base, selector.replace('=', "%3D"))
    }
    pub async fn list(&self, selector: &str) -> Vec<Value> {
        let list = call(&self.client, Method::GET, &self.selecting(selector), JSON, None).await.unwrap_or_else(|e| panic!("list {}: {e:?}", self.base));
        list["items"].as_array().expect("a list").clone()
    }
    pub async fn delete_collection(&self, selector: &str) {
        let path = format!("{}&gracePeriodSeconds=1", self.selecting(selector));
        call(&self.client, Method::DELETE, &path, JSON, None).await.unwrap_or_else(|e| panic!("deletecollection {}: {e:?}", self.base));
    }
    /// What a watch from `version` tells of the objects with this label, up to `type` of `name`.
    pub async fn watch_until(&self, selector: &str, version: &str, event: &str, name: &str) -> Vec<Value> {
        use futures::{AsyncBufReadExt, TryStreamExt};
        let path = format!("{}&watch=true&resourceVersion={version}&timeoutSeconds={}", self.selecting(selector), SOON.as_secs());
        let stream = self.client.request_stream(Request::get(path).body(Vec::new()).expect("a request")).await.unwrap_or_else(|e| panic!("watch {}: {e}", self.base));
        let (mut lines, mut seen) = (Box::pin(stream).lines(), Vec::new());
        while let Some(line) = lines.try_next().await.expect("an event") {
            let e: Value = serde_json::from_str(&line).expect("JSON");
            let last = e["type"] == event && e["object"]["metadata"]["name"] == name;
            seen.push(e);
            if last {
                return seen;
            }
        }
        panic!("the watch of {} ended without {event} of {name}: {seen:?}", self.base)
    }
    pub async fn gone(&self, name: &str) {
        eventually(&format!("the end of {}", self.of(name)), || async {
            match self.try_get(name).await {
                Err(e) if e.reason == "NotFound" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    /// Waits until the object is as `f` says; `f` tells what is missing by `false`.
    pub async fn becomes(&self, name: &str, what: &str, f: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{} {what}", self.of(name)), || async {
            let object = self.get(name).await;
            if f(&object) { Ok(object) } else { Err(object["status"].to_string()) }
        })
        .await
    }
    pub async fn phase(&self, name: &str, phase: &str) -> Value {
        self.becomes(name, phase, |p| p["status"]["phase"] == phase).await
    }
    pub async fn ready(&self, name: &str) -> Value {
        self.becomes(name, "Ready", |p| condition(p, "Ready")["status"] == "True").await
    }
}

/// The condition of this type, or null.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    object["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

/// A busybox container named `c` that runs a script.
pub fn shell(script: &str) -> Value {
    json!({"name": "c", "image": crate::WEB, "command": ["sh", "-c", script]})
}

/// Puts the fields of `more` over those of `object`.
pub fn with(mut object: Value, more: Value) -> Value {
    let (Value::Object(into), Value::Object(from)) = (&mut object, more) else { panic!("two objects") };
    into.extend(from);
    object
}

/// What keeps a pod on the one node while a case taints it.
pub fn stays() -> Value {
    json!([{"operator": "Exists", "effect": "NoExecute"}])
}

impl World {
    /// `v1/pods`, `apps/v1/deployments` of the case's namespace.
    pub fn of(&self, path: &str) -> Resource {
        let (version, resource) = path.rsplit_once('/').expect("version/resource");
        let root = if version == "v1" { "/api" } else { "/apis" };
        Resource { client: self.client.clone(), base: format!("{root}/{version}/namespaces/{}/{resource}", self.namespace) }
    }
    /// The same of the whole cluster.
    pub fn cluster(&self, path: &str) -> Resource {
        let root = if path.starts_with("v1/") { "/api" } else { "/apis" };
        Resource { client: self.client.clone(), base: format!("{root}/{path}") }
    }
    pub fn pods(&self) -> Resource {
        self.of("v1/pods")
    }
    pub async fn raw(&self, path: &str) -> Value {
        call(&self.client, Method::GET, path, JSON, None).await.unwrap_or_else(|e| panic!("{path}: {e:?}"))
    }
    /// Creates a pod of this spec; what is not said: it never restarts, gets no token, ends within a second and stays on a tainted node.
    pub async fn pod(&self, name: &str, spec: Value) -> Value {
        self.labelled_pod(name, json!({}), spec).await
    }
    pub async fn labelled_pod(&self, name: &str, metadata: Value, spec: Value) -> Value {
        let base = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false, "enableServiceLinks": false,
            "tolerations": stays()});
        self.pods().create(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": with(json!({"name": name}), metadata), "spec": with(base, spec)})).await
    }
    /// Runs a pod to its success; the log of its first container.
    pub async fn output(&self, spec: Value) -> String {
        self.pod("p", spec).await;
        self.succeeds("p").await;
        self.log("p", "").await
    }
    pub async fn succeeds(&self, name: &str) -> Value {
        let ended = self.pods().becomes(name, "ended", |p| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))).await;
        if ended["status"]["phase"] != "Succeeded" {
            panic!("{name} failed: {}\nlog: {}", ended["status"], self.log(name, "").await);
        }
        ended
    }
    /// The log of the container, or of the first.
    pub async fn log(&self, pod: &str, container: &str) -> String {
        let container =
            if container.is_empty() { self.pods().get(pod).await["spec"]["containers"][0]["name"].as_str().expect("a container").to_owned() } else { container.to_owned() };
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/log?container={container}", self.namespace);
        self.client.request_text(Request::get(path).body(Vec::new()).expect("a request")).await.unwrap_or_else(|e| panic!("log of {pod}: {e}"))
    }
    /// Standard output and standard error of a command in a running container.
    pub async fn exec(&self, pod: &str, container: &str, argv: &[&str]) -> String {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = AttachParams { container: Some(container.into()), ..AttachParams::default() };
        let mut ran = pods.exec(pod, argv.iter().copied(), &params).await.unwrap_or_else(|e| panic!("exec in {pod}: {e}"));
        let (mut out, mut err) = (String::new(), String::new());
        let (mut stdout, mut stderr) = (ran.stdout().expect("asked for"), ran.stderr().expect("asked for"));
        let (a, b) = tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
        a.and(b).expect("text");
        out + &err
    }
    /// Waits for an event of this object with these words in reason or message.
    pub async fn event(&self, name: &str, words: &str) -> Value {
        eventually(&format!("an event of {name} with {words:?}"), || async {
            let events: Vec<Value> = self.of("v1/events").list("").await.into_iter().filter(|e| e["involvedObject"]["name"] == name).collect();
            let said = |e: &Value| format!("{}: {}", e["reason"].as_str().unwrap_or_default(), e["message"].as_str().unwrap_or_default());
            events.iter().find(|e| said(e).contains(words)).cloned().ok_or_else(|| events.iter().map(said).collect::<Vec<_>>().join("\n"))
        })
        .await
    }
    pub async fn config_map(&self, name: &str, data: Value) {
        self.of("v1/configmaps").create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})).await;
    }
    pub async fn secret(&self, name: &str, data: Value) {
        self.of("v1/secrets").create(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})).await;
    }

    /// What the entries ask that only speak of the API: the group, version and resource are discovered; create, get, list, watch, patch, update,
    /// delete and deletecollection work, each confirmed. `second` makes the object to follow the first, with another name.
    pub async fn api_operations(&self, path: &str, namespaced: bool, object: impl Fn(&str) -> Value) {
        let (version, plural) = path.rsplit_once('/').expect("version/resource");
        let all = if namespaced { self.of(path) } else { self.cluster(path) };
        if let Some((group, _)) = version.split_once('/') {
            let groups = self.raw("/apis").await;
            assert!(groups["groups"].as_array().expect("groups").iter().any(|g| g["name"] == group), "{group} is not in /apis");
            let versions = self.raw(&format!("/apis/{group}")).await;
            assert!(versions["versions"].as_array().expect("versions").iter().any(|v| v["groupVersion"] == version), "{version} is not in /apis/{group}");
        }
        let resources = self.raw(&format!("{}/{version}", if version == "v1" { "/api" } else { "/apis" })).await;
        assert!(resources["resources"].as_array().expect("resources").iter().any(|r| r["name"] == plural), "{plural} is not in {version}");

        let label = format!("case={}", self.namespace);
        let (first, second) = (format!("{}-a", self.namespace), format!("{}-b", self.namespace));
        let labelled = |name: &str| {
            let mut o = object(name);
            o["metadata"] = with(o["metadata"].clone(), json!({"name": name, "labels": {"case": self.namespace}}));
            o
        };
        let made = all.create(&labelled(&first)).await;
        let version = made["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
        assert_eq!(all.get(&first).await["metadata"]["uid"], made["metadata"]["uid"]);
        assert_eq!(all.list(&label).await.len(), 1);
        let patched = all.patch(&first, json!({"metadata": {"labels": {"patched": "yes"}}})).await;
        assert_eq!(patched["metadata"]["labels"]["patched"], "yes");
        let updated = all.update(&first, |o| o["metadata"]["labels"]["updated"] = json!("yes")).await;
        assert_eq!((&updated["metadata"]["labels"]["patched"], &updated["metadata"]["labels"]["updated"]), (&json!("yes"), &json!("yes")));
        assert_eq!(all.list(&format!("{label},updated=yes")).await.len(), 1);
        all.delete(&first).await;
        all.gone(&first).await;
        let events = all.watch_until(&label, &version, "DELETED", &first).await;
        let kinds: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
        assert!(kinds.iter().filter(|k| **k == "MODIFIED").count() >= 2, "{kinds:?}");
        for name in [&first, &second] {
            all.create(&labelled(name)).await;
        }
        let replaced = all.update(&second, |o| o["metadata"]["labels"]["updated"] = json!("again")).await;
        assert_eq!(replaced["metadata"]["labels"]["updated"], "again");
        assert_eq!(all.list(&label).await.len(), 2);
        all.delete_collection(&label).await;
        all.gone(&first).await;
        all.gone(&second).await;
        assert!(all.list(&label).await.is_empty());
    }
}
