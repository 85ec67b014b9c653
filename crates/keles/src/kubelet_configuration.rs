//! A KubeletConfiguration (kubelet.config.k8s.io/v1beta1) as flags of `keles kubelet`.
//!
//! Entry point: [`flags`]. Each field is a row of [`FIELDS`]: what it is here. A field that is neither there nor built is refused by name; so is one that
//! upstream does not know. Source: k8s.io/kubelet/config/v1beta1/types.go; as there, null and empty values, and durations of 0, mean the default.

use keles_kubelet::eviction::ThresholdsText;
use serde_yaml_ng::{Mapping, Value};
use std::path::Path;

pub const KIND: &str = "KubeletConfiguration";
const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

/// What a field is here.
enum Is {
    Flag(&'static str, Form),
    /// Another value than these is refused: it asks for what is not built.
    One(&'static [&'static str]),
    /// It sets what this agent has not, or does in a way of its own; the log says so.
    Nothing,
}

/// How a value is written as a flag's.
#[derive(Clone, Copy)]
enum Form {
    Text,
    /// 0 means the default.
    Number,
    /// 0 means the default.
    Duration,
    /// From the configuration's folder on, where it is relative.
    Path,
    List,
    /// A map with this between name and value.
    Map(char),
    /// A map of names to lists.
    Headers,
    Taints,
    /// Of `shutdownGracePeriodByPodPriority`.
    Priorities,
    /// Of `reservedMemory`.
    NumaNodes,
}

use Form::{Duration, Headers, List, Map, NumaNodes, Number, Priorities, Taints, Text};
use Is::{Flag, Nothing, One};

