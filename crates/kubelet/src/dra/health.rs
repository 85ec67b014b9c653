//! What drivers say of their devices' health (KEP-4680). News is good for as long as the driver says, then the health is unknown.
//!
//! In memory only: a driver tells all again when its stream is opened anew.

use super::wire::{DeviceHealth, HealthStatus};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Upstream's `DefaultHealthTimeout`.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// Upstream cuts what is longer and says so with three dots.
const MAX_MESSAGE_CHARS: usize = 1024;
/// Devices of one driver; more are not kept.
const MAX_DEVICES: usize = 4096;

/// Pool and device.
pub type Name = (String, String);

#[derive(Clone, Debug)]
struct Known {
    status: HealthStatus,
    message: String,
    until: Instant,
}

#[derive(Default)]
pub struct Health {
    drivers: BTreeMap<String, BTreeMap<Name, Known>>,
}

impl Health {
    /// Takes a driver's list; whose health is another now.
    pub fn update(&mut self, driver: &str, list: Vec<DeviceHealth>, now: Instant) -> Vec<Name> {
        let known = self.drivers.entry(driver.to_owned()).or_default();
        let mut changed = Vec::new();
        for told in list {
            let device = told.device.unwrap_or_default();
            let name = (device.pool_name, device.device_name);
            if known.len() >= MAX_DEVICES && !known.contains_key(&name) {
                tracing::warn!(driver, device = name.1, "the health of more devices than {MAX_DEVICES} is not kept");
                continue;
            }
            let good_for = u64::try_from(told.health_check_timeout_seconds).ok().filter(|seconds| *seconds > 0).map_or(GOOD_FOR, Duration::from_secs);
            let status = HealthStatus::try_from(told.health).unwrap_or(HealthStatus::Unknown);
            let new = Known { status, message: shortened(told.message), until: now.checked_add(good_for).unwrap_or(now) };
            let old = known.insert(name.clone(), new.clone());
            if old.is_none_or(|old| (old.status, &old.message) != (new.status, &new.message)) {
                changed.push(name);
            }
        }
        changed
    }

    /// Whose news is too old by now.
    pub fn expire(&mut self, driver: &str, now: Instant) -> Vec<Name> {
        let known = self.drivers.get_mut(driver).into_iter().flatten();
        let old = known.filter(|(_, known)| known.until <= now && known.status != HealthStatus::Unknown);
        old.map(|(name, known)| {
            (known.status, known.message) = (HealthStatus::Unknown, String::new());
            name.clone()
        })
        .collect()
    }

    /// When the next news of a driver gets too old.
    pub fn next(&self, driver: &str) -> Option<Instant> {
        self.drivers.get(driver)?.values().filter(|known| known.status != HealthStatus::Unknown).map(|known| known.until).min()
    }

    /// Nothing is known of a driver's devices any more.
    pub fn clear(&mut self, driver: &str) -> Vec<Name> {
        self.drivers.remove(driver).into_iter().flatten().map(|(name, _)| name).collect()
    }

    /// As a pod's status says it: health and message.
    pub fn of(&self, driver: &str, name: &Name, now: Instant) -> (&'static str, Option<String>) {
        let known = self.drivers.get(driver).and_then(|known| known.get(name)).filter(|known| known.until > now);
        let message = known.map(|known| known.message.clone()).filter(|message| !message.is_empty());
        match known.map(|known| known.status) {
            Some(HealthStatus::Healthy) => ("Healthy", message),
            Some(HealthStatus::Unhealthy) => ("Unhealthy", message),
            Some(HealthStatus::Unknown) | None => ("Unknown", message),
        }
    }
}

fn shortened(message: String) -> String {
    if message.chars().count() <= MAX_MESSAGE_CHARS {
        return message;
    }
    message.chars().take(MAX_MESSAGE_CHARS - 3).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::wire::DeviceIdentifier;
    use super::*;

    fn told(device: &str, health: HealthStatus, good_for: i64, message: &str) -> DeviceHealth {
        let id = DeviceIdentifier { pool_name: "w".into(), device_name: device.into() };
        DeviceHealth { device: Some(id), health: health as i32, last_updated_time: 0, health_check_timeout_seconds: good_for, message: message.into() }
    }

    fn name(device: &str) -> Name {
        ("w".into(), device.into())
    }

    #[test]
    fn only_changes_are_news_and_news_gets_old() {
        let (mut health, start) = (Health::default(), Instant::now());
        let all = || vec![told("a", HealthStatus::Healthy, 0, ""), told("b", HealthStatus::Unhealthy, 100, "too hot")];
        assert_eq!(health.update("d", all(), start), [name("a"), name("b")]);
        assert!(health.update("d", all(), start).is_empty(), "the same again");
        assert_eq!(health.of("d", &name("b"), start), ("Unhealthy", Some("too hot".into())));
        assert_eq!(health.next("d"), Some(start + GOOD_FOR));
        let later = start + GOOD_FOR;
        assert_eq!((health.expire("d", later), health.of("d", &name("a"), later)), (vec![name("a")], ("Unknown", None)));
        assert_eq!((health.expire("d", later), health.next("d")), (vec![], Some(start + Duration::from_secs(100))));
        assert_eq!(health.update("d", vec![told("a", HealthStatus::Healthy, -1, "")], later), [name("a")]);
        assert_eq!(health.clear("d"), [name("a"), name("b")]);
        assert_eq!(health.of("d", &name("b"), later), ("Unknown", None));
    }

    #[test]
    fn a_long_message_is_cut() {
        let mut health = Health::default();
        health.update("d", vec![told("a", HealthStatus::Unhealthy, 0, &"ä".repeat(2000))], Instant::now());
        let message = health.of("d", &name("a"), Instant::now()).1.expect("a message");
        assert_eq!((message.chars().count(), message.ends_with("ä...")), (1024, true));
    }
}
