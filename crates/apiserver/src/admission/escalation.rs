//! Nobody grants what they do not hold (upstream does this in the storage of roles and bindings, with the same texts).
//!
//! A role may be written by who holds all of its rules, or the verb `escalate` on it; a binding by who holds all rules of the role it
//! refers to, or the verb `bind` on that role.

use super::is;
use crate::server::Inner;
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_auth::rbac::{Rule, is_superuser, not_covered};
use keles_auth::{Attributes as Question, User};
use keles_registry::{Admission, Attributes, Operation};
use serde::Deserialize;
use std::sync::{Arc, OnceLock, Weak};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The server whose authorizer is asked; set once it stands.
pub type Later = Arc<OnceLock<Weak<Inner>>>;

pub struct Escalation {
    pub server: Later,
}

#[async_trait]
impl Admission for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        let writes = matches!(a.operation, Operation::Create | Operation::Update);
        writes && !is_superuser(&a.request.user) && ["roles", "clusterroles", "rolebindings", "clusterrolebindings"].iter().any(|p| is(a, GROUP, p))
    }
    async fn validate(&self, a: &Attributes<'_>, o: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        let (Some(o), Some(server)) = (o, self.server.get().and_then(Weak::upgrade)) else { return Ok(()) };
        if a.old.is_some_and(|old| ["rules", "roleRef", "subjects", "aggregationRule"].iter().all(|f| old.at(&[f]) == o.at(&[f]))) {
            return Ok(());
        }
        if a.info.plural.ends_with("bindings") { binding(&server, a, o).await } else { role(&server, a, o).await }
    }
}

async fn role(server: &Inner, a: &Attributes<'_>, o: &Object) -> Result<(), Status> {
    let user = &a.request.user;
    if may(server, user, "escalate", a.info.plural, o.name(), &a.request.namespace).await {
        return Ok(());
    }
    let mut wanted: Vec<Rule> = Option::deserialize(o.at(&["rules"])).ok().flatten().unwrap_or_default();
    if !o.at(&["aggregationRule"]).is_null() {
        // What it will aggregate is not known: it counts as everything.
        let all = || vec!["*".to_owned()];
        wanted.push(Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() });
    }
    check(server, a, o, &wanted)
}

async fn binding(server: &Inner, a: &Attributes<'_>, o: &Object) -> Result<(), Status> {
    let (kind, name) = (o.str_at(&["roleRef", "kind"]), o.str_at(&["roleRef", "name"]));
    let plural = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
    if may(server, &a.request.user, "bind", plural, name, &a.request.namespace).await {
        return Ok(());
    }
    let Some(rules) = server.authorizer.role(kind, name, &a.request.namespace) else {
        return Err(Status::not_found(GROUP, plural, name));
    };
    check(server, a, o, &rules)
}

async fn may(server: &Inner, user: &User, verb: &str, plural: &str, name: &str, namespace: &str) -> bool {
    server.allows(&Question { verb, group: GROUP, version: "v1", resource: plural, namespace, name, ..Question::of(user) }).await
}

fn check(server: &Inner, a: &Attributes<'_>, o: &Object, wanted: &[Rule]) -> Result<(), Status> {
    let user = &a.request.user;
    let held = server.authorizer.rules(user, &a.request.namespace);
    let lacking = not_covered(&held.iter().collect::<Vec<_>>(), wanted);
    if lacking.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
    let rules: Vec<String> = lacking.iter().map(Rule::compact).collect();
    let why = format!("user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}", user.name, groups.join(" "), rules.join("\n"));
    Err(Status::forbidden(GROUP, a.info.plural, o.name(), why))
}
