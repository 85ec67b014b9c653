//! What the scheduler counts, under upstream's names.

use keles_observe::metrics::{Collect, CounterVec, HistogramVec, register, stable};
use std::time::Duration;

const ATTEMPT_SECONDS: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

static ATTEMPTS: CounterVec<2> = CounterVec::new(
    stable("scheduler_schedule_attempts_total", "Attempts to schedule pods, by profile and result: scheduled, unschedulable or error."),
    ["profile", "result"],
);
static ATTEMPT: HistogramVec<2> = HistogramVec::new(
    stable("scheduler_scheduling_attempt_duration_seconds", "Time of an attempt to schedule a pod in seconds, binding included, by profile and result."),
    ["profile", "result"],
    ATTEMPT_SECONDS,
);
static FAMILIES: &[&dyn Collect] = &[&ATTEMPTS, &ATTEMPT];

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
}
