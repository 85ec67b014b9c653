//! The parameters that a binding names: one object, or all that a selector chooses.

use super::config::{Binding, Policy};
use keles_registry::{Attributes, Scope};
use serde_json::Value;

pub enum Params {
    /// The policy takes none.
    None,
    Some(Vec<Value>),
    /// There are none, and the binding is content with that.
    Absent,
}

/// `Err` is what upstream says when parameters are missing that must be there.
pub fn of(a: &Attributes<'_>, policy: &Policy, binding: &Binding) -> Result<Params, String> {
    let (api_version, kind) = &policy.param_kind;
    let Some(r) = binding.param_ref.as_ref().filter(|_| !kind.is_empty()) else { return Ok(Params::None) };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let found = a.registry.kinds().into_iter().find(|k| k.info().kind == kind.as_str() && k.info().served.iter().any(|s| s.group == group && s.version == version));
    let Some(k) = found else { return Err(format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={kind}'")) };
    let info = k.info();
    let namespace = match info.scope {
        Scope::Cluster if !r.namespace.is_empty() => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
        Scope::Cluster => "",
        Scope::Namespaced if !r.namespace.is_empty() => r.namespace.as_str(),
        Scope::Namespaced if a.request.namespace.is_empty() => return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into()),
        Scope::Namespaced => a.request.namespace.as_str(),
    };
    let all: Vec<Value> = if r.name.is_empty() {
        let chosen = |o: &keles_api::Object| r.selector.as_ref().is_none_or(|s| s.matches_object(o));
        a.registry.read_all(group, info.plural, namespace).into_iter().filter(chosen).map(|o| o.0).collect()
    } else {
        a.registry.read(group, info.plural, namespace, &r.name).into_iter().map(|o| o.0).collect()
    };
    match (all.is_empty(), r.may_be_absent) {
        (false, _) => Ok(Params::Some(all)),
        (true, true) => Ok(Params::Absent),
        (true, false) => Err("no params found for policy binding with `Deny` parameterNotFoundAction".into()),
    }
}
