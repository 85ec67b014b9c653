//! kms: keys that a plugin keeps, KMS v2 over gRPC on a unix socket.
//!
//! Values are encrypted here, with a key derived for each from a seed; the plugin encrypts only the seed, and what it made of it stands
//! beside each value. So a write costs no call, and a read one for each seed ever used, once. Source: KEP-3299, k8s.io/kms v2 and the
//! `EncryptedObject` of k8s.io/apiserver. Deliberately absent: KMS v1.

use super::config::KmsEntry;
use super::{Transform, TransformError, random};
use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use async_trait::async_trait;
use bytes::Bytes;
use keles_grpc::Channel;
use prost::Message;
use ring::hkdf;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SEED_BYTES: usize = 32;
const INFO_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
/// The plugin is asked for its present key this often; upstream's figure.
const STATUS_EVERY: Duration = Duration::from_secs(60);
/// Seeds kept in memory, by what the plugin made of them.
const SEEDS_MAX: usize = 1000;
/// `HKDF_SHA256_XNONCE_AES_GCM_SEED` of EncryptedDEKSourceType.
const SEED_TYPE: i32 = 1;

/// The provider of one configuration entry.
pub fn provider(at: &str, k: &KmsEntry) -> Result<Arc<dyn Transform>, String> {
    if k.api_version != "v2" {
        return Err(format!("{at}.apiVersion: Invalid value: {:?}: only v2 is supported", k.api_version));
    }
    if k.name.is_empty() || k.name.contains(':') {
        return Err(format!("{at}.name: Invalid value: {:?}: a name is required, without a colon", k.name));
    }
    if k.cachesize.is_some() {
        return Err(format!("{at}.cachesize: Invalid value: cachesize is not supported in v2"));
    }
    let socket = k.endpoint.strip_prefix("unix://").filter(|p| p.starts_with('/') || p.starts_with('@'));
    let Some(socket) = socket else {
        return Err(format!("{at}.endpoint: Invalid value: {:?}: unsupported scheme, must be unix:///PATH", k.endpoint));
    };
    let timeout = match k.timeout.as_deref() {
        None => DEFAULT_TIMEOUT,
        Some(t) => seconds(t).ok_or_else(|| format!("{at}.timeout: Invalid value: {t:?}: must be a positive duration like 3s"))?,
    };
    let prefix = format!("k8s:enc:kms:v2:{}:", k.name).into_bytes();
    let plugin = Plugin { name: k.name.clone(), channel: Channel::unix(socket), timeout };
    Ok(Arc::new(Kms { prefix, plugin, current: tokio::sync::Mutex::default(), key_id: Mutex::default(), seeds: Mutex::default() }))
}

/// `3s` or `500ms`.
fn seconds(t: &str) -> Option<Duration> {
    let d = match t.strip_suffix("ms") {
        Some(n) => Duration::from_millis(n.parse().ok()?),
        None => Duration::from_secs_f64(t.strip_suffix('s')?.parse::<f64>().ok().filter(|s| (0.0..1e6).contains(s))?),
    };
    (!d.is_zero()).then_some(d)
}

type Seed = [u8; SEED_BYTES];
type Annotations = BTreeMap<String, Vec<u8>>;

/// The seed that writes, and what the plugin made of it.
#[derive(Clone)]
struct Current {
    seed: Seed,
    key_id: String,
    sealed: Bytes,
    annotations: Annotations,
    checked: Instant,
}

struct Kms {
    prefix: Vec<u8>,
    plugin: Plugin,
    current: tokio::sync::Mutex<Option<Current>>,
    /// The plugin's present key, as far as known: values under another should be written anew.
    key_id: Mutex<String>,
    seeds: Mutex<HashMap<Bytes, Seed>>,
}

impl Kms {
    fn error(&self, why: impl std::fmt::Display) -> TransformError {
        TransformError::Kms { name: self.plugin.name.clone(), why: why.to_string() }
    }
    fn seeds(&self) -> std::sync::MutexGuard<'_, HashMap<Bytes, Seed>> {
        self.seeds.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn key_id(&self) -> std::sync::MutexGuard<'_, String> {
        self.key_id.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The seed that writes: made anew when the plugin rotated its key. A plugin that is away does not stop writes under a known seed.
    async fn current(&self) -> Result<Current, TransformError> {
        let mut held = self.current.lock().await;
        if let Some(c) = held.as_mut() {
            if c.checked.elapsed() < STATUS_EVERY {
                return Ok(c.clone());
            }
            c.checked = Instant::now();
            match self.plugin.key_id().await {
                Ok(id) if id == c.key_id => return Ok(c.clone()),
                Ok(_) => {}
                Err(why) => {
                    tracing::error!(plugin = self.plugin.name, why, "the KMS plugin does not say its state; the known key goes on writing");
                    return Ok(c.clone());
                }
            }
        }
        let seed: Seed = random();
        let made = self.plugin.encrypt(&seed).await.map_err(|e| self.error(e))?;
        *self.key_id() = made.key_id.clone();
        self.remember(made.sealed.clone(), seed);
        let c = Current { seed, key_id: made.key_id, sealed: made.sealed, annotations: made.annotations, checked: Instant::now() };
        *held = Some(c.clone());
        Ok(c)
    }

    fn remember(&self, sealed: Bytes, seed: Seed) {
        let mut all = self.seeds();
        if all.len() >= SEEDS_MAX {
            all.clear();
        }
        all.insert(sealed, seed);
    }
}

