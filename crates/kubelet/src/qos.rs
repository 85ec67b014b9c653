//! Quality of service: a pod's class, its place in the cgroup tree, and how ready the kernel is to kill it.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use keles_volumes::quantity::Quantity;

pub const GUARANTEED: &str = "Guaranteed";
pub const BURSTABLE: &str = "Burstable";
pub const BEST_EFFORT: &str = "BestEffort";

const GUARANTEED_OOM_SCORE_ADJ: i64 = -997;
const BEST_EFFORT_OOM_SCORE_ADJ: i64 = 1000;
/// Pods that the node cannot do without are killed as late as Guaranteed ones.
const NODE_CRITICAL_PRIORITY: i32 = 2_000_001_000;

fn memory_request(container: &Container) -> Option<Quantity> {
    Quantity::parse(&container.resources.as_ref()?.requests.as_ref()?.get("memory")?.0)
}

/// The class the API server gave the pod when it was made; the same rule.
pub fn class(spec: &PodSpec) -> &'static str {
    keles_rules::qos::class_of(spec).as_str()
}

/// The classes' groups below the runtime's root.
pub const BURSTABLE_GROUP: &str = "burstable";
pub const BEST_EFFORT_GROUP: &str = "besteffort";

/// `pod<uid>`, `burstable/pod<uid>` or `besteffort/pod<uid>`, below the runtime's root.
pub fn cgroup(spec: &PodSpec, uid: &str) -> String {
    match class(spec) {
        GUARANTEED => format!("pod{uid}"),
        BURSTABLE => format!("{BURSTABLE_GROUP}/pod{uid}"),
        _ => format!("{BEST_EFFORT_GROUP}/pod{uid}"),
    }
}

/// The more of the node's memory a Burstable container asked for, the later it is killed.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory_bytes: i64) -> i32 {
    if spec.priority.is_some_and(|priority| priority >= NODE_CRITICAL_PRIORITY) {
        return GUARANTEED_OOM_SCORE_ADJ as i32;
    }
    let score = match class(spec) {
        GUARANTEED => GUARANTEED_OOM_SCORE_ADJ,
        BEST_EFFORT => BEST_EFFORT_OOM_SCORE_ADJ,
        _ => {
            let request = memory_request(container).map_or(0, Quantity::whole);
            let share = (1000i128 * i128::from(request) / i128::from(node_memory_bytes.max(1))) as i64;
            (1000 - share).clamp(1000 + GUARANTEED_OOM_SCORE_ADJ, BEST_EFFORT_OOM_SCORE_ADJ - 1)
        }
    };
    score as i32
}
