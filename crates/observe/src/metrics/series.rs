//! The three shapes of a series and the families of them.

use super::expose::{Exposition, Shape};
use super::{Collect, Described, Interned};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number with a fraction that threads add to.
#[derive(Debug, Default)]
struct Sum(AtomicU64);

impl Sum {
    fn add(&self, v: f64) {
        let add = |bits: u64| Some((f64::from_bits(bits) + v).to_bits());
        // The closure never gives up, so neither does this.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(Sum);

impl Gauge {
    pub fn set(&self, v: f64) {
        self.0.0.store(v.to_bits(), Ordering::Relaxed);
    }
    pub fn add(&self, v: f64) {
        self.0.add(v);
    }
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

/// How often what was observed fell under each bound.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One a bound, the last for what is above all.
    counts: Box<[AtomicU64]>,
    sum: Sum,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: Sum::default() }
    }
    pub fn observe(&self, v: f64) {
        self.counts[self.bounds.partition_point(|b| *b < v)].fetch_add(1, Ordering::Relaxed);
        self.sum.add(v);
    }
    pub fn observe_seconds(&self, took: Duration) {
        self.observe(took.as_secs_f64());
    }
    /// (bound, how many were at or under it) for each bound and +Inf, and the sum.
    pub(super) fn read(&self) -> (Vec<(f64, u64)>, f64) {
        let mut total = 0;
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let cumulative = self.counts.iter().zip(bounds).map(|(n, bound)| {
            total += n.load(Ordering::Relaxed);
            (bound, total)
        });
        (cumulative.collect(), self.sum.get())
    }
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }
}

/// Counters by `N` labels.
pub struct CounterVec<const N: usize> {
    about: Described,
    labels: [&'static str; N],
    series: Interned<Counter, N>,
}

impl<const N: usize> CounterVec<N> {
    pub const fn new(about: Described, labels: [&'static str; N]) -> Self {
        CounterVec { about, labels, series: Interned::new() }
    }
    pub fn with(&self, values: [&str; N]) -> &'static Counter {
        self.series.get(values, |_| Counter::default())
    }
    /// How many series there are.
    pub fn len(&self) -> usize {
        self.series.len()
    }
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }
}

impl<const N: usize> Collect for CounterVec<N> {
    fn collect(&self, to: &mut Exposition) {
        to.family(&self.about, Shape::Counter, |w| {
            for (values, c) in self.series.sorted() {
                w.counter(&self.labels, &values, c.get() as f64);
            }
        });
    }
}

/// Gauges by `N` labels.
pub struct GaugeVec<const N: usize> {
    about: Described,
    labels: [&'static str; N],
    series: Interned<Gauge, N>,
}

impl<const N: usize> GaugeVec<N> {
    pub const fn new(about: Described, labels: [&'static str; N]) -> Self {
        GaugeVec { about, labels, series: Interned::new() }
    }
    pub fn with(&self, values: [&str; N]) -> &'static Gauge {
        self.series.get(values, |_| Gauge::default())
    }
    pub fn remove(&self, values: [&str; N]) {
        self.series.remove(values);
    }
}

impl<const N: usize> Collect for GaugeVec<N> {
    fn collect(&self, to: &mut Exposition) {
        to.family(&self.about, Shape::Gauge, |w| {
            for (values, g) in self.series.sorted() {
                w.gauge(&self.labels, &values, g.get());
            }
        });
    }
}

/// Histograms by `N` labels, all with the same bounds.
pub struct HistogramVec<const N: usize> {
    about: Described,
    labels: [&'static str; N],
    bounds: &'static [f64],
    series: Interned<Histogram, N>,
}

impl<const N: usize> HistogramVec<N> {
    /// `bounds` ascend and leave +Inf out.
    pub const fn new(about: Described, labels: [&'static str; N], bounds: &'static [f64]) -> Self {
        HistogramVec { about, labels, bounds, series: Interned::new() }
    }
    pub fn with(&self, values: [&str; N]) -> &'static Histogram {
        self.series.get(values, |_| Histogram::new(self.bounds))
    }
}

impl<const N: usize> Collect for HistogramVec<N> {
    fn collect(&self, to: &mut Exposition) {
        to.family(&self.about, Shape::Histogram, |w| {
            for (values, h) in self.series.sorted() {
                let (buckets, sum) = h.read();
                w.histogram(&self.labels, &values, &buckets, sum);
            }
        });
    }
}
