//! Strategic merge patch: lists merge by the schema's merge keys and strategies, with `$patch`, `$retainKeys`, `$setElementOrder/x` and
//! `$deleteFromPrimitiveList/x` (lessons 50).
//!
//! Source: k8s.io/apimachinery/pkg/util/strategicpatch/patch.go (StrategicMergeMapPatch). Order of a merged list: items of the patch in
//! its order, items only the server has keep their place relative to those of both.

use crate::merge_patch::without_nulls;
use crate::{PatchError, go_print};
use keles_api::TypeRef;
use keles_api::schema::{Scalar, Shape, Strategies};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// Merges `patch` into `doc` by the schema of its type.
pub fn strategic_merge_patch(doc: &Value, patch: &Value, ty: TypeRef) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("json: cannot unmarshal array into Go value of type map[string]interface {}".into()));
    };
    let original = doc.as_object().cloned().unwrap_or_default();
    merge_map(original, patch.clone(), Some(ty)).map(Value::Object)
}

/// What the schema says of a field that both documents have.
struct Meta<'a> {
    ty: Option<TypeRef<'a>>,
    strategies: Strategies,
    merge_key: Option<&'a str>,
}

fn meta<'a>(ty: Option<TypeRef<'a>>, field: &str) -> Result<Meta<'a>, PatchError> {
    let none = Meta { ty: None, strategies: Strategies::default(), merge_key: None };
    let Some(ty) = ty.map(|t| t.branch(true)) else { return Ok(none) };
    match ty.shape() {
        Shape::Object(o) => match o.field(field) {
            Some(f) => Ok(Meta { ty: Some(f.ty()), strategies: f.strategies(), merge_key: f.merge_key() }),
            None => Err(PatchError::Unmergeable(format!("unable to find api field in struct {} for the json field {field:?}", o.name().rsplit('.').next().unwrap_or_default()))),
        },
        Shape::Map(m) => Ok(Meta { ty: Some(m.value), ..none }),
        Shape::Scalar(Scalar::Any) => Ok(none),
        _ => Ok(none),
    }
}

fn merge_map(mut original: Object, mut patch: Object, ty: Option<TypeRef>) -> Result<Object, PatchError> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            Some("merge") => merge_map(original, patch, ty),
            _ => Err(bad_directive(&directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(&mut original, &mut patch, ty)?;
    for (key, value) in patch {
        let (key, deletes) = match key.strip_prefix(DELETE_FROM) {
            Some(field) => (field.to_owned(), true),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (None, _) if deletes => continue,
            (None, v) => without_nulls(v),
            (Some(Value::Object(had)), Value::Object(p)) => {
                let m = meta(ty, &key)?;
                Value::Object(if m.strategies.replace { p } else { merge_map(had, p, m.ty)? })
            }
            (Some(Value::Array(had)), Value::Array(p)) => {
                let m = meta(ty, &key)?;
                Value::Array(if m.strategies.merge || deletes { merge_list(had, p, &m, deletes)? } else { p })
            }
            (Some(had), _) if deletes => had,
            (Some(_), v) => without_nulls(v),
        };
        original.insert(key, merged);
    }
    Ok(original)
}

fn bad_directive(directive: &Value, patch: &Object) -> PatchError {
    PatchError::Unmergeable(format!("unknown patch type: {} in map: {}", go_print(directive), go_print(&Value::Object(patch.clone()))))
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(list) = directive else {
        return Err(PatchError::Malformed("invalid patch format of retainKeys".into()));
    };
    let named: HashSet<&str> = list.iter().filter_map(Value::as_str).collect();
    let kept = |k: &str| named.contains(k);
    let plain = |k: &str| !k.starts_with(DELETE_FROM) && !k.starts_with(SET_ORDER);
    if patch.iter().any(|(k, v)| !v.is_null() && plain(k) && !kept(k)) {
        return Err(PatchError::DoesNotApply("retainKeys list doesn't contain all fields present in the patch".into()));
    }
    original.retain(|k, _| kept(k));
    Ok(())
}

/// Lists that come with `$setElementOrder`: merged, then put into the order given.
fn ordered_lists(original: &mut Object, patch: &mut Object, ty: Option<TypeRef>) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let field = directive[SET_ORDER.len()..].to_owned();
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(PatchError::Malformed("invalid patch format of setElementOrder list".into()));
        };
        let list = |v: Option<Value>| match v {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(a)) => Ok(Some(a)),
            Some(_) => Err(PatchError::Malformed("invalid patch format of setElementOrder list".into())),
        };
        let given = list(patch.remove(&field))?;
        let had = list(original.get(&field).cloned())?;
        let m = meta(ty, &field)?;
        check_order(given.as_deref().unwrap_or_default(), &order, m.merge_key)?;
        let server_order = had.clone().unwrap_or_default();
        let merged = match (had, given) {
            (Some(had), None) => had,
            (None, Some(given)) => given,
            (Some(had), Some(given)) if m.strategies.merge => merge_list(had, given, &m, false)?,
            (Some(_), Some(given)) => given,
            (None, None) => continue,
        };
        original.insert(field, Value::Array(in_order(merged, &order, &server_order, m.merge_key)));
    }
    Ok(())
}

