//! secretbox: XSalsa20 and Poly1305 (NaCl's secretbox) with a random nonce of 24 bytes before the box.

use super::{Keys, Transform, TransformError, random};
use async_trait::async_trait;
use bytes::Bytes;
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead, KeyInit};

const NONCE_BYTES: usize = 24;

pub struct SecretBox {
    keys: Keys<XSalsa20Poly1305>,
}

impl SecretBox {
    /// Keys of 32 bytes, the first of which writes; `None` for another length.
    pub fn new(keys: Vec<(String, Vec<u8>)>) -> Option<SecretBox> {
        let keys = keys.into_iter().map(|(n, k)| Some((n, XSalsa20Poly1305::new_from_slice(&k).ok()?))).collect::<Option<Vec<_>>>()?;
        Some(SecretBox { keys: Keys::new("secretbox", keys) })
    }
}

#[async_trait]
impl Transform for SecretBox {
    fn owns(&self, value: &[u8]) -> bool {
        self.keys.owns(value)
    }
    async fn seal(&self, _: &[u8], value: &[u8]) -> Result<Bytes, TransformError> {
        let k = self.keys.first();
        let nonce: [u8; NONCE_BYTES] = random();
        let sealed = k.key.encrypt(&nonce.into(), value).map_err(|_| TransformError::Damaged(k.name.clone()))?;
        Ok([k.prefix.as_slice(), &nonce, &sealed].concat().into())
    }
    async fn open(&self, _: &[u8], value: &Bytes) -> Result<(Bytes, bool), TransformError> {
        let (k, rest, old) = self.keys.of(value)?;
        let damaged = || TransformError::Damaged(k.name.clone());
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(damaged)?;
        let text = k.key.decrypt(nonce.into(), sealed).map_err(|_| damaged())?;
        Ok((text.into(), old))
    }
}
