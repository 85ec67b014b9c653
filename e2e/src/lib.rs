//! A one-node cluster of the binary under test, in one process or in parts, for tests: its own data folder, ports, bridge and cgroup; driven by
//! kubectl alone.
//!
//! Entry point: [`Cluster::start`]. When a cluster is dropped its pods are deleted, the server is stopped, and
//! [`Cluster::leftovers`] must be empty: a test that leaks fails. Where kubectl is missing, tests say so and pass, unless
//! `KELES_TEST_NO_SKIP` is set, as CI sets it.

pub mod api;
pub mod conformance;
pub mod csi_driver;
pub mod dra_driver;
pub mod plugin;
pub mod pod_resources;
pub mod transcript;

use keles_testkit::image::Image;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Name of the image every cluster of the tests has: busybox, serving its pod's name on port 8000.
pub const WEB: &str = "e2e/web:v1";
/// The same, saying v2.
pub const WEB2: &str = "e2e/web:v2";
const START: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub port: u16,
    kubelet_port: u16,
    /// Of the agent's /healthz without TLS.
    pub health_port: u16,
    shape: Shape,
    /// Further flags of `keles server`, for its next start.
    pub flags: Vec<String>,
    network: Network,
    has_own_disk: bool,
    server: Option<Child>,
    /// Of a cluster in parts: everything but the API server, by role.
    parts: Vec<(&'static str, Child)>,
}

/// Bridge and ranges of the cluster: its own, or those of `KELES_TEST_NETWORK` (`BRIDGE PODS SERVICES`) where several checkouts are tested at once.
struct Network {
    bridge: String,
    pods: String,
    services: String,
}

impl Network {
    fn of_environment() -> Network {
        let asked = std::env::var("KELES_TEST_NETWORK").unwrap_or_else(|_| format!("{} {} {}", Cluster::BRIDGE, Cluster::PODS, Cluster::SERVICES));
        let mut words = asked.split_whitespace().map(str::to_owned);
        let mut next = || words.next().expect("KELES_TEST_NETWORK names bridge, pods' range and services' range");
        Network { bridge: next(), pods: next(), services: next() }
    }
}

/// How a cluster is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `keles server`.
    Whole,
    /// A process and a kubeconfig a part.
    InParts,
    /// `keles server` without an agent, and a node that joins it.
    Joined,
}

/// True when the test cannot run here; says why. CI turns that into a failure.
pub fn skip() -> bool {
    skip_without(&[])
}

/// The same where a test needs more than the others: files and what puts them there.
pub fn skip_without(files: &[(&Path, &'static str)]) -> bool {
    let mut missing: Vec<&str> = files.iter().filter(|(file, _)| !file.exists()).map(|(_, remedy)| *remedy).collect();
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        missing.push("kubectl is not installed");
    }
    if !Path::new(keles_testkit::image::BUSYBOX).exists() {
        missing.push("Debian's busybox-static is not installed (make deps)");
    }
    if !Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n") {
        missing.push("not root");
    }
    if missing.is_empty() {
        return false;
    }
    assert!(std::env::var_os("KELES_TEST_NO_SKIP").is_none(), "must not be skipped here: {missing:?}");
    eprintln!("SKIPPED: {}", missing.join(", "));
    true
}

/// Every version of kubectl on this machine, oldest first: `kubectl.1.N` beside kubectl, or kubectl alone where there are none.
pub fn kubectls() -> Vec<PathBuf> {
    let found = std::env::var_os("PATH").and_then(|p| std::env::split_paths(&p).map(|d| d.join("kubectl")).find(|f| f.exists()));
    let kubectl = found.and_then(|f| f.canonicalize().ok()).expect("kubectl, as skip() looked for it");
    let versions: Vec<PathBuf> = (0..100).map(|minor| kubectl.with_file_name(format!("kubectl.1.{minor}"))).filter(|f| f.exists()).collect();
    if versions.is_empty() { vec![kubectl] } else { versions }
}

