//! `apiserver_flowcontrol_*`, under upstream's names.
//!
//! Absent are the histograms that upstream samples every nanosecond (`*_utilization`, `read_vs_write_current_requests`, `demand_seats`) and
//! the inner figures of its algorithm (`current_r`, `next_s_bounds`, …).

use super::flow::{Buckets, Counts, Histogram, Reason};
use super::level::State;
use super::{Fairness, Gate};
use keles_observe::metrics::{Collect, Described, Exposition, Shape, alpha, beta};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

type Flows = Vec<((String, String), Arc<Counts>)>;
type Of<S, T> = (Described, fn(&S) -> T);

const FLOW: &[&str] = &["flow_schema", "priority_level"];

const REJECTED: Described = beta("apiserver_flowcontrol_rejected_requests_total", "Number of requests rejected by API Priority and Fairness subsystem");
const COUNTERS: &[Of<Counts, u64>] = &[
    (beta("apiserver_flowcontrol_dispatched_requests_total", "Number of requests executed by API Priority and Fairness subsystem"), |c| c.dispatched.load(Relaxed)),
    (
        alpha("apiserver_flowcontrol_request_dispatch_no_accommodation_total", "Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats"),
        |c| c.no_accommodation.load(Relaxed),
    ),
];
const GAUGES: &[Of<Counts, i64>] = &[
    (beta("apiserver_flowcontrol_current_inqueue_requests", "Number of requests currently pending in queues of the API Priority and Fairness subsystem"), |c| {
        c.waiting.load(Relaxed)
    }),
    (alpha("apiserver_flowcontrol_current_inqueue_seats", "Number of seats currently pending in queues of the API Priority and Fairness subsystem"), |c| {
        c.waiting_seats.load(Relaxed)
    }),
    (
        beta(
            "apiserver_flowcontrol_current_executing_requests",
            "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
        ),
        |c| c.executing.load(Relaxed),
    ),
    (
        beta(
            "apiserver_flowcontrol_current_executing_seats",
            "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
        ),
        |c| c.executing_seats.load(Relaxed),
    ),
];
const WAITED: Described = beta("apiserver_flowcontrol_request_wait_duration_seconds", "Length of time a request spent waiting in its queue");
const EXECUTION: Described = alpha(
    "apiserver_flowcontrol_request_execution_seconds",
    "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
);
const QUEUE_LENGTH: Described =
    alpha("apiserver_flowcontrol_request_queue_length_after_enqueue", "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued");
const SEATS: Described =
    alpha("apiserver_flowcontrol_work_estimated_seats", "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness");
const LEVELS: &[Of<State, f64>] = &[
    (beta("apiserver_flowcontrol_nominal_limit_seats", "Nominal number of execution seats configured for each priority level"), |s| s.bounds.nominal.into()),
    (alpha("apiserver_flowcontrol_lower_limit_seats", "Configured lower bound on number of execution seats available to each priority level"), |s| s.bounds.lower.into()),
    (alpha("apiserver_flowcontrol_upper_limit_seats", "Configured upper bound on number of execution seats available to each priority level"), |s| s.bounds.upper.into()),
    (alpha("apiserver_flowcontrol_current_limit_seats", "current derived number of execution seats available to each priority level"), |s| s.given.seats.into()),
    (alpha("apiserver_flowcontrol_demand_seats_high_watermark", "High watermark, over last adjustment period, of demand_seats"), |s| s.wanted.seen.highest),
    (alpha("apiserver_flowcontrol_demand_seats_average", "Time-weighted average, over last adjustment period, of demand_seats"), |s| s.wanted.seen.mean),
    (alpha("apiserver_flowcontrol_demand_seats_stdev", "Time-weighted standard deviation, over last adjustment period, of demand_seats"), |s| s.wanted.seen.deviation),
    (alpha("apiserver_flowcontrol_demand_seats_smoothed", "Smoothed seat demands"), |s| s.wanted.smoothed),
    (alpha("apiserver_flowcontrol_target_seats", "Seat allocation targets"), |s| s.given.target),
];
const FRACTION: Described = alpha("apiserver_flowcontrol_seat_fair_frac", "Fair fraction of server's concurrency to allocate to each priority level that can use it");

impl Collect for Gate {
    fn collect(&self, to: &mut Exposition) {
        if let Gate::Fair(f) = self {
            collect(f, to);
        }
    }
}

fn collect(f: &Fairness, to: &mut Exposition) {
    let flows: Flows = f.counts.lock().unwrap_or_else(|e| e.into_inner()).iter().map(|((level, schema), c)| ((schema.clone(), level.clone()), c.clone())).collect();
    to.family(&REJECTED, Shape::Counter, |l| {
        for ((schema, level), c) in &flows {
            let seen = Reason::ALL.into_iter().map(|r| (r, c.rejected[r as usize].load(Relaxed))).filter(|(_, n)| *n > 0);
            seen.for_each(|(r, n)| l.counter(&["flow_schema", "priority_level", "reason"], &[schema, level, r.text()], n as f64));
        }
    });
    for (about, get) in COUNTERS {
        to.family(about, Shape::Counter, |l| {
            flows.iter().map(|(k, c)| (k, get(c))).filter(|(_, n)| *n > 0).for_each(|((schema, level), n)| l.counter(FLOW, &[schema, level], n as f64));
        });
    }
    for (about, get) in GAUGES {
        to.family(about, Shape::Gauge, |l| flows.iter().for_each(|((schema, level), c)| l.gauge(FLOW, &[schema, level], get(c) as f64)));
    }
    histogram(to, &flows, &WAITED, "execute", &[("false", |c| &c.waited_in_vain), ("true", |c| &c.waited_to_run)]);
    histogram(to, &flows, &EXECUTION, "type", &[("regular", |c| &c.took), ("watch", |c| &c.took_watch)]);
    histogram(to, &flows, &QUEUE_LENGTH, "", &[("", |c| &c.queue_length)]);
    histogram(to, &flows, &SEATS, "", &[("", |c| &c.seats_estimated)]);
    let levels = f.levels();
    for (about, get) in LEVELS {
        to.family(about, Shape::Gauge, |l| levels.iter().for_each(|level| l.gauge(&["priority_level"], &[&level.name], get(&level.state()))));
    }
    let fraction = *f.fraction.lock().unwrap_or_else(|e| e.into_inner());
    to.family(&FRACTION, Shape::Gauge, |l| l.gauge::<&str>(&[], &[], fraction));
}

/// One histogram a flow and value of `label`, which stands before the others in the alphabet where there is one, or after.
fn histogram<B: Buckets>(to: &mut Exposition, flows: &Flows, about: &Described, label: &'static str, each: &[(&str, fn(&Counts) -> &Histogram<B>)]) {
    to.family(about, Shape::Histogram, |l| {
        for ((schema, level), c) in flows {
            for (value, get) in each {
                let Some((counts, sum)) = get(c).read() else { continue };
                let buckets: Vec<(f64, u64)> = B::BOUNDS.iter().copied().chain([f64::INFINITY]).zip(counts).collect();
                match label {
                    "" => l.histogram(FLOW, &[schema, level], &buckets, sum),
                    first if first < FLOW[0] => l.histogram(&[first, FLOW[0], FLOW[1]], &[value, schema.as_str(), level.as_str()], &buckets, sum),
                    last => l.histogram(&[FLOW[0], FLOW[1], last], &[schema.as_str(), level.as_str(), value], &buckets, sum),
                }
            }
        }
    });
}
