//! `keles cri` as a node agent and crictl use it: a client of runtime.v1 over the real socket, with real containers and network. The test runs itself
//! again in a network namespace of its own, so that the machine's interfaces, routes and rules stay untouched.

use futures::{SinkExt, StreamExt};
use keles_cri as cri;
use keles_e2e::skip;
use keles_grpc::{Channel, Code, Status};
use keles_testkit::image::Image;
use keles_testkit::registry::Registry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const INSIDE: &str = "KELES_TEST_INSIDE_NETNS";
/// Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
const HOST_PORT: i32 = 18080;
const GATEWAY: &str = "10.91.0.1";

/// Runs the named test again inside a new network namespace; true in the outer run.
fn outside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let me = std::env::current_exe().expect("a running test has a path");
    let script = format!("ip link set lo up && exec {} --exact {test} --nocapture", me.display());
    let status = Command::new("unshare").args(["--net", "--", "sh", "-c", &script]).env(INSIDE, "1").status().expect("util-linux's unshare");
    assert!(status.success(), "{test} failed inside its namespace");
    true
}

/// A server with a folder, a bridge and control groups of its own.
struct World {
    dir: tempfile::TempDir,
    bridge: String,
    server: Option<Child>,
    channel: Channel,
}

impl World {
    async fn start() -> World {
        let dir = tempfile::Builder::new().prefix("kcri").tempdir().expect("a folder");
        let channel = Channel::unix(dir.path().join("cri.sock"));
        let mut world = World { bridge: format!("kcri{}", std::process::id() % 100_000), dir, server: None, channel };
        world.serve().await;
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn serve(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("server.log")).expect("a log");
        let keles = std::env::var_os("KELES").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/keles"), PathBuf::from);
        let mut command = Command::new(keles);
        command.arg("cri").arg("--data-dir").arg(self.path("data")).arg("--listen").arg(self.path("cri.sock"));
        command.args(["--bridge", &self.bridge, "--cluster-cidr", "10.91.0.0/16", "--service-cidr", "10.92.0.0/16"]).arg("--registries").arg(self.path("registries.yaml"));
        self.server = Some(command.stdin(Stdio::null()).stdout(log.try_clone().expect("a copy")).stderr(log).spawn().expect("keles starts"));
        self.channel = Channel::unix(self.path("cri.sock"));
        let end = Instant::now() + LIMIT;
        while let Err(status) = self.call::<_, cri::VersionResponse>(cri::VERSION, cri::VersionRequest::default()).await {
            assert!(Instant::now() < end, "{status}\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("server.log")).unwrap_or_default()
    }

    fn kill(&mut self) {
        let mut server = self.server.take().expect("it runs");
        server.kill().expect("killed");
        server.wait().expect("gone");
    }

    async fn call<Q: prost::Message, A: prost::Message + Default>(&self, method: &str, request: Q) -> Result<A, Status> {
        self.channel.unary(method, &request, LIMIT).await
    }

    async fn ok<Q: prost::Message, A: prost::Message + Default>(&self, method: &str, request: Q) -> A {
        self.call(method, request).await.unwrap_or_else(|status| panic!("{method}: {status}\n{}", self.log()))
    }

    async fn refused<Q: prost::Message>(&self, method: &str, request: Q) -> Status {
        // Any message reads as an empty one of unknown fields.
        self.call::<Q, cri::StopContainerResponse>(method, request).await.err().unwrap_or_else(|| panic!("{method} succeeds"))
    }

    async fn exec(&self, container: &str, script: &str) -> cri::ExecSyncResponse {
        self.ok(cri::EXEC_SYNC, cri::ExecSyncRequest { container_id: container.into(), cmd: vec!["sh".into(), "-c".into(), script.into()], timeout: 0 }).await
    }

    async fn container(&self, id: &str) -> cri::ContainerStatus {
        let answer: cri::ContainerStatusResponse = self.ok(cri::CONTAINER_STATUS, cri::ContainerStatusRequest { container_id: id.into(), verbose: true }).await;
        assert!(answer.info.contains_key("info"));
        answer.status.expect("a status")
    }

    async fn sandbox(&self, id: &str) -> cri::PodSandboxStatus {
        let answer: cri::PodSandboxStatusResponse = self.ok(cri::POD_SANDBOX_STATUS, cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false }).await;
        answer.status.expect("a status")
    }

    fn sandbox_config(&self) -> cri::PodSandboxConfig {
        let metadata = cri::PodSandboxMetadata { name: "web".into(), uid: "uid-1".into(), namespace: "default".into(), attempt: 0 };
        let options = cri::NamespaceOption { pid: cri::NamespaceMode::Container as i32, ..Default::default() };
        let security = cri::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        cri::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: "web-host".into(),
            log_directory: self.path("logs").display().to_string(),
            dns_config: Some(cri::DnsConfig { servers: vec!["192.0.2.53".into()], searches: vec!["a.example".into()], options: vec!["ndots:5".into()] }),
            port_mappings: vec![cri::PortMapping { container_port: 8000, host_port: HOST_PORT, ..Default::default() }],
            labels: BTreeMap::from([("app".into(), "web".into())]),
            annotations: BTreeMap::from([("note".into(), "kept as it is".into())]),
            linux: Some(cri::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() }),
        }
    }

    fn container_config(&self, name: &str, image: &str, script: &str) -> cri::ContainerConfig {
        let options = cri::NamespaceOption { pid: cri::NamespaceMode::Container as i32, ..Default::default() };
        let security = cri::LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
            command: vec!["sh".into(), "-c".into(), script.into()],
            labels: BTreeMap::from([("name".into(), name.into())]),
            annotations: BTreeMap::from([("of".into(), name.into())]),
            log_path: format!("{name}/0.log"),
            linux: Some(cri::LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
            ..Default::default()
        }
    }

    async fn create(&self, sandbox: &str, config: cri::ContainerConfig) -> String {
        let request = cri::CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(config), sandbox_config: Some(self.sandbox_config()) };
        self.ok::<_, cri::CreateContainerResponse>(cri::CREATE_CONTAINER, request).await.container_id
    }

    async fn start_container(&self, id: &str) {
        let _: cri::StartContainerResponse = self.ok(cri::START_CONTAINER, cri::StartContainerRequest { container_id: id.into() }).await;
    }

    async fn events(&self) -> keles_grpc::Streaming<cri::ContainerEventResponse> {
        self.channel.server_streaming(cri::GET_CONTAINER_EVENTS, &cri::GetEventsRequest {}).await.expect("a stream")
    }

    /// Mounts, processes, interfaces and control groups that belong to this world.
    fn leftovers(&self) -> Vec<String> {
        let here = self.dir.path().display().to_string();
        let mut found: Vec<String> = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts").lines().filter(|l| l.contains(&here)).map(|l| format!("mount {l}")).collect();
        for entry in std::fs::read_dir("/proc").expect("processes").flatten() {
            let read = |file: &str| std::fs::read(entry.path().join(file)).map(|b| String::from_utf8_lossy(&b).replace('\0', " ")).unwrap_or_default();
            if read("cmdline").contains(&here) || read("cgroup").contains(&format!("/keles-{}/", self.bridge)) {
                found.push(format!("process {} {}", entry.path().display(), read("cmdline")));
            }
        }
        let links = Command::new("ip").args(["-o", "link", "show", "type", "veth"]).output().expect("iproute2");
        found.extend(String::from_utf8_lossy(&links.stdout).lines().map(|l| format!("interface {l}")));
        found.extend(self.groups().into_iter().filter(|g| g.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cri-"))).map(|g| format!("cgroup {}", g.display())));
        found
    }

    /// Inner ones first.
    fn groups(&self) -> Vec<PathBuf> {
        let found = Command::new("find").args(["/sys/fs/cgroup", "-depth", "-type", "d", "-path", &format!("*/keles-{}*", self.bridge)]).output().expect("find");
        String::from_utf8_lossy(&found.stdout).lines().map(PathBuf::from).collect()
    }
}

impl Drop for World {
    /// After a failed test too the machine stays clean.
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let groups = self.groups();
        for group in &groups {
            let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            for pid in members.lines() {
                let _ = Command::new("kill").args(["-9", pid]).status();
            }
        }
        let here = self.dir.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for place in mounts.lines().filter(|l| l.contains(&here)).filter_map(|l| l.split(' ').nth(4)) {
            let _ = Command::new("umount").args(["-l", place]).status();
        }
        let end = Instant::now() + Duration::from_secs(20);
        while groups.iter().any(|g| g.exists()) && Instant::now() < end {
            groups.iter().for_each(|g| _ = std::fs::remove_dir(g));
            std::thread::sleep(POLL);
        }
    }
}

