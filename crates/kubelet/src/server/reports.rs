//! What the agent says of itself and of its pods: `/pods`, `/runningpods`, `/metrics`, `/configz`, `/healthz`.

use super::Api;
use crate::config::{KubeletConfig, ServingCertificate};
use crate::dra;
use crate::pod_worker::View;
use crate::pods::Pods;
use keles_observe::health::Check;
use keles_observe::metrics::{Collect, CounterVec, Described, Exposition, GaugeVec, HistogramVec, Shape, alpha};
use keles_runtime::api::ContainerState;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// All pods of the node with their status as the agent knows it.
pub fn pod_list(pods: &Pods) -> Value {
    let items = pods.views().into_iter().map(|view| {
        let mut pod = (*view.pod).clone();
        pod.status = Some(view.status);
        serde_json::to_value(pod).unwrap_or_default()
    });
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items.collect::<Vec<_>>()})
}

/// Pods as the runtime has them: names and what runs.
pub fn running_pods(pods: &Pods) -> Value {
    let views = pods.views().into_iter().filter(|view| view.sandbox.is_some());
    let items = views.map(|view| {
        let running = view.records.iter().filter(|record| record.state == ContainerState::Running);
        let containers: Vec<Value> = running.map(|record| json!({"name": record.name, "image": record.image, "resources": {}})).collect();
        let metadata = &view.pod.metadata;
        json!({"metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid}, "spec": {"containers": containers}, "status": {}})
    });
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items.collect::<Vec<_>>()})
}

/// `ping` and `log` say that the agent answers (logs are written where they are made); `syncloop`, that the runtime does.
pub async fn checks(api: &Api) -> Vec<Check> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let runtime = match tokio::time::timeout(PATIENCE, api.agent.runtime.list_sandboxes()).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(format!("the container runtime fails: {error}")),
        Err(_) => Some("the container runtime does not answer".to_owned()),
    };
    vec![Check { name: "ping", failure: None }, Check { name: "log", failure: None }, Check { name: "syncloop", failure: runtime }]
}

const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
pub static REQUESTS: CounterVec<4> =
    CounterVec::new(alpha("kubelet_http_requests_total", "Number of the http requests received since the server started"), ["long_running", "method", "path", "server_type"]);
pub static OPEN: GaugeVec<4> = GaugeVec::new(alpha("kubelet_http_inflight_requests", "Number of the inflight http requests"), ["long_running", "method", "path", "server_type"]);
pub static TOOK: HistogramVec<4> =
    HistogramVec::new(alpha("kubelet_http_requests_duration_seconds", "Duration in seconds to serve http requests"), ["long_running", "method", "path", "server_type"], SECONDS);
pub static FAMILIES: &[&dyn Collect] = &[&REQUESTS, &OPEN, &TOOK, &dra::metrics::OPERATIONS, &dra::metrics::CALLS];

/// Families whose values are looked up when asked.
pub struct Own<'a>(pub &'a Api);

const NODE_NAME: Described = alpha("kubelet_node_name", "The node's name. The count is always 1.");
const RUNNING_PODS: Described = alpha("kubelet_running_pods", "Number of pods that have a running pod sandbox");
const RUNNING_CONTAINERS: Described = alpha("kubelet_running_containers", "Number of containers currently running");
const DESIRED: Described = alpha("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.");
const ACTIVE: Described = alpha(
    "kubelet_active_pods",
    "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
);

const MIRRORS: Described = alpha("kubelet_mirror_pods", "The number of mirror pods the kubelet will try to create (one per admitted static pod)");
const EPHEMERAL: Described = alpha("kubelet_managed_ephemeral_containers", "Current number of ephemeral containers in pods managed by this kubelet.");
const RESIZES_PENDING: Described = alpha("kubelet_pod_pending_resizes", "Number of pending resizes for pods.");
const RESIZES_IN_PROGRESS: Described = alpha("kubelet_pod_in_progress_resizes", "Number of in-progress resizes for pods.");

