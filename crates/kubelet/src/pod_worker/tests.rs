//! The shell against a runtime, a network and an API that only write down what they are asked.

use super::*;
use crate::agent::Agent;
use crate::config::KubeletConfig;
use crate::events::Recorder;
use crate::image_store::{ImageError, ImageStore, NodeImage, PulledImage};
use crate::node_facts::NodeFacts;
use crate::objects::ApiObjects;
use crate::pod_network::{HostPort, NetworkError, PodNetwork};
use crate::pods::Pods;
use crate::service_env::Services;
use async_trait::async_trait;
use http::{Request, Response};
use keles_runtime::api::*;
use kube::client::Body;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Everything that was asked, in order, and a bell for each.
#[derive(Default)]
struct Diary {
    lines: Mutex<Vec<String>>,
    bell: Notify,
}

impl Diary {
    fn write(&self, line: impl Into<String>) {
        self.lines.lock().expect("not poisoned").push(line.into());
        self.bell.notify_waiters();
    }
    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("not poisoned").clone()
    }
    fn position(&self, start: &str) -> Option<usize> {
        self.lines().iter().position(|line| line.starts_with(start))
    }
    /// Waits until a line begins so.
    async fn has(&self, start: &str) {
        let wait = async {
            loop {
                let rung = self.bell.notified();
                if self.position(start).is_some() {
                    return;
                }
                rung.await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(60), wait).await;
        assert!(found.is_ok(), "{start:?} never came; the diary says {:#?}", self.lines());
    }
}

struct FakeRuntime {
    diary: Arc<Diary>,
    containers: Mutex<Vec<ContainerStatus>>,
    /// Pods whose sandboxes an earlier run left.
    left: Mutex<Vec<String>>,
    /// Held by a test for as long as containers do not stop.
    stopping: tokio::sync::Mutex<()>,
    events: broadcast::Sender<ContainerEvent>,
}

fn now_ns() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).expect("this century")
}

impl FakeRuntime {
    fn set(&self, id: &str, state: ContainerState, exit_code: i32) {
        let mut containers = self.containers.lock().expect("not poisoned");
        if let Some(container) = containers.iter_mut().find(|container| container.id == id) {
            (container.state, container.exit_code, container.finished_at_unix_ns) = (state, exit_code, now_ns());
        }
    }
}

fn unused<T>(what: &'static str) -> Result<T> {
    Err(RuntimeError::Step { step: what, message: "not part of this test".into() })
}

#[async_trait]
impl PodRuntime for FakeRuntime {
    fn version(&self) -> String {
        "fake://1".into()
    }
    fn features(&self) -> Features {
        let handler = |name: &str| Handler { name: name.into(), recursive_read_only_mounts: true, user_namespaces: true };
        Features { handlers: ["", "keles", "runc"].map(handler).into(), supplemental_groups_policy: true, image_layers: true }
    }
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus> {
        self.diary.write(format!("run_sandbox {}", config.uid));
        let id = format!("sandbox-{}", config.uid);
        Ok(SandboxStatus { id, config, ready: true, created_at_unix_ns: now_ns(), netns: Some("/netns".into()), ips: Vec::new() })
    }
    async fn set_network(&self, _: &str, _: Vec<String>) -> Result<()> {
        Ok(())
    }
    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.diary.write(format!("stop_sandbox {id}"));
        Ok(())
    }
    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.diary.write(format!("remove_sandbox {id}"));
        Ok(())
    }
    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        let left = self.left.lock().expect("not poisoned").clone();
        let status = |uid: String| SandboxStatus {
            id: format!("sandbox-{uid}"),
            config: SandboxConfig { uid, ..Default::default() },
            ready: true,
            created_at_unix_ns: 0,
            netns: None,
            ips: vec!["10.42.0.9".into()],
        };
        Ok(left.into_iter().map(status).collect())
    }
    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let id = format!("{}-{}", config.name, config.attempt);
        self.diary.write(format!("create {} swap {:?}", config.name, config.resources.swap_bytes));
        let status = ContainerStatus {
            id: id.clone(),
            sandbox_id: sandbox_id.into(),
            name: config.name,
            attempt: config.attempt,
            state: ContainerState::Created,
            created_at_unix_ns: now_ns(),
            started_at_unix_ns: now_ns(),
            finished_at_unix_ns: 0,
            exit_code: 0,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            image: config.image,
            image_id: config.image_id,
            log_path: config.log_path,
            labels: config.labels,
            annotations: config.annotations,
            pid: None,
        };
        self.containers.lock().expect("not poisoned").push(status);
        Ok(id)
    }
    async fn start_container(&self, id: &str) -> Result<()> {
        self.set(id, ContainerState::Running, 0);
        self.diary.write(format!("start {id}"));
        Ok(())
    }
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        self.diary.write(format!("signal {id}"));
        let _stops = self.stopping.lock().await;
        self.set(id, ContainerState::Exited, 143);
        self.diary.write(format!("stop {id} {}s", grace.as_secs()));
        Ok(())
    }
    async fn remove_container(&self, id: &str) -> Result<()> {
        self.diary.write(format!("remove {id}"));
        Ok(())
    }
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        Ok(self.containers.lock().expect("not poisoned").clone())
    }
    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let found = self.containers.lock().expect("not poisoned").iter().find(|container| container.id == id).cloned();
        found.ok_or(RuntimeError::NotFound { what: "container", id: id.into() })
    }
    async fn exec(&self, _: &str, _: ExecRequest) -> Result<ExecStream> {
        unused("exec")
    }
    async fn exec_sync(&self, _: &str, args: Vec<String>, limit: Duration) -> Result<ExecOutput> {
        self.diary.write(format!("exec {} {}s", args.join(" "), limit.as_secs()));
        Ok(ExecOutput { stdout: Vec::new(), stderr: Vec::new(), exit_code: i32::from(args == ["false"]) })
    }
    async fn attach(&self, _: &str, _: ExecRequest) -> Result<ExecStream> {
        unused("attach")
    }
    async fn port_forward(&self, _: &str, _: u16) -> Result<PortConnection> {
        unused("port_forward")
    }
    async fn stats(&self, _: &str) -> Result<Stats> {
        unused("stats")
    }
    async fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        self.diary.write(format!("update {id} {} swap {:?}", resources.cpu_shares.unwrap_or(0), resources.swap_bytes));
        Ok(())
    }
    async fn update_sandbox_resources(&self, id: &str, resources: Resources) -> Result<()> {
        self.diary.write(format!("update {id} {:?}", resources.cpu_shares.unwrap_or(0)));
        Ok(())
    }
    async fn limit_group(&self, group: &str, resources: Resources) -> Result<()> {
        self.diary.write(format!("limit {group} {:?}", resources.cpu_shares));
        Ok(())
    }
    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }
}

