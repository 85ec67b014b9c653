//! Encryption at rest: a store over another that turns values on the way in and back on the way out.
//!
//! Entry points: [`config::read`] for an EncryptionConfiguration file, [`Encrypted::new`]. A value carries the prefix of what turned it
//! (`k8s:enc:aescbc:v1:KEY:`), so data written under older keys stays readable while their provider is listed: the first provider of a
//! resource writes, all read. Keys (names of objects) are not encrypted, as upstream. What was read under another provider than the first
//! is told by [`Store::stale`], so that writing an object anew, unchanged, brings it under the new key. One file and one row of
//! [`PROVIDERS`] a provider. [`Encrypted::replace`] puts other rules in their place while the store is used. Invariants: a value that no
//! provider knows is never handed on as it stands; it fails who asks for it with an error that names its key, and nobody else.

pub mod aescbc;
pub mod aesgcm;
pub mod config;
pub mod identity;
pub mod kms;
pub mod secretbox;

use crate::{Change, Entry, Page, Revision, Store, StoreError, Watched, Write};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// What every encrypted value begins with.
pub const PREFIX: &[u8] = b"k8s:enc:";

/// The providers a configuration may name.
pub const PROVIDERS: &[&str] = &["identity", "aescbc", "aesgcm", "secretbox", "kms"];

/// Why a value could not be turned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransformError {
    #[error("no matching prefix found")]
    NoPrefix,
    #[error("identity transformer tried to read encrypted data")]
    Encrypted,
    #[error("no matching key was found for the provided {0} transformer")]
    NoKey(&'static str),
    #[error("the stored data is damaged, or the key {0:?} is not the one it was written with")]
    Damaged(String),
    #[error("the KMS plugin {name}: {why}")]
    Kms { name: String, why: String },
}

/// Turns the values of some resources. `key` is the store's key, which some providers bind the value to.
#[async_trait]
pub trait Transform: Send + Sync + 'static {
    /// Whether a value is this transformer's, by its prefix.
    fn owns(&self, value: &[u8]) -> bool;
    async fn seal(&self, key: &[u8], value: &[u8]) -> Result<Bytes, TransformError>;
    /// The value, and whether it should be written anew (an older key of the same provider).
    async fn open(&self, key: &[u8], value: &Bytes) -> Result<(Bytes, bool), TransformError>;
}

/// The providers of some resources, in order.
pub struct Rule {
    pub resources: Vec<Pattern>,
    pub providers: Vec<Arc<dyn Transform>>,
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.` or `*.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// `*`: any.
    pub resource: String,
    /// `""` is the core group, `*`: any.
    pub group: String,
}

impl Pattern {
    /// By the form of a key: `/registry/GROUP/RESOURCE/…`, where the core group is `core`.
    fn matches(&self, key: &[u8]) -> bool {
        let mut parts = key.strip_prefix(b"/registry/").unwrap_or_default().splitn(3, |b| *b == b'/');
        let (Some(group), Some(resource)) = (parts.next(), parts.next()) else { return false };
        let group = if group == b"core" { b"" } else { group };
        (self.group == "*" || self.group.as_bytes() == group) && (self.resource == "*" || self.resource.as_bytes() == resource)
    }
}

/// How values are turned: the first rule that matches a key.
pub struct Rules(pub Vec<Rule>);

impl Rules {
    fn of(&self, key: &[u8]) -> Option<&Rule> {
        self.0.iter().find(|r| r.resources.iter().any(|p| p.matches(key)))
    }
}

/// See the module.
pub struct Encrypted {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<dyn Store>,
    rules: RwLock<Arc<Rules>>,
    /// Keys whose value was read under another provider than the one that would write it now.
    stale: Mutex<HashSet<Bytes>>,
}

impl Encrypted {
    pub fn new(inner: Arc<dyn Store>, rules: Rules) -> Arc<Encrypted> {
        Arc::new(Encrypted { shared: Arc::new(Shared { inner, rules: RwLock::new(Arc::new(rules)), stale: Mutex::default() }) })
    }

