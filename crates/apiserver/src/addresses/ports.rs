//! Node ports between servers on one store: while a Service is written, the ports it gets anew are claimed in the store.
//!
//! Who claims a port, and waits until the caches have seen the claim, sees every Service whose writer let the same claim go before: it had
//! been stored by then. So of two servers that give one port at a time one finds the claim taken, or the port with a Service. A claim is let go
//! when the write has ended; those of a server that dies end by themselves. The one server of a store of its own has all that in memory.

use keles_api::Status;
use keles_registry::claims::ClaimError;
use keles_registry::{Attributes, Registry, store_error};
use std::time::Duration;

const AREA: &str = "ranges/servicenodeports";
/// Longer than any write takes.
const LIFE: Duration = Duration::from_secs(120);
/// What a note of a claim begins with among those of what a write took.
const NOTE: &str = "nodeport/";

/// Why a port cannot be claimed.
pub enum Unclaimed {
    /// By another Service, which is being written.
    By {
        port: u16,
    },
    Failed(Status),
}

/// Claims what `service` gets anew, and waits until the caches have seen all that was written before.
pub async fn claim(a: &Attributes<'_>, ports: &[u16], service: &str) -> Result<(), Unclaimed> {
    if a.request.dry_run {
        return Ok(());
    }
    let mut seen = 0;
    for &port in ports {
        if a.taken.any(|note| noted(note).is_some_and(|(p, _)| p == port.to_string())) {
            continue;
        }
        let name = port.to_string();
        // The claim of another try to write the same Service.
        let mut theirs = None;
        seen = loop {
            let claimed = match theirs {
                None => a.registry.claim(AREA, &name, service.to_owned().into(), Some(LIFE)).await,
                Some(revision) => a.registry.renew(AREA, &name, service.to_owned().into(), revision, Some(LIFE)).await,
            };
            match claimed {
                Ok(revision) => {
                    // One that two tries rest on is for neither to let go: it ends by itself.
                    if theirs.is_none() {
                        a.taken.note(format!("{NOTE}{port}/{revision}"));
                    }
                    break revision;
                }
                Err(ClaimError::Taken(Some(c))) if c.holder == service.as_bytes() => theirs = Some(c.revision),
                Err(ClaimError::Taken(None)) if theirs.is_some() => theirs = None,
                Err(ClaimError::Taken(_)) => return Err(Unclaimed::By { port }),
                Err(ClaimError::Store(e)) => return Err(Unclaimed::Failed(store_error(e))),
            }
        };
    }
    a.registry.fresh(Some(seen)).await.map_err(Unclaimed::Failed)
}

/// Lets a claim go, if the note is one of a claim.
pub async fn release(registry: &Registry, note: &str) -> bool {
    let Some((port, revision)) = noted(note) else { return false };
    if let Err(error) = registry.release(AREA, port, revision).await {
        tracing::warn!(%error, port, "a node port's claim was not let go; it ends by itself");
    }
    true
}

fn noted(note: &str) -> Option<(&str, u64)> {
    let (port, revision) = note.strip_prefix(NOTE)?.split_once('/')?;
    Some((port, revision.parse().ok()?))
}
