//! What the scheduler counts, under upstream's names.
//!
//! Counted as it happens and read off nothing: a scrape costs the scheduler no lock. What each plugin takes is measured for one pod of
//! [`SAMPLED`], as upstream does. Deliberately absent: figures of preemption and of what is not built.

use crate::cache::{PodInfo, profile_of};
use keles_observe::metrics::{Collect, CounterVec, Gauge, GaugeVec, HistogramVec, alpha, beta, register, stable};
use rand::Rng;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const ATTEMPT_SECONDS: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
const POINT_SECONDS: &[f64] = &[0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048];
const PLUGIN_SECONDS: &[f64] = &[
    1e-5,
    1.5e-5,
    2.25e-5,
    3.375e-5,
    5.0625e-5,
    7.59375e-5,
    0.000113906,
    0.000170859,
    0.000256289,
    0.000384434,
    0.000576650,
    0.000864976,
    0.001297463,
    0.001946195,
    0.002919293,
    0.004378939,
    0.006568408,
    0.009852613,
    0.014778919,
    0.022168378,
];
const SLI_SECONDS: &[f64] = &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36, 1310.72, 2621.44, 5242.88];
const TRIES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];
/// One pod in so many is measured plugin by plugin.
const SAMPLED: u32 = 10;
/// More attempts than this are one label.
const ATTEMPTS_SHOWN: u32 = 15;

static ATTEMPTS: CounterVec<2> =
    CounterVec::new(stable("scheduler_schedule_attempts_total", "Attempts to schedule pods, by profile and result: scheduled, unschedulable or error."), ["profile", "result"]);
static ATTEMPT: HistogramVec<2> = HistogramVec::new(
    stable("scheduler_scheduling_attempt_duration_seconds", "Time of an attempt to schedule a pod in seconds, binding included, by profile and result."),
    ["profile", "result"],
    ATTEMPT_SECONDS,
);
static ALGORITHM: HistogramVec<0> = HistogramVec::new(alpha("scheduler_scheduling_algorithm_duration_seconds", "Time to choose a node, in seconds."), [], ATTEMPT_SECONDS);
static POINTS: HistogramVec<3> = HistogramVec::new(
    stable("scheduler_framework_extension_point_duration_seconds", "Time of all plugins of an extension point, in seconds, by point, profile and status."),
    ["extension_point", "profile", "status"],
    POINT_SECONDS,
);
static PLUGINS: HistogramVec<3> = HistogramVec::new(
    alpha("scheduler_plugin_execution_duration_seconds", "Time of a plugin at an extension point, in seconds, by point, plugin and status."),
    ["extension_point", "plugin", "status"],
    PLUGIN_SECONDS,
);
static SLI: HistogramVec<1> = HistogramVec::new(
    beta("scheduler_pod_scheduling_sli_duration_seconds", "Time from a pod's first place in the queue to its binding, in seconds, by attempts."),
    ["attempts"],
    SLI_SECONDS,
);
static TRIED: HistogramVec<0> = HistogramVec::new(stable("scheduler_pod_scheduling_attempts", "Attempts it took to schedule a pod."), [], TRIES);
static PENDING: GaugeVec<1> = GaugeVec::new(stable("scheduler_pending_pods", "Pods that wait, by queue: active, backoff, unschedulable or gated."), ["queue"]);
static INCOMING: CounterVec<2> = CounterVec::new(stable("scheduler_queue_incoming_pods_total", "Pods put into a queue, by event and queue."), ["event", "queue"]);
static UNSCHEDULABLE: GaugeVec<2> =
    GaugeVec::new(alpha("scheduler_unschedulable_pods", "Pods that a plugin rejected and that wait, by plugin and profile."), ["plugin", "profile"]);
static CACHE: GaugeVec<1> = GaugeVec::new(alpha("scheduler_cache_size", "Nodes, pods and assumed pods that the scheduler knows, by type."), ["type"]);
static FAMILIES: &[&dyn Collect] = &[&ATTEMPTS, &ATTEMPT, &ALGORITHM, &POINTS, &PLUGINS, &SLI, &TRIED, &PENDING, &INCOMING, &UNSCHEDULABLE, &CACHE];

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Scheduled,
    Unschedulable,
    Error,
}

pub fn start() {
    register(FAMILIES);
}

/// Counts an attempt that is over.
pub fn attempted(profile: &str, outcome: Outcome, took: Duration) {
    let result = match outcome {
        Outcome::Scheduled => "scheduled",
        Outcome::Unschedulable => "unschedulable",
        Outcome::Error => "error",
    };
    ATTEMPTS.with([profile, result]).increment();
    ATTEMPT.with([profile, result]).observe_seconds(took);
}

/// Counts a choice of a node.
pub fn chosen(took: Duration) {
    ALGORITHM.with([]).observe_seconds(took);
}

