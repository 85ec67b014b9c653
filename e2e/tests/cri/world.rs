//! A server with a world of its own, the client that speaks to it, and what tests wait for.

use futures::StreamExt;
use keles_cri as cri;
use keles_grpc::{Channel, Status};
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

pub const INSIDE: &str = "KELES_TEST_INSIDE_NETNS";
/// Generous: the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(120);
pub const POLL: Duration = Duration::from_millis(50);
pub const HOST_PORT: i32 = 18080;
pub const GATEWAY: &str = "10.91.0.1";

/// Runs the named test again inside a new network namespace; true in the outer run.
pub fn outside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let me = std::env::current_exe().expect("a running test has a path");
    let script = format!("ip link set lo up && exec {} --exact cri::{test} --nocapture", me.display());
    let out = Command::new("unshare").args(["--net", "--", "sh", "-c", &script]).env(INSIDE, "1").output().expect("util-linux's unshare");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("test result: ok. 1 passed"), "{test} failed inside its namespace:\n{said}{}", String::from_utf8_lossy(&out.stderr));
    true
}

/// A server with a folder, a bridge and control groups of its own.
pub struct World {
    pub dir: tempfile::TempDir,
    pub bridge: String,
    pub server: Option<Child>,
    pub channel: Channel,
}

impl World {
    pub async fn start() -> World {
        let dir = tempfile::Builder::new().prefix("kcri").tempdir().expect("a folder");
        let channel = Channel::unix(dir.path().join("cri.sock"));
        let mut world = World { bridge: format!("kcri{}", std::process::id() % 100_000), dir, server: None, channel };
        world.serve().await;
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub async fn serve(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("server.log")).expect("a log");
        let mut command = Command::new(keles_e2e::keles());
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

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("server.log")).unwrap_or_default()
    }

    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("it runs");
        server.kill().expect("killed");
        server.wait().expect("gone");
    }

    pub async fn call<Q: prost::Message, A: prost::Message + Default>(&self, method: &str, request: Q) -> Result<A, Status> {
        self.channel.unary(method, &request, LIMIT).await
    }

    pub async fn ok<Q: prost::Message, A: prost::Message + Default>(&self, method: &str, request: Q) -> A {
        self.call(method, request).await.unwrap_or_else(|status| panic!("{method}: {status}\n{}", self.log()))
    }

    pub async fn refused<Q: prost::Message>(&self, method: &str, request: Q) -> Status {
        // Any message reads as an empty one of unknown fields.
        self.call::<Q, cri::StopContainerResponse>(method, request).await.err().unwrap_or_else(|| panic!("{method} succeeds"))
    }

    pub async fn exec(&self, container: &str, script: &str) -> cri::ExecSyncResponse {
        self.ok(cri::EXEC_SYNC, cri::ExecSyncRequest { container_id: container.into(), cmd: vec!["sh".into(), "-c".into(), script.into()], timeout: 0 }).await
    }

    pub async fn container(&self, id: &str) -> cri::ContainerStatus {
        let answer: cri::ContainerStatusResponse = self.ok(cri::CONTAINER_STATUS, cri::ContainerStatusRequest { container_id: id.into(), verbose: true }).await;
        assert!(answer.info.contains_key("info"));
        answer.status.expect("a status")
    }

    pub async fn sandbox(&self, id: &str) -> cri::PodSandboxStatus {
        let answer: cri::PodSandboxStatusResponse = self.ok(cri::POD_SANDBOX_STATUS, cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false }).await;
        answer.status.expect("a status")
    }

    pub fn sandbox_config(&self) -> cri::PodSandboxConfig {
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

    pub fn container_config(&self, name: &str, image: &str, script: &str) -> cri::ContainerConfig {
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

    pub async fn create(&self, sandbox: &str, config: cri::ContainerConfig) -> String {
        let request = cri::CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(config), sandbox_config: Some(self.sandbox_config()) };
        self.ok::<_, cri::CreateContainerResponse>(cri::CREATE_CONTAINER, request).await.container_id
    }

    pub async fn start_container(&self, id: &str) {
        let _: cri::StartContainerResponse = self.ok(cri::START_CONTAINER, cri::StartContainerRequest { container_id: id.into() }).await;
    }

    /// An image of the loopback registry; its id.
    pub async fn pulled(&self, registry: &Registry, name: &str, image: Image) -> String {
        registry.serve(name, "v1", &image.blobs());
        let spec = cri::ImageSpec { image: format!("{}/{name}:v1", registry.host), ..Default::default() };
        self.ok::<_, cri::PullImageResponse>(cri::PULL_IMAGE, cri::PullImageRequest { image: Some(spec), ..Default::default() }).await.image_ref
    }

    /// A sandbox without host ports, changed.
    pub async fn run(&self, change: impl FnOnce(&mut cri::PodSandboxConfig, &mut cri::LinuxSandboxSecurityContext)) -> String {
        let mut config = self.sandbox_config();
        config.port_mappings.clear();
        let mut linux = config.linux.take().expect("there");
        change(&mut config, linux.security_context.as_mut().expect("there"));
        config.linux = Some(linux);
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: "keles".into() };
        self.ok::<_, cri::RunPodSandboxResponse>(cri::RUN_POD_SANDBOX, request).await.pod_sandbox_id
    }

    /// A container that runs.
    pub async fn started(&self, sandbox: &str, config: cri::ContainerConfig) -> String {
        let id = self.create(sandbox, config).await;
        self.start_container(&id).await;
        id
    }

    /// What a command prints in it.
    pub async fn said(&self, container: &str, script: &str) -> String {
        String::from_utf8(self.exec(container, script).await.stdout).expect("text")
    }

    pub async fn remove_sandbox(&self, id: &str) {
        let _: cri::RemovePodSandboxResponse = self.ok(cri::REMOVE_POD_SANDBOX, cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() }).await;
    }

    pub async fn events(&self) -> keles_grpc::Streaming<cri::ContainerEventResponse> {
        self.channel.server_streaming(cri::GET_CONTAINER_EVENTS, &cri::GetEventsRequest {}).await.expect("a stream")
    }

    /// Mounts, processes, interfaces and control groups that belong to this world.
    pub fn leftovers(&self) -> Vec<String> {
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
    pub fn groups(&self) -> Vec<PathBuf> {
        // Whole names: another world's may begin alike.
        let (top, below) = (format!("*/keles-{}", self.bridge), format!("*/keles-{}/*", self.bridge));
        let found = Command::new("find").args(["/sys/fs/cgroup", "-depth", "-type", "d", "(", "-path", &top, "-o", "-path", &below, ")"]).output().expect("find");
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
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
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
pub fn log_text(path: &Path) -> String {
    let raw = std::fs::read_to_string(path).unwrap_or_default();
    raw.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect::<Vec<_>>().join("\n")
}

pub async fn logged(path: &Path, word: &str) {
    until(word, async || {
        let text = log_text(path);
        if text.contains(word) { Ok(()) } else { Err(format!("{}: {text:?}", path.display())) }
    })
    .await;
}

/// A WebSocket to a URL of the streaming server.
pub async fn websocket(url: &str, protocol: &'static str) -> Result<WebSocketStream<TcpStream>, tokio_tungstenite::tungstenite::Error> {
    let rest = url.strip_prefix("http://").expect("an http URL");
    let tcp = TcpStream::connect(rest.split('/').next().expect("an address")).await.expect("the streaming server listens");
    let mut request = format!("ws://{rest}").into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().expect("a header"));
    tokio_tungstenite::client_async(request, tcp).await.map(|(socket, _)| socket)
}

/// Reads until the channel has said `word`, or the other end closes; all that came by channel.
pub async fn read_until(socket: &mut WebSocketStream<TcpStream>, channel: u8, word: &str) -> BTreeMap<u8, Vec<u8>> {
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

pub async fn http_get(address: &str) -> Result<String, String> {
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
pub async fn expect_events(events: &mut keles_grpc::Streaming<cri::ContainerEventResponse>, wanted: &[(&str, cri::ContainerEventType)]) -> Vec<cri::ContainerEventResponse> {
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

pub async fn ends_and_leaves_nothing(mut w: World) {
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
