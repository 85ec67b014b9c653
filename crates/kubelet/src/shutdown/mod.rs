//! Graceful node shutdown (KEP-2000, KEP-2712): when the machine goes down, logind waits until pods have ended, the least important first.
//!
//! Entry points: [`parse`] (the flags), [`Delay::take`] at the start, [`run`]. Invariant: what delays the shutdown is let go once all pods had their
//! time, whether or not they used it to end. Deliberately absent: init systems other than systemd, which tell nobody.

mod bus;

use crate::agent::Agent;
use crate::events::NORMAL;
use crate::machine::conditions::TERMINATED;
use crate::machine::phase;
use crate::metrics;
use crate::pod_worker::View;
use bus::{BusError, Logind};
use k8s_openapi::api::core::v1::Pod;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The least priority of pods that the cluster cannot do without.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// Pods that ask for no grace period have this one.
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Where logind's own limit is raised, as upstream does.
const LOGIND_OVERRIDE: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";
/// Between tries to reach a bus that went away (upstream's figure), and to see a limit that was raised.
const AGAIN: Duration = Duration::from_secs(1);
const SEE_AGAIN: Duration = Duration::from_millis(100);
const SEE_TRIES: usize = 20;
const WORDS_LEN: usize = 4;

/// Pods of this priority and more have so long, up to the next group's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub priority: i32,
    pub grace: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    #[error("graceful node shutdown needs systemd's logind: {0}; without it set --shutdown-grace-period to 0")]
    Bus(#[from] BusError),
    #[error("logind's limit cannot be raised in {path}: {source}")]
    Override { path: String, source: std::io::Error },
    #[error(
        "node shutdown manager was unable to update logind InhibitDelayMaxSec to {wanted:?} (ShutdownGracePeriod), current value of InhibitDelayMaxSec ({current:?}) is less than requested ShutdownGracePeriod"
    )]
    Short { wanted: Duration, current: Duration },
}

/// `--shutdown-grace-period`, of which `critical` is for critical pods; or by priority, `PRIORITY=SECONDS` each.
pub fn parse(whole: Duration, critical: Duration, by_priority: &[(String, String)]) -> Result<Vec<Group>, String> {
    let second = Duration::from_secs(1);
    if [whole, critical].iter().any(|period| !period.is_zero() && *period < second) {
        return Err("--shutdown-grace-period and --shutdown-grace-period-critical-pods must be either zero or otherwise >= 1 sec".into());
    }
    if critical > whole {
        return Err(format!("--shutdown-grace-period {whole:?} must be >= --shutdown-grace-period-critical-pods {critical:?}"));
    }
    if by_priority.is_empty() {
        let both = [Group { priority: 0, grace: whole - critical }, Group { priority: SYSTEM_CRITICAL, grace: critical }];
        return Ok(if whole.is_zero() { Vec::new() } else { both.to_vec() });
    }
    if !whole.is_zero() {
        return Err("--shutdown-grace-period and --shutdown-grace-period-by-pod-priority cannot both be set".into());
    }
    let group = |(priority, seconds): &(String, String)| {
        let bad = || format!("--shutdown-grace-period-by-pod-priority: {priority}={seconds} is not PRIORITY=SECONDS");
        Ok(Group { priority: priority.parse().map_err(|_| bad())?, grace: Duration::from_secs(seconds.parse().map_err(|_| bad())?) })
    };
    let mut groups: Vec<Group> = by_priority.iter().map(group).collect::<Result<_, String>>()?;
    groups.sort_by_key(|group| group.priority);
    Ok(groups)
}

/// What makes logind wait.
pub struct Delay {
    logind: Logind,
    held: OwnedFd,
}

impl Delay {
    /// `None` where no pod has time to end.
    pub fn take(groups: &[Group]) -> Result<Option<Self>, ShutdownError> {
        Self::take_at(groups, &bus::system_bus(), Path::new(LOGIND_OVERRIDE))
    }

    fn take_at(groups: &[Group], bus: &Path, config: &Path) -> Result<Option<Self>, ShutdownError> {
        let wanted: Duration = groups.iter().map(|group| group.grace).sum();
        if wanted.is_zero() {
            return Ok(None);
        }
        let mut logind = Logind::connect(bus)?;
        if logind.longest_delay()? < wanted {
            raise(&mut logind, wanted, config)?;
        }
        let held = logind.inhibit()?;
        Ok(Some(Self { logind, held }))
    }
}

