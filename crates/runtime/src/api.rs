//! What the node agent asks of a container runtime, in the CRI's terms (runtime.v1), in process.
//!
//! [`PodRuntime`] is the seam: `Engine` (ours) implements it, and `cri-client` for the runtimes of others behind their sockets.
//! Images are not here: `images` gives layer folders and the image config, the agent puts both into [`ContainerConfig`]; a runtime that has images of
//! its own ([`Features::image_layers`] is false) is given the image's id and applies its config itself.

use async_trait::async_trait;
pub use keles_linux::cgroup::Figures;
use keles_linux::cgroup::Limits;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("{what} {id} not found")]
    NotFound { what: &'static str, id: String },
    /// A set-up step failed; `message` is what users see in the container's status.
    #[error("{step}: {message}")]
    Step { step: &'static str, message: String },
    /// The command could not be executed (upstream reason StartError, exit code 128; 127 not found, 126 not executable).
    #[error("{message}")]
    Start { message: String, exit_code: i32 },
    #[error("timed out after {0:?}")]
    Timeout(Duration),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

pub type Result<T> = std::result::Result<T, RuntimeError>;

/// Namespace mode of a pod, CRI NamespaceMode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum NamespaceMode {
    #[default]
    Pod,
    Container,
    Node,
}

/// CRI PodSandboxConfig.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct SandboxConfig {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    /// Sandbox generation of this pod: 0, 1, …
    pub attempt: u32,
    /// Empty with host network.
    pub hostname: String,
    /// Folder for this pod's container logs; files in it are `<container>/<restart>.log`.
    pub log_directory: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub network: NamespaceMode,
    pub ipc: NamespaceMode,
    /// `Pod`: one pid namespace for the pod (shareProcessNamespace); `Container`: one each; `Node`: the host's.
    pub pid: NamespaceMode,
    /// The pod's cgroup relative to the runtime's root, e.g. `burstable/pod<uid>`.
    pub cgroup: String,
    /// Limits of the pod's cgroup, if any.
    pub resources: Resources,
    pub sysctls: BTreeMap<String, String>,
    /// The ids of the host that a user namespace of the pod's own shows as 0 and up (KEP-127); absent: the host's user namespace.
    #[serde(default)]
    pub users: Option<UserRange>,
    /// Of resolv.conf; for a runtime that writes the file itself.
    #[serde(default)]
    pub dns: Dns,
    /// For a runtime that gives the pod its network itself.
    #[serde(default)]
    pub host_ports: Vec<PortMapping>,
    /// RuntimeClass handler; empty: the default.
    #[serde(default)]
    pub handler: String,
    #[serde(default)]
    pub security: SandboxSecurity,
}

/// CRI DNSConfig.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// CRI PortMapping: a port of the node that leads to the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    pub container_port: u16,
    pub host_port: u16,
    /// Empty: all of the node's.
    pub host_ip: String,
}

/// CRI LinuxSandboxSecurityContext: of the process that holds a sandbox's namespaces, where a runtime has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SandboxSecurity {
    /// A container of the pod may be privileged.
    pub privileged: bool,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub supplemental_groups: Vec<i64>,
}

/// CRI UserNamespace with the one mapping that the kubelet gives: ids 0 to `length - 1` inside are `first` and up on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UserRange {
    pub first: u32,
    pub length: u32,
}

/// cgroup figures, CRI LinuxContainerResources. Absent: no limit.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_limit_bytes: Option<i64>,
    /// Swap beside memory; below zero: as much as there is. Absent: a container with a memory limit has none.
    #[serde(default)]
    pub swap_bytes: Option<i64>,
    pub pids_limit: Option<i64>,
    pub oom_score_adj: Option<i32>,
    /// Processors and NUMA nodes, in the kernel's list form.
    #[serde(default)]
    pub cpuset_cpus: Option<String>,
    #[serde(default)]
    pub cpuset_mems: Option<String>,
}