/// Waits for what may come late.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < end, "{what} does not come: {why}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The words of a log without times and tags.
fn log_text(path: &Path) -> String {
    let raw = std::fs::read_to_string(path).unwrap_or_default();
    raw.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect::<Vec<_>>().join("\n")
}

async fn logged(path: &Path, word: &str) {
    until(word, async || {
        let text = log_text(path);
        if text.contains(word) { Ok(()) } else { Err(format!("{}: {text:?}", path.display())) }
    })
    .await;
}

/// A WebSocket to a URL of the streaming server.
async fn websocket(url: &str, protocol: &'static str) -> Result<WebSocketStream<TcpStream>, tokio_tungstenite::tungstenite::Error> {
    let rest = url.strip_prefix("http://").expect("an http URL");
    let tcp = TcpStream::connect(rest.split('/').next().expect("an address")).await.expect("the streaming server listens");
    let mut request = format!("ws://{rest}").into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().expect("a header"));
    tokio_tungstenite::client_async(request, tcp).await.map(|(socket, _)| socket)
}

/// Reads until the channel has said `word`, or the other end closes; all that came by channel.
async fn read_until(socket: &mut WebSocketStream<TcpStream>, channel: u8, word: &str) -> BTreeMap<u8, Vec<u8>> {
    let mut said: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let read = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(bytes) = message
                && let Some((from, rest)) = bytes.split_first()
            {
                said.entry(*from).or_default().extend(rest);
            }
            if said.get(&channel).is_some_and(|bytes| String::from_utf8_lossy(bytes).contains(word)) {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, read).await.expect("it is said in time");
    said
}

