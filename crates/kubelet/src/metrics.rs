//! `kubelet_*` of the agent's `/metrics`, but for those of its own API (`server::reports`). Each is counted where it happens.
//!
//! Entry point: [`register`]. Names, labels, help and bounds are upstream's. Source: kubernetes pkg/kubelet/metrics/metrics.go.

use keles_observe::metrics::{Collect, CounterVec, Described, GaugeVec, HistogramVec, Stability, alpha};
use std::time::Duration;

/// Prometheus's defaults, in seconds.
const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const POD_START_SECONDS: &[f64] =
    &[0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0];
const IMAGE_PULL_SECONDS: &[f64] = &[1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0];
const STATUS_SECONDS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
/// 14 from 5 ms, each 2.5 times the one before.
const RUNTIME_SECONDS: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];
/// 15 from 0.05 ms, each twice the one before.
const ADMISSION_MS: &[f64] = &[0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2];
const CONTAINERS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// An image that is larger than this has the label.
const IMAGE_SIZES: &[(u64, &str)] = &[
    (100 * GIB, "GT100GB"),
    (60 * GIB, "60GB-100GB"),
    (40 * GIB, "40GB-60GB"),
    (30 * GIB, "30GB-40GB"),
    (20 * GIB, "20GB-30GB"),
    (10 * GIB, "10GB-20GB"),
    (5 * GIB, "5GB-10GB"),
    (GIB, "1GB-5GB"),
    (500 * MIB, "500MB-1GB"),
    (100 * MIB, "100MB-500MB"),
    (10 * MIB, "10MB-100MB"),
    (0, "0-10MB"),
];
/// Reasons of refusals that are told by name (upstream's list); the others could be without number.
const REFUSALS: &[&str] = &[
    "AppArmor",
    "Evicted",
    "NodeShutdown",
    "OutOfcpu",
    "OutOfephemeral-storage",
    "OutOfmemory",
    "OutOfpods",
    "PodOSNotSupported",
    "SupplementalGroupsPolicyNotSupported",
    "SysctlForbidden",
    "TopologyAffinityError",
    "UnexpectedAdmissionError",
];

pub static POD_START: HistogramVec<0> = HistogramVec::new(
    alpha("kubelet_pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run"),
    [],
    POD_START_SECONDS,
);
pub static POD_START_SLI: HistogramVec<0> = HistogramVec::new(
    alpha(
        "kubelet_pod_start_sli_duration_seconds",
        "Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
    ),
    [],
    POD_START_SECONDS,
);
pub static POD_START_TOTAL: HistogramVec<0> = HistogramVec::new(
    alpha(
        "kubelet_pod_start_total_duration_seconds",
        "Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
    ),
    [],
    POD_START_SECONDS,
);
pub static FIRST_POD_START_SLI: GaugeVec<0> = GaugeVec::new(
    Described {
        name: "kubelet_first_network_pod_start_sli_duration_seconds",
        help: "[INTERNAL] Duration in seconds to start the first network pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
        stability: Stability::Unmarked,
    },
    [],
);
pub static PODS_STARTED: CounterVec<0> = CounterVec::new(alpha("kubelet_started_pods_total", "Cumulative number of pods started"), []);
pub static PODS_NOT_STARTED: CounterVec<0> = CounterVec::new(alpha("kubelet_started_pods_errors_total", "Cumulative number of errors when starting pods"), []);
pub static USER_NAMESPACED_STARTED: CounterVec<0> = CounterVec::new(
    alpha("kubelet_started_user_namespaced_pods_total", "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux."),
    [],
);
pub static USER_NAMESPACED_NOT_STARTED: CounterVec<0> = CounterVec::new(
    alpha("kubelet_started_user_namespaced_pods_errors_total", "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux."),
    [],
);
pub static CONTAINERS_STARTED: CounterVec<1> = CounterVec::new(alpha("kubelet_started_containers_total", "Cumulative number of containers started"), ["container_type"]);
pub static CONTAINERS_NOT_STARTED: CounterVec<2> =
    CounterVec::new(alpha("kubelet_started_containers_errors_total", "Cumulative number of errors when starting containers"), ["code", "container_type"]);
