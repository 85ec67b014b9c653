//! Names of kinds made at run time, with the lifetime that `Info` wants.
//!
//! A name is kept once, however many definitions and updates of definitions use it, and is never freed: memory grows with the number of
//! *different* names a process has ever served (about half a kilobyte a definition), not with updates. Everything else of a definition
//! is dropped with it.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{LazyLock, Mutex};

/// Values kept for the life of the process, each once.
struct Kept<T: ?Sized + 'static>(Mutex<HashSet<&'static T>>);

impl<T: ?Sized + Eq + Hash> Kept<T> {
    fn keep(&self, v: &T, own: impl FnOnce() -> Box<T>) -> &'static T {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match all.get(v) {
            Some(there) => there,
            None => {
                let kept: &'static T = Box::leak(own());
                all.insert(kept);
                kept
            }
        }
    }
}

static TEXTS: LazyLock<Kept<str>> = LazyLock::new(|| Kept(Mutex::default()));
static LISTS: LazyLock<Kept<[&'static str]>> = LazyLock::new(|| Kept(Mutex::default()));

pub fn text(s: &str) -> &'static str {
    TEXTS.keep(s, || s.into())
}

pub fn list<S: AsRef<str>>(all: &[S]) -> &'static [&'static str] {
    let all: Vec<&'static str> = all.iter().map(|s| text(s.as_ref())).collect();
    LISTS.keep(&all, || all.clone().into())
}

/// Lists of other values, one keeper a type.
pub struct Lists<T: 'static>(LazyLock<Kept<[T]>>);

impl<T: Eq + Hash + Clone> Lists<T> {
    pub const fn new() -> Self {
        Lists(LazyLock::new(|| Kept(Mutex::default())))
    }
    pub fn keep(&self, all: Vec<T>) -> &'static [T] {
        self.0.keep(&all, || all.clone().into())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_is_kept_once_however_often_it_is_used() {
        let (a, b) = (super::text(&String::from("foos")), super::text(&String::from("foos")));
        assert!(std::ptr::eq(a, b));
        assert!(std::ptr::eq(super::list(&["a", "b"]), super::list(&["a", "b"])));
    }
}
