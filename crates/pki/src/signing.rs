//! The RS256 key of ServiceAccount tokens.
//!
//! RSA keys take long to make, so the first start makes it in a thread of its own and goes on; whoever needs the key
//! before it is there waits in [`SigningKey::ready`]. The key is kept in `<data-dir>/pki/sa.key`.

use crate::{PkiError, Result, files};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};
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
        jwks([self])
    }

    /// Every RSA key of a PEM file, public or private (`--service-account-key-file`).
    pub fn read(path: &Path) -> Result<Vec<PublicKey>> {
        let damaged = |why: String| PkiError::Damaged { path: path.into(), what: "ServiceAccount public key", why };
        let pem = files::read(path)?.ok_or_else(|| damaged("there is no such file".into()))?;
        let mut out = Vec::new();
        for part in pem.split_inclusive("-----END ").flat_map(|p| p.rsplit_once("-----BEGIN ")).map(|(_, block)| format!("-----BEGIN {block}")) {
            let kind = part.trim_start_matches("-----BEGIN ").split("-----").next().unwrap_or_default().to_owned();
            let text = format!("{part}{kind}-----\n");
            let key = match kind.as_str() {
                "PUBLIC KEY" => rsa::RsaPublicKey::from_public_key_pem(&text).map_err(|e| e.to_string()),
                "RSA PUBLIC KEY" => rsa::pkcs1::DecodeRsaPublicKey::from_pkcs1_pem(&text).map_err(|e: rsa::pkcs1::Error| e.to_string()),
                "PRIVATE KEY" | "RSA PRIVATE KEY" => private(&text).map(|k| k.to_public_key()),
                other => Err(format!("{other} is no RSA key")),
            };
            out.push(public(&key.map_err(damaged)?).map_err(damaged)?);
        }
        if out.is_empty() { Err(damaged("it holds no PEM key".into())) } else { Ok(out) }
    }
}

/// The JSON Web Key Set of several keys.
pub fn jwks<'k>(keys: impl IntoIterator<Item = &'k PublicKey>) -> String {
    let one = |k: &PublicKey| {
        let (n, e) = (URL_SAFE_NO_PAD.encode(&k.n), URL_SAFE_NO_PAD.encode(&k.e));
        format!(r#"{{"use":"sig","kty":"RSA","kid":"{}","alg":"RS256","n":"{n}","e":"{e}"}}"#, k.id)
    };
    format!(r#"{{"keys":[{}]}}"#, keys.into_iter().map(one).collect::<Vec<_>>().join(","))
}

fn public(key: &rsa::RsaPublicKey) -> std::result::Result<PublicKey, String> {
    use rsa::traits::PublicKeyParts;
    let spki = key.to_public_key_der().map_err(|e| e.to_string())?;
    Ok(PublicKey { id: URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(spki.as_bytes())), n: key.n().to_bytes_be(), e: key.e().to_bytes_be() })
}

/// PKCS#8 or PKCS#1.
fn private(pem: &str) -> std::result::Result<rsa::RsaPrivateKey, String> {
    rsa::RsaPrivateKey::from_pkcs8_pem(pem).or_else(|e| rsa::pkcs1::DecodeRsaPrivateKey::from_pkcs1_pem(pem).map_err(|_| e)).map_err(|e| e.to_string())
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

    /// A key the operator keeps (`--service-account-signing-key-file`), RSA in PKCS#8 or PKCS#1; never made.
    pub fn read(path: &Path) -> Result<SigningKey> {
        let damaged = |why: String| PkiError::Damaged { path: path.into(), what: "ServiceAccount key", why };
        let pem = files::read(path)?.ok_or_else(|| damaged("there is no such file".into()))?;
        let pair = parse(&pem).map_err(damaged)?;
        Ok(SigningKey { state: Arc::new((Mutex::new(State::Ready(Arc::new(pair))), Condvar::new())) })
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
    let key = private(pem)?;
    let der = key.to_pkcs8_der().map_err(|e| e.to_string())?;
    let pair = RsaKeyPair::from_pkcs8(der.as_bytes()).map_err(|e| e.to_string())?;
    Ok(Pair { public: public(&key.to_public_key())?, private: pair })
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
