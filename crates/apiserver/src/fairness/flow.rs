//! A FlowSchema with its level, ready to be asked, and what is counted of its requests.

use super::level::Level;
use super::matching::Schema;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

pub struct Flow {
    pub name: String,
    /// Of the FlowSchema and of its PriorityLevelConfiguration; empty for those that have no object.
    pub uid: HeaderValue,
    pub level_uid: HeaderValue,
    pub schema: Schema,
    pub level: Arc<Level>,
    pub counts: Arc<Counts>,
}

impl Flow {
    /// Names of neither go out: they would tell a client how low it is held.
    pub fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(SCHEMA_UID, self.uid.clone());
        headers.insert(LEVEL_UID, self.level_uid.clone());
    }
}

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    QueueFull,
    ConcurrencyLimit,
    TimeOut,
    Cancelled,
}

impl Reason {
    pub const ALL: [Reason; 4] = [Reason::QueueFull, Reason::ConcurrencyLimit, Reason::TimeOut, Reason::Cancelled];

    /// Upstream's name of it.
    pub fn text(self) -> &'static str {
        match self {
            Reason::QueueFull => "queue-full",
            Reason::ConcurrencyLimit => "concurrency-limit",
            Reason::TimeOut => "time-out",
            Reason::Cancelled => "cancelled",
        }
    }
}

/// What was executed: of a watch it is only its beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Execution {
    Regular,
    Watch,
}

/// Counters of one level and schema. They outlive changes of both.
#[derive(Default)]
pub struct Counts {
    pub dispatched: AtomicU64,
    pub rejected: [AtomicU64; Reason::ALL.len()],
    pub no_accommodation: AtomicU64,
    pub executing: AtomicI64,
    pub executing_seats: AtomicI64,
    pub waiting: AtomicI64,
    pub waiting_seats: AtomicI64,
    pub waited_to_run: Histogram<Seconds>,
    pub waited_in_vain: Histogram<Seconds>,
    pub took: Histogram<Seconds>,
    pub took_watch: Histogram<Seconds>,
    pub queue_length: Histogram<Length>,
    pub seats_estimated: Histogram<Width>,
}

impl Counts {
    pub fn started(&self, width: u32) {
        self.dispatched.fetch_add(1, Ordering::Relaxed);
        self.executing.fetch_add(1, Ordering::Relaxed);
        self.executing_seats.fetch_add(width.into(), Ordering::Relaxed);
    }
    pub fn ended(&self, width: u32, kind: Execution, took: Duration) {
        self.executing.fetch_sub(1, Ordering::Relaxed);
        self.executing_seats.fetch_sub(width.into(), Ordering::Relaxed);
        match kind {
            Execution::Regular => self.took.observe(took.as_secs_f64()),
            Execution::Watch => self.took_watch.observe(took.as_secs_f64()),
        }
    }
    /// `by` is 1 or -1.
    pub fn queued(&self, width: u32, by: i64) {
        self.waiting.fetch_add(by, Ordering::Relaxed);
        self.waiting_seats.fetch_add(by * i64::from(width), Ordering::Relaxed);
    }
    pub fn rejected(&self, reason: Reason) {
        self.rejected[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
    pub fn no_accommodation(&self) {
        self.no_accommodation.fetch_add(1, Ordering::Relaxed);
    }
}

/// Upper bounds of a histogram's buckets.
pub trait Buckets {
    const BOUNDS: &'static [f64];
}

pub struct Seconds;
impl Buckets for Seconds {
    const BOUNDS: &'static [f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
}
pub struct Length;
impl Buckets for Length {
    const BOUNDS: &'static [f64] = &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
}
pub struct Width;
impl Buckets for Width {
    const BOUNDS: &'static [f64] = &[1.0, 2.0, 4.0, 10.0];
}

const BUCKETS_MAX: usize = 14;

pub struct Histogram<B> {
    buckets: [AtomicU64; BUCKETS_MAX],
    sum_micros: AtomicU64,
    bounds: std::marker::PhantomData<B>,
}

impl<B> Default for Histogram<B> {
    fn default() -> Self {
        Histogram { buckets: Default::default(), sum_micros: AtomicU64::new(0), bounds: std::marker::PhantomData }
    }
}

impl<B: Buckets> Histogram<B> {
    pub fn observe(&self, value: f64) {
        let at = B::BOUNDS.iter().position(|b| value <= *b).unwrap_or(B::BOUNDS.len());
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }
    /// Counts up to each bound and in all, and the sum; `None` before the first observation.
    pub fn read(&self) -> Option<(Vec<u64>, f64)> {
        let mut total = 0;
        let counts: Vec<u64> = self.buckets[..=B::BOUNDS.len()]
            .iter()
            .map(|b| {
                total += b.load(Ordering::Relaxed);
                total
            })
            .collect();
        (total > 0).then(|| (counts, self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6))
    }
}