async fn http_get(address: &str) -> Result<String, String> {
    let get = async {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        tcp.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    tokio::time::timeout(LIMIT, get).await.map_err(|_| "too late".to_owned())?.map_err(|error| error.to_string())
}

/// Takes events until those that are wanted, of an id and a kind, have come in this order.
async fn expect_events(events: &mut keles_grpc::Streaming<cri::ContainerEventResponse>, wanted: &[(&str, cri::ContainerEventType)]) -> Vec<cri::ContainerEventResponse> {
    let mut came = Vec::new();
    for (id, kind) in wanted {
        loop {
            let next = tokio::time::timeout(LIMIT, events.message()).await.unwrap_or_else(|_| panic!("{kind:?} of {id} does not come after {came:?}"));
            let event = next.expect("a good stream").expect("it goes on");
            let fits = event.container_id == *id && event.container_event_type() == *kind;
            came.push(event);
            if fits {
                break;
            }
        }
    }
    came
}

#[test]
fn a_pod_lives_its_whole_life_over_the_socket() {
    if skip() || outside("a_pod_lives_its_whole_life_over_the_socket") {
        return;
    }
    tokio::runtime::Runtime::new().expect("a runtime").block_on(whole_life());
}

async fn whole_life() {
    use cri::ContainerEventType::{Created, Deleted, Started, Stopped};
    let registry = Registry::start().await;
    registry.serve("e2e/busybox", "v1", &Image::new().busybox().expect("busybox-static").env("FROM=image").blobs());
    // base64 of user:password
    registry.demand_basic(&["dXNlcjpwYXNzd29yZA=="]);
    let mut w = World::start().await;
    the_runtime_says_what_it_is(&w).await;
    let image = format!("{}/e2e/busybox:v1", registry.host);
    let image_id = an_image_is_pulled_with_credentials(&w, &image).await;

    let mut events = w.events().await;
    let run = cri::RunPodSandboxRequest { config: Some(w.sandbox_config()), runtime_handler: String::new() };
    let sandbox = w.ok::<_, cri::RunPodSandboxResponse>(cri::RUN_POD_SANDBOX, run.clone()).await.pod_sandbox_id;
    assert_eq!(w.refused(cri::RUN_POD_SANDBOX, run).await.code, Code::AlreadyExists);
    let shown = w.sandbox(&sandbox).await;
    let ip = shown.network.as_ref().expect("a network").ip.clone();
    assert!(ip.starts_with("10.91.0."), "{ip}");
    assert_eq!((shown.state(), shown.labels["app"].as_str(), &shown.annotations), (cri::PodSandboxState::Ready, "web", &w.sandbox_config().annotations));

    let web = w.container_config("web", &image, "echo hello > /tmp/index.html; echo started from $FROM; exec httpd -f -p 8000 -h /tmp");
    let web = w.create(&sandbox, web).await;
    let cat = cri::ContainerConfig { stdin: true, ..w.container_config("cat", &image_id, "echo ready; exec cat") };
    let again = cri::CreateContainerRequest { pod_sandbox_id: sandbox.clone(), config: Some(cat.clone()), sandbox_config: None };
    let cat = w.create(&sandbox, cat).await;
    assert_eq!(w.refused(cri::CREATE_CONTAINER, again).await.code, Code::AlreadyExists);
    w.start_container(&web).await;
    w.start_container(&cat).await;
    let status = w.container(&web).await;
    assert_eq!((status.state(), &status.image_id, status.annotations["of"].as_str()), (cri::ContainerState::Running, &image_id, "web"));
    assert_eq!(status.image.as_ref().expect("an image").image, image);
    assert_eq!(status.user.and_then(|user| user.linux).map(|user| (user.uid, user.gid)), Some((0, 0)));
    logged(Path::new(&status.log_path), "started from image").await;
    expect_events(&mut events, &[(&sandbox, Created), (&sandbox, Started), (&web, Created), (&web, Started), (&cat, Started)]).await;

    commands_run_in_the_container(&w, &web).await;
    lists_and_filters(&w, &sandbox, &web).await;
    streams_are_joined(&w, &sandbox, &web, &cat).await;
    until("the host port", async || http_get(&format!("{GATEWAY}:{HOST_PORT}")).await.and_then(|text| if text.ends_with("hello\n") { Ok(()) } else { Err(text) })).await;
    figures_are_told(&w, &sandbox, &web).await;
    a_rotated_log_is_opened_anew(&w, &cat).await;
    let limits = cri::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    let _: cri::UpdateContainerResourcesResponse =
        w.ok(cri::UPDATE_CONTAINER_RESOURCES, cri::UpdateContainerResourcesRequest { container_id: web.clone(), linux: Some(limits), ..Default::default() }).await;

    let before = (w.container(&web).await, w.sandbox(&sandbox).await);
    w.kill();
    assert!(http_get(&format!("{ip}:8000")).await.expect("the pod runs without the server").ends_with("hello\n"));
    w.serve().await;
    assert_eq!((w.container(&web).await, w.sandbox(&sandbox).await), before, "taken up as it was");
    assert_eq!(before.0.resources.and_then(|r| r.linux).map(|r| r.memory_limit_in_bytes), Some(64 << 20));
    assert_eq!(w.exec(&web, "hostname").await.stdout, b"web-host\n");
    assert!(http_get(&format!("{GATEWAY}:{HOST_PORT}")).await.expect("the host port").ends_with("hello\n"));

    let mut events = w.events().await;
    let stop = cri::StopContainerRequest { container_id: web.clone(), timeout: 0 };
    for _ in 0..2 {
        let _: cri::StopContainerResponse = w.ok(cri::STOP_CONTAINER, stop.clone()).await;
    }
    let ended = w.container(&web).await;
    assert_eq!((ended.state(), ended.exit_code, ended.finished_at >= ended.started_at), (cri::ContainerState::Exited, 137, true));
    for _ in 0..2 {
        let _: cri::RemoveContainerResponse = w.ok(cri::REMOVE_CONTAINER, cri::RemoveContainerRequest { container_id: web.clone() }).await;
    }
    assert_eq!(w.refused(cri::CONTAINER_STATUS, cri::ContainerStatusRequest { container_id: web.clone(), verbose: false }).await.code, Code::NotFound);
    for _ in 0..2 {
        let _: cri::StopPodSandboxResponse = w.ok(cri::STOP_POD_SANDBOX, cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await;
    }
    assert_eq!((w.sandbox(&sandbox).await.state(), w.container(&cat).await.state()), (cri::PodSandboxState::Notready, cri::ContainerState::Exited));
    for _ in 0..2 {
        let _: cri::RemovePodSandboxResponse = w.ok(cri::REMOVE_POD_SANDBOX, cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await;
    }
    let came = expect_events(&mut events, &[(&web, Stopped), (&web, Deleted), (&sandbox, Stopped), (&sandbox, Deleted)]).await;
    assert!(came.iter().any(|event| event.container_id == cat && event.container_event_type() == Deleted), "{came:?}");
    assert_eq!(w.refused(cri::POD_SANDBOX_STATUS, cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox, verbose: false }).await.code, Code::NotFound);
    let spec = cri::ImageSpec { image, ..Default::default() };
    for _ in 0..2 {
        let _: cri::RemoveImageResponse = w.ok(cri::REMOVE_IMAGE, cri::RemoveImageRequest { image: Some(spec.clone()) }).await;
    }
    let left: cri::ListImagesResponse = w.ok(cri::LIST_IMAGES, cri::ListImagesRequest::default()).await;
    assert_eq!(left.images, []);
    drop(events);
    ends_and_leaves_nothing(w).await;
}

async fn ends_and_leaves_nothing(mut w: World) {
    let mut server = w.server.take().expect("it runs");
    assert!(Command::new("kill").arg(server.id().to_string()).status().expect("kill").success());
    until("the server's end", async || server.try_wait().expect("ours").map(|status| assert!(status.success(), "{status}")).ok_or_else(|| "it runs".to_owned())).await;
    until("nothing left", async || {
        let left = w.leftovers();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert!(!w.path("cri.sock").exists());
}

async fn the_runtime_says_what_it_is(w: &World) {
    let version: cri::VersionResponse = w.ok(cri::VERSION, cri::VersionRequest::default()).await;
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("keles", "v1"));
    let status: cri::StatusResponse = w.ok(cri::STATUS, cri::StatusRequest { verbose: true }).await;
    let conditions: Vec<(String, bool)> = status.status.expect("a status").conditions.into_iter().map(|c| (c.r#type, c.status)).collect();
    assert_eq!(conditions, [("RuntimeReady".to_owned(), true), ("NetworkReady".to_owned(), true)]);
    assert!(status.info["config"].contains("10.91.0.0/24"), "{:?}", status.info);
    let config: cri::RuntimeConfigResponse = w.ok(cri::RUNTIME_CONFIG, cri::RuntimeConfigRequest {}).await;
    assert_eq!(config.linux.expect("linux").cgroup_driver(), cri::CgroupDriver::Cgroupfs);
    let range =
        |pod_cidr: &str| cri::UpdateRuntimeConfigRequest { runtime_config: Some(cri::UpdatedConfig { network_config: Some(cri::NetworkConfig { pod_cidr: pod_cidr.into() }) }) };
    let _: cri::UpdateRuntimeConfigResponse = w.ok(cri::UPDATE_RUNTIME_CONFIG, range("10.91.0.0/24")).await;
    assert_eq!(w.refused(cri::UPDATE_RUNTIME_CONFIG, range("10.99.0.0/24")).await.code, Code::FailedPrecondition);
}

async fn an_image_is_pulled_with_credentials(w: &World, image: &str) -> String {
    let spec = Some(cri::ImageSpec { image: image.into(), ..Default::default() });
    let without = cri::PullImageRequest { image: spec.clone(), ..Default::default() };
    assert_eq!(w.refused(cri::PULL_IMAGE, without).await.code, Code::PermissionDenied);
    let auth = cri::AuthConfig { username: "user".into(), password: "password".into(), ..Default::default() };
    let pulled: cri::PullImageResponse = w.ok(cri::PULL_IMAGE, cri::PullImageRequest { image: spec.clone(), auth: Some(auth), sandbox_config: None }).await;
    let found: cri::ImageStatusResponse = w.ok(cri::IMAGE_STATUS, cri::ImageStatusRequest { image: spec, verbose: true }).await;
    let shown = found.image.expect("it is here");
    assert_eq!((&shown.id, shown.repo_tags.as_slice(), shown.size > 0), (&pulled.image_ref, [image.to_owned()].as_slice(), true));
    assert!(found.info["info"].contains("FROM=image"));
    let absent: cri::ImageStatusResponse =
        w.ok(cri::IMAGE_STATUS, cri::ImageStatusRequest { image: Some(cri::ImageSpec { image: "absent:1".into(), ..Default::default() }), verbose: false }).await;
    assert_eq!(absent.image, None);
    let disk: cri::ImageFsInfoResponse = w.ok(cri::IMAGE_FS_INFO, cri::ImageFsInfoRequest {}).await;
    assert!(disk.image_filesystems[0].used_bytes.as_ref().is_some_and(|used| used.value > 0));
    pulled.image_ref
}

async fn commands_run_in_the_container(w: &World, web: &str) {
    let files = w.exec(web, "cat /etc/resolv.conf /etc/hostname; grep -c localhost /etc/hosts > /dev/null && echo hosts >&2").await;
    assert_eq!(String::from_utf8_lossy(&files.stdout), "search a.example\nnameserver 192.0.2.53\noptions ndots:5\nweb-host\n");
    assert_eq!((files.stderr.as_slice(), files.exit_code), (b"hosts\n".as_slice(), 0));
    assert_eq!(w.exec(web, "exit 3").await.exit_code, 3);
    let slow = cri::ExecSyncRequest { container_id: web.into(), cmd: vec!["sleep".into(), "600".into()], timeout: 1 };
    assert_eq!(w.refused(cri::EXEC_SYNC, slow).await.code, Code::DeadlineExceeded);
    assert_eq!(w.refused(cri::CHECKPOINT_CONTAINER, cri::CheckpointContainerRequest { container_id: web.into(), ..Default::default() }).await.code, Code::Unimplemented);
    assert_eq!(w.exec(&web[..12], "true").await.exit_code, 0, "an id may be shortened");
}

async fn lists_and_filters(w: &World, sandbox: &str, web: &str) {
    let by = |label_selector: &[(&str, &str)], state: cri::ContainerState| cri::ContainerFilter {
        state: Some(cri::ContainerStateValue { state: state as i32 }),
        pod_sandbox_id: sandbox.into(),
        label_selector: label_selector.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Default::default()
    };
    let list = async |filter| w.ok::<_, cri::ListContainersResponse>(cri::LIST_CONTAINERS, cri::ListContainersRequest { filter: Some(filter) }).await.containers;
    assert_eq!(list(by(&[("name", "web")], cri::ContainerState::Running)).await.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), [web]);
    assert_eq!(list(by(&[], cri::ContainerState::Running)).await.len(), 2);
    assert_eq!(list(by(&[], cri::ContainerState::Exited)).await.len(), 0);
    let mut stream = w.channel.server_streaming::<_, cri::StreamContainersResponse>(cri::STREAM_CONTAINERS, &cri::StreamContainersRequest::default()).await.expect("a stream");
    let mut streamed = 0;
    while let Some(some) = stream.message().await.expect("a good stream") {
        streamed += some.containers.len();
    }
    assert_eq!(streamed, 2);
    let ready = cri::PodSandboxFilter { state: Some(cri::PodSandboxStateValue { state: cri::PodSandboxState::Ready as i32 }), ..Default::default() };
    let pods: cri::ListPodSandboxResponse = w.ok(cri::LIST_POD_SANDBOX, cri::ListPodSandboxRequest { filter: Some(ready) }).await;
    assert_eq!(pods.items.iter().map(|pod| pod.id.as_str()).collect::<Vec<_>>(), [sandbox]);
}

async fn streams_are_joined(w: &World, sandbox: &str, web: &str, cat: &str) {
    let request = cri::ExecRequest { container_id: web.into(), cmd: vec!["sh".into(), "-c".into(), "cat; exit 7".into()], stdin: true, stdout: true, ..Default::default() };
    let url = w.ok::<_, cri::ExecResponse>(cri::EXEC, request).await.url;
    let mut socket = websocket(&url, "v5.channel.k8s.io").await.expect("switches");
    socket.send(Message::binary(b"\x00to the command".to_vec())).await.expect("sent");
    // Channel 255 closes another.
    socket.send(Message::binary(vec![255, 0])).await.expect("sent");
    let said = read_until(&mut socket, 3, "\"status\"").await;
    assert_eq!(String::from_utf8_lossy(&said[&1]), "to the command");
    let end: serde_json::Value = serde_json::from_slice(&said[&3]).expect("a Status");
    assert_eq!(end["details"]["causes"][0]["message"], "7", "{end}");
    assert!(websocket(&url, "v5.channel.k8s.io").await.is_err(), "a URL is good once");

    let request = cri::AttachRequest { container_id: cat.into(), stdin: true, stdout: true, ..Default::default() };
    let url = w.ok::<_, cri::AttachResponse>(cri::ATTACH, request).await.url;
    let mut socket = websocket(&url, "v4.channel.k8s.io").await.expect("switches");
    socket.send(Message::binary(b"\x00hello cat\n".to_vec())).await.expect("sent");
    let said = read_until(&mut socket, 1, "hello cat").await;
    assert!(String::from_utf8_lossy(&said[&1]).contains("hello cat"));
    drop(socket);

    let url = w.ok::<_, cri::PortForwardResponse>(cri::PORT_FORWARD, cri::PortForwardRequest { pod_sandbox_id: sandbox.into(), port: vec![8000] }).await.url;
    let mut socket = websocket(&url, "v4.channel.k8s.io").await.expect("switches");
    socket.send(Message::binary(b"\x00GET /index.html HTTP/1.0\r\n\r\n".to_vec())).await.expect("sent");
    let said = read_until(&mut socket, 0, "hello").await;
    assert_eq!(said[&0][..2], 8000u16.to_le_bytes(), "the port comes first");
    assert!(String::from_utf8_lossy(&said[&0]).ends_with("hello\n"));
}

async fn figures_are_told(w: &World, sandbox: &str, web: &str) {
    let one: cri::ContainerStatsResponse = w.ok(cri::CONTAINER_STATS, cri::ContainerStatsRequest { container_id: web.into() }).await;
    let one = one.stats.expect("figures");
    assert!(one.cpu.expect("cpu").usage_core_nano_seconds.is_some_and(|ns| ns.value > 0));
    assert!(one.memory.expect("memory").usage_bytes.is_some_and(|bytes| bytes.value > 0));
    assert!(one.writable_layer.expect("a layer").used_bytes.is_some_and(|bytes| bytes.value > 0), "index.html");
    let all: cri::ListContainerStatsResponse = w.ok(cri::LIST_CONTAINER_STATS, cri::ListContainerStatsRequest::default()).await;
    assert_eq!(all.stats.len(), 2);
    let pods: cri::ListPodSandboxStatsResponse = w.ok(cri::LIST_POD_SANDBOX_STATS, cri::ListPodSandboxStatsRequest::default()).await;
    let pod = pods.stats[0].linux.clone().expect("linux");
    assert_eq!((pods.stats[0].attributes.as_ref().expect("whose").id.as_str(), pod.containers.len()), (sandbox, 2));
    let interface = pod.network.expect("a network").default_interface.expect("eth0");
    assert!(interface.rx_bytes.is_some_and(|bytes| bytes.value > 0), "{interface:?}", interface = interface.name);
    let described: cri::ListMetricDescriptorsResponse = w.ok(cri::LIST_METRIC_DESCRIPTORS, cri::ListMetricDescriptorsRequest {}).await;
    let metrics: cri::ListPodSandboxMetricsResponse = w.ok(cri::LIST_POD_SANDBOX_METRICS, cri::ListPodSandboxMetricsRequest {}).await;
    let of_pod = &metrics.pod_metrics[0];
    for metric in of_pod.metrics.iter().chain(of_pod.container_metrics.iter().flat_map(|of| &of.metrics)) {
        let about = described.descriptors.iter().find(|about| about.name == metric.name).unwrap_or_else(|| panic!("{} is not described", metric.name));
        assert_eq!(about.label_keys.len(), metric.label_values.len(), "{}", metric.name);
    }
    assert!(of_pod.metrics.iter().any(|metric| metric.name == "container_network_receive_bytes_total"));
}

async fn a_rotated_log_is_opened_anew(w: &World, cat: &str) {
    let log = PathBuf::from(w.container(cat).await.log_path);
    logged(&log, "hello cat").await;
    std::fs::rename(&log, log.with_extension("old")).expect("renamed");
    let _: cri::ReopenContainerLogResponse = w.ok(cri::REOPEN_CONTAINER_LOG, cri::ReopenContainerLogRequest { container_id: cat.into() }).await;
    let url = w.ok::<_, cri::AttachResponse>(cri::ATTACH, cri::AttachRequest { container_id: cat.into(), stdin: true, stdout: true, ..Default::default() }).await.url;
    let mut socket = websocket(&url, "v4.channel.k8s.io").await.expect("switches");
    socket.send(Message::binary(b"\x00after rotation\n".to_vec())).await.expect("sent");
    logged(&log, "after rotation").await;
}

#[test]
fn what_a_message_asks_in_vain_is_named_and_leaves_nothing() {
    if skip() || outside("what_a_message_asks_in_vain_is_named_and_leaves_nothing") {
        return;
    }
    tokio::runtime::Runtime::new().expect("a runtime").block_on(in_vain());
}

async fn in_vain() {
    let w = World::start().await;
    let run = |change: fn(&mut cri::PodSandboxConfig)| {
        let mut config = w.sandbox_config();
        change(&mut config);
        cri::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
    };
    let kata = cri::RunPodSandboxRequest { runtime_handler: "kata".into(), ..run(|_| ()) };
    assert!(w.refused(cri::RUN_POD_SANDBOX, kata).await.message.contains("kata"));
    assert!(w.refused(cri::RUN_POD_SANDBOX, run(|config| config.hostname.clear())).await.message.contains("hostname"));
    assert!(w.refused(cri::RUN_POD_SANDBOX, run(|config| config.port_mappings[0].host_port = 70_000)).await.message.contains("70000"));
    // The second with the same port on the host is told whose it is; with the host's network no address is taken.
    let first = w.ok::<_, cri::RunPodSandboxResponse>(cri::RUN_POD_SANDBOX, run(|_| ())).await.pod_sandbox_id;
    let next = |config: &mut cri::PodSandboxConfig| config.metadata.as_mut().expect("there").attempt = 1;
    assert!(w.refused(cri::RUN_POD_SANDBOX, run(next)).await.message.contains(&first));
    let absent = cri::CreateContainerRequest { pod_sandbox_id: first.clone(), config: Some(w.container_config("c", "absent:1", "true")), sandbox_config: None };
    assert_eq!(w.refused(cri::CREATE_CONTAINER, absent).await.code, Code::NotFound);
    // An id that nobody has: removing and stopping it is done, asking for it is not.
    let nobody = "f".repeat(64);
    let _: cri::StopPodSandboxResponse = w.ok(cri::STOP_POD_SANDBOX, cri::StopPodSandboxRequest { pod_sandbox_id: nobody.clone() }).await;
    let _: cri::RemoveContainerResponse = w.ok(cri::REMOVE_CONTAINER, cri::RemoveContainerRequest { container_id: nobody.clone() }).await;
    assert_eq!(w.refused(cri::START_CONTAINER, cri::StartContainerRequest { container_id: nobody.clone() }).await.code, Code::NotFound);
    assert_eq!(w.refused(cri::PORT_FORWARD, cri::PortForwardRequest { pod_sandbox_id: nobody, port: vec![80] }).await.code, Code::NotFound);
    assert_eq!(w.refused("/runtime.v1.RuntimeService/NoSuchMethod", cri::VersionRequest::default()).await.code, Code::Unimplemented);
    let pods: cri::ListPodSandboxResponse = w.ok(cri::LIST_POD_SANDBOX, cri::ListPodSandboxRequest::default()).await;
    assert_eq!(pods.items.iter().map(|pod| pod.id.clone()).collect::<Vec<_>>(), [first.clone()], "what was refused left no sandbox");
    let _: cri::RemovePodSandboxResponse = w.ok(cri::REMOVE_POD_SANDBOX, cri::RemovePodSandboxRequest { pod_sandbox_id: first }).await;
    ends_and_leaves_nothing(w).await;
}
