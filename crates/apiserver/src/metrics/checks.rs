//! `kubernetes_healthcheck*`: what the health checks said when they were last asked, for `/metrics/slis`.

use crate::health::Check;
use keles_observe::metrics::{Collect, CounterVec, Exposition, Format, GaugeVec, stable};

static LAST: GaugeVec<2> = GaugeVec::new(stable("kubernetes_healthcheck", "What a health check said last: 1 for good, 0 for bad."), ["name", "type"]);
static ALL: CounterVec<3> = CounterVec::new(stable("kubernetes_healthchecks_total", "What health checks said, by check and outcome."), ["name", "status", "type"]);

/// Counts the outcome of `checks` behind `/endpoint`.
pub fn note(endpoint: &str, checks: &[Check]) {
    for c in checks {
        let good = c.failure.is_none();
        LAST.with([c.name, endpoint]).set(if good { 1.0 } else { 0.0 });
        ALL.with([c.name, if good { "success" } else { "error" }, endpoint]).increment();
    }
}

pub fn render(format: Format) -> String {
    let mut e = Exposition::new(format);
    LAST.collect(&mut e);
    ALL.collect(&mut e);
    e.finish()
}
