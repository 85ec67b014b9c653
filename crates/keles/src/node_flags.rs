//! Flags of the node's own resources: what is kept from pods, when pods and images must go. In upstream's names, for `keles server` and
//! `keles kubelet`.

use clap::{ArgAction, Args};
use k8s_openapi::api::core::v1::Taint;
use keles_kubelet::config::{RESOLVER_FILE, Reserved, SYSTEM_LOGS};
use keles_kubelet::eviction::{Thresholds, ThresholdsText, duration};
use keles_kubelet::image_gc::Limits;
use keles_kubelet::log_rotation;
use keles_kubelet::placement::cpu_set::CpuSet;
use keles_kubelet::placement::topology::Topology;
use keles_kubelet::placement::{Settings, cpus, memory};
use keles_kubelet::shutdown;
use keles_kubelet::static_pods::Sources;
use keles_kubelet::swap::{self, Behavior};
use keles_kubelet::{DEFAULT_RESTART_WAIT, Enforced};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub struct NodeFlags {
    /// Most processes and threads of a pod; 0 or less: no limit but the machine's.
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub pod_max_pids: i64,
    /// Hold limits of cpu by the kernel's quota.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub cpu_cfs_quota: bool,
    /// What is held to what the node has besides what is reserved: pods (all together), or none.
    #[arg(long, value_delimiter = ',', default_value = "pods")]
    pub enforce_node_allocatable: Vec<String>,
    /// The longest wait before a container is started again, of 1s to 5m (KubeletConfiguration's crashLoopBackOff.maxContainerRestartPeriod).
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub max_container_restart_period: Duration,
    /// Holds a folder of logs a pod (KubeletConfiguration's podLogsDir) [default: /var/log/pods with the default data folder, else pods-logs in the data
    /// folder].
    #[arg(long)]
    pub pod_logs_dir: Option<PathBuf>,
    /// File of the resolvers that pods ask whose dnsPolicy is Default; empty: none.
    #[arg(long, default_value = RESOLVER_FILE)]
    pub resolv_conf: String,
    /// The node registers with these: KEY=VALUE:EFFECT or KEY:EFFECT, ....
    #[arg(long, value_delimiter = ',', value_parser = taint)]
    pub register_with_taints: Vec<Taint>,
    /// Port of the agent's /healthz without TLS; 0: none. One that is taken is tried again.
    #[arg(long, default_value_t = keles_kubelet::DEFAULT_HEALTHZ_PORT)]
    pub healthz_port: u16,
    /// Where it listens.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub healthz_bind_address: IpAddr,
    /// Show /var/log at /logs/ of the agent's API (KubeletConfiguration's enableSystemLogHandler).
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub enable_system_log_handler: bool,
    /// Pods are ended at once when less is left: SIGNAL<QUANTITY or SIGNAL<PERCENT%, of memory.available, nodefs.available, nodefs.inodesFree,
    /// imagefs.available, imagefs.inodesFree, pid.available. What is not named has no threshold.
    #[arg(long, default_value = ThresholdsText::HARD)]
    pub eviction_hard: String,
    /// The same, once it has been so for the signal's grace period.
    #[arg(long, default_value = "")]
    pub eviction_soft: String,
    /// SIGNAL=DURATION for each soft threshold.
    #[arg(long, default_value = "")]
    pub eviction_soft_grace_period: String,
    /// SIGNAL=QUANTITY or PERCENT that must be free beyond a threshold before it is over.
    #[arg(long, default_value = "")]
    pub eviction_minimum_reclaim: String,
    /// How long a pressure condition stays after its thresholds are over.
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub eviction_pressure_transition_period: Duration,
    /// What a pod that a soft threshold ends is given at most, in seconds.
    #[arg(long, default_value_t = 0)]
    pub eviction_max_pod_grace_period: u64,
    /// Kept from pods for the host: RESOURCE=QUANTITY of cpu, memory, ephemeral-storage, pid.
    #[arg(long, default_value = "")]
    pub system_reserved: String,
    /// Kept from pods for the cluster's own parts, likewise.
    #[arg(long, default_value = "")]
    pub kube_reserved: String,
    /// How processors are given: none (all containers share all), static (whole ones of Guaranteed pods are their own).
    #[arg(long, default_value = "none")]
    pub cpu_manager_policy: String,
    /// NAME=true|false for the static policy: full-pcpus-only, distribute-cpus-across-numa, align-by-socket, strict-cpu-reservation,
    /// prefer-align-cpus-by-uncorecache.
    #[arg(long, value_delimiter = ',', value_parser = option)]
    pub cpu_manager_policy_options: Vec<(String, String)>,
    /// How often it is looked whether containers run on the processors they should, besides when these change.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub cpu_manager_reconcile_period: Duration,
    /// Processors that are kept for the host and the cluster's own parts (0-1,4); takes the place of cpu in --system-reserved and --kube-reserved.
    #[arg(long, default_value = "")]
    pub reserved_cpus: String,
    /// How memory is given: None, or Static (that of Guaranteed pods comes from as few NUMA nodes as will do).
    #[arg(long, default_value = "None")]
    pub memory_manager_policy: String,
    /// NODE:TYPE=QUANTITY,... of NUMA nodes' memory that is kept, for the Static policy; adds up to what is reserved of memory and the hard
    /// eviction threshold. Repeatable, or several with ; between.
    #[arg(long)]
    pub reserved_memory: Vec<String>,
    /// Whether processors, memory and devices of a container must lie near each other: none, best-effort, restricted, single-numa-node.
    #[arg(long, default_value = "none")]
    pub topology_manager_policy: String,
    /// What lies together: each container for itself, or the whole pod.
    #[arg(long, default_value = "container")]
    pub topology_manager_scope: String,
    /// prefer-closest-numa-nodes=true|false, max-allowable-numa-nodes=NUMBER.
    #[arg(long, value_delimiter = ',', value_parser = option)]
    pub topology_manager_policy_options: Vec<(String, String)>,
    /// Do not start on a node with swap on.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fail_swap_on: bool,
    /// What containers may use of the node's swap: NoSwap, or LimitedSwap (those of Burstable pods a share by their memory request; cgroup v2 only).
    /// KubeletConfiguration's memorySwap.swapBehavior.
    #[arg(long, default_value = "NoSwap", value_parser = Behavior::parse)]
    pub memory_swap_behavior: Behavior,
    /// How long pods may take to end when the machine goes down (systemd's logind then waits); 0: it does not wait.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub shutdown_grace_period: Duration,
    /// The part of it that is for pods that the cluster cannot do without.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub shutdown_grace_period_critical_pods: Duration,
    /// In place of both: PRIORITY=SECONDS,... for pods of that priority and more (KubeletConfiguration's shutdownGracePeriodByPodPriority).
    #[arg(long, value_delimiter = ',', value_parser = option)]
    pub shutdown_grace_period_by_pod_priority: Vec<(String, String)>,
    /// Percent of the disk in use from which on unused images are removed; 100: never.
    #[arg(long, default_value_t = 85)]
    pub image_gc_high_threshold: u8,
    /// Percent of the disk in use down to which they are.
    #[arg(long, default_value_t = 80)]
    pub image_gc_low_threshold: u8,
    /// Unused images younger than this stay.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub minimum_image_ttl_duration: Duration,
    /// Images unused for so long are removed whatever the disk; 0: never.
    #[arg(long, default_value = "0", value_parser = duration)]
    pub image_maximum_gc_age: Duration,
    /// A container's log is rotated once it is larger; below zero: never.
    #[arg(long, default_value = "10Mi", allow_hyphen_values = true)]
    pub container_log_max_size: String,
    /// How many logs of a container are kept, the one that is written among them; older ones are compressed.
    #[arg(long, default_value_t = 5)]
    pub container_log_max_files: usize,
    /// Manifests of pods that this node runs whether or not there is an API server: a folder, or a file.
    #[arg(long)]
    pub pod_manifest_path: Option<PathBuf>,
    /// The same from an http URL: a pod, or a list of pods.
    #[arg(long)]
    pub manifest_url: Option<String>,
    /// Headers for --manifest-url: NAME:VALUE.
    #[arg(long, value_delimiter = ',', value_parser = header)]
    pub manifest_url_header: Vec<(String, String)>,
    /// How often --pod-manifest-path is looked at, besides when the kernel tells of a change.
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub file_check_frequency: Duration,
    /// How often --manifest-url is asked.
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub http_check_frequency: Duration,
}

