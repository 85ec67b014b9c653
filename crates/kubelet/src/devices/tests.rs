//! The agent's side against a plugin of our own on a real socket.

use super::wire::*;
use super::*;
use crate::placement::{Placement, Settings};
use futures::StreamExt;
use futures::stream::BoxStream;
use keles_grpc::{Code, Server, Status};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const RESOURCE: &str = "example.com/thing";
const SOON: Duration = Duration::from_secs(10);

/// A plugin: what it offers, what it is asked.
struct Plugin {
    list: watch::Sender<Vec<wire::Device>>,
    asked: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
}

fn device(id: &str, health: &str, node: Option<i64>) -> wire::Device {
    wire::Device { id: id.into(), health: health.into(), topology: node.map(|id| TopologyInfo { nodes: vec![NumaNode { id }] }) }
}

impl Plugin {
    /// Serves at `name` in the folder and registers.
    async fn start(folder: &Path, name: &str, devices: Vec<wire::Device>) -> Self {
        let plugin = Self { list: watch::channel(devices).0, asked: Arc::default(), stop: CancellationToken::new() };
        let listener = tokio::net::UnixListener::bind(folder.join(name)).expect("a socket");
        tokio::spawn(plugin.server().serve_unix(listener, plugin.stop.clone()));
        plugin.register(folder, RESOURCE, name, VERSION).await.expect("registered");
        plugin
    }

    async fn register(&self, folder: &Path, resource: &str, name: &str, version: &str) -> Result<Empty, Status> {
        let request = RegisterRequest { version: version.into(), endpoint: name.into(), resource_name: resource.into(), options: None };
        Channel::unix(folder.join(plugins::SOCKET)).unary(REGISTER, &request, SOON).await
    }

    fn server(&self) -> Server {
        let (for_preferred, for_allocate, for_start) = (self.asked.clone(), self.asked.clone(), self.asked.clone());
        let list = self.list.clone();
        Server::new()
            .unary(OPTIONS, |_: Empty| async { Ok::<_, Status>(DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true }) })
            .server_streaming(LIST_AND_WATCH, move |_: Empty| {
                let list = list.subscribe();
                async move {
                    let first = list.borrow().clone();
                    let all = futures::stream::unfold((list, Some(first)), |(mut list, first)| async move {
                        let devices = match first {
                            Some(devices) => devices,
                            None => {
                                list.changed().await.ok()?;
                                list.borrow().clone()
                            }
                        };
                        Some((Ok(ListAndWatchResponse { devices }), (list, None)))
                    });
                    let all: BoxStream<'static, Result<ListAndWatchResponse, Status>> = all.boxed();
                    Ok::<_, Status>(all)
                }
            })
            .unary(PREFERRED, move |request: PreferredAllocationRequest| {
                let asked = for_preferred.clone();
                async move {
                    // The last ones, where the agent by itself would take the first.
                    let container = &request.container_requests[0];
                    asked.lock().expect("not poisoned").push(format!("preferred of {}", container.available_device_ids.join(",")));
                    let device_ids = container.available_device_ids.iter().rev().take(container.allocation_size as usize).cloned().collect();
                    Ok::<_, Status>(PreferredAllocationResponse { container_responses: vec![ContainerPreferredAllocationResponse { device_ids }] })
                }
            })
            .unary(ALLOCATE, move |request: AllocateRequest| {
                let asked = for_allocate.clone();
                async move {
                    let ids = request.container_requests[0].devices_ids.join(",");
                    asked.lock().expect("not poisoned").push(format!("allocate {ids}"));
                    if ids == "broken" {
                        return Err(Status::new(Code::Internal, "the device does not answer"));
                    }
                    let answer = ContainerAllocateResponse {
                        envs: BTreeMap::from([("THINGS".into(), ids)]),
                        mounts: vec![wire::Mount { container_path: "/things".into(), host_path: "/tmp".into(), read_only: true }],
                        devices: vec![DeviceSpec { container_path: "/dev/thing".into(), host_path: "/dev/null".into(), permissions: "rw".into() }],
                        annotations: BTreeMap::from([("example.com/a".into(), "b".into())]),
                        cdi_devices: vec![CdiDevice { name: "example.com/thing=x".into() }],
                    };
                    Ok(AllocateResponse { container_responses: vec![answer] })
                }
            })
            .unary(PRE_START, move |request: PreStartContainerRequest| {
                let asked = for_start.clone();
                async move {
                    asked.lock().expect("not poisoned").push(format!("start {}", request.devices_ids.join(",")));
                    Ok::<_, Status>(Empty {})
                }
            })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

/// The agent's side, and the folder that it shares with plugins.
struct World {
    placement: Placement,
    folder: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    async fn new() -> Self {
        let world = Self::at(tempfile::tempdir().expect("a folder"));
        world.until(|world| world.folder.path().join(plugins::SOCKET).exists()).await;
        world
    }