/// How many pods have a condition, by its reason.
fn conditions(views: &[View], kind: &str) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    let of = views.iter().flat_map(|view| view.status.conditions.iter().flatten()).filter(|condition| condition.type_ == kind && condition.status == "True");
    of.for_each(|condition| *all.entry(condition.reason.clone().unwrap_or_default().to_lowercase()).or_default() += 1);
    all
}

impl Collect for Own<'_> {
    fn collect(&self, to: &mut Exposition) {
        self.0.agent.placement.dra.collect(to);
        let views = self.0.pods.views();
        let count = |state| views.iter().flat_map(|view| &view.records).filter(|record| record.state == state).count() as f64;
        let terminal = |view: &&View| view.status.phase.as_deref().is_some_and(crate::machine::phase::is_terminal);
        to.family(&NODE_NAME, Shape::Gauge, |w| w.gauge(&["node"], &[&self.0.agent.config.node_name], 1.0));
        to.family(&RUNNING_PODS, Shape::Gauge, |w| w.gauge::<&str>(&[], &[], views.iter().filter(|view| view.sandbox.is_some()).count() as f64));
        to.family(&RUNNING_CONTAINERS, Shape::Gauge, |w| {
            for (name, state) in
                [("created", ContainerState::Created), ("exited", ContainerState::Exited), ("running", ContainerState::Running), ("unknown", ContainerState::Unknown)]
            {
                w.gauge(&["container_state"], &[name], count(state));
            }
        });
        let ephemeral = |view: &View| view.pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref()).map_or(0, Vec::len);
        to.family(&EPHEMERAL, Shape::Gauge, |w| w.gauge::<&str>(&[], &[], views.iter().map(ephemeral).sum::<usize>() as f64));
        let mirrored = views.iter().filter(|view| crate::static_pods::is_static(&view.pod) && !terminal(view));
        to.family(&MIRRORS, Shape::Gauge, |w| w.gauge::<&str>(&[], &[], mirrored.count() as f64));
        to.family(&RESIZES_PENDING, Shape::Gauge, |w| {
            for (reason, count) in conditions(&views, "PodResizePending") {
                w.gauge(&["reason"], &[reason], count as f64);
            }
        });
        let in_progress: usize = conditions(&views, "PodResizeInProgress").values().sum();
        to.family(&RESIZES_IN_PROGRESS, Shape::Gauge, |w| w.gauge::<&str>(&[], &[], in_progress as f64));
        to.family(&DESIRED, Shape::Gauge, |w| w.gauge(&["static"], &[""], views.len() as f64));
        to.family(&ACTIVE, Shape::Gauge, |w| w.gauge(&["static"], &[""], views.iter().filter(|view| !terminal(view)).count() as f64));
    }
}

