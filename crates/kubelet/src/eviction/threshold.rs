//! Thresholds as the flags give them: `memory.available<100Mi,nodefs.available<10%`.

use super::signals::Signal;
use keles_volumes::quantity::Quantity;
use std::collections::BTreeMap;
use std::time::Duration;

/// A figure, or a part of what there is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// With the text that messages show.
    Amount(i64, String),
    Percent(f64),
}

impl Value {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let number: f64 = percent.parse().map_err(|_| format!("{text:?} is not a percentage"))?;
            return if (0.0..=100.0).contains(&number) { Ok(Self::Percent(number)) } else { Err(format!("percentage {text} must be from 0% to 100%")) };
        }
        let quantity = Quantity::parse(text).filter(|quantity| quantity.whole() >= 0).ok_or_else(|| format!("{text:?} is not a quantity of 0 or more"))?;
        Ok(Self::Amount(quantity.whole(), text.into()))
    }

    /// Of what there is in all.
    pub fn of(&self, capacity: i64) -> i64 {
        match self {
            Self::Amount(amount, _) => *amount,
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as i64,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub value: Value,
    /// A soft threshold must be met for so long; absent: hard.
    pub grace: Option<Duration>,
    /// So much more must be free before the threshold counts as no longer met.
    pub minimum_reclaim: Option<Value>,
}

/// The flags' texts, as given.
#[derive(Clone, Debug)]
pub struct ThresholdsText {
    /// `--eviction-hard`; what it does not name has no hard threshold.
    pub hard: String,
    /// `--eviction-soft`
    pub soft: String,
    /// `--eviction-soft-grace-period`
    pub soft_grace: String,
    /// `--eviction-minimum-reclaim`
    pub minimum_reclaim: String,
    /// `--eviction-pressure-transition-period`
    pub transition: Duration,
    /// `--eviction-max-pod-grace-period`, seconds.
    pub max_pod_grace_seconds: u64,
}

impl ThresholdsText {
    /// Default of `--eviction-hard`: upstream's on Linux, but for the disk, of which upstream wants 10 and 15 % free (docs/decisions/2026-11-23-disk-thresholds.md).
    pub const HARD: &str = "imagefs.available<5%,imagefs.inodesFree<5%,memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%";
    pub const TRANSITION: Duration = Duration::from_secs(300);
}

impl Default for ThresholdsText {
    fn default() -> Self {
        let none = String::new;
        Self { hard: Self::HARD.into(), soft: none(), soft_grace: none(), minimum_reclaim: none(), transition: Self::TRANSITION, max_pod_grace_seconds: 0 }
    }
}

#[derive(Clone, Debug)]
pub struct Thresholds {
    pub all: Vec<Threshold>,
    /// How long a condition stays after its thresholds are no longer met.
    pub transition: Duration,
    /// What a pod that a soft threshold ends is given at most.
    pub max_pod_grace: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::parse(&ThresholdsText::default()).expect("the defaults are well-formed")
    }
}

impl Thresholds {
    pub fn parse(text: &ThresholdsText) -> Result<Self, String> {
        let reclaims = pairs(&text.minimum_reclaim, '=', "--eviction-minimum-reclaim", Value::parse)?;
        let graces = pairs(&text.soft_grace, '=', "--eviction-soft-grace-period", duration)?;
        let soft = pairs(&text.soft, '<', "--eviction-soft", Value::parse)?;
        let hard = pairs(&text.hard, '<', "--eviction-hard", Value::parse)?;
        if let Some(signal) = soft.keys().find(|signal| !graces.contains_key(signal)) {
            return Err(format!("grace period must be specified for the soft eviction threshold {}: --eviction-soft-grace-period", signal.name()));
        }
        let mut all = Vec::new();
        for (values, is_soft) in [(&hard, false), (&soft, true)] {
            for (signal, value) in values.iter().filter(|(_, value)| **value != Value::Percent(0.0)) {
                let grace = graces.get(signal).copied().filter(|_| is_soft);
                all.push(Threshold { signal: *signal, value: value.clone(), grace, minimum_reclaim: reclaims.get(signal).cloned() });
            }
        }
        all.sort_by_key(|threshold| threshold.signal);
        Ok(Self { all, transition: text.transition, max_pod_grace: Duration::from_secs(text.max_pod_grace_seconds) })
    }

    /// Hard or soft ones as the flags write them.
    pub fn texts(&self, is_soft: bool) -> BTreeMap<&'static str, String> {
        let text = |value: &Value| match value {
            Value::Amount(_, text) => text.clone(),
            Value::Percent(percent) => format!("{percent}%"),
        };
        self.all.iter().filter(|t| t.grace.is_some() == is_soft).map(|t| (t.signal.name(), text(&t.value))).collect()
    }

    /// What hard thresholds keep free of `capacity`: it is not for pods.
    pub fn reserved(&self, signal: Signal, capacity: i64) -> i64 {
        self.all.iter().find(|threshold| threshold.signal == signal && threshold.grace.is_none()).map_or(0, |threshold| threshold.value.of(capacity))
    }
}

fn pairs<T>(text: &str, sign: char, flag: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<BTreeMap<Signal, T>, String> {
    let mut found = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once(sign).ok_or_else(|| format!("{flag}: {part:?} is not SIGNAL{sign}VALUE"))?;
        let signal = Signal::named(name.trim()).ok_or_else(|| format!("{flag}: unsupported eviction signal {name}"))?;
        let value = parse(value.trim()).map_err(|fault| format!("{flag}: {name}: {fault}"))?;
        if found.insert(signal, value).is_some() {
            return Err(format!("{flag}: duplicate eviction signal {name}"));
        }
    }
    Ok(found)
}

/// Go's form: `1m30s`, `500ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    keles_auth::durations::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(hard: &str, soft: &str, grace: &str) -> ThresholdsText {
        ThresholdsText { hard: hard.into(), soft: soft.into(), soft_grace: grace.into(), ..ThresholdsText::default() }
    }

    #[test]
    fn thresholds_are_read_as_upstream_writes_them() {
        let parsed = Thresholds::parse(&text("nodefs.available<10%, memory.available<100Mi", "memory.available<1Gi", "memory.available=1m30s")).expect("valid");
        let names: Vec<_> = parsed.all.iter().map(|t| (t.signal.name(), t.value.of(1000), t.grace)).collect();
        let soft = Some(Duration::from_secs(90));
        assert_eq!(names, [("memory.available", 100 << 20, None), ("memory.available", 1 << 30, soft), ("nodefs.available", 100, None)]);
        assert_eq!(parsed.reserved(Signal::NodeFsAvailable, 1000), 100);
        assert_eq!(parsed.reserved(Signal::PidAvailable, 1000), 0);
        assert_eq!(Thresholds::default().all.len(), 5);
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_flag() {
        for (given, fault) in [
            (text("memory<1Gi", "", ""), "unsupported eviction signal memory"),
            (text("memory.available>1Gi", "", ""), "is not SIGNAL<VALUE"),
            (text("memory.available<x", "", ""), "is not a quantity"),
            (text("nodefs.available<101%", "", ""), "from 0% to 100%"),
            (text("pid.available<1,pid.available<2", "", ""), "duplicate eviction signal"),
            (text("", "memory.available<1Gi", ""), "grace period must be specified for the soft eviction threshold memory.available"),
            (text("", "memory.available<1Gi", "memory.available=soon"), "is not a duration"),
        ] {
            let refusal = Thresholds::parse(&given).expect_err(fault);
            assert!(refusal.contains(fault) && refusal.contains("--eviction-"), "{refusal}");
        }
    }
}
