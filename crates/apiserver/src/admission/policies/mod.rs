//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: admission in CEL, without a server to call (KEP-3488, KEP-3962).
//!
//! A policy acts through its bindings, with the parameters each names. An expression that does not compile fails when it is evaluated, as
//! its failure policy says; what a policy's status tells of types is the controllers' work (`validating_policy_status`).

mod config;
mod mutating;
mod params;
mod validating;

pub use mutating::MutatingPolicies;
pub use validating::ValidatingPolicies;

use super::Later;
use super::dynamic::conditions::{Asks, Scene, Verdict, about};
use super::dynamic::subject;
use config::{Binding, Policy};
use keles_api::{Object, Status};
use keles_cel::Activation;
use keles_registry::{Attributes, Served};
use params::Params;
use serde_json::Value;
use std::sync::Arc;

/// What is the same for all policies of a request.
struct Stage<'a> {
    a: &'a Attributes<'a>,
    server: &'a Later,
    namespace: Option<Arc<Object>>,
}

/// A policy with one binding and one parameter, about to be evaluated.
struct Turn<'a> {
    policy: &'a Policy,
    binding: &'a Binding,
    /// Trees the evaluation borrows.
    object: Value,
    old_object: Value,
    request: Value,
    namespace: Value,
    params: Value,
    asks: Asks<'a>,
    about: keles_cel::Check,
    version: Served,
}

impl Turn<'_> {
    fn activation(&self) -> Activation<'_> {
        let scene = Scene { object: &self.object, old_object: &self.old_object, request: &self.request, namespace: &self.namespace, about: self.about.clone() };
        scene.activation(&self.asks).bind("params", keles_cel::Value::json(&self.params)).variables(self.policy.variables.clone())
    }
}

/// A policy that is about an object.
struct Bound<'t> {
    /// The version it sees it in.
    version: Served,
    /// The bindings through which it acts, with the parameters of each.
    bindings: Vec<(&'t Binding, Result<Params, String>)>,
}

impl<'a> Stage<'a> {
    fn new(a: &'a Attributes<'a>, server: &'a Later, object: Option<&Object>) -> Self {
        let of_request = || (!a.request.namespace.is_empty()).then(|| a.registry.read("", "namespaces", "", &a.request.namespace)).flatten();
        let own = (a.info.plural == "namespaces" && a.info.served[0].group.is_empty()).then(|| object.or(a.old).cloned().map(Arc::new)).flatten();
        Stage { a, server, namespace: own.or_else(of_request) }
    }

    fn shown(&self, o: Option<&Object>, version: &Served) -> Value {
        o.map_or(Value::Null, |o| subject::in_version(self.a, o, version).0)
    }

    /// How a policy acts on the object as it is now; `None`: it is not about it.
    async fn bound<'t>(&self, policy: &'t Policy, object: Option<&Object>) -> Option<Bound<'t>> {
        let version = policy.matching.version(self.a).filter(|_| policy.matching.selects(self.a, object, self.namespace.as_deref()))?;
        let mut bindings = Vec::new();
        for binding in &policy.bindings {
            if let Some(m) = &binding.matching
                && ((!m.rules.is_empty() && m.version(self.a).is_none()) || !m.selects(self.a, object, self.namespace.as_deref()))
            {
                continue;
            }
            bindings.push((binding, params::of(self.a, policy, binding).await));
        }
        Some(Bound { version, bindings })
    }

    /// Every turn of a policy for the object as it is now; problems before an evaluation are told by binding.
    fn turns<'t>(&'t self, policy: &'t Policy, object: Option<&Object>, bound: Option<Bound<'t>>) -> Vec<Result<Turn<'t>, (&'t Binding, String)>> {
        let Some(Bound { version, bindings }) = bound else { return Vec::new() };
        let mut all = Vec::new();
        for (binding, params) in bindings {
            let params = match params {
                Ok(Params::None) => vec![Value::Null],
                Ok(Params::Some(all)) => all,
                Ok(Params::Absent) => continue,
                Err(why) => {
                    all.push(Err((binding, why)));
                    continue;
                }
            };
            for params in params {
                all.push(Ok(Turn {
                    policy,
                    binding,
                    object: self.shown(object, &version),
                    old_object: self.shown(self.a.old, &version),
                    request: subject::request(self.a, &version),
                    namespace: self.namespace.as_deref().map_or(Value::Null, |n| n.0.clone()),
                    params,
                    asks: Asks::new(self.server, &self.a.request.user),
                    about: about(self.a),
                    version,
                }));
            }
        }
        all
    }
}

/// Whether the policy's own conditions let a turn happen; `Err` is their failure.
fn applies(turn: &Turn<'_>) -> Result<bool, String> {
    match turn.policy.conditions.verdict(&turn.activation()) {
        Verdict::Matches => Ok(true),
        Verdict::Leaves => Ok(false),
        Verdict::Failed(why) => Err(why),
    }
}

/// A refusal in upstream's shape: forbidden by its words, of the code that its reason has.
fn refused(a: &Attributes<'_>, object: Option<&Object>, reason: &str, message: String) -> Status {
    let name = object.or(a.old).map_or(a.request.name.as_str(), |o| o.name()).to_owned();
    let mut s = Status::forbidden(&a.request.group, &a.request.plural, &name, &message).with_causes(vec![keles_api::Cause { message, ..Default::default() }]);
    s.reason = if reason.is_empty() { "Invalid" } else { reason }.into();
    s.code = match s.reason.as_ref() {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    s
}
