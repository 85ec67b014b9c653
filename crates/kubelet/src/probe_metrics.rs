//! `/metrics/probes`: how often containers were probed, with what result and how long it took.
//!
//! Entry points: [`note`], [`forget`], [`text`]. Rows go with their pod, so that they are as many as the node has probes.
//! Source: kubernetes pkg/kubelet/prober/prober_manager.go.

use k8s_openapi::api::core::v1::Pod;
use keles_observe::metrics::{Described, Exposition, Format, Shape, alpha, beta};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const TOTAL: Described = beta("prober_probe_total", "Cumulative number of a liveness, readiness or startup probe for a container by result.");
const SECONDS: Described = alpha("prober_probe_duration_seconds", "Duration in seconds for a probe response.");
/// The client library's defaults, upper bounds in seconds.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The uid first: what is of one pod lies together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    uid: String,
    container: String,
    kind: &'static str,
}

#[derive(Default)]
struct Counts {
    namespace: String,
    pod: String,
    results: BTreeMap<&'static str, u64>,
    /// One a bound, the last for what took longer.
    took: [u64; BOUNDS.len() + 1],
    seconds: f64,
}

static ALL: Mutex<BTreeMap<Key, Counts>> = Mutex::new(BTreeMap::new());

fn all() -> std::sync::MutexGuard<'static, BTreeMap<Key, Counts>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `kind` as events name it; `result` is `successful`, `failed` or `unknown`.
pub fn note(pod: &Pod, container: &str, kind: &'static str, result: &'static str, took: Duration) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let key = Key { uid: text(&pod.metadata.uid), container: container.to_owned(), kind };
    let mut all = all();
    let counts = all.entry(key).or_insert_with(|| Counts { namespace: text(&pod.metadata.namespace), pod: text(&pod.metadata.name), ..Counts::default() });
    *counts.results.entry(result).or_default() += 1;
    // Only answers are timed.
    if result != "unknown" {
        let seconds = took.as_secs_f64();
        counts.took[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        counts.seconds += seconds;
    }
}

/// The pod is gone.
pub fn forget(uid: &str) {
    all().retain(|key, _| key.uid != uid);
}

pub fn text(format: Format) -> String {
    let mut out = Exposition::new(format);
    let all = all();
    out.family(&TOTAL, Shape::Counter, |w| {
        for (key, c) in all.iter() {
            for (result, n) in &c.results {
                let labels = ["container", "namespace", "pod", "pod_uid", "probe_type", "result"];
                w.counter(&labels, &[key.container.as_str(), &c.namespace, &c.pod, &key.uid, key.kind, result], *n as f64);
            }
        }
    });
    out.family(&SECONDS, Shape::Histogram, |w| {
        for (key, c) in all.iter() {
            let mut sum = 0;
            let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds
                .zip(c.took)
                .map(|(bound, n)| {
                    sum += n;
                    (bound, sum)
                })
                .collect();
            w.histogram(&["container", "namespace", "pod", "probe_type"], &[key.container.as_str(), &c.namespace, &c.pod, key.kind], &buckets, c.seconds);
        }
    });
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn probes_are_counted_until_their_pod_is_gone() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "probed", "namespace": "ns", "uid": "u-probed"}})).expect("a pod");
        note(&pod, "c", "Liveness", "successful", Duration::from_millis(30));
        note(&pod, "c", "Liveness", "failed", Duration::from_millis(30));
        note(&pod, "c", "Liveness", "unknown", Duration::from_secs(30));
        let said = text(Format::Text);
        let labels = "container=\"c\",namespace=\"ns\",pod=\"probed\"";
        for line in [
            format!("prober_probe_total{{{labels},pod_uid=\"u-probed\",probe_type=\"Liveness\",result=\"successful\"}} 1"),
            format!("prober_probe_duration_seconds_bucket{{{labels},probe_type=\"Liveness\",le=\"0.025\"}} 0"),
            format!("prober_probe_duration_seconds_bucket{{{labels},probe_type=\"Liveness\",le=\"+Inf\"}} 2"),
            format!("prober_probe_duration_seconds_sum{{{labels},probe_type=\"Liveness\"}} 0.06"),
        ] {
            assert!(said.lines().any(|l| l == line), "{line} is missing in\n{said}");
        }
        forget("u-probed");
        assert!(!text(Format::Text).contains("u-probed"));
    }
}
