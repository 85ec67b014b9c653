//! Sets of field paths: what a manager owns, in the form of `FieldsV1`.
//!
//! A set is a trie whose edges are path elements as `FieldsV1` writes them: `f:name`, `k:{"key":…}`, `v:value`, `i:n`. A member is a path
//! that is itself in the set (`.` in JSON when it has children too). Edges of a node are sorted, as the trees they are made from are, so
//! that sets are built and combined without searching. Source: sigs.k8s.io/structured-merge-diff (fieldpath).

use crate::typed::{Fields, Ty, View, is_absent, view};
use keles_api::TypeRef;
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// Deeper values are owned as one. managedFields are nested some levels themselves, and must be readable again.
pub(crate) const DEPTH_MAX: usize = keles_api::depth::DEPTH_MAX - 7;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Sorted by edge.
    nodes: Vec<(String, Node)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub member: bool,
    pub below: FieldSet,
}

impl Node {
    pub(crate) const fn member() -> Self {
        Node { member: true, below: FieldSet { nodes: Vec::new() } }
    }
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

pub(crate) fn field(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 2);
    out.push_str("f:");
    out.push_str(name);
    out
}

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        self.nodes.iter().all(|(_, n)| n.is_empty())
    }

    fn get(&self, edge: &str) -> Option<&Node> {
        self.nodes.binary_search_by(|(k, _)| k.as_str().cmp(edge)).ok().map(|i| &self.nodes[i].1)
    }

    /// The node at an edge, made when it is not there.
    fn node(&mut self, edge: &str) -> &mut Node {
        let i = match self.nodes.binary_search_by(|(k, _)| k.as_str().cmp(edge)) {
            Ok(i) => i,
            Err(i) => {
                self.nodes.insert(i, (edge.to_owned(), Node::default()));
                i
            }
        };
        &mut self.nodes[i].1
    }

    /// Adds an edge; fastest when edges come in order.
    pub(crate) fn push(&mut self, edge: String, node: Node) {
        if node.is_empty() {
            return;
        }
        if self.nodes.last().is_none_or(|(last, _)| *last < edge) {
            return self.nodes.push((edge, node));
        }
        let have = self.node(&edge);
        have.member |= node.member;
        have.below = if have.below.nodes.is_empty() { node.below } else { have.below.union(&node.below) };
    }

    /// Adds a tree at a path.
    pub(crate) fn put(&mut self, path: &[String], node: Node) {
        let Some((first, rest)) = path.split_first() else { return };
        match rest {
            [] => self.push(first.clone(), node),
            rest => self.node(first).below.put(rest, node),
        }
    }

    /// From `fieldsV1`.
    pub fn from_json(v: &Value) -> Self {
        let mut out = FieldSet::default();
        for (k, child) in v.as_object().into_iter().flatten().filter(|(k, _)| *k != ".") {
            let member = child.as_object().is_none_or(|o| o.is_empty() || o.contains_key("."));
            out.push(k.clone(), Node { member, below: FieldSet::from_json(child) });
        }
        out
    }

    /// As `fieldsV1`.
    pub fn into_json(self) -> Value {
        let below = self.nodes.into_iter().filter_map(|(k, n)| {
            let Value::Object(mut child) = n.below.into_json() else { return None };
            if n.member && !child.is_empty() {
                child.insert(".".into(), Value::Object(Map::new()));
            }
            (n.member || !child.is_empty()).then_some((k, Value::Object(child)))
        });
        Value::Object(below.collect())
    }

    /// Whether a set in its JSON form has a member of this one.
    pub(crate) fn touches(&self, json: &Value) -> bool {
        let Some(map) = json.as_object() else { return false };
        self.nodes.iter().any(|(k, n)| {
            map.get(k).is_some_and(|child| {
                let member = || child.as_object().is_none_or(|o| o.is_empty() || o.contains_key("."));
                (n.member && member()) || n.below.touches(child)
            })
        })
    }

    /// All that a document of this type sets.
    pub fn of(v: &Value, ty: TypeRef) -> Result<Self, String> {
        let mut out = FieldSet::default();
        out.collect(v, Ty::whole(ty), 0)?;
        Ok(out)
    }

    /// `true`: the value is a leaf, so its own path is a member.
    fn collect(&mut self, v: &Value, ty: Ty, depth: usize) -> Result<bool, String> {
        if depth > DEPTH_MAX {
            return Ok(true);
        }
        match view(v, ty)? {
            View::Leaf => return Ok(!(v.is_null() && ty.is_container())),
            View::Fields(m, fields) => {
                for (k, child) in m {
                    let Some(c) = fields.child(k) else { continue };
                    let mut node = Node::default();
                    let leaf = node.below.collect(child, c.ty, depth + 1)?;
                    node.member = leaf || child.is_null() || child.as_object().is_some_and(Map::is_empty) || !fields.is_named();
                    self.push(field(k), node);
                }
            }
            View::Items(items, item) => {
                for (element, child, alone) in by_key(items) {
                    let mut node = Node::member();
                    // Items that share their key are owned as one.
                    if alone {
                        node.below.collect(child, item, depth + 1)?;
                    }
                    self.push(element, node);
                }
            }
        }
        Ok(false)
    }

    /// A value that was not there before, with everything in it.
    pub(crate) fn tree(v: &Value, ty: Ty, go: bool, depth: usize) -> Result<Node, String> {
        let mut node = Node::member();
        if depth > DEPTH_MAX {
            return Ok(node);
        }
        match view(v, ty)? {
            View::Leaf => {}
            View::Fields(m, fields) => {
                for (k, child) in m {
                    let Some(c) = fields.child(k).filter(|c| !(go && is_absent(child, c.field))) else { continue };
                    node.below.push(field(k), FieldSet::tree(child, c.ty, go, depth + 1)?);
                }
            }
            View::Items(items, item) => {
                for (element, child, alone) in by_key(items) {
                    node.below.push(element, if alone { FieldSet::tree(child, item, go, depth + 1)? } else { Node::member() });
                }
            }
        }
        Ok(node)
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
        let (mut i, mut j) = (0, 0);
        while i < self.nodes.len() || j < other.nodes.len() {
            let order = match (self.nodes.get(i), other.nodes.get(j)) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                _ => Ordering::Greater,
            };
            let (k, a) = if order == Ordering::Greater { (&other.nodes[j].0, &empty) } else { (&self.nodes[i].0, &self.nodes[i].1) };
            let b = if order == Ordering::Less { &empty } else { &other.nodes[j].1 };
            let node = Node { member: rule(a.member, b.member), below: a.below.combine(&b.below, rule) };
            if node.member || !node.below.nodes.is_empty() {
                out.nodes.push((k.clone(), node));
            }
            i += usize::from(order != Ordering::Greater);
            j += usize::from(order != Ordering::Less);
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
    /// Whether all members are members of `other`.
    pub(crate) fn is_subset(&self, other: &FieldSet) -> bool {
        self.nodes.iter().all(|(k, n)| match other.get(k) {
            Some(o) => (!n.member || o.member) && n.below.is_subset(&o.below),
            None => n.is_empty(),
        })
    }
    /// Takes the members of `other` out.
    pub(crate) fn remove(&mut self, other: &FieldSet) {
        for (k, o) in &other.nodes {
            if let Ok(i) = self.nodes.binary_search_by(|(x, _)| x.cmp(k)) {
                let node = &mut self.nodes[i].1;
                node.member &= !o.member;
                node.below.remove(&o.below);
                if node.is_empty() {
                    self.nodes.remove(i);
                }
            }
        }
    }
    /// Takes the members of `other` and everything below them out.
    pub(crate) fn remove_trees(&mut self, other: &FieldSet) {
        for (k, o) in &other.nodes {
            if let Ok(i) = self.nodes.binary_search_by(|(x, _)| x.cmp(k)) {
                let node = &mut self.nodes[i].1;
                node.below.remove_trees(&o.below);
                if o.member || node.is_empty() {
                    self.nodes.remove(i);
                }
            }
        }
    }
    /// Paths given as field names.
    pub fn of_fields(paths: &[&[&str]]) -> FieldSet {
        let mut out = FieldSet::default();
        for p in paths {
            out.put(&p.iter().map(|f| field(f)).collect::<Vec<_>>(), Node::member());
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
    pub(crate) fn remove_from(&self, value: &Value, ty: Ty) -> Result<Value, String> {
        if self.nodes.is_empty() {
            return Ok(value.clone());
        }
        Ok(match view(value, ty)? {
            View::Leaf => value.clone(),
            View::Fields(m, fields) => {
                let mut out = Map::new();
                for (k, child) in m {
                    let kept = match (self.get(&field(k)), fields.child(k)) {
                        (Some(n), _) if n.member => continue,
                        (Some(n), Some(c)) => n.below.remove_from(child, c.ty)?,
                        _ => child.clone(),
                    };
                    out.insert(k.clone(), kept);
                }
                Value::Object(out)
            }
            View::Items(items, item) => {
                let mut out = Vec::new();
                for (element, child) in items {
                    match self.get(&element) {
                        Some(n) if n.member => {}
                        Some(n) => out.push(n.below.remove_from(child, item)?),
                        None => out.push(child.clone()),
                    }
                }
                Value::Array(out)
            }
        })
    }
}

/// Items in the order of their keys, once each key; and whether the item has its key alone.
fn by_key<'v>(mut items: Vec<(String, &'v Value)>) -> Vec<(String, &'v Value, bool)> {
    items.sort_by(|a, b| a.0.cmp(&b.0));
    let mut out: Vec<(String, &Value, bool)> = Vec::with_capacity(items.len());
    for (element, item) in items {
        match out.last_mut() {
            Some(last) if last.0 == element => last.2 = false,
            _ => out.push((element, item, true)),
        }
    }
    out
}

