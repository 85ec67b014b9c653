//! The control plane in one process with hollow nodes, for tests: the real API server and store, controllers and scheduler; nodes that say their
//! pods run without running anything.
//!
//! Entry point: [`World::start`]. Tests wait for states by watching ([`World::until`]), never by sleeping. Each part speaks as its own user, so what
//! works here works under RBAC. Deliberately absent: containers, packets, TCP.

use jiff::{Timestamp, Unit};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keles_apiserver::{ApiServer, Config};
use keles_auth::User;
use keles_client::{Change, Informer, Informers, Scope, Watched, in_process};
use keles_store::Store;
use keles_store::embedded::{Embedded, Options as StoreOptions};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
/// A node renews its lease this often, and is silent after [`NODE_GRACE`].
const RENEWAL: Duration = Duration::from_millis(300);
pub const NODE_GRACE: Duration = Duration::from_secs(4);
pub const ROOT_CA: &str = "-----BEGIN CERTIFICATE-----\nsim\n-----END CERTIFICATE-----\n";

pub struct World {
    server: ApiServer,
    pub admin: kube::Client,
    informers: Informers,
    stop: CancellationToken,
    addresses: Arc<AtomicU32>,
    _folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    pub async fn start() -> World {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Embedded::open(&folder.path().join("store"), StoreOptions::default()).expect("a store of our own");
        World::over(folder, store).await
    }
    /// Over a store of the test's own, which lies in the folder.
    pub async fn over(folder: tempfile::TempDir, store: Arc<dyn Store>) -> World {
        let server = ApiServer::start(Config::new(folder.path()), store).await.expect("the server starts");
        let stop = CancellationToken::new();
        let admin = client(&server, "sim-admin", &["system:masters"]);
        let options = keles_controllers::Options { root_ca: ROOT_CA.into(), node_grace: NODE_GRACE, ..Default::default() };
        let for_controllers = server.clone();
        tokio::spawn(keles_controllers::run(move |user| named(&for_controllers, user), options, stop.clone()));
        tokio::spawn(keles_scheduler::run(client(&server, "system:kube-scheduler", &[]), keles_scheduler::Options::default(), stop.clone()));
        let informers = Informers::new(admin.clone(), stop.child_token());
        World { server, admin, informers, stop, addresses: Arc::default(), _folder: folder }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.admin.clone(), "default")
    }
    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Watched + kube::Resource<Scope = NamespaceResourceScope> + serde::Serialize,
        K::DynamicType: Default,
    {
        let object: K = serde_json::from_value(object).expect("the test's object is of its kind");
        self.seen(self.api().create(&PostParams::default(), &object).await.expect("the object is accepted"))
    }
    pub async fn patch<K>(&self, name: &str, patch: Value) -> K
    where
        K: Watched + kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        self.seen(self.api().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("the patch is accepted"))
    }
    /// A test that waits after a write must not be content with the state before it.
    fn seen<K>(&self, object: K) -> K
    where
        K: Watched + kube::Resource,
        K::DynamicType: Default,
    {
        self.informers.of::<K>().acknowledge(object.clone());
        object
    }
    /// Every object of a kind, live.
    pub async fn watch<K>(&self) -> Informer<K>
    where
        K: Watched + kube::Resource,
        K::DynamicType: Default,
    {
        let informer = self.informers.of::<K>();
        assert!(informer.synced().await, "the world runs");
        informer
    }
    /// Waits until the objects of a kind are as wanted; says what they were when that never comes.
    pub async fn until<K>(&self, what: &str, done: impl Fn(&[Arc<K>]) -> bool)
    where
        K: Watched + kube::Resource + serde::Serialize,
        K::DynamicType: Default,
    {
        let informer = self.watch::<K>().await;
        let mut version = informer.version();
        let waiting = async {
            while !done(&informer.list()) {
                version.changed().await.expect("the informer outlives the wait");
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("never came: {what}; there is {}", serde_json::to_string_pretty(&informer.list()).expect("API types always encode"));
        }
    }

    /// A node that runs nothing and says everything runs. Pods whose image contains `broken` never get ready.
    pub async fn node(&self, name: &str) -> HollowNode {
        let user = client(&self.server, &format!("system:node:{name}"), &["system:nodes"]);
        let allocatable = json!({"cpu": "16", "memory": "64Gi", "pods": "2000"});
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "status": {"allocatable": allocatable, "capacity": allocatable, "conditions": node_conditions()}});
        let nodes: Api<Node> = Api::all(self.admin.clone());
        nodes.create(&PostParams::default(), &serde_json::from_value(node).expect("a node")).await.expect("the node registers");
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(json!({"status": {"conditions": node_conditions()}}))).await.expect("the node says it is ready");
        let stop = self.stop.child_token();
        let hollow = HollowNode { stop: stop.clone() };
        tokio::spawn(stop.clone().run_until_cancelled_owned(renew(user, name.to_owned())));
        let scope = Scope::fields(&format!("spec.nodeName={name}"));
        let pods = Informers::new(self.admin.clone(), stop.clone()).scoped::<Pod>(scope);
        tokio::spawn(stop.run_until_cancelled_owned(keep_pods(pods, self.admin.clone(), self.addresses.clone())));
        hollow
    }
}