struct FakeNetwork {
    diary: Arc<Diary>,
    refuses: bool,
}

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn attach(&self, _: &Path, uid: &str, _: &[HostPort]) -> std::result::Result<Vec<String>, NetworkError> {
        self.diary.write(format!("attach {uid}"));
        if self.refuses { Err(NetworkError("no address is left".into())) } else { Ok(vec!["10.42.0.9".into()]) }
    }
    async fn detach(&self, uid: &str) -> std::result::Result<(), NetworkError> {
        self.diary.write(format!("detach {uid}"));
        Ok(())
    }
}

struct FakeImages;

#[async_trait]
impl ImageStore for FakeImages {
    async fn find(&self, _: &str) -> std::result::Result<Option<NodeImage>, ImageError> {
        Ok(Some(NodeImage { id: "sha256:1".into(), cmd: vec!["run".into()], ..Default::default() }))
    }
    async fn pull(&self, _: &str, _: &[keles_images::Auth]) -> std::result::Result<PulledImage, ImageError> {
        Err(ImageError("not part of this test".into()))
    }
    async fn list(&self) -> std::result::Result<Vec<NodeImage>, ImageError> {
        Ok(Vec::new())
    }
}

/// An API that takes everything and writes down statuses, events and deletions.
fn api(diary: Arc<Diary>) -> kube::Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let diary = diary.clone();
        async move {
            let (method, path) = (request.method().to_string(), request.uri().path().to_string());
            let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_string();
            let query = request.uri().query().unwrap_or_default().to_string();
            let bytes = request.into_body().collect_bytes().await.unwrap_or_default();
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let answer = match (method.as_str(), path.as_str()) {
                ("PATCH", path) if path.ends_with("/pods/p/status") => {
                    diary.write(format!("status {}", body["status"]["phase"].as_str().unwrap_or("-")));
                    json!({"metadata": {"name": "p", "resourceVersion": "2"}, "spec": {"containers": []}, "status": body["status"]})
                }
                ("DELETE", _) => {
                    diary.write(format!("delete uid={} grace={}", body["preconditions"]["uid"], body["gracePeriodSeconds"]));
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
                }
                ("POST", path) if path.ends_with("/events") => {
                    diary.write(format!("event {} {}", body["reason"].as_str().unwrap_or("-"), body["message"].as_str().unwrap_or("-")));
                    body
                }
                // The status of a node is never answered: what hangs on it must not hang with it.
                ("PATCH", "/api/v1/nodes/n1/status") => {
                    diary.write(format!("node_status {kind} {body}"));
                    std::future::pending().await
                }
                ("POST", "/api/v1/nodes") => {
                    diary.write(format!("node {}", body["status"]["conditions"].as_array().map_or(0, Vec::len)));
                    json!({"metadata": {"name": "n1", "uid": "node-uid"}, "status": {"capacity": {"example.com/gpu": "2"}, "allocatable": {"example.com/gpu": "2"}}})
                }
                ("PATCH", path) if path.contains("/leases/") => {
                    diary.write(format!("lease {}", body["spec"]["holderIdentity"].as_str().unwrap_or("-")));
                    json!({"metadata": {"name": "n1"}})
                }
                // Lists come in pages here, as from a server before 1.27.
                ("GET", _) if query.contains("sendInitialEvents=") => {
                    let refusal = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Invalid", "code": 422});
                    let answer = Response::builder().status(422).body(Body::from(refusal.to_string().into_bytes()));
                    return Ok(answer.expect("a response"));
                }
                ("GET", path) if query.contains("watch=") => {
                    diary.write(format!("watch {path}"));
                    return std::future::pending().await;
                }
                ("GET", "/apis/node.k8s.io/v1/runtimeclasses/sandboxed") => json!({"metadata": {"name": "sandboxed"}, "handler": "gvisor"}),
                ("GET", "/apis/node.k8s.io/v1/runtimeclasses/plain") => json!({"metadata": {"name": "plain"}, "handler": "runc"}),
                ("GET", "/api/v1/pods") => json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [plain("u1")]}),
                _ => json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}),
            };
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(answer.to_string().into_bytes())))
        }
    });
    kube::Client::new(service, "default")
}

