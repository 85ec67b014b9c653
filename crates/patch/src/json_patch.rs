//! JSON patch, RFC 6902, with the liberties of the library upstream uses (evanphx/json-patch v4): negative indices count from the end,
//! testing a missing member for null holds, and replacing a missing member adds it.

use crate::merge_patch::go_kind;
use crate::{JSON_PATCH_OPERATIONS_MAX, PatchError, RESULT_BYTES_MAX};
use keles_api::decode::STRICT_ERRORS_MAX;
use keles_api::depth;
use serde_json::Value;

/// List items that all insertions and removals together may move aside, and values that all moves may carry: about a second of work.
const MOVED_MAX: usize = 50_000_000;

/// Applies a patch document.
pub fn json_patch(doc: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let text = String::from_utf8_lossy(patch);
    let operations = serde_json::from_str(&text)
        .map_err(|e| PatchError::Malformed(format!("error decoding patch: {}", keles_api::decode::explain_json(&text).unwrap_or_else(|| e.to_string()))))?;
    apply(doc, &operations)
}

pub(crate) fn apply(doc: &Value, operations: &Value) -> Result<Value, PatchError> {
    let Some(operations) = operations.as_array() else {
        return Err(PatchError::Malformed("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch".into()));
    };
    if operations.len() > JSON_PATCH_OPERATIONS_MAX {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    if let Some(odd) = operations.iter().find(|operation| !operation.is_object() && !operation.is_null()) {
        return Err(PatchError::Malformed(format!("error decoding patch: json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp", go_kind(odd))));
    }
    let mut doc = doc.clone();
    let mut spent = Spent::default();
    for operation in operations {
        step(&mut doc, operation, &mut spent)?;
    }
    Ok(doc)
}

/// Members that operations do not have. One of the wrong type is refused.
pub(crate) fn unknown_members(operations: &Value) -> Result<Vec<String>, PatchError> {
    let mut unknown = Vec::new();
    for (i, operation) in operations.as_array().into_iter().flatten().enumerate() {
        for (name, value) in operation.as_object().into_iter().flatten() {
            match name.as_str() {
                "value" => {}
                "op" | "path" | "from" if value.is_string() || value.is_null() => {}
                "op" | "path" | "from" => {
                    let kind = go_kind(value);
                    return Err(PatchError::Malformed(format!("error decoding patch: json: cannot unmarshal {kind} into Go struct field jsonPatchOp.{name} of type string")));
                }
                // As upstream's decoder, which stops collecting there.
                _ if unknown.len() < STRICT_ERRORS_MAX => unknown.push(format!("unknown field \"[{i}].{name}\"")),
                _ => {}
            }
        }
    }
    Ok(unknown)
}

/// What a patch has used up of what bounds it.
#[derive(Default)]
struct Spent {
    copied_bytes: usize,
    moved: usize,
}

impl Spent {
    fn copy(&mut self, v: &Value) -> Result<(), PatchError> {
        self.copied_bytes += v.to_string().len();
        if self.copied_bytes > RESULT_BYTES_MAX { Err(PatchError::TooLarge) } else { Ok(()) }
    }
    fn moves(&mut self, n: usize) -> Result<(), PatchError> {
        self.moved += n;
        if self.moved > MOVED_MAX { Err(PatchError::TooMuch) } else { Ok(()) }
    }
}

fn values_in(v: &Value) -> usize {
    match v {
        Value::Array(a) => 1 + a.iter().map(values_in).sum::<usize>(),
        Value::Object(o) => 1 + o.values().map(values_in).sum::<usize>(),
        _ => 1,
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError::DoesNotApply(why.into()))
}

fn step(doc: &mut Value, operation: &Value, spent: &mut Spent) -> Result<(), PatchError> {
    let text = |k: &str| operation.get(k).and_then(Value::as_str);
    let Some(path) = text("path") else { return refuse("missing operation path") };
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    let from = || text("from").map_or_else(|| refuse("missing operation from"), Ok);
    match text("op").unwrap_or_default() {
        "add" => put(doc, path, value(), true, spent),
        "replace" => put(doc, path, value(), false, spent),
        "remove" => take(doc, path, spent).map(drop),
        "test" => test(doc, path, &value()),
        "move" => {
            let moved = take(doc, from()?, spent)?;
            spent.moves(values_in(&moved))?;
            put(doc, path, moved, true, spent)
        }
        "copy" => {
            let from = from()?;
            let copy = get(doc, from).cloned().map_or_else(|| refuse(format!("copy operation does not apply: doc is missing from path: {from}")), Ok)?;
            // Copies of copies grow without bound.
            spent.copy(&copy)?;
            put(doc, path, copy, true, spent)
        }
        other => refuse(format!("unexpected kind: {other}")),
    }
}

/// Splits off the last member; `None` for the whole document.
fn split(path: &str) -> Result<Option<(Vec<String>, String)>, PatchError> {
    if path.is_empty() {
        return Ok(None);
    }
    let Some(rest) = path.strip_prefix('/') else { return refuse(format!("path {path} does not start with a slash")) };
    let mut parts: Vec<String> = rest.split('/').map(|p| p.replace("~1", "/").replace("~0", "~")).collect();
    let last = parts.pop().expect("split gives at least one part");
    Ok(Some((parts, last)))
}

fn index(part: &str, len: usize) -> Option<usize> {
    let i: i64 = part.parse().ok()?;
    let i = if i < 0 { i + len as i64 } else { i };
    usize::try_from(i).ok()
}

fn child<'v>(v: &'v mut Value, part: &str) -> Option<&'v mut Value> {
    match v {
        Value::Object(o) => o.get_mut(part),
        Value::Array(a) => {
            let i = index(part, a.len())?;
            a.get_mut(i)
        }
        _ => None,
    }
}

