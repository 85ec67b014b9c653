//! Patches end, stay within their limits, and leave what can be read again.

use super::object;
use keles_api::TypeRef;
use keles_api::canonical::canonicalise;
use keles_api::decode::{self, FieldValidation, Format};
use keles_patch::managed::{self, OneVersion, Writer};
use keles_patch::{PatchKind, RESULT_BYTES_MAX, patch};
use keles_registry::AnyKind;
use keles_testkit::odd::{self, Source};
use serde_json::{Map, Value, json};

fn sound(k: &dyn AnyKind, ty: TypeRef) -> Value {
    let mut o = k.example().0;
    canonicalise(&mut o, ty);
    o
}

fn check(kind: PatchKind, k: &dyn AnyKind, ty: TypeRef, document: &Value) {
    let current = sound(k, ty);
    let Ok(done) = patch(kind, &current, document.to_string().as_bytes(), ty, FieldValidation::Ignore) else { return };
    let text = done.object.0.to_string();
    assert!(text.len() <= RESULT_BYTES_MAX * 2);
    decode::decode(text.as_bytes(), Format::Json, ty, k.info().kind, FieldValidation::Strict).expect("a patched object is of its type");
    if kind != PatchKind::Json && !text.contains('$') {
        // Of merges, doing it twice is doing it once, unless it carries a directive.
        let _ = patch(kind, &done.object.0, document.to_string().as_bytes(), ty, FieldValidation::Ignore);
    }
}

/// The path of something in a document, or nearly.
fn pointer(s: &mut Source, mut v: &Value) -> String {
    let mut out = String::new();
    for _ in 0..s.below(8) {
        if s.chance(12) {
            return out + "/" + &s.text().replace('~', "~0").replace('/', "~1");
        }
        match v {
            Value::Object(m) => {
                let Some((k, child)) = m.iter().nth(s.below(m.len())) else { break };
                out += "/";
                out += &k.replace('~', "~0").replace('/', "~1");
                v = child;
            }
            Value::Array(a) => {
                out += "/";
                match s.below(6) {
                    0 => return out + "-",
                    1 => return out + s.pick(&["-1", "-0", "00", "99999999999999999999", "-9223372036854775808", "9223372036854775807", "1e3", "+1", ""]),
                    _ => {}
                }
                let i = s.below(a.len());
                out += &i.to_string();
                let Some(child) = a.get(i) else { break };
                v = child;
            }
            _ => break,
        }
    }
    out
}

pub fn json_patch(data: &[u8]) {
    let mut s = Source::new(data);
    let (k, ty) = super::kind(&mut s);
    let current = sound(k, ty);
    let mut operations = Vec::new();
    while !s.is_empty() && operations.len() < 40 {
        let mut o = json!({"op": s.pick(&["add", "replace", "remove", "test", "move", "copy"]), "path": pointer(&mut s, &current)});
        match s.below(3) {
            0 => o["from"] = pointer(&mut s, &current).into(),
            1 => o["value"] = odd::any(&mut s),
            _ => {}
        }
        operations.push(o);
    }
    check(PatchKind::Json, k, ty, &operations.into());
}

pub fn merge_patch(data: &[u8]) {
    let (k, ty, document) = object(&mut Source::new(data));
    check(PatchKind::Merge, k, ty, &document);
}

pub fn strategic_patch(data: &[u8]) {
    let mut s = Source::new(data);
    let (k, ty) = super::kind(&mut s);
    let mut document = k.example().0;
    direct(&mut s, &mut document, 0);
    odd::mutate(&mut s, &mut document, ty);
    check(PatchKind::Strategic, k, ty, &document);
}

/// Puts directives into a patch.
fn direct(s: &mut Source, v: &mut Value, depth: usize) {
    if s.is_empty() || depth > 6 {
        return;
    }
    match v {
        Value::Object(m) => {
            let keys: Vec<String> = m.keys().cloned().collect();
            let some = s.below(keys.len());
            match s.below(6) {
                0 => drop(m.insert("$patch".into(), s.pick(&["replace", "delete", "merge", "x"]).into())),
                1 => drop(m.insert("$retainKeys".into(), keys.iter().take(some + 1).cloned().collect::<Vec<_>>().into())),
                2 => drop(m.insert(format!("$setElementOrder/{}", keys.get(some).map_or("", |k| k)), m.values().nth(some).cloned().unwrap_or_default())),
                3 => drop(m.insert(format!("$deleteFromPrimitiveList/{}", keys.get(some).map_or("", |k| k)), m.values().nth(some).cloned().unwrap_or_default())),
                _ => {}
            }
            for k in keys {
                direct(s, m.get_mut(&k).expect("a key of the map"), depth + 1);
            }
        }
        Value::Array(a) => {
            a.iter_mut().for_each(|v| direct(s, v, depth + 1));
            if s.chance(4) {
                a.push(json!({"$patch": s.pick(&["replace", "delete", "merge"])}));
            }
        }
        _ => {}
    }
}

/// An empty list is owned by nobody (structured merge: a set of fields has its items only), so one may come and go with each apply.
fn holds_empty_list(v: &Value) -> bool {
    match v {
        Value::Array(a) => a.is_empty() || a.iter().any(holds_empty_list),
        Value::Object(o) => o.values().any(holds_empty_list),
        _ => false,
    }
}

/// Who applies the same twice changes nothing; who applies nothing owns nothing.
pub fn apply(data: &[u8]) {
    let mut s = Source::new(data);
    let (k, ty, first) = object(&mut s);
    let mut second = first.clone();
    odd::mutate(&mut s, &mut second, ty);
    let version = k.example().api_version().to_owned();
    let versions = OneVersion { api_version: &version, ty };
    let writer = |manager| Writer { manager, api_version: &version, subresource: "", reset: &[], now: "2026-01-01T00:00:00Z" };
    let decoded = |v: Value, owners: Option<Value>| {
        let mut v = decode::decode(v.to_string().as_bytes(), Format::Json, ty, k.info().kind, FieldValidation::Ignore).ok()?.object;
        v.root_mut().entry("metadata").or_insert_with(|| Map::new().into());
        if let Some(m) = owners.filter(|m| !m.is_null()) {
            v.set_meta("managedFields", m);
        }
        canonicalise(&mut v.0, ty);
        Some(v.0)
    };
    let mut live: Option<Value> = None;
    for (manager, document) in [("a", &first), ("b", &second), ("a", &second), ("b", &first)] {
        let Ok(done) = managed::apply(live.as_ref(), document, s.below(4) > 0, &writer(manager), &versions) else { continue };
        let owners = done.object.pointer("/metadata/managedFields").cloned();
        let Some(object) = decoded(done.object, owners) else { continue };
        let again = managed::apply(Some(&object), document, false, &writer(manager), &versions);
        if let (Ok(again), false) = (again, holds_empty_list(document)) {
            let owners = again.object.pointer("/metadata/managedFields").cloned();
            if let Some(same) = decoded(again.object, owners) {
                assert_eq!(same, object, "applied twice as {manager}: {document}");
            }
        }
        live = Some(object);
    }
    if let Some(l) = &live {
        let mut changed = l.clone();
        odd::mutate(&mut s, &mut changed, ty);
        let owners = managed::update(Some(l), &changed, &writer("c"), &versions);
        assert!(owners.is_null() || owners.is_array());
    }
}
