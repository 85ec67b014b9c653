//! What a container gets of the node for itself: devices of a plugin, whole processors.

use keles_e2e::pod_resources;
use keles_e2e::{Cluster, WEB, skip, until};
use keles_grpc::{Channel, Server, Status};
use prost::Message;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct RegisterRequest {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    endpoint: String,
    #[prost(string, tag = "3")]
    resource_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    health: String,
}

#[derive(Clone, PartialEq, Message)]
struct Devices {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
}

#[derive(Clone, PartialEq, Message)]
struct Ids {
    #[prost(string, repeated, tag = "1")]
    ids: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct AllocateRequest {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Ids>,
}

#[derive(Clone, PartialEq, Message)]
struct Mount {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(bool, tag = "3")]
    read_only: bool,
}

#[derive(Clone, PartialEq, Message)]
struct DeviceSpec {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(string, tag = "3")]
    permissions: String,
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(btree_map = "string, string", tag = "1")]
    envs: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "2")]
    mounts: Vec<Mount>,
    #[prost(message, repeated, tag = "3")]
    devices: Vec<DeviceSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct AllocateResponse {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Answer>,
}

/// A device plugin with one device, the host's /dev/full under another name; like any plugin it registers again whenever its socket goes.
struct Plugin {
    folder: PathBuf,
    shown: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Plugin {
    const SOCKET: &str = "thing.sock";

    fn register(&self) {
        let _inside = self.runtime.enter();
        let _ = std::fs::remove_file(self.folder.join(Self::SOCKET));
        let listener = tokio::net::UnixListener::bind(self.folder.join(Self::SOCKET)).expect("a socket");
        self.runtime.spawn(self.server().serve_unix(listener, CancellationToken::new()));
        let request = RegisterRequest { version: "v1beta1".into(), endpoint: Self::SOCKET.into(), resource_name: "example.com/thing".into() };
        let kubelet = Channel::unix(self.folder.join("kubelet.sock"));
        until("the registration", SOON, || {
            let call = kubelet.unary::<_, Empty>("/v1beta1.Registration/Register", &request, SOON);
            self.runtime.block_on(call).map_err(|status| status.to_string())
        });
    }

    fn server(&self) -> Server {
        let shown = self.shown.display().to_string();
        Server::new()
            .unary("/v1beta1.DevicePlugin/GetDevicePluginOptions", |_: Empty| async { Ok::<_, Status>(Empty {}) })
            .server_streaming("/v1beta1.DevicePlugin/ListAndWatch", |_: Empty| async {
                use futures::StreamExt;
                let list = Devices { devices: vec![Device { id: "one".into(), health: "Healthy".into() }] };
                Ok::<_, Status>(futures::stream::once(async move { Ok(list) }).chain(futures::stream::pending()).boxed())
            })
            .unary("/v1beta1.DevicePlugin/Allocate", move |request: AllocateRequest| {
                let shown = shown.clone();
                async move {
                    let answer = Answer {
                        envs: BTreeMap::from([("THING".into(), request.containers[0].ids.join(","))]),
                        mounts: vec![Mount { container_path: "/thing".into(), host_path: shown, read_only: true }],
                        devices: vec![DeviceSpec { container_path: "/dev/thing".into(), host_path: "/dev/full".into(), permissions: "rw".into() }],
                    };
                    Ok::<_, Status>(AllocateResponse { containers: vec![answer] })
                }
            })
    }
}

fn plugin(c: &Cluster) -> Plugin {
    let shown = c.dir.path().join("thing");
    std::fs::create_dir(&shown).expect("a folder");
    std::fs::write(shown.join("hello"), "from the plugin\n").expect("written");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    Plugin { folder: c.data().join("device-plugins"), shown, runtime }
}

fn pod(name: &str, node: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: c, image: "{WEB}", resources: {{limits: {{example.com/thing: "1"}}}}}}]
"#
    )
}

fn capacity(c: &Cluster, wanted: &str) {
    until("the node's things", SOON, || {
        let status = c.json(&["get", "node", Cluster::NODE])["status"].clone();
        let (all, free) = (&status["capacity"]["example.com/thing"], &status["allocatable"]["example.com/thing"]);
        if all == wanted && free == wanted { Ok(()) } else { Err(format!("{all} {free}")) }
    });
}

