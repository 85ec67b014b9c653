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
use bytes::{Bytes, BytesMut};
use http::{Request, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ring::hkdf;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

const SEED_BYTES: usize = 32;
const INFO_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const ANSWER_BYTES_MAX: usize = 1 << 20;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
/// The plugin is asked for its present key this often; upstream's figure.
const STATUS_EVERY: Duration = Duration::from_secs(60);
/// Seeds kept in memory, by what the plugin made of them.
const SEEDS_MAX: usize = 1000;
/// `HKDF_SHA256_XNONCE_AES_GCM_SEED` of EncryptedDEKSourceType.
const SEED_TYPE: u64 = 1;

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
    let plugin = Plugin { name: k.name.clone(), socket: socket.into(), timeout, connection: tokio::sync::Mutex::default() };
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

/// The seed that writes, and what the plugin made of it.
#[derive(Clone)]
struct Current {
    seed: Seed,
    key_id: String,
    sealed: Bytes,
    annotations: Vec<Bytes>,
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
        let mut o = Message::default();
        o.bytes(1, &[info.as_slice(), &nonce, &sealed].concat());
        o.bytes(2, c.key_id.as_bytes());
        o.bytes(3, &c.sealed);
        c.annotations.iter().for_each(|a| o.bytes(4, a));
        o.number(5, SEED_TYPE);
        Ok([self.prefix.as_slice(), &o.0].concat().into())
    }
    async fn open(&self, key: &[u8], value: &Bytes) -> Result<(Bytes, bool), TransformError> {
        let damaged = || TransformError::Damaged(self.plugin.name.clone());
        let fields = fields(&value.slice(self.prefix.len()..)).ok_or_else(damaged)?;
        let one = |n: u64| fields.iter().find(|(f, _)| *f == n).map(|(_, v)| v.clone()).unwrap_or_default();
        let (data, key_id, sealed) = (one(1), one(2), one(3));
        if one(5).as_ref() != [SEED_TYPE as u8] {
            return Err(self.error("the value was written with a kind of key that is not supported"));
        }
        let known = self.seeds().get(&sealed).copied();
        let seed = match known {
            Some(s) => s,
            None => {
                let annotations: Vec<Bytes> = fields.iter().filter(|(f, _)| *f == 4).map(|(_, v)| v.clone()).collect();
                let plain = self.plugin.decrypt(&sealed, &key_id, &annotations).await.map_err(|e| self.error(e))?;
                let seed = Seed::try_from(plain.as_ref()).map_err(|_| self.error("the plugin's answer is no seed of ours"))?;
                self.remember(sealed, seed);
                seed
            }
        };
        let (info, rest) = data.split_at_checked(INFO_BYTES).ok_or_else(damaged)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(damaged)?;
        let opened = cipher(&seed, info).and_then(|a| a.decrypt(nonce.into(), Payload { msg: text, aad: key }).ok()).ok_or_else(damaged)?;
        let present = if self.key_id().is_empty() { self.current().await?.key_id } else { self.key_id().clone() };
        Ok((opened.into(), present.as_bytes() != key_id.as_ref()))
    }
}

struct Plugin {
    name: String,
    socket: PathBuf,
    timeout: Duration,
    connection: tokio::sync::Mutex<Option<SendRequest<Full<Bytes>>>>,
}

struct Encrypted {
    sealed: Bytes,
    key_id: String,
    annotations: Vec<Bytes>,
}

impl Plugin {
    async fn key_id(&self) -> Result<String, String> {
        let f = self.call("Status", Message::default()).await?;
        let text = |n: u64| f.iter().find(|(x, _)| *x == n).map(|(_, v)| String::from_utf8_lossy(v).into_owned()).unwrap_or_default();
        if text(2) != "ok" {
            return Err(format!("its health is {:?}", text(2)));
        }
        Ok(text(3))
    }

    async fn encrypt(&self, plain: &[u8]) -> Result<Encrypted, String> {
        let mut m = Message::default();
        m.bytes(1, plain);
        m.bytes(2, uid().as_bytes());
        let f = self.call("Encrypt", m).await?;
        let one = |n: u64| f.iter().find(|(x, _)| *x == n).map(|(_, v)| v.clone()).unwrap_or_default();
        let made =
            Encrypted { sealed: one(1), key_id: String::from_utf8_lossy(&one(2)).into_owned(), annotations: f.iter().filter(|(n, _)| *n == 3).map(|(_, v)| v.clone()).collect() };
        if made.sealed.is_empty() || made.key_id.is_empty() {
            return Err("it answered an encryption without ciphertext or key id".into());
        }
        Ok(made)
    }

