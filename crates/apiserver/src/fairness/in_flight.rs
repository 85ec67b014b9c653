//! Plain limits (`--enable-priority-and-fairness=false`): so many requests at once, those that write apart from those that read.

use crate::lifecycle::Options;
use keles_auth::{MASTERS, User};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub type Slot = OwnedSemaphorePermit;

/// How long a refused client is asked to stay away.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Absent: no limit.
pub struct InFlight {
    reading: Option<Arc<Semaphore>>,
    writing: Option<Arc<Semaphore>>,
}

impl InFlight {
    pub fn new(o: &Options) -> InFlight {
        let limit = |n: u32| (n > 0).then(|| Arc::new(Semaphore::new(n as usize)));
        InFlight { reading: limit(o.max_requests_in_flight), writing: limit(o.max_mutating_requests_in_flight) }
    }

    /// Administrators always get in: they must be able to find out what is wrong.
    pub fn enter(&self, verb: &str, user: &User) -> Result<Option<Slot>, u64> {
        let reads = matches!(verb, "get" | "list" | "watch");
        let Some(limit) = (if reads { &self.reading } else { &self.writing }) else { return Ok(None) };
        match limit.clone().try_acquire_owned() {
            Ok(slot) => Ok(Some(slot)),
            Err(_) if user.groups.iter().any(|g| g == MASTERS) => Ok(None),
            Err(_) => Err(RETRY_AFTER_SECONDS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_have_limits_of_their_own_and_administrators_none() {
        let l = InFlight::new(&Options { max_requests_in_flight: 2, max_mutating_requests_in_flight: 1, ..Options::default() });
        let (user, admin) = (keles_auth::user("a", &[]), keles_auth::user("root", &[MASTERS]));
        let held = [l.enter("get", &user), l.enter("list", &user)];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(l.enter("get", &user).err(), Some(1));
        assert!(l.enter("get", &admin).is_ok());
        let writing = l.enter("create", &user);
        assert!(writing.is_ok());
        assert_eq!(l.enter("patch", &user).err(), Some(1));
        drop(writing);
        assert!(l.enter("patch", &user).is_ok());
        let none = InFlight::new(&Options { max_requests_in_flight: 0, ..Options::default() });
        assert!(none.enter("get", &user).unwrap().is_none(), "0 is no limit");
    }
}
