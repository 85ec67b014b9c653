//! What pods and the machine use, read when asked: nothing polls.
//!
//! Entry point: [`Snapshot::take`]; the agent's API shows it in three forms (summary, cAdvisor's names, resource metrics). What the host does not
//! tell is absent. [`Rates`] remember what was read before, so that a use per second needs no sampling of its own.

pub mod disk;
pub mod machine;

use crate::agent::Agent;
use crate::pod_worker::View;
use crate::pods::Pods;
use futures::StreamExt;
use jiff::Timestamp;
use keles_runtime::api::{ContainerState, ContainerStatus, Stats};
use machine::Machine;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Groups that are read at once: each is some ten small files.
const AT_ONCE: usize = 8;

pub struct Snapshot {
    pub at: Timestamp,
    pub machine: Machine,
    /// Of all pods together.
    pub all_pods: Option<Stats>,
    pub pods: Vec<PodFigures>,
}

pub struct PodFigures {
    pub view: View,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Of the pod's own group, with what it sent and received.
    pub stats: Stats,
    /// Those that run.
    pub containers: Vec<ContainerFigures>,
}

pub struct ContainerFigures {
    pub record: ContainerStatus,
    pub stats: Stats,
}

impl ContainerFigures {
    pub fn started_at_unix_ns(&self) -> i64 {
        self.record.started_at_unix_ns
    }
}

impl Snapshot {
    pub async fn take(agent: &Agent, pods: &Pods) -> Self {
        let asks: Vec<_> = pods.views().into_iter().filter(|view| view.sandbox.is_some()).map(|view| pod(agent, view)).collect();
        let read: Vec<Option<PodFigures>> = futures::stream::iter(asks).buffer_unordered(AT_ONCE).collect().await;
        let mut read: Vec<PodFigures> = read.into_iter().flatten().collect();
        read.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let (machine, all_pods) = tokio::join!(tokio::task::spawn_blocking(Machine::read), agent.runtime.stats(""));
        Self { at: Timestamp::now(), machine: machine.unwrap_or_default(), all_pods: all_pods.ok(), pods: read }
    }
}

/// `None` when the pod's group is gone.
async fn pod(agent: &Agent, view: View) -> Option<PodFigures> {
    let stats = agent.runtime.stats(view.sandbox.as_deref()?).await.ok()?;
    let mut containers = Vec::new();
    for record in view.records.iter().filter(|record| record.state == ContainerState::Running) {
        if let Ok(stats) = agent.runtime.stats(&record.id).await
            && stats.figures.cpu.is_some()
        {
            containers.push(ContainerFigures { record: record.clone(), stats });
        }
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let metadata = &view.pod.metadata;
    let (namespace, name, uid) = (text(&metadata.namespace), text(&metadata.name), text(&metadata.uid));
    Some(PodFigures { namespace, name, uid, stats, containers, view })
}

/// Processor time as it was seen before, by group.
#[derive(Default)]
pub struct Rates {
    seen: Mutex<HashMap<String, Seen>>,
}

#[derive(Clone, Copy)]
struct Seen {
    at: Timestamp,
    usage_ns: u64,
    /// What was told then.
    per_second_ns: u64,
}

/// Two looks closer together than this would measure the clock's steps.
const MIN_WINDOW_MS: i64 = 500;

impl Rates {
    /// Nanoseconds of processor a second since the look before, or since `began` at the first. `None` when hardly any time has passed.
    pub fn of(&self, group: &str, usage_ns: u64, now: Timestamp, began: Timestamp) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A group of the same name that counts less is another one.
        let before = seen.get(group).copied().filter(|before| before.usage_ns <= usage_ns);
        let (since, then_ns) = before.map_or((began, 0), |before| (before.at, before.usage_ns));
        let window_ms = now.duration_since(since).as_millis() as i64;
        if window_ms < MIN_WINDOW_MS {
            return before.map(|before| before.per_second_ns);
        }
        let per_second_ns = ((usage_ns - then_ns) as u128 * 1000 / window_ms as u128) as u64;
        seen.insert(group.to_owned(), Seen { at: now, usage_ns, per_second_ns });
        Some(per_second_ns)
    }

    /// Forgets groups that were not among those just looked at.
    pub fn keep(&self, looked_at: Timestamp) {
        const LONGEST_SECONDS: i64 = 600;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, before| looked_at.duration_since(before.at).as_secs() < LONGEST_SECONDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + n).expect("a time")
    }

    #[test]
    fn a_rate_is_of_the_time_since_the_look_before() {
        let rates = Rates::default();
        assert_eq!(rates.of("/p", 5_000_000_000, second(10), second(0)), Some(500_000_000), "the first: since it began");
        assert_eq!(rates.of("/p", 6_000_000_000, second(14), second(0)), Some(250_000_000));
        assert_eq!(rates.of("/p", 6_000_000_000, second(14), second(0)), Some(250_000_000), "asked again at once: what was told");
        assert_eq!(rates.of("/p", 1_000_000_000, second(24), second(22)), Some(500_000_000), "begun anew under the same name");
        assert_eq!(rates.of("/q", 1, second(3), second(3)), None);
        rates.keep(second(1000));
        assert!(rates.seen.lock().expect("unharmed").is_empty());
    }
}
