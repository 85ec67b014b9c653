//! managedFields and server-side apply: who owns which field, on every write.
//!
//! Entry points: [`update`] after any write that is not an apply, [`apply`] for `application/apply-patch+yaml`; [`to_scale`] and [`from_scale`]
//! for the subresource that shows an object as another kind. Documents are in the writer's version; entries of other versions are compared
//! in theirs, through [`Versions`]. An entry stays in its JSON form unless a write touches it. Source: k8s.io/apimachinery/pkg/util/managedfields,
//! sigs.k8s.io/structured-merge-diff (merge). Deliberately absent: entries follow no change of a schema's list types.

use crate::fieldset::{Comparison, FieldSet, Zeroes, show_path};
use crate::typed::{self, Ty};
use keles_api::canonical::{as_decoded, canonicalise};
use keles_api::status::Details;
use keles_api::{Cause, Status, TypeRef};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::sync::LazyLock;

/// Entries of updates an object keeps; older ones are joined.
pub const UPDATE_ENTRIES_MAX: usize = 10;
/// What client-side `kubectl apply` remembers in an object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ANCIENT: &str = "ancient-changes";
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Metadata that nobody owns.
static STRIPPED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_fields(&[
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
    ])
});

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

/// The versions of a kind.
pub trait Versions {
    /// The type of documents of an apiVersion; none when it is not served.
    fn ty(&self, api_version: &str) -> Option<TypeRef<'_>>;
    /// A document in another served version.
    fn convert(&self, doc: &Value, from: &str, to: &str) -> Value;
}

/// A kind of one version.
#[derive(Clone, Copy, Debug)]
pub struct OneVersion<'a> {
    pub api_version: &'a str,
    pub ty: TypeRef<'a>,
}

impl Versions for OneVersion<'_> {
    fn ty(&self, api_version: &str) -> Option<TypeRef<'_>> {
        (api_version == self.api_version).then_some(self.ty)
    }
    fn convert(&self, doc: &Value, _: &str, _: &str) -> Value {
        doc.clone()
    }
}

/// Why an apply was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApplyError {
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    #[error("metadata.managedFields must be nil")]
    ManagedFieldsGiven,
    /// The document names another kind or version than the URL.
    #[error("{0}")]
    WrongType(String),
    /// An unknown field, a list that is none, or such.
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
            ApplyError::ManagedFieldsGiven | ApplyError::WrongType(_) => Status::bad_request(self.to_string()),
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
struct Entry<'v> {
    manager: String,
    apply: bool,
    api_version: String,
    subresource: String,
    time: Option<String>,
    fields: Fields<'v>,
}

/// What an entry owns; parsed when somebody looks.
#[derive(Clone, Debug)]
enum Fields<'v> {
    Json(&'v Value),
    Set(FieldSet),
}

