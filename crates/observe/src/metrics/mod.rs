//! Counters, gauges and histograms under upstream's names, and their exposition.
//!
//! A family is a `static` of the part that counts: [`CounterVec`], [`GaugeVec`] or [`HistogramVec`], with its labels in alphabetical order
//! (the order of the exposition). A part shows its families with [`register`]; [`render`] writes all of the process. Looking a series up
//! hashes its label values and allocates nothing once the series is there; who counts on a hot path keeps the `&'static` series.
//! Invariant: the values of one family are bounded in number ([`SERIES_MAX`]), so that a flood of made-up names cannot grow memory.
//! Our own rather than a library: the exposition needs upstream's stability levels in its help, both text formats from one source, and
//! statics that cost an atomic; the libraries give one format each.

mod expose;
mod interned;
mod process;
mod series;

pub use expose::{Exposition, Format, Lines, Shape, go_float};
pub use interned::Interned;
pub use process::{Process, started_unix_seconds};
pub use series::{Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramVec};

use std::sync::{Mutex, PoisonError};

/// Series of one family that are kept; further ones are counted together and not shown.
pub const SERIES_MAX: usize = 8192;

/// How far a name and its labels can be relied on, as upstream says it in the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    Alpha,
    Beta,
    Stable,
    /// From a library that upstream links (`process_*`): no level is written.
    Unmarked,
}

impl Stability {
    fn prefix(self) -> &'static str {
        match self {
            Stability::Alpha => "[ALPHA] ",
            Stability::Beta => "[BETA] ",
            Stability::Stable => "[STABLE] ",
            Stability::Unmarked => "",
        }
    }
}

/// Name and meaning of a family.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    pub name: &'static str,
    pub help: &'static str,
    pub stability: Stability,
}

/// Shorthand for rows of tables of metrics.
pub const fn stable(name: &'static str, help: &'static str) -> Described {
    Described { name, help, stability: Stability::Stable }
}
pub const fn beta(name: &'static str, help: &'static str) -> Described {
    Described { name, help, stability: Stability::Beta }
}
/// Without a level, as what libraries of upstream give (cAdvisor's).
pub const fn unmarked(name: &'static str, help: &'static str) -> Described {
    Described { name, help, stability: Stability::Unmarked }
}
pub const fn alpha(name: &'static str, help: &'static str) -> Described {
    Described { name, help, stability: Stability::Alpha }
}

/// What can write itself down.
pub trait Collect: Sync {
    fn collect(&self, to: &mut Exposition);
}

/// Tables of families that parts of this process have shown.
static SHOWN: Mutex<Vec<&'static [&'static dyn Collect]>> = Mutex::new(Vec::new());

/// Shows a part's families; a second call with the same table changes nothing.
pub fn register(families: &'static [&'static dyn Collect]) {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if !shown.iter().any(|s| std::ptr::eq(s.as_ptr(), families.as_ptr())) {
        shown.push(families);
    }
}