/// By field, with `.` between levels.
const FIELDS: &[(&str, Is)] = &[
    ("address", Flag("address", Text)),
    ("allowedUnsafeSysctls", Flag("allowed-unsafe-sysctls", List)),
    ("authentication.anonymous.enabled", Flag("anonymous-auth", Text)),
    ("authentication.webhook.cacheTTL", Nothing),
    ("authentication.webhook.enabled", One(&["true"])),
    ("authentication.x509.clientCAFile", Flag("client-ca-file", Form::Path)),
    ("authorization.mode", One(&["Webhook"])),
    ("authorization.webhook.cacheAuthorizedTTL", Nothing),
    ("authorization.webhook.cacheUnauthorizedTTL", Nothing),
    // The runtime says which it is, as with upstream's.
    ("cgroupDriver", Nothing),
    ("cgroupRoot", One(&["/"])),
    ("cgroupsPerQOS", One(&["true"])),
    ("clusterDNS", Flag("cluster-dns", List)),
    ("clusterDomain", Flag("cluster-domain", Text)),
    ("configMapAndSecretChangeDetectionStrategy", One(&["Watch"])),
    ("containerLogMaxFiles", Flag("container-log-max-files", Number)),
    ("containerLogMaxSize", Flag("container-log-max-size", Text)),
    ("containerLogMaxWorkers", Nothing),
    ("containerLogMonitorInterval", Nothing),
    ("containerRuntimeEndpoint", Flag("container-runtime-endpoint", Text)),
    ("contentType", Nothing),
    ("cpuCFSQuota", Flag("cpu-cfs-quota", Text)),
    ("cpuCFSQuotaPeriod", One(&["100ms"])),
    ("cpuManagerPolicy", Flag("cpu-manager-policy", Text)),
    ("cpuManagerPolicyOptions", Flag("cpu-manager-policy-options", Map('='))),
    ("cpuManagerReconcilePeriod", Flag("cpu-manager-reconcile-period", Duration)),
    ("crashLoopBackOff.maxContainerRestartPeriod", Flag("max-container-restart-period", Duration)),
    ("enableContentionProfiling", Nothing),
    ("enableControllerAttachDetach", One(&["true"])),
    ("enableDebugFlagsHandler", Nothing),
    ("enableDebuggingHandlers", One(&["true"])),
    ("enableProfilingHandler", Nothing),
    ("enableServer", One(&["true"])),
    ("enableSystemLogHandler", Flag("enable-system-log-handler", Text)),
    ("enableSystemLogQuery", One(&["false"])),
    ("enforceNodeAllocatable", Flag("enforce-node-allocatable", List)),
    ("eventBurst", Nothing),
    ("eventRecordQPS", Nothing),
    ("evictionHard", Flag("eviction-hard", Map('<'))),
    ("evictionMaxPodGracePeriod", Flag("eviction-max-pod-grace-period", Number)),
    ("evictionMinimumReclaim", Flag("eviction-minimum-reclaim", Map('='))),
    ("evictionPressureTransitionPeriod", Flag("eviction-pressure-transition-period", Duration)),
    ("evictionSoft", Flag("eviction-soft", Map('<'))),
    ("evictionSoftGracePeriod", Flag("eviction-soft-grace-period", Map('='))),
    ("failCgroupV1", One(&["false"])),
    ("failSwapOn", Flag("fail-swap-on", Text)),
    ("featureGates", Nothing),
    ("fileCheckFrequency", Flag("file-check-frequency", Duration)),
    ("hairpinMode", Nothing),
    ("healthzBindAddress", Flag("healthz-bind-address", Text)),
    ("healthzPort", Flag("healthz-port", Text)),
    ("httpCheckFrequency", Flag("http-check-frequency", Duration)),
    ("imageGCHighThresholdPercent", Flag("image-gc-high-threshold", Text)),
    ("imageGCLowThresholdPercent", Flag("image-gc-low-threshold", Text)),
    ("imageMaximumGCAge", Flag("image-maximum-gc-age", Duration)),
    ("imageMinimumGCAge", Flag("minimum-image-ttl-duration", Duration)),
    ("imagePullCredentialsVerificationPolicy", One(&["NeverVerifyPreloadedImages"])),
    ("iptablesDropBit", Nothing),
    ("iptablesMasqueradeBit", Nothing),
    ("kernelMemcgNotification", Nothing),
    ("kubeAPIBurst", Nothing),
    ("kubeAPIQPS", Nothing),
    ("kubeReserved", Flag("kube-reserved", Map('='))),
    ("localStorageCapacityIsolation", One(&["true"])),
    ("logging.flushFrequency", Nothing),
    ("logging.format", Flag("logging-format", Text)),
    ("logging.options", Nothing),
    ("logging.verbosity", Flag("v", Text)),
    ("makeIPTablesUtilChains", Nothing),
    ("maxOpenFiles", Nothing),
    ("maxParallelImagePulls", Flag("max-parallel-image-pulls", Text)),
    ("maxPods", Flag("max-pods", Number)),
    ("memoryManagerPolicy", Flag("memory-manager-policy", Text)),
    ("memorySwap.swapBehavior", Flag("memory-swap-behavior", Text)),
    // Read with evictionHard.
    (MERGE, One(&["true", "false"])),
    ("nodeLeaseDurationSeconds", One(&["0", "40"])),
    ("nodeStatusMaxImages", One(&["50"])),
    ("nodeStatusReportFrequency", One(&["0s", "5m", "5m0s"])),
    ("nodeStatusUpdateFrequency", One(&["0s", "10s"])),
    ("oomScoreAdj", Nothing),
    ("podLogsDir", Flag("pod-logs-dir", Form::Path)),
    ("podPidsLimit", Flag("pod-max-pids", Text)),
    ("podsPerCore", One(&["0"])),
    ("port", Flag("port", Number)),
    ("protectKernelDefaults", One(&["false"])),
    ("readOnlyPort", One(&["0"])),
    ("registerNode", One(&["true"])),
    ("registerWithTaints", Flag("register-with-taints", Taints)),
    ("registryBurst", Nothing),
    ("registryPullQPS", Nothing),
    ("reservedMemory", Flag("reserved-memory", NumaNodes)),
    ("reservedSystemCPUs", Flag("reserved-cpus", Text)),
    ("resolvConf", Flag("resolv-conf", Form::Path)),
    ("rotateCertificates", Flag("rotate-certificates", Text)),
    ("runOnce", One(&["false"])),
    ("runtimeRequestTimeout", Nothing),
    ("seccompDefault", Flag("seccomp-default", Text)),
    ("serializeImagePulls", Flag("serialize-image-pulls", Text)),
    ("serverTLSBootstrap", Flag("rotate-server-certificates", Text)),
    ("showHiddenMetricsForVersion", Nothing),
    ("shutdownGracePeriod", Flag("shutdown-grace-period", Duration)),
    ("shutdownGracePeriodByPodPriority", Flag("shutdown-grace-period-by-pod-priority", Priorities)),
    ("shutdownGracePeriodCriticalPods", Flag("shutdown-grace-period-critical-pods", Duration)),
    ("singleProcessOOMKill", One(&["false"])),
    ("staticPodPath", Flag("pod-manifest-path", Form::Path)),
    ("staticPodURL", Flag("manifest-url", Text)),
    ("staticPodURLHeader", Flag("manifest-url-header", Headers)),
    ("streamingConnectionIdleTimeout", Nothing),
    ("syncFrequency", One(&["0s", "1m", "1m0s"])),
    ("systemReserved", Flag("system-reserved", Map('='))),
    ("tlsCertFile", Flag("tls-cert-file", Form::Path)),
    ("tlsMinVersion", One(&["VersionTLS12"])),
    ("tlsPrivateKeyFile", Flag("tls-private-key-file", Form::Path)),
    ("topologyManagerPolicy", Flag("topology-manager-policy", Text)),
    ("topologyManagerPolicyOptions", Flag("topology-manager-policy-options", Map('='))),
    ("topologyManagerScope", Flag("topology-manager-scope", Text)),
    ("volumePluginDir", Nothing),
    ("volumeStatsAggPeriod", Nothing),
];
const MERGE: &str = "mergeDefaultEvictionSettings";
/// Known, and asking for what is not built whatever they say.
const NOT_BUILT: &[&str] = &[
    "imageServiceEndpoint",
    "kubeReservedCgroup",
    "kubeletCgroups",
    "memoryThrottlingFactor",
    "podCIDR",
    "preloadedImagesVerificationAllowlist",
    "providerID",
    "qosReserved",
    "systemCgroups",
    "systemReservedCgroup",
    "tlsCipherSuites",
    "tlsCurvePreferences",
    "tracing",
    "userNamespaces",
];

