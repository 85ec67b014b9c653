//! NamespaceLifecycle: nothing is created in a namespace that is absent or ending; the first namespaces stay.

use async_trait::async_trait;
use keles_api::{Cause, Object, Status};
use keles_registry::{Admission, Attributes, Operation, Scope};

pub struct NamespaceLifecycle;

/// Namespaces that nobody may delete.
const KEPT: &[&str] = &["default", "kube-system", "kube-public"];

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        match a.operation {
            Operation::Create => a.info.scope == Scope::Namespaced,
            Operation::Delete => a.info.plural == "namespaces" && a.request.group.is_empty(),
            _ => false,
        }
    }
    fn mutates(&self) -> bool {
        true
    }
    /// In the first phase: later plugins look at objects of the namespace.
    async fn mutate(&self, a: &Attributes<'_>, object: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        let namespace = a.request.namespace.as_str();
        let Some(ns) = a.registry.read("", "namespaces", "", namespace) else {
            return Err(Status::not_found("", "namespaces", namespace));
        };
        if ns.deletion_timestamp().is_none() && ns.str_at(&["status", "phase"]) != "Terminating" {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let cause = Cause { reason: "NamespaceTerminating".into(), message: format!("namespace {namespace} is being terminated"), field: "metadata.namespace".into() };
        Err(Status::forbidden(&a.request.group, &a.request.plural, object.name(), why).with_causes(vec![cause]))
    }
    async fn validate(&self, a: &Attributes<'_>, _: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        if a.operation == Operation::Delete && KEPT.contains(&a.request.name.as_str()) {
            return Err(Status::forbidden("", "namespaces", &a.request.name, "this namespace may not be deleted"));
        }
        Ok(())
    }
}
