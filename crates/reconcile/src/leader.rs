//! Leader election by a Lease: of several processes one leads, and stops before another may start.
//!
//! Off in the one-process server. A leader that ends in order gives the lease back, so that the next need not wait. Invariant: a leader that cannot renew stops leading after `renew_deadline`, which is shorter than
//! `lease_duration`, so two never lead at once as far as clocks run equally fast. Times in the lease are compared by change, not by value.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use keles_observe::metrics::{Collect, CounterVec, GaugeVec, alpha, register};
use kube::api::{Api, PostParams};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Who stands for which lease, and how patient everyone is.
#[derive(Clone, Debug)]
pub struct Election {
    pub namespace: String,
    pub name: String,
    pub identity: String,
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl Election {
    /// Upstream's times.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Election {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

static MASTER: GaugeVec<1> = GaugeVec::new(alpha("leader_election_master_status", "Whether this process holds the lease of a name: 1 for yes, 0 for no."), ["name"]);
static FAILURES: CounterVec<1> = CounterVec::new(alpha("leader_election_slowpath_total", "Tries to renew the lease of a name that took reading it anew."), ["name"]);
static FAMILIES: &[&dyn Collect] = &[&MASTER, &FAILURES];

/// That this process leads.
pub struct Leadership {
    leading: CancellationToken,
    keeper: JoinHandle<Candidate>,
}

impl Leadership {
    /// Cancelled when it leads no longer, or at shutdown.
    pub fn token(&self) -> CancellationToken {
        self.leading.clone()
    }
    /// Gives the lease back, once all work is done: another may lead at once.
    pub async fn resign(self) {
        self.leading.cancel();
        let Ok(mut candidate) = self.keeper.await else { return };
        if let Err(error) = candidate.release().await {
            tracing::warn!(lease = candidate.election.name, %error, "the lease could not be given back; others wait until it is over");
        }
    }
}

/// Waits until this process leads; `None` means shutdown came first.
pub async fn lead(client: kube::Client, election: Election, shutdown: CancellationToken) -> Option<Leadership> {
    register(FAMILIES);
    MASTER.with([&election.name]).set(0.0);
    let leading = shutdown.child_token();
    let mut candidate = Candidate { leases: Api::namespaced(client, &election.namespace), election, observed: None };
    let acquired = async {
        while !candidate.try_hold().await {
            tokio::time::sleep(candidate.election.retry_period).await;
        }
    };
    shutdown.run_until_cancelled(acquired).await?;
    tracing::info!(lease = candidate.election.name, identity = candidate.election.identity, "leading");
    MASTER.with([&candidate.election.name]).set(1.0);
    let token = leading.clone();
    let keeper = tokio::spawn(async move {
        token.run_until_cancelled(candidate.keep()).await;
        MASTER.with([&candidate.election.name]).set(0.0);
        token.cancel();
        candidate
    });
    Some(Leadership { leading, keeper })
}

struct Candidate {
    leases: Api<Lease>,
    election: Election,
    /// The holder's last renewal as written, and when we first saw it.
    observed: Option<(LeaseSpec, Instant)>,
}

impl Candidate {
    /// Renews until that fails for too long.
    async fn keep(&mut self) {
        let mut until = Instant::now() + self.election.renew_deadline;
        // A server that does not answer at all must not keep a leader leading.
        while let Ok(held) = tokio::time::timeout_at(until, self.try_again()).await {
            if held {
                until = Instant::now() + self.election.renew_deadline;
            }
        }
        tracing::warn!(lease = self.election.name, "could not renew the lease, leading no longer");
    }
    /// Empties the lease, if it is still ours. Upstream leaves it for a second, too short to matter.
    async fn release(&mut self) -> kube::Result<()> {
        const RELEASED_SECONDS: i32 = 1;
        let Some(mut lease) = self.leases.get_opt(&self.election.name).await? else { return Ok(()) };
        let spec = lease.spec.take().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.election.identity) {
            return Ok(());
        }
        let now = MicroTime(Timestamp::now());
        lease.spec = Some(LeaseSpec { holder_identity: None, lease_duration_seconds: Some(RELEASED_SECONDS), acquire_time: Some(now.clone()), renew_time: Some(now), ..spec });
        self.leases.replace(&self.election.name, &PostParams::default(), &lease).await.map(drop)
    }
    async fn try_again(&mut self) -> bool {
        tokio::time::sleep(self.election.retry_period).await;
        self.try_hold().await
    }
    async fn try_hold(&mut self) -> bool {
        match self.hold().await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(lease = self.election.name, %error, "the lease could not be read or written");
                false
            }
        }
    }
    async fn hold(&mut self) -> kube::Result<bool> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.leases.get_opt(&self.election.name).await? else {
            let metadata = ObjectMeta { name: Some(self.election.name.clone()), namespace: Some(self.election.namespace.clone()), ..Default::default() };
            let lease = Lease { metadata, spec: Some(held_by(&self.election, None, now)) };
            return self.leases.create(&PostParams::default(), &lease).await.map(|_| true);
        };
        let spec = lease.spec.take().unwrap_or_default();
        if self.observed.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.observed = Some((spec.clone(), Instant::now()));
        }
        let since = self.observed.as_ref().map_or(Duration::ZERO, |(_, at)| at.elapsed());
        if !may_take(&spec, &self.election, since) {
            return Ok(false);
        }
        lease.spec = Some(held_by(&self.election, Some(spec), now));
        self.leases.replace(&self.election.name, &PostParams::default(), &lease).await.map(|_| true)
    }
}