pub static CONTAINERS_PER_POD: HistogramVec<0> = HistogramVec::new(alpha("kubelet_containers_per_pod_count", "The number of containers per pod."), [], CONTAINERS);

pub static WORKER: HistogramVec<1> = HistogramVec::new(
    alpha("kubelet_pod_worker_duration_seconds", "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync"),
    ["operation_type"],
    SECONDS,
);
pub static WORKER_START: HistogramVec<0> =
    HistogramVec::new(alpha("kubelet_pod_worker_start_duration_seconds", "Duration in seconds from kubelet seeing a pod to starting a worker."), [], SECONDS);
pub static STATUS_SYNC: HistogramVec<0> = HistogramVec::new(
    alpha(
        "kubelet_pod_status_sync_duration_seconds",
        "Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.",
    ),
    [],
    STATUS_SECONDS,
);
pub static REFUSED: CounterVec<1> = CounterVec::new(alpha("kubelet_admission_rejections_total", "Cumulative number pod admission rejections by the Kubelet."), ["reason"]);
pub static PREEMPTIONS: CounterVec<1> = CounterVec::new(alpha("kubelet_preemptions", "Cumulative number of pod preemptions by preemption resource"), ["preemption_signal"]);
pub static EVICTIONS: CounterVec<1> = CounterVec::new(alpha("kubelet_evictions", "Cumulative number of pod evictions by eviction signal"), ["eviction_signal"]);
pub static RESIZES: CounterVec<3> = CounterVec::new(
    alpha(
        "kubelet_container_requested_resizes_total",
        "Number of requested resizes, counted at the container level. Different resources on the same container are counted separately. The 'requirement' label refers to 'memory' or 'limits'; the 'operation' label can be one of 'add', 'remove', 'increase' or 'decrease'.",
    ),
    ["operation", "requirement", "resource"],
);

pub static IMAGE_PULL: HistogramVec<1> =
    HistogramVec::new(alpha("kubelet_image_pull_duration_seconds", "Duration in seconds to pull an image."), ["image_size_in_bytes"], IMAGE_PULL_SECONDS);
pub static IMAGES_COLLECTED: CounterVec<1> = CounterVec::new(
    alpha("kubelet_image_garbage_collected_total", "Total number of images garbage collected by the kubelet, whether through disk usage or image age."),
    ["reason"],
);

pub static RUNTIME_OPERATIONS: CounterVec<1> =
    CounterVec::new(alpha("kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type."), ["operation_type"]);
pub static RUNTIME_DURATION: HistogramVec<1> = HistogramVec::new(
    alpha("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type."),
    ["operation_type"],
    RUNTIME_SECONDS,
);
pub static RUNTIME_ERRORS: CounterVec<1> =
    CounterVec::new(alpha("kubelet_runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type."), ["operation_type"]);
pub static RUN_SANDBOX: HistogramVec<1> = HistogramVec::new(
    alpha("kubelet_run_podsandbox_duration_seconds", "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler."),
    ["runtime_handler"],
    SECONDS,
);
pub static RUN_SANDBOX_ERRORS: CounterVec<1> =
    CounterVec::new(alpha("kubelet_run_podsandbox_errors_total", "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler."), ["runtime_handler"]);

pub static DEVICE_PLUGINS: CounterVec<1> =
    CounterVec::new(alpha("kubelet_device_plugin_registration_total", "Cumulative number of device plugin registrations. Broken down by resource name."), ["resource_name"]);
pub static DEVICE_ALLOCATION: HistogramVec<1> = HistogramVec::new(
    alpha("kubelet_device_plugin_alloc_duration_seconds", "Duration in seconds to serve a device plugin Allocation request. Broken down by resource name."),
    ["resource_name"],
    SECONDS,
);
pub static CPU_PINNING: CounterVec<0> = CounterVec::new(alpha("kubelet_cpu_manager_pinning_requests_total", "The number of cpu core allocations which required pinning."), []);
pub static CPU_PINNING_ERRORS: CounterVec<0> =
    CounterVec::new(alpha("kubelet_cpu_manager_pinning_errors_total", "The number of cpu core allocations which required pinning failed."), []);
