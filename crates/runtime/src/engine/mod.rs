//! [`Engine`]: the runtime in process. It owns the state folder and the list of pods; shims own the processes.
//!
//! Entry point: [`Engine::open`]. Files are the truth: a sandbox is complete once its state file exists, a container once its
//! configuration does; what is incomplete is removed at the next open ([`recovery`]). States change only by what a shim
//! says ([`Inner::observe`]) or by its end ([`Inner::shim_gone`]); nothing polls.

mod client;
mod container;
mod recovery;
mod sandbox;
mod streams;

use crate::api::{
    ContainerConfig, ContainerEvent, ContainerState, ContainerStatus, DiskUsage, ExecOutput, ExecRequest, ExecStream, Features, Handler, PodRuntime, PortConnection, ProcessUsage,
    Resources, Result, RuntimeError, SandboxConfig, SandboxStatus, Stats,
};
use crate::wire::{Bundle, Event, Exit, SandboxFile, SandboxState, Started, UNKNOWN_CODE, now_unix_ns};
use async_trait::async_trait;
use client::{RequestError, ShimClient};
use keles_linux::cgroup::{Group, Layout};
use keles_linux::mount;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Events a slow subscriber may lag behind before it must list anew.
const EVENT_QUEUE: usize = 1024;

/// Of a RuntimeClass; all are this one.
const HANDLERS: [&str; 3] = ["", "keles", "runc"];

/// How long a new server waits for the one before to be gone.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Survives reboots: configurations, exit codes, containers' written layers.
    pub state_dir: PathBuf,
    /// Sockets and pinned network namespaces; short, because a socket's path has at most 107 bytes.
    pub run_dir: PathBuf,
    /// Our group below each cgroup tree's top: `keles`. Empty: sandboxes say where theirs are.
    pub cgroup_root: String,
    /// Containers can be held to processors and NUMA nodes; off, none is placed in the `cpuset` tree, which saves time.
    pub cpusets: bool,
    /// Run as `EXE shim --sandbox FOLDER`.
    pub shim_exe: PathBuf,
    /// Of this program, for [`PodRuntime::version`].
    pub version: String,
}

impl EngineOptions {
    /// With this very program as shim.
    pub fn new(state_dir: impl Into<PathBuf>, run_dir: impl Into<PathBuf>, cgroup_root: impl Into<String>) -> Self {
        EngineOptions {
            state_dir: state_dir.into(),
            run_dir: run_dir.into(),
            cgroup_root: cgroup_root.into(),
            cpusets: false,
            shim_exe: std::fs::read_link("/proc/self/exe").unwrap_or_else(|_| "/proc/self/exe".into()),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Below the trees' tops.
    fn group_path(&self, below_root: &str) -> String {
        format!("{}/{}", self.cgroup_root, below_root.trim_matches('/')).trim_matches('/').to_owned()
    }
}

/// Cheap to clone. Dropping the last one leaves all pods running.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    options: EngineOptions,
    layout: Layout,
    /// The shim's program on a read-only mount (CVE-2019-5736).
    executable: OwnedFd,
    /// Held while open: what one engine is making looks half made to another.
    _lock: File,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    events: broadcast::Sender<ContainerEvent>,
}

struct Sandbox {
    file: SandboxFile,
    state: Mutex<SandboxState>,
    client: Mutex<Option<Arc<ShimClient>>>,
    /// Stop and remove do not overlap.
    lifecycle: tokio::sync::Mutex<()>,
    ready: AtomicBool,
}

struct Container {
    bundle: Bundle,
    pod_uid: String,
    group: Group,
    status: watch::Sender<ContainerStatus>,
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    let what = what.into();
    move |source| RuntimeError::Io { what, source }
}

fn step<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> RuntimeError {
    move |e| RuntimeError::Step { step, message: e.to_string() }
}

/// Runs file and cgroup work off the server's own threads.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(f).await {
        Ok(t) => t,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// Released by the kernel with the process, however it ends. A shim that a killed server was just starting holds a copy until
/// its exec, so the lock is tried for a moment; the kernel has no lock that waits with a limit.
async fn lock(state_dir: &Path) -> Result<File> {
    let path = state_dir.join("lock");
    let file = File::options().create(true).append(true).open(&path).map_err(io_error(format!("open {}", path.display())))?;
    let end = tokio::time::Instant::now() + LOCK_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < end => tokio::time::sleep(LOCK_INTERVAL).await,
            Err(TryLockError::WouldBlock) => {
                return Err(RuntimeError::Step { step: "open runtime", message: format!("another server uses {}; stop it or choose another folder", state_dir.display()) });
            }
            Err(TryLockError::Error(e)) => return Err(io_error(format!("lock {}", path.display()))(e)),
        }
    }
}

/// 64 hex digits.
fn new_id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