struct Node {
    diary: Arc<Diary>,
    runtime: Arc<FakeRuntime>,
    agent: Arc<Agent>,
    _dir: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn node() -> Node {
    node_with(false)
}

fn node_with(network_refuses: bool) -> Node {
    node_at(tempfile::tempdir().expect("tempdir"), network_refuses)
}

fn node_at(dir: tempfile::TempDir, network_refuses: bool) -> Node {
    let diary = Arc::new(Diary::default());
    let client = api(diary.clone());
    let runtime =
        Arc::new(FakeRuntime { diary: diary.clone(), containers: Mutex::default(), left: Mutex::default(), stopping: Default::default(), events: broadcast::channel(16).0 });
    let stop = CancellationToken::new();
    let informers = keles_client::Informers::new(client.clone(), stop.clone());
    let agent = Arc::new(Agent {
        config: KubeletConfig::new("n1", "192.0.2.1".parse().expect("ip"), PathBuf::from(dir.path())),
        events: Recorder::start(client.clone(), "n1"),
        services: Services::watch(&informers),
        objects: ApiObjects::new(client.clone(), "n1", informers.clone(), Recorder::start(client.clone(), "n1")),
        informers,
        csi: keles_volumes::csi::Csi::open(dir.path()),
        csi_node: Default::default(),
        followed: crate::followed::Followed::new(client.clone(), stop.child_token()),
        client,
        features: runtime.features(),
        id_scheme: "keles".into(),
        images_dir: dir.path().into(),
        runtime: runtime.clone(),
        images: Arc::new(FakeImages),
        network: Arc::new(FakeNetwork { diary: diary.clone(), refuses: network_refuses }),
        facts: NodeFacts { cpus: 4, memory_bytes: 8 << 30, disk_bytes: 8 << 30, max_pods: 110, swap: crate::swap::tests::limited(), ..Default::default() },
        allocated: crate::allocated::Allocated::open(dir.path()).expect("opens"),
        placement: crate::placement::tests::of_devices(&dir.path().join("device-plugins")),
        pods: Pods::default(),
        users: crate::user_namespaces::Ranges::open(crate::user_namespaces::Ids::of_host(110).expect("this host's"), dir.path().join("pods")),
        pressure: watch::channel(Default::default()).0,
        shutting_down: watch::channel(false).0,
        image_history: Default::default(),
        freed: watch::channel(()).0,
        taken: watch::channel(()).0,
    });
    Node { diary, runtime, agent, _dir: dir, stop }
}

fn pod(uid: &str, container: Value) -> Pod {
    let spec = json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 9, "containers": [container]});
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": uid, "resourceVersion": "1"}, "spec": spec})).expect("a pod")
}

fn plain(uid: &str) -> Pod {
    pod(uid, json!({"name": "c", "image": "i"}))
}

fn deleted(mut pod: Pod) -> Arc<Pod> {
    pod.metadata.deletion_timestamp = Some(crate::conditions_time(Timestamp::now()));
    pod.metadata.deletion_grace_period_seconds = Some(9);
    Arc::new(pod)
}

impl Node {
    fn run(&self, pod: Pod, after: Option<watch::Receiver<bool>>) -> Handle {
        spawn(self.agent.clone(), Arc::new(pod), Adopted::default(), Admission::ToPlace, after.into_iter().collect())
    }
}

fn wish(handle: &Handle, pod: Arc<Pod>) {
    handle.wish.send_modify(|wish| wish.pod = pod);
}

#[tokio::test]
async fn the_api_object_goes_last_with_its_uid_and_no_grace() {
    let node = node();
    let handle = node.run(plain("u1"), None);
    node.diary.has("start c-0").await;
    node.diary.has("status Running").await;
    wish(&handle, deleted(plain("u1")));
    node.diary.has("delete").await;
    let order = ["stop c-0 9s", "detach u1", "stop_sandbox sandbox-u1", "remove c-0", "remove_sandbox sandbox-u1", "delete uid=\"u1\" grace=0"];
    let positions: Vec<_> = order.iter().map(|line| node.diary.position(line)).collect();
    assert!(positions.iter().all(Option::is_some) && positions.is_sorted(), "{:#?}", node.diary.lines());
}