    /// Other rules from now on, if the provider that writes under each of them answers. Then all that is stored is looked at once, so that what
    /// lies under another provider than the one that would write it now is known (see [`Store::stale`]).
    pub async fn replace(&self, rules: Rules) -> Result<(), StoreError> {
        for first in rules.0.iter().filter_map(|r| r.providers.first()) {
            first.seal(PROBE, PROBE).await.map_err(|e| failed(PROBE, e))?;
        }
        *self.shared.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        let mut start: Option<Bytes> = None;
        loop {
            let page = self.shared.inner.range(b"/registry/", start.as_deref(), LOOKED_AT_ONCE, None).await?;
            for mut e in page.entries {
                start = Some([e.key.as_ref(), b"\0"].concat().into());
                // What cannot be read any more is told of when somebody reads it.
                let _ = self.shared.open(&mut e, State::Present).await;
            }
            if !page.more {
                return Ok(());
            }
        }
    }
}

/// What providers are tried with before they are used.
const PROBE: &[u8] = b"/registry/probe";
/// Values read in one go when all are looked at.
const LOOKED_AT_ONCE: usize = 256;

/// What is known of the value that is opened.
#[derive(Clone, Copy)]
enum State {
    Present,
    /// Read at a revision, which may be the present one: a needless mark costs one write, a missing one a key that cannot be retired.
    Pinned,
}

impl Shared {
    fn stale(&self) -> std::sync::MutexGuard<'_, HashSet<Bytes>> {
        self.stale.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn seal(&self, key: &[u8], value: Bytes) -> Result<Bytes, StoreError> {
        match self.rules().of(key).and_then(|r| r.providers.first()) {
            Some(p) => p.seal(key, &value).await.map_err(|e| failed(key, e)),
            None => Ok(value),
        }
    }

    /// Opens a value in place; a delete has none.
    async fn open(&self, e: &mut Entry, state: State) -> Result<(), StoreError> {
        let rules = self.rules();
        let Some(rule) = rules.of(&e.key) else {
            // A resource that no rule names any more: what is encrypted cannot be read.
            return if e.value.starts_with(PREFIX) { Err(failed(&e.key, TransformError::NoPrefix)) } else { Ok(()) };
        };
        if e.value.is_empty() {
            return Ok(());
        }
        let at = rule.providers.iter().position(|p| p.owns(&e.value));
        let Some(at) = at else {
            return Err(failed(&e.key, TransformError::NoPrefix));
        };
        let (value, old_key) = rule.providers[at].open(&e.key, &e.value).await.map_err(|why| failed(&e.key, why))?;
        e.value = value;
        let stale = at > 0 || old_key;
        match state {
            State::Present | State::Pinned if stale => {
                self.stale().insert(e.key.clone());
            }
            State::Present => {
                self.stale().remove(&e.key);
            }
            State::Pinned => {}
        }
        Ok(())
    }

    async fn change(&self, c: &Change) -> Change {
        let mut c = c.clone();
        if c.deleted {
            self.stale().remove(&c.entry.key);
        } else if let Err(why) = self.open(&mut c.entry, State::Present).await {
            c.entry.value = Bytes::new();
            c.unreadable = Some(why.to_string());
        }
        c
    }

    async fn watched(&self, w: Watched) -> Watched {
        let Watched::Changes(all) = w else { return w };
        let mut out = Vec::with_capacity(all.len());
        for c in all.iter() {
            out.push(self.change(c).await);
        }
        Watched::Changes(Arc::new(out))
    }
}

fn failed(key: &[u8], source: TransformError) -> StoreError {
    StoreError::Transform { key: String::from_utf8_lossy(key).into_owned(), source }
}