impl<'v> Entry<'v> {
    /// `None`: upstream would not decode it.
    fn read(v: &'v Value) -> Option<Self> {
        let text = |k: &str| v.get(k).and_then(Value::as_str).unwrap_or("").to_owned();
        let operation = text("operation");
        if !matches!(operation.as_str(), "Apply" | "Update") || text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Entry {
            manager: text("manager"),
            apply: operation == "Apply",
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: v.get("time").and_then(Value::as_str).map(str::to_owned),
            fields: Fields::Json(v.get("fieldsV1").unwrap_or(&Value::Null)),
        })
    }
    fn of(w: &Writer, apply: bool, set: FieldSet, time: Option<String>) -> Self {
        Entry {
            manager: if w.manager.is_empty() { "unknown".into() } else { w.manager.into() },
            apply,
            api_version: w.api_version.into(),
            subresource: w.subresource.into(),
            time,
            fields: Fields::Set(set),
        }
    }
    fn set(&self) -> Cow<'_, FieldSet> {
        match &self.fields {
            Fields::Json(v) => Cow::Owned(FieldSet::from_json(v)),
            Fields::Set(s) => Cow::Borrowed(s),
        }
    }
    fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Json(v) => v.as_object().is_none_or(Map::is_empty),
            Fields::Set(s) => s.is_empty(),
        }
    }
    fn touched_by(&self, set: &FieldSet) -> bool {
        match &self.fields {
            Fields::Json(v) => set.touches(v),
            Fields::Set(_) => true,
        }
    }
    fn remove(&mut self, c: &Comparison) {
        let all = [&c.added, &c.modified, &c.removed];
        if all.iter().any(|s| self.touched_by(s)) {
            let mut set = self.set().into_owned();
            all.iter().for_each(|s| set.remove(s));
            self.fields = Fields::Set(set);
        }
    }
    fn write(self) -> Value {
        let mut out = Map::new();
        let mut put = |k: &str, v: String| {
            if !v.is_empty() {
                out.insert(k.into(), v.into());
            }
        };
        put("manager", self.manager);
        put("operation", if self.apply { "Apply" } else { "Update" }.into());
        put("apiVersion", self.api_version);
        put("time", self.time.unwrap_or_default());
        put("fieldsType", "FieldsV1".into());
        put("subresource", self.subresource);
        let fields = match self.fields {
            Fields::Json(v) => v.clone(),
            Fields::Set(s) => s.into_json(),
        };
        out.insert("fieldsV1".into(), fields);
        Value::Object(out)
    }
    /// As conflict messages show it.
    fn show(&self) -> String {
        let mut out = Value::from(self.manager.as_str()).to_string();
        if !self.subresource.is_empty() {
            out += &format!(" with subresource {}", Value::from(self.subresource.as_str()));
        }
        if !self.apply {
            out += &format!(" using {}", self.api_version);
        }
        out
    }
    /// Whether a write would go on with this entry. An applier keeps its entry from version to version.
    fn is(&self, w: &Writer, apply: bool) -> bool {
        let manager = if w.manager.is_empty() { "unknown" } else { w.manager };
        self.manager == manager && self.apply == apply && self.subresource == w.subresource && (apply || self.api_version == w.api_version)
    }
}

/// `None`: not all of it can be read.
fn decode(managed: Option<&Value>) -> Option<Vec<Entry<'_>>> {
    managed.and_then(Value::as_array).into_iter().flatten().map(Entry::read).collect()
}

fn managed_of(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

fn read_entries(object: &Value) -> Vec<Entry<'_>> {
    decode(managed_of(object)).unwrap_or_default()
}

/// The entries as `metadata.managedFields`, in upstream's order; null when there are none.
fn written(mut entries: Vec<Entry>) -> Value {
    entries.retain(|e| !e.is_empty());
    entries.sort_by(|a, b| (!a.apply, &a.time, &a.manager, &a.api_version, &a.subresource).cmp(&(!b.apply, &b.time, &b.manager, &b.api_version, &b.subresource)));
    if entries.is_empty() { Value::Null } else { entries.into_iter().map(Entry::write).collect() }
}

fn set_managed(object: &mut Value, managed: Value) {
    let Some(root) = object.as_object_mut() else { return };
    let Some(m) = root.entry("metadata").or_insert_with(|| json!({})).as_object_mut() else { return };
    if managed.is_null() {
        m.remove("managedFields");
    } else {
        m.insert("managedFields".into(), managed);
    }
}

/// Joins the oldest updates of a version, from the second on, while there are too many.
fn cap(entries: &mut Vec<Entry>) {
    let mut updates: Vec<usize> = (0..entries.len()).filter(|i| !entries[*i].apply).collect();
    let mut count = updates.len();
    updates.sort_by(|a, b| (&entries[*a].time, &entries[*a].manager).cmp(&(&entries[*b].time, &entries[*b].manager)));
    let mut first: Vec<usize> = Vec::new();
    for i in updates {
        if count <= UPDATE_ENTRIES_MAX {
            break;
        }
        let Some(&bucket) = first.iter().find(|f| entries[**f].api_version == entries[i].api_version) else {
            first.push(i);
            continue;
        };
        let (set, time) = (entries[i].set().into_owned(), entries[i].time.clone());
        entries[i].fields = Fields::Set(FieldSet::default());
        let b = &mut entries[bucket];
        b.manager = ANCIENT.into();
        b.subresource = String::new();
        b.fields = Fields::Set(b.set().union(&set));
        b.time = time;
        count -= 1;
    }
    entries.retain(|e| !e.is_empty());
}

