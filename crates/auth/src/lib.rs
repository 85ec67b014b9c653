//! Who asks, and may they: authenticators, authorizers and the bootstrap policy.
//!
//! Entry points: [`tokens::Tokens`] and [`x509::user`] find a [`User`]; [`rbac::Authorizer`] decides over [`Attributes`];
//! [`bootstrap::policy`] is what a new cluster starts with. Invariants: `system:masters` is always allowed, no other name is special to
//! RBAC; decisions read an index that is rebuilt when a role or binding changed, never per request.
//! The authenticators stand in [`authenticators`], the authorizers in [`authorizers`]: one file and one row each.

pub mod attributes;
pub mod authenticators;
pub mod authorizers;
pub mod bootstrap;
pub mod delegated;
pub mod durations;
pub mod expression;
pub mod node;
pub mod outbound;
pub mod rbac;
pub mod tokens;
pub mod ttl_cache;
pub mod x509;

pub use attributes::{Attributes, Selectors};
pub use keles_registry::User;

pub const ANONYMOUS: &str = "system:anonymous";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const MASTERS: &str = "system:masters";
pub const NODES: &str = "system:nodes";
pub const NODE_PREFIX: &str = "system:node:";
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// Who shows no credentials.
pub fn anonymous() -> User {
    User { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() }
}

/// A user with the group of all authenticated users.
pub fn user(name: impl Into<String>, groups: &[&str]) -> User {
    let mut u = User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() };
    mark_authenticated(&mut u);
    u
}

/// The user of a ServiceAccount.
pub fn service_account(namespace: &str, name: &str, uid: &str) -> User {
    let mut u = user(format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"), &[SERVICE_ACCOUNTS, &format!("{SERVICE_ACCOUNTS}:{namespace}")]);
    u.uid = uid.into();
    u
}

/// `system:serviceaccount:NAMESPACE:NAME` as its two names.
pub fn service_account_names(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

pub fn mark_authenticated(u: &mut User) {
    if !u.groups.iter().any(|g| g == AUTHENTICATED || g == UNAUTHENTICATED) {
        u.groups.push(AUTHENTICATED.into());
    }
}
