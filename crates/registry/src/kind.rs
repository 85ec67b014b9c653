//! What a kind is: [`Kind`] for built-in kinds (one file each in `kinds`), [`AnyKind`] as the pipelines see it.
//!
//! A built-in kind states only its differences; every REST verb is written once over `AnyKind`. A CustomResourceDefinition
//! becomes another `AnyKind` at run time. Rules run in the order of the trait's methods, on the *storage version* of the object
//! (the first of [`Info::served`]); requests in other versions are converted on the way in and out.

use crate::encode::Restore;
use crate::gates::{self, GatedAt};
use futures::future::BoxFuture;
use keles_api::decode::{self, Decoded, FieldValidation, Format};
use keles_api::{Object, Problems, Status, TypeRef, canonical, defaults};
use keles_patch::PatchKind;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::any::Any;
use std::borrow::Cow;

/// A served group and version of a kind; the Rust type of that version gives the schema's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Served {
    pub group: &'static str,
    pub version: &'static str,
    /// Name in the schema table, upstream's OpenAPI name: `io.k8s.api.core.v1.Pod`.
    pub schema: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A subresource that the generic pipeline or a handler of `apiserver` serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subresource {
    /// `status`, `scale`, `log`, `exec`, …
    pub name: &'static str,
    /// Kind in discovery: the parent's kind for `status`, `Scale`, `PodExecOptions`, …
    pub kind: &'static str,
    /// Group and version in discovery when they differ from the parent's (`autoscaling/v1` of Scale), else empty strings.
    pub group: &'static str,
    pub version: &'static str,
    /// Verbs as discovery prints them.
    pub verbs: &'static [&'static str],
}

/// `…/status` with the verbs every status has.
pub const STATUS: &str = "status";

/// A field that field selectors may name besides `metadata.name` and `metadata.namespace`.
#[derive(Clone, Copy)]
pub struct Selectable {
    /// `spec.nodeName`
    pub path: &'static str,
    /// The value as a selector compares it; a missing field is `""` (or `"false"`, `"0"` as upstream prints the zero value).
    pub value: fn(&Object) -> Cow<'_, str>,
}

/// Names and facts of a kind. All of discovery comes from here.
#[derive(Clone, Copy)]
pub struct Info {
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    /// Served versions, the storage version first.
    pub served: &'static [Served],
    /// Verbs of the main resource as discovery prints them; [`ALL_VERBS`] for nearly all kinds.
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    pub selectable: &'static [Selectable],
    /// Whether `metadata.generation` is kept (1 on create, +1 when anything but metadata and status changes).
    pub generation: bool,
    /// When it is kept, see [`GenerationKept`].
    pub generation_kept: GenerationKept,
    /// How field selectors that are not known are refused, see [`UnknownSelector`].
    pub unknown_selector: UnknownSelector,
    /// PUT (and apply) to a missing name creates it (Lease, Node, Endpoints, …: upstream's `AllowCreateOnUpdate`).
    pub create_on_update: bool,
    /// An update without resourceVersion is allowed (upstream's `AllowUnconditionalUpdate`).
    pub unconditional_update: bool,
    /// How often an update of the object, and one of its status, names each problem of the metadata: upstream's strategies check it anew on top
    /// of what is checked for every kind, and its answers repeat themselves accordingly.
    pub metadata_checks: MetadataChecks,
    /// Deletion is graceful (Pod): see `Kind::grace_seconds`.
    pub name_rule: NameRule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataChecks {
    pub update: usize,
    pub status: usize,
    /// Upstream's rules for a new object leave its metadata alone: what is checked for every kind is said only when they found nothing.
    pub last: bool,
}

impl MetadataChecks {
    pub const USUAL: MetadataChecks = MetadataChecks { update: 3, status: 3, last: false };
}

/// Fields that a custom resource's `/scale` shows, as paths of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec_replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    /// A text that is the selector, where there is one.
    pub selector: Option<Vec<String>>,
}

/// When `metadata.generation` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationKept {
    /// 1 on create, and it grows with each change.
    Always,
    /// 1 on create, and it stays so.
    OnCreate,
    /// Absent until the first change.
    OnUpdate,
}

/// The two wordings upstream has for an unknown field label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownSelector {
    /// `"foo.bar" is not a known field selector: only "metadata.name", "metadata.namespace"`
    Known,
    /// `field label not supported: foo.bar`
    NotSupported,
    /// `field label "foo.bar" not supported for Pod`? — whatever the recordings show for the kind; the text with `{}` for the label and `{version}` for the apiVersion.
    Text(&'static str),
}