#[tokio::test]
async fn a_start_is_counted_and_timed_once_the_api_shows_it() {
    let counts = || {
        let histograms = [&metrics::POD_START, &metrics::POD_START_TOTAL, &metrics::POD_START_SLI, &metrics::WORKER_START, &metrics::STATUS_SYNC, &metrics::CONTAINERS_PER_POD];
        let counters = [metrics::PODS_STARTED.with([]).get(), metrics::CONTAINERS_STARTED.with(["container"]).get(), metrics::WORKER.with(["create"]).count()];
        histograms.iter().map(|family| family.with([]).count()).chain(counters).collect::<Vec<_>>()
    };
    let before = counts();
    let node = node();
    let handle = node.run(plain("u1"), None);
    node.diary.has("status Running").await;
    let mut shown = plain("u1");
    shown.metadata.creation_timestamp = Some(crate::conditions_time(Timestamp::now()));
    shown.status = Some(handle.view().status);
    wish(&handle, Arc::new(shown));
    until_some(|| counts().iter().zip(&before).all(|(now, before)| now > before).then_some(())).await;
}

#[tokio::test]
async fn a_pod_of_the_same_name_starts_after_the_old_one_gave_everything_back() {
    let node = node();
    let old = node.run(plain("old"), None);
    node.diary.has("start c-0").await;
    let new = node.run(plain("new"), Some(old.cleared.clone()));
    wish(&old, deleted(plain("old")));
    node.diary.has("run_sandbox new").await;
    assert!(node.diary.position("remove_sandbox sandbox-old") < node.diary.position("run_sandbox new"), "{:#?}", node.diary.lines());
    drop(new);
}

#[tokio::test]
async fn a_pre_stop_hook_runs_before_the_signal_within_the_grace_period() {
    let node = node();
    let with_hook = pod("u1", json!({"name": "c", "image": "i", "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}));
    let handle = node.run(with_hook.clone(), None);
    node.diary.has("start c-0").await;
    wish(&handle, deleted(with_hook));
    node.diary.has("delete").await;
    assert!(node.diary.position("exec bye") < node.diary.position("stop c-0"), "{:#?}", node.diary.lines());
}

#[tokio::test]
async fn a_container_that_ends_is_restarted_at_once_the_first_time_and_held_the_second() {
    let node = node();
    let handle = node.run(plain("u1"), None);
    let end = |id: &'static str| {
        node.runtime.set(id, ContainerState::Exited, 1);
        handle.event(ContainerEvent { pod_uid: "u1".into(), sandbox_id: "sandbox-u1".into(), container_id: id.into(), state: ContainerState::Exited });
    };
    node.diary.has("start c-0").await;
    end("c-0");
    node.diary.has("start c-1").await;
    end("c-1");
    node.diary.has("event BackOff Back-off restarting failed container c in pod p_n(u1)").await;
    assert_eq!(node.diary.position("start c-2"), None);
}

#[tokio::test]
async fn a_running_container_of_an_earlier_run_is_taken_over() {
    let node = node();
    let first = node.run(plain("u1"), None);
    node.diary.has("status Running").await;
    first.task.abort();
    let config = SandboxConfig { uid: "u1".into(), ..Default::default() };
    let sandbox = SandboxStatus { id: "sandbox-u1".into(), config, ready: true, created_at_unix_ns: 0, netns: None, ips: vec!["10.42.0.9".into()] };
    let adopted = Adopted { sandboxes: vec![sandbox], records: node.runtime.list_containers().await.expect("listed") };
    let before = node.diary.lines().len();
    let again = spawn(node.agent.clone(), Arc::new(plain("u1")), adopted, Admission::Taken, Vec::new());
    node.diary.has("status Running").await;
    wish(&again, deleted(plain("u1")));
    node.diary.has("delete").await;
    let later = &node.diary.lines()[before..];
    assert!(!later.iter().any(|line| line.starts_with("run_sandbox") || line.starts_with("start")), "{later:#?}");
    assert!(later.iter().any(|line| line.starts_with("stop c-0")), "{later:#?}");
}

#[tokio::test]
async fn a_sandbox_without_a_network_is_taken_down_again() {
    let node = node_with(true);
    let handle = node.run(plain("u1"), None);
    node.diary.has("event FailedCreatePodSandBox Failed to create pod sandbox: failed to set up the pod's network: no address is left").await;
    assert!(node.diary.position("stop_sandbox sandbox-u1").is_some() && node.diary.position("start").is_none());
    assert_eq!(node.diary.position("status Failed"), None, "a passing fault never fails a pod");
    drop(handle);
}

#[tokio::test]
async fn a_runtime_class_whose_handler_is_not_here_is_refused_by_name() {
    let of_class = |uid: &str, class: &str| {
        let mut pod = plain(uid);
        pod.spec.as_mut().expect("spec").runtime_class_name = Some(class.into());
        pod
    };
    let node = node();
    let refused = node.run(of_class("u1", "sandboxed"), None);
    node.diary.has("event FailedCreatePodSandBox Failed to create pod sandbox: failed to get sandbox runtime: no runtime for \"gvisor\" is configured").await;
    assert_eq!(node.diary.position("run_sandbox"), None);
    let taken = node.run(of_class("u2", "plain"), None);
    node.diary.has("run_sandbox u2").await;
    drop((refused, taken));
}

#[tokio::test]
async fn exec_finds_init_and_ephemeral_containers() {
    let node = node();
    let mut with_others = plain("u1");
    let spec = with_others.spec.as_mut().expect("spec");
    spec.init_containers = serde_json::from_value(json!([{"name": "side", "image": "i", "restartPolicy": "Always"}])).expect("containers");
    spec.ephemeral_containers = serde_json::from_value(json!([{"name": "debug", "image": "i"}])).expect("containers");
    let pods = crate::pods::Pods::default();
    pods.insert("u1", node.run(with_others, None));
    for id in ["side-0", "c-0", "debug-0"] {
        node.diary.has(&format!("start {id}")).await;
        let name = id.trim_end_matches("-0");
        let found = until_some(|| crate::server::running_container(&pods, "n", "p", name)).await;
        assert_eq!(found, id);
    }
    assert_eq!(crate::server::running_container(&pods, "n", "p", "none"), None);
}

/// What a worker shows follows its diary by a moment.
async fn until_some<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            match ask() {
                Some(answer) => return answer,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asked).await.expect("it comes")
}

#[tokio::test]
async fn a_refused_pod_tells_why_and_runs_nothing() {
    let node = node();
    let refusal = PodStatus { phase: Some("Failed".into()), reason: Some("OutOfcpu".into()), ..Default::default() };
    let handle = spawn(node.agent.clone(), Arc::new(plain("u1")), Adopted::default(), Admission::Refused(Box::new(refusal)), Vec::new());
    node.diary.has("status Failed").await;
    wish(&handle, deleted(plain("u1")));
    node.diary.has("delete").await;
    assert_eq!(node.diary.position("run_sandbox"), None);
}

#[tokio::test]
async fn a_volume_that_cannot_be_set_up_holds_the_pod_and_says_so() {
    let node = node();
    let mut waits = plain("u1");
    let volumes = json!([{"name": "v", "hostPath": {"path": "/no/such/folder", "type": "Directory"}}]);
    waits.spec.as_mut().expect("spec").volumes = serde_json::from_value(volumes).expect("volumes");
    let handle = node.run(waits, None);
    node.diary.has("event FailedMount MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: /no/such/folder is not a directory").await;
    assert_eq!(node.diary.position("start"), None);
    drop(handle);
}

/// A pod whose container asks for so much cpu; each `generation` is one version of its spec.
fn asking(cpu: &str, policy: &str, generation: i64) -> Pod {
    let resources = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}, "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]});
    let mut pod = pod("u1", resources);
    pod.metadata.generation = Some(generation);
    pod
}

