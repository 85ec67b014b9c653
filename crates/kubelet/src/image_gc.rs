//! Images that nobody uses go when the disk fills up or when they were not used for long.
//!
//! Entry points: [`run`] (every [`EVERY`]), [`free_all`] (under pressure). [`doomed`] decides and is pure. An image is in use while any
//! container of the node, ended ones too, was made of it; the store itself refuses to remove what is mounted.

use crate::agent::Agent;
use crate::events::WARNING;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Upstream's figure.
pub const EVERY: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Percent of the disk in use from which on images are removed; 100 for never.
    pub high_percent: u8,
    /// Down to which they are.
    pub low_percent: u8,
    /// An image younger than this stays.
    pub minimum_age: Duration,
    /// One not used for so long goes whatever the disk; zero for never.
    pub maximum_age: Duration,
}

impl Default for Limits {
    /// Upstream's.
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, minimum_age: Duration::from_secs(120), maximum_age: Duration::ZERO }
    }
}

impl Limits {
    /// The fault names the flags.
    pub fn check(&self) -> Result<(), String> {
        if self.high_percent > 100 || self.low_percent > 100 {
            return Err("--image-gc-high-threshold and --image-gc-low-threshold must be from 0 to 100".into());
        }
        if self.low_percent >= self.high_percent {
            return Err("--image-gc-low-threshold must be below --image-gc-high-threshold".into());
        }
        Ok(())
    }
}

/// What is known of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    first_seen: Timestamp,
    last_used: Option<Timestamp>,
    size_bytes: u64,
}

/// What the agent has seen of images, by id. Lost at its end, as upstream's: after a restart all images are new.
#[derive(Default)]
pub struct Images {
    known: BTreeMap<String, Known>,
}

impl Images {
    /// Takes the present list; `in_use` holds ids.
    fn see(&mut self, sizes: &BTreeMap<String, u64>, in_use: &BTreeSet<String>, now: Timestamp) {
        self.known.retain(|id, _| sizes.contains_key(id));
        for (id, size_bytes) in sizes {
            let known = self.known.entry(id.clone()).or_insert(Known { first_seen: now, last_used: None, size_bytes: *size_bytes });
            if in_use.contains(id) {
                known.last_used = Some(now);
            }
        }
    }

    /// Which unused images go, longest unused first, until `wanted_bytes` are free.
    fn doomed(&self, in_use: &BTreeSet<String>, wanted_bytes: u64, minimum_age: Duration, now: Timestamp) -> Vec<String> {
        let age = SignedDuration::try_from(minimum_age).unwrap_or(SignedDuration::MAX);
        let mut free: Vec<(&String, &Known)> = self.known.iter().filter(|(id, known)| !in_use.contains(*id) && now.duration_since(known.first_seen) >= age).collect();
        free.sort_by_key(|(id, known)| (known.last_used, known.first_seen, (*id).clone()));
        let mut left = wanted_bytes;
        let mut doomed = Vec::new();
        for (id, known) in free {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(known.size_bytes);
            doomed.push(id.clone());
        }
        doomed
    }

    /// Which unused images are too old.
    fn stale(&self, in_use: &BTreeSet<String>, maximum_age: Duration, now: Timestamp) -> Vec<String> {
        let age = SignedDuration::try_from(maximum_age).unwrap_or(SignedDuration::MAX);
        let is_stale = |known: &Known| now.duration_since(known.last_used.unwrap_or(known.first_seen)) > age;
        self.known.iter().filter(|(id, known)| !maximum_age.is_zero() && !in_use.contains(*id) && is_stale(known)).map(|(id, _)| id.clone()).collect()
    }
}

/// How much is to be freed of a disk.
fn wanted(limits: &Limits, available: i64, capacity: i64) -> u64 {
    let used_percent = 100 - available * 100 / capacity.max(1);
    if limits.high_percent == 100 || used_percent < i64::from(limits.high_percent) {
        return 0;
    }
    (capacity * (100 - i64::from(limits.low_percent)) / 100 - available).max(0) as u64
}

/// Looks after the images until `stop`.
pub async fn run(agent: Arc<Agent>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        tokio::select! { _ = ticks.tick() => {}, () = stop.cancelled() => return }
        collect(&agent).await;
    }
}

async fn collect(agent: &Agent) {
    let limits = &agent.config.image_gc;
    let Some(in_use) = look(agent).await else { return };
    let now = Timestamp::now();
    let stale = agent.image_history().stale(&in_use, limits.maximum_age, now);
    remove(agent, &stale, "age").await;
    let Some((bytes, _)) = crate::eviction::disk(&agent.images_dir) else { return };
    let wanted = wanted(limits, bytes.available, bytes.capacity);
    if wanted == 0 {
        return;
    }
    let doomed = agent.image_history().doomed(&in_use, wanted, limits.minimum_age, now);
    let freed = remove(agent, &doomed, "space").await;
    if freed < wanted {
        let message = format!("Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free.");
        agent.events.node(&agent.config.node_name, WARNING, "FreeDiskSpaceFailed", message);
    }
}

