//! ServiceCIDRs are ready once a finalizer protects them, and go only when no Service would be left with an address of no range (KEP-1880).

use crate::Start;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use keles_client::{Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use kube::api::Patch;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Whose addresses hold a range back.
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// So long every API server has to hear that a range is being deleted, before it is gone.
const GRACE_SECONDS: i64 = 10;
const READY: &str = "Kubernetes Service CIDR is ready";
const BLOCKED: &str = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

pub struct ServiceCidrController {
    ranges: Writer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

impl ServiceCidrController {
    pub fn new(start: &Start) -> Self {
        ServiceCidrController { ranges: start.writer(), addresses: start.informers.of() }
    }
}

/// What a range needs.
#[derive(Debug, PartialEq)]
enum Step {
    Protect,
    SayReady,
    SayBlocked,
    /// Seconds until it may go.
    Wait(u64),
    Release,
    Nothing,
}

impl Controller for ServiceCidrController {
    const NAME: &'static str = NAME;
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        // A range that comes or goes can free others, and so can an address: all that overlap are looked at.
        let ranges = self.ranges.informer().clone();
        watches.on(self.ranges.informer(), move |change, queue| {
            let own = blocks(change.object());
            queue.add(ObjectKey::of(change.object().as_ref()));
            ranges.list().iter().filter(|r| blocks(r).iter().any(|b| own.iter().any(|o| o.holds(b) || b.holds(o)))).for_each(|r| queue.add(ObjectKey::of(r.as_ref())));
        });
        let ranges = self.ranges.informer().clone();
        watches.on(&self.addresses, move |change, queue| {
            let Some(ip) = address(change.object()) else { return };
            ranges.list().iter().filter(|r| r.metadata.deletion_timestamp.is_some() && has(r, ip)).for_each(|r| queue.add(ObjectKey::of(r.as_ref())));
        });
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let Some(range) = self.ranges.informer().get_key(key) else { return Ok(Outcome::Done) };
        let step = decide(&range, &self.ranges.informer().list(), &self.addresses.list(), jiff::Timestamp::now().as_second());
        match step {
            Step::Nothing => {}
            Step::Wait(seconds) => return Ok(Outcome::After(Duration::from_secs(seconds))),
            Step::Protect => {
                self.ranges.patch(key, &Patch::Strategic(json!({"metadata": {"finalizers": [FINALIZER]}}))).await?;
                self.say(key, "True", "", READY).await?;
            }
            Step::SayReady => self.say(key, "True", "", READY).await?,
            Step::SayBlocked => self.say(key, "False", "Terminating", BLOCKED).await?,
            Step::Release => {
                self.ranges.patch(key, &Patch::Strategic(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}}))).await?;
            }
        }
        Ok(Outcome::Done)
    }
}

impl ServiceCidrController {
    async fn say(&self, key: &ObjectKey, status: &str, reason: &str, message: &str) -> Result<(), ReconcileError> {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": key.name}, "status": {"conditions": [condition]}});
        self.ranges.apply_status(key, NAME, object).await?;
        Ok(())
    }
}

fn decide(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>], now_seconds: i64) -> Step {
    let protected = range.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        return match (protected, says(range, "True", READY)) {
            (false, _) => Step::Protect,
            (true, false) => Step::SayReady,
            (true, true) => Step::Nothing,
        };
    };
    if !protected {
        return Step::Nothing;
    }
    if !may_go(range, all, addresses) {
        return if says(range, "False", BLOCKED) { Step::Nothing } else { Step::SayBlocked };
    }
    match deleted.0.as_second() + GRACE_SECONDS - now_seconds {
        left @ 1.. => Step::Wait(left as u64),
        _ => Step::Release,
    }
}

/// Whether the condition is there already. The default range is ready in the API server's words too.
fn says(range: &ServiceCIDR, status: &str, message: &str) -> bool {
    let all = range.status.iter().flat_map(|s| s.conditions.iter().flatten());
    all.into_iter().any(|c| c.type_ == "Ready" && c.status == status && c.message == message)
}

/// Other ranges that stay hold all of it, or at least every address that was given out of it.
fn may_go(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>]) -> bool {
    let others: Vec<Block> = all.iter().filter(|o| o.metadata.name != range.metadata.name && o.metadata.deletion_timestamp.is_none()).flat_map(|o| blocks(o)).collect();
    if blocks(range).iter().all(|b| others.iter().any(|o| o.holds(b))) {
        return true;
    }
    let orphan = |ip: IpAddr| has(range, ip) && !others.iter().any(|b| b.contains(ip));
    !addresses.iter().filter_map(|a| address(a)).any(orphan)
}

