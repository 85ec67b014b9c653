//! The name that discovery gives the stored form of a kind (`APIResource.storageVersionHash`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const BYTES: usize = 8;

/// Tells clients when the stored form of a kind changed: the first 8 bytes of SHA-256 of `group/version/kind`, in base64.
pub fn storage_hash(group: &str, version: &str, kind: &str) -> String {
    STANDARD.encode(&Sha256::digest(format!("{group}/{version}/{kind}"))[..BYTES])
}
