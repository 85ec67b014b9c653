//! cgroup figures of containers and pods from their requests and limits.

use crate::machine::resize;
use crate::qos;
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use keles_rules::requests;
use keles_runtime::api::Resources;
use keles_volumes::quantity::Quantity;

const SHARES_PER_CPU: i64 = 1024;
/// The kernel's least share.
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const PERIOD_US: i64 = 100_000;
const MIN_QUOTA_US: i64 = 1000;

/// What the node holds cgroups to besides what pods ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// Most processes and threads of a pod (KubeletConfiguration's podPidsLimit).
    pub pod_pids: Option<i64>,
    /// Whether limits of cpu are held by the kernel's quota (cpuCFSQuota); shares hold either way.
    pub cpu_quota: bool,
    /// Whether all pods together are held to what is not reserved (enforceNodeAllocatable: pods).
    pub allocatable: bool,
}

impl Default for Enforced {
    fn default() -> Self {
        Self { pod_pids: None, cpu_quota: true, allocatable: true }
    }
}

fn value(resources: Option<&ResourceRequirements>, limit: bool, name: &str) -> Option<Quantity> {
    let resources = resources?;
    let map = if limit { resources.limits.as_ref() } else { resources.requests.as_ref() };
    map?.get(name).and_then(|quantity| Quantity::parse(&quantity.0))
}

/// The kernel's weight of processor time that was asked for.
pub fn shares(milli: i64) -> u64 {
    (milli * SHARES_PER_CPU / 1000).clamp(MIN_SHARES, MAX_SHARES) as u64
}

fn quota(milli: i64) -> i64 {
    (milli * PERIOD_US / 1000).max(MIN_QUOTA_US)
}

/// Figures of one container; where it has no limit of its own, the pod's holds (KEP-2837).
pub fn of_container(spec: &PodSpec, container: &Container, node_memory_bytes: i64, enforced: &Enforced) -> Resources {
    let (own, whole) = (container.resources.clone().unwrap_or_default(), spec.resources.clone().unwrap_or_default());
    let resources = Some(&resize::effective(&own, &whole));
    let limit = value(resources, true, "cpu").map(Quantity::milli).filter(|milli| *milli > 0);
    let request = value(resources, false, "cpu").map(Quantity::milli).or(limit).unwrap_or(0);
    let held = limit.filter(|_| enforced.cpu_quota);
    Resources {
        cpu_shares: Some(shares(request)),
        cpu_quota_us: held.map(quota),
        cpu_period_us: held.map(|_| PERIOD_US as u64),
        memory_limit_bytes: value(resources, true, "memory").map(Quantity::whole).filter(|bytes| *bytes > 0),
        oom_score_adj: Some(qos::oom_score_adj(spec, container, node_memory_bytes)),
        ..Resources::default()
    }
}

/// Processor time that a pod asks for, its overhead included.
pub fn cpu_request_milli(spec: &PodSpec) -> i64 {
    requests::of_pod(spec).get("cpu").map_or(0, |quantity| quantity.milli())
}