#[tokio::test]
async fn a_resize_changes_the_cgroups_of_what_runs_and_starts_nothing_anew() {
    let node = node();
    let handle = node.run(asking("100m", "NotRequired", 1), None);
    node.diary.has("start c-0").await;
    wish(&handle, Arc::new(asking("200m", "NotRequired", 2)));
    node.diary.has("event ResizeCompleted").await;
    let order = ["event ResizeStarted", "update sandbox-u1 204", "update c-0 204"];
    assert!(order.iter().all(|line| node.diary.position(line).is_some()), "{:#?}", node.diary.lines());
    assert_eq!(node.diary.position("start c-1"), None);
    let given = handle.view().pod.spec.clone().expect("spec").containers[0].resources.clone().expect("resources").requests.expect("requests");
    assert_eq!(given["cpu"].0, "200m");
}

/// A pod whose container asks for so much memory, on a node with LimitedSwap.
fn remembering(request: &str, limit: &str, generation: i64) -> Pod {
    let mut pod = pod("u1", json!({"name": "c", "image": "i", "resources": {"requests": {"memory": request}, "limits": {"memory": limit}}}));
    pod.metadata.generation = Some(generation);
    pod
}

#[tokio::test]
async fn a_resize_keeps_the_share_of_swap_until_the_limit_is_the_request() {
    let node = node();
    let handle = node.run(remembering("1Gi", "2Gi", 1), None);
    node.diary.has("create c swap Some(536870912)").await;
    node.diary.has("start c-0").await;
    wish(&handle, Arc::new(remembering("1Gi", "3Gi", 2)));
    node.diary.has("update c-0 2 swap Some(536870912)").await;
    wish(&handle, Arc::new(remembering("1Gi", "1Gi", 3)));
    node.diary.has("update c-0 2 swap Some(0)").await;
    wish(&handle, Arc::new(remembering("512Mi", "1Gi", 4)));
    node.diary.has("event ResizeInfeasible").await;
}

#[tokio::test]
async fn a_resize_restarts_a_container_whose_policy_says_so() {
    let node = node();
    let handle = node.run(asking("100m", "RestartContainer", 1), None);
    node.diary.has("start c-0").await;
    wish(&handle, Arc::new(asking("200m", "RestartContainer", 2)));
    node.diary.has("start c-1").await;
    assert!(node.diary.position("event Killing Container c resize requires restart").is_some(), "{:#?}", node.diary.lines());
}

