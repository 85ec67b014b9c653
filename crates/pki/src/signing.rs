//! The key of ServiceAccount tokens: one of the operator's, or an RSA key of our own.
//!
//! RSA keys take long to make, so the first start makes it in a thread of its own and goes on; whoever needs the key
//! before it is there waits in [`SigningKey::ready`]. The key is kept in `<data-dir>/pki/sa.key`.

use crate::token_key::{Private, PublicKey};
use crate::{PkiError, Result, files};
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

pub const RSA_BITS: usize = 2048;

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
    let mut rng = rsa::rand_core::OsRng;
    let key = rsa::RsaPrivateKey::new(&mut rng, RSA_BITS).map_err(|e| e.to_string())?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| e.to_string())?;
    files::write_atomically(path, pem.as_bytes()).map_err(|e| e.to_string())?;
    Private::parse(&pem)
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
