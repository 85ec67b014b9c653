//! Counters of the API server and figures of the process, in the Prometheus text format.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the duration buckets, in seconds.
const BUCKETS_SECONDS: &[f64] = &[0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0];
/// Series kept; a flood of made-up resources must not grow memory.
const SERIES_MAX: usize = 4096;
const VERBS: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; 11],
    sum_micros: AtomicU64,
}

#[derive(Default)]
pub struct Metrics {
    requests: Mutex<HashMap<(&'static str, String, u16), u64>>,
    durations: [Histogram; 8],
    pub in_flight: AtomicI64,
    pub long_running: AtomicI64,
}

impl Metrics {
    /// Counts a finished request (a started one, when it is long-running).
    pub fn observe(&self, verb: &'static str, resource: &str, code: u16, took: Duration) {
        let mut all = self.requests.lock().unwrap_or_else(|e| e.into_inner());
        let key = (verb, resource.to_owned(), code);
        let room = all.len() < SERIES_MAX;
        match all.get_mut(&key) {
            Some(n) => *n += 1,
            None if room => drop(all.insert(key, 1)),
            None => {}
        }
        drop(all);
        let Some(h) = VERBS.iter().position(|v| *v == verb).map(|i| &self.durations[i]) else { return };
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS_SECONDS.iter().position(|b| seconds <= *b).unwrap_or(BUCKETS_SECONDS.len());
        h.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        h.sum_micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn text(&self) -> String {
        let mut o = String::with_capacity(16 << 10);
        self.requests_text(&mut o);
        self.durations_text(&mut o);
        let flying = self.in_flight.load(Ordering::Relaxed);
        let long = self.long_running.load(Ordering::Relaxed);
        let _ = write!(
            o,
            "# HELP apiserver_current_inflight_requests Requests being answered, watches aside.\n# TYPE apiserver_current_inflight_requests gauge\napiserver_current_inflight_requests {flying}\n\
             # HELP apiserver_longrunning_requests Watches and logs that are open.\n# TYPE apiserver_longrunning_requests gauge\napiserver_longrunning_requests {long}\n"
        );
        process_text(&mut o);
        o
    }

    fn requests_text(&self, o: &mut String) {
        o.push_str("# HELP apiserver_request_total Requests by verb, resource and HTTP code.\n# TYPE apiserver_request_total counter\n");
        let all = self.requests.lock().unwrap_or_else(|e| e.into_inner());
        let mut rows: Vec<_> = all.iter().collect();
        rows.sort();
        for ((verb, resource, code), n) in rows {
            let _ = writeln!(o, "apiserver_request_total{{verb=\"{}\",resource=\"{resource}\",code=\"{code}\"}} {n}", verb.to_ascii_uppercase());
        }
    }

    fn durations_text(&self, o: &mut String) {
        o.push_str("# HELP apiserver_request_duration_seconds Time to answer by verb.\n# TYPE apiserver_request_duration_seconds histogram\n");
        for (verb, h) in VERBS.iter().zip(&self.durations) {
            let verb = verb.to_ascii_uppercase();
            let mut total = 0;
            for (i, n) in h.buckets.iter().enumerate() {
                total += n.load(Ordering::Relaxed);
                let le = BUCKETS_SECONDS.get(i).map_or("+Inf".to_owned(), f64::to_string);
                let _ = writeln!(o, "apiserver_request_duration_seconds_bucket{{verb=\"{verb}\",le=\"{le}\"}} {total}");
            }
            let sum = h.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
            let _ = writeln!(o, "apiserver_request_duration_seconds_sum{{verb=\"{verb}\"}} {sum}\napiserver_request_duration_seconds_count{{verb=\"{verb}\"}} {total}");
        }
    }
}

/// Kernel's unit of the times in /proc/self/stat on every Linux this runs on.
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

fn process_text(o: &mut String) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name may hold spaces: fields are counted after its closing parenthesis.
    let fields: Vec<u64> = stat.rsplit_once(')').map(|(_, f)| f.split_whitespace().map(|v| v.parse().unwrap_or(0)).collect()).unwrap_or_default();
    let at = |n: usize| fields.get(n).copied().unwrap_or(0);
    let fds = std::fs::read_dir("/proc/self/fd").map(|d| d.count()).unwrap_or(0);
    for (name, kind, help, value) in [
        ("process_cpu_seconds_total", "counter", "User and system CPU time.", (at(11) + at(12)) as f64 / CLOCK_TICKS_PER_SECOND),
        ("process_resident_memory_bytes", "gauge", "Resident memory.", (at(21) * PAGE_BYTES) as f64),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory.", at(20) as f64),
        ("process_threads", "gauge", "Threads.", at(17) as f64),
        ("process_open_fds", "gauge", "Open file descriptors.", fds as f64),
    ] {
        let _ = writeln!(o, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
}