    fn at(folder: tempfile::TempDir) -> Self {
        let placement = Placement::open(folder.path(), folder.path(), &Settings::default(), crate::placement::machine::tests::machine(2, 1, 2, 1), 0, 0).expect("opens");
        let devices = placement.devices.clone();
        let stop = CancellationToken::new();
        let (serving, until) = (devices.clone(), stop.clone());
        tokio::spawn(async move { serving.serve(until).await.expect("served") });
        Self { placement, folder, stop }
    }

    fn devices(&self) -> &Devices {
        &self.placement.devices
    }

    /// Looks whenever a device changes, and now and then for the socket, which rings no bell.
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let mut changes = self.devices().changes();
        let wait = async {
            while !holds(self) {
                let _ = tokio::time::timeout(Duration::from_millis(20), changes.changed()).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("never came");
    }

    async fn counts(&self, all: usize, healthy: usize) {
        self.until(|world| world.devices().counts().get(RESOURCE) == Some(&(all, healthy))).await;
    }
}

fn pod(uid: &str, containers: &[(&str, usize)], inits: &[(&str, usize)]) -> Pod {
    let list = |all: &[(&str, usize)]| -> Vec<_> {
        all.iter().map(|(name, count)| json!({"name": name, "resources": {"limits": {RESOURCE: count.to_string()}, "requests": {RESOURCE: count.to_string()}}})).collect()
    };
    serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": {"initContainers": list(inits), "containers": list(containers)}})).expect("a pod")
}

fn held(world: &World, uid: &str, container: &str) -> Vec<String> {
    world.devices().of_container(uid, container).into_values().flatten().collect()
}

fn healthy(count: usize) -> Vec<wire::Device> {
    (0..count).map(|at| device(&format!("d{at}"), HEALTHY, None)).collect()
}

#[tokio::test]
async fn a_plugin_registers_and_its_devices_are_the_nodes() {
    let world = World::new().await;
    let plugin = Plugin::start(world.folder.path(), "p.sock", healthy(3)).await;
    world.counts(3, 3).await;
    plugin.list.send(vec![device("d0", HEALTHY, None), device("d1", "Unhealthy", None)]).expect("heard");
    world.counts(2, 1).await;
    let refused = plugin.register(world.folder.path(), RESOURCE, "p.sock", "v1alpha").await.expect_err("version");
    assert_eq!(refused.message, "requested API version \"v1alpha\" is not supported by kubelet. Supported versions are [\"v1beta1\"]");
    let refused = plugin.register(world.folder.path(), "cpu", "p.sock", VERSION).await.expect_err("name");
    assert_eq!(refused.message, "the ResourceName \"cpu\" is invalid");
    plugin.register(world.folder.path(), RESOURCE, "../p.sock", VERSION).await.expect_err("a way out of the folder");
}

#[tokio::test]
async fn a_container_gets_the_preferred_devices_and_what_the_plugin_adds() {
    let world = World::new().await;
    let plugin = Plugin::start(world.folder.path(), "p.sock", healthy(3)).await;
    world.counts(3, 3).await;
    world.placement.admit(&pod("u1", &[("c", 1)], &[])).await.expect("there is one");
    assert_eq!(held(&world, "u1", "c"), ["d2"]);
    let given = world.devices().for_container("u1", "c").await.expect("told");
    assert_eq!(given.env, [("THINGS".to_string(), "d2".to_string())]);
    assert_eq!((given.mounts[0].source.as_path(), given.mounts[0].read_only), (Path::new("/tmp"), true));
    assert_eq!((given.devices[0].container_path.as_path(), given.devices[0].permissions.as_str()), (Path::new("/dev/thing"), "rw"));
    assert_eq!((given.annotations["example.com/a"].as_str(), given.cdi), ("b", vec!["example.com/thing=x".to_string()]));
    assert_eq!(plugin.asked(), ["preferred of d0,d1,d2", "allocate d2", "start d2"]);
    // Again, as after a restart of the agent: it keeps what it has.
    world.placement.admit(&pod("u1", &[("c", 1)], &[])).await.expect("has it");
    assert_eq!(plugin.asked().len(), 3);
}

#[tokio::test]
async fn a_pod_for_which_none_is_left_is_refused_in_upstreams_words_and_takes_nothing() {
    let world = World::new().await;
    let _plugin = Plugin::start(world.folder.path(), "p.sock", healthy(2)).await;
    world.counts(2, 2).await;
    let refused = world.placement.admit(&pod("big", &[("a", 1), ("b", 2)], &[])).await.expect_err("too many");
    assert_eq!(refused.reason, "UnexpectedAdmissionError");
    assert_eq!(refused.message, "Allocate failed due to requested number of devices unavailable for example.com/thing. Requested: 2, Available: 1, which is unexpected");
    assert_eq!(held(&world, "big", "a"), Vec::<String>::new());
    world.placement.admit(&pod("u1", &[("c", 2)], &[])).await.expect("both are free");
    world.placement.release("u1");
    world.placement.admit(&pod("u2", &[("c", 2)], &[])).await.expect("both are free again");
}

#[tokio::test]
async fn a_plugin_that_fails_to_allocate_fails_the_pod_and_keeps_its_device() {
    let world = World::new().await;
    let _plugin = Plugin::start(world.folder.path(), "p.sock", vec![device("broken", HEALTHY, None)]).await;
    world.counts(1, 1).await;
    let refused = world.placement.admit(&pod("u1", &[("c", 1)], &[])).await.expect_err("broken");
    assert!(refused.message.contains("device plugin Allocate rpc failed") && refused.message.contains("the device does not answer"), "{}", refused.message);
    assert_eq!(held(&world, "u1", "c"), Vec::<String>::new());
}

#[tokio::test]
async fn an_init_containers_devices_are_taken_by_those_after_it() {
    let world = World::new().await;
    let _plugin = Plugin::start(world.folder.path(), "p.sock", healthy(2)).await;
    world.counts(2, 2).await;
    world.placement.admit(&pod("u1", &[("a", 1), ("b", 1)], &[("i", 2)])).await.expect("two do for three");
    let (a, b) = (held(&world, "u1", "a"), held(&world, "u1", "b"));
    assert_eq!((a.len(), b.len(), a != b, held(&world, "u1", "i").len()), (1, 1, true, 2));
}

#[tokio::test]
async fn allocations_outlive_the_agent_and_plugins_register_anew() {
    let world = World::new().await;
    let plugin = Plugin::start(world.folder.path(), "p.sock", healthy(2)).await;
    world.counts(2, 2).await;
    world.placement.admit(&pod("u1", &[("c", 1)], &[])).await.expect("there is one");
    plugin.stop.cancel();
    world.stop.cancel();
    let folder = tempfile::tempdir().expect("a folder");
    for name in [store::FILE, "stale.sock"] {
        std::fs::write(folder.path().join(name), std::fs::read(world.folder.path().join(store::FILE)).expect("kept")).expect("copied");
    }
    let again = World::at(folder);
    again.placement.retain(&std::collections::HashSet::from(["u1".to_string()]));
    again.placement.settle();
    again.until(|world| world.folder.path().join(plugins::SOCKET).exists()).await;
    assert!(!again.folder.path().join("stale.sock").exists(), "plugins see their sockets go");
    assert_eq!(again.devices().counts().get(RESOURCE), Some(&(0, 0)), "nobody has registered yet");
    assert_eq!(again.devices().for_container("u1", "c").await.expect("kept").env, [("THINGS".to_string(), "d1".to_string())]);
    let refused = again.placement.admit(&pod("u2", &[("c", 1)], &[])).await.expect_err("no plugin");
    assert_eq!(refused.message, "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices example.com/thing, which is unexpected");
    let _plugin = Plugin::start(again.folder.path(), "p.sock", healthy(2)).await;
    again.counts(2, 2).await;
    again.placement.admit(&pod("u2", &[("c", 1)], &[])).await.expect("the other one");
    assert_eq!(held(&again, "u2", "c"), ["d0"]);
}

#[tokio::test]
async fn without_a_checkpoint_resources_of_plugins_are_lost_until_they_register() {
    let world = World::new().await;
    let names = [RESOURCE.to_string(), "example.com/other".into(), "cpu".into(), "hugepages-2Mi".into()];
    let lost = |world: &World| world.devices().lost(names.iter()).into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(lost(&world), names[..2], "there was no checkpoint");
    let plugin = Plugin::start(world.folder.path(), "p.sock", healthy(1)).await;
    world.counts(1, 1).await;
    assert_eq!(lost(&world), names[1..2]);
    plugin.stop.cancel();
    world.stop.cancel();
    let checkpoint = std::fs::read(world.folder.path().join(store::FILE)).expect("kept");
    for (text, expected) in [(checkpoint, 0), (b"{".to_vec(), 2)] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(store::FILE), text).expect("written");
        assert_eq!(lost(&World::at(folder)).len(), expected, "a whole one loses nothing, a damaged one all");
    }
}

