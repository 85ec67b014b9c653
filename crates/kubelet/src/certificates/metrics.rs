//! `kubelet_*` of the certificates, shown once one is renewed here. Names and help are upstream's.

use jiff::Timestamp;
use keles_observe::metrics::{Collect, CounterVec, Described, Exposition, HistogramVec, Shape, alpha};
use std::sync::atomic::{AtomicI64, Ordering};

/// A minute, an hour, 4 hours, a day, a week, months (1, 3, 6), years (1, 4).
const LIVES_SECONDS: &[f64] = &[60.0, 3600.0, 14_400.0, 86_400.0, 604_800.0, 2_592_000.0, 7_776_000.0, 15_552_000.0, 31_104_000.0, 124_416_000.0];
const NONE: i64 = i64::MAX;

/// Seconds until a certificate's end, looked up when somebody asks; +Inf without one.
pub struct Left {
    about: Described,
    /// Unix seconds.
    not_after: AtomicI64,
}

impl Left {
    const fn new(name: &'static str, help: &'static str) -> Left {
        Left { about: alpha(name, help), not_after: AtomicI64::new(NONE) }
    }
    pub fn until(&self, not_after: Timestamp) {
        self.not_after.store(not_after.as_second(), Ordering::Relaxed);
    }
    fn seconds(&self, now: Timestamp) -> f64 {
        match self.not_after.load(Ordering::Relaxed) {
            NONE => f64::INFINITY,
            end => (end - now.as_second()) as f64,
        }
    }
}

impl Collect for Left {
    fn collect(&self, to: &mut Exposition) {
        to.family(&self.about, Shape::Gauge, |w| w.gauge::<&str>(&[], &[], self.seconds(Timestamp::now())));
    }
}

/// What is told of one certificate.
pub struct Series {
    pub left: &'static Left,
    pub errors: &'static CounterVec<0>,
    /// How long the one before was in force.
    pub lived: Option<&'static HistogramVec<0>>,
    families: &'static [&'static dyn Collect],
}

impl Series {
    pub fn show(&self) {
        self.errors.with([]);
        if let Some(lived) = self.lived {
            lived.with([]);
        }
        keles_observe::metrics::register(self.families);
    }
}

static CLIENT_LEFT: Left = Left::new(
    "kubelet_certificate_manager_client_ttl_seconds",
    "Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry (negative if already expired). If client certificate is invalid or unused, the value will be +INF.",
);
static SERVER_LEFT: Left = Left::new(
    "kubelet_certificate_manager_server_ttl_seconds",
    "Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate expiry (negative if already expired). If serving certificate is invalid or unused, the value will be +INF.",
);
static CLIENT_ERRORS: CounterVec<0> = CounterVec::new(alpha("kubelet_certificate_manager_client_expiration_renew_errors", "Counter of certificate renewal errors."), []);
static SERVER_ERRORS: CounterVec<0> = CounterVec::new(alpha("kubelet_server_expiration_renew_errors", "Counter of certificate renewal errors."), []);
static SERVER_LIVED: HistogramVec<0> = HistogramVec::new(
    alpha("kubelet_certificate_manager_server_rotation_seconds", "Histogram of the number of seconds the previous certificate lived before being rotated."),
    [],
    LIVES_SECONDS,
);

pub static CLIENT: Series = Series { left: &CLIENT_LEFT, errors: &CLIENT_ERRORS, lived: None, families: &[&CLIENT_LEFT, &CLIENT_ERRORS] };
pub static SERVER: Series = Series { left: &SERVER_LEFT, errors: &SERVER_ERRORS, lived: Some(&SERVER_LIVED), families: &[&SERVER_LEFT, &SERVER_ERRORS, &SERVER_LIVED] };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_counts_down_and_is_endless_without_a_certificate() {
        let left = Left::new("n", "h");
        let now = Timestamp::from_second(1_000).expect("a time");
        assert_eq!(left.seconds(now), f64::INFINITY);
        left.until(Timestamp::from_second(1_060).expect("a time"));
        assert_eq!(left.seconds(now), 60.0);
        left.until(Timestamp::from_second(990).expect("a time"));
        assert_eq!(left.seconds(now), -10.0);
    }
}