/// What an object is before it is created: upstream compares with the empty Go struct.
fn blank(ty: TypeRef) -> Value {
    let mut v = json!({});
    canonicalise(&mut v, ty);
    v
}

/// The entries to go on from: those the writer sent when they can be read, else the live object's. `[{}]` clears them.
fn entries_of<'v>(old: Option<&'v Value>, new: &'v Value, w: &Writer) -> Vec<Entry<'v>> {
    let live = || old.map(read_entries).unwrap_or_default();
    if !w.subresource.is_empty() {
        return live();
    }
    let sent = managed_of(new);
    if sent.and_then(Value::as_array).is_some_and(|a| a.len() == 1 && a[0].as_object().is_some_and(Map::is_empty)) {
        return Vec::new();
    }
    decode(sent).filter(|all| !all.is_empty()).unwrap_or_else(live)
}

/// The managedFields of `new`, which a create (`old` absent), update or patch is about to store: null when there are none. Both documents
/// have their defaults.
pub fn update(old: Option<&Value>, new: &Value, w: &Writer, versions: &dyn Versions) -> Value {
    let mut entries = entries_of(old, new, w);
    // Tracking starts with the create or with an apply.
    if old.is_some() && entries.is_empty() {
        return Value::Null;
    }
    match take(&mut entries, old, new, w, versions) {
        Ok(()) => {
            cap(&mut entries);
            written(entries)
        }
        // A document that cannot be divided has no owners.
        Err(_) => Value::Null,
    }
}

/// Gives the writer what it changed, and takes it from the others.
fn take(entries: &mut Vec<Entry>, old: Option<&Value>, new: &Value, w: &Writer, versions: &dyn Versions) -> Result<(), String> {
    let ty = versions.ty(w.api_version).ok_or("no schema")?;
    let before;
    let old = match old {
        Some(o) => o,
        None => {
            before = blank(ty);
            &before
        }
    };
    let c = Comparison::of(old, new, ty, Zeroes::Go)?.without(&FieldSet::of_fields(w.reset));
    take_from(entries, &c, |_| true, old, new, w, versions)?;
    let mut mine = if c.modified.is_empty() { c.added } else { c.added.union(&c.modified) };
    mine.remove(&STRIPPED);
    if mine.is_empty() {
        return Ok(());
    }
    match entries.iter_mut().find(|e| e.is(w, false)) {
        Some(e) => {
            e.fields = Fields::Set(e.set().union(&mine));
            e.time = Some(w.now.into());
        }
        None => entries.push(Entry::of(w, false, mine, Some(w.now.into()))),
    }
    Ok(())
}

/// Takes a change from the entries that `whose` names; those of versions that are no longer served go.
fn take_from(entries: &mut Vec<Entry>, c: &Comparison, whose: impl Fn(&Entry) -> bool, old: &Value, new: &Value, w: &Writer, versions: &dyn Versions) -> Result<(), String> {
    let elsewhere = elsewhere(entries, old, new, w, versions)?;
    entries.retain(|e| e.api_version == w.api_version || elsewhere.iter().any(|(v, _)| *v == e.api_version));
    for e in entries.iter_mut().filter(|e| whose(e)) {
        e.remove(elsewhere.iter().find(|(v, _)| *v == e.api_version).map_or(c, |(_, c)| c));
    }
    Ok(())
}