fn option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn taint(text: &str) -> Result<Taint, String> {
    let (key, effect) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not KEY=VALUE:EFFECT"))?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(format!("{text:?}: the effect must be NoSchedule, PreferNoSchedule or NoExecute"));
    }
    let (key, value) = key.split_once('=').map_or((key, None), |(key, value)| (key, Some(value.to_owned())));
    if key.is_empty() {
        return Err(format!("{text:?} has no key"));
    }
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("{text:?} is not NAME:VALUE"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// The flags understood.
#[derive(Clone)]
pub struct NodeLimits {
    pub enforced: Enforced,
    pub max_restart_wait: Duration,
    pub resolver_file: Option<PathBuf>,
    pub pod_logs_dir: Option<PathBuf>,
    pub taints: Vec<Taint>,
    pub healthz: Option<SocketAddr>,
    pub system_logs: Option<PathBuf>,
    pub eviction: Thresholds,
    pub image_gc: Limits,
    pub logs: log_rotation::Limits,
    pub reserved: Reserved,
    pub static_pods: Sources,
    pub placement: Settings,
    pub swap: swap::Settings,
    pub shutdown: Vec<shutdown::Group>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodeFlagError(String);

impl NodeFlags {
    pub fn limits(&self) -> Result<NodeLimits, NodeFlagError> {
        let text = ThresholdsText {
            hard: self.eviction_hard.clone(),
            soft: self.eviction_soft.clone(),
            soft_grace: self.eviction_soft_grace_period.clone(),
            minimum_reclaim: self.eviction_minimum_reclaim.clone(),
            transition: self.eviction_pressure_transition_period,
            max_pod_grace_seconds: self.eviction_max_pod_grace_period,
        };
        let image_gc = Limits {
            high_percent: self.image_gc_high_threshold,
            low_percent: self.image_gc_low_threshold,
            minimum_age: self.minimum_image_ttl_duration,
            maximum_age: self.image_maximum_gc_age,
        };
        image_gc.check().map_err(NodeFlagError)?;
        let reserved = |flag: &str, text: &str| Reserved::parse(text).map_err(|fault| NodeFlagError(format!("{flag}: {fault}")));
        let mut reserved = reserved("--system-reserved", &self.system_reserved)?.plus(reserved("--kube-reserved", &self.kube_reserved)?);
        let placement = self.placement()?;
        let shutdown = shutdown::parse(self.shutdown_grace_period, self.shutdown_grace_period_critical_pods, &self.shutdown_grace_period_by_pod_priority);
        let shutdown = shutdown.map_err(NodeFlagError)?;
        if !placement.reserved_cpus.is_empty() {
            reserved.cpu_milli = placement.reserved_cpus.len() as i64 * 1000;
        }
        if [self.file_check_frequency, self.http_check_frequency].contains(&Duration::ZERO) {
            return Err(NodeFlagError("--file-check-frequency and --http-check-frequency must be more than 0".into()));
        }
        if self.manifest_url.as_ref().is_some_and(|url| !url.starts_with("http://")) {
            return Err(NodeFlagError("--manifest-url must be an http URL, see docs/STATUS.md".into()));
        }
        let logs = log_rotation::Limits::parse(&self.container_log_max_size, self.container_log_max_files).map_err(NodeFlagError)?;
        let static_pods = Sources {
            path: self.pod_manifest_path.clone(),
            url: self.manifest_url.clone(),
            headers: self.manifest_url_header.clone(),
            file_every: self.file_check_frequency,
            url_every: self.http_check_frequency,
        };
        let healthz = (self.healthz_port > 0).then(|| SocketAddr::from((self.healthz_bind_address, self.healthz_port)));
        let system_logs = self.enable_system_log_handler.then(|| SYSTEM_LOGS.into());
        let swap = swap::Settings { behavior: self.memory_swap_behavior, fail_on: self.fail_swap_on };
        let eviction = Thresholds::parse(&text).map_err(NodeFlagError)?;
        if !(Duration::from_secs(1)..=DEFAULT_RESTART_WAIT).contains(&self.max_container_restart_period) {
            return Err(NodeFlagError("--max-container-restart-period must be of 1s to 5m".into()));
        }
        let enforced = Enforced { pod_pids: Some(self.pod_max_pids).filter(|most| *most > 0), cpu_quota: self.cpu_cfs_quota, allocatable: self.allocatable()? };
        let resolver_file = Some(&self.resolv_conf).filter(|path| !path.is_empty()).map(PathBuf::from);
        let taints = self.register_with_taints.clone();
        let pod_logs_dir = self.pod_logs_dir.as_ref().map(std::path::absolute).transpose().map_err(|fault| NodeFlagError(format!("--pod-logs-dir: {fault}")))?;
        Ok(NodeLimits {
            enforced,
            max_restart_wait: self.max_container_restart_period,
            resolver_file,
            pod_logs_dir,
            taints,
            healthz,
            system_logs,
            static_pods,
            placement,
            swap,
            shutdown,
            eviction,
            image_gc,
            logs,
            reserved,
        })
    }

    fn allocatable(&self) -> Result<bool, NodeFlagError> {
        let all: Vec<&str> = self.enforce_node_allocatable.iter().map(String::as_str).filter(|one| !one.is_empty()).collect();
        match all[..] {
            ["pods"] => Ok(true),
            [] | ["none"] => Ok(false),
            _ => Err(NodeFlagError(format!("--enforce-node-allocatable: {}: only pods, or none, is built", all.join(",")))),
        }
    }

    fn placement(&self) -> Result<Settings, NodeFlagError> {
        let options = |all: &[(String, String)]| all.iter().cloned().collect();
        if self.cpu_manager_reconcile_period.is_zero() {
            return Err(NodeFlagError("--cpu-manager-reconcile-period must be more than 0".into()));
        }
        let settings = || -> Result<Settings, String> {
            Ok(Settings {
                cpu: cpus::Policy::parse(&self.cpu_manager_policy, &options(&self.cpu_manager_policy_options))?,
                reserved_cpus: CpuSet::parse(&self.reserved_cpus).map_err(|fault| format!("--reserved-cpus: {fault}"))?,
                reconcile_every: self.cpu_manager_reconcile_period,
                memory: memory::Policy::parse(&self.memory_manager_policy, &self.reserved_memory)?,
                topology: Topology::parse(&self.topology_manager_policy, &self.topology_manager_scope, &options(&self.topology_manager_policy_options))?,
            })
        };
        settings().map_err(NodeFlagError)
    }
}
