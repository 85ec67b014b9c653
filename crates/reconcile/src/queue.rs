//! The work queue: deduplication, one worker a key, delayed adds, per-key exponential back-off under a common rate.
//!
//! A key is in one of four states: absent, waiting, running, or running and dirty (changed since it was taken; waits again when done).

use crate::metrics::Meters;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How fast failures are tried again.
#[derive(Clone, Copy, Debug)]
pub struct BackOff {
    pub first: Duration,
    pub max: Duration,
    /// Retries of all keys together, a second, once the burst is used up.
    pub retries_per_second: f64,
    pub burst: f64,
}

impl Default for BackOff {
    /// Upstream's default of controllers, with a lower ceiling: nothing here polls, so a lost dependency should not cost a quarter of an hour.
    fn default() -> Self {
        BackOff { first: Duration::from_millis(5), max: Duration::from_secs(120), retries_per_second: 10.0, burst: 100.0 }
    }
}

struct State<K> {
    waiting: VecDeque<K>,
    dirty: HashSet<K>,
    running: HashSet<K>,
    /// Due times; a key is here at most once.
    delayed: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<K, u32>,
    tokens: f64,
    refilled: Instant,
}

/// Cheap to clone; all clones are one queue.
pub struct Queue<K> {
    state: Arc<Mutex<State<K>>>,
    wake: Arc<Notify>,
    back_off: BackOff,
    /// Absent: nobody counts.
    meters: Option<Meters>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Queue { state: self.state.clone(), wake: self.wake.clone(), back_off: self.back_off, meters: self.meters }
    }
}

impl<K: Clone + Eq + Hash + Debug> Default for Queue<K> {
    fn default() -> Self {
        Queue::new(BackOff::default())
    }
}

impl<K: Clone + Eq + Hash + Debug> Queue<K> {
    pub fn new(back_off: BackOff) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            dirty: HashSet::new(),
            running: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            tokens: back_off.burst,
            refilled: Instant::now(),
        };
        Queue { state: Arc::new(Mutex::new(state)), wake: Arc::default(), back_off, meters: None }
    }

    /// As [`Queue::new`], shown as `workqueue_*` under a name.
    pub fn named(back_off: BackOff, name: &'static str) -> Self {
        Queue { meters: Some(Meters::of(name)), ..Queue::new(back_off) }
    }

    /// Puts a key in, unless it waits already.
    pub fn add(&self, key: K) {
        let mut state = self.lock();
        if !state.dirty.insert(key.clone()) {
            return;
        }
        if let Some(m) = &self.meters {
            m.adds.increment();
        }
        if !state.running.contains(&key) {
            state.waiting.push_back(key);
            self.wake.notify_one();
        }
        self.measure(&state);
    }
    /// Puts a key in after a time; of several such wishes the earliest holds.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.lock();
        let at = Instant::now() + delay;
        if let Some(slot) = state.due.get(&key).copied() {
            if slot.0 <= at {
                return;
            }
            state.delayed.remove(&slot);
        }
        state.sequence += 1;
        let slot = (at, state.sequence);
        state.delayed.insert(slot, key.clone());
        state.due.insert(key, slot);
        self.wake.notify_one();
    }
    /// Notes how long a key was worked on.
    pub(crate) fn worked(&self, took: Duration) {
        if let Some(m) = &self.meters {
            m.work.observe_seconds(took);
        }
    }
    fn measure(&self, state: &State<K>) {
        if let Some(m) = &self.meters {
            m.depth.set(state.waiting.len() as f64);
        }
    }
    /// Puts a failed key in again after its back-off.
    pub fn add_failed(&self, key: K) {
        if let Some(m) = &self.meters {
            m.retries.increment();
        }
        let delay = self.lock().next_delay(&key, &self.back_off);
        self.add_after(key, delay);
    }
    /// Ends the back-off of a key.
    pub fn forget(&self, key: &K) {
        self.lock().failures.remove(key);
    }
    /// The failures of this key in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or(0)
    }
    /// Keys waiting, without delayed ones.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key; it is running until [`Queue::done`].
    pub async fn next(&self) -> K {
        loop {
            let due = {
                let mut state = self.lock();
                let waited = state.waiting.len();
                state.release_due(Instant::now());
                if let Some(m) = &self.meters {
                    m.adds.add((state.waiting.len() - waited) as u64);
                }
                if let Some(key) = state.waiting.pop_front() {
                    state.dirty.remove(&key);
                    state.running.insert(key.clone());
                    self.measure(&state);
                    if !state.waiting.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.keys().next().map(|slot| slot.0)
            };
            match due {
                Some(at) => _ = tokio::time::timeout_at(at, self.wake.notified()).await,
                None => self.wake.notified().await,
            }
        }
    }
    /// The worker has finished the key; it waits again if it was added meanwhile.
    pub fn done(&self, key: &K) {
        let mut state = self.lock();
        state.running.remove(key);
        if state.dirty.contains(key) {
            state.waiting.push_back(key.clone());
            self.wake.notify_one();
        }
    }

    // Every method leaves the state whole before it can panic, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn release_due(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.due.remove(&key);
            if self.dirty.insert(key.clone()) && !self.running.contains(&key) {
                self.waiting.push_back(key);
            }
        }
    }
    fn next_delay(&mut self, key: &K, back_off: &BackOff) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let own = back_off.first.saturating_mul(1u32.checked_shl(*failures).unwrap_or(u32::MAX)).min(back_off.max);
        *failures = failures.saturating_add(1);
        own.max(self.common_delay(back_off))
    }
    fn common_delay(&mut self, back_off: &BackOff) -> Duration {
        let now = Instant::now();
        let refill = now.duration_since(self.refilled).as_secs_f64() * back_off.retries_per_second;
        self.tokens = (self.tokens + refill).min(back_off.burst) - 1.0;
        self.refilled = now;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / back_off.retries_per_second) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_added_twice_is_worked_once() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn a_key_added_while_running_waits_until_done_and_then_runs_again() {
        let queue = Queue::default();
        queue.add("a");
        queue.next().await;
        queue.add("a");
        assert!(queue.is_empty(), "never two workers on one key");
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_keys_come_when_due_and_the_earliest_wish_holds() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after("late", Duration::from_secs(9));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(2));
        queue.add_after("a", Duration::from_secs(7));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 2);
        assert_eq!(queue.next().await, "late");
        assert_eq!(start.elapsed().as_secs(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn each_failure_doubles_the_wait_until_forgotten() {
        let queue = Queue::new(BackOff { first: Duration::from_millis(100), max: Duration::from_secs(1), ..BackOff::default() });
        let mut waits = Vec::new();
        for _ in 0..6 {
            let start = Instant::now();
            queue.add_failed("a");
            queue.next().await;
            queue.done(&"a");
            waits.push((start.elapsed().as_millis() / 100) as u64);
        }
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn many_failing_keys_share_one_rate() {
        let queue = Queue::new(BackOff { first: Duration::from_millis(1), burst: 10.0, retries_per_second: 10.0, ..BackOff::default() });
        let start = Instant::now();
        for key in 0..30 {
            queue.add_failed(key);
        }
        for _ in 0..30 {
            queue.next().await;
        }
        assert_eq!(start.elapsed().as_secs(), 2, "30 keys, 10 at once, 10 a second");
    }
}
