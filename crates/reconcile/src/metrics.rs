//! Counters of every controller, for `/metrics`: `workqueue_*` under upstream's names, by the controller's name.

use keles_observe::metrics::{Collect, Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramVec, alpha, register};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What the runtime counted for one controller.
#[derive(Debug, Default)]
pub struct Counters {
    pub reconciles: AtomicU64,
    pub errors: AtomicU64,
    pub panics: AtomicU64,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
    /// `workqueue`-like figures of all controllers: name, reconciles, errors, panics.
    pub fn all() -> Vec<(&'static str, u64, u64, u64)> {
        let table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        table.iter().map(|(name, c)| (*name, read(&c.reconciles), read(&c.errors), read(&c.panics))).collect()
    }
}

static TABLE: Mutex<BTreeMap<&'static str, &'static Counters>> = Mutex::new(BTreeMap::new());

/// The counters of one controller; made at first use and kept for the process (names are constants, so they are few).
pub fn counters(name: &'static str) -> &'static Counters {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_insert_with(|| Box::leak(Box::default()))
}

const WORK_SECONDS: &[f64] = &[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0];

static ADDS: CounterVec<1> = CounterVec::new(alpha("workqueue_adds_total", "Keys put into the work queue, by its name."), ["name"]);
static DEPTH: GaugeVec<1> = GaugeVec::new(alpha("workqueue_depth", "Keys that wait in the work queue, by its name."), ["name"]);
static RETRIES: CounterVec<1> = CounterVec::new(alpha("workqueue_retries_total", "Keys that are tried again after a failure, by the queue's name."), ["name"]);
static WORK: HistogramVec<1> =
    HistogramVec::new(alpha("workqueue_work_duration_seconds", "Time a key of the work queue is worked on, in seconds, by the queue's name."), ["name"], WORK_SECONDS);
static FAMILIES: &[&dyn Collect] = &[&ADDS, &DEPTH, &RETRIES, &WORK];

/// What is counted of one work queue.
#[derive(Clone, Copy)]
pub struct Meters {
    pub(crate) adds: &'static Counter,
    pub(crate) depth: &'static Gauge,
    pub(crate) retries: &'static Counter,
    pub(crate) work: &'static Histogram,
}

impl Meters {
    pub fn of(name: &'static str) -> Meters {
        register(FAMILIES);
        Meters { adds: ADDS.with([name]), depth: DEPTH.with([name]), retries: RETRIES.with([name]), work: WORK.with([name]) }
    }
}

#[cfg(test)]
mod tests {
    use crate::queue::{BackOff, Queue};
    use keles_observe::metrics::{Format, render};

    #[tokio::test]
    async fn a_named_queue_is_shown_under_upstreams_names() {
        let queue = Queue::named(BackOff::default(), "metered");
        queue.add("a");
        queue.add("a");
        queue.add("b");
        let shown = || render(Format::Text, &[]);
        assert!(shown().contains("workqueue_adds_total{name=\"metered\"} 2\n") && shown().contains("workqueue_depth{name=\"metered\"} 2\n"), "{}", shown());
        let key = queue.next().await;
        queue.add_failed(key);
        assert!(shown().contains("workqueue_depth{name=\"metered\"} 1\n") && shown().contains("workqueue_retries_total{name=\"metered\"} 1\n"), "{}", shown());
    }
}
