//! Eviction by pressure: when memory, disk, inodes or process ids run short, the node says so, takes back what nobody needs, and at last ends
//! pods, those first that use more than they asked for.
//!
//! Entry points: [`Thresholds::parse`] (flags), [`run`] (the loop). `machine` decides which thresholds are met and `ranking` who goes, both
//! pure; `measure` reads the machine's figures. Figures are read every [`EVERY`]; nothing here waits for a pod but for the one it ends.

pub mod machine;
mod measure;
pub mod ranking;
mod run;
mod signals;
mod threshold;

pub use machine::{Condition, Pressure};
pub use measure::disk;
pub use run::{SharedPressure, run};
pub use signals::Signal;
pub use threshold::{Thresholds, ThresholdsText, duration};

use std::time::Duration;

/// How often the figures are looked at (upstream's monitoring interval).
pub const EVERY: Duration = Duration::from_secs(10);
/// Pods of this priority and above are never ended for pressure (upstream's SystemCriticalPriority).
pub const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// Whether the node cannot do without the pod: it is never evicted for pressure and is taken under pressure.
pub fn is_critical(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= SYSTEM_CRITICAL) || crate::static_pods::is_static(pod)
}
