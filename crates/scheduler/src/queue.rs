//! The scheduling queue: active pods in order, pods backing off, and pods that nothing has changed for.
//!
//! A rejected pod waits until an event that a plugin that rejected it says may help; it then goes on when its back-off is over (1 s doubling to 10 s),
//! or at once when nothing else is to do. Events that happen while a pod is in a cycle count for it too. Pure: time is given.

use crate::cache::{PodInfo, profile_of};
use crate::framework::Event;
use crate::metrics::{self, Waiting};
use crate::plugins::ALL;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Even without an event: hints may miss a case.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(i64, u64),
    /// `early`: may go before its time when nothing else is active (it was rejected, not failed).
    BackOff {
        until: Instant,
        sequence: u64,
        early: bool,
    },
    Unschedulable {
        until: Instant,
        sequence: u64,
    },
    /// Rejected before the queue; only its own update helps.
    Gated,
    InCycle {
        events: usize,
    },
    /// A node is assumed for it; until the binding is known to have failed or worked, it is nobody's turn.
    Binding,
}

impl Place {
    fn queue(self) -> Option<Waiting> {
        match self {
            Place::Active(..) => Some(Waiting::Active),
            Place::BackOff { .. } => Some(Waiting::BackOff),
            Place::Unschedulable { .. } => Some(Waiting::Unschedulable),
            Place::Gated => Some(Waiting::Gated),
            Place::InCycle { .. } | Place::Binding => None,
        }
    }
}

/// Why a pod moves, as metrics name it.
mod reason {
    pub const ADDED: &str = "PodAdd";
    pub const CHANGED: &str = "PodUpdate";
    pub const FAILED: &str = "ScheduleAttemptFailure";
    pub const BACK_OFF_OVER: &str = "BackoffComplete";
    pub const WAITED_LONG: &str = "UnschedulableTimeout";
}

struct Entry {
    pod: Arc<PodInfo>,
    /// When it first stood in the active queue.
    queued: Option<Instant>,
    place: Place,
    attempts: u32,
    /// Names of plugins that rejected it; empty: anything may help.
    rejected_by: Vec<&'static str>,
    tried: Option<Instant>,
}

#[derive(Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    /// Lowest first: the sorting plugin's key, then arrival.
    active: BTreeMap<(i64, u64), String>,
    /// Pods backing off and unschedulable pods, by the time at which they go on anyway.
    timed: BTreeMap<(Instant, u64), String>,
    sequence: u64,
    /// Events since the pod in a cycle was taken.
    recent: Vec<Event>,
    /// Pods in a cycle.
    cycling: usize,
    /// How many stand in each queue, in the order of [`Waiting::ALL`].
    waiting: [usize; 4],
}