/// What makes items one: their merge key, or, without a key, all of them. `None`: an item without the key, which is like no other.
fn identity(v: &Value, key: Option<&str>) -> Option<String> {
    match key {
        Some(k) => v.get(k).map(Value::to_string),
        None => Some(v.to_string()),
    }
}

fn check_order(given: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    let mut rest = order.iter();
    let live = given.iter().filter(|v| v.get(PATCH).and_then(Value::as_str).is_none_or(|d| d != "delete"));
    for item in live {
        let id = identity(item, key);
        if !rest.any(|o| id.is_some() && identity(o, key) == id) {
            let (g, o) = (go_print(&Value::Array(given.to_vec())), go_print(&Value::Array(order.to_vec())));
            return Err(PatchError::Unmergeable(format!("The order in patch list:\n{g}\n doesn't match $setElementOrder list:\n{o}\n")));
        }
    }
    Ok(())
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, m: &Meta, deletes: bool) -> Result<Vec<Value>, PatchError> {
    let all = || original.iter().chain(&patch);
    if all().any(Value::is_array) {
        return Err(PatchError::DoesNotApply("lists of lists are not supported".into()));
    }
    if all().any(Value::is_object) && !all().all(Value::is_object) {
        return Err(PatchError::Unmergeable("list element types are not identical".into()));
    }
    if !all().any(Value::is_object) {
        if deletes {
            let gone: HashSet<String> = patch.iter().map(Value::to_string).collect();
            return Ok(original.into_iter().filter(|v| !gone.contains(&v.to_string())).collect());
        }
        let mut seen = HashSet::new();
        let merged: Vec<Value> = all().filter(|v| seen.insert(v.to_string())).cloned().collect();
        return Ok(in_order(merged, &patch, &original, None));
    }
    let key = m.merge_key.ok_or_else(|| PatchError::Unmergeable("cannot merge lists without merge key".into()))?;
    let (server, patch) = special_items(original, patch, key)?;
    let item_type = m.ty.and_then(|t| t.list()).map(|l| l.item);
    let mut merged = server.clone();
    let mut places = places(&merged, Some(key));
    for item in &patch {
        let id = identity(item, Some(key)).ok_or_else(|| no_merge_key(item, key))?;
        match places.get(&id) {
            Some(&i) => merged[i] = Value::Object(merge_map(object_of(&merged[i]), object_of(item), item_type)?),
            None => {
                places.insert(id, merged.len());
                merged.push(item.clone());
            }
        }
    }
    Ok(in_order(merged, &patch, &server, Some(key)))
}

fn object_of(v: &Value) -> Object {
    v.as_object().cloned().unwrap_or_default()
}

fn no_merge_key(item: &Value, key: &str) -> PatchError {
    PatchError::Unmergeable(format!("map: {} does not contain declared merge key: {key}", go_print(item)))
}

/// Carries out the items that are directives: `$patch: delete` and `$patch: replace`.
fn special_items(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let (mut plain, mut replace, mut gone) = (Vec::new(), false, HashSet::new());
    for item in patch {
        match item.get(PATCH) {
            None => plain.push(item),
            Some(d) if d == "delete" => {
                gone.insert(identity(&item, Some(key)).ok_or_else(|| no_merge_key(&item, key))?);
            }
            Some(d) if d == "replace" => replace = true,
            Some(d) if d == "merge" => return Err(PatchError::Unmergeable("merging lists cannot yet be specified in the patch".into())),
            Some(d) => return Err(bad_directive(d, &object_of(&item))),
        }
    }
    original.retain(|had| identity(had, Some(key)).is_none_or(|id| !gone.contains(&id)));
    Ok(if replace { (plain, Vec::new()) } else { (original, plain) })
}

/// Where each item of a list first stands.
fn places(list: &[Value], key: Option<&str>) -> HashMap<String, usize> {
    let mut all = HashMap::with_capacity(list.len());
    for (i, v) in list.iter().enumerate() {
        if let Some(id) = identity(v, key) {
            all.entry(id).or_insert(i);
        }
    }
    all
}