pub static MEMORY_PINNING: CounterVec<0> =
    CounterVec::new(alpha("kubelet_memory_manager_pinning_requests_total", "The number of memory pages allocations which required pinning."), []);
pub static MEMORY_PINNING_ERRORS: CounterVec<0> =
    CounterVec::new(alpha("kubelet_memory_manager_pinning_errors_total", "The number of memory pages allocations which required pinning that failed."), []);
pub static TOPOLOGY: CounterVec<0> =
    CounterVec::new(alpha("kubelet_topology_manager_admission_requests_total", "The number of admission requests where resources have to be aligned."), []);
pub static TOPOLOGY_ERRORS: CounterVec<0> =
    CounterVec::new(alpha("kubelet_topology_manager_admission_errors_total", "The number of admission request failures where resources could not be aligned."), []);
pub static TOPOLOGY_MS: HistogramVec<0> =
    HistogramVec::new(alpha("kubelet_topology_manager_admission_duration_ms", "Duration in milliseconds to serve a pod admission request."), [], ADMISSION_MS);

pub static POD_RESOURCES: CounterVec<1> = CounterVec::new(
    alpha("kubelet_pod_resources_endpoint_requests_total", "Cumulative number of requests to the PodResource endpoint. Broken down by server api version."),
    ["server_api_version"],
);
pub static POD_RESOURCES_LIST: CounterVec<1> = CounterVec::new(
    alpha("kubelet_pod_resources_endpoint_requests_list", "Number of requests to the PodResource List endpoint. Broken down by server api version."),
    ["server_api_version"],
);
pub static POD_RESOURCES_GET: CounterVec<1> = CounterVec::new(
    alpha("kubelet_pod_resources_endpoint_requests_get", "Number of requests to the PodResource Get endpoint. Broken down by server api version."),
    ["server_api_version"],
);
pub static POD_RESOURCES_GET_ERRORS: CounterVec<1> = CounterVec::new(
    alpha("kubelet_pod_resources_endpoint_errors_get", "Number of requests to the PodResource Get endpoint which returned error. Broken down by server api version."),
    ["server_api_version"],
);
pub static POD_RESOURCES_ALLOCATABLE: CounterVec<1> = CounterVec::new(
    alpha("kubelet_pod_resources_endpoint_requests_get_allocatable", "Number of requests to the PodResource GetAllocatableResources endpoint. Broken down by server api version."),
    ["server_api_version"],
);

pub static SHUTDOWN_BEGAN: GaugeVec<0> = GaugeVec::new(alpha("kubelet_graceful_shutdown_start_time_seconds", "Last graceful shutdown start time since unix epoch in seconds"), []);
pub static SHUTDOWN_ENDED: GaugeVec<0> = GaugeVec::new(alpha("kubelet_graceful_shutdown_end_time_seconds", "Last graceful shutdown end time since unix epoch in seconds"), []);

static FAMILIES: &[&dyn Collect] = &[
    &POD_START,
    &POD_START_SLI,
    &POD_START_TOTAL,
    &FIRST_POD_START_SLI,
    &PODS_STARTED,
    &PODS_NOT_STARTED,
    &USER_NAMESPACED_STARTED,
    &USER_NAMESPACED_NOT_STARTED,
    &CONTAINERS_STARTED,
    &CONTAINERS_NOT_STARTED,
    &CONTAINERS_PER_POD,
    &WORKER,
    &WORKER_START,
    &STATUS_SYNC,
    &REFUSED,
    &EVICTIONS,
    &PREEMPTIONS,
    &RESIZES,
    &IMAGE_PULL,
    &IMAGES_COLLECTED,
    &RUNTIME_OPERATIONS,
    &RUNTIME_DURATION,
    &RUNTIME_ERRORS,
    &RUN_SANDBOX,
    &RUN_SANDBOX_ERRORS,
    &DEVICE_PLUGINS,
    &DEVICE_ALLOCATION,
    &CPU_PINNING,
    &CPU_PINNING_ERRORS,
    &MEMORY_PINNING,
    &MEMORY_PINNING_ERRORS,
    &TOPOLOGY,
    &TOPOLOGY_ERRORS,
    &TOPOLOGY_MS,
    &POD_RESOURCES,
    &POD_RESOURCES_LIST,
    &POD_RESOURCES_GET,
    &POD_RESOURCES_GET_ERRORS,
    &POD_RESOURCES_ALLOCATABLE,
    &SHUTDOWN_BEGAN,
    &SHUTDOWN_ENDED,
];