/// Where `make deps` puts the clients of other languages.
pub fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients")
}

/// Runs flows of another language's client; what they print is the failure.
pub fn play(mut flows: Command) {
    let out = flows.stdin(Stdio::null()).output().expect("the interpreter starts");
    assert!(out.status.success(), "{flows:?}:\n{}{}", text(&out), String::from_utf8_lossy(&out.stderr));
}

/// The binary under test: `$KELES`, or the one of the profile and target folder that the tests themselves were built with.
pub fn keles() -> PathBuf {
    std::env::var_os("KELES").map_or_else(|| built("keles"), PathBuf::from)
}

/// A binary of this workspace beside the tests' (`target/PROFILE/deps/TEST`).
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a file");
    let profile = test.parent().and_then(Path::parent).expect("cargo's folders");
    profile.join(name)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

fn text(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}

/// What [`WEB`] is, with these variables.
pub fn web_image(env: &[(&str, &str)]) -> Image {
    let script = r#"mkdir -p /www && echo "$VERSION $(hostname)" > /www/index.html && echo "serving $VERSION" && exec httpd -f -v -p 8000 -h /www"#;
    let image = env.iter().fold(Image::new(), |i, (k, v)| i.env(&format!("{k}={v}")));
    image.busybox().expect("busybox").command(&["sh", "-c", script]).expose(8000)
}

/// Tries until `f` gives something; the last failure is in the panic's text.
pub fn until<T>(what: &str, limit: Duration, mut f: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + limit;
    loop {
        match f() {
            Ok(v) => return v,
            Err(e) => assert!(Instant::now() < end, "{what}: not within {limit:?}: {e}"),
        }
        std::thread::sleep(POLL);
    }
}

impl Cluster {
    pub const BRIDGE: &str = "ke2e";
    pub const NODE: &str = "e2e";
    const PODS: &str = "10.244.0.0/16";
    const SERVICES: &str = "10.245.0.0/16";
    const SCHEDULER: &str = "scheduler";
    const CONTROLLERS: &str = "controller-manager";
    pub const PROXY: &str = "proxy";
    pub const KUBELET: &str = "kubelet";