fn parent<'v>(doc: &'v mut Value, parts: &[String], path: &str) -> Result<&'v mut Value, PatchError> {
    let found = parts.iter().try_fold(doc, |v, p| child(v, p));
    match found {
        Some(v) if v.is_object() || v.is_array() => Ok(v),
        _ => refuse(format!("doc is missing path: {path}")),
    }
}

fn put(doc: &mut Value, path: &str, value: Value, add: bool, spent: &mut Spent) -> Result<(), PatchError> {
    let found = split(path)?;
    // Else copies of a document into itself double its depth each time, and what comes of it can be read by nobody.
    if !depth::fits(&value, found.as_ref().map_or(0, |(parts, _)| parts.len() + 1)) {
        return Err(PatchError::TooDeep);
    }
    let Some((parts, last)) = found else {
        *doc = value;
        return Ok(());
    };
    match parent(doc, &parts, path)? {
        Value::Object(o) => {
            // Upstream's library replaces a missing member too, against the RFC.
            o.insert(last, value);
            Ok(())
        }
        Value::Array(a) => {
            let len = a.len();
            if add && last == "-" {
                a.push(value);
                return Ok(());
            }
            // A negative index of an insertion counts from behind the end.
            let at = index(&last, if add && last.starts_with('-') { len + 1 } else { len });
            match at {
                Some(i) if add && i <= len => {
                    spent.moves(len - i)?;
                    a.insert(i, value);
                }
                Some(i) if !add && i < len => a[i] = value,
                _ => return refuse(format!("Unable to access invalid index: {last}")),
            }
            Ok(())
        }
        _ => refuse("only objects and lists have members"),
    }
}

fn take(doc: &mut Value, path: &str, spent: &mut Spent) -> Result<Value, PatchError> {
    let Some((parts, last)) = split(path)? else { return refuse("the whole document cannot be removed") };
    let found = match parent(doc, &parts, path)? {
        Value::Object(o) => o.remove(&last),
        Value::Array(a) => match index(&last, a.len()).filter(|i| *i < a.len()) {
            Some(i) => {
                spent.moves(a.len() - i)?;
                Some(a.remove(i))
            }
            None => None,
        },
        _ => None,
    };
    found.map_or_else(|| refuse(format!("remove operation does not apply: doc is missing path: {path}")), Ok)
}

fn get<'v>(doc: &'v mut Value, path: &str) -> Option<&'v Value> {
    match split(path).ok()? {
        None => Some(doc),
        Some((parts, last)) => {
            let holder = parts.iter().try_fold(doc, |v, p| child(v, p))?;
            child(holder, &last).map(|v| &*v)
        }
    }
}

fn test(doc: &mut Value, path: &str, want: &Value) -> Result<(), PatchError> {
    let Some((parts, last)) = split(path)? else {
        return if equal(doc, want) { Ok(()) } else { refuse(format!("testing path {path} failed")) };
    };
    let holder = parent(doc, &parts, path)?;
    let in_list = holder.is_array();
    match child(holder, &last) {
        Some(v) if equal(v, want) => Ok(()),
        None if want.is_null() && !in_list => Ok(()),
        _ => refuse(format!("testing path {path} failed")),
    }
}

/// Numbers compare by value: 1 and 1.0 are one.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y)),
        (Value::Object(x), Value::Object(y)) => x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| equal(v, w))),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn done(doc: Value, patch: Value) -> Option<Value> {
        json_patch(&doc, patch.to_string().as_bytes()).ok()
    }

    #[test]
    fn operations_do_what_rfc_6902_says() {
        assert_eq!(done(json!({"a": [1, 3]}), json!([{"op": "add", "path": "/a/1", "value": 2}, {"op": "add", "path": "/a/-", "value": 4}])), Some(json!({"a": [1, 2, 3, 4]})));
        assert_eq!(
            done(json!({"a": {"b": 1}}), json!([{"op": "move", "from": "/a/b", "path": "/c"}, {"op": "copy", "from": "/c", "path": "/a/d"}])),
            Some(json!({"a": {"d": 1}, "c": 1}))
        );
        assert_eq!(done(json!({"a/b": 1, "m~n": 2}), json!([{"op": "remove", "path": "/a~1b"}, {"op": "replace", "path": "/m~0n", "value": 3}])), Some(json!({"m~n": 3})));
        assert_eq!(done(json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/-1"}])), Some(json!({"a": [1]})));
        assert_eq!(done(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1.0}, {"op": "test", "path": "/b", "value": null}])), Some(json!({"a": 1})));
    }
    #[test]
    fn operations_on_what_is_missing_are_refused() {
        for op in [
            json!({"op": "remove", "path": "/x"}),
            json!({"op": "replace", "path": "/l/1", "value": 1}),
            json!({"op": "add", "path": "/x/y", "value": 1}),
            json!({"op": "add", "path": "/l/9", "value": 1}),
            json!({"op": "test", "path": "/l/0", "value": 2}),
            json!({"op": "move", "from": "/x", "path": "/y"}),
            json!({"op": "wat", "path": "/l"}),
            json!({"op": "add"}),
        ] {
            assert_eq!(done(json!({"l": [1]}), json!([op])), None, "{op}");
        }
    }
}
