//! A request as webhooks and policies see it: the `AdmissionRequest` of admission.k8s.io/v1, and objects in the version they ask for.

use super::conditions::now;
use super::rules::operation;
use keles_api::{GroupVersion, Object};
use keles_registry::{Attributes, Operation, Served};
use serde_json::{Value, json};

fn kind(s: &Served, kind: &str) -> Value {
    json!({"group": s.group, "version": s.version, "kind": kind})
}

fn resource(s: &Served, plural: &str) -> Value {
    json!({"group": s.group, "version": s.version, "resource": plural})
}

/// The subresource whose own kind the object is: of what is posted below an object, and of streams.
fn of_subresource<'a>(a: &'a Attributes<'_>) -> Option<&'a keles_registry::Subresource> {
    let own = matches!(a.operation, Operation::Connect | Operation::Create);
    a.info.subresources.iter().find(|s| own && s.name == a.request.subresource)
}

/// The object in a served version, from the version that the pipeline works on.
pub fn in_version(a: &Attributes<'_>, o: &Object, to: &Served) -> Object {
    convert(a, o, &worked_on(a), to)
}

/// An object of a served version brought back to the version that the pipeline works on.
pub fn to_storage(a: &Attributes<'_>, o: &Object, from: &Served) -> Object {
    convert(a, o, from, &worked_on(a))
}

/// The storage version, but of custom resources that of the request.
fn worked_on(a: &Attributes<'_>) -> Served {
    let (r, storage) = (a.request, a.info.served[0]);
    let asked = a.info.served.iter().find(|s| s.group == r.group && s.version == r.version).filter(|s| **s != storage);
    let as_asked = asked.filter(|s| a.registry.kind(s.group, s.version, a.info.plural).is_some_and(|k| k.works_as_asked()));
    as_asked.copied().unwrap_or(storage)
}

fn convert(a: &Attributes<'_>, o: &Object, from: &Served, to: &Served) -> Object {
    let mut o = o.clone();
    if of_subresource(a).is_some() {
        return o; // options of a stream, evictions and the like have one version
    }
    let name = |s: &Served| GroupVersion::new(s.group, s.version).to_string();
    let kind = (from != to).then(|| a.registry.kind(to.group, to.version, a.info.plural)).flatten();
    if let Some(k) = kind.as_ref().filter(|k| k.converts_outside()) {
        return now(k.convert_outside(vec![o], to)).ok().and_then(|mut all| all.pop()).unwrap_or_else(|| {
            tracing::warn!(kind = a.info.kind, to = to.version, "an object cannot be converted for admission; it is shown as null, which rules refuse");
            Object(Value::Null)
        });
    }
    o.set_type(&name(to), a.info.kind);
    if let Some(k) = kind {
        k.convert(&mut o, &name(from), &name(to));
    }
    o
}

/// `request` without `uid`, `object` and `oldObject`. `wanted` is the version the hook asked for.
pub fn request(a: &Attributes<'_>, wanted: &Served) -> Value {
    let r = a.request;
    let asked = a.info.served.iter().find(|s| s.group == r.group && s.version == r.version).unwrap_or(wanted);
    let kind_of = |served: &Served| match of_subresource(a) {
        Some(s) if !s.version.is_empty() => json!({"group": s.group, "version": s.version, "kind": s.kind}),
        Some(s) => kind(served, s.kind),
        None => kind(served, a.info.kind),
    };
    let mut v = json!({
        "kind": kind_of(wanted),
        "resource": resource(wanted, a.info.plural),
        "requestKind": kind_of(asked),
        "requestResource": resource(asked, a.info.plural),
        "operation": operation(a.operation),
        "userInfo": user(a),
        "dryRun": r.dry_run,
        "options": options(a),
    });
    for (field, text) in [("subResource", &r.subresource), ("requestSubResource", &r.subresource), ("name", &r.name), ("namespace", &r.namespace)] {
        if !text.is_empty() {
            v[field] = text.as_str().into();
        }
    }
    v
}

/// `authentication.k8s.io/v1` UserInfo.
fn user(a: &Attributes<'_>) -> Value {
    let u = &a.request.user;
    let mut v = json!({});
    if !u.name.is_empty() {
        v["username"] = u.name.as_str().into();
    }
    if !u.uid.is_empty() {
        v["uid"] = u.uid.as_str().into();
    }
    if !u.groups.is_empty() {
        v["groups"] = json!(u.groups);
    }
    if !u.extra.is_empty() {
        v["extra"] = json!(u.extra);
    }
    v
}

fn options(a: &Attributes<'_>) -> Value {
    let kind = match a.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut v = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if a.request.dry_run {
        v["dryRun"] = json!(["All"]);
    }
    if !a.request.field_manager.is_empty() {
        v["fieldManager"] = a.request.field_manager.as_str().into();
    }
    v
}
