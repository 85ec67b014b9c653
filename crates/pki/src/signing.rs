//! The key of ServiceAccount tokens: one of the operator's, or an RSA key of our own.
//!
//! RSA keys take long to make, so the first start makes it in a thread of its own and goes on; whoever needs the key
//! before it is there waits in [`SigningKey::ready`]. The key is kept in `<data-dir>/pki/sa.key`.

use crate::token_key::{Private, PublicKey};
use crate::{PkiError, Result, files};
use crypto_bigint::U1024;
use crypto_primes::hazmat::{SetBits, SmallFactorsSieveFactory};
use crypto_primes::{Flavor, is_prime, sieve_and_find};
use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

const EXPONENT: u32 = 65_537;

enum State {
    Making,
    Ready(Arc<Private>),
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
            Some(pem) => State::Ready(Arc::new(Private::parse(&pem).map_err(|why| PkiError::Damaged { path: path.clone(), what: "ServiceAccount key", why })?)),
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

    /// A key the operator keeps (`--service-account-signing-key-file`), RSA or EC (see [`crate::token_key`]); never made.
    pub fn read(path: &Path) -> Result<SigningKey> {
        let damaged = |why: String| PkiError::Damaged { path: path.into(), what: "ServiceAccount key", why };
        let pem = files::read(path)?.ok_or_else(|| damaged("there is no such file".into()))?;
        let pair = Private::parse(&pem).map_err(damaged)?;
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
    fn ready(&self) -> Result<Arc<Private>> {
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

    /// Over `message`, by the algorithm of [`Self::public`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        self.ready()?.sign(message)
    }
}

fn generate(path: &Path) -> std::result::Result<Private, String> {
    let key = rsa::RsaPrivateKey::from_p_q(prime()?, prime()?, EXPONENT.into()).map_err(|e| e.to_string())?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| e.to_string())?;
    files::write_atomically(path, pem.as_bytes()).map_err(|e| e.to_string())?;
    Private::parse(&pem)
}

/// A random prime of half the key's bits. Its two highest bits are set, so that the product of two has all of the key's.
///
/// Not by [`rsa`], which takes four times as long: a fresh server would spend more on its key than on all else of its start.
fn prime() -> std::result::Result<rsa::BigUint, String> {
    let candidates = SmallFactorsSieveFactory::<U1024>::new(Flavor::Any, U1024::BITS, SetBits::TwoMsb).map_err(|e| e.to_string())?;
    let found = sieve_and_find(&mut UnwrapErr(SysRng), candidates, |_, candidate| is_prime(Flavor::Any, candidate)).map_err(|e| e.to_string())?;
    Ok(rsa::BigUint::from_bytes_be(found.ok_or("no prime was found")?.to_be_bytes().as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsa::pkcs8::DecodePrivateKey;

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
        let made = rsa::RsaPrivateKey::from_pkcs8_pem(&std::fs::read_to_string(dir.path().join("pki/sa.key")).unwrap()).unwrap();
        made.validate().expect("a sound key");
        assert_eq!(rsa::traits::PublicKeyParts::size(&made) * 8, 2048);
    }
}