/// Which names an object of the kind may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    DnsSubdomain,
    DnsLabel,
    /// RFC 1035 label (Service until 1.34's relaxed names).
    Dns1035Label,
    /// A path segment: no `/`, `%`, not `.` or `..` (RBAC kinds).
    PathSegment,
    /// Checked by the kind's own `validate`.
    Own,
}

pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Info {
    /// A base to build rows from: `Info { kind: "Pod", …, ..Info::BASE }`.
    pub const BASE: Info = Info {
        kind: "",
        plural: "",
        singular: "",
        short_names: &[],
        categories: &[],
        scope: Scope::Namespaced,
        served: &[],
        verbs: ALL_VERBS,
        subresources: &[],
        selectable: &[],
        generation: false,
        generation_kept: GenerationKept::Always,
        unknown_selector: UnknownSelector::Known,
        create_on_update: false,
        unconditional_update: true,
        metadata_checks: MetadataChecks::USUAL,
        name_rule: NameRule::DnsSubdomain,
    };
}

/// A column of the Table that `kubectl get` prints.
pub struct Column<T: 'static> {
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `boolean`, `date`.
    pub kind: &'static str,
    /// `name` for the first column of nearly all kinds, else empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 always shown, 1 with `-o wide`.
    pub priority: i32,
    pub cell: fn(&T, &Cells) -> Value,
}

/// What a cell may need besides the object.
pub struct Cells {
    /// Seconds since the epoch, for ages. The only clock a cell sees.
    pub now_unix_seconds: i64,
}

/// Who asks, and how: what prepare rules and admission may look at.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub user: User,
    pub group: String,
    pub version: String,
    pub plural: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub dry_run: bool,
    /// RFC 3339, second precision; one clock reading a request.
    pub now: String,
    pub field_manager: String,
    /// A PUT or an apply that creates: the caller was only asked whether they may update.
    pub upsert: bool,
}

/// The caller, as authentication found them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// A built-in kind: its differences from every other kind, in this order in its file.
pub trait Kind: Sync + Send + 'static {
    /// What the rules see, of the storage version: a typed view, or [`Object`] itself, which costs no copy.
    type Object: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;
    const INFO: Info;
    fn columns() -> &'static [Column<Self::Object>];
    /// What a Table's row says of its object beside the cells: `meta/v1` TableRowConditions.
    fn row_conditions(_: &Self::Object) -> Vec<Value> {
        Vec::new()
    }
    /// The smallest valid object; feeds the laws and the docs.
    fn example() -> Self::Object;
    /// Defaults that the schema table cannot say. Idempotent. Must not look at the old object.
    fn set_defaults(_: &mut Self::Object) {}
    /// Runs on create after defaulting: clear status, set computed fields (QoS class), drop what clients may not set.
    fn prepare_create(_: &mut Self::Object, _: &Request) {}
    /// Runs on update and patch of the main resource; status is already the old one's where the kind has a status subresource.
    fn prepare_update(_new: &mut Self::Object, _old: &Self::Object, _: &Request) {}
    /// Runs on update of `/status`; spec and most of metadata are already the old one's.
    fn prepare_status(_new: &mut Self::Object, _old: &Self::Object, _: &Request) {}
    /// Everything upstream checks on create except object metadata (the pipeline does that first).
    fn validate(_: &Self::Object, _: &mut Problems) {}
    /// Everything upstream checks on update, *including* what it repeats from create: call `Self::validate` where upstream does.
    fn validate_update(new: &Self::Object, _old: &Self::Object, problems: &mut Problems) {
        Self::validate(new, problems);
    }
    fn validate_status(_new: &Self::Object, _old: &Self::Object, _: &mut Problems) {}
    /// Fields of features that upstream has switched off, see [`crate::gates`].
    const GATED: &'static [GatedAt] = &[];
    /// Subresources of the kind's own that write a piece of the object: `approval`, `ephemeralcontainers`.
    const PIECES: &'static [&'static str] = &[];
    /// Runs on update of one of [`Kind::PIECES`]: makes `new` the old object with the piece that the subresource may write.
    fn take_piece(_new: &mut Self::Object, _old: &Self::Object, _: &Request) {}
    /// Everything upstream checks on update of one of [`Kind::PIECES`]; `subresource` says which.
    fn validate_piece(_new: &Self::Object, _old: &Self::Object, _subresource: &str, _: &mut Problems) {}
    /// How the metadata is checked, where that depends on the version asked in (Event).
    fn metadata_checks(_: &Request) -> MetadataChecks {
        Self::INFO.metadata_checks
    }
    /// What depends on the version asked in (Event); runs after `validate` (`old` absent) or `validate_update`.
    fn validate_request(_new: &Self::Object, _old: Option<&Self::Object>, _: &Request, _: &mut Problems) {}
    /// `Warning:` headers on create and update (`old` absent on create).
    fn warnings(_new: &Self::Object, _old: Option<&Self::Object>, _: &mut Vec<String>) {}
    /// `Warning:` headers of an update of `/status`.
    fn status_warnings(_new: &Self::Object, _old: &Self::Object, _: &mut Vec<String>) {}
    /// Convert a tree between served versions, `to` being an apiVersion; called with apiVersion already rewritten.
    fn convert(_: &mut Object, _from: &str, _to: &str) {}
    /// Whether field selectors of a served version may name one of [`Info::selectable`]; versions that name fields differently (Event) say so.
    fn selects(_: &Served, _field: &str) -> bool {
        true
    }
    /// Grace period of a delete, in seconds, when the kind deletes gracefully (Pod). `asked` is DeleteOptions' value.
    /// `None`: deleted at once (finalizers aside).
    fn grace_seconds(_: &Self::Object, _asked: Option<i64>) -> Option<i64> {
        None
    }
    /// Runs when a delete is first asked for: a kind whose objects go only after some work adds its finalizer here.
    fn prepare_delete(_: &mut Self::Object, _: &Request) {}
}