impl Engine {
    /// Reads the state folder, connects to the shims that live, removes what was left half made.
    pub async fn open(options: EngineOptions) -> Result<Engine> {
        for folder in [options.state_dir.join("sandboxes"), options.state_dir.join("containers"), options.run_dir.join("netns"), options.run_dir.join("shim")] {
            std::fs::create_dir_all(&folder).map_err(io_error(format!("make {}", folder.display())))?;
        }
        let lock = lock(&options.state_dir).await?;
        let layout = Layout::discover_with(if options.cpusets { &["cpuset"] } else { &[] }).map_err(step("find cgroups"))?;
        let executable = mount::read_only_executable(&options.shim_exe).map_err(io_error(format!("open {}", options.shim_exe.display())))?;
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let inner = Inner { options, layout, executable, _lock: lock, sandboxes: Mutex::default(), containers: Mutex::default(), events };
        let engine = Engine { inner: Arc::new(inner) };
        recovery::recover(&engine.inner).await?;
        Ok(engine)
    }
}

impl Inner {
    fn sandbox_folder(&self, id: &str) -> PathBuf {
        self.options.state_dir.join("sandboxes").join(id)
    }
    fn container_folder(&self, id: &str) -> PathBuf {
        self.options.state_dir.join("containers").join(id)
    }
    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        let found = self.sandboxes.lock().expect("no panic while held").get(id).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { what: "sandbox", id: id.to_owned() })
    }
    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.containers.lock().expect("no panic while held").get(id).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.to_owned() })
    }
    fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        self.containers.lock().expect("no panic while held").values().filter(|c| c.bundle.sandbox_id == sandbox_id).cloned().collect()
    }
    fn client_of(&self, container: &Container) -> Result<Arc<ShimClient>> {
        self.sandbox(&container.bundle.sandbox_id)?.client()
    }

    /// A shim tells of a change.
    pub(crate) fn observe(&self, event: Event) {
        let id = match &event {
            Event::Started { id, .. } | Event::Exited { id, .. } => id,
            Event::ExecExited { .. } => return,
        };
        let Ok(container) = self.container(id) else { return };
        match event {
            Event::Started { started, .. } => self.set_started(&container, &started),
            Event::Exited { exit, .. } => self.set_exit(&container, &exit),
            Event::ExecExited { .. } => {}
        }
    }

    fn set_started(&self, c: &Container, started: &Started) {
        // Told before anybody can act on the new state.
        c.status.send_if_modified(|s| {
            let changed = s.state == ContainerState::Created;
            if changed {
                (s.state, s.pid, s.started_at_unix_ns) = (ContainerState::Running, Some(started.pid), started.at_unix_ns);
                self.emit(c, ContainerState::Running);
            }
            changed
        });
    }

    fn set_exit(&self, c: &Container, exit: &Exit) {
        c.status.send_if_modified(|s| {
            let changed = s.state != ContainerState::Exited;
            if changed {
                apply_exit(s, exit);
                self.emit(c, ContainerState::Exited);
            }
            changed
        });
    }

    fn emit(&self, c: &Container, state: ContainerState) {
        // Nobody listening is fine.
        let _ = self.events.send(ContainerEvent { pod_uid: c.pod_uid.clone(), sandbox_id: c.bundle.sandbox_id.clone(), container_id: c.bundle.id.clone(), state });
    }

    /// The shim's end, asked for or not: its containers cannot go on.
    pub(crate) fn shim_gone(self: &Arc<Self>, sandbox_id: &str) {
        let Ok(sandbox) = self.sandbox(sandbox_id) else { return };
        let unasked = sandbox.ready.swap(false, Ordering::AcqRel);
        sandbox.client.lock().expect("no panic while held").take();
        let (inner, id) = (self.clone(), sandbox_id.to_owned());
        tokio::task::spawn_blocking(move || {
            inner.end_lost_containers(&id);
            if unasked {
                let event = ContainerEvent { pod_uid: sandbox.file.config.uid.clone(), sandbox_id: id, container_id: String::new(), state: ContainerState::Exited };
                let _ = inner.events.send(event);
            }
        });
    }

    /// Containers without a shim: ended, with the code the shim wrote if it saw the end.
    fn end_lost_containers(&self, sandbox_id: &str) {
        for c in self.containers_of(sandbox_id) {
            // Copied out: the status must not be borrowed while it is changed below.
            let (state, started_at) = {
                let status = c.status.borrow();
                (status.state, status.started_at_unix_ns)
            };
            if matches!(state, ContainerState::Running | ContainerState::Unknown) {
                c.group.kill();
            }
            match recovery::read_exit(&self.container_folder(&c.bundle.id)) {
                Some(exit) => self.set_exit(&c, &exit),
                None if state != ContainerState::Created => self.set_exit(&c, &lost(started_at)),
                None => {}
            }
        }
    }
}

/// The end of a container that nobody saw.
fn lost(started_at_unix_ns: i64) -> Exit {
    let message = "The container ended while no shim watched it; its exit code is not known".to_owned();
    Exit { code: UNKNOWN_CODE, signal: 0, reason: "Unknown".into(), message, started_at_unix_ns, finished_at_unix_ns: now_unix_ns() }
}