fn raise(logind: &mut Logind, wanted: Duration, config: &Path) -> Result<(), ShutdownError> {
    let failed = |source| ShutdownError::Override { path: config.display().to_string(), source };
    std::fs::create_dir_all(config.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
    std::fs::write(config, format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={}\n", wanted.as_secs())).map_err(failed)?;
    logind.reload()?;
    let mut current = Duration::ZERO;
    for _ in 0..SEE_TRIES {
        current = logind.longest_delay()?;
        if current >= wanted {
            return Ok(());
        }
        // Logind answers the signal to reload with nothing.
        std::thread::sleep(SEE_AGAIN);
    }
    Err(ShutdownError::Short { wanted, current })
}

/// What logind said.
enum Word {
    /// With what it waits for.
    Begins(OwnedFd),
    CalledOff,
}

/// Ends the node's pods when the machine goes down. Until `stop`.
pub async fn run(agent: Arc<Agent>, first: Option<Delay>, stop: CancellationToken) {
    let groups = agent.config.shutdown.clone();
    let Some(first) = first else { return };
    follow(agent, groups, first, stop, bus::system_bus(), LOGIND_OVERRIDE.into()).await;
}

async fn follow(agent: Arc<Agent>, groups: Vec<Group>, first: Delay, stop: CancellationToken, bus: PathBuf, config: PathBuf) {
    let mut next = Some(first);
    while !stop.is_cancelled() {
        match next.take() {
            Some(delay) => listen(&agent, &groups, delay, &stop).await,
            None => {
                tokio::select! { () = tokio::time::sleep(AGAIN) => {}, () = stop.cancelled() => return }
                let (groups, bus, config) = (groups.clone(), bus.clone(), config.clone());
                match tokio::task::spawn_blocking(move || Delay::take_at(&groups, &bus, &config)).await {
                    Ok(Ok(delay)) => next = delay,
                    Ok(Err(error)) => tracing::warn!(%error, "a shutdown of the machine would not wait for pods now, will be tried again"),
                    Err(_) => return,
                }
            }
        }
    }
}

/// Until the bus is lost.
async fn listen(agent: &Arc<Agent>, groups: &[Group], delay: Delay, stop: &CancellationToken) {
    let Ok(closer) = delay.logind.closer() else { return };
    let (tell, mut words) = mpsc::channel(WORDS_LEN);
    let heard = tokio::task::spawn_blocking(move || hear(delay, &tell));
    loop {
        let word = tokio::select! { word = words.recv() => word, () = stop.cancelled() => None };
        match word {
            Some(Word::Begins(held)) => {
                agent.events.node(&agent.config.node_name, NORMAL, "NodeShutdown", "Shutdown manager detected shutdown event");
                let _ = agent.shutting_down.send_replace(true);
                end_all(agent, groups).await;
                drop(held);
            }
            Some(Word::CalledOff) => {
                agent.events.node(&agent.config.node_name, NORMAL, "NodeShutdown", "Shutdown manager detected shutdown cancellation");
                let _ = agent.shutting_down.send_replace(false);
            }
            None => break,
        }
    }
    drop(closer);
    let _ = heard.await;
}

/// The bus's own thread.
fn hear(Delay { mut logind, held }: Delay, tell: &mpsc::Sender<Word>) {
    let mut held = Some(held);
    loop {
        let word = match logind.next() {
            Ok(true) => held.take().map(Word::Begins),
            Ok(false) => {
                // The next shutdown is to wait, too.
                if held.is_none() {
                    held = logind.inhibit().inspect_err(|error| tracing::warn!(%error, "the next shutdown would not wait for pods")).ok();
                }
                Some(Word::CalledOff)
            }
            Err(error) => {
                tracing::info!(%error, "logind is not heard any more");
                return;
            }
        };
        if let Some(word) = word
            && tell.blocking_send(word).is_err()
        {
            return;
        }
    }
}

/// Group by group, each within its time.
async fn end_all(agent: &Agent, groups: &[Group]) {
    let active: Vec<View> = agent.pods.views().into_iter().filter(|view| !view.status.phase.as_deref().is_some_and(phase::is_terminal)).collect();
    tracing::info!(pods = active.len(), "the machine goes down: pods are ended");
    let now = || jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
    metrics::SHUTDOWN_BEGAN.with([]).set(now());
    metrics::SHUTDOWN_ENDED.with([]).set(0.0);
    for (group, pods) in by_priority(groups, active.iter().map(|view| view.pod.as_ref())) {
        let end = |pod: &Pod| agent.pods.end(pod.metadata.uid.as_deref().unwrap_or_default(), TERMINATED, MESSAGE.into(), grace_of(pod, group));
        let ends = futures::future::join_all(pods.into_iter().filter_map(end));
        if tokio::time::timeout(group.grace, ends).await.is_err() {
            tracing::warn!(priority = group.priority, grace = ?group.grace, "pods did not end within the time of their group");
        }
    }
    metrics::SHUTDOWN_ENDED.with([]).set(now());
}

/// A pod's own, or its group's if that is shorter.
fn grace_of(pod: &Pod, group: Group) -> Duration {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_SECONDS);
    group.grace.min(Duration::from_secs(own.max(0) as u64))
}

/// Each group's pods; those below the lowest are with it.
fn by_priority<'a>(groups: &[Group], pods: impl Iterator<Item = &'a Pod>) -> Vec<(Group, Vec<&'a Pod>)> {
    let mut all: Vec<(Group, Vec<&Pod>)> = groups.iter().map(|group| (*group, Vec::new())).collect();
    for pod in pods {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let at = groups.iter().rposition(|group| group.priority <= priority).unwrap_or(0);
        if let Some((_, of_group)) = all.get_mut(at) {
            of_group.push(pod);
        }
    }
    all
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    const SECOND: Duration = Duration::from_secs(1);

    /// The node's side against a fake logind; the fake, and the folder with its socket.
    pub fn beside(agent: Arc<Agent>, stop: CancellationToken) -> (bus::tests::Fake, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let fake = bus::tests::fake(folder.path(), 60 * SECOND);
        let groups = parse(20 * SECOND, 10 * SECOND, &[]).expect("valid");
        let config = folder.path().join("logind.conf");
        let delay = Delay::take_at(&groups, &fake.path, &config).expect("taken").expect("pods have time");
        tokio::spawn(follow(agent, groups, delay, stop, fake.path.clone(), config));
        (fake, folder)
    }

    #[test]
    fn the_flags_make_two_groups_or_those_named() {
        assert_eq!(parse(Duration::ZERO, Duration::ZERO, &[]), Ok(Vec::new()));
        let both = parse(30 * SECOND, 10 * SECOND, &[]).expect("valid");
        assert_eq!(both, [Group { priority: 0, grace: 20 * SECOND }, Group { priority: SYSTEM_CRITICAL, grace: 10 * SECOND }]);
        let named = [("100".to_string(), "5".to_string()), ("0".to_string(), "7".to_string())];
        assert_eq!(parse(Duration::ZERO, Duration::ZERO, &named).expect("valid")[0], Group { priority: 0, grace: 7 * SECOND });
        parse(10 * SECOND, 30 * SECOND, &[]).expect_err("more for critical ones than in all");
        parse(SECOND / 2, Duration::ZERO, &[]).expect_err("less than a second");
        parse(SECOND, Duration::ZERO, &named).expect_err("both");
    }

    #[test]
    fn pods_belong_to_the_highest_group_they_reach() {
        let pod = |name: &str, priority: i32| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"containers": [], "priority": priority, "terminationGracePeriodSeconds": 3}})).expect("a pod")
        };
        let pods = [pod("low", -5), pod("plain", 0), pod("critical", SYSTEM_CRITICAL + 1000)];
        let groups = parse(30 * SECOND, 10 * SECOND, &[]).expect("valid");
        let names: Vec<Vec<_>> = by_priority(&groups, pods.iter()).into_iter().map(|(_, pods)| pods.into_iter().filter_map(|pod| pod.metadata.name.clone()).collect()).collect();
        assert_eq!(names, [vec!["low", "plain"], vec!["critical"]]);
        assert_eq!((grace_of(&pods[0], groups[0]), grace_of(&pods[0], Group { grace: SECOND, ..groups[0] })), (3 * SECOND, SECOND));
    }

    #[test]
    fn a_limit_of_logind_that_cannot_be_raised_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let fake = bus::tests::fake(folder.path(), SECOND);
        let groups = parse(20 * SECOND, 10 * SECOND, &[]).expect("valid");
        let config = folder.path().join("conf.d/99-kubelet.conf");
        let refused = Delay::take_at(&groups, &fake.path, &config).err().expect("one second is too short");
        assert!(matches!(refused, ShutdownError::Short { current: SECOND, .. }), "{refused}");
        assert!(std::fs::read_to_string(config).expect("written").contains("InhibitDelayMaxSec=20"));
    }
}
