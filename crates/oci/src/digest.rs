//! Content digests. Only sha256: no registry serves anything else, and each algorithm more is one more way to be wrong.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

const PREFIX: &str = "sha256:";
const HEX_LENGTH: usize = 64;

/// `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("digest {0:?} is not of algorithm sha256, the only one supported")]
    Algorithm(String),
    #[error("digest {0:?} is not sha256: and 64 lower-case hexadecimal digits")]
    Format(String),
}

impl Digest {
    pub fn parse(text: &str) -> Result<Digest, DigestError> {
        let Some(hex) = text.strip_prefix(PREFIX) else { return Err(DigestError::Algorithm(text.to_string())) };
        if !is_hex_id(hex) {
            return Err(DigestError::Format(text.to_string()));
        }
        Ok(Digest(text.to_string()))
    }

    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digits alone: safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// 64 lower-case hexadecimal digits.
pub fn is_hex_id(text: &str) -> bool {
    text.len() == HEX_LENGTH && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Digest, DigestError> {
        Digest::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

/// A digest of bytes as they pass.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        Digest(format!("{PREFIX}{}", hex::encode(self.0.finalize())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_checked_because_they_become_file_names() {
        assert_eq!(Digest::of(b"").as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert!(Digest::parse(Digest::of(b"x").as_str()).is_ok());
        assert!(matches!(Digest::parse("sha512:00"), Err(DigestError::Algorithm(_))));
        for bad in ["sha256:", "sha256:../../etc", "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"] {
            assert!(matches!(Digest::parse(bad), Err(DigestError::Format(_))), "{bad}");
        }
    }
}
