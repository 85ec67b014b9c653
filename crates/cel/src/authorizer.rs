//! The `authorizer` variable: checks built up by calls, decided by the caller's [`Authorizer`].
//!
//! Source: k8s.io/apiserver/pkg/cel/library, authz; KEP-3488, KEP-4601.

use crate::error::{EvalError, Result};
use crate::value::Value;
use keles_api::names;
use std::fmt;
use std::sync::Arc;

/// What one `check` asks. Empty texts are unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Instead of the request's user: namespace and name of a ServiceAccount.
    pub service_account: Option<(String, String)>,
    pub verb: String,
    /// A non-resource path; all below is unset then.
    pub path: Option<String>,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// As written; the caller parses, and leaves it out where it does not parse, as upstream.
    pub field_selector: Option<String>,
    pub label_selector: Option<String>,
}

/// The answer to a [`Check`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    /// The text of the authorizer's error.
    pub error: Option<String>,
}

/// Decides for the user of the request at hand. Synchronous: where the answer takes waiting, the caller waits on a thread that may block.
pub trait Authorizer: Sync {
    fn authorize(&self, check: &Check) -> Decision;
}

/// A value of the library's types.
#[derive(Clone)]
pub enum Authz<'a> {
    Authorizer(&'a dyn Authorizer, Check),
    Path(&'a dyn Authorizer, Check),
    Group(&'a dyn Authorizer, Check),
    Resource(&'a dyn Authorizer, Check),
    Decision(Decision),
}

impl fmt::Debug for Authz<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Authz::Authorizer(_, c) | Authz::Path(_, c) | Authz::Group(_, c) | Authz::Resource(_, c) => write!(f, "{}({c:?})", self.type_name()),
            Authz::Decision(d) => write!(f, "{d:?}"),
        }
    }
}

impl<'a> Authz<'a> {
    pub fn type_name(&self) -> &'static str {
        match self {
            Authz::Authorizer(..) => "kubernetes.authorization.Authorizer",
            Authz::Path(..) => "kubernetes.authorization.PathCheck",
            Authz::Group(..) => "kubernetes.authorization.GroupCheck",
            Authz::Resource(..) => "kubernetes.authorization.ResourceCheck",
            Authz::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}

impl<'a> Value<'a> {
    /// The `authorizer` variable.
    pub fn authorizer(a: &'a dyn Authorizer) -> Self {
        value(Authz::Authorizer(a, Check::default()))
    }
    /// The `authorizer.requestResource` variable: a check of the request's own resource, set but for the verb.
    pub fn resource_check(a: &'a dyn Authorizer, check: Check) -> Self {
        value(Authz::Resource(a, check))
    }
}

fn value(a: Authz<'_>) -> Value<'_> {
    Value::Authz(Arc::new(a))
}

/// One call on a value of the library.
pub(crate) fn call<'a>(function: &str, args: &[Value<'a>]) -> Result<Value<'a>> {
    let Some(Value::Authz(target)) = args.first() else { return Err(EvalError::no_overload()) };
    let text = |i: usize| args.get(i).and_then(Value::as_str).ok_or_else(EvalError::no_overload);
    Ok(match (&**target, function) {
        (Authz::Authorizer(a, c), "path") => {
            let path = text(1)?;
            if path.trim().is_empty() {
                return Err(EvalError::new("path must not be empty"));
            }
            value(Authz::Path(*a, Check { path: Some(path.into()), ..c.clone() }))
        }
        (Authz::Authorizer(a, c), "group") => value(Authz::Group(*a, Check { group: text(1)?.into(), ..c.clone() })),
        (Authz::Authorizer(a, c), "serviceAccount") => {
            let (namespace, name) = (text(1)?, text(2)?);
            if let Some(problem) = names::dns_subdomain(name, false).first() {
                return Err(EvalError::new(format!("Invalid service account name: {problem}")));
            }
            if let Some(problem) = names::dns_label(namespace, false).first() {
                return Err(EvalError::new(format!("Invalid service account namespace: {problem}")));
            }
            value(Authz::Authorizer(*a, Check { service_account: Some((namespace.into(), name.into())), ..c.clone() }))
        }
        (Authz::Group(a, c), "resource") => {
            let resource = text(1)?;
            if resource.trim().is_empty() {
                return Err(EvalError::new("resource must not be empty"));
            }
            value(Authz::Resource(*a, Check { resource: resource.into(), ..c.clone() }))
        }
        (Authz::Resource(a, c), "subresource") => value(Authz::Resource(*a, Check { subresource: text(1)?.into(), ..c.clone() })),
        (Authz::Resource(a, c), "namespace") => value(Authz::Resource(*a, Check { namespace: text(1)?.into(), ..c.clone() })),
        (Authz::Resource(a, c), "name") => value(Authz::Resource(*a, Check { name: text(1)?.into(), ..c.clone() })),
        (Authz::Resource(a, c), "fieldSelector") => value(Authz::Resource(*a, Check { field_selector: Some(text(1)?.into()), ..c.clone() })),
        (Authz::Resource(a, c), "labelSelector") => value(Authz::Resource(*a, Check { label_selector: Some(text(1)?.into()), ..c.clone() })),
        (Authz::Path(a, c) | Authz::Resource(a, c), "check") => value(Authz::Decision(a.authorize(&Check { verb: text(1)?.into(), ..c.clone() }))),
        (Authz::Decision(d), "allowed") => d.allowed.into(),
        (Authz::Decision(d), "reason") => d.reason.clone().into(),
        (Authz::Decision(d), "errored") => d.error.is_some().into(),
        (Authz::Decision(d), "error") => d.error.clone().unwrap_or_default().into(),
        _ => return Err(EvalError::no_overload()),
    })
}