impl Resources {
    /// What a cgroup is to hold to. `of_container`: its processes are killed together when one runs out of memory, where the kernel can.
    pub fn limits(&self, of_container: bool) -> Limits {
        let memory_bytes = self.memory_limit_bytes.filter(|bytes| *bytes != 0);
        // A pod's own group leaves it to its containers'.
        let usual_swap = memory_bytes.filter(|_| of_container).map(|bytes| if bytes > 0 { 0 } else { -1 });
        Limits {
            cpu_shares: self.cpu_shares,
            cpu_quota_us: self.cpu_quota_us,
            cpu_period_us: self.cpu_period_us,
            memory_bytes,
            swap_bytes: self.swap_bytes.or(usual_swap),
            pids: self.pids_limit.filter(|count| *count != 0),
            cpus: self.cpuset_cpus.clone(),
            mems: self.cpuset_mems.clone(),
            oom_group: of_container,
        }
    }
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// A file or folder of the host.
    pub source: PathBuf,
    pub target: PathBuf,
    /// The mount itself, not what is mounted below its source.
    pub read_only: bool,
    /// What is mounted below too (KEP-3857).
    #[serde(default)]
    pub recursive_read_only: bool,
    pub propagation: Propagation,
}

/// CRI Device: a device node of the host, or all below a folder, and what else CDI may say of it. Absent: as the host has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// CRI LinuxContainerSecurityContext.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Security {
    pub privileged: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub read_only_root: bool,
    pub seccomp: Seccomp,
    /// `None`: the runtime's profile where the host has AppArmor.
    #[serde(default)]
    pub apparmor: Option<AppArmor>,
    /// `None`: the image's user.
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    /// The image's `User` (`name`, `uid`, `uid:gid`, …), resolved in the container's root when `run_as_user` is absent.
    pub run_as_username: String,
    pub supplemental_groups: Vec<i64>,
    /// Only the groups named here, none that the image's /etc/group gives the user (CRI SupplementalGroupsPolicy Strict).
    #[serde(default)]
    pub strict_groups: bool,
    /// Host paths masked and read-only in /proc and /sys; the defaults unless privileged or procMount Unmasked.
    pub masked_paths: Vec<String>,
    pub read_only_paths: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Seccomp {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A JSON profile on the host.
    Localhost(PathBuf),
}

/// CRI SecurityProfile, for AppArmor.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum AppArmor {
    RuntimeDefault,
    Unconfined,
    /// The name of a profile that is loaded on the host.
    Localhost(String),
}

