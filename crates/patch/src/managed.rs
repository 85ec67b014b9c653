//! managedFields and server-side apply: who owns which field, on every write.
//!
//! Entry points: [`update_managed_fields`] after any write that is not an apply, [`apply`] for `application/apply-patch+yaml`. Source:
//! k8s.io/apimachinery/pkg/util/managedfields, sigs.k8s.io/structured-merge-diff (merge). Entries written in another apiVersion are kept
//! as they are. Deliberately absent: conversion of such entries, and upstream's special treatment of kubectl's last-applied annotation.

use crate::fieldset::{Comparison, FieldSet, merge, show_path};
use keles_api::canonical::canonicalise;
use keles_api::schema::MapType;
use keles_api::status::Details;
use keles_api::{Cause, Status, TypeRef};
use serde_json::{Map, Value, json};

/// Entries of updates an object keeps; older ones are joined.
pub const UPDATE_ENTRIES_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Metadata that nobody owns.
const STRIPPED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// Who writes, and as what.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// Of the request.
    pub api_version: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// Fields that this path of writing resets, e.g. `[&["status"]]` on the main resource.
    pub reset: &'a [&'a [&'a str]],
    /// RFC 3339, whole seconds.
    pub now: &'a str,
}

/// A field that another manager owns and that an apply would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// As messages show the manager.
    pub manager: String,
    pub field: String,
}

/// Why an apply was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApplyError {
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    #[error("metadata.managedFields must be nil")]
    ManagedFieldsGiven,
    /// A list item without its key, or such.
    #[error("{0}")]
    Untypable(String),
}

impl ApplyError {
    pub fn to_status(&self) -> Status {
        match self {
            ApplyError::Conflicts(all) => {
                let causes = all.iter().map(|c| Cause { reason: "FieldManagerConflict".into(), message: format!("conflict with {}", c.manager), field: c.field.clone() }).collect();
                Status::failure(409, "Conflict", self.to_string()).with_details(Details { causes, ..Details::default() })
            }
            ApplyError::ManagedFieldsGiven => Status::bad_request(self.to_string()),
            ApplyError::Untypable(why) => Status::failure(500, "", why.clone()),
        }
    }
}

fn conflict_message(all: &[Conflict]) -> String {
    if let [one] = all {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field);
    }
    let mut managers: Vec<&str> = all.iter().map(|c| c.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for m in managers {
        lines.push(format!("conflicts with {m}:"));
        lines.extend(all.iter().filter(|c| c.manager == m).map(|c| format!("- {}", c.field)));
    }
    format!("Apply failed with {} conflicts: {}", all.len(), lines.join("\n"))
}

/// One entry of managedFields.
#[derive(Clone, Debug)]
struct Entry {
    manager: String,
    apply: bool,
    api_version: String,
    subresource: String,
    time: Option<String>,
    set: FieldSet,
}

impl Entry {
    fn read(v: &Value) -> Self {
        let text = |k: &str| v.get(k).and_then(Value::as_str).unwrap_or("").to_owned();
        Entry {
            manager: text("manager"),
            apply: text("operation") == "Apply",
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: v.get("time").and_then(Value::as_str).map(str::to_owned),
            set: FieldSet::from_json(v.get("fieldsV1").unwrap_or(&Value::Null)),
        }
    }
    fn write(&self) -> Value {
        let mut out = Map::new();
        let mut put = |k: &str, v: &str| {
            if !v.is_empty() {
                out.insert(k.into(), v.into());
            }
        };
        put("manager", &self.manager);
        put("operation", if self.apply { "Apply" } else { "Update" });
        put("apiVersion", &self.api_version);
        put("time", self.time.as_deref().unwrap_or(""));
        put("fieldsType", "FieldsV1");
        put("subresource", &self.subresource);
        out.insert("fieldsV1".into(), self.set.to_json());
        Value::Object(out)
    }
    /// As conflict messages show it.
    fn show(&self) -> String {
        let name = Value::from(self.manager.as_str()).to_string();
        if self.apply {
            return name;
        }
        let part = if self.subresource.is_empty() { String::new() } else { format!(" with subresource {}", Value::from(self.subresource.as_str())) };
        let at = self.time.as_ref().map(|t| format!(" at {t}")).unwrap_or_default();
        format!("{name}{part} using {}{at}", self.api_version)
    }
    fn is(&self, w: &Writer, apply: bool) -> bool {
        self.manager == w.manager && self.apply == apply && self.subresource == w.subresource && (apply || self.api_version == w.api_version)
    }
}

