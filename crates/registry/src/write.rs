//! The last step of every write: encode, store, and what the store's refusals mean to a client.

use crate::cache::Cached;
use crate::call::Body;
use crate::encode;
use crate::exchange::Exchange;
use crate::metrics;
use bytes::Bytes;
use keles_api::{Object, Status, depth};
use keles_observe::trace;
use keles_store::{Entry, Expect, StoreError, Write};
use std::sync::Arc;
use std::time::Instant;

/// What a write left behind.
pub enum Outcome {
    /// Nothing had to change.
    Same(Arc<Cached>),
    /// Stored bytes at a revision (that of the old state, or 0, when nothing was stored: dry runs).
    Wrote(Bytes, u64),
}

/// A failed attempt: somebody was faster, or it cannot be done.
pub enum Refused {
    /// What is there now.
    Conflict(Option<Entry>),
    Failed(Status),
}

/// The answer to a failure of the store.
pub fn store_error(e: StoreError) -> Status {
    match e {
        StoreError::Compacted { .. } => Status::expired(e.to_string()),
        StoreError::Future { asked, current } => crate::read::too_new(asked, current),
        StoreError::TooLarge { limit_bytes, .. } => Status::too_large(limit_bytes),
        StoreError::Closed => Status::unavailable("the server is shutting down"),
        e @ StoreError::Unavailable { .. } => {
            tracing::warn!(error = %e, "the store is away");
            Status::unavailable(e.to_string())
        }
        e => {
            tracing::error!(error = %e, "the store failed");
            Status::internal(e)
        }
    }
}

/// Whether an object that was too large may be stored without its managedFields, which it then has no more.
pub fn shrinks(s: &Status, o: &mut Object) -> bool {
    let shrinks = s.reason == "RequestEntityTooLarge" && !o.meta("managedFields").is_null();
    if shrinks {
        o.set_meta("managedFields", serde_json::Value::Null);
    }
    shrinks
}

impl Exchange<'_> {
    pub async fn outcome(&self, key: &str, o: Outcome) -> Result<Body, Status> {
        match o {
            Outcome::Same(c) => self.view.object(&*self.shown(c).await?),
            Outcome::Wrote(stored, revision) if self.resource.kind.converts_outside() => {
                let c = Cached::new(key, &stored, revision, &self.resource.cache.head, "ADDED");
                self.view.object(&*self.shown(Arc::new(c)).await?)
            }
            Outcome::Wrote(stored, revision) => self.view.written(key, &stored, revision),
        }
    }

    /// Keeps what a write left behind as the tree that it was laid out from.
    pub fn keep_tree(&self, key: &str, outcome: &Outcome, mut o: Object) {
        let Outcome::Wrote(_, revision) = outcome else { return };
        if !self.request.dry_run && self.working == self.resource.storage() {
            o.set_meta("resourceVersion", revision.to_string());
            self.resource.cache.keep_tree(key, *revision, o);
        }
    }

    /// The bytes to store, in Go's shape.
    pub async fn encode(&self, o: &mut Object) -> Result<Bytes, Status> {
        self.resource.kind.canonicalise(&self.working, o);
        self.lay_out(o).await
    }

    /// The bytes to store of an object in canonical form.
    pub async fn lay_out(&self, o: &Object) -> Result<Bytes, Status> {
        // What admission made of it too must be readable again.
        if !depth::fits(&o.0, 0) {
            return Err(Status::bad_request(depth::TOO_DEEP));
        }
        let storage = self.resource.storage();
        if self.working == storage {
            return Ok(encode::stored(o, &self.resource.cache.head));
        }
        let mut stored = self.resource.turned(o.clone(), &self.working, &storage).await?;
        self.resource.kind.canonicalise(&storage, &mut stored);
        Ok(encode::stored(&stored, &self.resource.cache.head))
    }

    pub async fn store_put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64, Refused> {
        let key = self.resource.store_key(key).into();
        self.store_write(Write::Put { key, value, expect, ttl: self.registry.lifetimes().of(self.resource.info()) }).await
    }

    pub async fn store_delete(&self, key: &str, expect: u64) -> Result<u64, Refused> {
        self.store_write(Write::Delete { key: self.resource.store_key(key).into(), expect }).await
    }

    async fn store_write(&self, w: Write) -> Result<u64, Refused> {
        let operation = match &w {
            Write::Put { expect: Expect::Absent, .. } => "create",
            Write::Put { .. } => "update",
            Write::Delete { .. } => "delete",
        };
        let labels = [self.resource.group(), operation, self.resource.info().plural];
        let span = trace::child(|| format!("{operation} {}", labels[2]), trace::Kind::Client);
        let started = Instant::now();
        let written = self.registry.store().write(w).await;
        drop(span);
        metrics::STORE_SECONDS_TAKEN.with(labels).observe_seconds(started.elapsed());
        metrics::STORE_REQUESTS.with(labels).increment();
        // Somebody was faster: that is an answer, not a failure.
        if written.as_ref().is_err_and(|e| !matches!(e, StoreError::Conflict { .. })) {
            metrics::STORE_ERRORS.with(labels).increment();
        }
        let written = written.map_err(|e| match e {
            StoreError::Conflict { current } => Refused::Conflict(current),
            e => Refused::Failed(store_error(e)),
        });
        // The caches follow before the client hears of it, so that whoever reads them next (admission, authorization) sees it too.
        if let Ok(revision) = written {
            self.registry.wait_seen(revision).await;
        }
        written
    }

    /// The present state, seeing all acknowledged writes; 404 when there is none.
    pub async fn current(&self, key: &str) -> Result<Arc<Cached>, Status> {
        self.registry.fresh(None).await?;
        self.resource.cache.get(key).ok_or_else(|| self.resource.absent(&self.served, key, &self.request.name))
    }

    /// The state that stood in a write's way; 404 when it is gone.
    pub fn overtaken(&self, key: &str, entry: Option<Entry>) -> Result<Arc<Cached>, Status> {
        let e = entry.ok_or_else(|| self.resource.not_found(&self.served, &self.request.name))?;
        Ok(Arc::new(Cached::new(key, &e.value, e.modified, &self.resource.cache.head, "MODIFIED")))
    }
}
