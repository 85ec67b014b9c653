//! The RS256 key of ServiceAccount tokens.
//!
//! RSA keys take long to make, so the first start makes it in a thread of its own and goes on; whoever needs the key
//! before it is there waits in [`SigningKey::ready`]. The key is kept in `<data-dir>/pki/sa.key`.

use crate::{PkiError, Result, files};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use sha2::Digest;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

pub const RSA_BITS: usize = 2048;

/// The half of the key that anyone may know.
#[derive(Clone, Debug)]
pub struct PublicKey {
    /// URL-safe base64 of the SHA-256 of the SubjectPublicKeyInfo, as upstream names its keys.
    pub id: String,
    n: Vec<u8>,
    e: Vec<u8>,
}

impl PublicKey {
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        RsaPublicKeyComponents { n: &self.n, e: &self.e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
    }
    /// The JSON Web Key Set served at `/openid/v1/jwks`.
    pub fn jwks(&self) -> String {
        format!(r#"{{"keys":[{{"use":"sig","kty":"RSA","kid":"{}","alg":"RS256","n":"{}","e":"{}"}}]}}"#, self.id, URL_SAFE_NO_PAD.encode(&self.n), URL_SAFE_NO_PAD.encode(&self.e))
    }
}

struct Pair {
    private: RsaKeyPair,
    public: PublicKey,
}

enum State {
    Making,
    Ready(Arc<Pair>),
    Failed(String),
}

/// A handle to the key; cheap to clone.
#[derive(Clone)]
pub struct SigningKey {
    state: Arc<(Mutex<State>, Condvar)>,
}

impl SigningKey {
    /// Reads `<data_dir>/pki/sa.key`, or starts to make it in the background and returns at once.
    pub fn open(data_dir: &Path) -> Result<SigningKey> {
        let path = data_dir.join("pki/sa.key");
        let found = files::read(&path)?;
        let state = match found {
            Some(pem) => State::Ready(Arc::new(parse(&pem).map_err(|why| PkiError::Damaged { path: path.clone(), what: "ServiceAccount key", why })?)),
            None => State::Making,
        };
        let making = matches!(state, State::Making);
        let key = SigningKey { state: Arc::new((Mutex::new(state), Condvar::new())) };
        if making {
            let k = key.clone();
            std::thread::Builder::new().name("sa-key".into()).spawn(move || k.make(path)).map_err(|e| PkiError::SigningKey { why: e.to_string() })?;
        }
        Ok(key)
    }

    fn make(&self, path: PathBuf) {
        let made = generate(&path);
        let state = match made {
            Ok(pair) => State::Ready(Arc::new(pair)),
            Err(why) => {
                tracing::error!(%why, path = %path.display(), "no ServiceAccount signing key, tokens cannot be made");
                State::Failed(why)
            }
        };
        *self.lock() = state;
        self.state.1.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether [`Self::public`] and [`Self::sign`] would answer without waiting.
    pub fn is_ready(&self) -> bool {
        !matches!(*self.lock(), State::Making)
    }

    /// Waits for the key. Blocks the thread on a first start only; async callers ask `is_ready` first.
    fn ready(&self) -> Result<Arc<Pair>> {
        let mut state = self.lock();
        loop {
            match &*state {
                State::Ready(p) => return Ok(p.clone()),
                State::Failed(why) => return Err(PkiError::SigningKey { why: why.clone() }),
                State::Making => state = self.state.1.wait(state).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }

    pub fn public(&self) -> Result<PublicKey> {
        Ok(self.ready()?.public.clone())
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256 over `message`.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let pair = self.ready()?;
        let mut signature = vec![0; pair.private.public().modulus_len()];
        pair.private.sign(&RSA_PKCS1_SHA256, &ring::rand::SystemRandom::new(), message, &mut signature).map_err(|_| PkiError::Sign)?;
        Ok(signature)
    }
}

fn generate(path: &Path) -> std::result::Result<Pair, String> {
    let mut rng = rsa::rand_core::OsRng;
    let key = rsa::RsaPrivateKey::new(&mut rng, RSA_BITS).map_err(|e| e.to_string())?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| e.to_string())?;
    files::write_atomically(path, pem.as_bytes()).map_err(|e| e.to_string())?;
    parse(&pem)
}

fn parse(pem: &str) -> std::result::Result<Pair, String> {
    let key = rsa::RsaPrivateKey::from_pkcs8_pem(pem).map_err(|e| e.to_string())?;
    let der = key.to_pkcs8_der().map_err(|e| e.to_string())?;
    let private = RsaKeyPair::from_pkcs8(der.as_bytes()).map_err(|e| e.to_string())?;
    let spki = key.to_public_key().to_public_key_der().map_err(|e| e.to_string())?;
    let p = RsaPublicKeyComponents::<Vec<u8>>::from(private.public());
    Ok(Pair { public: PublicKey { id: URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(spki.as_bytes())), n: p.n, e: p.e }, private })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_in_the_background_kept_and_signs_what_it_verifies() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pki")).unwrap();
        let first = SigningKey::open(dir.path()).unwrap();
        let s = first.sign(b"a.b").unwrap();
        let again = SigningKey::open(dir.path()).unwrap();
        assert!(again.is_ready(), "a kept key needs no waiting");
        let public = again.public().unwrap();
        assert!(public.verify(b"a.b", &s) && !public.verify(b"a.c", &s));
        assert!(public.jwks().contains(&public.id));
    }
}
