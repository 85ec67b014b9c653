//! Rates from readings that were made when somebody asked.
//!
//! Entry point: [`Windows::measure`]. A node's last readings are kept; a rate is over the time since the youngest that is old enough. Where none is,
//! a second reading is made after a moment. A container that began since then counts from its start.

use super::scrape::{ContainerKey, Point, Reading};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A reading must be this old to measure from. Shorter windows show little but chance.
const WINDOW_SECONDS_MIN: f64 = 1.0;
/// Better a window of this length, where there is one.
const WINDOW_SECONDS_GOOD: f64 = 10.0;
/// Readings older than this say little about now.
const WINDOW_SECONDS_MAX: f64 = 90.0;
const READINGS_MAX: usize = 8;
/// Until a second reading, when there was none to measure from.
const SECOND_READING: Duration = Duration::from_millis(1100);
/// Nodes that are remembered.
const NODES_MAX: usize = 5000;

/// What is used, over a window that ends at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Use {
    pub at_seconds: f64,
    pub window_seconds: f64,
    pub nano_cores: u64,
    pub memory_bytes: u64,
}

impl Use {
    /// RFC 3339 in whole seconds.
    pub fn time(&self) -> String {
        jiff::Timestamp::from_second(self.at_seconds as i64).unwrap_or_default().to_string()
    }
    /// As Go writes a duration, in milliseconds.
    pub fn window(&self) -> String {
        let seconds = (self.window_seconds * 1000.0).round() / 1000.0;
        let (minutes, rest) = ((seconds / 60.0) as u64, ((seconds % 60.0) * 1000.0).round() / 1000.0);
        if minutes > 0 { format!("{minutes}m{rest}s") } else { format!("{rest}s") }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub node: Use,
    /// By namespace and pod, then by container.
    pub containers: HashMap<(String, String), BTreeMap<String, Use>>,
}

/// Readings of each node, oldest first.
#[derive(Default)]
pub struct Windows {
    nodes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Vec<Reading>>>>>,
}

impl Windows {
    /// Reads a node, twice where it must be. Who asks at the same time shares the readings.
    pub async fn measure<F: Future<Output = Result<Reading, String>>>(&self, node: &str, read: impl Fn() -> F) -> Result<Measured, String> {
        let kept = self.of(node);
        let mut kept = kept.lock().await;
        let mut new = read().await?;
        kept.retain(|old| new.node.at_seconds - old.node.at_seconds <= WINDOW_SECONDS_MAX && old.node.at_seconds <= new.node.at_seconds);
        if baseline(&kept, &new).is_none() {
            // Another reading of the same moment would measure nothing.
            if kept.last().is_none_or(|last| new.node.at_seconds - last.node.at_seconds >= WINDOW_SECONDS_MIN) {
                kept.push(new);
            }
            tokio::time::sleep(SECOND_READING).await;
            new = read().await?;
        }
        let base = baseline(&kept, &new).ok_or("the node's readings are too close together")?;
        let measured = measured(base, &new).ok_or("the node does not tell what it uses")?;
        if kept.last().is_none_or(|last| new.node.at_seconds - last.node.at_seconds >= WINDOW_SECONDS_GOOD / 2.0) {
            kept.push(new);
        }
        if kept.len() > READINGS_MAX {
            kept.remove(0);
        }
        Ok(measured)
    }

    fn of(&self, node: &str) -> Arc<tokio::sync::Mutex<Vec<Reading>>> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.len() >= NODES_MAX && !nodes.contains_key(node) {
            nodes.clear();
        }
        nodes.entry(node.to_owned()).or_default().clone()
    }
}

/// The youngest reading that gives a good window, else the oldest that gives any.
fn baseline<'r>(kept: &'r [Reading], new: &Reading) -> Option<&'r Reading> {
    let age = |old: &Reading| new.node.at_seconds - old.node.at_seconds;
    kept.iter().rev().find(|old| age(old) >= WINDOW_SECONDS_GOOD).or_else(|| kept.iter().find(|old| age(old) >= WINDOW_SECONDS_MIN))
}