#[tokio::test]
async fn a_plugin_that_goes_leaves_unhealthy_devices_and_later_nothing() {
    let world = World::new().await;
    let plugin = Plugin::start(world.folder.path(), "p.sock", healthy(2)).await;
    world.counts(2, 2).await;
    world.placement.admit(&pod("u1", &[("c", 1)], &[])).await.expect("there is one");
    let shown = |world: &World| {
        let mut status: PodStatus =
            serde_json::from_value(json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0}]})).expect("a status");
        world.devices().show("u1", &mut status);
        serde_json::to_value(&status.container_statuses.expect("one")[0].allocated_resources_status).expect("JSON")
    };
    assert_eq!(shown(&world), json!([{"name": RESOURCE, "resources": [{"resourceID": "d1", "health": "Healthy"}]}]));
    plugin.list.send(vec![device("d1", "Unhealthy", None)]).expect("heard");
    world.counts(1, 0).await;
    assert_eq!(shown(&world)[0]["resources"][0]["health"], "Unhealthy");
    plugin.stop.cancel();
    world.until(|world| shown(world)[0]["resources"][0]["health"] == "Unknown").await;
    assert_eq!(world.devices().counts().get(RESOURCE), Some(&(1, 0)), "within its grace");
    world.devices().age(RESOURCE, GRACE);
    assert_eq!(world.devices().counts().get(RESOURCE), Some(&(0, 0)));
    world.placement.release("u1");
    let refused = world.placement.admit(&pod("u2", &[("c", 1)], &[])).await.expect_err("it must not run without");
    assert_eq!(refused.message, "Allocate failed due to cannot allocate unregistered device example.com/thing, which is unexpected");
}