/// `.spec.containers[name="c"].image`, as conflicts show a path.
pub fn show_path(path: &[String]) -> String {
    path.iter().map(|e| show_element(e)).collect()
}

/// One element of a path, as errors show it.
pub(crate) fn show_element(e: &str) -> String {
    match e.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let mut shown: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            shown.sort();
            format!("[{}]", shown.join(","))
        }
        Some(("v", v)) => format!("[={v}]"),
        Some((_, i)) => format!("[{i}]"),
        None => e.to_owned(),
    }
}

/// What changed between two documents.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

/// How zero values count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeroes {
    /// As written: what an apply says is what it means.
    Written,
    /// As Go's encoder has them: an empty `omitempty` field is absent.
    Go,
}

impl Comparison {
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
    pub fn of(old: &Value, new: &Value, ty: TypeRef, zeroes: Zeroes) -> Result<Self, String> {
        let mut c = Comparison::default();
        if old != new {
            Walk { found: &mut c, at: Vec::new(), go: zeroes == Zeroes::Go }.compare(Some(old), Some(new), Ty::whole(ty))?;
        }
        Ok(c)
    }
    /// Leaves out what lies in or below `paths`.
    pub fn without(mut self, paths: &FieldSet) -> Self {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            set.remove_trees(paths);
        }
        self
    }
}

