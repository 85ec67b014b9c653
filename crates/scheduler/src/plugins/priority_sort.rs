//! PrioritySort: higher priority first; equals in order of arrival, which the queue keeps.

use crate::cache::PodInfo;
use crate::framework::{Event, Plugin};

pub struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }
    fn queue_key(&self, pod: &PodInfo) -> Option<i64> {
        Some(-i64::from(pod.priority()))
    }
    fn helps(&self, _: &Event, _: &PodInfo) -> bool {
        false
    }
}