/// A pod that as a whole may use so much cpu; its container has no limit of its own.
fn limited(cpu: &str, policy: &str, generation: i64) -> Pod {
    let mut pod = pod("u1", json!({"name": "c", "image": "i", "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}));
    pod.metadata.generation = Some(generation);
    pod.spec.as_mut().expect("spec").resources = serde_json::from_value(json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}})).expect("resources");
    pod
}

#[tokio::test]
async fn a_resize_that_was_asked_for_while_no_agent_ran_is_seen_by_the_next() {
    let before = node();
    let handle = before.run(asking("100m", "NotRequired", 1), None);
    before.diary.has("start c-0").await;
    handle.task.abort();
    before.stop.cancel();
    // Its runtime goes on, as containers do.
    let records = before.runtime.containers.lock().expect("not poisoned").clone();
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::copy(before.agent.config.data_dir.join(crate::allocated::FILE), dir.path().join(crate::allocated::FILE)).expect("it was kept");
    let next = node_at(dir, false);
    *next.runtime.containers.lock().expect("not poisoned") = records.clone();
    let sandbox = SandboxConfig { uid: "u1".into(), ..Default::default() };
    let sandbox = SandboxStatus { id: "sandbox-u1".into(), config: sandbox, ready: true, created_at_unix_ns: 0, netns: None, ips: vec!["10.42.0.9".into()] };
    let adopted = Adopted { sandboxes: vec![sandbox], records };
    let handle = spawn(next.agent.clone(), Arc::new(asking("200m", "NotRequired", 2)), adopted, Admission::Taken, Vec::new());
    next.diary.has("event ResizeCompleted").await;
    let order = ["event ResizeStarted", "update sandbox-u1 204", "update c-0 204"];
    assert!(order.iter().all(|line| next.diary.position(line).is_some()), "{:#?}", next.diary.lines());
    assert_eq!((next.diary.position("start"), next.diary.position("run_sandbox")), (None, None));
    drop(handle);
}

#[tokio::test]
async fn a_resize_of_the_whole_pod_reaches_containers_without_limits_and_is_told() {
    let node = node();
    let handle = node.run(limited("100m", "NotRequired", 1), None);
    node.diary.has("start c-0").await;
    wish(&handle, Arc::new(limited("200m", "NotRequired", 2)));
    node.diary.has("event ResizeCompleted").await;
    let order = ["event ResizeStarted", "update sandbox-u1 204", "update c-0 204"];
    assert!(order.iter().all(|line| node.diary.position(line).is_some()), "{:#?}", node.diary.lines());
    assert_eq!(node.diary.position("start c-1"), None);
    let told = || {
        let status = handle.view().status;
        let has = status.resources.and_then(|whole| whole.limits).and_then(|limits| limits.get("cpu").cloned())?;
        let allocated = status.allocated_resources.and_then(|requests| requests.get("cpu").cloned())?;
        ((has.0.as_str(), allocated.0.as_str()) == ("200m", "200m")).then_some(())
    };
    until_some(told).await;
}

#[tokio::test]
async fn a_resize_of_the_whole_pod_restarts_a_container_that_has_its_limit_and_says_so() {
    let node = node();
    let handle = node.run(limited("100m", "RestartContainer", 1), None);
    node.diary.has("start c-0").await;
    wish(&handle, Arc::new(limited("200m", "RestartContainer", 2)));
    node.diary.has("start c-1").await;
    node.diary.has("event ResizeCompleted").await;
    assert_eq!(node.diary.position("start c-2"), None, "once is enough");
}

#[tokio::test]
async fn a_resize_that_no_node_like_this_can_give_is_told_and_changes_nothing() {
    let node = node();
    let handle = node.run(asking("100m", "NotRequired", 1), None);
    node.diary.has("start c-0").await;
    wish(&handle, Arc::new(asking("900", "NotRequired", 2)));
    node.diary.has("event ResizeInfeasible").await;
    let pending = || handle.view().status.conditions.into_iter().flatten().find(|condition| condition.type_ == "PodResizePending");
    let condition = until_some(pending).await;
    assert_eq!(condition.message.as_deref(), Some("Node didn't have enough capacity: cpu, requested: 900000, capacity: 4000"));
    assert_eq!(node.diary.position("update"), None);
}

#[tokio::test]
async fn the_lease_is_renewed_while_the_status_write_hangs() {
    let node = node();
    let (registered_tx, registered) = watch::channel(None);
    let status = tokio::spawn(crate::node::run_status(node.agent.clone(), 10250, registered_tx, node.stop.clone()));
    let lease = tokio::spawn(crate::node::run_lease(node.agent.clone(), registered, node.stop.clone()));
    node.diary.has("lease n1").await;
    assert_eq!(node.diary.position("node 4"), Some(0), "the node is registered with its conditions, Ready among them");
    status.abort();
    lease.abort();
}