/// The cipher of one value.
fn cipher(seed: &Seed, info: &[u8]) -> Option<Aes256Gcm> {
    let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, seed);
    let mut key = [0; 32];
    prk.expand(&[info], hkdf::HKDF_SHA256).ok()?.fill(&mut key).ok()?;
    Aes256Gcm::new_from_slice(&key).ok()
}

#[async_trait]
impl Transform for Kms {
    fn owns(&self, value: &[u8]) -> bool {
        value.starts_with(&self.prefix)
    }
    async fn seal(&self, key: &[u8], value: &[u8]) -> Result<Bytes, TransformError> {
        let c = self.current().await?;
        let (info, nonce): ([u8; INFO_BYTES], [u8; NONCE_BYTES]) = (random(), random());
        let sealed =
            cipher(&c.seed, &info).and_then(|a| a.encrypt((&nonce).into(), Payload { msg: value, aad: key }).ok()).ok_or_else(|| self.error("the value cannot be encrypted"))?;
        let stored =
            EncryptedObject { data: [info.as_slice(), &nonce, &sealed].concat().into(), key_id: c.key_id, source: c.sealed, annotations: c.annotations, source_type: SEED_TYPE };
        Ok([self.prefix.as_slice(), &stored.encode_to_vec()].concat().into())
    }
    async fn open(&self, key: &[u8], value: &Bytes) -> Result<(Bytes, bool), TransformError> {
        let damaged = || TransformError::Damaged(self.plugin.name.clone());
        let stored = EncryptedObject::decode(value.slice(self.prefix.len()..)).map_err(|_| damaged())?;
        if stored.source_type != SEED_TYPE {
            return Err(self.error("the value was written with a kind of key that is not supported"));
        }
        let known = self.seeds().get(&stored.source).copied();
        let seed = match known {
            Some(s) => s,
            None => {
                let plain = self.plugin.decrypt(&stored).await.map_err(|e| self.error(e))?;
                let seed = Seed::try_from(plain.as_ref()).map_err(|_| self.error("the plugin's answer is no seed of ours"))?;
                self.remember(stored.source.clone(), seed);
                seed
            }
        };
        let (info, rest) = stored.data.split_at_checked(INFO_BYTES).ok_or_else(damaged)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(damaged)?;
        let opened = cipher(&seed, info).and_then(|a| a.decrypt(nonce.into(), Payload { msg: text, aad: key }).ok()).ok_or_else(damaged)?;
        let present = if self.key_id().is_empty() { self.current().await?.key_id } else { self.key_id().clone() };
        Ok((opened.into(), present != stored.key_id))
    }
}

struct Plugin {
    name: String,
    channel: Channel,
    timeout: Duration,
}

struct Encrypted {
    sealed: Bytes,
    key_id: String,
    annotations: Annotations,
}

impl Plugin {
    async fn key_id(&self) -> Result<String, String> {
        let status: StatusResponse = self.call("Status", &StatusRequest {}).await?;
        if status.healthz != "ok" {
            return Err(format!("its health is {:?}", status.healthz));
        }
        Ok(status.key_id)
    }

    async fn encrypt(&self, plain: &[u8]) -> Result<Encrypted, String> {
        let made: EncryptResponse = self.call("Encrypt", &EncryptRequest { plaintext: Bytes::copy_from_slice(plain), uid: uid() }).await?;
        if made.ciphertext.is_empty() || made.key_id.is_empty() {
            return Err("it answered an encryption without ciphertext or key id".into());
        }
        Ok(Encrypted { sealed: made.ciphertext, key_id: made.key_id, annotations: made.annotations })
    }

    async fn decrypt(&self, stored: &EncryptedObject) -> Result<Bytes, String> {
        let request = DecryptRequest { ciphertext: stored.source.clone(), uid: uid(), key_id: stored.key_id.clone(), annotations: stored.annotations.clone() };
        let made: DecryptResponse = self.call("Decrypt", &request).await?;
        Ok(made.plaintext)
    }

    async fn call<Q: Message, A: Message + Default>(&self, method: &str, request: &Q) -> Result<A, String> {
        self.channel.unary(&format!("/v2.KeyManagementService/{method}"), request, self.timeout).await.map_err(|e| e.to_string())
    }
}

/// For the plugin's log.
fn uid() -> String {
    random::<16>().iter().map(|b| format!("{b:02x}")).collect()
}

/// What is stored after the prefix. Source: k8s.io/apiserver kmstypes v2.
#[derive(Clone, PartialEq, Message)]
struct EncryptedObject {
    /// The derivation's input, the nonce, the ciphertext.
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
    #[prost(string, tag = "2")]
    key_id: String,
    /// What the plugin made of the seed.
    #[prost(bytes = "bytes", tag = "3")]
    source: Bytes,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: Annotations,
    #[prost(int32, tag = "5")]
    source_type: i32,
}

// Source of the messages below: k8s.io/kms/apis/v2.

#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusResponse {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(string, tag = "2")]
    pub healthz: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub plaintext: Bytes,
    #[prost(string, tag = "2")]
    pub uid: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptResponse {
    #[prost(bytes = "bytes", tag = "1")]
    pub ciphertext: Bytes,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: Annotations,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DecryptRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub ciphertext: Bytes,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: Annotations,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DecryptResponse {
    #[prost(bytes = "bytes", tag = "1")]
    pub plaintext: Bytes,
}