/// A column definition without its type.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnInfo {
    pub name: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub format: Cow<'static, str>,
    pub description: Cow<'static, str>,
    pub priority: i32,
}

/// A kind as the pipelines see it. Methods work on trees; `Err` is the wrong-type answer that decoding should have caught.
pub trait AnyKind: Send + Sync + 'static {
    fn info(&self) -> &Info;
    fn columns(&self) -> Vec<ColumnInfo>;
    fn cells(&self, o: &Object, c: &Cells) -> Result<Vec<Value>, Status>;
    fn row_conditions(&self, _: &Object) -> Result<Vec<Value>, Status> {
        Ok(Vec::new())
    }
    fn example(&self) -> Object;
    fn set_defaults(&self, o: &mut Object) -> Result<(), Status>;
    fn prepare_create(&self, o: &mut Object, r: &Request) -> Result<(), Status>;
    fn prepare_update(&self, new: &mut Object, old: &Object, r: &Request) -> Result<(), Status>;
    fn prepare_status(&self, new: &mut Object, old: &Object, r: &Request) -> Result<(), Status>;
    fn validate(&self, o: &Object, p: &mut Problems) -> Result<(), Status>;
    fn validate_update(&self, new: &Object, old: &Object, p: &mut Problems) -> Result<(), Status>;
    fn validate_status(&self, new: &Object, old: &Object, p: &mut Problems) -> Result<(), Status>;
    /// Fields of features that are switched off; gone after defaulting unless the old object uses the feature.
    fn gated(&self) -> &'static [GatedAt] {
        &[]
    }
    /// Subresources of the kind's own that write a piece of the object.
    fn pieces(&self) -> &'static [&'static str] {
        &[]
    }
    fn take_piece(&self, _new: &mut Object, _old: &Object, _: &Request) -> Result<(), Status> {
        Ok(())
    }
    fn validate_piece(&self, _new: &Object, _old: &Object, _subresource: &str, _: &mut Problems) -> Result<(), Status> {
        Ok(())
    }
    /// How the metadata of a request's object is checked.
    fn metadata_checks(&self, _: &Request) -> MetadataChecks {
        self.info().metadata_checks
    }
    /// Rules that depend on the version asked in.
    fn validate_request(&self, _new: &Object, _old: Option<&Object>, _: &Request, _: &mut Problems) -> Result<(), Status> {
        Ok(())
    }
    fn warnings(&self, new: &Object, old: Option<&Object>, w: &mut Vec<String>) -> Result<(), Status>;
    /// Warnings of an update of `/status`.
    fn status_warnings(&self, _new: &Object, _old: &Object, _: &mut Vec<String>) -> Result<(), Status> {
        Ok(())
    }
    fn convert(&self, o: &mut Object, from: &str, to: &str);
    /// Whether rules and admission see objects in the version of the request rather than in the storage version: custom resources'.
    fn works_as_asked(&self) -> bool {
        false
    }
    /// Whether other versions are made by somebody who has to be asked, and who may fail; then [`AnyKind::convert`] is not called.
    fn converts_outside(&self) -> bool {
        false
    }
    /// Objects of any version in the version `to`, as many and in their order. Only for a kind that [`AnyKind::converts_outside`].
    fn convert_outside<'a>(&'a self, objects: Vec<Object>, _to: &'a Served) -> BoxFuture<'a, Result<Vec<Object>, Status>> {
        Box::pin(std::future::ready(Ok(objects)))
    }
    /// Whether a served version has one of [`Info::subresources`].
    fn has_subresource(&self, _served: &Served, _name: &str) -> bool {
        true
    }
    fn grace_seconds(&self, o: &Object, asked: Option<i64>) -> Result<Option<i64>, Status>;
    /// See [`Kind::prepare_delete`].
    fn prepare_delete(&self, _o: &mut Object, _: &Request) -> Result<(), Status> {
        Ok(())
    }
    /// Whether requests find a version of [`Info::served`]; a custom resource's storage version need not be served.
    fn serves(&self, _served: &Served) -> bool {
        true
    }
    /// Columns of a Table in a served version, and an object's cells in it.
    fn columns_of(&self, _served: &Served) -> Vec<ColumnInfo> {
        self.columns()
    }
    fn cells_of(&self, _served: &Served, o: &Object, c: &Cells) -> Result<Vec<Value>, Status> {
        self.cells(o, c)
    }
    /// The schema of a served version; a CRD gives its own.
    fn schema(&self, served: &Served) -> Option<TypeRef<'_>> {
        keles_api::schema::builtin().get(served.schema)
    }
    // --- the wire: by the schema's types for built-in kinds, by its own structure for a custom one ---
    /// A request body as an object of a served version. `Err` is the whole answer.
    fn decode(&self, served: &Served, body: &[u8], format: Format, validation: FieldValidation) -> Result<Decoded, Status> {
        decode::decode(body, format, self.typed(served)?, self.info().kind, validation)
    }
    /// A tree of a served version, checked and pruned as [`AnyKind::decode`] does with a body that names this kind and version.
    fn checked(&self, served: &Served, tree: Value) -> Result<Object, Status> {
        Ok(decode::check_tree(tree, self.typed(served)?, self.info().kind, FieldValidation::Ignore)?.object)
    }
    /// What a patch makes of an object of a served version.
    fn patched(&self, served: &Served, patch: PatchKind, current: &Object, body: &[u8], validation: FieldValidation) -> Result<Decoded, Status> {
        keles_patch::patch(patch, &current.0, body, self.typed(served)?, validation)
    }
    /// Sets the defaults that the schema of a version holds. Idempotent.
    fn static_defaults(&self, served: &Served, o: &mut Object) {
        if let Some(ty) = self.schema(served) {
            defaults::apply_static(&mut o.0, ty);
        }
    }
    /// After an outsider changed the object: defaults again; a custom resource is pruned too.
    fn readmit(&self, served: &Served, o: &mut Object) {
        self.static_defaults(served, o);
    }
    /// A converted object with only what its version has, in that version's canonical form.
    fn conform(&self, served: &Served, o: Object) -> Object {
        let Some(ty) = self.schema(served) else { return o };
        let mut o = decode::conform(o.0.clone(), ty, FieldValidation::Ignore).map_or(o, |d| d.object);
        canonical::canonicalise(&mut o.0, ty);
        o
    }
    /// Brings an object of the storage version to the form that is stored.
    fn canonicalise(&self, served: &Served, o: &mut Object) {
        if let Some(ty) = self.schema(served) {
            canonical::canonicalise(&mut o.0, ty);
        }
    }
    /// What brings stored bytes up to date when they are read; built-in kinds need none.
    fn restorer(&self) -> Option<Restore> {
        None
    }
    /// The value of a selectable field.
    fn field_value<'o>(&self, o: &'o Object, s: &Selectable) -> Cow<'o, str> {
        (s.value)(o)
    }
    /// Whether field selectors of a served version may name the field.
    fn selects(&self, _served: &Served, field: &str) -> bool {
        self.info().selectable.iter().any(|s| s.path == field)
    }
    /// Where `/scale` finds what it shows in a served version; `None`: where built-in workloads have it.
    fn scale(&self, _served: &Served) -> Option<ScalePaths> {
        None
    }
    /// The warning that requests in a deprecated version get, for kinds made at run time.
    fn deprecation(&self, _version: &str) -> Option<String> {
        None
    }
    /// Kind of its lists.
    fn list_kind(&self) -> String {
        format!("{}List", self.info().kind)
    }
    /// Tells one edition of a kind made at run time from another, for the tags of documents about it; empty for built-in kinds.
    fn edition(&self) -> String {
        String::new()
    }
    /// The published OpenAPI v3 schema of a served version, for a kind that is not in the schema table.
    fn open_api(&self, _served: &Served) -> Option<Value> {
        None
    }
    /// The schema, or the answer that there is none.
    fn typed(&self, served: &Served) -> Result<TypeRef<'_>, Status> {
        self.schema(served).ok_or_else(|| Status::internal(format!("no schema for {}", served.schema)))
    }
    /// Items of lists name kind and apiVersion (custom resources do, built-in kinds do not).
    fn items_carry_type(&self) -> bool {
        false
    }
    /// Prepares, validates and warns of a create of an object that has its defaults.
    fn create(&self, o: &mut Object, r: &Request, p: &mut Problems, w: &mut Vec<String>) -> Result<(), Status> {
        gates::take_away(o, None, self.gated());
        self.prepare_create(o, r)?;
        self.validate(o, p)?;
        self.validate_request(o, None, r, p)?;
        self.warnings(o, None, w)
    }
    /// The same for an update of the main resource. What it keeps of the stored state may be older than a default, so these are set here.
    fn update(&self, new: &mut Object, old: &Object, r: &Request, p: &mut Problems, w: &mut Vec<String>) -> Result<(), Status> {
        self.set_defaults(new)?;
        gates::take_away(new, Some(old), self.gated());
        self.prepare_update(new, old, r)?;
        self.validate_update(new, old, p)?;
        self.validate_request(new, Some(old), r, p)?;
        self.warnings(new, Some(old), w)
    }
    /// The same for an update of `/status`.
    fn update_status(&self, new: &mut Object, old: &Object, r: &Request, p: &mut Problems) -> Result<(), Status> {
        self.set_defaults(new)?;
        gates::take_away(new, Some(old), self.gated());
        self.prepare_status(new, old, r)?;
        self.validate_status(new, old, p)
    }
}