    /// Starts a server and waits for its node; the images [`WEB`] and [`WEB2`] are loaded.
    pub fn start() -> Cluster {
        Self::start_as(Shape::Whole)
    }
    /// The same with every part a process of its own, each with a kubeconfig of its own user. There is no cluster DNS.
    pub fn start_in_parts() -> Cluster {
        Self::start_as(Shape::InParts)
    }
    /// Of a whole server with further flags and no images: another's runtime has those.
    pub fn start_with(flags: &[&str]) -> Cluster {
        let mut c = Self::with_flags(Shape::Whole, flags);
        c.start_server();
        c.await_node();
        c
    }
    /// Of a whole server with further flags, whose data lies on a disk of its own (a tmpfs) of so many MiB; image [`WEB`] is loaded.
    pub fn start_on_small_disk(mib: u32, flags: &[&str]) -> Cluster {
        let mut c = Self::with_flags(Shape::Whole, flags);
        std::fs::create_dir(c.data()).expect("a folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "keles-e2e"]).arg(c.data()).status().expect("mount");
        assert!(mounted.success(), "no tmpfs");
        c.has_own_disk = true;
        c.start_server();
        c.load(WEB, &[("VERSION", "v1")]);
        c.await_node();
        c
    }
    /// A control plane with further flags, which [`Cluster::join`] gives a node; the images are loaded.
    pub fn start_without_node(flags: &[&str]) -> Cluster {
        let mut c = Self::with_flags(Shape::Joined, flags);
        c.start_server();
        c.load(WEB, &[("VERSION", "v1")]);
        c
    }
    fn new(shape: Shape) -> Cluster {
        let dir = tempfile::Builder::new().prefix("keles-e2e-").tempdir().expect("a folder");
        let (port, kubelet_port, health_port) = (free_port(), free_port(), free_port());
        Cluster { dir, port, kubelet_port, health_port, shape, network: Network::of_environment(), flags: Vec::new(), server: None, parts: Vec::new(), has_own_disk: false }
    }
    fn with_flags(shape: Shape, flags: &[&str]) -> Cluster {
        let mut c = Self::new(shape);
        c.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        c
    }
    fn start_as(shape: Shape) -> Cluster {
        let mut c = Self::new(shape);
        c.start_server();
        for (name, version) in [(WEB, "v1"), (WEB2, "v2")] {
            c.load(name, &[("VERSION", version)]);
        }
        c.await_node();
        c
    }
    fn await_node(&self) {
        let c = self;
        until("the node's object", START, || c.try_kubectl(&["get", "node", Self::NODE]));
        c.kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"]);
        until("the default service account", START, || c.try_kubectl(&["get", "serviceaccount", "default"]));
    }
    /// How full the disk below all clusters is must not decide a test. Where the test says itself when a node is short, it is as the test says.
    fn disk_flags(&self) -> &'static [&'static str] {
        const UNTIL_IT_IS_FULL: &[&str] = &["--eviction-hard=imagefs.available<64Mi,memory.available<100Mi,nodefs.available<64Mi", "--image-gc-high-threshold=100"];
        let is_told = self.has_own_disk || self.flags.iter().any(|flag| flag.starts_with("--eviction-hard="));
        if is_told { &[] } else { UNTIL_IT_IS_FULL }
    }
    fn load(&self, name: &str, env: &[(&str, &str)]) {
        let archive = self.dir.path().join("image.tar");
        web_image(env).write(name, &archive).expect("writes");
        let out = Command::new(keles()).args(["load", "-i"]).arg(&archive).arg("--data-dir").arg(self.data()).output().expect("the binary under test");
        assert!(out.status.success(), "keles load: {}", String::from_utf8_lossy(&out.stderr));
    }
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default()
    }
    /// Runs `keles ARGS` to its end; what it printed.
    pub fn keles(&self, args: &[&str]) -> String {
        let out = Command::new(keles()).args(args).arg("--data-dir").arg(self.data()).output().expect("the binary under test");
        assert!(out.status.success(), "keles {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
        text(&out)
    }
    fn spawn_keles(&self, args: &[&str]) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("server.log")).expect("a log");
        Command::new(keles()).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the binary under test")
    }
    /// Starts the server, or all parts, on this cluster's data and waits until the API is ready.
    pub fn start_server(&mut self) {
        let (port, kubelet_port, data, kubeconfig) =
            (self.port.to_string(), self.kubelet_port.to_string(), self.data().display().to_string(), self.kubeconfig().display().to_string());
        let api = ["--https-listen-port", &port, "--service-cidr", &self.network.services, "--data-dir", &data, "--write-kubeconfig", &kubeconfig];
        let health = format!("--healthz-port={}", self.health_port);
        let node = ["--bridge", &self.network.bridge, "--cluster-cidr", &self.network.pods, "--node-name", Self::NODE, "--kubelet-port", &kubelet_port, &health];
        let further: Vec<&str> = self.disk_flags().iter().copied().chain(self.flags.iter().map(String::as_str)).collect();
        self.server = Some(match self.shape {
            Shape::Whole => self.spawn_keles(&[&["server"][..], &api, &node, &further].concat()),
            Shape::Joined => self.spawn_keles(&[&["server", "--disable-agent"][..], &api, &node, &further].concat()),
            Shape::InParts => self.spawn_keles(&[&["apiserver"][..], &api].concat()),
        });
        until("the server's readiness", START, || {
            let ended = self.server.as_mut().and_then(|s| s.try_wait().ok().flatten());
            assert!(ended.is_none(), "the server ended: {ended:?}\n{}", self.log());
            match self.try_kubectl(&["get", "--raw", "/readyz"]) {
                Ok(s) if s.trim() == "ok" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        if self.shape == Shape::InParts {
            for part in [Self::SCHEDULER, Self::CONTROLLERS, Self::PROXY, Self::KUBELET] {
                self.start_part(part);
            }
        }
    }
    /// Starts one part beside the API server, as the user that upstream runs it as.
    pub fn start_part(&mut self, part: &'static str) {
        let node = format!("system:node:{}", Self::NODE);
        let credentials = |file: &str, user: &str, org: &[&str]| {
            let path = self.dir.path().join(format!("{file}.kubeconfig")).display().to_string();
            let server = format!("https://127.0.0.1:{}", self.port);
            std::fs::write(&path, self.keles(&[&["kubeconfig", "--client-name", user, "--server", &server], org].concat())).expect("written");
            path
        };
        let certificates = self.dir.path().join("node-certificates").display().to_string();
        let (network, name) =
            (["--bridge", &self.network.bridge, "--cluster-cidr", &self.network.pods, "--service-cidr", &self.network.services], ["--hostname-override", Self::NODE]);
        let child = match part {
            Self::PROXY => {
                let (own, node) = (credentials("proxy", "system:kube-proxy", &[]), credentials("node", &node, &["--org", "system:nodes"]));
                self.spawn_keles(
                    &[&["proxy", "--metrics-bind-address=", "--healthz-bind-address=", "--kubeconfig", &own, "--node-kubeconfig", &node][..], &network, &name].concat(),
                )
            }
            Self::KUBELET => {
                let own = credentials("node", &node, &["--org", "system:nodes"]);
                self.keles(&["certificate", "--node-name", Self::NODE, "--cert-dir", &certificates]);
                let (certificate, key) = (format!("{certificates}/kubelet.crt"), format!("{certificates}/kubelet.key"));
                let (data, port) = (self.data().display().to_string(), self.kubelet_port.to_string());
                let health = format!("--healthz-port={}", self.health_port);
                let files = ["--tls-cert-file", &certificate, "--tls-private-key-file", &key, "--root-dir", &data, "--port", &port, &health];
                self.spawn_keles(&[&["kubelet", "--kubeconfig", &own][..], &network, &name, &files, self.disk_flags()].concat())
            }
            // Several clusters run at once: nothing listens on upstream's fixed ports.
            other => self.spawn_keles(&[other, "--secure-port=0", "--kubeconfig", &credentials(other, &format!("system:kube-{other}"), &[])]),
        };
        self.parts.push((part, child));
    }
    /// Where [`Cluster::join`] has the node agent keep its certificates.
    pub fn certificates(&self) -> PathBuf {
        self.dir.path().join("certificates")
    }
    /// Starts a node agent as kubeadm does: it has nothing but a bootstrap token, asks for its certificates, and reads a KubeletConfiguration, to which
    /// `settings` (YAML) are added; waits for its node.
    pub fn join(&mut self, token: &str, settings: &str) {
        let cluster = self.json(&["config", "view", "--raw"])["clusters"][0]["cluster"].clone();
        let bootstrap = serde_json::json!({
            "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x",
        });
        let at = |file: &str| self.dir.path().join(file).display().to_string();
        std::fs::write(at("bootstrap"), bootstrap.to_string()).expect("written");
        let configuration = format!(
            "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nrotateCertificates: true\nserverTLSBootstrap: true\nport: {}\nhealthzPort: {}\n{settings}",
            self.kubelet_port, self.health_port
        );
        std::fs::write(at("kubelet.yaml"), configuration).expect("written");
        let data = self.data().display().to_string();
        let network = ["--bridge", &self.network.bridge, "--cluster-cidr", &self.network.pods, "--service-cidr", &self.network.services, "--hostname-override", Self::NODE];
        let (bootstrap, joined, certificates) = (at("bootstrap"), at("joined.kubeconfig"), self.certificates().display().to_string());
        let files = ["--bootstrap-kubeconfig", &bootstrap, "--kubeconfig", &joined, "--cert-dir", &certificates, "--root-dir", &data, "--config", &at("kubelet.yaml")];
        let child = self.spawn_keles(&[&["kubelet"][..], &network, &files, self.disk_flags()].concat());
        self.parts.push((Self::KUBELET, child));
        self.await_node();
    }
    /// SIGKILL to one part.
    pub fn kill_part(&mut self, part: &str) {
        let at = self.parts.iter().position(|(name, _)| *name == part).expect("the part runs");
        let (_, mut child) = self.parts.swap_remove(at);
        child.kill().and_then(|()| child.wait()).expect("SIGKILL ends it");
    }
    pub fn kill_server(&mut self) {
        let mut s = self.server.take().expect("running");
        s.kill().and_then(|()| s.wait()).expect("SIGKILL ends it");
    }
    fn stop_server(&mut self) {
        let mut all: Vec<Child> = self.parts.drain(..).map(|(_, child)| child).chain(self.server.take()).collect();
        for child in &all {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
        }
        let end = Instant::now() + START;
        while Instant::now() < end && all.iter_mut().any(|child| matches!(child.try_wait(), Ok(None))) {
            std::thread::sleep(POLL);
        }
        for child in &mut all {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new("kubectl");
        c.arg("--kubeconfig").arg(self.kubeconfig()).args(args).stdin(Stdio::null());
        c
    }
    /// Standard output, or standard error of a failure.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let o = self.command(args).output().map_err(|e| e.to_string())?;
        if o.status.success() { Ok(text(&o)) } else { Err(String::from_utf8_lossy(&o.stderr).trim().to_owned()) }
    }
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|e| panic!("kubectl {}: {e}", args.join(" ")))
    }
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[args, &["-o", "json"]].concat())).expect("kubectl prints JSON")
    }
    /// kubectl with a terminal's worth of input.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        child.stdin.take().expect("piped").write_all(input.as_bytes()).map_err(|e| e.to_string())?;
        let o = child.wait_with_output().map_err(|e| e.to_string())?;
        if o.status.success() { Ok(text(&o)) } else { Err(String::from_utf8_lossy(&o.stderr).trim().to_owned()) }
    }
    pub fn apply(&self, yaml: &str) -> String {
        self.kubectl_with(&["apply", "-f", "-"], yaml).unwrap_or_else(|e| panic!("kubectl apply: {e}"))
    }
    /// A child process of kubectl whose output is read as it comes (logs -f, port-forward).
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("kubectl starts")
    }
    pub fn exec(&self, pod: &str, argv: &[&str]) -> String {
        self.kubectl(&[&["exec", pod, "--"], argv].concat())
    }
    /// kube-rs's client as administrator.
    pub async fn client(&self) -> kube::Client {
        let kubeconfig = kube::config::Kubeconfig::read_from(self.kubeconfig()).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await.expect("a configuration");
        kube::Client::try_from(config).expect("a client")
    }
    /// The object's status once its phase is this.
    pub fn phase(&self, kind: &str, name: &str, wanted: &str) -> Value {
        until(&format!("{kind} {name} {wanted}"), START, || {
            let status = self.json(&["get", kind, name])["status"].clone();
            if status["phase"] == wanted { Ok(status) } else { Err(status.to_string()) }
        })
    }
    /// The same once the node agent is back: a started server's API is ready before it.
    pub fn exec_again(&self, pod: &str, argv: &[&str]) -> String {
        until(&format!("exec in {pod}"), START, || self.try_kubectl(&[&["exec", pod, "--"], argv].concat()))
    }
    pub fn wait_ready(&self, pod: &str) {
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]);
    }
    /// Names of pods that are not going away.
    pub fn pods(&self, selector: &str) -> Vec<String> {
        let all = self.json(&["get", "pods", "-l", selector]);
        let live = all["items"].as_array().expect("a list").iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null());
        live.map(|p| p["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    }
    /// The body of `http://…` as the node gets it.
    pub fn get(&self, url: &str) -> Result<String, String> {
        let o = Command::new("curl").args(["-sS", "--max-time", "30", url]).output().map_err(|e| e.to_string())?;
        if o.status.success() { Ok(text(&o)) } else { Err(String::from_utf8_lossy(&o.stderr).into_owned()) }
    }

    /// A port of this machine reaches pod `web`, a connection after the other.
    pub fn port_forward(&self) {
        let mut forward = self.spawn(&["port-forward", "pod/web", ":8000"]);
        // Kept until the end: kubectl prints a line a connection and would die of a closed pipe.
        let mut lines = BufReader::new(forward.stdout.take().expect("piped")).lines();
        let first = lines.next().expect("a line").expect("text");
        let port = first.split("127.0.0.1:").nth(1).and_then(|r| r.split(' ').next()).unwrap_or_else(|| panic!("{first}")).to_owned();
        for _ in 0..3 {
            assert!(self.get(&format!("http://127.0.0.1:{port}/index.html")).expect("forwarded").starts_with("v1 web"));
        }
        forward.kill().and_then(|()| forward.wait()).expect("ends");
    }

    /// SIGKILL from outside to the pod's processes of this name: from inside, a container's first process cannot be killed.
    pub fn kill_in_pod(&self, pod: &str, program: &str) {
        let uid = self.json(&["get", "pod", pod])["metadata"]["uid"].as_str().expect("a uid").to_owned();
        let mut killed = 0;
        for p in std::fs::read_dir("/proc").expect("the kernel's list").flatten() {
            let read = |f: &str| std::fs::read_to_string(p.path().join(f)).unwrap_or_default();
            if read("comm").trim() == program && read("cgroup").contains(&uid) {
                killed += usize::from(Command::new("kill").arg("-9").arg(p.file_name()).status().is_ok_and(|s| s.success()));
            }
        }
        assert!(killed > 0, "no process {program} of pod {pod} ({uid}) runs");
    }

    /// The folder of its pods below each tree of control groups.
    pub fn cgroup(&self) -> String {
        format!("keles-{}", self.network.bridge)
    }
    /// What of this cluster is still on the machine besides its files: processes, mounts, cgroups, interfaces.
    pub fn leftovers(&self) -> Vec<Leftover> {
        let data = self.data().display().to_string();
        let mut found = Vec::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the kernel's list");
        let is_disk = |l: &&str| self.has_own_disk && l.split(' ').nth(4) == Some(&data);
        found.extend(mounts.lines().filter(|l| l.contains(&data) && !is_disk(l)).map(|l| Leftover::Mount(l.to_owned())));
        for p in std::fs::read_dir("/proc").expect("the kernel's list").flatten() {
            let read = |f: &str| std::fs::read(p.path().join(f)).map(|b| String::from_utf8_lossy(&b).replace('\0', " ")).unwrap_or_default();
            let ours = self.server.iter().chain(self.parts.iter().map(|(_, child)| child));
            if ours.into_iter().any(|s| p.file_name().to_string_lossy() == s.id().to_string()) {
                continue;
            }
            let cgroup = read("cgroup");
            if read("cmdline").contains(&data) || cgroup.contains(&format!("/{}/", self.cgroup())) {
                found.push(Leftover::Process(p.file_name().display().to_string(), read("cmdline")));
            }
        }
        let find = Command::new("find").args(["/sys/fs/cgroup", "-maxdepth", "6", "-type", "d", "-path", &format!("*/{}/*pod*", self.cgroup())]).output().expect("find");
        found.extend(text(&find).lines().map(|l| Leftover::Cgroup(l.into())));
        let links = Command::new("ip").args(["-o", "link", "show", "master", &self.network.bridge]).output().expect("iproute2");
        found.extend(text(&links).lines().map(|l| Leftover::Interface(l.to_owned())));
        found
    }
    /// What a machine loses that loses its power: all of this cluster but what lies on the disk.
    pub fn cut_power(&mut self) {
        self.kill_server();
        let end = Instant::now() + START;
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "still there: {left:?}");
            self.sweep(&left);
        }
        self.unmake_network();
        let Some(run) = self.run_dir() else { return };
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the kernel's list");
        for pin in mounts.lines().filter_map(|l| l.split(' ').nth(4)).filter(|at| Path::new(at).starts_with(&run)) {
            assert!(Command::new("umount").arg(pin).status().expect("umount").success(), "{pin}");
        }
        std::fs::remove_dir_all(run).expect("removed");
    }
    /// Where sockets and pins of its sandboxes lie, as their records tell.
    fn run_dir(&self) -> Option<PathBuf> {
        let find = Command::new("grep").args(["-rhoE", "/run/keles/[0-9a-f]{16}"]).arg(self.data().join("runtime/sandboxes")).output().expect("grep");
        text(&find).lines().next().map(PathBuf::from)
    }
    fn unmake_network(&self) {
        let _ = Command::new("ip").args(["link", "del", &self.network.bridge]).output();
        let _ = Command::new("nft").args(["delete", "table", "ip", &self.network.bridge]).output();
    }
    /// Ends what is left, so that one test's failure is not the next one's too.
    fn sweep(&self, left: &[Leftover]) {
        left.iter().for_each(Leftover::end);
        // A group goes when its last process is gone, the inner one first.
        let groups: Vec<&PathBuf> = left.iter().rev().filter_map(|l| if let Leftover::Cgroup(path) = l { Some(path) } else { None }).collect();
        let end = Instant::now() + START;
        while Instant::now() < end && groups.iter().any(|g| g.exists()) {
            groups.iter().for_each(|g| _ = std::fs::remove_dir(g));
            std::thread::sleep(POLL);
        }
    }
}