fn has(range: &ServiceCIDR, ip: IpAddr) -> bool {
    blocks(range).iter().any(|b| b.contains(ip))
}

/// The address of an IPAddress that the API server's allocator gave out.
fn address(o: &IPAddress) -> Option<IpAddr> {
    let ours = o.metadata.labels.as_ref()?.get(MANAGED_BY).is_some_and(|by| by == ALLOCATOR);
    o.metadata.name.as_ref().filter(|_| ours)?.parse().ok()
}

/// A block of addresses, as the 128-bit numbers of its first and last.
#[derive(Clone, Copy)]
struct Block {
    first: u128,
    last: u128,
    v4: bool,
}

impl Block {
    fn parse(text: &str) -> Option<Block> {
        let (base, bits) = text.split_once('/')?;
        let (base, bits): (IpAddr, u32) = (base.parse().ok()?, bits.parse().ok()?);
        let width = if base.is_ipv4() { 32u32 } else { 128 };
        let mask = 1u128.checked_shl(width.checked_sub(bits)?).map_or(u128::MAX, |n| n - 1);
        Some(Block { first: number(base) & !mask, last: number(base) | mask, v4: base.is_ipv4() })
    }
    fn holds(&self, other: &Block) -> bool {
        self.v4 == other.v4 && self.first <= other.first && other.last <= self.last
    }
    /// One that may be given out of it: not the first, nor of IPv4 the last.
    fn contains(&self, ip: IpAddr) -> bool {
        let n = number(ip);
        self.v4 == ip.is_ipv4() && self.first < n && if self.v4 { n < self.last } else { n <= self.last }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v) => u128::from(u32::from(v)),
        IpAddr::V6(v) => u128::from(v),
    }
}

fn blocks(range: &ServiceCIDR) -> Vec<Block> {
    range.spec.iter().flat_map(|s| s.cidrs.iter().flatten()).filter_map(|c| Block::parse(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::networking::v1::ServiceCIDRSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn range(name: &str, cidrs: &[&str]) -> ServiceCIDR {
        let mut r = ServiceCIDR { spec: Some(ServiceCIDRSpec { cidrs: Some(cidrs.iter().map(|c| (*c).to_owned()).collect()) }), ..Default::default() };
        r.metadata.name = Some(name.into());
        r.metadata.finalizers = Some(vec![FINALIZER.into()]);
        r
    }
    fn going(r: &ServiceCIDR, since: i64) -> ServiceCIDR {
        let mut r = r.clone();
        r.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::from_second(since).unwrap()));
        r
    }
    fn ip(name: &str) -> Arc<IPAddress> {
        let mut o = IPAddress::default();
        o.metadata.name = Some(name.into());
        o.metadata.labels = Some([(MANAGED_BY.to_owned(), ALLOCATOR.to_owned())].into());
        Arc::new(o)
    }

    #[test]
    fn a_range_is_protected_then_ready() {
        let mut fresh = range("a", &["10.0.0.0/24"]);
        assert_eq!(decide(&fresh, &[], &[], 0), Step::SayReady);
        fresh.metadata.finalizers = None;
        assert_eq!(decide(&fresh, &[], &[], 0), Step::Protect);
    }

    #[test]
    fn a_range_goes_when_no_address_is_left_alone() {
        let a = going(&range("a", &["10.0.0.0/24"]), 100);
        let all = |others: &[ServiceCIDR]| others.iter().chain([&a]).cloned().map(Arc::new).collect::<Vec<_>>();
        assert_eq!(decide(&a, &all(&[]), &[ip("10.0.0.9")], 200), Step::SayBlocked);
        assert_eq!(decide(&a, &all(&[]), &[ip("10.0.1.9")], 200), Step::Release);
        assert_eq!(decide(&a, &all(&[]), &[], 103), Step::Wait(7), "every server hears of it first");
        assert_eq!(decide(&a, &all(&[range("b", &["10.0.0.0/16"])]), &[ip("10.0.0.9")], 200), Step::Release, "another holds all of it");
        assert_eq!(decide(&a, &all(&[range("b", &["10.0.0.0/28"])]), &[ip("10.0.0.9")], 200), Step::Release, "another holds what is taken");
        assert_eq!(decide(&a, &all(&[range("b", &["10.0.0.0/28"])]), &[ip("10.0.0.99")], 200), Step::SayBlocked);
        assert_eq!(decide(&a, &all(&[going(&range("b", &["10.0.0.0/16"]), 100)]), &[ip("10.0.0.9")], 200), Step::SayBlocked, "one that goes too holds nothing");
    }
}