#[test]
fn a_pod_gets_a_plugins_device_keeps_it_over_kill_9_and_a_second_is_refused() {
    if skip() {
        return;
    }
    let mut c = Cluster::start();
    let plugin = plugin(&c);
    plugin.register();
    capacity(&c, "1");
    c.apply(&pod("first", ""));
    c.wait_ready("first");
    let holds = |c: &Cluster| {
        assert_eq!(c.exec_again("first", &["sh", "-c", "echo $THING; cat /thing/hello"]), "one\nfrom the plugin\n");
        let writes = c.exec(
            "first",
            &["sh", "-c", "test -c /dev/thing && head -c 3 /dev/thing | wc -c; echo x 2>/dev/null >/dev/thing || echo full; touch /thing/x 2>/dev/null || echo read-only"],
        );
        assert_eq!(writes.split_whitespace().collect::<Vec<_>>(), ["3", "full", "read-only"]);
    };
    holds(&c);
    let devices = listed(&c, "first").devices;
    assert_eq!(devices, [pod_resources::Devices { resource: "example.com/thing".into(), ids: vec!["one".into()] }]);
    let status = c.json(&["get", "pod", "first"])["status"]["containerStatuses"][0]["allocatedResourcesStatus"].clone();
    assert_eq!(status, serde_json::json!([{"name": "example.com/thing", "resources": [{"health": "Healthy", "resourceID": "one"}]}]));
    refused(&c, "second");

    c.kill_server();
    c.start_server();
    until("the plugin's socket to go", SOON, || if plugin.folder.join(Plugin::SOCKET).exists() { Err("it is there") } else { Ok(()) }.map_err(str::to_owned));
    capacity(&c, "0");
    plugin.register();
    capacity(&c, "1");
    holds(&c);
    assert_eq!(c.json(&["get", "pod", "first"])["status"]["containerStatuses"][0]["restartCount"], 0);
    refused(&c, "third");
    c.kubectl(&["delete", "pod", "first"]);
    c.apply(&pod("fourth", &format!("nodeName: {}", Cluster::NODE)));
    c.wait_ready("fourth");

    // As a machine that was made anew under its old name: the API still has the resource of the one before.
    c.kill_server();
    std::fs::remove_file(plugin.folder.join("kubelet_internal_checkpoint")).expect("there was one");
    c.start_server();
    capacity(&c, "0");
    plugin.register();
    capacity(&c, "1");
}

/// What the pod-resources socket says of a pod's only container.
fn listed(c: &Cluster, pod: &str) -> pod_resources::Container {
    pod_resources::containers(c, pod).into_iter().next().expect("its container")
}

/// The processors that a container may run on, as the kernel has it.
fn allowed(c: &Cluster, pod: &str) -> String {
    let status = c.exec_again(pod, &["grep", "Cpus_allowed_list", "/proc/1/status"]);
    status.split_whitespace().last().unwrap_or_default().to_owned()
}

fn runs_on(c: &Cluster, pod: &str, cpus: &str) {
    until(&format!("{pod} on {cpus}"), SOON, || {
        let now = allowed(c, pod);
        if now == cpus { Ok(()) } else { Err(now) }
    });
}

fn with_cpu(name: &str, resources: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{{name: c, image: "{WEB}", resources: {resources}}}]
"#
    )
}

#[test]
fn a_whole_cpu_of_a_guaranteed_pod_is_its_own_and_comes_back() {
    let all = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("the kernel's list").trim().to_owned();
    if skip() || all == "0" {
        return;
    }
    let mut c = Cluster::start();
    c.kill_server();
    // Upstream's rule: a node that changes its policy gives up what it knew.
    std::fs::remove_file(c.data().join("cpu_manager_state")).expect("the none policy's");
    c.flags = ["--cpu-manager-policy=static", "--reserved-cpus=0", "--topology-manager-policy=single-numa-node"].map(str::to_owned).to_vec();
    c.start_server();
    c.apply(&with_cpu("shared", "{}"));
    c.wait_ready("shared");
    runs_on(&c, "shared", &all);
    c.apply(&with_cpu("own", r#"{limits: {cpu: "1", memory: 64Mi}}"#));
    c.wait_ready("own");
    let own = allowed(&c, "own");
    assert!(own.parse::<usize>().is_ok_and(|cpu| cpu > 0), "one, and not the reserved one: {own}");
    assert_eq!(listed(&c, "own").cpu_ids, [own.parse::<i64>().expect("a number")]);
    assert!(listed(&c, "shared").cpu_ids.is_empty());
    let quota = c.exec("own", &["sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max"]);
    assert!(["-1", "max"].contains(&quota.trim()), "its own needs no quota: {quota}");
    let without = until("the others to leave it", SOON, || {
        let now = allowed(&c, "shared");
        if now == all { Err(now) } else { Ok(now) }
    });
    assert!(!without.split(',').any(|part| part == own), "{without}");

    c.kill_server();
    c.start_server();
    c.kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=30s"]);
    assert_eq!((allowed(&c, "own"), listed(&c, "own").cpu_ids.len()), (own, 1));
    c.kubectl(&["delete", "pod", "own"]);
    runs_on(&c, "shared", &all);
}

/// Bound past the scheduler, which would leave it pending.
fn refused(c: &Cluster, name: &str) {
    c.apply(&pod(name, &format!("nodeName: {}", Cluster::NODE)));
    let status = until("the refusal", SOON, || {
        let status = c.json(&["get", "pod", name])["status"].clone();
        if status["phase"] == "Failed" { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(status["reason"], "UnexpectedAdmissionError");
    let said = "Pod was rejected: Allocate failed due to requested number of devices unavailable for example.com/thing. Requested: 1, Available: 0, which is unexpected";
    assert_eq!(status["message"], said);
    c.kubectl(&["delete", "pod", name]);
}