/// CRI ContainerConfig, with the root folder already resolved by `images`.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ContainerConfig {
    pub name: String,
    /// Restart count.
    pub attempt: u32,
    /// Layer folders, topmost first (overlayfs `lowerdir` order).
    pub layers: Vec<PathBuf>,
    pub image: String,
    pub image_id: String,
    /// For a runtime that applies the image's config itself: what replaces its entrypoint; empty for the image's.
    #[serde(default)]
    pub command: Vec<String>,
    /// argv, entrypoint and cmd already joined; for a runtime that applies the image's config itself what replaces its cmd, empty for the image's.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// Relative to the sandbox's log directory.
    pub log_path: PathBuf,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    pub security: Security,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// The container whose pid namespace this one joins (CRI NamespaceMode TARGET); only where containers have one each.
    #[serde(default)]
    pub pid_target: Option<String>,
    /// Signal number of a graceful stop (image's StopSignal or lifecycle.stopSignal); SIGTERM when absent.
    pub stop_signal: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    Unknown,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ContainerStatus {
    /// 64 hex digits.
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    pub attempt: u32,
    pub state: ContainerState,
    pub created_at_unix_ns: i64,
    pub started_at_unix_ns: i64,
    pub finished_at_unix_ns: i64,
    pub exit_code: i32,
    /// The signal that ended it, else 0. exit_code is then 128 + signal.
    pub signal: i32,
    /// `OOMKilled`, `Completed`, `Error`, `StartError`; empty while running.
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_id: String,
    pub log_path: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Pid on the host of the container's first process while running.
    pub pid: Option<i32>,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct SandboxStatus {
    pub id: String,
    pub config: SandboxConfig,
    pub ready: bool,
    pub created_at_unix_ns: i64,
    /// Path of the pinned network namespace; absent with host network.
    pub netns: Option<PathBuf>,
    /// What the agent asked us to remember about the pod's network (its addresses), see `set_network`; or what the runtime gave itself.
    pub ips: Vec<String>,
}

/// Something happened to a container; the agent's PLEG.
#[derive(Clone, Debug)]
pub struct ContainerEvent {
    pub pod_uid: String,
    pub sandbox_id: String,
    /// Empty: the sandbox itself ended, unasked.
    pub container_id: String,
    pub state: ContainerState,
}

#[derive(Clone, Debug)]
pub struct ExecRequest {
    pub args: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A running exec (or attach). Streams not asked for are absent; with a tty `stderr` is absent.
pub struct ExecStream {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub control: Box<dyn ExecControl>,
}

#[async_trait]
pub trait ExecControl: Send + Sync {
    async fn resize(&self, columns: u16, rows: u16) -> Result<()>;
    /// Waits for the end; the exit code (128 + signal when killed). For attach: the container's.
    async fn wait(&self) -> Result<i32>;
    /// Ends an exec'd process that the caller gave up (timeout, client gone).
    async fn kill(&self) -> Result<()>;
}

/// Both ways of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to a port of a pod.
pub struct PortConnection {
    pub io: Box<dyn Duplex>,
    /// Resolves when nothing can go wrong any more, or has: why the port could not be reached, for whoever asked.
    pub fault: Pin<Box<dyn Future<Output = Option<String>> + Send>>,
}

/// What a runtime can do, CRI StatusResponse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Empty: it does not tell which it has.
    pub handlers: Vec<Handler>,
    /// And so supplementalGroupsPolicy Strict (KEP-3619).
    pub supplemental_groups_policy: bool,
    /// It takes containers' roots as layer folders; otherwise it has images of its own.
    pub image_layers: bool,
}

/// CRI RuntimeHandler: what the handler of a RuntimeClass can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handler {
    /// Empty: the default one.
    pub name: String,
    pub recursive_read_only_mounts: bool,
    pub user_namespaces: bool,
}

impl Features {
    pub fn of_handler(&self, name: &str) -> Handler {
        self.handlers.iter().find(|handler| handler.name == name).cloned().unwrap_or_else(|| Handler { name: name.to_owned(), ..Handler::default() })
    }
}

pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// What a container, or a sandbox as a whole, has used and may use.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub cpu_usage_ns: u64,
    pub memory_usage_bytes: u64,
    pub memory_working_set_bytes: u64,
    pub pids: u64,
    /// Of its group; below the trees' tops, e.g. `keles/burstable/pod…/<id>`. Empty where the runtime does not tell.
    pub cgroup: String,
    /// All that is counted; the four above are of these, 0 where the host does not tell.
    pub figures: Figures,
    /// Of a sandbox with a network of its own, without the loopback.
    pub interfaces: Vec<Interface>,
}

impl Stats {
    pub fn new(cgroup: String, figures: Figures, interfaces: Vec<Interface>) -> Self {
        let memory = |of: fn(&keles_linux::cgroup::Memory) -> u64| figures.memory.as_ref().map_or(0, of);
        Self {
            cpu_usage_ns: figures.cpu.as_ref().map_or(0, |cpu| cpu.usage_ns),
            memory_usage_bytes: memory(|m| m.usage_bytes),
            memory_working_set_bytes: memory(|m| m.working_set_bytes),
            pids: figures.processes.unwrap_or(0),
            cgroup,
            figures,
            interfaces,
        }
    }
}

/// Counters of a network interface, from its own namespace's view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Disk below a folder, the folder itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    pub bytes: u64,
    pub inodes: u64,
}

/// What a container's processes are and hold open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    pub processes: u64,
    /// Sockets among them.
    pub file_descriptors: u64,
    pub sockets: u64,
    /// How many its first process may have open (the soft limit). Absent: it ended meanwhile, or there is none.
    pub file_descriptors_limit: Option<u64>,
}