impl Queue {
    /// A pod seen unbound, for the first time or changed.
    pub fn set(&mut self, pod: Arc<PodInfo>) {
        let uid = pod.uid().to_owned();
        let Some(held) = self.entries.get_mut(&uid) else {
            let entry = Entry { pod, queued: None, place: Place::Gated, attempts: 0, rejected_by: Vec::new(), tried: None };
            self.entries.insert(uid.clone(), entry);
            self.waiting[Waiting::Gated as usize] += 1;
            return self.enter(&uid, reason::ADDED);
        };
        let changed = held.pod.pod.spec != pod.pod.spec || held.pod.pod.metadata.labels != pod.pod.metadata.labels;
        held.pod = pod;
        match held.place {
            Place::Gated => self.enter(&uid, reason::CHANGED),
            // The pod's own change may be what it waited for.
            Place::Unschedulable { .. } if changed => self.go_on(&uid, Instant::now(), reason::CHANGED),
            _ => {}
        }
    }
    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.entries.remove(uid);
    }
    /// How often a pod was tried, and since when it waits.
    pub fn tries(&self, uid: &str) -> Option<(u32, Instant)> {
        let entry = self.entries.get(uid)?;
        Some((entry.attempts, entry.queued?))
    }
    /// How many stand in each queue, in the order of [`Waiting::ALL`].
    pub fn waiting(&self) -> [usize; 4] {
        self.waiting
    }
    /// The cycle found a node.
    pub fn assumed(&mut self, uid: &str) {
        if self.entries.contains_key(uid) {
            self.leave(uid);
            self.settle(uid, Place::Binding);
        }
    }
    /// The next pod to try.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.release_due(now);
        let uid = match self.active.first_key_value() {
            Some((_, uid)) => uid.clone(),
            None => self.early()?,
        };
        self.leave(&uid);
        if self.cycling == 0 {
            self.recent.clear();
        }
        self.cycling += 1;
        let events = self.recent.len();
        let entry = self.entries.get_mut(&uid).expect("an ordered uid has its entry");
        entry.place = Place::InCycle { events };
        entry.attempts += 1;
        Some(entry.pod.clone())
    }
    /// When the next waiting pod goes on by itself.
    pub fn next_due(&self) -> Option<Instant> {
        self.timed.keys().next().map(|(at, _)| *at)
    }
    /// The pod found no node. `rejected_by` names the plugins that said so.
    pub fn rejected(&mut self, uid: &str, rejected_by: Vec<&'static str>, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Place::InCycle { events } = entry.place else { return };
        entry.rejected_by = rejected_by;
        entry.tried = Some(now);
        let helped = self.recent[events.min(self.recent.len())..].iter().any(|event| helps(&self.entries[uid], event));
        self.sequence += 1;
        let (until, sequence) = (now + UNSCHEDULABLE_MAX, self.sequence);
        self.leave(uid);
        self.settle(uid, Place::Unschedulable { until, sequence });
        let Some(entry) = self.entries.get(uid) else { return };
        metrics::rejected(profile_of(&entry.pod.pod), &entry.rejected_by, true);
        if helped {
            self.go_on(uid, now, reason::FAILED);
        } else {
            metrics::incoming(reason::FAILED, Waiting::Unschedulable);
        }
    }
    /// The cycle or the binding failed for a reason that is not the pod's: back off and try again.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.tried = Some(now);
        metrics::incoming(reason::FAILED, Waiting::BackOff);
        let until = now + back_off(entry.attempts);
        self.sequence += 1;
        let sequence = self.sequence;
        self.leave(uid);
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.rejected_by.clear();
        }
        self.settle(uid, Place::BackOff { until, sequence, early: false });
    }
    /// Something changed in the world: whom it may help goes on.
    pub fn event(&mut self, event: Event, now: Instant) {
        let waiting = self.entries.iter().filter(|(_, entry)| matches!(entry.place, Place::Unschedulable { .. }) && helps(entry, &event));
        let helped: Vec<String> = waiting.map(|(uid, _)| uid.clone()).collect();
        for uid in helped {
            self.go_on(&uid, now, event.name());
        }
        if self.cycling > 0 {
            self.recent.push(event);
        }
    }

    fn enter(&mut self, uid: &str, why: &str) {
        let gated = ALL.iter().any(|row| row.plugin.pre_enqueue(&self.entries[uid].pod).is_err());
        if !gated {
            self.activate(uid, why);
        } else if why == reason::ADDED {
            metrics::incoming(why, Waiting::Gated);
        }
    }
    fn activate(&mut self, uid: &str, why: &str) {
        metrics::incoming(why, Waiting::Active);
        self.leave(uid);
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.queued.get_or_insert_with(Instant::now);
        }
        self.sequence += 1;
        let key = ALL.iter().find_map(|row| row.plugin.queue_key(&self.entries[uid].pod)).unwrap_or(0);
        let place = Place::Active(key, self.sequence);
        self.settle(uid, place);
    }
    /// To the active queue if its back-off is over, else to wait for that.
    fn go_on(&mut self, uid: &str, now: Instant, why: &str) {
        let entry = &self.entries[uid];
        let until = entry.tried.map_or(now, |tried| tried + back_off(entry.attempts));
        if until <= now {
            return self.activate(uid, why);
        }
        metrics::incoming(why, Waiting::BackOff);
        self.leave(uid);
        self.sequence += 1;
        let sequence = self.sequence;
        self.settle(uid, Place::BackOff { until, sequence, early: true });
    }
    fn release_due(&mut self, now: Instant) {
        while let Some((slot, uid)) = self.timed.first_key_value() {
            if slot.0 > now {
                return;
            }
            let uid = uid.clone();
            let why = if matches!(self.entries[&uid].place, Place::Unschedulable { .. }) { reason::WAITED_LONG } else { reason::BACK_OFF_OVER };
            self.activate(&uid, why);
        }
    }
    fn early(&self) -> Option<String> {
        self.timed.values().find(|uid| matches!(self.entries[*uid].place, Place::BackOff { early: true, .. })).cloned()
    }
    /// Takes the pod out of the order it stands in.
    fn leave(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else { return };
        if let Some(queue) = entry.place.queue() {
            self.waiting[queue as usize] -= 1;
        }
        if matches!(entry.place, Place::Unschedulable { .. }) {
            metrics::rejected(profile_of(&entry.pod.pod), &entry.rejected_by, false);
        }
        match entry.place {
            Place::Active(priority, sequence) => _ = self.active.remove(&(priority, sequence)),
            Place::BackOff { until, sequence, .. } | Place::Unschedulable { until, sequence } => _ = self.timed.remove(&(until, sequence)),
            Place::InCycle { .. } => self.cycling -= 1,
            Place::Gated | Place::Binding => {}
        }
    }
    fn settle(&mut self, uid: &str, place: Place) {
        if let Some(queue) = place.queue() {
            self.waiting[queue as usize] += 1;
        }
        match place {
            Place::Active(priority, sequence) => _ = self.active.insert((priority, sequence), uid.to_owned()),
            Place::BackOff { until, sequence, .. } | Place::Unschedulable { until, sequence } => _ = self.timed.insert((until, sequence), uid.to_owned()),
            Place::Gated | Place::InCycle { .. } | Place::Binding => {}
        }
        self.entries.get_mut(uid).expect("only known pods are settled").place = place;
    }
}

