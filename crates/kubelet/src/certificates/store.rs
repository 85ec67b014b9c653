//! Certificates with their keys in a folder: each in a file of its own, named by the time it was written, and a link to the one in force.
//!
//! Invariant: whoever follows the link reads a whole pair, the old or the new. Source: k8s.io/client-go/util/certificate/certificate_store.go, whose
//! names these are; old files stay, as there.

use jiff::Timestamp;
use keles_pki::{Certified, Leaf, PkiError};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Write(#[from] PkiError),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot make {} the certificate in force: {source}", path.display())]
    Link { path: PathBuf, source: io::Error },
    #[error("the certificate that was issued is not usable: {0}")]
    Unusable(&'static str),
}

/// A certificate, its key, and what it says of itself.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certified: Certified,
    pub leaf: Leaf,
}

impl Pair {
    /// Both in PEM; an error when they do not belong together.
    pub fn of(certified: Certified) -> Result<Pair, &'static str> {
        let chain = certified.certificate_der().ok_or("no certificate in PEM")?;
        let key = certified.key_der().ok_or("no private key in PEM")?;
        let leaf = Leaf::of(&chain[0]).ok_or("the certificate does not parse")?;
        keles_serve::tls::pair(chain, key).map_err(|_| "the key is not the certificate's")?;
        Ok(Pair { certified, leaf })
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.leaf.not_after
    }
}

#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    /// `kubelet-client` or `kubelet-server`.
    prefix: &'static str,
}

impl Store {
    /// Makes the folder where there is none. Its path becomes absolute: others are told of it.
    pub fn open(dir: &Path, prefix: &'static str) -> Result<Store, StoreError> {
        keles_pki::make_private_folder(dir)?;
        let dir = std::path::absolute(dir).map_err(|source| StoreError::Read { path: dir.into(), source })?;
        Ok(Store { dir, prefix })
    }

    /// The link to the pair in force.
    pub fn current_path(&self) -> PathBuf {
        self.dir.join(format!("{}-current.pem", self.prefix))
    }

    /// The pair in force. One that cannot be used is none: another is asked for.
    pub fn current(&self) -> Result<Option<Pair>, StoreError> {
        let path = self.current_path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        match Pair::of(Certified { certificate_pem: text.clone(), key_pem: text }) {
            Ok(pair) => Ok(Some(pair)),
            Err(why) => {
                tracing::warn!(file = %path.display(), why, "the certificate cannot be used");
                Ok(None)
            }
        }
    }

    /// Writes the pair and puts it into force.
    pub fn update(&self, certificate_pem: &str, key_pem: &str, now: Timestamp) -> Result<Pair, StoreError> {
        let text = format!("{}\n{}\n", certificate_pem.trim_end(), key_pem.trim_end());
        let pair = Pair::of(Certified { certificate_pem: certificate_pem.to_owned(), key_pem: key_pem.to_owned() }).map_err(StoreError::Unusable)?;
        let file = self.dir.join(format!("{}-{}.pem", self.prefix, now.strftime("%Y-%m-%d-%H-%M-%S")));
        keles_pki::write_atomically(&file, text.as_bytes())?;
        self.link(&file).map_err(|source| StoreError::Link { path: file, source })?;
        Ok(pair)
    }

    fn link(&self, file: &Path) -> io::Result<()> {
        let next = self.dir.join(format!("{}-updated.pem", self.prefix));
        match std::fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(file, &next)?;
        std::fs::rename(&next, self.current_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_pki::{Names, self_signed};
    use std::os::unix::fs::PermissionsExt;

    fn made(name: &str) -> Certified {
        self_signed(name, &Names::default()).expect("made")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn the_newest_pair_is_in_force_and_the_older_one_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("pki"), "kubelet-client").expect("opens");
        assert!(store.current().expect("reads").is_none());
        for (name, time) in [("one", "2026-11-22T08:09:10Z"), ("two", "2026-11-22T09:09:10Z")] {
            let new = made(name);
            store.update(&new.certificate_pem, &new.key_pem, at(time)).expect("written");
            assert_eq!(store.current().expect("reads").expect("a pair").leaf.subject.common_name, name);
        }
        let target = std::fs::read_link(store.current_path()).expect("a link");
        assert_eq!(target, dir.path().join("pki/kubelet-client-2026-11-22-09-09-10.pem"));
        assert_eq!(std::fs::metadata(&target).expect("a file").permissions().mode() & 0o777, 0o600);
        assert!(dir.path().join("pki/kubelet-client-2026-11-22-08-09-10.pem").exists());
        assert_eq!(std::fs::read_dir(dir.path().join("pki")).expect("a folder").count(), 3, "and nothing else");
    }

    #[test]
    fn a_pair_that_does_not_fit_is_refused_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path(), "kubelet-server").expect("opens");
        let (one, two) = (made("one"), made("two"));
        assert!(matches!(store.update(&one.certificate_pem, &two.key_pem, Timestamp::now()), Err(StoreError::Unusable(_))));
        assert!(store.current().expect("reads").is_none());
        store.update(&one.certificate_pem, &one.key_pem, Timestamp::now()).expect("written");
        std::fs::write(store.current_path(), "x").expect("written");
        assert!(store.current().expect("reads").is_none());
    }
}
