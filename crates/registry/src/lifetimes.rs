//! How long what the registry hands out and keeps may last, where the operator may say so.

use crate::facts;
use crate::kind::Info;
use std::time::Duration;

/// Settings with upstream's defaults (`--event-ttl`, `--min-request-timeout`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lifetimes {
    /// How long Events live after their last write; zero: for ever.
    pub event_ttl: Duration,
    /// Shortest of the random lengths of watches that name none; the longest is twice that. Zero: they do not end by themselves.
    pub watch_min: Duration,
    /// How long the watch of the store may be silent before the store is asked whether it moved on.
    pub store_silence: Duration,
}

/// A watch of no end; any longer and clocks overflow.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl Default for Lifetimes {
    fn default() -> Self {
        Lifetimes { event_ttl: Duration::from_secs(3600), watch_min: Duration::from_secs(1800), store_silence: Duration::from_secs(30) }
    }
}

impl Lifetimes {
    /// When an object of the resource expires by itself.
    pub fn of(&self, info: &Info) -> Option<Duration> {
        (facts::expires(info) && !self.event_ttl.is_zero()).then_some(self.event_ttl)
    }
    /// The length of a watch: as asked, in seconds, else random, so that clients do not all come back at once.
    pub fn watch(&self, asked_seconds: Option<u64>) -> Duration {
        match asked_seconds {
            Some(s) => Duration::from_secs(s).min(YEAR),
            None if self.watch_min.is_zero() => YEAR,
            None => self.watch_min.mul_f64(1.0 + rand::random::<f64>()).min(YEAR),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Served;

    const CORE: &[Served] = &[Served { group: "", version: "v1", schema: "" }];

    #[test]
    fn events_live_for_an_hour_and_nothing_else_expires() {
        let of = |l: Lifetimes, plural| l.of(&Info { plural, served: CORE, ..Info::BASE });
        assert_eq!(of(Lifetimes::default(), "events"), Some(Duration::from_secs(3600)));
        assert_eq!(of(Lifetimes::default(), "pods"), None);
        let told = Lifetimes { event_ttl: Duration::from_secs(7), ..Lifetimes::default() };
        assert_eq!(of(told, "events"), Some(Duration::from_secs(7)));
        assert_eq!(of(Lifetimes { event_ttl: Duration::ZERO, ..told }, "events"), None);
    }

    #[test]
    fn a_watch_lasts_as_long_as_asked_and_else_a_random_half_to_whole_hour() {
        let l = Lifetimes::default();
        assert_eq!(l.watch(Some(7)), Duration::from_secs(7));
        let drawn: std::collections::BTreeSet<_> = (0..64).map(|_| l.watch(None)).collect();
        assert!(drawn.iter().all(|t| (1800..3600).contains(&t.as_secs())), "{drawn:?}");
        assert!(drawn.len() > 32, "clients must not all come back in the same second: {drawn:?}");
        let brief = Lifetimes { watch_min: Duration::from_secs(10), ..l };
        assert!((0..64).map(|_| brief.watch(None)).all(|t| (10..20).contains(&t.as_secs())));
        assert_eq!(Lifetimes { watch_min: Duration::ZERO, ..l }.watch(None), YEAR);
    }
}
