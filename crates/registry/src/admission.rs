//! Admission: what may change or refuse a write besides the kind's own rules. The API server supplies the rows, in order.
//!
//! Order in a write: decode, default, every `mutate`, default again (when one of them ran), prepare, validate, every `validate`,
//! encode, store. On delete and connect only `validate` runs. Plugins that keep books learn how a write ended ([`Admission::ended`]).

use crate::kind::{Info, Request};
use crate::registry::Registry;
use async_trait::async_trait;
use keles_api::{Object, Status};
use std::sync::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What is being asked. `old` is absent on create.
pub struct Attributes<'a> {
    pub operation: Operation,
    pub request: &'a Request,
    pub info: &'a Info,
    pub old: Option<&'a Object>,
    /// For looking at other objects: [`Registry::read`].
    pub registry: &'a Registry,
    /// What plugins took for this attempt to write, to be given back when it fails.
    pub taken: &'a Taken,
}

/// Notes of what was taken for a write under way.
#[derive(Default)]
pub struct Taken(Mutex<Vec<String>>);

impl Taken {
    pub fn note(&self, what: String) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).push(what);
    }
    pub fn any(&self, of: impl Fn(&str) -> bool) -> bool {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).iter().any(|w| of(w))
    }
    /// All notes; none are left.
    pub fn drain(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

/// What became of an attempt to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Refused, overtaken, or a dry run: nothing was stored.
    Nothing,
    /// The store did not answer, so it may be stored or not. Nothing is given back; who repairs finds out.
    Unknown,
    Stored,
    /// The object is gone: deleted, or its last finalizer taken off.
    Gone,
}

impl Ending {
    /// Of an attempt that was answered so.
    pub(crate) fn of_failure(s: &Status) -> Ending {
        if s.code == 503 { Ending::Unknown } else { Ending::Nothing }
    }
}

/// One admission plugin. Objects are in the storage version.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Upstream's name: `NamespaceLifecycle`.
    fn name(&self) -> &'static str;
    /// Cheap; false skips both phases.
    fn handles(&self, a: &Attributes<'_>) -> bool;
    /// Whether `mutate` does anything: then it is measured as a phase of its own.
    fn mutates(&self) -> bool {
        false
    }
    /// Whether what `mutate` writes may lack defaults, which are then settled again: what outsiders say. Plugins of our own write all that there is.
    fn leaves_defaults(&self) -> bool {
        false
    }
    async fn mutate(&self, _a: &Attributes<'_>, _object: &mut Object, _warnings: &mut Vec<String>) -> Result<(), Status> {
        Ok(())
    }
    /// Whether `ended` does anything.
    fn keeps_books(&self) -> bool {
        false
    }
    /// An attempt that came to this plugin is over. `object` is the new state, absent on delete. May be missed when the server dies or the
    /// client goes away: what rests on it needs a repair.
    async fn ended(&self, _a: &Attributes<'_>, _object: Option<&Object>, _ending: Ending) {}
    /// `object` is absent on delete and connect.
    async fn validate(&self, _a: &Attributes<'_>, _object: Option<&Object>, _warnings: &mut Vec<String>) -> Result<(), Status> {
        Ok(())
    }
}
