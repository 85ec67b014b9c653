//! `matchConditions`: all must be true for a hook to be called.

use crate::admission::Later;
use crate::server::Inner;
use keles_auth::{Attributes as Question, User};
use keles_cel::limits::MATCH_CONDITIONS_COST_BUDGET;
use keles_cel::uses::{Admission as Variables, admission_request, namespace};
use keles_cel::{Activation, Authorizer, Budget, Check, Decision, Environment, Program, Value};
use keles_registry::Attributes;
use serde_json::Value as Json;
use std::sync::{Arc, Weak};
use tokio::runtime::{Handle, RuntimeFlavor};

/// Conditions compiled once a configuration.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Vec<Condition>);

#[derive(Clone, Debug)]
struct Condition {
    name: String,
    /// A condition that does not compile fails whenever it is looked at.
    program: Result<Program, String>,
}

/// What the conditions say.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Matches,
    /// One of them is false.
    Leaves,
    Failed(String),
}

impl Conditions {
    pub fn parse(list: &Json) -> Conditions {
        Conditions::parse_in(&Variables::MATCH_CONDITION.environment(), list)
    }
    /// With the variables of a policy.
    pub fn parse_in(environment: &Environment, list: &Json) -> Conditions {
        let one = |c: &Json| {
            let text = c["expression"].as_str().unwrap_or_default();
            Condition { name: c["name"].as_str().unwrap_or_default().to_owned(), program: environment.compile(text).map_err(|e| format!("compilation failed: {e}")) }
        };
        Conditions(list.as_array().into_iter().flatten().map(one).collect())
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A false condition outweighs one that fails.
    pub fn verdict(&self, activation: &Activation<'_>) -> Verdict {
        let mut budget = Budget::new(MATCH_CONDITIONS_COST_BUDGET);
        let mut failed = Vec::new();
        for c in &self.0 {
            let value = match &c.program {
                Ok(p) => p.eval(activation, &mut budget).map_err(|e| e.to_string()),
                Err(why) => Err(why.clone()),
            };
            match value.map(|v| v.as_bool()) {
                Ok(Some(true)) => {}
                Ok(Some(false)) => return Verdict::Leaves,
                Ok(None) => failed.push(format!("condition {:?} is not a boolean", c.name)),
                Err(why) => failed.push(format!("expression '{}' resulted in error: {why}", c.name)),
            }
        }
        if failed.is_empty() { Verdict::Matches } else { Verdict::Failed(failed.join(", ")) }
    }
}

/// Trees that an activation borrows.
pub struct Scene<'a> {
    pub object: &'a Json,
    pub old_object: &'a Json,
    pub request: &'a Json,
    pub namespace: &'a Json,
    /// The resource of the request, for `authorizer.requestResource`.
    pub about: Check,
}

/// What `authorizer.requestResource` asks about.
pub fn about(a: &Attributes<'_>) -> Check {
    let r = a.request;
    Check { group: r.group.clone(), resource: r.plural.clone(), subresource: r.subresource.clone(), namespace: r.namespace.clone(), name: r.name.clone(), ..Check::default() }
}

impl<'a> Scene<'a> {
    pub fn activation(&self, authorizer: &'a dyn Authorizer) -> Activation<'a> {
        Activation::new()
            .bind("object", Value::json(self.object))
            .bind("oldObject", Value::json(self.old_object))
            .bind("request", Value::typed(self.request, &admission_request()))
            .bind("namespaceObject", Value::typed(self.namespace, &namespace()))
            .bind("authorizer", Value::authorizer(authorizer))
            .bind("authorizer.requestResource", Value::resource_check(authorizer, self.about.clone()))
    }
}

/// The server's authorizers, asked for the request's user or a ServiceAccount.
pub struct Asks<'a> {
    server: Option<Arc<Inner>>,
    user: &'a User,
}

impl<'a> Asks<'a> {
    pub fn new(server: &Later, user: &'a User) -> Self {
        Asks { server: server.get().and_then(Weak::upgrade), user }
    }
}

impl Authorizer for Asks<'_> {
    fn authorize(&self, check: &Check) -> Decision {
        let Some(server) = &self.server else { return Decision { error: Some("the server is not ready".into()), ..Decision::default() } };
        let account;
        let user = match &check.service_account {
            Some((namespace, name)) => {
                account = keles_auth::user(&format!("system:serviceaccount:{namespace}:{name}"), &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")]);
                &account
            }
            None => self.user,
        };
        let selectors = keles_auth::Selectors::parse(check.field_selector.as_deref().unwrap_or_default(), check.label_selector.as_deref().unwrap_or_default());
        let question = Question {
            verb: &check.verb,
            group: &check.group,
            version: "*",
            resource: &check.resource,
            subresource: &check.subresource,
            namespace: &check.namespace,
            name: &check.name,
            path: check.path.as_deref().unwrap_or_default(),
            selectors: selectors.as_ref(),
            ..Question::of(user)
        };
        Decision { allowed: now(server.allows(&question)), ..Decision::default() }
    }
}

/// Waits for an answer in the middle of an evaluation, which cannot: only webhook authorizers and conversion webhooks make it wait at all.
pub fn now<T>(answer: impl Future<Output = T>) -> T {
    match Handle::try_current() {
        Ok(h) if h.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(|| h.block_on(answer)),
        _ => futures::executor::block_on(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Nobody;
    impl Authorizer for Nobody {
        fn authorize(&self, _: &Check) -> Decision {
            Decision::default()
        }
    }

    fn verdict(expressions: &[&str]) -> Verdict {
        let list: Vec<Json> = expressions.iter().map(|e| json!({"name": "c", "expression": e})).collect();
        let (object, none) = (json!({"metadata": {"name": "a"}}), Json::Null);
        let request = json!({"operation": "CREATE"});
        let scene = Scene { object: &object, old_object: &none, request: &request, namespace: &none, about: Check { resource: "pods".into(), ..Check::default() } };
        Conditions::parse(&json!(list)).verdict(&scene.activation(&Nobody))
    }

    #[test]
    fn all_conditions_must_hold_and_a_false_one_outweighs_a_failing_one() {
        assert_eq!(verdict(&["object.metadata.name == 'a'", "request.operation == 'CREATE'", "oldObject == null"]), Verdict::Matches);
        assert_eq!(verdict(&["object.spec.x == 1", "object.metadata.name == 'b'"]), Verdict::Leaves);
        assert!(matches!(verdict(&["object.spec.x == 1"]), Verdict::Failed(why) if why.contains("no such key")));
        assert_eq!(verdict(&["authorizer.group('').resource('pods').check('get').allowed()"]), Verdict::Leaves);
        assert_eq!(verdict(&["authorizer.requestResource.check('get').allowed()"]), Verdict::Leaves);
    }
}