#[async_trait]
impl Store for Encrypted {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.shared.inner.revision().await
    }
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let Some(mut e) = self.shared.inner.get(key).await? else { return Ok(None) };
        self.shared.open(&mut e, State::Present).await?;
        Ok(Some(e))
    }
    async fn range(&self, prefix: &[u8], start: Option<&[u8]>, limit: usize, at: Option<Revision>) -> Result<Page, StoreError> {
        let mut page = self.shared.inner.range(prefix, start, limit, at).await?;
        let state = if at.is_none() { State::Present } else { State::Pinned };
        let mut readable = Vec::with_capacity(page.entries.len());
        for mut e in page.entries {
            match self.shared.open(&mut e, state).await {
                Ok(()) => readable.push(e),
                Err(why) => page.unreadable.push((e.key, why.to_string())),
            }
        }
        page.entries = readable;
        Ok(page)
    }
    async fn write(&self, w: Write) -> Result<Revision, StoreError> {
        let s = &self.shared;
        let creates = matches!(w, Write::Put { expect: crate::Expect::Absent, .. });
        let w = match w {
            Write::Put { key, value, expect, ttl } => Write::Put { value: s.seal(&key, value).await?, key, expect, ttl },
            delete => delete,
        };
        match s.inner.write(w).await {
            // Who creates is told that the name is taken, whether what has it can be read or not.
            Err(StoreError::Conflict { current: Some(mut e) }) => match s.open(&mut e, State::Present).await {
                Ok(()) => Err(StoreError::Conflict { current: Some(e) }),
                Err(_) if creates => Err(StoreError::Conflict { current: None }),
                Err(why) => Err(why),
            },
            done => done,
        }
    }
    async fn watch(&self, prefix: &[u8], after: Revision) -> Result<BoxStream<'static, Result<Watched, StoreError>>, StoreError> {
        let inner = self.shared.inner.watch(prefix, after).await?;
        let shared = self.shared.clone();
        Ok(inner
            .then(move |w| {
                let shared = shared.clone();
                async move {
                    match w {
                        Ok(w) => Ok(shared.watched(w).await),
                        Err(e) => Err(e),
                    }
                }
            })
            .boxed())
    }
    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.shared.inner.compact(before).await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.shared.inner.close().await
    }
    fn stale(&self, key: &[u8]) -> bool {
        let stale = self.shared.stale();
        !stale.is_empty() && stale.contains(key)
    }
    async fn take_turn(&self, last: u64, floor: Revision) -> Result<crate::Turn, StoreError> {
        self.shared.inner.take_turn(last, floor).await
    }
    async fn health(&self) -> Result<(), StoreError> {
        self.shared.inner.health().await
    }
    fn size_bytes(&self) -> Option<u64> {
        self.shared.inner.size_bytes()
    }
    fn is_shared(&self) -> bool {
        self.shared.inner.is_shared()
    }
}

/// A key of a provider, by its name in the configuration.
pub(crate) struct Named<K> {
    pub name: String,
    pub prefix: Vec<u8>,
    pub key: K,
}

/// The keys of one provider: the first writes, each reads what carries its name.
pub(crate) struct Keys<K> {
    provider: &'static str,
    /// `k8s:enc:PROVIDER:v1:`
    prefix: Vec<u8>,
    keys: Vec<Named<K>>,
}

impl<K> Keys<K> {
    pub(crate) fn new(provider: &'static str, keys: Vec<(String, K)>) -> Keys<K> {
        let prefix = format!("k8s:enc:{provider}:v1:");
        let keys = keys.into_iter().map(|(name, key)| Named { prefix: format!("{prefix}{name}:").into_bytes(), name, key }).collect();
        Keys { provider, prefix: prefix.into_bytes(), keys }
    }
    pub(crate) fn owns(&self, value: &[u8]) -> bool {
        value.starts_with(&self.prefix)
    }
    pub(crate) fn first(&self) -> &Named<K> {
        &self.keys[0]
    }
    /// The key a value names, what follows the name, and whether the key is an older one.
    pub(crate) fn of<'v>(&self, value: &'v [u8]) -> Result<(&Named<K>, &'v [u8], bool), TransformError> {
        let found = self.keys.iter().enumerate().find_map(|(i, k)| Some((k, value.strip_prefix(k.prefix.as_slice())?, i > 0)));
        found.ok_or(TransformError::NoKey(self.provider))
    }
}

/// Fresh bytes that must never repeat.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut b = [0; N];
    // The kernel's generator: it fails only where there is none, and then nothing may be encrypted.
    aes_gcm::aead::rand_core::RngCore::fill_bytes(&mut aes_gcm::aead::OsRng, &mut b);
    b
}

#[cfg(test)]
mod kms_tests;
#[cfg(test)]
mod tests;