#[tokio::test]
async fn only_pods_that_a_whole_list_lacks_are_removed_as_orphans() {
    let node = node();
    *node.runtime.left.lock().expect("not poisoned") = vec!["u1".into(), "gone".into()];
    let pods = node.agent.pods.clone();
    let (agent, stop) = (node.agent.clone(), node.stop.clone());
    let task = tokio::spawn(async move { pods.run(agent, stop).await });
    node.diary.has("remove_sandbox sandbox-gone").await;
    node.diary.has("start c-0").await;
    let lines = node.diary.lines();
    assert!(!lines.iter().any(|line| line.contains("sandbox-u1") || line.starts_with("run_sandbox")), "u1 is listed, so its sandbox is taken over: {lines:#?}");
    node.stop.cancel();
    task.await.expect("ended");
}

#[tokio::test]
async fn an_orphans_devices_are_free_once_its_containers_have_ended() {
    use crate::devices::store::{self, ANYWHERE, Given};
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = dir.path().join("device-plugins");
    std::fs::create_dir_all(&folder).expect("a folder");
    let given = Given { ids: BTreeMap::from([(ANYWHERE, vec!["d0".to_string()])]), ..Given::default() };
    let held = BTreeMap::from([("gone".to_string(), BTreeMap::from([("c".to_string(), BTreeMap::from([("example.com/x".to_string(), given)]))]))]);
    store::write(&folder, &held, BTreeMap::new()).expect("a checkpoint");
    let node = node_at(dir, false);
    *node.runtime.left.lock().expect("not poisoned") = vec!["gone".into()];
    let config = ContainerConfig { name: "c".into(), ..Default::default() };
    node.runtime.create_container("sandbox-gone", config).await.expect("made");
    node.runtime.start_container("c-0").await.expect("runs");
    let hangs = node.runtime.stopping.lock().await;
    let pods = node.agent.pods.clone();
    let (agent, stop) = (node.agent.clone(), node.stop.clone());
    let task = tokio::spawn(async move { pods.run(agent, stop).await });
    let holds = || node.agent.placement.devices.holders().contains(&"gone".to_string());
    node.diary.has("signal c-0").await;
    assert!(holds(), "its container still runs");
    drop(hangs);
    until_some(|| (!holds()).then_some(())).await;
    assert!(node.diary.position("stop c-0").is_some(), "{:#?}", node.diary.lines());
    node.stop.cancel();
    task.await.expect("ended");
}

#[tokio::test]
async fn a_node_has_the_labels_that_selectors_ask_for() {
    let labels = crate::node::label_map(&node().agent);
    let label = |name: &str| labels.get(name).map(String::as_str);
    assert_eq!((label("kubernetes.io/os"), label("kubernetes.io/hostname")), (Some("linux"), Some("n1")));
    let go_name = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    assert_eq!(label("kubernetes.io/arch"), Some(go_name));
}

#[tokio::test]
async fn a_probe_waits_its_initial_delay_and_a_timeout_of_zero_is_a_second() {
    let node = node();
    let probe = json!({"exec": {"command": ["try"]}, "timeoutSeconds": 0, "initialDelaySeconds": 3});
    let begun = std::time::Instant::now();
    let handle = node.run(pod("u1", json!({"name": "c", "image": "i", "readinessProbe": probe})), None);
    node.diary.has("exec try").await;
    assert!(node.diary.position("exec try 1s").is_some(), "{:#?}", node.diary.lines());
    assert!(begun.elapsed() >= Duration::from_secs(2), "tried after {:?}", begun.elapsed());
    drop(handle);
}

#[tokio::test]
async fn a_post_start_hook_that_fails_ends_the_container_and_says_so() {
    let node = node();
    let handle = node.run(pod("u1", json!({"name": "c", "image": "i", "lifecycle": {"postStart": {"exec": {"command": ["false"]}}}})), None);
    node.diary.has("event FailedPostStartHook PostStartHook failed").await;
    node.diary.has("event Killing FailedPostStartHook").await;
    node.diary.has("stop c-0 9s").await;
    assert!(node.diary.position("exec false") < node.diary.position("stop c-0"), "{:#?}", node.diary.lines());
    drop(handle);
}

