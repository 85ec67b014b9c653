//! Objects of a resource that lie in the store and cannot be read: encrypted under a key that is not there any more, or damaged.
//!
//! They are no part of the watch cache. Who reads or changes one of them, or lists where one lies, is told so with its key (500), as upstream;
//! everything else goes on. Entry points: [`Unreadable::status`] for one key, [`Unreadable::under`] for a list.

use crate::cache::Key;
use keles_api::Status;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

/// Why each cannot be read, by its key within the resource.
#[derive(Default)]
pub struct Unreadable(RwLock<BTreeMap<Key, String>>);

impl Unreadable {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Key, String>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn insert(&self, key: Key, why: String) {
        tracing::error!(why, "a stored object cannot be read");
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key, why);
    }
    pub fn remove(&self, key: &str) {
        if !self.read().is_empty() {
            self.0.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
    }
    /// The answer about a key, if it is one of these.
    pub fn status(&self, key: &str) -> Option<Status> {
        self.read().get(key).map(Status::internal)
    }
    /// The answer to a list of what is under `prefix`, if one of these is among it: the first.
    pub fn under(&self, prefix: &str) -> Result<(), Status> {
        match self.read().range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).next() {
            Some((key, why)) if key.starts_with(prefix) => Err(Status::internal(why)),
            _ => Ok(()),
        }
    }
    pub fn keys(&self) -> Vec<Key> {
        self.read().keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_fails_where_one_lies_and_nowhere_else() {
        let u = Unreadable::default();
        u.insert("shop/pass".into(), "unable to transform key \"/registry/core/secrets/shop/pass\": no".into());
        assert!(u.under("").is_err_and(|s| s.code == 500 && s.message.contains("/registry/core/secrets/shop/pass")));
        assert!(u.under("shop/").is_err() && u.under("other/").is_ok() && u.under("zoo/").is_ok());
        assert!(u.status("shop/pass").is_some() && u.status("shop/p").is_none());
        u.remove("shop/pass");
        assert!(u.under("").is_ok() && u.keys().is_empty());
    }
}
