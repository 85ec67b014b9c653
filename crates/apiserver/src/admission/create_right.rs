//! A PUT or an apply that creates an object needs the right to create, besides the right it was let in by. Source: upstream's handlers of
//! update and patch, which ask the authorizer again before they create.

use super::escalation::Later;
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_auth::Attributes as Question;
use keles_registry::{Admission, Attributes, Operation};
use std::sync::Weak;

pub struct CreateRight {
    pub server: Later,
}

#[async_trait]
impl Admission for CreateRight {
    fn name(&self) -> &'static str {
        "CreateRight"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && a.request.upsert
    }
    async fn validate(&self, a: &Attributes<'_>, _: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        let (r, Some(server)) = (a.request, self.server.get().and_then(Weak::upgrade)) else { return Ok(()) };
        let q = Question { verb: "create", group: &r.group, version: &r.version, resource: &r.plural, namespace: &r.namespace, name: &r.name, ..Question::of(&r.user) };
        if server.allows(&q).await { Ok(()) } else { Err(q.forbidden("")) }
    }
}
