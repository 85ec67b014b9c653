//! What drivers say of their devices' health (KEP-4680). News is good for as long as the driver says, then the health is unknown.
//!
//! What changes is kept in a file for the next run (upstream's `dra_health_state`), until a driver's stream, opened anew, tells all again.

use super::wire::{DeviceHealth, HealthStatus};
use crate::placement::checkpoint;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const FILE: &str = "dra_health_state";

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
    told: Timestamp,
    good_for: Duration,
}

#[derive(Default)]
pub struct Health {
    drivers: BTreeMap<String, BTreeMap<Name, Known>>,
    file: Option<PathBuf>,
}

/// A driver, as the file has it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DriverState {
    /// By `POOL/DEVICE`.
    devices: BTreeMap<String, DeviceState>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeviceState {
    pool_name: String,
    device_name: String,
    health: String,
    last_updated: Timestamp,
    /// Nanoseconds; 0 stands for the default.
    health_check_timeout: i64,
    #[serde(default)]
    message: String,
}

impl Health {
    /// What an earlier run kept in this folder, and keeps it there from now on. A file that cannot be read is as none: drivers will tell.
    pub fn open(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let kept = match std::fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            read => read.and_then(|text| serde_json::from_slice::<BTreeMap<String, DriverState>>(&text).map_err(Into::into)),
        };
        let kept = kept.unwrap_or_else(|error| {
            tracing::warn!(%error, file = %file.display(), "the health of devices that an earlier run kept cannot be read; drivers will tell it again");
            BTreeMap::new()
        });
        let (now, clock) = (Instant::now(), Timestamp::now());
        let known = |state: DeviceState| ((state.pool_name.clone(), state.device_name.clone()), Known::restored(state, now, clock));
        let drivers = kept.into_iter().map(|(driver, state)| (driver, state.devices.into_values().take(MAX_DEVICES).map(known).collect())).collect();
        Health { drivers, file: Some(file) }
    }

    fn save(&self) {
        let Some(file) = &self.file else { return };
        let state = |(name, known): (&Name, &Known)| (format!("{}/{}", name.0, name.1), known.state(name));
        let all: BTreeMap<&str, DriverState> = self.drivers.iter().map(|(driver, known)| (driver.as_str(), DriverState { devices: known.iter().map(state).collect() })).collect();
        let written = serde_json::to_vec(&all).map_err(Into::into).and_then(|text| checkpoint::write(file, &text));
        if let Err(error) = written {
            tracing::warn!(%error, file = %file.display(), "the health of devices could not be kept; after a restart it is unknown until drivers tell it again");
        }
    }

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
            let new = Known { status, message: shortened(told.message), until: now.checked_add(good_for).unwrap_or(now), told: Timestamp::now(), good_for };
            let old = known.insert(name.clone(), new.clone());
            if old.is_none_or(|old| (old.status, &old.message) != (new.status, &new.message)) {
                changed.push(name);
            }
        }
        if !changed.is_empty() {
            self.save();
        }
        changed
    }

    /// Whose news is too old by now.
    pub fn expire(&mut self, driver: &str, now: Instant) -> Vec<Name> {
        let known = self.drivers.get_mut(driver).into_iter().flatten();
        let old = known.filter(|(_, known)| known.until <= now && known.status != HealthStatus::Unknown);
        let expired: Vec<Name> = old
            .map(|(name, known)| {
                (known.status, known.message) = (HealthStatus::Unknown, String::new());
                name.clone()
            })
            .collect();
        if !expired.is_empty() {
            self.save();
        }
        expired
    }

    /// When the next news of a driver gets too old.
    pub fn next(&self, driver: &str) -> Option<Instant> {
        self.drivers.get(driver)?.values().filter(|known| known.status != HealthStatus::Unknown).map(|known| known.until).min()
    }

    /// Nothing is known of a driver's devices any more.
    pub fn clear(&mut self, driver: &str) -> Vec<Name> {
        let Some(known) = self.drivers.remove(driver) else { return Vec::new() };
        self.save();
        known.into_keys().collect()
    }

    /// As a pod's status says it: health and message.
    pub fn of(&self, driver: &str, name: &Name, now: Instant) -> (&'static str, Option<String>) {
        let known = self.drivers.get(driver).and_then(|known| known.get(name)).filter(|known| known.until > now);
        let message = known.map(|known| known.message.clone()).filter(|message| !message.is_empty());
        (shown(known.map_or(HealthStatus::Unknown, |known| known.status)), message)
    }
}

