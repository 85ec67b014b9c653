//! What is being made may not be made a second time meanwhile.

use keles_grpc::{Code, Status};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

#[derive(Default)]
pub struct Names {
    taken: Mutex<HashSet<String>>,
}

/// Given back when dropped.
pub struct Held<'a> {
    names: &'a Names,
    name: String,
}

impl Names {
    pub fn hold(&self, name: String) -> Result<Held<'_>, Status> {
        if self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
            return Ok(Held { names: self, name });
        }
        Err(Status::new(Code::AlreadyExists, format!("{name} is being made already; wait for it")))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.names.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_held_by_one_until_it_is_let_go() {
        let names = Names::default();
        let held = names.hold("a".into()).ok().expect("free");
        assert_eq!(names.hold("a".into()).err().map(|status| status.code), Some(Code::AlreadyExists));
        drop(held);
        assert!(names.hold("a".into()).is_ok());
    }
}