/// Shows all; what has no labels from the start, as upstream does.
pub fn register() {
    let counters = [
        &PODS_STARTED,
        &PODS_NOT_STARTED,
        &USER_NAMESPACED_STARTED,
        &USER_NAMESPACED_NOT_STARTED,
        &CPU_PINNING,
        &CPU_PINNING_ERRORS,
        &MEMORY_PINNING,
        &MEMORY_PINNING_ERRORS,
        &TOPOLOGY,
        &TOPOLOGY_ERRORS,
    ];
    for counter in counters {
        counter.with([]);
    }
    for histogram in [&POD_START, &CONTAINERS_PER_POD, &WORKER_START, &STATUS_SYNC, &TOPOLOGY_MS] {
        histogram.with([]);
    }
    for gauge in [&FIRST_POD_START_SLI, &SHUTDOWN_BEGAN, &SHUTDOWN_ENDED] {
        gauge.with([]);
    }
    keles_observe::metrics::register(FAMILIES);
}

/// A pod was not taken for `reason`.
pub fn refused(reason: &str) {
    let known = REFUSALS.iter().find(|known| **known == reason);
    let other = if reason.starts_with("OutOf") { "OutOfExtendedResources" } else { "Other" };
    REFUSED.with([known.unwrap_or(&other)]).increment();
}

/// An image of that size was pulled; the time counts from when it was asked for.
pub fn pulled(size_bytes: u64, took: Duration) {
    let size = IMAGE_SIZES.iter().find(|(over, _)| size_bytes > *over).map_or("N/A", |(_, label)| label);
    IMAGE_PULL.with([size]).observe_seconds(took);
}

/// A pod's sandbox was tried to be made.
pub fn sandbox(has_users: bool, is_made: bool) {
    let both = [(&PODS_STARTED, &PODS_NOT_STARTED), (&USER_NAMESPACED_STARTED, &USER_NAMESPACED_NOT_STARTED)];
    for (tried, failed) in &both[..1 + usize::from(has_users)] {
        tried.with([]).increment();
        if !is_made {
            failed.with([]).increment();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_without_number_is_told_together() {
        let count = |label: &str| REFUSED.with([label]).get();
        let before = [count("NodeShutdown"), count("OutOfExtendedResources"), count("Other")];
        for reason in ["NodeShutdown", "OutOfexample.com/gpu", "NodeAffinity"] {
            refused(reason);
        }
        let after = [count("NodeShutdown"), count("OutOfExtendedResources"), count("Other")];
        assert!(after.iter().zip(before).all(|(after, before)| *after > before), "{before:?} {after:?}");
        assert_eq!(count("NodeAffinity"), 0);
    }

    #[test]
    fn images_are_told_by_their_size() {
        for (bytes, label) in [(0, "N/A"), (1, "0-10MB"), (10 * MIB, "0-10MB"), (10 * MIB + 1, "10MB-100MB"), (2 * GIB, "1GB-5GB"), (200 * GIB, "GT100GB")] {
            let before = IMAGE_PULL.with([label]).count();
            pulled(bytes, Duration::from_secs(1));
            assert!(IMAGE_PULL.with([label]).count() > before, "{bytes} {label}");
        }
    }

    #[test]
    fn everything_without_labels_is_there_from_the_start() {
        register();
        let all = keles_observe::metrics::render(keles_observe::metrics::Format::Text, &[]);
        for line in [
            "# TYPE kubelet_started_pods_total counter",
            "# HELP kubelet_first_network_pod_start_sli_duration_seconds [INTERNAL] Duration",
            "# TYPE kubelet_pod_start_duration_seconds histogram",
        ] {
            assert!(all.contains(line), "{line}");
        }
        assert!(all.contains("kubelet_topology_manager_admission_duration_ms_bucket{le=\"819.2\"}"));
    }
}