impl Known {
    /// As an earlier run kept it: as good as it was when it was told, for as long as it was good then.
    fn restored(state: DeviceState, now: Instant, clock: Timestamp) -> Self {
        let good_for = u64::try_from(state.health_check_timeout).ok().filter(|nanos| *nanos > 0).map_or(GOOD_FOR, Duration::from_nanos);
        // A clock that went back makes news no fresher than it can be.
        let age = Duration::try_from(clock.duration_since(state.last_updated)).unwrap_or_default();
        let left = good_for.saturating_sub(age);
        let status = [HealthStatus::Healthy, HealthStatus::Unhealthy].into_iter().find(|status| !left.is_zero() && shown(*status) == state.health);
        let message = if status.is_some() { state.message } else { String::new() };
        Known { status: status.unwrap_or(HealthStatus::Unknown), message, until: now.checked_add(left).unwrap_or(now), told: state.last_updated, good_for }
    }

    fn state(&self, name: &Name) -> DeviceState {
        DeviceState {
            pool_name: name.0.clone(),
            device_name: name.1.clone(),
            health: shown(self.status).into(),
            last_updated: self.told,
            health_check_timeout: i64::try_from(self.good_for.as_nanos()).unwrap_or(i64::MAX),
            message: self.message.clone(),
        }
    }
}

/// As statuses and the file say it.
fn shown(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Healthy => "Healthy",
        HealthStatus::Unhealthy => "Unhealthy",
        HealthStatus::Unknown => "Unknown",
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
    fn the_next_run_knows_what_is_still_good_and_a_damaged_file_is_as_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(FILE);
        let mut first = Health::open(folder.path());
        first.update("d", vec![told("a", HealthStatus::Healthy, 1_000, ""), told("b", HealthStatus::Unhealthy, 1_000, "too hot")], Instant::now());
        let next = Health::open(folder.path());
        let now = Instant::now();
        assert_eq!((next.of("d", &name("a"), now), next.of("d", &name("b"), now)), (("Healthy", None), ("Unhealthy", Some("too hot".into()))));
        assert_eq!(next.of("d", &name("b"), now + Duration::from_secs(1_000)).0, "Unknown", "as long as it was good at first");
        // Upstream's form, from before messages were kept; `b` was told long ago, `c` by a clock that is ahead.
        let text = |at: Timestamp, timeout: i64| serde_json::json!({"PoolName": "w", "DeviceName": "x", "Health": "Healthy", "LastUpdated": at.to_string(), "HealthCheckTimeout": timeout});
        let (clock, hour) = (Timestamp::now(), jiff::SignedDuration::from_hours(1));
        let mut devices = serde_json::json!({"w/a": text(clock, 0), "w/b": text(clock - hour, 0), "w/c": text(clock + hour, 60_000_000_000)});
        ["a", "b", "c"].iter().for_each(|device| devices[format!("w/{device}")]["DeviceName"] = (*device).into());
        std::fs::write(&file, serde_json::json!({"d": {"Devices": devices}}).to_string()).expect("written");
        let mut next = Health::open(folder.path());
        let now = Instant::now();
        assert_eq!(["a", "b", "c"].map(|device| next.of("d", &name(device), now).0), ["Healthy", "Unknown", "Healthy"]);
        assert_eq!(next.of("d", &name("c"), now + Duration::from_secs(61)).0, "Unknown");
        next.clear("d");
        assert_eq!(std::fs::read_to_string(&file).expect("a file"), "{}");
        std::fs::write(&file, "{\"d\":").expect("written");
        assert_eq!(Health::open(folder.path()).of("d", &name("a"), now).0, "Unknown");
    }

    #[test]
    fn a_long_message_is_cut() {
        let mut health = Health::default();
        health.update("d", vec![told("a", HealthStatus::Unhealthy, 0, &"ä".repeat(2000))], Instant::now());
        let message = health.of("d", &name("a"), Instant::now()).1.expect("a message");
        assert_eq!((message.chars().count(), message.ends_with("ä...")), (1024, true));
    }
}
