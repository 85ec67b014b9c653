//! Restart back-off: the first restart at once, then 10 s doubling to 5 min, or to what the node allows (KEP-4603); forgotten after 10 min without a
//! restart.
//!
//! Rebuilt from the runtime's records after a restart of the agent ([`Backoffs::rebuild`]).

use jiff::{SignedDuration, Timestamp};
use keles_runtime::api::ContainerStatus;
use std::collections::BTreeMap;
use std::time::Duration;

pub const INITIAL_SECONDS: i64 = 10;
pub const MAX_WAIT: Duration = Duration::from_secs(300);
/// After this long without a new attempt a failure counts as the first again, whatever the longest wait.
pub const FORGET_SECONDS: i64 = 600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    delay_seconds: i64,
    updated: Timestamp,
}

/// Back-off by key: a container's name, or an image reference for pulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoffs {
    entries: BTreeMap<String, Entry>,
    max_seconds: i64,
}

impl Default for Backoffs {
    fn default() -> Self {
        Self::new(MAX_WAIT)
    }
}

/// A wait that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub delay_seconds: i64,
    pub until: Timestamp,
}

impl Wait {
    /// `10s`, `1m20s`, `5m0s`, as Go writes durations.
    pub fn delay_text(&self) -> String {
        match (self.delay_seconds / 60, self.delay_seconds % 60) {
            (0, seconds) => format!("{seconds}s"),
            (minutes, seconds) => format!("{minutes}m{seconds}s"),
        }
    }
}

impl Backoffs {
    /// No wait is longer than `max`, the first ones neither.
    pub fn new(max: Duration) -> Self {
        Self { entries: BTreeMap::new(), max_seconds: i64::try_from(max.as_secs()).unwrap_or(i64::MAX) }
    }

    /// The wait that an attempt after an event at `since` has to keep, if it is not over at `now`.
    pub fn waiting(&self, key: &str, since: Timestamp, now: Timestamp) -> Option<Wait> {
        let entry = self.entries.get(key)?;
        if expired(entry, since) {
            return None;
        }
        let until = since + SignedDuration::from_secs(entry.delay_seconds);
        (now < until).then_some(Wait { delay_seconds: entry.delay_seconds, until })
    }

    /// An attempt is made now because of an event at `since`: the next one will wait longer.
    pub fn attempted(&mut self, key: &str, since: Timestamp, now: Timestamp) {
        let delay_seconds = match self.entries.get(key) {
            Some(entry) if !expired(entry, since) => (entry.delay_seconds * 2).min(self.max_seconds),
            _ => INITIAL_SECONDS.min(self.max_seconds),
        };
        self.entries.insert(key.into(), Entry { delay_seconds, updated: now });
    }

    pub fn clear(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// What an agent that ran all the time would remember: attempt n waited 10 s times 2^(n-1).
    pub fn rebuild<'a>(records: impl IntoIterator<Item = &'a ContainerStatus>, max: Duration) -> Self {
        let mut backoffs = Self::new(max);
        for record in records {
            let Ok(updated) = Timestamp::from_nanosecond(i128::from(record.created_at_unix_ns)) else { continue };
            if record.attempt > 0 && backoffs.entries.get(&record.name).is_none_or(|entry| entry.updated < updated) {
                let doublings = (record.attempt - 1).min(5);
                let delay_seconds = (INITIAL_SECONDS << doublings).min(backoffs.max_seconds);
                backoffs.entries.insert(record.name.clone(), Entry { delay_seconds, updated });
            }
        }
        backoffs
    }
}

fn expired(entry: &Entry, event: Timestamp) -> bool {
    event.duration_since(entry.updated) > SignedDuration::from_secs(FORGET_SECONDS)
}
