//! Sets of field paths: what a manager owns, in the form of `FieldsV1`.
//!
//! A set is a trie whose edges are path elements as `FieldsV1` writes them: `f:name`, `k:{"key":…}`, `v:value`, `i:n`. A member is a path
//! that is itself in the set (`.` in JSON when it has children too). Source: sigs.k8s.io/structured-merge-diff (fieldpath, typed).

use keles_api::TypeRef;
use keles_api::schema::{FieldRef, ListType, MapType, Shape};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Deeper paths than any built-in type has are not followed.
const DEPTH_MAX: usize = 128;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

/// A value's children as the schema sees them.
pub(crate) enum View<'v, 'a> {
    /// One owner for the whole: scalars, atomic lists and maps.
    Leaf,
    Fields(&'v Map<String, Value>, Fields<'a>),
    /// Items by path element, in order.
    Items(Vec<(String, &'v Value)>, TypeRef<'a>),
}

/// What the children of an object or map are.
#[derive(Clone, Copy)]
pub(crate) enum Fields<'a> {
    Named(TypeRef<'a>),
    Any(TypeRef<'a>),
}

impl<'a> Fields<'a> {
    /// Type of a child, and whether a field of the struct's own or its reference says atomic or granular.
    pub(crate) fn child(self, name: &str) -> Option<(TypeRef<'a>, MapType)> {
        match self {
            Fields::Named(t) => t.field(name).map(|f: FieldRef| (f.ty(), f.map_type())),
            Fields::Any(t) => Some((t, MapType::Unset)),
        }
    }
    fn is_named(self) -> bool {
        matches!(self, Fields::Named(_))
    }
}

/// How a value of a type divides among owners.
pub(crate) fn view<'v, 'a>(v: &'v Value, ty: TypeRef<'a>, over: MapType) -> Result<View<'v, 'a>, String> {
    Ok(match (ty.shape(), v) {
        (Shape::Object(o), Value::Object(m)) if over == MapType::Granular || (over == MapType::Unset && !o.atomic()) => View::Fields(m, Fields::Named(ty)),
        (Shape::Map(map), Value::Object(m)) if over != MapType::Atomic && map.map_type != MapType::Atomic => View::Fields(m, Fields::Any(map.value)),
        (Shape::List(l), Value::Array(a)) if matches!(l.list_type, ListType::Set | ListType::Map) => {
            let items = a.iter().map(|item| Ok((item_element(item, ty)?, item))).collect::<Result<_, String>>()?;
            View::Items(items, l.item)
        }
        _ => View::Leaf,
    })
}

fn item_element(item: &Value, list: TypeRef) -> Result<String, String> {
    let l = list.list().expect("called for lists only");
    if l.list_type == ListType::Set {
        return Ok(format!("v:{item}"));
    }
    let mut parts = Vec::new();
    let mut keys: Vec<&str> = l.map_keys.iter().map(|k| k.as_ref()).collect();
    keys.sort_unstable();
    for key in keys {
        let default = || l.item.field(key).and_then(|f| f.default().cloned());
        // An item without its key is validation's business; it is its own item until then.
        if let Some(value) = item.get(key).filter(|v| !v.is_null()).cloned().or_else(default) {
            parts.push(format!("{}:{value}", Value::from(key)));
        }
    }
    Ok(format!("k:{{{}}}", parts.join(",")))
}

fn field(name: &str) -> String {
    format!("f:{name}")
}

fn is_empty_container(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Object(o) => o.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    }
}

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        self.nodes.values().all(|n| !n.member && n.below.is_empty())
    }

    /// From `fieldsV1`.
    pub fn from_json(v: &Value) -> Self {
        let mut out = FieldSet::default();
        for (k, child) in v.as_object().into_iter().flatten().filter(|(k, _)| *k != ".") {
            let object = child.as_object();
            let member = object.is_none_or(|o| o.is_empty() || o.contains_key("."));
            out.nodes.insert(k.clone(), Node { member, below: FieldSet::from_json(child) });
        }
        out
    }

    /// As `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        for (k, n) in &self.nodes {
            let mut child = match n.below.to_json() {
                Value::Object(o) => o,
                _ => Map::new(),
            };
            if n.member && !child.is_empty() {
                child.insert(".".into(), Value::Object(Map::new()));
            }
            if n.member || !child.is_empty() {
                out.insert(k.clone(), Value::Object(child));
            }
        }
        Value::Object(out)
    }

    /// All that a document of this type sets.
    pub fn of(v: &Value, ty: TypeRef) -> Result<Self, String> {
        let mut out = FieldSet::default();
        out.collect(v, ty, MapType::Unset, 0)?;
        Ok(out)
    }

    /// `true`: the value is a leaf, so its own path is a member.
    fn collect(&mut self, v: &Value, ty: TypeRef, over: MapType, depth: usize) -> Result<bool, String> {
        if depth > DEPTH_MAX {
            return Ok(true);
        }
        match view(v, ty, over)? {
            View::Leaf => return Ok(!matches!((v, ty.shape()), (Value::Null, Shape::Object(_) | Shape::List(_) | Shape::Map(_)))),
            View::Fields(m, fields) => {
                for (k, child) in m {
                    let Some((t, o)) = fields.child(k) else { continue };
                    let node = self.nodes.entry(field(k)).or_default();
                    let leaf = node.below.collect(child, t, o, depth + 1)?;
                    node.member |= leaf || child.is_null() || child.as_object().is_some_and(Map::is_empty) || !fields.is_named();
                }
            }
            View::Items(items, item) => {
                for (element, child) in items {
                    let node = self.nodes.entry(element).or_default();
                    node.below.collect(child, item, MapType::Unset, depth + 1)?;
                    node.member = true;
                }
            }
        }
        self.nodes.retain(|_, n| n.member || !n.below.is_empty());
        Ok(false)
    }

    fn insert(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else { return };
        let node = self.nodes.entry(first.clone()).or_default();
        if rest.is_empty() { node.member = true } else { node.below.insert(rest) }
    }

    /// Members by path; those of a level before those below it, as conflicts list them.
    pub fn paths(&self) -> Vec<Vec<String>> {
        let mut out = Vec::new();
        self.walk(&mut Vec::new(), &mut out);
        out
    }
    fn walk(&self, at: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
        for (k, n) in &self.nodes {
            if n.member {
                out.push(at.iter().chain([k]).cloned().collect());
            }
        }
        for (k, n) in &self.nodes {
            at.push(k.clone());
            n.below.walk(at, out);
            at.pop();
        }
    }

    /// Members of both combined by a rule on membership.
    fn combine(&self, other: &FieldSet, rule: fn(bool, bool) -> bool) -> FieldSet {
        let empty = Node::default();
        let mut out = FieldSet::default();
        for k in self.nodes.keys().chain(other.nodes.keys().filter(|k| !self.nodes.contains_key(*k))) {
            let (a, b) = (self.nodes.get(k).unwrap_or(&empty), other.nodes.get(k).unwrap_or(&empty));
            let node = Node { member: rule(a.member, b.member), below: a.below.combine(&b.below, rule) };
            if node.member || !node.below.nodes.is_empty() {
                out.nodes.insert(k.clone(), node);
            }
        }
        out
    }
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |a, b| a || b)
    }
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |a, b| a && b)
    }
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |a, b| a && !b)
    }
    /// Without the members of `other` and everything below them.
    pub fn without_trees(&self, other: &FieldSet) -> FieldSet {
        let mut out = FieldSet::default();
        for (k, n) in &self.nodes {
            match other.nodes.get(k) {
                Some(o) if o.member => {}
                Some(o) => {
                    let node = Node { member: n.member, below: n.below.without_trees(&o.below) };
                    if node.member || !node.below.nodes.is_empty() {
                        out.nodes.insert(k.clone(), node);
                    }
                }
                None => drop(out.nodes.insert(k.clone(), n.clone())),
            }
        }
        out
    }
    /// Paths given as field names.
    pub fn of_fields(paths: &[&[&str]]) -> FieldSet {
        let mut out = FieldSet::default();
        for p in paths {
            out.insert(&p.iter().map(|f| field(f)).collect::<Vec<_>>());
        }
        out
    }
    /// Also the struct fields on the way to members.
    pub(crate) fn with_named_parents(&self) -> FieldSet {
        let nodes =
            self.nodes.iter().map(|(k, n)| (k.clone(), Node { member: n.member || (k.starts_with("f:") && !n.below.is_empty()), below: n.below.with_named_parents() })).collect();
        FieldSet { nodes }
    }

    /// `value` without the members of the set.
    pub(crate) fn remove_from(&self, value: &Value, ty: TypeRef, over: MapType) -> Result<Value, String> {
        if self.nodes.is_empty() {
            return Ok(value.clone());
        }
        Ok(match view(value, ty, over)? {
            View::Leaf => value.clone(),
            View::Fields(m, fields) => {
                let mut out = Map::new();
                for (k, child) in m {
                    let kept = match (self.nodes.get(&field(k)), fields.child(k)) {
                        (Some(n), _) if n.member => continue,
                        (Some(n), Some((t, o))) => n.below.remove_from(child, t, o)?,
                        _ => child.clone(),
                    };
                    out.insert(k.clone(), kept);
                }
                if out.is_empty() && !m.is_empty() { Value::Null } else { Value::Object(out) }
            }
            View::Items(items, item) => {
                let had = items.len();
                let mut out = Vec::new();
                for (element, child) in items {
                    match self.nodes.get(&element) {
                        Some(n) if n.member => {}
                        Some(n) => out.push(n.below.remove_from(child, item, MapType::Unset)?),
                        None => out.push(child.clone()),
                    }
                }
                if out.is_empty() && had > 0 { Value::Null } else { Value::Array(out) }
            }
        })
    }
}