struct Walk<'c> {
    found: &'c mut Comparison,
    at: Vec<String>,
    go: bool,
}

impl Walk<'_> {
    /// Two values that are not equal.
    fn compare(&mut self, old: Option<&Value>, new: Option<&Value>, ty: Ty) -> Result<(), String> {
        let (a, b) = match (old, new) {
            (None, None) => return Ok(()),
            (None, Some(v)) => return Ok(self.found.added.put(&self.at, FieldSet::tree(v, ty, self.go, self.at.len())?)),
            (Some(v), None) => return Ok(self.found.removed.put(&self.at, FieldSet::tree(v, ty, self.go, self.at.len())?)),
            (Some(_), Some(_)) if self.at.len() > DEPTH_MAX => return Ok(self.found.modified.put(&self.at, Node::member())),
            (Some(a), Some(b)) => (a, b),
        };
        let (va, vb) = (view(a, ty)?, view(b, ty)?);
        let is_leaf = |v: &Value, view: &View| !v.is_null() && matches!(view, View::Leaf);
        if (is_empty(a) && is_empty(b)) || is_leaf(a, &va) || is_leaf(b, &vb) {
            if self.go && equal_in_go(a, b, ty) {
                return Ok(());
            }
            self.found.modified.put(&self.at, Node::member());
            return Ok(());
        }
        match (va, vb) {
            (View::Fields(a, fields), View::Fields(b, _)) => self.fields(Some(a), Some(b), fields),
            (View::Fields(a, fields), _) => self.fields(Some(a), None, fields),
            (_, View::Fields(b, fields)) => self.fields(None, Some(b), fields),
            (View::Items(a, item), View::Items(b, _)) => self.items(&a, &b, item),
            (View::Items(a, item), _) => self.items(&a, &[], item),
            (_, View::Items(b, item)) => self.items(&[], &b, item),
            (View::Leaf, View::Leaf) => Ok(()),
        }
    }

    fn fields(&mut self, a: Option<&Map<String, Value>>, b: Option<&Map<String, Value>>, fields: Fields) -> Result<(), String> {
        for (k, x, y) in beside(a, b) {
            if x == y {
                continue;
            }
            let Some(c) = fields.child(k) else { continue };
            let present = |v: &&Value| !(self.go && is_absent(v, c.field));
            let (x, y) = (x.filter(present), y.filter(present));
            if x.is_none() && y.is_none() {
                continue;
            }
            self.at.push(field(k));
            self.compare(x, y, c.ty)?;
            self.at.pop();
        }
        Ok(())
    }

    fn items(&mut self, a: &[(String, &Value)], b: &[(String, &Value)], item: Ty) -> Result<(), String> {
        let mut pairs: std::collections::BTreeMap<&str, (Vec<&Value>, Vec<&Value>)> = std::collections::BTreeMap::new();
        a.iter().for_each(|(k, v)| pairs.entry(k).or_default().0.push(v));
        b.iter().for_each(|(k, v)| pairs.entry(k).or_default().1.push(v));
        for (k, (x, y)) in pairs {
            if x == y {
                continue;
            }
            self.at.push(k.to_owned());
            match (x.as_slice(), y.as_slice()) {
                ([] | [_], [] | [_]) => self.compare(x.first().copied(), y.first().copied(), item)?,
                // Items that share their key are compared as one.
                ([], _) => self.found.added.put(&self.at, Node::member()),
                (_, []) => self.found.removed.put(&self.at, Node::member()),
                (x, y) => {
                    self.found.modified.put(&self.at, Node::member());
                    // What an item with a key of its own held in detail goes, or comes, as it begins or ends to share the key.
                    if let [alone] = x {
                        self.found.removed.put(&self.at, details(alone, item, self.go)?);
                    }
                    if let [alone] = y {
                        self.found.added.put(&self.at, details(alone, item, self.go)?);
                    }
                }
            }
            self.at.pop();
        }
        Ok(())
    }
}