#[tokio::test]
async fn devices_of_the_wished_numa_node_come_first() {
    let world = World::new().await;
    let all = vec![device("a0", HEALTHY, Some(0)), device("b1", HEALTHY, Some(1)), device("c0", HEALTHY, Some(0)), device("d1", HEALTHY, Some(1))];
    let _plugin = Plugin::start(world.folder.path(), "p.sock", all).await;
    world.counts(4, 4).await;
    let asking = pod("u1", &[("c", 2)], &[]);
    let container = &asking.spec.as_ref().expect("a spec").containers[0];
    let hints = world.devices().hints(&asking, container, &BTreeMap::new())[RESOURCE].clone().expect("they have nodes");
    let shown: Vec<_> = hints.iter().map(|hint| (hint.mask.map(NumaMask::nodes), hint.preferred)).collect();
    assert_eq!(shown, [(Some(vec![0]), true), (Some(vec![1]), true), (Some(vec![0, 1]), false)]);
    world.devices().allocate(&asking, container, Some(NumaMask::of([1])), &BTreeMap::new()).await.expect("two are there");
    assert_eq!(held(&world, "u1", "c"), ["b1", "d1"]);
}

#[test]
fn names_of_resources_are_a_foreign_domain_and_a_word() {
    for (name, is) in [
        ("example.com/x", true),
        ("nvidia.com/mig-1g.5gb", true),
        ("cpu", false),
        ("kubernetes.io/x", false),
        ("a.kubernetes.io/x", false),
        ("requests.x/y", false),
        ("x/", false),
        ("/x", false),
    ] {
        assert_eq!(is_extended(name), is, "{name}");
    }
}
