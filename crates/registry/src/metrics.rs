//! What the pipelines count, under upstream's names: lists from the watch cache, events to watchers, writes to the store, admission.

use crate::admission::Operation;
use keles_observe::metrics::{Collect, CounterVec, HistogramVec, alpha, register, stable};
use std::sync::Once;

const ADMISSION_SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const STORE_SECONDS: &[f64] = &[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
const WATCH_EVENT_BYTES: &[f64] = &[1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];

pub static CACHE_LISTS: CounterVec<3> =
    CounterVec::new(alpha("apiserver_cache_list_total", "Lists served from the watch cache, by group, index and resource."), ["group", "index", "resource"]);
pub static CACHE_LIST_FETCHED: CounterVec<3> =
    CounterVec::new(alpha("apiserver_cache_list_fetched_objects_total", "Objects looked at for lists from the watch cache."), ["group", "index", "resource"]);
pub static CACHE_LIST_RETURNED: CounterVec<2> =
    CounterVec::new(alpha("apiserver_cache_list_returned_objects_total", "Objects returned by lists from the watch cache."), ["group", "resource"]);
pub static WATCH_EVENTS: CounterVec<3> =
    CounterVec::new(alpha("apiserver_watch_events_total", "Events sent to watchers, by group, resource and version."), ["group", "resource", "version"]);
pub static WATCH_EVENT_SIZES: HistogramVec<3> =
    HistogramVec::new(alpha("apiserver_watch_events_sizes", "Size of events sent to watchers in bytes."), ["group", "resource", "version"], WATCH_EVENT_BYTES);
pub static STORE_REQUESTS: CounterVec<3> =
    CounterVec::new(alpha("etcd_requests_total", "Requests to the store, by group, operation and resource."), ["group", "operation", "resource"]);
pub static STORE_ERRORS: CounterVec<3> =
    CounterVec::new(alpha("etcd_request_errors_total", "Requests to the store that failed, by group, operation and resource."), ["group", "operation", "resource"]);
pub static STORE_SECONDS_TAKEN: HistogramVec<3> = HistogramVec::new(
    alpha("etcd_request_duration_seconds", "Time of requests to the store in seconds, by group, operation and resource."),
    ["group", "operation", "resource"],
    STORE_SECONDS,
);
pub static PLUGIN_SECONDS: HistogramVec<4> = HistogramVec::new(
    stable(
        "apiserver_admission_controller_admission_duration_seconds",
        "Time of an admission plugin in seconds, by name, operation, type (admit or validate) and whether it refused.",
    ),
    ["name", "operation", "rejected", "type"],
    ADMISSION_SECONDS,
);
pub static STEP_SECONDS: HistogramVec<3> = HistogramVec::new(
    stable("apiserver_admission_step_admission_duration_seconds", "Time of a phase of admission in seconds, by operation, type (admit or validate) and whether it refused."),
    ["operation", "rejected", "type"],
    ADMISSION_SECONDS,
);

static FAMILIES: &[&dyn Collect] = &[
    &CACHE_LISTS,
    &CACHE_LIST_FETCHED,
    &CACHE_LIST_RETURNED,
    &WATCH_EVENTS,
    &WATCH_EVENT_SIZES,
    &STORE_REQUESTS,
    &STORE_ERRORS,
    &STORE_SECONDS_TAKEN,
    &PLUGIN_SECONDS,
    &STEP_SECONDS,
];

/// Shows the families; once a process.
pub fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| register(FAMILIES));
}

/// The value of label `operation`.
pub fn operation(o: Operation) -> &'static str {
    match o {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// The value of label `rejected`.
pub fn rejected<T, E>(r: &Result<T, E>) -> &'static str {
    if r.is_err() { "true" } else { "false" }
}