/// Why a configuration is not taken; the field by its path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no kind {KIND} is known of apiVersion {0:?}; it must be {API_VERSION}")]
    Version(String),
    #[error("unknown field {0:?}")]
    Unknown(String),
    #[error("{0} is not built, leave it out (docs/STATUS.md)")]
    NotBuilt(String),
    #[error("{field}: {value} is not built, only {only} is (docs/STATUS.md)")]
    Only { field: String, value: String, only: String },
    #[error("{field}: {value} is not {wanted}")]
    Value { field: String, value: String, wanted: &'static str },
}

/// What a configuration comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Understood {
    /// Names and values, in the configuration's order; a name once for each of its values.
    pub flags: Vec<(&'static str, String)>,
    /// Fields that set something and have no effect here.
    pub without_effect: Vec<String>,
}

/// The flags that `configuration` stands for; `folder` is the one it lies in.
pub fn flags(configuration: &Mapping, folder: &Path) -> Result<Understood, Refusal> {
    let version = configuration.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if version != API_VERSION {
        return Err(Refusal::Version(version.to_owned()));
    }
    let mut leaves = Vec::new();
    for (name, value) in configuration.iter().filter(|(name, _)| !matches!(name.as_str(), Some("apiVersion" | "kind"))) {
        collect(&name_of(name), value, &mut leaves)?;
    }
    let mut all = Understood::default();
    for (field, is, value) in leaves {
        match is {
            Flag(name, form) => all.flags.extend(written(&field, *form, value, folder)?.into_iter().map(|text| (*name, text))),
            One(values) if scalar(value).is_some_and(|text| values.contains(&text.as_str())) => {}
            One(values) => return Err(Refusal::Only { field, value: shown(value), only: values.join(" or ") }),
            Nothing if scalar(value).is_some_and(|text| is_zero(&text)) => {}
            Nothing => all.without_effect.push(field),
        }
    }
    if configuration.get(MERGE).and_then(Value::as_bool) == Some(true) {
        all.flags.iter_mut().filter(|(name, _)| *name == "eviction-hard").for_each(|(_, value)| *value = with_defaults(value));
    }
    Ok(all)
}

fn name_of(key: &Value) -> String {
    scalar(key).unwrap_or_default()
}

