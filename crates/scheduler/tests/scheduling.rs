//! The whole scheduler against an in-process API that holds one list of nodes and pods and takes bindings.

use http::{Method, Request, Response};
use keles_scheduler::{Options, run};
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Api {
    nodes: Vec<Value>,
    pods: Vec<Value>,
    /// Pod -> nodes it was bound to.
    bound: Mutex<BTreeMap<String, Vec<String>>>,
    /// Pod -> its PodScheduled condition.
    told: Mutex<BTreeMap<String, Value>>,
    events: Mutex<Vec<Value>>,
    changed: Notify,
}

impl Api {
    fn client(self: &Arc<Self>) -> kube::Client {
        let api = self.clone();
        keles_client::in_process(tower_service(move |request| {
            let api = api.clone();
            async move { api.answer(request).await }
        }))
    }
    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        let body = request.into_body().collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let answer = match (method, segments.as_slice()) {
            (Method::GET, ["api", "v1", "nodes"]) => watch(&self.nodes),
            (Method::GET, ["api", "v1", "pods"]) => watch(&self.pods),
            (Method::GET, ["api", "v1", "persistentvolumes" | "persistentvolumeclaims"] | ["apis", "storage.k8s.io", "v1", _]) => watch(&[]),
            (Method::POST, [.., "pods", name, "binding"]) => {
                let node = body["target"]["name"].as_str().unwrap().to_owned();
                self.bound.lock().unwrap().entry((*name).to_owned()).or_default().push(node);
                json!({"kind": "Status", "status": "Success"}).to_string()
            }
            (Method::PATCH, [.., "pods", name, "status"]) => {
                self.told.lock().unwrap().insert((*name).to_owned(), body["status"]["conditions"][0].clone());
                body.to_string()
            }
            (Method::POST, [.., "events"]) => {
                self.events.lock().unwrap().push(body.clone());
                body.to_string()
            }
            other => panic!("unexpected request {other:?}"),
        };
        self.changed.notify_one();
        Ok(Response::new(Body::from(answer.into_bytes())))
    }
    async fn until(&self, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !done(self) {
                self.changed.notified().await;
            }
        };
        tokio::time::timeout(LIMIT, waiting).await.expect("what the scheduler must do comes");
    }
}

fn tower_service<F, R>(answer: F) -> impl tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = R> + Send
where
    F: FnMut(Request<Body>) -> R + Send,
    R: Future<Output = Result<Response<Body>, Infallible>> + Send,
{
    tower::service_fn(answer)
}

/// The initial events of a watch; then the connection ends and the informer asks again, to hear nothing.
fn watch(objects: &[Value]) -> String {
    let mut lines: String = objects.iter().map(|object| json!({"type": "ADDED", "object": object}).to_string() + "\n").collect();
    let metadata = json!({"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}});
    lines.push_str(&(json!({"type": "BOOKMARK", "object": {"kind": "X", "apiVersion": "v1", "metadata": metadata}}).to_string() + "\n"));
    lines
}
fn node(name: &str) -> Value {
    let allocatable = json!({"cpu": "64", "memory": "64Gi", "pods": "4000"});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "status": {"allocatable": allocatable}})
}
fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["containers"] = json!([{"name": "c", "resources": {"requests": {"cpu": "10m", "memory": "1Mi"}}}]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "2"}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_pods_is_bound_exactly_once_and_fast() {
    const PODS: usize = 3000;
    let api = Arc::new(Api { nodes: vec![node("n1"), node("n2")], pods: (0..PODS).map(|i| pod(&format!("p{i}"), json!({}))).collect(), ..Api::default() });
    let stop = CancellationToken::new();
    let start = Instant::now();
    let running = tokio::spawn(run(api.client(), Options::default(), stop.clone()));
    api.until(|api| api.bound.lock().unwrap().len() == PODS).await;
    let seconds = start.elapsed().as_secs_f64();
    println!("{PODS} pods bound in {seconds:.2} s: {:.0} pods/s (debug build)", PODS as f64 / seconds);
    stop.cancel();
    running.await.unwrap();
    let bound = api.bound.lock().unwrap();
    assert!(bound.values().all(|nodes| nodes.len() == 1), "no pod is bound twice");
    let on_first = bound.values().filter(|nodes| nodes[0] == "n1").count();
    assert!((1000..2000).contains(&on_first), "the pods are spread over both nodes: {on_first}");
}

#[tokio::test]
async fn gated_terminating_foreign_and_homeless_pods_are_left_unbound_and_only_the_homeless_is_told_why() {
    let mut terminating = pod("terminating", json!({}));
    terminating["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let pods = vec![
        pod("gated", json!({"schedulingGates": [{"name": "g"}]})),
        terminating,
        pod("foreign", json!({"schedulerName": "other"})),
        pod("homeless", json!({"nodeSelector": {"no": "where"}})),
        pod("fine", json!({})),
    ];
    let api = Arc::new(Api { nodes: vec![node("n1")], pods, ..Api::default() });
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(api.client(), Options::default(), stop.clone()));
    api.until(|api| api.events.lock().unwrap().len() >= 2 && !api.told.lock().unwrap().is_empty()).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(api.bound.lock().unwrap().keys().collect::<Vec<_>>(), ["fine"]);
    let told = api.told.lock().unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!((&told["homeless"]["reason"], &told["homeless"]["status"]), (&json!("Unschedulable"), &json!("False")));
    let events = api.events.lock().unwrap();
    let texts: Vec<(&str, &str)> = events.iter().map(|e| (e["reason"].as_str().unwrap(), e["message"].as_str().unwrap())).collect();
    assert!(texts.contains(&("Scheduled", "Successfully assigned d/fine to n1")), "{texts:?}");
    assert!(
        texts.iter().any(|(reason, message)| *reason == "FailedScheduling" && message.starts_with("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."))
    );
    assert!(events.iter().all(|e| e["reportingComponent"] == "default-scheduler" && e["eventTime"].is_string()), "{events:?}");
}