fn read_entries(object: &Value) -> Vec<Entry> {
    object.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten().map(Entry::read).collect()
}

fn write_entries(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.set.is_empty());
    cap(&mut entries);
    entries.sort_by(|a, b| (!a.apply, &a.time, &a.manager, &a.api_version, &a.subresource).cmp(&(!b.apply, &b.time, &b.manager, &b.api_version, &b.subresource)));
    let Some(root) = object.as_object_mut() else { return };
    let metadata = root.entry("metadata").or_insert_with(|| json!({}));
    if let Some(m) = metadata.as_object_mut() {
        if entries.is_empty() {
            m.remove("managedFields");
        } else {
            m.insert("managedFields".into(), entries.iter().map(Entry::write).collect());
        }
    }
}

/// Joins the oldest updates when there are too many.
fn cap(entries: &mut Vec<Entry>) {
    while entries.iter().filter(|e| !e.apply).count() > UPDATE_ENTRIES_MAX {
        let ancient = |e: &Entry| !e.apply && e.manager == ANCIENT;
        let oldest = entries.iter().enumerate().filter(|(_, e)| !e.apply && !ancient(e)).min_by(|(_, a), (_, b)| (&a.time, &a.manager).cmp(&(&b.time, &b.manager))).map(|(i, _)| i);
        let Some(i) = oldest else { return };
        let gone = entries.remove(i);
        match entries.iter_mut().find(|e| ancient(e) && e.api_version == gone.api_version) {
            Some(a) => {
                a.set = a.set.union(&gone.set);
                a.time = a.time.clone().max(gone.time);
            }
            None => entries.push(Entry { manager: ANCIENT.into(), subresource: String::new(), ..gone }),
        }
    }
}

fn plain(v: &Value) -> Value {
    let mut v = v.clone();
    if let Some(m) = v.get_mut("metadata").and_then(Value::as_object_mut) {
        m.remove("managedFields");
    }
    v
}

/// What an object is before it is created: upstream compares with the empty Go struct.
fn blank(ty: TypeRef) -> Value {
    let mut v = json!({});
    canonicalise(&mut v, ty);
    v
}

/// Writes managedFields of `new`, which a create (`old` absent), update or patch is about to store. Entries that the writer sent are
/// ignored; an explicit `managedFields: [{}]` clears them, as upstream.
pub fn update_managed_fields(old: Option<&Value>, new: &mut Value, w: &Writer, ty: TypeRef) {
    let blank = blank(ty);
    let sent = new.pointer("/metadata/managedFields").and_then(Value::as_array);
    if sent.is_some_and(|a| a.len() == 1 && a[0].as_object().is_some_and(Map::is_empty)) {
        return write_entries(new, Vec::new());
    }
    let mut entries = old.map(read_entries).unwrap_or_default();
    // Tracking starts with the create or with an apply.
    if old.is_some() && entries.is_empty() {
        return write_entries(new, entries);
    }
    let before = old.map_or(blank, plain);
    // A document that cannot be divided (list items without keys) is validation's business; ownership stays.
    if let Ok(c) = Comparison::of(&before, &plain(new), ty) {
        take(&mut entries, &c, w);
    }
    write_entries(new, entries);
}

fn take(entries: &mut Vec<Entry>, c: &Comparison, w: &Writer) {
    let changed = c.added.union(&c.modified);
    for e in entries.iter_mut().filter(|e| e.api_version == w.api_version) {
        e.set = e.set.difference(&changed).difference(&c.removed);
    }
    let mine = changed.without_trees(&FieldSet::of_fields(w.reset)).difference(&FieldSet::of_fields(STRIPPED));
    if mine.is_empty() {
        return;
    }
    match entries.iter_mut().find(|e| e.is(w, false)) {
        Some(e) => {
            e.set = e.set.union(&mine);
            e.time = Some(w.now.into());
        }
        None => entries.push(Entry {
            manager: w.manager.into(),
            apply: false,
            api_version: w.api_version.into(),
            subresource: w.subresource.into(),
            time: Some(w.now.into()),
            set: mine,
        }),
    }
}