#[tokio::test]
async fn a_pre_stop_hook_that_takes_the_whole_grace_leaves_the_signal_two_seconds() {
    let node = node();
    let with_hook = pod("u1", json!({"name": "c", "image": "i", "lifecycle": {"preStop": {"sleep": {"seconds": 60}}}}));
    let handle = node.run(with_hook.clone(), None);
    node.diary.has("start c-0").await;
    let mut leaving = deleted(with_hook);
    Arc::make_mut(&mut leaving).metadata.deletion_grace_period_seconds = Some(3);
    let begun = std::time::Instant::now();
    wish(&handle, leaving);
    node.diary.has("stop c-0").await;
    assert!(node.diary.position("stop c-0 2s").is_some(), "{:#?}", node.diary.lines());
    assert!(begun.elapsed() >= Duration::from_secs(3), "the hook had {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_node_status_names_its_addresses_and_leaves_the_resources_of_others() {
    let node = node();
    let (registered, _keep) = watch::channel(None);
    let task = tokio::spawn(crate::node::run_status(node.agent.clone(), 10250, registered, node.stop.clone()));
    node.diary.has("node_status").await;
    let lines = node.diary.lines();
    let line = lines.iter().find_map(|line| line.strip_prefix("node_status ")).expect("it came");
    let (kind, body) = line.split_once(' ').expect("two parts");
    assert_eq!(kind, "application/strategic-merge-patch+json", "what is not named stays");
    let status = &serde_json::from_str::<Value>(body).expect("JSON")["status"];
    for of in ["capacity", "allocatable"] {
        let named: Vec<_> = status[of].as_object().expect("a map").keys().collect();
        assert!(named.iter().any(|name| *name == "cpu") && !named.iter().any(|name| name.contains('/') || name.starts_with('$')), "{of}: {named:?}");
    }
    assert_eq!(status["declaredFeatures"], json!(["GuaranteedQoSPodCPUResize", "InPlacePodLevelResourcesVerticalScaling", "RestartAllContainersOnContainerExits"]));
    assert_eq!(status["addresses"], json!([{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n1"}]));
    assert_eq!(status["daemonEndpoints"], json!({"kubeletEndpoint": {"Port": 10250}}));
    task.abort();
}

#[tokio::test]
async fn an_evicted_pod_ends_and_says_why() {
    let node = node();
    let handle = node.run(plain("u1"), None);
    node.diary.has("status Running").await;
    let mut over = handle.over.clone();
    let message = "The node was low on resource: memory. ".into();
    handle.wish.send_modify(|wish| wish.end = Some(End { reason: EVICTED, message, grace: Duration::from_secs(1) }));
    node.diary.has("event Evicted The node was low on resource: memory. ").await;
    node.diary.has("status Failed").await;
    over.wait_for(|over| *over).await.expect("told when it has given back all it had");
    assert!(node.diary.position("stop_sandbox sandbox-u1").is_some());
}

#[tokio::test]
async fn monitors_ask_over_the_pod_resources_socket() {
    use crate::devices::wire::Empty;
    use crate::pod_resources::{AllocatableResourcesResponse, GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesResponse, SOCKET, serve};
    const LIMIT: Duration = Duration::from_secs(10);
    let node = node();
    node.agent.pods.insert("u1", node.run(plain("u1"), None));
    node.diary.has("start c-0").await;
    tokio::spawn(serve(node.agent.clone(), node.stop.clone()));
    let socket = keles_grpc::Channel::unix(node.agent.config.pod_resources_dir().join(SOCKET));
    // The socket rings no bell when it is there.
    let list = async {
        loop {
            if let Ok(list) = socket.unary::<_, ListPodResourcesResponse>("/v1.PodResourcesLister/List", &Empty {}, LIMIT).await {
                return list;
            }
            tokio::task::yield_now().await;
        }
    };
    let list = tokio::time::timeout(LIMIT, list).await.expect("it comes");
    let pod = &list.pod_resources[0];
    assert_eq!((pod.name.as_str(), pod.namespace.as_str(), pod.containers[0].name.as_str(), pod.containers[0].cpu_ids.len()), ("p", "n", "c", 0));
    let get = |name: &str| GetPodResourcesRequest { pod_name: name.into(), pod_namespace: "n".into() };
    let found: GetPodResourcesResponse = socket.unary("/v1.PodResourcesLister/Get", &get("p"), LIMIT).await.expect("it runs");
    assert_eq!(found.pod_resources.as_ref(), Some(pod));
    let missing = socket.unary::<_, GetPodResourcesResponse>("/v1.PodResourcesLister/Get", &get("q"), LIMIT).await.expect_err("no such pod");
    assert_eq!(missing.message, "pod q in namespace n not found");
    let all: AllocatableResourcesResponse = socket.unary("/v1.PodResourcesLister/GetAllocatableResources", &Empty {}, LIMIT).await.expect("told");
    assert_eq!(all, AllocatableResourcesResponse::default(), "without a static policy nothing is anybody's own");
}

#[tokio::test]
async fn pods_end_before_the_machine_goes_down_and_none_is_taken_meanwhile() {
    let node = node();
    let handle = node.run(plain("u1"), None);
    node.diary.has("start c-0").await;
    node.diary.has("status Running").await;
    let view = handle.view.clone();
    node.agent.pods.insert("u1", handle);
    let (mut logind, _folder) = crate::shutdown::tests::beside(node.agent.clone(), node.stop.clone());
    logind.say.send(true).expect("heard");
    while logind.heard.recv().await.expect("told") != "released" {}
    assert!(node.diary.position("stop c-0 9s").is_some(), "its own grace period is the shorter: {:#?}", node.diary.lines());
    let status = view.lock().expect("not poisoned").status.clone();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Terminated")));
    assert_eq!(status.message.as_deref(), Some("Pod was terminated in response to imminent node shutdown."));
    assert!(*node.agent.shutting_down.borrow());
    logind.say.send(false).expect("heard");
    let mut goes_down = node.agent.shutting_down.subscribe();
    goes_down.wait_for(|goes_down| !goes_down).await.expect("called off");
}