/// All families of the process, those of `more` too, sorted by name.
pub fn render(format: Format, more: &[&dyn Collect]) -> String {
    let mut out = Exposition::new(format);
    Process.collect(&mut out);
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for family in shown.iter().flat_map(|s| s.iter()) {
        family.collect(&mut out);
    }
    for family in more {
        family.collect(&mut out);
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    static REQUESTS: CounterVec<2> = CounterVec::new(stable("test_requests_total", "Requests."), ["code", "verb"]);
    static LATENCY: HistogramVec<1> = HistogramVec::new(alpha("test_seconds", "A \"time\"\nof two lines."), ["verb"], &[0.5, 1.0, 1e6]);
    static OPEN: GaugeVec<0> = GaugeVec::new(beta("test_open", "Open."), []);
    static EMPTY: CounterVec<1> = CounterVec::new(stable("test_nothing_total", "Never counted."), ["x"]);

    fn shown(format: Format) -> String {
        let mut e = Exposition::new(format);
        for family in [&REQUESTS as &dyn Collect, &LATENCY, &OPEN, &EMPTY] {
            family.collect(&mut e);
        }
        e.finish()
    }

    #[test]
    fn both_formats_are_as_prometheus_reads_them() {
        REQUESTS.with(["200", "GET"]).add(2);
        REQUESTS.with(["404", "a\"b\\\n"]).increment();
        LATENCY.with(["GET"]).observe(0.5);
        LATENCY.with(["GET"]).observe(7.25);
        OPEN.with([]).set(1_500_000.0);
        let text = "# HELP test_open [BETA] Open.\n# TYPE test_open gauge\ntest_open 1.5e+06\n\
            # HELP test_requests_total [STABLE] Requests.\n# TYPE test_requests_total counter\n\
            test_requests_total{code=\"200\",verb=\"GET\"} 2\ntest_requests_total{code=\"404\",verb=\"a\\\"b\\\\\\n\"} 1\n\
            # HELP test_seconds [ALPHA] A \"time\"\\nof two lines.\n# TYPE test_seconds histogram\n\
            test_seconds_bucket{verb=\"GET\",le=\"0.5\"} 1\ntest_seconds_bucket{verb=\"GET\",le=\"1\"} 1\ntest_seconds_bucket{verb=\"GET\",le=\"1e+06\"} 2\n\
            test_seconds_bucket{verb=\"GET\",le=\"+Inf\"} 2\ntest_seconds_sum{verb=\"GET\"} 7.75\ntest_seconds_count{verb=\"GET\"} 2\n";
        assert_eq!(shown(Format::Text), text, "a family without series is not shown");
        let open = shown(Format::OpenMetrics);
        assert!(open.contains("# TYPE test_requests counter\ntest_requests_total{code=\"200\",verb=\"GET\"} 2.0\n"), "{open}");
        assert!(open.contains("# HELP test_seconds [ALPHA] A \\\"time\\\"\\nof two lines.\n"), "quotes are escaped here: {open}");
        assert!(open.contains("le=\"1.0\"} 1\n") && open.ends_with("# EOF\n"), "{open}");
    }

    #[test]
    fn what_was_measured_before_says_when() {
        let of = |format| {
            let mut e = Exposition::new(format);
            e.family(&stable("test_at", "At."), Shape::Gauge, |w| w.at(1_700_000_000_042).gauge(&["a"], &["b"], 2.0));
            e.finish()
        };
        assert!(of(Format::Text).ends_with("test_at{a=\"b\"} 2 1700000000042\n"), "{}", of(Format::Text));
        assert!(of(Format::OpenMetrics).contains("test_at{a=\"b\"} 2.0 1700000000.042\n"), "{}", of(Format::OpenMetrics));
    }

    #[test]
    fn a_flood_of_names_does_not_grow_memory() {
        static FLOOD: CounterVec<1> = CounterVec::new(alpha("test_flood_total", ""), ["name"]);
        let first = FLOOD.with(["0"]);
        for i in 0..SERIES_MAX + 100 {
            FLOOD.with([&i.to_string()]).increment();
        }
        assert_eq!((FLOOD.len(), first.get()), (SERIES_MAX, 1), "what was there first goes on being counted");
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (v, want) in [(0.0, "0"), (1.0, "1"), (100_000.0, "100000"), (1e6, "1e+06"), (1_234_567.0, "1.234567e+06"), (0.0001, "0.0001"), (0.00001, "1e-05"), (5e-7, "5e-07")] {
            assert_eq!(go_float(v), want);
        }
        assert_eq!((go_float(f64::INFINITY), go_float(-1.5)), ("+Inf".into(), "-1.5".into()));
    }

    #[test]
    fn a_family_is_registered_once() {
        static TABLE: &[&dyn Collect] = &[&OPEN];
        OPEN.with([]).set(3.0);
        register(TABLE);
        register(TABLE);
        let all = render(Format::Text, &[]);
        assert_eq!(all.matches("# TYPE test_open gauge").count(), 1, "{all}");
        assert!(all.contains("# TYPE process_resident_memory_bytes gauge"));
    }
}
