//! A place in an object: its value and its path, for rules to read and to complain about.
//!
//! Entry points: [`Field::root`], [`Field::get`], [`Field::items`]. A missing field reads as its zero value (`""`, `0`, `false`, no
//! items), as in upstream's rules; [`Field::is_set`] tells a missing field from a zero one where upstream has a pointer.

use keles_api::{Object, Path, Problems, names};
use serde_json::{Map, Value};
use std::cell::Cell;

pub static NULL: Value = Value::Null;

#[derive(Clone, Debug)]
pub struct Field<'a> {
    value: &'a Value,
    path: Path,
    names: Cell<Names>,
}

/// Which names the fields of a value may have, a bit for each name. Rules ask mostly for fields that are not there, which a bit says sooner
/// than a map does; they are made at the second question, as they cost more than one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Names(u64);

impl Names {
    const UNASKED: Names = Names(0);
    const ASKED: Names = Names(1);
    const ANY: Names = Names(u64::MAX);
    /// Of more fields most bits would be there.
    const FIELDS_MAX: usize = 32;

    fn of(map: &Map<String, Value>) -> Names {
        if map.len() > Self::FIELDS_MAX { Self::ANY } else { Names(map.keys().fold(Self::ASKED.0, |all, name| all | Self::bit(name))) }
    }
    /// Known when compiled for a name in the code. The lowest bit is none's.
    #[inline(always)]
    fn bit(name: &str) -> u64 {
        let letter = |b: Option<&u8>| b.copied().map_or(0, usize::from);
        let (first, last) = (letter(name.as_bytes().first()), letter(name.as_bytes().last()));
        2 << ((name.len() * 5 + first * 3 + last) % 63)
    }
}

impl<'a> Field<'a> {
    pub fn root(o: &'a Object) -> Self {
        Field::new(&o.0, Path::root())
    }
    /// A value whose place is called `path`, e.g. a template checked by itself.
    pub fn new(value: &'a Value, path: Path) -> Self {
        Field { value, path, names: Cell::new(Names::UNASKED) }
    }
    pub fn get(&self, name: &str) -> Field<'a> {
        Field::new(self.find(name).unwrap_or(&NULL), self.path.child(name))
    }
    #[inline(always)]
    fn find(&self, name: &str) -> Option<&'a Value> {
        let map = self.value.as_object()?;
        match self.names.get() {
            Names::UNASKED => self.names.set(Names::ASKED),
            Names::ASKED => self.names.set(Names::of(map)),
            known if known.0 & Names::bit(name) == 0 => return None,
            _ => {}
        }
        map.get(name)
    }
    pub fn value(&self) -> &'a Value {
        self.value
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The path of a field below.
    pub fn at(&self, name: &str) -> Path {
        self.path.child(name)
    }
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some_and(|v| !v.is_null())
    }
    /// The string itself.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or("")
    }
    /// The string in a field below.
    pub fn str(&self, name: &str) -> &'a str {
        self.find(name).and_then(Value::as_str).unwrap_or("")
    }
    pub fn opt_str(&self, name: &str) -> Option<&'a str> {
        self.find(name).and_then(Value::as_str)
    }
    pub fn int(&self, name: &str) -> i64 {
        self.opt_int(name).unwrap_or(0)
    }
    pub fn opt_int(&self, name: &str) -> Option<i64> {
        self.find(name).and_then(Value::as_i64)
    }
    pub fn bool(&self, name: &str) -> bool {
        self.opt_bool(name).unwrap_or(false)
    }
    pub fn opt_bool(&self, name: &str) -> Option<bool> {
        self.find(name).and_then(Value::as_bool)
    }
    /// The entries of a list in a field below, each with its index in the path.
    pub fn items(&self, name: &str) -> Vec<Field<'a>> {
        let list = self.list(name);
        if list.is_empty() {
            return Vec::new();
        }
        let at = self.path.child(name);
        list.iter().enumerate().map(|(i, value)| Field::new(value, at.index(i))).collect()
    }
    /// The bare entries of a list in a field below.
    pub fn list(&self, name: &str) -> &'a [Value] {
        self.find(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or(&[])
    }
    /// The strings of a list in a field below.
    pub fn strings(&self, name: &str) -> Vec<&'a str> {
        self.list(name).iter().map(|v| v.as_str().unwrap_or("")).collect()
    }
    /// The entries of a map in a field below.
    pub fn map(&self, name: &str) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.find(name).and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.as_str(), v))
    }
    pub fn map_len(&self, name: &str) -> usize {
        self.find(name).and_then(Value::as_object).map(Map::len).unwrap_or(0)
    }
}

/// `messages` as problems of one value.
pub fn invalid_each(p: &mut Problems, at: &Path, value: &str, messages: Vec<String>) {
    for message in messages {
        p.invalid(at, value, message);
    }
}

/// An enum field: nothing to say when `value` is one of `allowed`.
pub fn one_of(p: &mut Problems, at: &Path, value: &str, allowed: &[&str]) {
    if !allowed.contains(&value) {
        p.not_supported(at, value, allowed);
    }
}

/// An enum field that must be there.
pub fn required_one_of(p: &mut Problems, at: &Path, value: &str, allowed: &[&str]) {
    if value.is_empty() { p.required(at, "") } else { one_of(p, at, value, allowed) }
}