/// The same change as the other versions of the entries see it.
fn elsewhere(entries: &[Entry], old: &Value, new: &Value, w: &Writer, versions: &dyn Versions) -> Result<Vec<(String, Comparison)>, String> {
    let mut out: Vec<(String, Comparison)> = Vec::new();
    for e in entries.iter().filter(|e| e.api_version != w.api_version) {
        if out.iter().any(|(v, _)| *v == e.api_version) {
            continue;
        }
        let Some(ty) = versions.ty(&e.api_version) else { continue };
        let here = |doc: &Value| versions.convert(doc, w.api_version, &e.api_version);
        out.push((e.api_version.clone(), Comparison::of(&here(old), &here(new), ty, Zeroes::Go)?.without(&FieldSet::of_fields(w.reset))));
    }
    Ok(out)
}

/// The result of an apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// With its managedFields; without defaults.
    pub object: Value,
    /// Anything besides managedFields differs from the live object.
    pub changed: bool,
}

/// Merges `applied`, as the client sent it, into `live` (absent: the object does not exist yet).
pub fn apply(live: Option<&Value>, applied: &Value, force: bool, w: &Writer, versions: &dyn Versions) -> Result<Applied, ApplyError> {
    let ty = versions.ty(w.api_version).ok_or_else(|| ApplyError::Untypable("no schema".into()))?;
    if managed_of(applied).is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::ManagedFieldsGiven);
    }
    typed::check(applied, ty).map_err(|why| ApplyError::Untypable(format!("failed to create typed patch object ({}): {why}", show_object(applied))))?;
    match apply_checked(live, applied, force, w, versions, ty) {
        Err(ApplyError::Conflicts(all)) if w.manager == "kubectl" => match live.and_then(|l| last_applied(l, w, ty)) {
            // Fields that client-side apply set and nobody changed since are kubectl's own.
            Some(own) => {
                let rest: Vec<_> = all.into_iter().filter(|c| !own.contains(&c.field)).collect();
                if rest.is_empty() { apply_checked(live, applied, true, w, versions, ty) } else { Err(ApplyError::Conflicts(rest)) }
            }
            None => Err(ApplyError::Conflicts(all)),
        },
        other => other,
    }
}

fn apply_checked(live: Option<&Value>, applied: &Value, force: bool, w: &Writer, versions: &dyn Versions, ty: TypeRef) -> Result<Applied, ApplyError> {
    let fail = ApplyError::Untypable;
    let mut entries = live.map(read_entries).unwrap_or_default();
    let empty;
    let before = match live {
        Some(l) => l,
        None => {
            empty = blank(ty);
            &empty
        }
    };
    if live.is_some() && entries.is_empty() {
        take(&mut entries, None, before, &Writer { manager: BEFORE_FIRST_APPLY, ..*w }, versions).map_err(fail)?;
    }
    let merged = typed::merge(before, applied, Ty::whole(ty)).map_err(fail)?;
    let reset = FieldSet::of_fields(w.reset);
    let mut set = FieldSet::of(applied, ty).map_err(fail)?;
    set.remove_trees(&reset);
    let last = entries.iter().position(|e| e.is(w, true)).map(|i| entries.remove(i));
    let mut mine = Entry::of(w, true, set.clone(), last.as_ref().and_then(|l| l.time.clone()));
    // Compared before it is canonical: an explicit zero is a change of its owner's.
    let mut object = prune(merged, &entries, &mine, last.as_ref(), w, versions).map_err(fail)?;
    let c = Comparison::of(before, &object, ty, Zeroes::Written).map_err(fail)?;
    let changed = !c.is_same();
    let c = c.without(&reset);
    if !force {
        let found = conflicts(&entries, &c, before, &object, w, versions).map_err(fail)?;
        if !found.is_empty() {
            return Err(ApplyError::Conflicts(found));
        }
    }
    take_from(&mut entries, &c, |_| true, before, &object, w, versions).map_err(fail)?;
    if changed || live.is_none() {
        mine.time = Some(w.now.into());
    }
    set.remove(&STRIPPED);
    mine.fields = Fields::Set(set);
    entries.push(mine);
    // Rules see it next: what was emptied is not what was never there.
    as_decoded(&mut object, ty);
    set_managed(&mut object, written(entries));
    if w.manager == "kubectl" {
        renew_last_applied(&mut object, applied);
    }
    Ok(Applied { object, changed })
}