fn helps(entry: &Entry, event: &Event) -> bool {
    let rejecting = |name: &&'static str| ALL.iter().any(|row| row.name == *name && row.plugin.helps(event, &entry.pod));
    entry.rejected_by.is_empty() || entry.rejected_by.iter().any(|name| rejecting(name))
}

fn back_off(attempts: u32) -> Duration {
    BACK_OFF_MIN.saturating_mul(1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX)).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::{asking, node, pod};
    use serde_json::json;

    fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|pod| pod.uid().to_owned()).collect()
    }

    #[test]
    fn higher_priority_goes_first_and_equals_in_order_of_arrival() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 10), ("c", 0)] {
            queue.set(pod(name, json!({"priority": priority})));
        }
        assert_eq!(names(&mut queue, Instant::now()), ["b", "a", "c"]);
    }

    #[test]
    fn a_gated_pod_enters_when_its_last_gate_is_removed() {
        let mut queue = Queue::default();
        queue.set(pod("a", json!({"schedulingGates": [{"name": "g"}]})));
        assert!(queue.pop(Instant::now()).is_none());
        queue.set(pod("a", json!({})));
        assert_eq!(names(&mut queue, Instant::now()), ["a"]);
    }

    #[test]
    fn a_rejected_pod_waits_for_an_event_that_helps_it() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.set(asking("a", "1", "1Gi"));
        queue.pop(now);
        queue.rejected("a", vec!["NodeResourcesFit"], now);
        queue.event(Event::NodeAdded(node("small", json!({"status": {"allocatable": {"cpu": "100m"}}}))), now);
        assert!(queue.pop(now).is_none(), "a node too small for it does not wake it");
        queue.event(Event::PodRemoved(asking("b", "1", "1")), now);
        assert_eq!(names(&mut queue, now), ["a"], "nothing else to do, so it does not sit out its back-off");
    }

    #[test]
    fn back_off_doubles_from_one_second_to_ten() {
        assert_eq!([1, 2, 3, 4, 5, 60].map(|attempts| back_off(attempts).as_secs()), [1, 2, 4, 8, 10, 10]);
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.set(pod("a", json!({})));
        queue.pop(now);
        queue.failed("a", now);
        assert!(queue.pop(now).is_none(), "a failure is never retried before its time");
        assert_eq!(queue.next_due(), Some(now + Duration::from_secs(1)));
        assert_eq!(names(&mut queue, now + Duration::from_secs(1)), ["a"]);
    }

    #[test]
    fn an_event_during_the_cycle_is_not_lost() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.set(asking("a", "1", "1Gi"));
        queue.pop(now);
        queue.event(Event::PodRemoved(asking("b", "1", "1")), now);
        queue.rejected("a", vec!["NodeResourcesFit"], now);
        assert_eq!(names(&mut queue, now), ["a"]);
    }

    #[test]
    fn a_removed_pod_is_nowhere() {
        let mut queue = Queue::default();
        queue.set(pod("a", json!({})));
        queue.remove("a");
        assert!(queue.pop(Instant::now()).is_none());
        assert!(queue.active.is_empty() && queue.timed.is_empty() && queue.entries.is_empty());
    }
}