/// The runtime. All methods are idempotent where the CRI demands it: stopping the stopped and removing the removed is fine.
#[async_trait]
pub trait PodRuntime: Send + Sync + 'static {
    /// Name and version for `nodeInfo.containerRuntimeVersion`: `keles://0.1.0`.
    fn version(&self) -> String;
    fn features(&self) -> Features;
    /// Why it can take no pods now, in the words of the node's Ready condition.
    async fn not_ready(&self) -> Option<String> {
        None
    }
    /// Makes cgroup, namespaces (network pinned at `SandboxStatus::netns`, `lo` up) and starts the shim. Running when it returns. A runtime that gives
    /// the pod its network itself returns its addresses and no `netns`.
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus>;
    /// Remembers the pod's addresses across restarts of the agent.
    async fn set_network(&self, sandbox_id: &str, ips: Vec<String>) -> Result<()>;
    /// Kills what runs, ends the shim, unpins namespaces, removes the cgroup. State stays listed until `remove_sandbox`.
    async fn stop_sandbox(&self, sandbox_id: &str) -> Result<()>;
    async fn remove_sandbox(&self, sandbox_id: &str) -> Result<()>;
    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>>;
    /// Mounts the root, writes the bundle, opens the log file. Returns the container's id.
    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String>;
    /// Returns once the command has been executed (or could not be: `RuntimeError::Start`).
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Stop signal, then SIGKILL to all of its processes after `grace`. Returns when it has ended.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    /// Removes root mount and state; the log file stays (the agent owns log retention).
    async fn remove_container(&self, id: &str) -> Result<()>;
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>>;
    async fn container_status(&self, id: &str) -> Result<ContainerStatus>;
    async fn exec(&self, id: &str, request: ExecRequest) -> Result<ExecStream>;
    async fn exec_sync(&self, id: &str, args: Vec<String>, timeout: Duration) -> Result<ExecOutput>;
    async fn attach(&self, id: &str, request: ExecRequest) -> Result<ExecStream>;
    /// A TCP connection to 127.0.0.1:`port` (then ::1) inside the pod's network namespace.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<PortConnection>;
    /// Of a container, or of a sandbox as a whole; of all pods together with an empty id.
    async fn stats(&self, id: &str) -> Result<Stats>;
    /// What a container wrote into its root. Reads the whole tree.
    async fn written(&self, id: &str) -> Result<DiskUsage> {
        Err(RuntimeError::Step { step: "count disk usage", message: format!("container {id}: this runtime does not count what is written") })
    }
    /// Of a container. Looks at each of its processes.
    async fn processes(&self, id: &str) -> Result<ProcessUsage> {
        Err(RuntimeError::Step { step: "count processes", message: format!("container {id}: this runtime does not count open files") })
    }
    /// After the agent has renamed the log file: later lines go to a new one.
    async fn reopen_log(&self, id: &str) -> Result<()> {
        Err(RuntimeError::Step { step: "reopen log", message: format!("container {id}: this runtime cannot reopen logs") })
    }
    /// New limits for a running container (in-place resize); absent figures stay.
    async fn update_resources(&self, id: &str, _resources: Resources) -> Result<()> {
        Err(RuntimeError::Step { step: "update resources", message: format!("container {id}: this runtime cannot change limits") })
    }
    /// New limits for a pod's cgroup (in-place resize); absent figures stay.
    async fn update_sandbox_resources(&self, sandbox_id: &str, _resources: Resources) -> Result<()> {
        Err(RuntimeError::Step { step: "update resources", message: format!("sandbox {sandbox_id}: this runtime cannot change limits") })
    }
    /// Holds a group above the pods', below the runtime's root (empty: the root itself); it is made where it is not there. Absent figures stay.
    async fn limit_group(&self, group: &str, _resources: Resources) -> Result<()> {
        Err(RuntimeError::Step { step: "limit group", message: format!("group {group:?}: this runtime cannot change limits") })
    }
    /// State changes from now on. A subscriber that lags gets `Lagged` and must list anew.
    fn events(&self) -> tokio::sync::broadcast::Receiver<ContainerEvent>;
}
