//! aescbc: AES-CBC with PKCS#7 padding; a random IV stands before the text. Not authenticated (upstream warns of it as well).

use super::{Keys, Transform, TransformError, random};
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use async_trait::async_trait;
use bytes::Bytes;

const IV_BYTES: usize = 16;

pub struct AesCbc {
    keys: Keys<Vec<u8>>,
}

impl AesCbc {
    /// Keys of 16, 24 or 32 bytes, the first of which writes.
    pub fn new(keys: Vec<(String, Vec<u8>)>) -> AesCbc {
        AesCbc { keys: Keys::new("aescbc", keys) }
    }
}

fn encrypt(key: &[u8], iv: &[u8], text: &[u8]) -> Vec<u8> {
    const WHY: &str = "the configuration takes keys of 16, 24 and 32 bytes only, and an IV is 16 bytes";
    match key.len() {
        16 => cbc::Encryptor::<Aes128>::new_from_slices(key, iv).expect(WHY).encrypt_padded_vec_mut::<Pkcs7>(text),
        24 => cbc::Encryptor::<Aes192>::new_from_slices(key, iv).expect(WHY).encrypt_padded_vec_mut::<Pkcs7>(text),
        _ => cbc::Encryptor::<Aes256>::new_from_slices(key, iv).expect(WHY).encrypt_padded_vec_mut::<Pkcs7>(text),
    }
}

fn decrypt(key: &[u8], iv: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    match key.len() {
        16 => cbc::Decryptor::<Aes128>::new_from_slices(key, iv).ok()?.decrypt_padded_vec_mut::<Pkcs7>(sealed).ok(),
        24 => cbc::Decryptor::<Aes192>::new_from_slices(key, iv).ok()?.decrypt_padded_vec_mut::<Pkcs7>(sealed).ok(),
        _ => cbc::Decryptor::<Aes256>::new_from_slices(key, iv).ok()?.decrypt_padded_vec_mut::<Pkcs7>(sealed).ok(),
    }
}

#[async_trait]
impl Transform for AesCbc {
    fn owns(&self, value: &[u8]) -> bool {
        self.keys.owns(value)
    }
    async fn seal(&self, _: &[u8], value: &[u8]) -> Result<Bytes, TransformError> {
        let k = self.keys.first();
        let iv: [u8; IV_BYTES] = random();
        Ok([k.prefix.as_slice(), &iv, &encrypt(&k.key, &iv, value)].concat().into())
    }
    async fn open(&self, _: &[u8], value: &Bytes) -> Result<(Bytes, bool), TransformError> {
        let (k, rest, old) = self.keys.of(value)?;
        let damaged = || TransformError::Damaged(k.name.clone());
        let (iv, sealed) = rest.split_at_checked(IV_BYTES).ok_or_else(damaged)?;
        let text = decrypt(&k.key, iv, sealed).ok_or_else(damaged)?;
        Ok((text.into(), old))
    }
}