/// The result of an apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// With its managedFields.
    pub object: Value,
    /// Anything besides managedFields differs from the live object.
    pub changed: bool,
}

/// Merges `applied`, as the client sent it, into `live` (absent: the object does not exist yet).
pub fn apply(live: Option<&Value>, applied: &Value, force: bool, w: &Writer, ty: TypeRef) -> Result<Applied, ApplyError> {
    if applied.pointer("/metadata/managedFields").is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::ManagedFieldsGiven);
    }
    let fail = ApplyError::Untypable;
    let mut entries = live.map(read_entries).unwrap_or_default();
    let before = live.map_or_else(|| blank(ty), plain);
    if live.is_some() && entries.is_empty() {
        let c = Comparison::of(&blank(ty), &before, ty).map_err(fail)?;
        take(&mut entries, &c, &Writer { manager: BEFORE_FIRST_APPLY, ..*w });
    }
    let merged = merge(&before, applied, ty, MapType::Unset).map_err(fail)?;
    let set = FieldSet::of(applied, ty).map_err(fail)?.without_trees(&FieldSet::of_fields(w.reset));
    let last = entries.iter().position(|e| e.is(w, true)).map(|i| entries.remove(i));
    let mut mine = Entry {
        manager: w.manager.into(),
        apply: true,
        api_version: w.api_version.into(),
        subresource: w.subresource.into(),
        time: last.as_ref().and_then(|l| l.time.clone()),
        set,
    };
    // Compared before it is canonical: an explicit zero is a change of its owner's.
    let mut object = prune(merged, &entries, &mine, last.as_ref(), ty).map_err(fail)?;
    let c = Comparison::of(&before, &object, ty).map_err(fail)?;
    let changed = c.added.union(&c.modified);
    let conflicts = conflicts(&entries, &changed, w);
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    for e in entries.iter_mut().filter(|e| e.api_version == w.api_version) {
        e.set = e.set.difference(&changed).difference(&c.removed);
    }
    if !c.is_same() || live.is_none() {
        mine.time = Some(w.now.into());
    }
    mine.set = mine.set.difference(&FieldSet::of_fields(STRIPPED));
    entries.push(mine);
    canonicalise(&mut object, ty);
    write_entries(&mut object, entries);
    Ok(Applied { object, changed: !c.is_same() })
}

fn conflicts(entries: &[Entry], changed: &FieldSet, w: &Writer) -> Vec<Conflict> {
    let mut out: Vec<Conflict> = Vec::new();
    for e in entries.iter().filter(|e| e.api_version == w.api_version) {
        out.extend(e.set.intersection(changed).paths().iter().map(|p| Conflict { manager: e.show(), field: show_path(p) }));
    }
    out.sort_by(|a, b| a.manager.cmp(&b.manager));
    out
}

/// Takes away what the manager applied the last time and does not any more, unless somebody else owns it.
fn prune(merged: Value, others: &[Entry], mine: &Entry, last: Option<&Entry>, ty: TypeRef) -> Result<Value, String> {
    let Some(last) = last.filter(|l| !l.set.is_empty()) else { return Ok(merged) };
    let last = last.set.with_named_parents();
    let pruned = last.remove_from(&merged, ty, MapType::Unset)?;
    let owned = others.iter().fold(mine.set.clone(), |all, e| all.union(&e.set)).with_named_parents();
    let all = FieldSet::of(&merged, ty)?.with_named_parents();
    let kept = FieldSet::of(&pruned, ty)?.with_named_parents();
    all.difference(&kept.union(&owned)).intersection(&last).remove_from(&merged, ty, MapType::Unset)
}

#[cfg(test)]
mod tests;