    async fn decrypt(&self, sealed: &[u8], key_id: &[u8], annotations: &[Bytes]) -> Result<Bytes, String> {
        let mut m = Message::default();
        m.bytes(1, sealed);
        m.bytes(2, uid().as_bytes());
        m.bytes(3, key_id);
        annotations.iter().for_each(|a| m.bytes(4, a));
        let f = self.call("Decrypt", m).await?;
        Ok(f.into_iter().find(|(n, _)| *n == 1).map(|(_, v)| v).unwrap_or_default())
    }

    /// One unary call; the connection is kept, and made anew when it ended.
    async fn call(&self, method: &str, message: Message) -> Result<Vec<(u64, Bytes)>, String> {
        let call = async {
            let mut sender = self.sender().await?;
            let mut body = BytesMut::with_capacity(message.0.len() + 5);
            body.extend_from_slice(&[0]);
            body.extend_from_slice(&(message.0.len() as u32).to_be_bytes());
            body.extend_from_slice(&message.0);
            let request = Request::post(format!("http://localhost/v2.KeyManagementService/{method}"))
                .version(Version::HTTP_2)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(body.freeze()))
                .map_err(|e| e.to_string())?;
            let answer = sender.send_request(request).await.map_err(|e| format!("{method}: {e}"))?;
            let head = answer.headers().clone();
            let collected = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| format!("{method}: {e}"))?;
            let trailers = collected.trailers().cloned().unwrap_or_default();
            let text = |n: &str| trailers.get(n).or_else(|| head.get(n)).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            if text("grpc-status") != "0" {
                return Err(format!("{method}: gRPC status {:?}: {}", text("grpc-status"), text("grpc-message")));
            }
            let bytes = collected.to_bytes();
            let framed = bytes.len() >= 5 && bytes[0] == 0 && u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize == bytes.len() - 5;
            if !framed {
                return Err(format!("{method}: the answer is no gRPC message"));
            }
            fields(&bytes.slice(5..)).ok_or_else(|| format!("{method}: the answer does not decode"))
        };
        tokio::time::timeout(self.timeout, call).await.unwrap_or_else(|_| Err(format!("{method}: no answer within {:?} from {}", self.timeout, self.socket.display())))
    }

    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let mut held = self.connection.lock().await;
        if let Some(s) = held.as_ref().filter(|s| !s.is_closed()) {
            return Ok(s.clone());
        }
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| format!("{}: {e}", self.socket.display()))?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to a KMS plugin ended");
            }
        });
        *held = Some(sender.clone());
        Ok(sender)
    }
}

/// For the plugin's log.
fn uid() -> String {
    random::<16>().iter().map(|b| format!("{b:02x}")).collect()
}

/// A protobuf message in the making. Fields of default value are left out, as proto3 does.
#[derive(Default)]
pub(super) struct Message(pub Vec<u8>);

impl Message {
    fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }
    pub fn bytes(&mut self, field: u64, v: &[u8]) {
        if !v.is_empty() {
            self.varint(field << 3 | 2);
            self.varint(v.len() as u64);
            self.0.extend_from_slice(v);
        }
    }
    fn number(&mut self, field: u64, v: u64) {
        self.varint(field << 3);
        self.varint(v);
    }
}

/// The fields of a message: bytes as they stand, small numbers as one byte. `None` when it does not decode.
pub(super) fn fields(message: &Bytes) -> Option<Vec<(u64, Bytes)>> {
    let (mut out, mut at) = (Vec::new(), 0usize);
    let varint = |at: &mut usize| {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = *message.get(*at)?;
            *at += 1;
            v |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Some(v);
            }
        }
        None
    };
    while at < message.len() {
        let tag = varint(&mut at)?;
        let value = match tag & 7 {
            0 => Bytes::copy_from_slice(&[u8::try_from(varint(&mut at)?).ok()?]),
            2 => {
                let n = usize::try_from(varint(&mut at)?).ok()?;
                let end = at.checked_add(n).filter(|e| *e <= message.len())?;
                let v = message.slice(at..end);
                at = end;
                v
            }
            _ => return None,
        };
        out.push((tag >> 3, value));
    }
    Some(out)
}