/// Counts a pod that was bound.
pub fn bound(attempts: u32, since_queued: Duration) {
    let shown = if attempts >= ATTEMPTS_SHOWN { format!("{ATTEMPTS_SHOWN}+") } else { attempts.to_string() };
    SLI.with([&shown]).observe_seconds(since_queued);
    TRIED.with([]).observe(f64::from(attempts));
}

/// Counts what an extension point took.
pub fn point(profile: &str, point: &str, good: bool, took: Duration) {
    POINTS.with([point, profile, status(good)]).observe_seconds(took);
}

fn status(good: bool) -> &'static str {
    if good { "Success" } else { "Unschedulable" }
}

/// The queues that pods wait in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    Active,
    BackOff,
    Unschedulable,
    Gated,
}

impl Waiting {
    pub const ALL: [Waiting; 4] = [Waiting::Active, Waiting::BackOff, Waiting::Unschedulable, Waiting::Gated];
    pub fn name(self) -> &'static str {
        match self {
            Waiting::Active => "active",
            Waiting::BackOff => "backoff",
            Waiting::Unschedulable => "unschedulable",
            Waiting::Gated => "gated",
        }
    }
}

/// Counts a pod that an event put into a queue.
pub fn incoming(event: &str, queue: Waiting) {
    INCOMING.with([event, queue.name()]).increment();
}

/// Shows how many wait in each queue, in the order of [`Waiting::ALL`].
pub fn pending(counts: [usize; 4]) {
    static SERIES: OnceLock<[&Gauge; 4]> = OnceLock::new();
    let series = SERIES.get_or_init(|| Waiting::ALL.map(|q| PENDING.with([q.name()])));
    series.iter().zip(counts).for_each(|(s, n)| s.set(n as f64));
}

/// Shows that pods of a profile were rejected by plugins, or no longer are.
pub fn rejected(profile: &str, plugins: &[&'static str], more: bool) {
    let by = if more { 1.0 } else { -1.0 };
    plugins.iter().for_each(|p| UNSCHEDULABLE.with([p, profile]).add(by));
}

/// Shows what the cache knows.
pub fn cached(nodes: usize, pods: usize, assumed: usize) {
    static SERIES: OnceLock<[&Gauge; 3]> = OnceLock::new();
    let series = SERIES.get_or_init(|| ["nodes", "pods", "assumed_pods"].map(|t| CACHE.with([t])));
    series.iter().zip([nodes, pods, assumed]).for_each(|(s, n)| s.set(n as f64));
}

/// Measures one cycle.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    profile: Arc<str>,
    /// Plugin by plugin too.
    sampled: bool,
}

impl Meter {
    pub fn of(pod: &PodInfo) -> Meter {
        Meter { profile: profile_of(&pod.pod).into(), sampled: rand::rng().random_range(0..SAMPLED) == 0 }
    }
    /// Runs an extension point; what it says is good decides the status.
    pub fn point<T>(&self, name: &str, good: impl Fn(&T) -> bool, run: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let said = run();
        point(&self.profile, name, good(&said), began.elapsed());
        said
    }
    /// Runs a plugin at a point.
    pub fn plugin<T>(&self, name: &str, plugin: &str, good: impl Fn(&T) -> bool, run: impl FnOnce() -> T) -> T {
        if !self.sampled {
            return run();
        }
        let began = Instant::now();
        let said = run();
        PLUGINS.with([name, plugin, status(good(&said))]).observe_seconds(began.elapsed());
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_observe::metrics::{Format, render};

    #[test]
    fn attempts_are_counted_by_profile_and_result() {
        start();
        attempted("metered", Outcome::Unschedulable, Duration::from_millis(1));
        let text = render(Format::Text, &[]);
        assert!(text.contains("scheduler_schedule_attempts_total{profile=\"metered\",result=\"unschedulable\"} 1\n"), "{text}");
        assert!(text.contains("scheduler_scheduling_attempt_duration_seconds_count{profile=\"metered\",result=\"unschedulable\"} 1\n"));
    }

    #[test]
    fn points_and_sampled_plugins_are_measured_by_status() {
        start();
        let meter = Meter { profile: "measured".into(), sampled: true };
        let said: Result<(), ()> = meter.point("Filter", Result::is_ok, || meter.plugin("Filter", "Picky", Result::is_ok, || Err(())));
        assert_eq!(said, Err(()));
        assert_eq!(Meter::default().plugin("Filter", "Unseen", |_| true, || 1), 1);
        bound(17, Duration::from_secs(1));
        let text = render(Format::Text, &[]);
        assert!(
            text.contains("scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Filter\",profile=\"measured\",status=\"Unschedulable\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("scheduler_plugin_execution_duration_seconds_count{extension_point=\"Filter\",plugin=\"Picky\",status=\"Unschedulable\"} 1\n"));
        assert!(!text.contains("Unseen"));
        assert!(text.contains("scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"15+\"} 1\n"));
    }
}
