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

/// Upstream's `NamespaceLifecycle`: nothing is created in a namespace that is not there or goes away, and three namespaces stay.
pub struct NamespaceLifecycle;

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        match a.operation {
            Operation::Create => !a.request.namespace.is_empty(),
            Operation::Delete => crate::facts::is_namespace(a.info),
            Operation::Update | Operation::Connect => false,
        }
    }
    async fn mutate(&self, a: &Attributes<'_>, _o: &mut Object, _w: &mut Vec<String>) -> Result<(), Status> {
        let r = a.request;
        // Reviews ask about a namespace, they put nothing into it.
        if a.operation != Operation::Create || a.info.plural == "localsubjectaccessreviews" {
            return Ok(());
        }
        // The namespace may have been created, or marked for deletion, a moment ago.
        a.registry.fresh(None).await?;
        let found = a.registry.peek("", "namespaces", "", &r.namespace);
        let Some(ns) = found else { return Err(Status::not_found("", "namespaces", &r.namespace)) };
        if !ns.deleting {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {} because it is being terminated", r.namespace);
        let cause =
            keles_api::Cause { reason: "NamespaceTerminating".into(), message: format!("namespace {} is being terminated", r.namespace), field: "metadata.namespace".into() };
        let group = a.info.served.first().map_or("", |s| s.group);
        Err(Status::forbidden(group, a.info.plural, &r.name, why).with_causes(vec![cause]))
    }
    async fn validate(&self, a: &Attributes<'_>, _o: Option<&Object>, _w: &mut Vec<String>) -> Result<(), Status> {
        if a.operation == Operation::Delete && IMMORTAL.contains(&a.request.name.as_str()) {
            return Err(Status::forbidden("", a.info.plural, &a.request.name, "this namespace may not be deleted"));
        }
        Ok(())
    }
}