fn measured(old: &Reading, new: &Reading) -> Option<Measured> {
    let mut containers: HashMap<(String, String), BTreeMap<String, Use>> = HashMap::new();
    for (key, point) in &new.containers {
        if let Some(u) = container(old, key, point) {
            let (namespace, pod, name) = key.clone();
            containers.entry((namespace, pod)).or_default().insert(name, u);
        }
    }
    Some(Measured { node: between(&old.node, &new.node)?, containers })
}

/// `None` for one that has hardly begun.
fn container(old: &Reading, key: &ContainerKey, new: &Point) -> Option<Use> {
    let same = |before: &&Point| before.started_seconds == new.started_seconds && before.cpu_seconds <= new.cpu_seconds;
    match old.containers.get(key).filter(same) {
        Some(before) => between(before, new),
        None => between(&Point { at_seconds: new.started_seconds?, cpu_seconds: Some(0.0), ..Point::default() }, new),
    }
}

fn between(old: &Point, new: &Point) -> Option<Use> {
    let window_seconds = new.at_seconds - old.at_seconds;
    let cores = (new.cpu_seconds? - old.cpu_seconds?).max(0.0) / window_seconds;
    (window_seconds >= WINDOW_SECONDS_MIN).then_some(Use {
        at_seconds: new.at_seconds,
        window_seconds,
        nano_cores: (cores * 1e9).round() as u64,
        memory_bytes: new.memory_bytes? as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A node and a container `c` that use half a processor each.
    fn reading(at: f64) -> Reading {
        let point = |started: Option<f64>| Point { at_seconds: at, cpu_seconds: Some(at / 2.0), memory_bytes: Some(1024.0), started_seconds: started };
        let key = |name: &str| ("n".to_owned(), "p".to_owned(), name.to_owned());
        Reading { node: point(None), containers: HashMap::from([(key("c"), point(Some(0.0)))]) }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_first_waits_for_a_second_reading_and_later_ones_do_not() {
        let windows = Windows::default();
        let reads = AtomicUsize::new(0);
        let times = [100.0, 101.5, 103.0, 120.0];
        let read = || {
            let n = reads.fetch_add(1, Ordering::SeqCst);
            async move { Ok(reading(times[n])) }
        };
        let first = windows.measure("a", read).await.unwrap();
        assert_eq!((reads.load(Ordering::SeqCst), first.node.window(), first.node.nano_cores), (2, "1.5s".to_owned(), 500_000_000));
        let second = windows.measure("a", read).await.unwrap();
        assert_eq!((reads.load(Ordering::SeqCst), second.node.window()), (3, "3s".to_owned()));
        let third = windows.measure("a", read).await.unwrap();
        assert_eq!((reads.load(Ordering::SeqCst), third.node.window()), (4, "20s".to_owned()));
        assert_eq!(third.containers[&("n".to_owned(), "p".to_owned())]["c"].nano_cores, 500_000_000);
    }

    #[test]
    fn a_young_container_counts_from_its_start() {
        let (old, mut new) = (reading(100.0), reading(120.0));
        let key = |name: &str| ("n".to_owned(), "p".to_owned(), name.to_owned());
        let young = |started, cpu| Point { at_seconds: 120.0, cpu_seconds: Some(cpu), memory_bytes: Some(1.0), started_seconds: Some(started) };
        new.containers.insert(key("young"), young(116.0, 1.0));
        new.containers.insert(key("newborn"), young(119.5, 0.1));
        // The same name, begun anew.
        new.containers.insert(key("c"), young(110.0, 5.0));
        let m = measured(&old, &new).unwrap();
        let pod = &m.containers[&("n".to_owned(), "p".to_owned())];
        assert_eq!((pod["young"].nano_cores, pod["young"].window().as_str()), (250_000_000, "4s"));
        assert_eq!((pod["c"].nano_cores, pod.contains_key("newborn")), (500_000_000, false));
    }

    #[test]
    fn durations_are_gos() {
        let of = |window_seconds| Use { at_seconds: 0.0, window_seconds, nano_cores: 0, memory_bytes: 0 }.window();
        assert_eq!([of(15.25), of(60.0), of(75.5)], ["15.25s", "1m0s", "1m15.5s"]);
    }
}
