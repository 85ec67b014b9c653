//! The authorizers in the order the operator gave: the first that allows or denies decides.
//!
//! Entry point: [`Chain`], built from [`config::Options`] by the API server. One file and one row of [`MODES`] an authorizer. Invariants:
//! `system:masters` is allowed before any of them is asked; an authorizer without an opinion says why, and the reasons end up in the
//! refusal. RBAC and Node live in [`crate::rbac`] and [`crate::node`], here they are only put in line.

pub mod abac;
pub mod always;
pub mod config;
pub mod webhook;

use crate::rbac::{Reason, Rule, is_superuser};
use crate::{Attributes, User};
use async_trait::async_trait;
use std::sync::{Arc, PoisonError, RwLock};

/// An authorizer mode of `--authorization-mode`.
pub struct Mode {
    pub name: &'static str,
    /// Whether it may stand in `AuthorizationConfiguration` more than once.
    pub several: bool,
}

/// Every mode there is, in upstream's names.
pub const MODES: &[Mode] = &[
    Mode { name: "AlwaysAllow", several: false },
    Mode { name: "AlwaysDeny", several: false },
    Mode { name: "ABAC", several: false },
    Mode { name: "Webhook", several: true },
    Mode { name: "RBAC", several: false },
    Mode { name: "Node", several: false },
];

/// What an authorizer thinks of a request.
pub enum Decision {
    Allow(Reason),
    /// Nobody after it is asked.
    Deny(String),
    NoOpinion(String),
}

/// What a user may do in a namespace, as far as an authorizer can tell.
#[derive(Default)]
pub struct Known {
    pub rules: Vec<Rule>,
    /// Why there may be more.
    pub incomplete: Option<String>,
}

#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// For logs, metrics and audit annotations.
    fn name(&self) -> &str;
    async fn decide(&self, a: &Attributes<'_>) -> Decision;
    /// For SelfSubjectRulesReview.
    fn rules(&self, user: &User, namespace: &str) -> Known;
}

#[async_trait]
impl Authorizer for crate::rbac::Authorizer {
    fn name(&self) -> &str {
        "RBAC"
    }
    async fn decide(&self, a: &Attributes<'_>) -> Decision {
        self.allows(a).map_or_else(|| Decision::NoOpinion(String::new()), Decision::Allow)
    }
    fn rules(&self, user: &User, namespace: &str) -> Known {
        Known { rules: crate::rbac::Authorizer::rules(self, user, namespace), incomplete: None }
    }
}

#[async_trait]
impl Authorizer for crate::node::NodeAuthorizer {
    fn name(&self) -> &str {
        "Node"
    }
    async fn decide(&self, a: &Attributes<'_>) -> Decision {
        crate::node::NodeAuthorizer::decide(self, a)
    }
    fn rules(&self, user: &User, _: &str) -> Known {
        let incomplete = crate::node::node_name(user).map(|_| "node authorizer does not support user rule resolution".to_owned());
        Known { rules: Vec::new(), incomplete }
    }
}

/// The authorizers in order, which a configuration file may change while the server runs. Clones are the same chain.
#[derive(Clone)]
pub struct Chain(Arc<RwLock<Arc<[Arc<dyn Authorizer>]>>>);

impl Chain {
    pub fn new(all: Vec<Arc<dyn Authorizer>>) -> Chain {
        Chain(Arc::new(RwLock::new(all.into())))
    }
    /// Others from now on; a question that is being answered keeps those it began with.
    pub fn replace(&self, all: Vec<Arc<dyn Authorizer>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = all.into();
    }
    fn all(&self) -> Arc<[Arc<dyn Authorizer>]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why it is allowed; `Err` says why not (maybe nothing).
    pub async fn decide(&self, a: &Attributes<'_>) -> Result<Reason, String> {
        if is_superuser(a.user) {
            return Ok(Reason::Superuser);
        }
        match self.ask(a).await {
            Decision::Allow(reason) => Ok(reason),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(why),
        }
    }

    /// What the authorizers say, `Deny` told apart from having no opinion (SubjectAccessReview shows it).
    pub async fn ask(&self, a: &Attributes<'_>) -> Decision {
        if is_superuser(a.user) {
            return Decision::Allow(Reason::Superuser);
        }
        let mut reasons = Vec::new();
        for authorizer in self.all().iter() {
            match authorizer.decide(a).await {
                Decision::NoOpinion(why) if why.is_empty() => {}
                Decision::NoOpinion(why) => reasons.push(why),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    /// All rules the authorizers know of, and why there may be more.
    pub fn rules(&self, user: &User, namespace: &str) -> Known {
        let mut all = Known::default();
        let mut reasons = Vec::new();
        for authorizer in self.all().iter() {
            let known = authorizer.rules(user, namespace);
            all.rules.extend(known.rules);
            reasons.extend(known.incomplete);
        }
        all.incomplete = (!reasons.is_empty()).then(|| if reasons.len() == 1 { reasons.remove(0) } else { format!("[{}]", reasons.join(", ")) });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(&'static str);
    #[async_trait]
    impl Authorizer for Says {
        fn name(&self) -> &str {
            self.0
        }
        async fn decide(&self, _: &Attributes<'_>) -> Decision {
            match self.0 {
                "allow" => Decision::Allow(Reason::Text("yes".into())),
                "deny" => Decision::Deny("no".into()),
                other => Decision::NoOpinion(other.into()),
            }
        }
        fn rules(&self, _: &User, _: &str) -> Known {
            Known { rules: Vec::new(), incomplete: Some(self.0.into()) }
        }
    }

    fn chain(names: &[&'static str]) -> Chain {
        Chain::new(names.iter().map(|n| Arc::new(Says(n)) as Arc<dyn Authorizer>).collect())
    }

    #[tokio::test]
    async fn the_first_with_an_opinion_decides_and_the_others_say_why() {
        let user = crate::user("jane", &[]);
        let a = Attributes { verb: "get", resource: "pods", ..Attributes::of(&user) };
        assert!(chain(&["maybe", "allow", "deny"]).decide(&a).await.is_ok());
        assert_eq!(chain(&["maybe", "deny", "allow"]).decide(&a).await.err().as_deref(), Some("no"));
        assert_eq!(chain(&["one", "two"]).decide(&a).await.err().as_deref(), Some("one\ntwo"));
        let master = crate::user("root", &[crate::MASTERS]);
        let c = chain(&["deny"]);
        c.clone().replace(vec![Arc::new(Says("allow"))]);
        assert!(c.decide(&a).await.is_ok(), "clones are the same chain");
        assert!(chain(&["deny"]).decide(&Attributes { user: &master, ..a }).await.is_ok(), "system:masters is asked of nobody");
        assert_eq!(chain(&["one", "two"]).rules(&user, "n").incomplete.as_deref(), Some("[one, two]"));
    }
}