/// Whether the lease is ours, free, or not renewed for as long as its holder promised.
fn may_take(spec: &LeaseSpec, election: &Election, unchanged_for: Duration) -> bool {
    let holder = spec.holder_identity.as_deref().unwrap_or("");
    let promised = spec.lease_duration_seconds.map_or(election.lease_duration, |s| Duration::from_secs(s.max(0) as u64));
    holder.is_empty() || holder == election.identity || unchanged_for >= promised
}

fn held_by(election: &Election, before: Option<LeaseSpec>, now: MicroTime) -> LeaseSpec {
    let is_new = before.is_none();
    let before = before.unwrap_or_default();
    let mine = before.holder_identity.as_deref() == Some(&election.identity);
    let transitions = before.lease_transitions.unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(election.identity.clone()),
        lease_duration_seconds: Some(election.lease_duration.as_secs() as i32),
        acquire_time: before.acquire_time.filter(|_| mine).or(Some(now.clone())),
        renew_time: Some(now),
        lease_transitions: Some(if mine || is_new { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str) -> LeaseSpec {
        LeaseSpec { holder_identity: Some(holder.into()), lease_duration_seconds: Some(15), ..Default::default() }
    }

    #[test]
    fn a_lease_is_taken_only_when_free_ours_or_expired() {
        let election = Election::new("kube-system", "kube-scheduler", "me");
        for (spec, seconds, expected) in [(spec(""), 0, true), (spec("me"), 0, true), (spec("other"), 14, false), (spec("other"), 15, true)] {
            assert_eq!(may_take(&spec, &election, Duration::from_secs(seconds)), expected, "{spec:?} after {seconds}");
        }
    }

    #[test]
    fn taking_over_counts_a_transition_and_renewing_does_not() {
        let election = Election::new("kube-system", "l", "me");
        let now = MicroTime(Timestamp::now());
        let taken = held_by(&election, Some(spec("other")), now.clone());
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(held_by(&election, Some(taken), now.clone()).lease_transitions, Some(1));
        assert_eq!(held_by(&election, None, now.clone()).lease_transitions, Some(0), "a new lease");
        let given_back = LeaseSpec { holder_identity: None, lease_transitions: Some(3), ..Default::default() };
        assert_eq!(held_by(&election, Some(given_back), now).lease_transitions, Some(4));
    }
}