/// What a node should have taken away.
#[derive(Debug)]
pub enum Leftover {
    /// Its line of mountinfo.
    Mount(String),
    /// Its id and command line.
    Process(String, String),
    Cgroup(PathBuf),
    Interface(String),
}

impl Leftover {
    fn end(&self) {
        let ended = match self {
            Leftover::Mount(line) => Command::new("umount").args(["-l", line.split(' ').nth(4).unwrap_or_default()]).output(),
            Leftover::Process(id, _) => Command::new("kill").args(["-9", id]).output(),
            Leftover::Interface(line) => Command::new("ip").args(["link", "del", line.split([' ', '@', ':']).nth(2).unwrap_or_default()]).output(),
            Leftover::Cgroup(_) => return,
        };
        ended.expect("the tool is there");
    }
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Leftover::Mount(line) => write!(f, "mount {line}"),
            Leftover::Process(id, command) => write!(f, "process {id}: {command}"),
            Leftover::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Leftover::Interface(line) => write!(f, "interface {line}"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.is_none() && !std::thread::panicking() {
            self.start_server();
        }
        let _ = self.try_kubectl(&["delete", "deployments,replicasets,pods", "--all", "--all-namespaces", "--force", "--grace-period=0", "--timeout=60s"]);
        let end = Instant::now() + START;
        while Instant::now() < end && !self.leftovers().is_empty() {
            std::thread::sleep(POLL);
        }
        let (left, log) = (self.leftovers(), self.log());
        self.stop_server();
        self.sweep(&left);
        self.unmake_network();
        if self.has_own_disk {
            let _ = Command::new("umount").arg("-l").arg(self.data()).output();
        }
        if std::thread::panicking() {
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("the server's last lines:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        } else {
            let left: Vec<String> = left.iter().map(Leftover::to_string).collect();
            assert!(left.is_empty(), "left behind after all pods were deleted:\n{}", left.join("\n"));
        }
    }
}
