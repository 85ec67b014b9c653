//! A request as webhooks and policies see it: the `AdmissionRequest` of admission.k8s.io/v1, and objects in the version they ask for.

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

/// The object in a served version, from the storage version.
pub fn in_version(a: &Attributes<'_>, o: &Object, to: &Served) -> Object {
    convert(a, o, &a.info.served[0], to)
}

/// An object of a served version brought back to the storage version.
pub fn to_storage(a: &Attributes<'_>, o: &Object, from: &Served) -> Object {
    convert(a, o, from, &a.info.served[0])
}

fn convert(a: &Attributes<'_>, o: &Object, from: &Served, to: &Served) -> Object {
    let mut o = o.clone();
    if a.operation == Operation::Connect {
        return o; // options of a stream have one version
    }
    let name = |s: &Served| GroupVersion::new(s.group, s.version).to_string();
    o.set_type(&name(to), a.info.kind);
    if from != to
        && let Some(k) = a.registry.kind(from.group, from.version, a.info.plural)
    {
        k.convert(&mut o, &name(from), &name(to));
    }
    o
}

/// `request` without `uid`, `object` and `oldObject`. `wanted` is the version the hook asked for.
pub fn request(a: &Attributes<'_>, wanted: &Served) -> Value {
    let r = a.request;
    let asked = a.info.served.iter().find(|s| s.group == r.group && s.version == r.version).unwrap_or(wanted);
    let subresource = a.info.subresources.iter().find(|s| s.name == r.subresource && a.operation == Operation::Connect);
    let shown = subresource.map_or(a.info.kind, |s| s.kind);
    let mut v = json!({
        "kind": kind(wanted, shown),
        "resource": resource(wanted, a.info.plural),
        "requestKind": kind(asked, shown),
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