fn conflicts(entries: &[Entry], c: &Comparison, old: &Value, new: &Value, w: &Writer, versions: &dyn Versions) -> Result<Vec<Conflict>, String> {
    let elsewhere = elsewhere(entries, old, new, w, versions)?;
    let mut out: Vec<Conflict> = Vec::new();
    for e in entries {
        let Some(c) = (if e.api_version == w.api_version { Some(c) } else { elsewhere.iter().find(|(v, _)| *v == e.api_version).map(|(_, c)| c) }) else { continue };
        if !e.touched_by(&c.added) && !e.touched_by(&c.modified) {
            continue;
        }
        let changed = c.added.union(&c.modified);
        out.extend(e.set().intersection(&changed).paths().iter().map(|p| Conflict { manager: e.show(), field: show_path(p) }));
    }
    out.sort_by(|a, b| a.manager.cmp(&b.manager));
    Ok(out)
}

/// Takes away what the manager applied the last time and does not any more, unless somebody else owns it.
fn prune(merged: Value, others: &[Entry], mine: &Entry, last: Option<&Entry>, w: &Writer, versions: &dyn Versions) -> Result<Value, String> {
    let Some(last) = last.filter(|l| !l.is_empty()) else { return Ok(merged) };
    // What is applied again, as nearly always: all of it is still owned, so nothing goes. Entries of other versions see another document.
    let here = others.iter().chain([mine, last]).all(|e| e.api_version == w.api_version);
    let had = last.set();
    if here && had.is_subset(&mine.set()) {
        return Ok(merged);
    }
    let version = last.api_version.as_str();
    let Some(ty) = versions.ty(version) else { return Ok(merged) };
    let turn = |doc: &Value, from: &str, to: &str| if from == to { doc.clone() } else { versions.convert(doc, from, to) };
    let whole = turn(&merged, w.api_version, version);
    let had = had.with_named_parents();
    let mut pruned = had.remove_from(&whole, Ty::whole(ty))?;
    let mut seen = vec![version];
    seen.extend(others.iter().chain([mine]).map(|e| e.api_version.as_str()).filter(|v| *v != version));
    for (i, v) in seen.iter().enumerate() {
        let (false, Some(ty)) = (seen[..i].contains(v), versions.ty(v)) else { continue };
        let owned = others.iter().chain([mine]).filter(|e| e.api_version == *v).fold(FieldSet::default(), |all, e| all.union(&e.set())).with_named_parents();
        let (whole, kept) = (turn(&whole, version, v), turn(&pruned, version, v));
        let all = FieldSet::of(&whole, ty)?.with_named_parents();
        let kept = FieldSet::of(&kept, ty)?.with_named_parents();
        pruned = turn(&all.difference(&kept.union(&owned)).remove_from(&whole, Ty::whole(ty))?, v, version);
    }
    let all = FieldSet::of(&whole, ty)?.with_named_parents();
    let kept = FieldSet::of(&pruned, ty)?.with_named_parents();
    let left = all.difference(&kept).intersection(&had).remove_from(&whole, Ty::whole(ty))?;
    Ok(turn(&left, version, w.api_version))
}

/// `namespace/name; group/version, Kind=kind`, as errors name an applied document.
fn show_object(v: &Value) -> String {
    let meta = |k: &str| v.pointer(&format!("/metadata/{k}")).and_then(Value::as_str).unwrap_or("");
    format!("{}/{}; {}", meta("namespace"), meta("name"), show_kind(v))
}

/// `apps/v1, Kind=Deployment`; the core group is empty: `/v1, Kind=Pod`.
pub fn show_kind(v: &Value) -> String {
    let text = |k: &str| v.get(k).and_then(Value::as_str).unwrap_or("");
    let api_version = text("apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={}", text("kind"))
}