/// What changed between two documents.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Comparison {
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
    pub fn of(old: &Value, new: &Value, ty: TypeRef) -> Result<Self, String> {
        let mut c = Comparison::default();
        c.walk(Some(old), Some(new), ty, MapType::Unset, &mut Vec::new())?;
        Ok(c)
    }
    fn walk(&mut self, old: Option<&Value>, new: Option<&Value>, ty: TypeRef, over: MapType, at: &mut Vec<String>) -> Result<(), String> {
        if at.len() > DEPTH_MAX {
            return Ok(());
        }
        let nothing = |v: Option<&Value>| v.is_none_or(is_empty_container);
        let see = |v: Option<&'_ Value>| -> Result<bool, String> { Ok(v.is_some_and(|v| !v.is_null()) && matches!(view(v.unwrap_or(&Value::Null), ty, over)?, View::Leaf)) };
        if (nothing(old) && nothing(new)) || see(old)? || see(new)? {
            match (old, new) {
                (None, Some(_)) => self.added.insert(at),
                (Some(_), None) => self.removed.insert(at),
                (Some(a), Some(b)) if a != b => self.modified.insert(at),
                _ => {}
            }
            return Ok(());
        }
        let null = Value::Null;
        let (a, b) = (view(old.unwrap_or(&null), ty, over)?, view(new.unwrap_or(&null), ty, over)?);
        let fields = match (&a, &b) {
            (View::Fields(_, f), _) | (_, View::Fields(_, f)) => Some(*f),
            _ => None,
        };
        if let Some(f) = fields {
            let empty = Map::new();
            let map = |v: &View<'_, '_>| if let View::Fields(m, _) = v { (*m).clone() } else { empty.clone() };
            let (a, b) = (map(&a), map(&b));
            for k in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let Some((t, o)) = f.child(k) else { continue };
                at.push(field(k));
                self.walk(a.get(k), b.get(k), t, o, at)?;
                at.pop();
            }
        } else {
            let items = |v: View<'_, '_>| if let View::Items(i, _) = v { i.into_iter().map(|(k, v)| (k, v.clone())).collect() } else { Vec::new() };
            let item = ty.list().map(|l| l.item);
            let (a, b): (Vec<_>, Vec<_>) = (items(a), items(b));
            let find = |all: &[(String, Value)], k: &str| all.iter().position(|(x, _)| x == k);
            for k in a.iter().map(|(k, _)| k).chain(b.iter().map(|(k, _)| k).filter(|k| find(&a, k).is_none())) {
                let Some(t) = item else { continue };
                at.push(k.clone());
                self.walk(find(&a, k).map(|i| &a[i].1), find(&b, k).map(|i| &b[i].1), t, MapType::Unset, at)?;
                at.pop();
            }
        }
        match (old, new) {
            (None, Some(_)) => self.added.insert(at),
            (Some(_), None) => self.removed.insert(at),
            _ => {}
        }
        Ok(())
    }
}