/// The KubeletConfiguration in force: what is set and what of upstream's defaults holds here.
pub fn configz(config: &KubeletConfig, port: u16) -> Value {
    let kept = keles_auth::delegated::Kept::OF_NODES;
    let go = |d: Duration| match (d.as_secs() / 60, d.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    };
    let dns: Vec<String> = config.cluster_dns.servers.iter().map(ToString::to_string).collect();
    let server = json!({
        "enableServer": config.tls.is_some(),
        "address": config.listen.ip().to_string(),
        "port": port,
        "healthzPort": config.healthz.map_or(0, |at| at.port()),
        "healthzBindAddress": config.healthz.map_or_else(String::new, |at| at.ip().to_string()),
        "authentication": {"x509": {}, "webhook": {"enabled": true, "cacheTTL": go(kept.users)}, "anonymous": {"enabled": config.anonymous_auth}},
        "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": go(kept.allowed), "cacheUnauthorizedTTL": go(kept.denied)}},
        "clusterDomain": config.cluster_dns.domain,
        "clusterDNS": dns,
        "syncFrequency": go(config.volume_refresh),
    });
    let pods = json!({
        "nodeStatusReportFrequency": "5m0s",
        "nodeStatusUpdateFrequency": "10s",
        "nodeLeaseDurationSeconds": 40,
        "maxPods": config.max_pods,
        "podPidsLimit": config.enforced.pod_pids.unwrap_or(-1),
        "cpuCFSQuota": config.enforced.cpu_quota,
        "crashLoopBackOff": {"maxContainerRestartPeriod": go(config.max_restart_wait)},
        "resolvConf": config.resolver_file.as_deref().map_or_else(String::new, |path| path.display().to_string()),
        "registerWithTaints": config.taints,
        "cgroupsPerQOS": true,
        "cgroupDriver": "cgroupfs",
        "enforceNodeAllocatable": if config.enforced.allocatable { json!(["pods"]) } else { json!([]) },
        "containerLogMaxSize": config.logs.shown,
        "containerLogMaxFiles": config.logs.max_files,
        "containerLogMonitorInterval": "10s",
    });
    let security = json!({
        "seccompDefault": config.seccomp_default,
        "allowedUnsafeSysctls": config.allowed_unsafe_sysctls,
        "volumePluginDir": "",
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        "enableControllerAttachDetach": true,
        "enableDebuggingHandlers": true,
        "enableSystemLogHandler": config.system_logs.is_some(),
        "enableSystemLogQuery": false,
        "enableProfilingHandler": false,
        "serverTLSBootstrap": matches!(config.tls.as_ref().map(|tls| &tls.certificate), Some(ServingCertificate::Requested { .. })),
        "rotateCertificates": config.client_rotation.is_some(),
        "failSwapOn": config.swap.fail_on,
        "memorySwap": {"swapBehavior": config.swap.behavior.as_str()},
        "localStorageCapacityIsolation": true,
        "registerNode": true,
    });
    let (own, images, eviction) = (&config.static_pods, &config.image_gc, &config.eviction);
    let resources = json!({
        "staticPodPath": own.path.as_deref().map_or_else(String::new, |path| path.display().to_string()),
        "staticPodURL": own.url.as_deref().unwrap_or_default(),
        "fileCheckFrequency": go(own.file_every),
        "httpCheckFrequency": go(own.url_every),
        "imageGCHighThresholdPercent": images.high_percent,
        "imageGCLowThresholdPercent": images.low_percent,
        "imageMinimumGCAge": go(images.minimum_age),
        "imageMaximumGCAge": go(images.maximum_age),
        "evictionHard": eviction.texts(false),
        "evictionSoft": eviction.texts(true),
        "evictionPressureTransitionPeriod": go(eviction.transition),
        "evictionMaxPodGracePeriod": eviction.max_pod_grace.as_secs(),
    });
    let all: serde_json::Map<String, Value> = [server, pods, security, resources].into_iter().filter_map(|part| part.as_object().cloned()).flatten().collect();
    json!({"kubeletconfig": all})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_says_what_is_set() {
        let mut config = KubeletConfig::new("n", [10, 0, 0, 1].into(), "/d");
        config.max_pods = 7;
        config.swap = crate::swap::Settings { behavior: crate::swap::Behavior::LimitedSwap, fail_on: true };
        let said = configz(&config, 21_000);
        let k = &said["kubeletconfig"];
        assert_eq!((&k["maxPods"], &k["port"], &k["authentication"]["anonymous"]["enabled"]), (&json!(7), &json!(21_000), &json!(false)));
        assert_eq!((&k["authorization"]["webhook"]["cacheAuthorizedTTL"], &k["syncFrequency"]), (&json!("5m0s"), &json!("1m0s")));
        assert_eq!((&k["failSwapOn"], &k["memorySwap"]), (&json!(true), &json!({"swapBehavior": "LimitedSwap"})));
    }
}
