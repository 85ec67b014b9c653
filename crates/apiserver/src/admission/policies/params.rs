//! The parameters that a binding names: one object, or all that a selector chooses.

use super::config::{Binding, Policy};
use crate::chain::now;
use keles_api::{GroupVersion, Object, Status};
use keles_auth::User;
use keles_registry::{AnyKind, Attributes, Call, Query, Registry, Request as About, Scope, Verb};
use serde_json::Value;

pub enum Params {
    /// The policy takes none.
    None,
    Some(Vec<Value>),
    /// There are none, and the binding is content with that.
    Absent,
}

/// `Err` is what upstream says when parameters are missing that must be there.
pub async fn of(a: &Attributes<'_>, policy: &Policy, binding: &Binding) -> Result<Params, String> {
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
    let chosen = |o: &Object| r.selector.as_ref().is_none_or(|s| s.matches_object(o));
    let all: Vec<Value> = if info.served[0].version != version {
        let found = in_version(a.registry, &*k, version, namespace, &r.name).await.map_err(|s| s.message)?;
        found.into_iter().filter(|o| !r.name.is_empty() || chosen(o)).map(|o| o.0).collect()
    } else if r.name.is_empty() {
        a.registry.read_all(group, info.plural, namespace).into_iter().filter(chosen).map(|o| o.0).collect()
    } else {
        a.registry.read(group, info.plural, namespace, &r.name).into_iter().map(|o| o.0.clone()).collect()
    };
    match (all.is_empty(), r.may_be_absent) {
        (false, _) => Ok(Params::Some(all)),
        (true, true) => Ok(Params::Absent),
        (true, false) => Err("no params found for policy binding with `Deny` parameterNotFoundAction".into()),
    }
}

/// One object, or all of a namespace without a name, as a version shows them that is not the stored one: read as a client would, so that a
/// webhook converts them where the kind has one.
async fn in_version(registry: &Registry, kind: &dyn AnyKind, version: &str, namespace: &str, name: &str) -> Result<Vec<Object>, Status> {
    let info = kind.info();
    let group = info.served[0].group;
    let request = About {
        user: User { name: "system:apiserver".into(), groups: vec![keles_auth::MASTERS.into(), keles_auth::AUTHENTICATED.into()], ..User::default() },
        group: group.into(),
        version: version.into(),
        plural: info.plural.into(),
        namespace: namespace.into(),
        name: name.into(),
        now: now(),
        ..About::default()
    };
    // As fresh as the caches, like every other look at parameters.
    let call = Call { request, query: Query::parse("resourceVersion=0"), ..Call::default() };
    let read = Box::pin(registry.serve(if name.is_empty() { Verb::List } else { Verb::Get }, call)).await;
    let answer = match read {
        Err(s) if s.code == 404 && !name.is_empty() => return Ok(Vec::new()),
        other => other?,
    };
    let mut tree: Value = serde_json::from_slice(&answer.body.collect()).map_err(Status::internal)?;
    let all = if name.is_empty() { tree["items"].as_array_mut().map(std::mem::take).unwrap_or_default() } else { vec![tree] };
    let api_version = GroupVersion::new(group, version).to_string();
    // Items of built-in kinds carry no type.
    let typed = |v: Value| {
        let mut o = Object(v);
        o.set_type(&api_version, info.kind);
        o
    };
    Ok(all.into_iter().map(typed).collect())
}