/// Fields with a row, however deep; empty ones are left out.
fn collect<'a>(field: &str, value: &'a Value, into: &mut Vec<(String, &'static Is, &'a Value)>) -> Result<(), Refusal> {
    if is_empty(value) {
        return known(field);
    }
    if let Some((_, is)) = FIELDS.iter().find(|(name, _)| *name == field) {
        into.push((field.to_owned(), is, value));
        return Ok(());
    }
    known(field)?;
    if NOT_BUILT.contains(&field) {
        return Err(Refusal::NotBuilt(field.to_owned()));
    }
    let Value::Mapping(inner) = value else { return Err(Refusal::Value { field: field.to_owned(), value: shown(value), wanted: "an object" }) };
    inner.iter().try_for_each(|(name, value)| collect(&format!("{field}.{}", name_of(name)), value, into))
}

fn is_zero(text: &str) -> bool {
    matches!(text, "0" | "0s")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Sequence(all) => all.is_empty(),
        Value::Mapping(all) => all.is_empty(),
        _ => false,
    }
}

/// Whether upstream has such a field, or fields below it.
fn known(field: &str) -> Result<(), Refusal> {
    let is_known = NOT_BUILT.contains(&field) || FIELDS.iter().any(|(name, _)| name.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')));
    if is_known { Ok(()) } else { Err(Refusal::Unknown(field.to_owned())) }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        Value::String(s) => Some(s.clone()),
        _ => None,
    }
}

fn shown(value: &Value) -> String {
    scalar(value).unwrap_or_else(|| serde_json::to_string(value).unwrap_or_default())
}

/// The flag's values; none where the field means the default.
fn written(field: &str, form: Form, value: &Value, folder: &Path) -> Result<Vec<String>, Refusal> {
    let fault = |wanted| Refusal::Value { field: field.to_owned(), value: shown(value), wanted };
    let text = || scalar(value).ok_or_else(|| fault("one value"));
    let list = || value.as_sequence().ok_or_else(|| fault("a list"));
    let map = |value: &Value, between: char| {
        let pairs = value.as_mapping()?.iter().map(|(name, value)| Some(format!("{}{between}{}", scalar(name)?, scalar(value)?)));
        pairs.collect::<Option<Vec<String>>>()
    };
    let each = |one: &dyn Fn(&Value) -> Option<String>, wanted| list()?.iter().map(one).collect::<Option<Vec<String>>>().ok_or_else(|| fault(wanted));
    // Go's zero value where it is left out.
    let number = |entry: &Value, name: &str| entry.get(name).map_or(Some("0".to_owned()), scalar);
    Ok(match form {
        Text => vec![text()?],
        Number | Duration => Some(text()?).filter(|text| !is_zero(text)).into_iter().collect(),
        // An absolute one stays as it is.
        Form::Path => vec![folder.join(text()?).display().to_string()],
        List => each(&scalar, "a list of texts")?,
        Map(between) => vec![map(value, between).ok_or_else(|| fault("a map of texts"))?.join(",")],
        Headers => {
            let headers = value.as_mapping().ok_or_else(|| fault("a map of lists"))?;
            let pairs =
                headers.iter().flat_map(|(name, values)| values.as_sequence().into_iter().flatten().map(move |value| Some(format!("{}:{}", scalar(name)?, scalar(value)?))));
            pairs.collect::<Option<Vec<String>>>().ok_or_else(|| fault("a map of lists"))?
        }
        Taints => {
            let part = |taint: &Value, name: &str| taint.get(name).and_then(scalar).unwrap_or_default();
            let one = |taint: &Value| match part(taint, "value") {
                value if value.is_empty() => format!("{}:{}", part(taint, "key"), part(taint, "effect")),
                value => format!("{}={value}:{}", part(taint, "key"), part(taint, "effect")),
            };
            list()?.iter().map(one).collect()
        }
        Priorities => each(&|entry| Some(format!("{}={}", number(entry, "priority")?, number(entry, "shutdownGracePeriodSeconds")?)), "a list of priorities with their seconds")?,
        NumaNodes => each(&|entry| Some(format!("{}:{}", number(entry, "numaNode")?, map(entry.get("limits")?, '=')?.join(","))), "a list of NUMA nodes with their limits")?,
    })
}

/// With the default of each signal that is not named (`mergeDefaultEvictionSettings`).
fn with_defaults(hard: &str) -> String {
    let signal = |threshold: &str| threshold.split('<').next().unwrap_or_default().trim().to_owned();
    let named: Vec<String> = hard.split(',').map(signal).collect();
    let defaults = ThresholdsText::HARD.split(',').filter(|default| !named.contains(&signal(default)));
    std::iter::once(hard).chain(defaults).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
#[path = "kubelet_configuration_tests.rs"]
mod tests;