/// The fields of client-side apply's annotation that are still as it set them, as conflicts show them.
fn last_applied(live: &Value, w: &Writer, ty: TypeRef) -> Option<std::collections::HashSet<String>> {
    let text = live.pointer("/metadata/annotations")?.get(LAST_APPLIED)?.as_str()?;
    let doc: Value = serde_json::from_str(text).ok()?;
    if doc.get("apiVersion").and_then(Value::as_str) != Some(w.api_version) {
        return None;
    }
    let mut set = FieldSet::of(&doc, ty).ok()?;
    let c = Comparison::of(&doc, live, ty, Zeroes::Written).ok()?;
    [&c.modified, &c.added, &c.removed].into_iter().for_each(|s| set.remove(s));
    Some(set.paths().iter().map(|p| show_path(p)).collect())
}

/// Keeps client-side apply's annotation, where there is one, in step with what kubectl applies.
fn renew_last_applied(object: &mut Value, applied: &Value) {
    let Some(annotation) = object.pointer_mut("/metadata/annotations").and_then(|a| a.get_mut(LAST_APPLIED)) else { return };
    let mut doc = applied.clone();
    if let Some(a) = doc.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        a.remove(LAST_APPLIED);
    }
    *annotation = format!("{doc}\n").into();
}

/// The path of the replicas in a Scale.
const SCALE_REPLICAS: &[&[&str]] = &[&["spec", "replicas"]];
pub const SCALE_VERSION: &str = "autoscaling/v1";

/// Who owns the replicas of an object, as managedFields of its Scale. `replicas`: their path in the object.
pub fn to_scale(object: &Value, replicas: &[&str]) -> Value {
    let path = FieldSet::of_fields(&[replicas]);
    let owners = read_entries(object).into_iter().filter(|e| e.touched_by(&path) && !e.set().intersection(&path).is_empty());
    let seen = owners.map(|e| Entry { api_version: SCALE_VERSION.into(), fields: Fields::Set(FieldSet::of_fields(SCALE_REPLICAS)), ..e });
    written(seen.collect())
}

/// The managedFields of an object after those of its Scale became `scale`. `api_version` is that of the request.
pub fn from_scale(object: &Value, scale: &Value, replicas: &[&str], api_version: &str) -> Value {
    let path = FieldSet::of_fields(&[replicas]);
    let mut owners: Vec<Entry> = decode(Some(scale)).unwrap_or_default();
    let mut out = Vec::new();
    for mut e in read_entries(object) {
        if !e.set().intersection(&path).is_empty() {
            // A Scale's entries all have its version, so an update's version says nothing here.
            match owners.iter().position(|o| o.manager == e.manager && o.apply == e.apply && o.subresource == e.subresource) {
                Some(i) if e.subresource.is_empty() || owners[i].time == e.time => drop(owners.remove(i)),
                _ => {
                    let mut set = e.set().into_owned();
                    set.remove(&path);
                    e.fields = Fields::Set(set);
                }
            }
        }
        out.push(e);
    }
    let replicas_of_scale = FieldSet::of_fields(SCALE_REPLICAS);
    for o in owners.into_iter().filter(|o| !o.set().intersection(&replicas_of_scale).is_empty()) {
        let o = Entry { api_version: api_version.into(), ..o };
        match out.iter_mut().find(|e| e.manager == o.manager && e.apply == o.apply && e.subresource == o.subresource && e.api_version == o.api_version) {
            Some(e) => {
                e.fields = Fields::Set(e.set().union(&path));
                e.time = o.time;
            }
            None => out.push(Entry { fields: Fields::Set(path.clone()), ..o }),
        }
    }
    written(out)
}

/// Whether two managedFields differ in times only, or not at all.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    fn bare(e: &Value) -> impl Iterator<Item = (&String, &Value)> {
        e.as_object().into_iter().flatten().filter(|(k, _)| *k != "time")
    }
    match (a.as_array(), b.as_array()) {
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(x, y)| bare(x).eq(bare(y))),
        (a, b) => a.is_none() == b.is_none(),
    }
}

#[cfg(test)]
mod tests;