fn client(server: &ApiServer, name: &str, groups: &[&str]) -> kube::Client {
    let user = User { name: name.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect(), ..User::default() };
    in_process(server.service_for(user))
}
fn named(server: &ApiServer, user: &str) -> kube::Client {
    let groups: &[&str] = if user.starts_with("system:serviceaccount:") { &["system:serviceaccounts", "system:serviceaccounts:kube-system"] } else { &[] };
    client(server, user, groups)
}

pub struct HollowNode {
    stop: CancellationToken,
}

impl HollowNode {
    /// The node says nothing any more, and its pods are nobody's.
    pub fn fall_silent(&self) {
        self.stop.cancel();
    }
}

fn second() -> Time {
    let now = Timestamp::now();
    Time(now.round(Unit::Second).unwrap_or(now))
}
fn node_conditions() -> Value {
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Sim", "lastHeartbeatTime": second(), "lastTransitionTime": second()});
    json!([condition("Ready", "True"), condition("MemoryPressure", "False"), condition("DiskPressure", "False"), condition("PIDPressure", "False")])
}

async fn renew(user: kube::Client, name: String) {
    let leases: Api<Lease> = Api::namespaced(user, "kube-node-lease");
    let spec = || json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now())});
    let lease = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec()})).expect("a lease");
    leases.create(&PostParams::default(), &lease).await.expect("a node may make its lease");
    loop {
        tokio::time::sleep(RENEWAL).await;
        leases.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec()}))).await.expect("a node may renew its lease");
    }
}

async fn keep_pods(pods: Informer<Pod>, api: kube::Client, addresses: Arc<AtomicU32>) {
    let mut changes = pods.subscribe();
    while let Some(change) = changes.recv().await {
        let (Change::Added(pod) | Change::Modified { new: pod, .. }) = &change else { continue };
        let name = pod.metadata.name.clone().unwrap_or_default();
        let own: Api<Pod> = Api::namespaced(api.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
        if pod.metadata.deletion_timestamp.is_some() {
            // Gone already is as good.
            let _ = own.delete(&name, &DeleteParams { grace_period_seconds: Some(0), ..Default::default() }).await;
        } else if pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).is_none() {
            let _ = own.patch_status(&name, &PatchParams::default(), &Patch::Strategic(running(pod, addresses.fetch_add(1, Ordering::Relaxed)))).await;
        }
    }
}

fn running(pod: &Pod, address: u32) -> Value {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let ready = !containers.iter().any(|container| container.image.as_deref().is_some_and(|image| image.contains("broken")));
    let ip = format!("10.42.{}.{}", address / 250, address % 250 + 1);
    let status = if ready { "True" } else { "False" };
    json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": second(), "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": second()}]}})
}
