//! aesgcm: AES-GCM with a random nonce before the text, bound to the key under which it is stored.
//!
//! A key must not write more than about 2^32 values (random nonces of 96 bits); upstream says 200,000 and to rotate then.

use super::{Keys, Transform, TransformError, random};
use aes::Aes192;
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use async_trait::async_trait;
use bytes::Bytes;

const NONCE_BYTES: usize = 12;

enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<AesGcm<Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
}

impl Cipher {
    fn new(key: &[u8]) -> Option<Cipher> {
        Some(match key.len() {
            16 => Cipher::Aes128(Box::new(Aes128Gcm::new_from_slice(key).ok()?)),
            24 => Cipher::Aes192(Box::new(AesGcm::new_from_slice(key).ok()?)),
            32 => Cipher::Aes256(Box::new(Aes256Gcm::new_from_slice(key).ok()?)),
            _ => return None,
        })
    }
    fn seal(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], msg: &[u8]) -> Option<Vec<u8>> {
        let p = Payload { msg, aad };
        match self {
            Cipher::Aes128(c) => c.encrypt(nonce.into(), p).ok(),
            Cipher::Aes192(c) => c.encrypt(nonce.into(), p).ok(),
            Cipher::Aes256(c) => c.encrypt(nonce.into(), p).ok(),
        }
    }
    fn open(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], msg: &[u8]) -> Option<Vec<u8>> {
        let p = Payload { msg, aad };
        match self {
            Cipher::Aes128(c) => c.decrypt(nonce.into(), p).ok(),
            Cipher::Aes192(c) => c.decrypt(nonce.into(), p).ok(),
            Cipher::Aes256(c) => c.decrypt(nonce.into(), p).ok(),
        }
    }
}

pub struct AesGcmKeys {
    keys: Keys<Cipher>,
}

impl AesGcmKeys {
    /// Keys of 16, 24 or 32 bytes, the first of which writes; `None` for another length.
    pub fn new(keys: Vec<(String, Vec<u8>)>) -> Option<AesGcmKeys> {
        let keys = keys.into_iter().map(|(n, k)| Some((n, Cipher::new(&k)?))).collect::<Option<Vec<_>>>()?;
        Some(AesGcmKeys { keys: Keys::new("aesgcm", keys) })
    }
}

#[async_trait]
impl Transform for AesGcmKeys {
    fn owns(&self, value: &[u8]) -> bool {
        self.keys.owns(value)
    }
    async fn seal(&self, key: &[u8], value: &[u8]) -> Result<Bytes, TransformError> {
        let k = self.keys.first();
        let nonce: [u8; NONCE_BYTES] = random();
        let sealed = k.key.seal(&nonce, key, value).ok_or_else(|| TransformError::Damaged(k.name.clone()))?;
        Ok([k.prefix.as_slice(), &nonce, &sealed].concat().into())
    }
    async fn open(&self, key: &[u8], value: &Bytes) -> Result<(Bytes, bool), TransformError> {
        let (k, rest, old) = self.keys.of(value)?;
        let damaged = || TransformError::Damaged(k.name.clone());
        let (nonce, sealed) = rest.split_first_chunk().ok_or_else(damaged)?;
        let text = k.key.open(nonce, key, sealed).ok_or_else(damaged)?;
        Ok((text.into(), old))
    }
}
