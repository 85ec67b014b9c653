//! Claims: notes beside the objects, by which servers on one store agree on what no object says (yet).
//!
//! Entry points are methods of [`Registry`]. A claim is a key that one server made and others find taken; one with a life ends with its server.
//! They lie at `/registry/AREA/NAME`, are no objects and are not served. Claims are in the order of everything else in the store: who takes one
//! after another let it go, and waits until the caches have seen that, sees what the other wrote meanwhile.

use crate::Registry;
use bytes::Bytes;
use keles_store::{Entry, Expect, StoreError, Write};
use std::time::Duration;

/// One that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub name: String,
    pub holder: Bytes,
    pub revision: u64,
}

/// Why it cannot be had.
#[derive(Debug)]
pub enum ClaimError {
    /// Somebody else has it, or had it until now.
    Taken(Option<Claim>),
    Store(StoreError),
}

impl Registry {
    /// Whether other servers may be at work on the same store.
    pub fn is_shared(&self) -> bool {
        self.store().is_shared()
    }

    /// Takes what nobody has; at which revision. Without a `life` until it is released.
    pub async fn claim(&self, area: &str, name: &str, holder: Bytes, life: Option<Duration>) -> Result<u64, ClaimError> {
        self.write_claim(area, name, holder, Expect::Absent, life).await
    }

    /// Writes a claim anew that was taken or written at `revision`: its life begins again.
    pub async fn renew(&self, area: &str, name: &str, holder: Bytes, revision: u64, life: Option<Duration>) -> Result<u64, ClaimError> {
        self.write_claim(area, name, holder, Expect::Revision(revision), life).await
    }

    async fn write_claim(&self, area: &str, name: &str, value: Bytes, expect: Expect, ttl: Option<Duration>) -> Result<u64, ClaimError> {
        let at = prefix(area).len();
        match self.store().write(Write::Put { key: key(area, name), value, expect, ttl }).await {
            Ok(revision) => Ok(revision),
            Err(StoreError::Conflict { current }) => Err(ClaimError::Taken(current.and_then(|e| claim(e, at)))),
            Err(e) => Err(ClaimError::Store(e)),
        }
    }

    /// Lets go what was taken or written at `revision`; nothing happens when that is over.
    pub async fn release(&self, area: &str, name: &str, revision: u64) -> Result<(), StoreError> {
        match self.store().write(Write::Delete { key: key(area, name), expect: revision }).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// All that stand now.
    pub async fn claims(&self, area: &str) -> Result<Vec<Claim>, StoreError> {
        let prefix = prefix(area);
        let page = self.store().range(prefix.as_bytes(), None, 0, None).await?;
        Ok(page.entries.into_iter().filter_map(|e| claim(e, prefix.len())).collect())
    }
}

fn prefix(area: &str) -> String {
    format!("{}{area}/", crate::registry::PREFIX)
}

fn key(area: &str, name: &str) -> Bytes {
    (prefix(area) + name).into()
}

fn claim(e: Entry, at: usize) -> Option<Claim> {
    Some(Claim { name: std::str::from_utf8(e.key.get(at..)?).ok()?.to_owned(), holder: e.value, revision: e.modified })
}
