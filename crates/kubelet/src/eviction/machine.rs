//! Which thresholds are met, which conditions the node has for it, and what is to be taken back. Pure: figures and time are inputs.
//!
//! Entry point: [`Machine::step`]. Rules as upstream's eviction manager has them: a hard threshold counts at once, a soft one after its grace
//! period; a met one is only over once its minimum reclaim is free too; a condition stays for the transition period.

use super::signals::Signal;
use super::threshold::{Threshold, Thresholds, Value};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Conditions of the node; in the order that messages name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    Disk,
    Memory,
    Pid,
}

impl Condition {
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "DiskPressure",
            Self::Memory => "MemoryPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

pub type Pressure = BTreeSet<Condition>;

/// What there is of a signal: bytes, inodes or process ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    pub available: i64,
    pub capacity: i64,
}

pub type Figures = BTreeMap<Signal, Figure>;

/// A threshold that asks for something to be taken back now.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortage {
    pub threshold: Threshold,
    pub figure: Figure,
}

impl Shortage {
    /// What the status of a pod says that is ended for it, before its own part.
    pub fn message(&self) -> String {
        let signal = self.threshold.signal;
        let quantity = match &self.threshold.value {
            Value::Amount(_, text) => text.clone(),
            percent => amount(signal, percent.of(self.figure.capacity)),
        };
        format!("The node was low on resource: {}. Threshold quantity: {quantity}, available: {}. ", signal.resource(), amount(signal, self.figure.available))
    }
}

/// A figure as messages show it.
pub fn amount(signal: Signal, figure: i64) -> String {
    if signal.is_count() { figure.to_string() } else { bytes(figure) }
}

/// A binary quantity as the API writes it: in the largest unit that keeps the figure whole.
pub fn bytes(mut figure: i64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut unit = 0;
    while figure != 0 && figure % 1024 == 0 && unit + 1 < UNITS.len() {
        figure /= 1024;
        unit += 1;
    }
    format!("{figure}{}", UNITS[unit])
}

/// What a step found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    pub pressure: Pressure,
    /// What is to be taken back first, if anything.
    pub shortage: Option<Shortage>,
}

pub struct Machine {
    thresholds: Thresholds,
    /// Met thresholds by their place, and since when.
    met: BTreeMap<usize, Timestamp>,
    /// When a condition was seen last.
    seen: BTreeMap<Condition, Timestamp>,
}

impl Machine {
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, met: BTreeMap::new(), seen: BTreeMap::new() }
    }

    pub fn step(&mut self, figures: &Figures, now: Timestamp) -> Verdict {
        let mut met = BTreeMap::new();
        for (place, threshold) in self.thresholds.all.iter().enumerate() {
            let before = self.met.get(&place).copied();
            match figures.get(&threshold.signal) {
                Some(figure) if is_met(threshold, *figure, before.is_some()) => drop(met.insert(place, before.unwrap_or(now))),
                // Without a figure nothing is known to have changed.
                None => met.extend(before.map(|since| (place, since))),
                Some(_) => {}
            }
        }
        self.met = met;
        for place in self.met.keys() {
            self.seen.insert(self.thresholds.all[*place].signal.condition(), now);
        }
        let transition = SignedDuration::try_from(self.thresholds.transition).unwrap_or(SignedDuration::MAX);
        let pressure = self.seen.iter().filter(|(_, last)| now.duration_since(**last) < transition || **last == now).map(|(condition, _)| *condition).collect();
        Verdict { pressure, shortage: self.shortage(figures, now) }
    }

    /// The first, in order of signals, whose grace period is over; hard ones before soft ones.
    fn shortage(&self, figures: &Figures, now: Timestamp) -> Option<Shortage> {
        let due = self.met.iter().filter_map(|(place, since)| {
            let threshold = &self.thresholds.all[*place];
            let waited = threshold.grace.is_none_or(|grace| now.duration_since(*since) >= SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX));
            Some(Shortage { threshold: threshold.clone(), figure: *figures.get(&threshold.signal)? }).filter(|_| waited)
        });
        due.min_by_key(|shortage| (shortage.threshold.signal, shortage.threshold.grace.is_some()))
    }
}

fn is_met(threshold: &Threshold, figure: Figure, was_met: bool) -> bool {
    let extra = threshold.minimum_reclaim.as_ref().filter(|_| was_met).map_or(0, |extra| extra.of(figure.capacity));
    figure.available < threshold.value.of(figure.capacity) + extra
}

#[cfg(test)]
mod tests {
    use super::super::threshold::ThresholdsText;
    use super::*;

    const MIB: i64 = 1 << 20;

