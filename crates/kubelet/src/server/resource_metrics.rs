//! `/metrics/resource`: what autoscaling reads. A row a figure; times of measurement are told.
//!
//! Source: kubernetes pkg/kubelet/metrics/collectors/resource_metrics.go, KEP-1978.

use crate::figures::Snapshot;
use keles_linux::cgroup::Figures;
use keles_observe::metrics::{Described, Exposition, Format, Shape, alpha, stable};

const NS_PER_SECOND: f64 = 1e9;

/// A figure of a group, by where it is shown.
struct Row {
    node: Option<Described>,
    container: Option<Described>,
    pod: Option<Described>,
    shape: Shape,
    value: fn(&Figures) -> Option<f64>,
}

const ROWS: &[Row] = &[
    Row {
        node: Some(stable("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds")),
        container: Some(stable("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds")),
        pod: Some(stable("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds")),
        shape: Shape::Counter,
        value: |f| f.cpu.as_ref().map(|cpu| cpu.usage_ns as f64 / NS_PER_SECOND),
    },
    Row {
        node: Some(stable("node_memory_working_set_bytes", "Current working set of the node in bytes")),
        container: Some(stable("container_memory_working_set_bytes", "Current working set of the container in bytes")),
        pod: Some(stable("pod_memory_working_set_bytes", "Current working set of the pod in bytes")),
        shape: Shape::Gauge,
        value: |f| f.memory.as_ref().map(|memory| memory.working_set_bytes as f64),
    },
    Row {
        node: None,
        container: Some(alpha("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems")),
        pod: Some(alpha("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems")),
        shape: Shape::Gauge,
        value: |f| f.memory.as_ref().and_then(|memory| memory.swap_bytes).map(|bytes| bytes as f64),
    },
    Row {
        node: None,
        container: Some(alpha("container_swap_limit_bytes", "Current amount of the container swap limit in bytes. Reported only on non-windows systems")),
        pod: None,
        shape: Shape::Gauge,
        value: |f| f.memory.as_ref().and_then(|memory| memory.swap_limit_bytes).map(|bytes| bytes as f64),
    },
];
const NODE_SWAP: Described = alpha("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems");
const STARTED: Described = stable("container_start_time_seconds", "Start time of the container since unix epoch in seconds");
const FAULT: Described = stable("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise");
const OF_CONTAINER: [&str; 3] = ["container", "namespace", "pod"];
const OF_POD: [&str; 2] = ["namespace", "pod"];

pub fn text(s: &Snapshot, format: Format) -> String {
    let mut out = Exposition::new(format);
    let at = s.at.as_millisecond();
    for row in ROWS {
        let put = |w: &mut keles_observe::metrics::Lines<'_>, labels: &[&str], values: &[&str], figures: &Figures| {
            let Some(v) = (row.value)(figures) else { return };
            match row.shape {
                Shape::Counter => w.at(at).counter(labels, values, v),
                _ => w.at(at).gauge(labels, values, v),
            }
        };
        if let Some(about) = &row.node {
            out.family(about, row.shape, |w| put(w, &[], &[], &s.machine.figures));
        }
        if let Some(about) = &row.container {
            out.family(about, row.shape, |w| {
                for pod in &s.pods {
                    pod.containers.iter().for_each(|c| put(w, &OF_CONTAINER, &[&c.record.name, &pod.namespace, &pod.name], &c.stats.figures));
                }
            });
        }
        if let Some(about) = &row.pod {
            out.family(about, row.shape, |w| s.pods.iter().for_each(|pod| put(w, &OF_POD, &[&pod.namespace, &pod.name], &pod.stats.figures)));
        }
    }
    out.family(&NODE_SWAP, Shape::Gauge, |w| w.at(at).gauge::<&str>(&[], &[], s.machine.swap_bytes.saturating_sub(s.machine.swap_free_bytes) as f64));
    out.family(&STARTED, Shape::Gauge, |w| {
        for pod in &s.pods {
            for c in &pod.containers {
                w.gauge(&OF_CONTAINER, &[&c.record.name, &pod.namespace, &pod.name], c.started_at_unix_ns() as f64 / NS_PER_SECOND);
            }
        }
    });
    out.family(&FAULT, Shape::Gauge, |w| w.gauge::<&str>(&[], &[], f64::from(u8::from(s.machine.figures.cpu.is_none()))));
    out.finish()
}
