//! SchedulingGates: a pod with gates does not enter the queue until the last one is removed.

use crate::cache::PodInfo;
use crate::framework::{Event, Plugin, Rejection};

pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }
    fn pre_enqueue(&self, pod: &PodInfo) -> Result<(), Rejection> {
        let gates: Vec<&str> = pod.pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten()).map(|gate| gate.name.as_str()).collect();
        if gates.is_empty() { Ok(()) } else { Err(Rejection::unresolvable(format!("waiting for scheduling gates: [{}]", gates.join(" ")))) }
    }
    fn helps(&self, _: &Event, _: &PodInfo) -> bool {
        // Only the pod's own update removes a gate, and that puts it in anew.
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::pod;
    use serde_json::json;

    #[test]
    fn a_gated_pod_waits_and_an_ungated_one_enters() {
        assert!(SchedulingGates.pre_enqueue(&pod("a", json!({"schedulingGates": [{"name": "x"}]}))).is_err());
        assert!(SchedulingGates.pre_enqueue(&pod("a", json!({"schedulingGates": []}))).is_ok());
    }
}
