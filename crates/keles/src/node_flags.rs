//! Flags of the node's own resources: what is kept from pods, when pods and images must go. In upstream's names, for `keles server` and
//! `keles kubelet`.

use clap::Args;
use keles_kubelet::config::Reserved;
use keles_kubelet::eviction::{Thresholds, ThresholdsText, duration};
use keles_kubelet::image_gc::Limits;
use keles_kubelet::static_pods::Sources;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub struct NodeFlags {
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

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("{text:?} is not NAME:VALUE"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// The flags understood.
#[derive(Clone, Default)]
pub struct NodeLimits {
    pub eviction: Thresholds,
    pub image_gc: Limits,
    pub reserved: Reserved,
    pub static_pods: Sources,
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
        let reserved = reserved("--system-reserved", &self.system_reserved)?.plus(reserved("--kube-reserved", &self.kube_reserved)?);
        if [self.file_check_frequency, self.http_check_frequency].contains(&Duration::ZERO) {
            return Err(NodeFlagError("--file-check-frequency and --http-check-frequency must be more than 0".into()));
        }
        if self.manifest_url.as_ref().is_some_and(|url| !url.starts_with("http://")) {
            return Err(NodeFlagError("--manifest-url must be an http URL, see docs/STATUS.md".into()));
        }
        let static_pods = Sources {
            path: self.pod_manifest_path.clone(),
            url: self.manifest_url.clone(),
            headers: self.manifest_url_header.clone(),
            file_every: self.file_check_frequency,
            url_every: self.http_check_frequency,
        };
        Ok(NodeLimits { static_pods, eviction: Thresholds::parse(&text).map_err(NodeFlagError)?, image_gc, reserved })
    }
}