    fn machine(hard: &str, soft: &str, grace: &str, reclaim: &str) -> Machine {
        let text = ThresholdsText { hard: hard.into(), soft: soft.into(), soft_grace: grace.into(), minimum_reclaim: reclaim.into(), ..ThresholdsText::default() };
        Machine::new(Thresholds::parse(&text).expect("valid"))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).expect("a time")
    }

    fn figures(all: &[(Signal, i64, i64)]) -> Figures {
        all.iter().map(|(signal, available, capacity)| (*signal, Figure { available: *available, capacity: *capacity })).collect()
    }

    #[test]
    fn a_hard_threshold_counts_at_once_and_its_condition_stays_for_the_transition_period() {
        let mut m = machine("memory.available<100Mi", "", "", "");
        let memory = |mib: i64| figures(&[(Signal::MemoryAvailable, mib * MIB, 4096 * MIB)]);
        assert_eq!(m.step(&memory(200), at(0)), Verdict::default());
        let low = m.step(&memory(50), at(10));
        assert_eq!(low.pressure, [Condition::Memory].into());
        assert_eq!(low.shortage.expect("at once").message(), "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. ");
        let after = m.step(&memory(200), at(20));
        assert_eq!((after.pressure.len(), after.shortage), (1, None), "it stays to keep the node from swinging");
        assert_eq!(m.step(&memory(200), at(10 + 299)).pressure.len(), 1);
        assert_eq!(m.step(&memory(200), at(10 + 300)), Verdict::default());
    }

    #[test]
    fn a_soft_threshold_waits_and_begins_anew_when_it_was_not_met_in_between() {
        let mut m = machine("", "memory.available<100Mi", "memory.available=30s", "");
        let memory = |mib: i64| figures(&[(Signal::MemoryAvailable, mib * MIB, 4096 * MIB)]);
        let asks = |v: Verdict| (v.pressure.contains(&Condition::Memory), v.shortage.is_some());
        assert_eq!(asks(m.step(&memory(50), at(0))), (true, false), "the node says so before it acts");
        assert_eq!(asks(m.step(&memory(50), at(29))), (true, false));
        assert_eq!(asks(m.step(&memory(50), at(30))), (true, true));
        assert_eq!(asks(m.step(&memory(150), at(40))), (true, false));
        assert_eq!(asks(m.step(&memory(50), at(50))), (true, false));
        assert_eq!(asks(m.step(&memory(50), at(80))), (true, true));
    }

    #[test]
    fn a_met_threshold_is_over_only_with_its_minimum_reclaim() {
        let mut m = machine("nodefs.available<10%", "", "", "nodefs.available=5%");
        let disk = |percent: i64| figures(&[(Signal::NodeFsAvailable, percent * 1024, 100 * 1024)]);
        assert!(m.step(&disk(12), at(0)).shortage.is_none());
        let low = m.step(&disk(9), at(1)).shortage.expect("met");
        assert_eq!(low.message(), "The node was low on resource: ephemeral-storage. Threshold quantity: 10Ki, available: 9Ki. ");
        assert!(m.step(&disk(12), at(2)).shortage.is_some(), "10 % and 5 more are asked for");
        assert!(m.step(&disk(15), at(3)).shortage.is_none());
        assert!(m.step(&disk(12), at(4)).shortage.is_none(), "it begins anew");
    }

    #[test]
    fn memory_is_taken_back_first_and_every_signal_has_its_condition() {
        let mut m = machine("pid.available<10,nodefs.inodesFree<10,memory.available<1Mi", "", "", "");
        let all = figures(&[(Signal::PidAvailable, 5, 100), (Signal::NodeFsInodesFree, 5, 100), (Signal::MemoryAvailable, 0, MIB)]);
        let verdict = m.step(&all, at(0));
        assert_eq!(verdict.pressure, [Condition::Disk, Condition::Memory, Condition::Pid].into());
        assert_eq!(verdict.shortage.expect("met").threshold.signal, Signal::MemoryAvailable);
        let rest = figures(&[(Signal::PidAvailable, 5, 100), (Signal::NodeFsInodesFree, 5, 100), (Signal::MemoryAvailable, 2 * MIB, 4 * MIB)]);
        let inodes = m.step(&rest, at(1)).shortage.expect("met");
        assert_eq!(inodes.message(), "The node was low on resource: inodes. Threshold quantity: 10, available: 5. ");
        let unknown = m.step(&Figures::new(), at(2));
        assert_eq!((unknown.pressure.len(), unknown.shortage), (3, None), "without figures nothing has changed and nobody is ended");
    }

    #[test]
    fn bytes_are_told_in_the_largest_unit_that_keeps_them_whole() {
        assert_eq!([0, 1023, 1024, 1536 << 10, 3 << 30].map(bytes), ["0", "1023", "1Ki", "1536Ki", "3Gi"]);
    }
}