/// What a pod's cgroup is held to: what its containers ask for and its overhead (KEP-688). It has a limit where every container or the pod as a whole
/// has one. Source: kubernetes pkg/kubelet/cm/helpers_linux.go, ResourceConfigForPod.
pub fn of_pod(spec: &PodSpec, enforced: &Enforced) -> Resources {
    let limits = requests::limits_of_pod(spec);
    let is_declared = |name: &str| {
        let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        value(spec.resources.as_ref(), true, name).is_some() || all.all(|one| value(one.resources.as_ref(), true, name).is_some_and(|limit| !limit.is_zero()))
    };
    let limit = |name: &str| limits.get(name).filter(|_| is_declared(name));
    let cpu_limit = limit("cpu").map(|quantity| quantity.milli()).filter(|milli| *milli > 0 && enforced.cpu_quota);
    Resources {
        cpu_shares: Some(shares(cpu_request_milli(spec))),
        cpu_quota_us: cpu_limit.map(quota),
        cpu_period_us: cpu_limit.map(|_| PERIOD_US as u64),
        memory_limit_bytes: limit("memory").map(|quantity| quantity.units()).filter(|bytes| *bytes > 0),
        pids_limit: enforced.pod_pids,
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(containers: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({"containers": containers})).expect("a spec")
    }

    #[test]
    fn cpu_becomes_shares_and_quota_and_memory_a_limit() {
        let spec = spec(json!([{"name": "c", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "1500m", "memory": "64Mi"}}}]));
        let figures = of_container(&spec, &spec.containers[0], 1 << 30, &Enforced::default());
        assert_eq!((figures.cpu_shares, figures.cpu_quota_us, figures.cpu_period_us, figures.memory_limit_bytes), (Some(256), Some(150_000), Some(100_000), Some(64 << 20)));
    }

    #[test]
    fn the_node_may_hold_processes_and_leave_quotas() {
        let spec = spec(json!([{"name": "c", "resources": {"requests": {"cpu": "1500m"}, "limits": {"cpu": "1500m", "memory": "64Mi"}}}]));
        let enforced = Enforced { pod_pids: Some(100), cpu_quota: false, allocatable: true };
        let (pod, container) = (of_pod(&spec, &enforced), of_container(&spec, &spec.containers[0], 1 << 30, &enforced));
        assert_eq!((pod.pids_limit, pod.cpu_quota_us, pod.cpu_period_us, pod.cpu_shares), (Some(100), None, None, Some(1536)));
        assert_eq!((container.pids_limit, container.cpu_quota_us, container.cpu_period_us, container.cpu_shares), (None, None, None, Some(1536)));
        assert_eq!((pod.memory_limit_bytes, container.memory_limit_bytes), (Some(64 << 20), Some(64 << 20)));
    }

    #[test]
    fn a_pod_is_limited_only_when_all_its_containers_are() {
        let open = spec(json!([{"name": "a", "resources": {"limits": {"memory": "1Mi"}}}, {"name": "b"}]));
        assert_eq!(of_pod(&open, &Enforced::default()).memory_limit_bytes, None);
        let closed = spec(json!([{"name": "a", "resources": {"limits": {"memory": "1Mi"}}}, {"name": "b", "resources": {"limits": {"memory": "2Mi"}}}]));
        assert_eq!(of_pod(&closed, &Enforced::default()).memory_limit_bytes, Some(3 << 20));
    }

    #[test]
    fn what_the_pod_as_a_whole_has_holds_it_and_containers_without_limits() {
        let mut spec = spec(json!([{"name": "a"}, {"name": "b", "resources": {"limits": {"memory": "2Mi"}}}]));
        spec.resources = serde_json::from_value(json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "memory": "8Mi"}})).expect("resources");
        spec.init_containers = serde_json::from_value(json!([{"name": "i"}])).expect("containers");
        let whole = of_pod(&spec, &Enforced::default());
        assert_eq!((whole.cpu_shares, whole.cpu_quota_us, whole.memory_limit_bytes), (Some(512), Some(100_000), Some(8 << 20)));
        let figures = |index: usize| of_container(&spec, &spec.containers[index], 1 << 30, &Enforced::default());
        assert_eq!((figures(0).cpu_quota_us, figures(0).memory_limit_bytes), (Some(100_000), Some(8 << 20)));
        assert_eq!((figures(1).cpu_quota_us, figures(1).memory_limit_bytes), (Some(100_000), Some(2 << 20)));
    }

    #[test]
    fn overhead_is_the_pods_and_what_inits_ask_for_counts_where_it_is_more() {
        let mut spec = spec(json!([{"name": "c", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m", "memory": "10Mi"}}}]));
        spec.overhead = serde_json::from_value(json!({"cpu": "50m", "memory": "6Mi"})).expect("overhead");
        let alone = of_pod(&spec, &Enforced::default());
        assert_eq!((alone.cpu_shares, alone.cpu_quota_us, alone.memory_limit_bytes), (Some(153), Some(25_000), Some(16 << 20)));
        let init = json!([{"name": "i", "resources": {"requests": {"cpu": "300m"}, "limits": {"cpu": "1", "memory": "64Mi"}}}]);
        spec.init_containers = serde_json::from_value(init).expect("containers");
        let with = of_pod(&spec, &Enforced::default());
        assert_eq!((with.cpu_shares, with.cpu_quota_us, with.memory_limit_bytes), (Some(358), Some(105_000), Some(70 << 20)));
        assert_eq!(cpu_request_milli(&spec), 350);
    }

    #[test]
    fn quality_of_service_decides_cgroup_and_oom_score() {
        let cases = [
            (json!([{"name": "c", "resources": {"limits": {"cpu": "100m", "memory": "32Mi"}, "requests": {"cpu": "100m", "memory": "32Mi"}}}]), qos::GUARANTEED, "podu", -997),
            (json!([{"name": "c", "resources": {"requests": {"memory": "512Mi"}}}]), qos::BURSTABLE, "burstable/podu", 500),
            (json!([{"name": "c"}]), qos::BEST_EFFORT, "besteffort/podu", 1000),
        ];
        for (containers, class, cgroup, score) in cases {
            let spec = spec(containers);
            assert_eq!((qos::class(&spec), qos::cgroup(&spec, "u").as_str(), qos::oom_score_adj(&spec, &spec.containers[0], 1 << 30)), (class, cgroup, score));
        }
    }
}
