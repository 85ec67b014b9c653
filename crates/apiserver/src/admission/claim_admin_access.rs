//! Access to devices that others use is for claims in namespaces that an administrator has labelled for it (KEP-5018).
//!
//! Upstream's strategies of claims and their templates ask the namespace; here kinds cannot, so this plugin does, in the same words. The spec of
//! a claim never changes, and neither does what was allocated with such access: neither is asked for again.

use super::list;
use async_trait::async_trait;
use keles_api::{Object, Path, Problems, Status};
use keles_registry::{Admission, Attributes, Operation};
use serde_json::Value;

pub struct ClaimAdminAccess;

const LABEL: &str = "resource.kubernetes.io/admin-access";

#[async_trait]
impl Admission for ClaimAdminAccess {
    fn name(&self) -> &'static str {
        "ClaimAdminAccess"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        let written = matches!((a.operation, a.request.subresource.as_str()), (Operation::Create, "") | (Operation::Update, "status"));
        written && a.info.served[0].group == "resource.k8s.io" && matches!(a.info.plural, "resourceclaims" | "resourceclaimtemplates")
    }
    async fn validate(&self, a: &Attributes<'_>, o: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        let Some((o, at)) = o.and_then(|o| asked(a, o).map(|at| (o, at))) else { return Ok(()) };
        let namespace = a.registry.read("", "namespaces", "", &a.request.namespace);
        if namespace.is_some_and(|n| n.label(LABEL) == Some("true")) {
            return Ok(());
        }
        let mut p = Problems::new();
        p.forbidden(&at.child("adminAccess"), format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace"));
        Err(Status::invalid("resource.k8s.io", a.info.kind, o.name(), &p))
    }
}

/// The first place that asks for such access; upstream names a template's by the place in its claim.
fn asked(a: &Attributes<'_>, o: &Object) -> Option<Path> {
    if a.request.subresource == "status" {
        let granted = |o: &Object| list(o.at(&["status", "allocation", "devices", "results"])).position(|r| r["adminAccess"] == true);
        let index = granted(o).filter(|_| a.old.and_then(granted).is_none())?;
        return Some(Path::new("status").child("allocation").child("devices").child("results").index(index));
    }
    let spec: &Value = if a.info.plural == "resourceclaims" { o.at(&["spec"]) } else { o.at(&["spec", "spec"]) };
    let index = list(&spec["devices"]["requests"]).position(|r| r["exactly"]["adminAccess"] == true)?;
    Some(Path::new("spec").child("devices").child("requests").index(index))
}
