//! Admission: what may change or refuse a write besides the kind's own rules. The API server supplies the rows, in order.
//!
//! Order in a write: decode, default, every `mutate`, default again (when one of them ran), prepare, validate, every `validate`,
//! encode, store. On delete and connect only `validate` runs.

use crate::kind::{Info, Request};
use crate::registry::Registry;
use async_trait::async_trait;
use keles_api::{Object, Status};

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
}

/// One admission plugin. Objects are in the storage version.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Upstream's name: `NamespaceLifecycle`.
    fn name(&self) -> &'static str;
    /// Cheap; false skips both phases.
    fn handles(&self, a: &Attributes<'_>) -> bool;
    /// Whether `mutate` does anything; false spares the second defaulting.
    fn mutates(&self) -> bool {
        false
    }
    async fn mutate(&self, _a: &Attributes<'_>, _object: &mut Object, _warnings: &mut Vec<String>) -> Result<(), Status> {
        Ok(())
    }
    /// `object` is absent on delete and connect.
    async fn validate(&self, _a: &Attributes<'_>, _object: Option<&Object>, _warnings: &mut Vec<String>) -> Result<(), Status> {
        Ok(())
    }
}
