//! Swap: whether the agent starts beside it, and what containers may use of it (KEP-2400).
//!
//! Entry points: [`check`], [`NodeSwap::of_container`], [`NodeSwap::forbids_resize`]. Invariant: where the kernel counts no swap nothing is asked of
//! it, so that no pod fails for it. Volumes in memory stay out of swap by themselves (`keles_volumes::tmpfs`).

use crate::events::{Recorder, WARNING};
use crate::{eviction, qos};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource as api;
use keles_linux::cgroup::{Layout, Version};
use keles_volumes::{quantity::Quantity, tmpfs};
use std::collections::BTreeMap;
use std::io;

/// KubeletConfiguration's memorySwap.swapBehavior.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    #[default]
    NoSwap,
    /// Containers of Burstable pods have the share of the node's swap that they asked for of its memory.
    LimitedSwap,
}

impl Behavior {
    /// Empty is the default, as upstream.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "NoSwap" => Ok(Self::NoSwap),
            "LimitedSwap" => Ok(Self::LimitedSwap),
            other => Err(format!("memorySwap.swapBehavior {other:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"")),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSwap => "NoSwap",
            Self::LimitedSwap => "LimitedSwap",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub behavior: Behavior,
    /// Do not start on a node with swap on.
    pub fail_on: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    #[error("running with swap on is not supported, please disable swap or set --fail-swap-on flag to false")]
    On,
    #[error("failed to determine if swap is on: /proc/swaps: {0}")]
    Unknown(#[source] io::Error),
}

/// Refuses to start where swap is on and must not be.
pub fn check(settings: &Settings) -> Result<(), SwapError> {
    if settings.fail_on && is_on().map_err(SwapError::Unknown)? { Err(SwapError::On) } else { Ok(()) }
}

/// Tells, once, that what pods keep in memory may reach a disk.
pub fn warn_of_volumes(events: &Recorder, node: &str) {
    if tmpfs::is_noswap_supported() || !is_on().unwrap_or(false) {
        return;
    }
    let message =
        "The tmpfs noswap option is not supported. Memory-backed volumes (e.g. secrets, emptyDirs, etc.) might be swapped to disk and should no longer be considered secure.";
    tracing::warn!("{message}");
    events.node(node, WARNING, "PossibleMemoryBackedVolumesOnDisk", message);
}

fn is_on() -> io::Result<bool> {
    match std::fs::read_to_string("/proc/swaps") {
        Ok(text) => Ok(names_any(&text)),
        // A kernel without swap.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The first line of /proc/swaps names the columns.
fn names_any(swaps: &str) -> bool {
    swaps.trim().lines().nth(1).is_some()
}

/// The node's swap and how containers are held to it.
#[derive(Clone, Debug, Default)]
pub struct NodeSwap {
    behavior: Behavior,
    /// None: the kernel does not count what control groups use of swap.
    accounting: Option<Version>,
    memory_bytes: i64,
    swap_bytes: i64,
}

impl NodeSwap {
    pub fn read(behavior: Behavior, memory_bytes: i64, swap_bytes: i64) -> Self {
        let accounting = Layout::discover().ok().and_then(|layout| layout.swap_accounting());
        if behavior == Behavior::LimitedSwap && accounting != Some(Version::V2) {
            tracing::warn!("LimitedSwap needs cgroup v2 with a count of swap, which this node has not; containers have no swap");
        }
        Self { behavior, accounting, memory_bytes, swap_bytes }
    }

    /// Bytes of swap that a container may use beside memory; none: it is not counted here.
    pub fn of_container(&self, pod: &Pod, container: &Container) -> Option<i64> {
        self.accounting.map(|_| match self.behavior_of(pod, container) {
            Behavior::NoSwap => 0,
            Behavior::LimitedSwap => self.share(memory(container).0),
        })
    }

    /// Why a resize cannot be done in place: upstream does not change what a running container has of swap.
    pub fn forbids_resize(&self, given: &Pod, wanted: &Pod) -> Option<String> {
        let changes_share = containers(wanted).any(|container| {
            let Some(now) = containers(given).find(|now| now.name == container.name) else { return false };
            let restarts = container.resize_policy.iter().flatten().any(|policy| policy.resource_name == "memory" && policy.restart_policy == "RestartContainer");
            let swaps = [self.behavior_of(given, now), self.behavior_of(wanted, container)].contains(&Behavior::LimitedSwap);
            !restarts && swaps && memory(now).0 != memory(container).0
        });
        changes_share.then(|| "In-place resize of containers with swap is not supported.".into())
    }

    fn behavior_of(&self, pod: &Pod, container: &Container) -> Behavior {
        let (request, limit) = memory(container);
        let may_swap = self.accounting == Some(Version::V2)
            && pod.spec.as_ref().map(qos::class) == Some(qos::BURSTABLE)
            && !eviction::is_critical(pod)
            && request != Quantity::default()
            && request != limit;
        if may_swap { self.behavior } else { Behavior::NoSwap }
    }

    /// The part of the node's swap that is `request` of its memory; nothing for more than it has.
    fn share(&self, request: Quantity) -> i64 {
        let request = request.whole();
        if request > self.memory_bytes {
            return 0;
        }
        (i128::from(request) * i128::from(self.swap_bytes) / i128::from(self.memory_bytes.max(1))) as i64
    }
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
}

/// Request and limit of its own, zero for none: what the pod as a whole has gives no share.
fn memory(container: &Container) -> (Quantity, Quantity) {
    let resources = container.resources.clone().unwrap_or_default();
    let of = |list: Option<BTreeMap<String, api::Quantity>>| list.as_ref().and_then(|map| map.get("memory")).and_then(|quantity| Quantity::parse(&quantity.0)).unwrap_or_default();
    (of(resources.requests), of(resources.limits))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::{Value, json};

    const GIB: i64 = 1 << 30;

    /// A node of 8 GiB of memory and 4 GiB of swap, on cgroup v2.
    pub fn limited() -> NodeSwap {
        NodeSwap { behavior: Behavior::LimitedSwap, accounting: Some(Version::V2), memory_bytes: 8 * GIB, swap_bytes: 4 * GIB }
    }

    fn pod_of(priority: i32, resources: Value) -> Pod {
        let containers = json!([{"name": "c", "resources": resources}, {"name": "other"}]);
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"priority": priority, "containers": containers}})).expect("a pod")
    }

    fn of_first(swap: &NodeSwap, pod: &Pod) -> Option<i64> {
        swap.of_container(pod, &pod.spec.as_ref().expect("spec").containers[0])
    }

    #[test]
    fn containers_of_burstable_pods_have_their_share_and_all_others_none() {
        for (what, priority, resources, expected) in [
            ("a request", 0, json!({"requests": {"memory": "1Gi"}}), GIB / 2),
            ("a request below its limit", 0, json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "4Gi"}}), GIB),
            ("all of the node", 0, json!({"requests": {"memory": "8Gi"}}), 4 * GIB),
            ("more than the node", 0, json!({"requests": {"memory": "9Gi"}}), 0),
            ("a request that is the limit", 0, json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "1024Mi"}}), 0),
            ("no request of memory", 0, json!({"requests": {"cpu": "1"}}), 0),
            ("a request of zero", 0, json!({"requests": {"memory": "0"}, "limits": {"memory": "1Gi"}}), 0),
            ("BestEffort", 0, json!({}), 0),
            ("critical", eviction::SYSTEM_CRITICAL, json!({"requests": {"memory": "1Gi"}}), 0),
            ("nearly critical", eviction::SYSTEM_CRITICAL - 1, json!({"requests": {"memory": "1Gi"}}), GIB / 2),
        ] {
            assert_eq!(of_first(&limited(), &pod_of(priority, resources)), Some(expected), "{what}");
        }
        let mut fixed = pod_of(0, json!({}));
        fixed.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
        fixed.spec.as_mut().expect("spec").containers[0].resources = serde_json::from_value(json!({"requests": {"memory": "1Gi"}})).expect("resources");
        assert_eq!(of_first(&limited(), &fixed), Some(0), "a static pod is critical");
    }

    #[test]
    fn only_limited_swap_on_cgroup_v2_gives_any_and_nothing_is_asked_of_a_kernel_that_does_not_count() {
        let pod = pod_of(0, json!({"requests": {"memory": "1Gi"}}));
        for (behavior, accounting, expected) in [
            (Behavior::NoSwap, Some(Version::V2), Some(0)),
            (Behavior::NoSwap, Some(Version::V1), Some(0)),
            (Behavior::LimitedSwap, Some(Version::V1), Some(0)),
            (Behavior::NoSwap, None, None),
            (Behavior::LimitedSwap, None, None),
        ] {
            assert_eq!(of_first(&NodeSwap { behavior, accounting, ..limited() }, &pod), expected, "{behavior:?} {accounting:?}");
        }
    }

    #[test]
    fn a_request_of_memory_that_gives_swap_is_not_resized_in_place() {
        let asking = |request: &str, limit: &str, policy: &str| {
            let mut pod = pod_of(0, json!({"requests": {"memory": request}, "limits": {"memory": limit}}));
            pod.spec.as_mut().expect("spec").containers[0].resize_policy = serde_json::from_value(json!([{"resourceName": "memory", "restartPolicy": policy}])).expect("a policy");
            pod
        };
        let now = asking("1Gi", "2Gi", "NotRequired");
        let message = Some("In-place resize of containers with swap is not supported.".to_owned());
        assert_eq!(limited().forbids_resize(&now, &asking("1536Mi", "2Gi", "NotRequired")), message);
        assert_eq!(limited().forbids_resize(&asking("2Gi", "2Gi", "NotRequired"), &now), message, "it had no swap before");
        for (what, swap, wanted) in [
            ("the limit alone", limited(), asking("1Gi", "3Gi", "NotRequired")),
            ("with a restart", limited(), asking("1536Mi", "2Gi", "RestartContainer")),
            ("without swap", NodeSwap { behavior: Behavior::NoSwap, ..limited() }, asking("1536Mi", "2Gi", "NotRequired")),
            ("on cgroup v1", NodeSwap { accounting: Some(Version::V1), ..limited() }, asking("1536Mi", "2Gi", "NotRequired")),
        ] {
            assert_eq!(swap.forbids_resize(&now, &wanted), None, "{what}");
        }
    }

    #[test]
    fn swap_is_on_where_the_table_has_a_row() {
        let columns = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!names_any("") && !names_any(columns));
        assert!(names_any(&format!("{columns}/dev/zram0                              partition\t2097136\t\t0\t\t100\n")));
    }

    #[test]
    fn behaviors_are_read_in_upstreams_words() {
        assert_eq!(["", "NoSwap", "LimitedSwap"].map(Behavior::parse), [Ok(Behavior::NoSwap), Ok(Behavior::NoSwap), Ok(Behavior::LimitedSwap)]);
        assert_eq!(Behavior::parse("noswap"), Err("memorySwap.swapBehavior \"noswap\" must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"".into()));
    }
}