/// Erases a [`Kind`]: `Erased::<Pod>::new()` in the row of `kinds`.
pub struct Erased<K>(std::marker::PhantomData<fn() -> K>);

impl<K: Kind> Erased<K> {
    pub const fn new() -> Self {
        Erased(std::marker::PhantomData)
    }
}

impl<K: Kind> Default for Erased<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// The view of a kind whose view is the tree itself: no copy is made.
fn tree<T: 'static>(o: &Object) -> Option<&T> {
    (o as &dyn Any).downcast_ref()
}

fn tree_mut<T: 'static>(o: &mut Object) -> Option<&mut T> {
    (o as &mut dyn Any).downcast_mut()
}

fn read<K: Kind, R>(o: &Object, rule: impl FnOnce(&K::Object) -> R) -> Result<R, Status> {
    match tree(o) {
        Some(t) => Ok(rule(t)),
        None => Ok(rule(&view::<K>(o)?)),
    }
}

fn change<K: Kind>(o: &mut Object, rule: impl FnOnce(&mut K::Object)) -> Result<(), Status> {
    if let Some(t) = tree_mut(o) {
        rule(t);
        return Ok(());
    }
    let mut t = view::<K>(o)?;
    rule(&mut t);
    write_back(o, &t);
    Ok(())
}