/// `live` with what `applied` says; items of lists keep the order of `applied` where it says one.
pub(crate) fn merge(live: &Value, applied: &Value, ty: TypeRef, over: MapType) -> Result<Value, String> {
    match (view(live, ty, over)?, view(applied, ty, over)?) {
        (View::Fields(a, f), View::Fields(b, _)) => {
            let mut out = a.clone();
            for (k, v) in b {
                let merged = match (a.get(k), f.child(k)) {
                    (Some(had), Some((t, o))) => merge(had, v, t, o)?,
                    _ => v.clone(),
                };
                out.insert(k.clone(), merged);
            }
            Ok(Value::Object(out))
        }
        (View::Items(a, item), View::Items(b, _)) => merge_items(&a, &b, item).map(Value::Array),
        _ => Ok(applied.clone()),
    }
}

fn merge_items(a: &[(String, &Value)], b: &[(String, &Value)], item: TypeRef) -> Result<Vec<Value>, String> {
    let in_a = |k: &str| a.iter().find(|(x, _)| x == k);
    let in_b = |k: &str| b.iter().any(|(x, _)| x == k);
    let mut shared = b.iter().filter(|(k, _)| in_a(k).is_some()).map(|(k, _)| k).peekable();
    let (mut out, mut i, mut j) = (Vec::new(), 0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() {
            let (k, v) = &a[i];
            if !in_b(k) {
                out.push((*v).clone());
                i += 1;
                continue;
            }
            if shared.peek() != Some(&k) {
                // It comes where `applied` has it.
                i += 1;
                continue;
            }
        }
        if j < b.len() {
            let (k, v) = &b[j];
            out.push(match in_a(k) {
                Some((_, had)) => merge(had, v, item, MapType::Unset)?,
                None => (*v).clone(),
            });
            if shared.peek() == Some(&k) {
                shared.next();
                if i < a.len() && a[i].0 == *k {
                    i += 1;
                }
            }
            j += 1;
        }
    }
    Ok(out)
}

/// `.spec.containers[name="c"].image`, as conflicts show a path.
pub fn show_path(path: &[String]) -> String {
    let mut out = String::new();
    for e in path {
        match e.split_once(':') {
            Some(("f", name)) => {
                out.push('.');
                out.push_str(name);
            }
            Some(("k", keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let mut shown: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                shown.sort();
                out.push_str(&format!("[{}]", shown.join(",")));
            }
            Some(("v", v)) => out.push_str(&format!("[={v}]")),
            Some((_, i)) => out.push_str(&format!("[{i}]")),
            None => out.push_str(e),
        }
    }
    out
}