/// Items named by `order` in that order, the server's others where the server had them.
fn in_order(merged: Vec<Value>, order: &[Value], server_order: &[Value], key: Option<&str>) -> Vec<Value> {
    let (wanted, had) = (places(order, key), places(server_order, key));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for v in merged {
        let id = identity(&v, key);
        let place = |list: &HashMap<String, usize>| id.as_ref().and_then(|id| list.get(id)).copied();
        match (place(&wanted), place(&had)) {
            (Some(w), h) => ours.push((w, h, v)),
            (None, h) => theirs.push((h, v)),
        }
    }
    ours.sort_by_key(|(w, _, _)| *w);
    theirs.sort_by_key(|(h, _)| *h);
    let mut out = Vec::with_capacity(ours.len() + theirs.len());
    let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
    while let (Some((_, o, _)), Some((t, _))) = (ours.peek(), theirs.peek()) {
        let server_first = matches!((t, o), (Some(t), Some(o)) if t < o);
        out.extend(if server_first { theirs.next().map(|(_, v)| v) } else { ours.next().map(|(_, _, v)| v) });
    }
    out.extend(ours.map(|(_, _, v)| v));
    out.extend(theirs.map(|(_, v)| v));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_api::schema::builtin;
    use serde_json::json;

    fn merged(name: &str, doc: Value, patch: Value) -> Result<Value, PatchError> {
        strategic_merge_patch(&doc, &patch, builtin().get(name).unwrap())
    }
    fn spec(doc: Value, patch: Value) -> Value {
        merged("io.k8s.api.core.v1.PodSpec", doc, patch).unwrap()
    }
    fn names(v: &Value) -> Vec<&str> {
        v["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn lists_merge_by_key_with_patch_items_first() {
        let got = spec(json!({"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}), json!({"containers": [{"name": "c"}, {"name": "b", "image": "2"}]}));
        assert_eq!(names(&got), ["c", "a", "b"]);
        assert_eq!(got["containers"][2], json!({"name": "b", "image": "2"}));
    }
    #[test]
    fn service_ports_merge_by_port() {
        let got =
            merged("io.k8s.api.core.v1.ServiceSpec", json!({"ports": [{"port": 80, "name": "a"}]}), json!({"ports": [{"port": 80, "targetPort": 8080}, {"port": 443}]})).unwrap();
        assert_eq!(got["ports"], json!([{"port": 80, "name": "a", "targetPort": 8080}, {"port": 443}]));
    }
    #[test]
    fn directives_delete_replace_and_order() {
        let doc = || json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
        assert_eq!(names(&spec(doc(), json!({"containers": [{"name": "b", "$patch": "delete"}]}))), ["a", "c"]);
        assert_eq!(names(&spec(doc(), json!({"containers": [{"name": "z"}, {"$patch": "replace"}]}))), ["z"]);
        assert_eq!(names(&spec(doc(), json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}))), ["b", "c", "a"]);
        let strategy = merged(
            "io.k8s.api.apps.v1.DeploymentSpec",
            json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}),
            json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
        )
        .unwrap();
        assert_eq!(strategy, json!({"strategy": {"type": "Recreate"}}));
        let meta = merged("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", json!({"finalizers": ["a", "b"]}), json!({"$deleteFromPrimitiveList/finalizers": ["a"]})).unwrap();
        assert_eq!(meta, json!({"finalizers": ["b"]}));
        assert_eq!(spec(json!({"nodeSelector": {"a": "1"}}), json!({"nodeSelector": {"$patch": "replace", "b": "2"}})), json!({"nodeSelector": {"b": "2"}}));
    }
    #[test]
    fn lists_without_a_strategy_are_replaced_and_sets_merged() {
        assert_eq!(spec(json!({"tolerations": [{"key": "a"}]}), json!({"tolerations": [{"key": "b"}]})), json!({"tolerations": [{"key": "b"}]}));
        let meta = merged(
            "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
            json!({"finalizers": ["a"], "labels": {"x": "1"}}),
            json!({"finalizers": ["b"], "labels": {"x": null, "y": "2"}}),
        )
        .unwrap();
        assert_eq!(meta, json!({"finalizers": ["b", "a"], "labels": {"y": "2"}}));
    }
    #[test]
    fn an_item_without_its_merge_key_is_refused() {
        let e = merged("io.k8s.api.core.v1.PodSpec", json!({"containers": [{"name": "a"}]}), json!({"containers": [{"image": "x"}]})).unwrap_err();
        assert_eq!(e.to_string(), "map: map[image:x] does not contain declared merge key: name");
    }
}
