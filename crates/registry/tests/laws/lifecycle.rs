//! The admission row of namespaces, as a server has it: with it the laws about namespaces can be stated.

use async_trait::async_trait;
use keles_api::{Cause, Object, Status};
use keles_registry::{Admission, Attributes, Operation};

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
            Operation::Delete => a.info.plural == "namespaces",
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
        let cause = Cause { reason: "NamespaceTerminating".into(), message: format!("namespace {} is being terminated", r.namespace), field: "metadata.namespace".into() };
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