fn apply_exit(s: &mut ContainerStatus, exit: &Exit) {
    s.state = ContainerState::Exited;
    s.pid = None;
    s.exit_code = exit.code;
    s.signal = exit.signal;
    s.reason.clone_from(&exit.reason);
    s.message.clone_from(&exit.message);
    s.finished_at_unix_ns = exit.finished_at_unix_ns;
    if exit.started_at_unix_ns != 0 {
        s.started_at_unix_ns = exit.started_at_unix_ns;
    }
}

impl Sandbox {
    fn client(&self) -> Result<Arc<ShimClient>> {
        let client = self.client.lock().expect("no panic while held").clone();
        client.ok_or_else(|| RuntimeError::Step { step: "reach sandbox", message: format!("sandbox {} is not running", self.file.id) })
    }

    fn status(&self) -> SandboxStatus {
        let state = self.state.lock().expect("no panic while held");
        SandboxStatus {
            id: self.file.id.clone(),
            config: self.file.config.clone(),
            ready: self.ready.load(Ordering::Acquire) && !state.stopped,
            created_at_unix_ns: self.file.created_at_unix_ns,
            netns: self.file.netns.clone(),
            ips: state.ips.clone(),
        }
    }
}

/// A failed request as the caller sees it.
fn refused(step: &'static str) -> impl FnOnce(RequestError) -> RuntimeError {
    move |e| RuntimeError::Step { step, message: e.to_string() }
}

fn file_exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[async_trait]
impl PodRuntime for Engine {
    fn version(&self) -> String {
        format!("keles://{}", self.inner.options.version)
    }
    fn features(&self) -> Features {
        let handler = |name: &str| Handler { name: name.to_owned(), recursive_read_only_mounts: true, user_namespaces: true };
        Features { handlers: HANDLERS.map(handler).into(), supplemental_groups_policy: true, image_layers: true }
    }
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus> {
        self.inner.run_sandbox(config).await
    }
    async fn set_network(&self, sandbox_id: &str, ips: Vec<String>) -> Result<()> {
        self.inner.set_network(sandbox_id, ips)
    }
    async fn stop_sandbox(&self, sandbox_id: &str) -> Result<()> {
        self.inner.stop_sandbox(sandbox_id).await
    }
    async fn remove_sandbox(&self, sandbox_id: &str) -> Result<()> {
        self.inner.remove_sandbox(sandbox_id).await
    }
    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        Ok(self.inner.sandboxes.lock().expect("no panic while held").values().map(|s| s.status()).collect())
    }
    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        self.inner.create_container(sandbox_id, config).await
    }
    async fn start_container(&self, id: &str) -> Result<()> {
        self.inner.start_container(id).await
    }
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        self.inner.stop_container(id, grace).await
    }
    async fn remove_container(&self, id: &str) -> Result<()> {
        self.inner.remove_container(id).await
    }
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        Ok(self.inner.containers.lock().expect("no panic while held").values().map(|c| c.status.borrow().clone()).collect())
    }
    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        Ok(self.inner.container(id)?.status.borrow().clone())
    }
    async fn exec(&self, id: &str, request: ExecRequest) -> Result<ExecStream> {
        self.inner.exec(id, request).await
    }
    async fn exec_sync(&self, id: &str, args: Vec<String>, timeout: Duration) -> Result<ExecOutput> {
        self.inner.exec_sync(id, args, timeout).await
    }
    async fn attach(&self, id: &str, request: ExecRequest) -> Result<ExecStream> {
        self.inner.attach(id, request).await
    }
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<PortConnection> {
        let io = self.inner.port_forward(sandbox_id, port).await?;
        Ok(PortConnection { io: Box::new(io), fault: Box::pin(std::future::ready(None)) })
    }
    async fn stats(&self, id: &str) -> Result<Stats> {
        self.inner.stats(id).await
    }
    async fn written(&self, id: &str) -> Result<DiskUsage> {
        self.inner.written(id).await
    }
    async fn processes(&self, id: &str) -> Result<ProcessUsage> {
        self.inner.processes(id).await
    }
    async fn reopen_log(&self, id: &str) -> Result<()> {
        self.inner.reopen_log(id).await
    }
    async fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        self.inner.update_resources(id, resources).await
    }
    async fn update_sandbox_resources(&self, sandbox_id: &str, resources: Resources) -> Result<()> {
        self.inner.update_sandbox_resources(sandbox_id, resources).await
    }
    async fn limit_group(&self, group: &str, resources: Resources) -> Result<()> {
        self.inner.limit_group(group, resources).await
    }
    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.inner.events.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_nobody_saw_is_not_told_as_success() {
        let exit = lost(5);
        assert_eq!((exit.code, exit.reason.as_str(), exit.started_at_unix_ns), (255, "Unknown", 5));
    }
}