pub const NEGATIVE: &str = "must be greater than or equal to 0";
pub const NOT_POSITIVE: &str = "must be greater than zero";
pub const IMMUTABLE: &str = "field is immutable";

/// A number that must not be negative.
pub fn non_negative(p: &mut Problems, of: &Field, name: &str) {
    if of.int(name) < 0 {
        p.invalid(&of.at(name), of.int(name), NEGATIVE);
    }
}

/// A field that may not change after creation; empty and missing are the same.
pub fn immutable(p: &mut Problems, new: &Field, old: &Field) {
    if !same(new.value, old.value) {
        p.invalid(&new.path, new.value.clone(), IMMUTABLE);
    }
}

pub use keles_api::canonical::equal as same;

// --- writing: what defaults and prepare rules need ---

/// The map in a field, made when absent; `None` when something else stands there.
pub fn child_mut<'v>(v: &'v mut Value, name: &str) -> Option<&'v mut Value> {
    let map = v.as_object_mut()?;
    let child = map.entry(name.to_owned()).or_insert_with(|| Value::Object(Map::new()));
    if child.is_null() {
        *child = Value::Object(Map::new());
    }
    Some(child)
}

pub use keles_api::object::below_mut;

/// The entries of a list of maps in a field; a null entry is an empty map, as Go decodes it.
pub fn items_mut<'v>(v: &'v mut Value, name: &str) -> impl Iterator<Item = &'v mut Value> {
    let all = v.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten();
    all.map(|item| {
        if item.is_null() {
            *item = Value::Object(Map::new());
        }
        item
    })
}

/// Sets a field that is missing, null or an empty string.
pub fn default(v: &mut Value, name: &str, value: impl Into<Value>) {
    let Some(map) = v.as_object_mut() else { return };
    let missing = match map.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(_) => false,
    };
    if missing {
        map.insert(name.to_owned(), value.into());
    }
}

/// Sets a field that is missing or null: where upstream has a pointer, an empty string is a value.
pub fn default_pointer(v: &mut Value, name: &str, value: impl Into<Value>) {
    if v.get(name).is_none_or(Value::is_null) {
        set(v, name, value);
    }
}

/// Sets a number that is missing or 0, as upstream does where the field is no pointer.
pub fn default_nonzero(v: &mut Value, name: &str, value: i64) {
    if v.get(name).and_then(Value::as_i64).unwrap_or(0) == 0 {
        set(v, name, value);
    }
}

pub fn set(v: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(map) = v.as_object_mut() {
        map.insert(name.to_owned(), value.into());
    }
}

pub fn remove(v: &mut Value, name: &str) {
    if let Some(map) = v.as_object_mut() {
        map.remove(name);
    }
}

/// A client that creates an object says nothing of its status.
pub fn clear_status(o: &mut Object) {
    set(&mut o.0, "status", Value::Object(Map::new()));
}

/// A copy of a map without some of its fields.
pub fn without(v: &Value, names: &[&str]) -> Value {
    let mut v = v.clone();
    names.iter().for_each(|n| remove(&mut v, n));
    v
}

/// Puts the old object's value of a top-level field back.
pub fn restore(new: &mut Object, old: &Object, name: &str) {
    match old.0.get(name) {
        Some(v) => set(&mut new.0, name, v.clone()),
        None => remove(&mut new.0, name),
    }
}

/// `example.com/ingress`: a domain and a path (upstream's `IsDomainPrefixedPath`).
pub fn domain_path(f: &Field, p: &mut Problems) {
    let text = f.text();
    if text.is_empty() {
        return p.required(f.path(), "");
    }
    let Some((host, path)) = text.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty()) else {
        return p.invalid(f.path(), text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    invalid_each(p, f.path(), host, names::dns_subdomain(host, false));
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        p.invalid(f.path(), path, "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn missing_and_empty_are_the_same_but_missing_and_false_are_not() {
        assert!(same(&json!({"a": [], "b": ""}), &json!({})));
        assert!(!same(&json!({"a": false}), &json!({})));
        assert!(!same(&json!({"a": [1]}), &json!({"a": [2]})));
    }

    #[test]
    fn a_field_is_found_however_often_and_among_however_many_it_is_asked_for() {
        for count in [0, 1, 2, Names::FIELDS_MAX, Names::FIELDS_MAX + 1, 500] {
            let name = |i: usize| format!("{}{i}", "field".repeat(i % 7));
            let v = Value::Object((0..count).map(|i| (name(i), Value::from(i))).collect());
            let f = Field::new(&v, Path::root());
            for _ in 0..3 {
                for i in 0..count + 100 {
                    assert_eq!(f.opt_int(&name(i)), (i < count).then_some(i as i64), "{i} of {count}");
                }
                assert!(!f.has("") && !f.has("other") && f.get("none").get("below").opt_str("x").is_none());
            }
        }
    }

    #[test]
    fn paths_follow_the_fields() {
        let o = Object(json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}));
        let all = Field::root(&o).get("spec").items("containers");
        assert_eq!(all[1].at("name").as_str(), "spec.containers[1].name");
        assert_eq!(all[1].str("name"), "b");
    }
}
