//! Times to live: a lease for all keys of one time to live that are written within a while, since etcd pays for leases, not for keys.
//!
//! A lease lasts longer than what it is for by a share of it, in which further keys take it; so keys go a little late and never early. The numbers are
//! upstream's (`--lease-reuse-duration-seconds`, at most a thousand keys a lease, so that the end of one is no stall of the store).

use super::Shared;
use super::client::Failed;
use super::messages::{LEASE_GRANT, LeaseGrantRequest, LeaseGrantResponse};
use keles_grpc::{Code, Status};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// A lease is taken by others for this share of the time to live, and not longer than a minute.
const REUSE_SHARE: u64 = 20;
const REUSE_SECONDS_MAX: u64 = 60;
const KEYS_MAX: usize = 1000;
/// Times to live that are remembered; there is one in use, the Events'.
const TIMES_MAX: usize = 16;
/// For those who ask etcd for a lease before us: not all wait in turn when it hangs.
const WAIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: i64,
    /// When it ends, at the earliest.
    ends: Instant,
    keys: usize,
}

/// The leases that may be taken, by their time to live in seconds.
#[derive(Default)]
pub struct Leases {
    open: tokio::sync::Mutex<HashMap<u64, Lease>>,
}

impl Leases {
    /// A lease for one more key that lives this long.
    pub async fn take(&self, shared: &Shared, ttl: Duration) -> Result<i64, Failed> {
        let seconds = seconds(ttl);
        let late = |_| Failed::Away(Status::new(Code::DeadlineExceeded, "no lease in time: others wait for one too"));
        let mut open = tokio::time::timeout(WAIT, self.open.lock()).await.map_err(late)?;
        let now = Instant::now();
        if let Some(lease) = open.get_mut(&seconds).filter(|l| fits(l, now, seconds)) {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let asked = seconds + (seconds / REUSE_SHARE).min(REUSE_SECONDS_MAX);
        let granted: LeaseGrantResponse = shared.members.write(LEASE_GRANT, &LeaseGrantRequest { ttl_seconds: asked as i64, id: 0 }).await?;
        if !granted.error.is_empty() || granted.id == 0 {
            return Err(Failed::Refused(Status::new(Code::Unknown, granted.error)));
        }
        open.retain(|_, l| l.ends > now);
        if open.len() < TIMES_MAX {
            open.insert(seconds, Lease { id: granted.id, ends: now + Duration::from_secs(granted.ttl_seconds.max(0) as u64), keys: 1 });
        }
        Ok(granted.id)
    }

    /// No more keys for a lease that the store does not know.
    pub async fn forget(&self, id: i64) {
        self.open.lock().await.retain(|_, l| l.id != id);
    }
}

/// etcd counts seconds.
fn seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1)
}

fn fits(lease: &Lease, now: Instant, seconds: u64) -> bool {
    lease.keys < KEYS_MAX && now + Duration::from_secs(seconds) <= lease.ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_while_it_lasts_as_long_as_the_key_and_has_room() {
        let lease = Lease { id: 1, ends: Instant::now() + Duration::from_secs(3660), keys: 1 };
        assert!(fits(&lease, Instant::now(), 3600));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(fits(&lease, Instant::now(), 3600));
        assert!(!fits(&Lease { keys: KEYS_MAX, ..lease }, Instant::now(), 3600));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!fits(&lease, Instant::now(), 3600), "the key would go too early");
        assert_eq!((seconds(Duration::from_millis(100)), seconds(Duration::from_millis(1001)), seconds(Duration::from_secs(7))), (1, 2, 7));
    }
}