/// The fields of two objects side by side, in order.
pub(crate) fn beside<'v>(a: Option<&'v Map<String, Value>>, b: Option<&'v Map<String, Value>>) -> impl Iterator<Item = (&'v str, Option<&'v Value>, Option<&'v Value>)> {
    let (mut a, mut b) = (a.into_iter().flatten().peekable(), b.into_iter().flatten().peekable());
    std::iter::from_fn(move || {
        let order = match (a.peek(), b.peek()) {
            (Some((x, _)), Some((y, _))) => x.cmp(y),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let x = if order.is_le() { a.next() } else { None };
        let y = if order.is_ge() { b.next() } else { None };
        let (name, _) = x.or(y)?;
        Some((name.as_str(), x.map(|(_, v)| v), y.map(|(_, v)| v)))
    })
}

/// What stands below an item, without the item itself.
fn details(item: &Value, ty: Ty, go: bool) -> Result<Node, String> {
    let mut node = FieldSet::tree(item, ty, go, 0)?;
    node.member = false;
    Ok(node)
}

/// Whether Go would write the same of two leaves: atomic structs and lists may differ in what it leaves out.
fn equal_in_go(a: &Value, b: &Value, ty: Ty) -> bool {
    let Ty::Of(t, _) = ty else { return false };
    if !ty.is_container() || a.is_null() != b.is_null() {
        return false;
    }
    let [mut a, mut b] = [a.clone(), b.clone()];
    [&mut a, &mut b].into_iter().for_each(|v| keles_api::canonical::canonicalise(v, t));
    a == b
}

fn is_empty(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Object(o) => o.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    }
}