fn view<K: Kind>(o: &Object) -> Result<K::Object, Status> {
    o.typed().map_err(|e| Status::bad_request(format!("{} cannot be handled as a {}: {e}", o.kind(), K::INFO.kind)))
}

/// Writes a typed view back into its tree. apiVersion and kind come from the type, so they stay right.
fn write_back<T: Serialize>(o: &mut Object, t: &T) {
    *o = Object::from_typed(t);
}

impl<K: Kind> AnyKind for Erased<K> {
    fn info(&self) -> &Info {
        const { &K::INFO }
    }
    fn columns(&self) -> Vec<ColumnInfo> {
        K::columns()
            .iter()
            .map(|c| ColumnInfo { name: c.name.into(), kind: c.kind.into(), format: c.format.into(), description: c.description.into(), priority: c.priority })
            .collect()
    }
    fn cells(&self, o: &Object, c: &Cells) -> Result<Vec<Value>, Status> {
        read::<K, _>(o, |t| K::columns().iter().map(|col| (col.cell)(t, c)).collect())
    }
    fn row_conditions(&self, o: &Object) -> Result<Vec<Value>, Status> {
        read::<K, _>(o, K::row_conditions)
    }
    fn example(&self) -> Object {
        Object::from_typed(&K::example())
    }
    fn set_defaults(&self, o: &mut Object) -> Result<(), Status> {
        change::<K>(o, K::set_defaults)
    }
    fn prepare_create(&self, o: &mut Object, r: &Request) -> Result<(), Status> {
        change::<K>(o, |t| K::prepare_create(t, r))
    }
    fn prepare_update(&self, new: &mut Object, old: &Object, r: &Request) -> Result<(), Status> {
        read::<K, _>(old, |old| change::<K>(new, |new| K::prepare_update(new, old, r)))?
    }
    fn prepare_status(&self, new: &mut Object, old: &Object, r: &Request) -> Result<(), Status> {
        read::<K, _>(old, |old| change::<K>(new, |new| K::prepare_status(new, old, r)))?
    }
    fn validate(&self, o: &Object, p: &mut Problems) -> Result<(), Status> {
        read::<K, _>(o, |t| K::validate(t, p))
    }
    fn validate_update(&self, new: &Object, old: &Object, p: &mut Problems) -> Result<(), Status> {
        read::<K, _>(old, |old| read::<K, _>(new, |new| K::validate_update(new, old, p)))?
    }
    fn validate_status(&self, new: &Object, old: &Object, p: &mut Problems) -> Result<(), Status> {
        read::<K, _>(old, |old| read::<K, _>(new, |new| K::validate_status(new, old, p)))?
    }
    fn gated(&self) -> &'static [GatedAt] {
        K::GATED
    }
    fn metadata_checks(&self, r: &Request) -> MetadataChecks {
        K::metadata_checks(r)
    }
    fn pieces(&self) -> &'static [&'static str] {
        K::PIECES
    }
    fn take_piece(&self, new: &mut Object, old: &Object, r: &Request) -> Result<(), Status> {
        read::<K, _>(old, |old| change::<K>(new, |new| K::take_piece(new, old, r)))?
    }
    fn validate_piece(&self, new: &Object, old: &Object, subresource: &str, p: &mut Problems) -> Result<(), Status> {
        read::<K, _>(old, |old| read::<K, _>(new, |new| K::validate_piece(new, old, subresource, p)))?
    }
    fn validate_request(&self, new: &Object, old: Option<&Object>, r: &Request, p: &mut Problems) -> Result<(), Status> {
        match old {
            None => read::<K, _>(new, |new| K::validate_request(new, None, r, p)),
            Some(old) => read::<K, _>(old, |old| read::<K, _>(new, |new| K::validate_request(new, Some(old), r, p)))?,
        }
    }
    fn warnings(&self, new: &Object, old: Option<&Object>, w: &mut Vec<String>) -> Result<(), Status> {
        match old {
            None => read::<K, _>(new, |new| K::warnings(new, None, w)),
            Some(old) => read::<K, _>(old, |old| read::<K, _>(new, |new| K::warnings(new, Some(old), w)))?,
        }
    }
    fn status_warnings(&self, new: &Object, old: &Object, w: &mut Vec<String>) -> Result<(), Status> {
        read::<K, _>(old, |old| read::<K, _>(new, |new| K::status_warnings(new, old, w)))?
    }
    fn convert(&self, o: &mut Object, from: &str, to: &str) {
        K::convert(o, from, to);
    }
    fn selects(&self, served: &Served, field: &str) -> bool {
        K::selects(served, field) && K::INFO.selectable.iter().any(|s| s.path == field)
    }
    fn grace_seconds(&self, o: &Object, asked: Option<i64>) -> Result<Option<i64>, Status> {
        read::<K, _>(o, |t| K::grace_seconds(t, asked))
    }
    fn prepare_delete(&self, o: &mut Object, r: &Request) -> Result<(), Status> {
        change::<K>(o, |t| K::prepare_delete(t, r))
    }
}