/// Under pressure all unused images go that have their minimum age.
pub async fn free_all(agent: &Agent) {
    let Some(in_use) = look(agent).await else { return };
    let doomed = agent.image_history().doomed(&in_use, u64::MAX, agent.config.image_gc.minimum_age, Timestamp::now());
    remove(agent, &doomed, "space").await;
}

/// Notes what is there; the ids in use.
async fn look(agent: &Agent) -> Option<BTreeSet<String>> {
    let images = agent.images.list().await.inspect_err(|error| tracing::warn!(%error, "images not listed")).ok()?;
    let records = agent.runtime.list_containers().await.inspect_err(|error| tracing::warn!(%error, "containers not listed")).ok()?;
    // What a pod is about to start counts too: its container is made right after its image was found.
    let wished: BTreeSet<String> = agent.pods.views().iter().flat_map(|view| view.pod.spec.iter().flat_map(images_of).collect::<Vec<_>>()).collect();
    let normal = |name: &String| keles_oci::Reference::parse(name).map(|reference| reference.to_string()).unwrap_or_else(|_| name.clone());
    let wished: BTreeSet<String> = wished.iter().map(normal).collect();
    let named = |image: &crate::image_store::NodeImage| {
        let mut names = image.tags.iter().chain(&image.digests).chain([&image.id]);
        names.any(|name| records.iter().any(|record| record.image_id == *name) || wished.contains(name))
    };
    let in_use = images.iter().filter(|image| image.pinned || named(image)).map(|image| image.id.clone()).collect();
    let sizes = images.into_iter().map(|image| (image.id, image.size_bytes)).collect();
    agent.image_history().see(&sizes, &in_use, Timestamp::now());
    Some(in_use)
}

fn images_of(spec: &k8s_openapi::api::core::v1::PodSpec) -> Vec<String> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten()).filter_map(|container| container.image.clone());
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.clone());
    let ephemeral = spec.ephemeral_containers.iter().flatten().filter_map(|container| container.image.clone());
    containers.chain(volumes).chain(ephemeral).collect()
}

/// Bytes of what went; `reason` is the metric's.
async fn remove(agent: &Agent, ids: &[String], reason: &str) -> u64 {
    let mut freed = 0;
    for id in ids {
        match agent.images.remove(id).await {
            Ok(()) => {
                crate::image_access::Records::new(&agent.config.data_dir).forget(id);
                freed += agent.image_history().known.remove(id).map_or(0, |known| known.size_bytes);
                crate::metrics::IMAGES_COLLECTED.with([reason]).increment();
                tracing::info!(image = id, reason, "an unused image was removed");
            }
            Err(error) => tracing::info!(image = id, %error, "an unused image was not removed"),
        }
    }
    freed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).expect("a time")
    }

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_string()).collect()
    }

    #[test]
    fn the_disk_is_freed_from_the_high_mark_down_to_the_low_one() {
        let limits = Limits::default();
        assert_eq!(wanted(&limits, 160, 1000), 0, "84 %");
        assert_eq!(wanted(&limits, 150, 1000), 50, "85 %, down to 80");
        assert_eq!(wanted(&Limits { high_percent: 100, ..limits }, 0, 1000), 0);
        Limits { low_percent: 85, ..Limits::default() }.check().expect_err("not below the high one");
    }

    #[test]
    fn the_longest_unused_images_go_first_and_used_or_young_ones_stay() {
        let sizes = BTreeMap::from([("a".to_string(), 10), ("b".to_string(), 10), ("c".to_string(), 10)]);
        let mut images = Images::default();
        images.see(&sizes, &set(&["a", "b"]), at(0));
        images.see(&sizes, &set(&["b"]), at(100));
        let none = set(&[]);
        let age = Duration::from_secs(120);
        assert_eq!(images.doomed(&none, 15, age, at(119)), [""; 0], "too young");
        assert_eq!(images.doomed(&none, 15, age, at(120)), ["c", "a"], "never used before used long ago");
        assert_eq!(images.doomed(&set(&["a"]), u64::MAX, age, at(120)), ["c", "b"]);
        assert_eq!(images.stale(&set(&["c"]), Duration::from_secs(150), at(160)), ["a"]);
        assert_eq!(images.stale(&none, Duration::ZERO, at(9999)), [""; 0], "no maximum age");
        images.see(&BTreeMap::from([("b".to_string(), 10)]), &none, at(200));
        assert_eq!(images.known.len(), 1);
    }
}
