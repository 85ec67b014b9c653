//! Calls of a cluster: whoever of its members answers, and what a refusal means.
//!
//! A read is asked of one member after the other until one answers. A write is sent once: when its answer does not come it may have been
//! done or not, which only who asked can find out; before it is sent a member that can be connected to is looked for.

use super::Shared;
use crate::{Revision, StoreError};
use keles_grpc::{Channel, Code, Settings, Status};
use prost::Message;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a member may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// etcd ends connections that ping more often than every 5 s.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));
/// An answer holds a page of values (see [`super::read`]), of which one may have 3 MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// A member that is cut off from the others says so at once, and does not let a watch starve (etcd's `WithRequireLeader`).
const METADATA: &[(&str, &str)] = &[("hasleader", "true")];

/// The members, of which one is called.
pub struct Members {
    all: Vec<Channel>,
    chosen: AtomicUsize,
}

/// Why a call failed.
#[derive(Debug)]
pub enum Failed {
    /// Nobody answered, or it could not be served now.
    Away(Status),
    Refused(Status),
}

impl Members {
    pub fn new(all: Vec<Channel>) -> Members {
        let settings = Settings { connect_timeout: CONNECT, ping: Some(PING), message_bytes_max: ANSWER_BYTES_MAX, metadata: METADATA, ..Settings::default() };
        Members { all: all.iter().map(|c| c.with(settings.clone())).collect(), chosen: AtomicUsize::new(0) }
    }

    pub fn names(&self) -> String {
        self.all.iter().map(|c| c.peer().to_string()).collect::<Vec<_>>().join(",")
    }

    pub async fn read<Q: Message, A: Message + Default>(&self, method: &str, request: &Q) -> Result<A, Failed> {
        self.read_within(method, request, ANSWER).await
    }

    pub async fn read_within<Q: Message, A: Message + Default>(&self, method: &str, request: &Q, limit: Duration) -> Result<A, Failed> {
        let mut last: Option<Status> = None;
        // Once more than there are members: the first may have come back, and its old connection be what failed.
        for n in 0..=self.all.len() {
            if n == self.all.len() && last.as_ref().is_some_and(|s| s.code == Code::DeadlineExceeded) {
                break;
            }
            let (at, member) = self.chosen();
            match member.unary(method, request, limit).await {
                Ok(answer) => return Ok(answer),
                Err(status) if is_away(&status) => {
                    self.turn_from(at);
                    last = Some(status);
                }
                Err(status) => return Err(Failed::Refused(status)),
            }
        }
        Err(Failed::Away(last.unwrap_or_else(nobody)))
    }

    pub async fn write<Q: Message, A: Message + Default>(&self, method: &str, request: &Q) -> Result<A, Failed> {
        let (at, member) = self.connected().await.map_err(Failed::Away)?;
        member.unary(method, request, ANSWER).await.map_err(|status| {
            if is_away(&status) {
                self.turn_from(at);
                Failed::Away(status)
            } else {
                Failed::Refused(status)
            }
        })
    }

    /// A member that a connection stands to.
    async fn connected(&self) -> Result<(usize, &Channel), Status> {
        let mut last = None;
        for _ in &self.all {
            let (at, member) = self.chosen();
            match member.ready().await {
                Ok(()) => return Ok((at, member)),
                Err(status) => {
                    self.turn_from(at);
                    last = Some(status);
                }
            }
        }
        Err(last.unwrap_or_else(nobody))
    }

    /// The member that is called now, over a connection of its own: what a slow watcher does not read must not stand in the way of others.
    pub fn apart(&self) -> (usize, Channel) {
        let (at, member) = self.chosen();
        (at, member.with(member.settings().clone()))
    }

    fn chosen(&self) -> (usize, &Channel) {
        let at = self.chosen.load(Ordering::Relaxed) % self.all.len();
        (at, &self.all[at])
    }

    /// Calls the next one from now on, unless somebody turned already.
    pub fn turn_from(&self, at: usize) {
        let _ = self.chosen.compare_exchange(at, (at + 1) % self.all.len(), Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn nobody() -> Status {
    Status::new(Code::Unavailable, "no endpoint is known")
}

/// Whether another member, or the same one later, may answer. etcd says `Unavailable` of everything that an election or a partition causes.
fn is_away(status: &Status) -> bool {
    matches!(status.code, Code::Unavailable | Code::DeadlineExceeded | Code::Canceled)
}

/// What a refusal is, by the words of etcd (api/v3rpc/rpctypes), which are part of its interface.
pub enum Refusal {
    Compacted,
    Future,
    TooLarge,
    NoSpace,
    NoLease,
    Other,
}

impl Refusal {
    pub fn of(status: &Status) -> Refusal {
        let says = |what: &str| status.message.contains(what);
        match status.code {
            Code::OutOfRange if says("required revision has been compacted") => Refusal::Compacted,
            Code::OutOfRange if says("required revision is a future revision") => Refusal::Future,
            Code::InvalidArgument if says("request is too large") => Refusal::TooLarge,
            // gRPC's own limit, which etcd sets half a MiB above the other.
            Code::ResourceExhausted if says("message larger than max") => Refusal::TooLarge,
            Code::ResourceExhausted if says("database space exceeded") => Refusal::NoSpace,
            Code::NotFound if says("requested lease not found") => Refusal::NoLease,
            _ => Refusal::Other,
        }
    }
}

impl Shared {
    /// The store's error where nothing more is to be known of the failure.
    pub fn failed(&self, failed: Failed) -> StoreError {
        let store = self.name();
        match failed {
            Failed::Away(status) => StoreError::Unavailable { store, why: status.message },
            Failed::Refused(status) => match Refusal::of(&status) {
                Refusal::NoSpace => StoreError::NoSpace { store },
                _ => StoreError::Refused { store, why: status.message },
            },
        }
    }

    /// The same of what was asked at a revision.
    pub async fn failed_at(&self, asked: Revision, failed: Failed) -> StoreError {
        if let Failed::Refused(status) = &failed {
            match Refusal::of(status) {
                Refusal::Compacted => return self.oldest(asked).await.map_or_else(|e| e, |oldest| StoreError::Compacted { asked, oldest }),
                Refusal::Future => return self.present().await.map_or_else(|e| e, |current| StoreError::Future { asked, current }),
                _ => {}
            }
        }
        self.failed(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_known_by_code_and_words() {
        let of = |code, message: &str| Refusal::of(&Status::new(code, message));
        assert!(matches!(of(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"), Refusal::Compacted));
        assert!(matches!(of(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"), Refusal::Future));
        assert!(matches!(of(Code::InvalidArgument, "etcdserver: request is too large"), Refusal::TooLarge));
        assert!(matches!(of(Code::ResourceExhausted, "grpc: received message larger than max (2 vs. 1)"), Refusal::TooLarge));
        assert!(matches!(of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), Refusal::NoSpace));
        assert!(matches!(of(Code::NotFound, "etcdserver: requested lease not found"), Refusal::NoLease));
        assert!(matches!(of(Code::PermissionDenied, "etcdserver: permission denied"), Refusal::Other));
        assert!(is_away(&Status::new(Code::Unavailable, "etcdserver: no leader")) && !is_away(&Status::new(Code::Internal, "x")));
    }
}
