//! The verdict of DefaultPreemption, told in upstream's words. Nothing is evicted: preemption itself is not built yet.

use crate::cache::PodInfo;
use crate::framework::{CycleState, Event, Plugin, Rejection};
use crate::report::count_reasons;

pub struct PreemptionVerdict;

impl Plugin for PreemptionVerdict {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }
    fn post_filter(&self, _: &CycleState, pod: &PodInfo, rejections: &[Rejection]) -> Option<String> {
        let nodes = rejections.len();
        if pod.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
            return Some("preemption: not eligible due to preemptionPolicy=Never.".into());
        }
        let verdict = |rejection: &Rejection| if rejection.resolvable { "No preemption victims found for incoming pod" } else { "Preemption is not helpful for scheduling" };
        Some(format!("preemption: 0/{nodes} nodes are available: {}.", count_reasons(rejections.iter().map(verdict))))
    }
    fn helps(&self, _: &Event, _: &PodInfo) -> bool {
        false
    }
}
