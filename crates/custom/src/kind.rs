//! A custom kind as the pipelines see it.
//!
//! What a definition says of names and versions is read at once; the schema of a version is read from the definition's own bytes (shared
//! with the watch cache) when the first object of it is handled, so that thousands of definitions cost their names only. Objects are
//! checked in the version of the request, as upstream does; they are stored in the storage version.

use crate::columns::{self, Column};
use crate::conversion::{Conversion, Webhook};
use crate::definition::{Definition, Scale};
use crate::jsonpath::JsonPath;
use crate::structural::Node;
use crate::versions::priority;
use crate::{default, embedded, lists, names, open_api, prune, rules, schema, validate};
use bytes::Bytes;
use keles_api::decode::{self, DecodeError, Decoded, FieldValidation, Format};
use keles_api::problems::ProblemKind;
use keles_api::schema::{Schema, builtin};
use keles_api::{GroupVersion, Object, Path, Problem, Problems, Status, TypeRef, canonical};
use keles_patch::{PatchError, PatchKind};
use keles_registry::Restore;
use keles_registry::kind::{AnyKind, Cells, ColumnInfo, Info, NameRule, Request, STATUS, ScalePaths, Scope, Selectable, Served, Subresource, UnknownSelector};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// In the order in which discovery prints them for custom resources.
const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const SUBRESOURCE_VERBS: &[&str] = &["get", "patch", "update"];
const PATCH_TYPES: &[&str] = &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

/// A kind made from a definition. Cheap to clone.
#[derive(Clone)]
pub struct Custom(Arc<Inner>);

struct Inner {
    info: Info,
    definition: Definition,
    /// The definition as it is stored.
    source: Mutex<Bytes>,
    /// In the order of `info.served`.
    versions: Box<[Slot]>,
    terminating: AtomicBool,
    /// Who makes other versions; absent: they differ in their name only.
    conversion: Option<Conversion>,
}

struct Slot {
    served: bool,
    made: OnceLock<Version>,
}

/// What is known of a version once its schema is read.
struct Version {
    root: Node,
    columns: Vec<Column>,
    scale: Option<Scale>,
    has_status: bool,
    has_rules: bool,
    schema: OnceLock<Schema>,
}

static SERVED: names::Lists<ServedKey> = names::Lists::new();
static SUBRESOURCES: names::Lists<Subresource> = names::Lists::new();

/// [`Served`] made hashable.
type ServedKey = Served;

impl Custom {
    /// The kind of a definition, `source` being its bytes. Its names are the accepted ones where there are any.
    pub fn new(definition: Definition, source: Bytes) -> Self {
        Self::with_webhook(definition, source, None)
    }

    /// The same, `hook` being how the webhook of a definition that converts by one is reached.
    pub fn with_webhook(definition: Definition, source: Bytes, hook: Option<Arc<dyn Webhook>>) -> Self {
        let conversion = hook.filter(|_| definition.converts_by_webhook()).map(|h| Conversion::new(&definition, h));
        let n = if definition.status.accepted_names.kind.is_empty() { &definition.spec.names } else { &definition.status.accepted_names };
        let (group, kind) = (names::text(&definition.spec.group), names::text(&n.kind));
        let mut order: Vec<_> = definition.spec.versions.iter().collect();
        order.sort_by_key(|v| !v.storage);
        let served = order.iter().map(|v| Served { group, version: names::text(&v.name), schema: names::text(&schema_name(group, &v.name, kind)) }).collect();
        let mut subresources = Vec::new();
        let shown = || order.iter().filter(|v| v.served || v.storage);
        if shown().any(|v| v.subresources.status.is_some()) {
            subresources.push(Subresource { name: STATUS, kind, group: "", version: "", verbs: SUBRESOURCE_VERBS });
        }
        if shown().any(|v| v.subresources.scale.is_some()) {
            subresources.push(Subresource { name: "scale", kind: "Scale", group: "autoscaling", version: "v1", verbs: SUBRESOURCE_VERBS });
        }
        let info = Info {
            kind,
            plural: names::text(&n.plural),
            singular: names::text(&n.singular),
            short_names: names::list(&n.short_names),
            categories: names::list(&n.categories),
            scope: if definition.is_namespaced() { Scope::Namespaced } else { Scope::Cluster },
            served: SERVED.keep(served),
            verbs: VERBS,
            subresources: SUBRESOURCES.keep(subresources),
            selectable: selectable(&order),
            // The kind counts for itself: without a status subresource its status counts too.
            generation: false,
            generation_kept: keles_registry::kind::GenerationKept::Always,
            unknown_selector: UnknownSelector::NotSupported,
            create_on_update: false,
            unconditional_update: false,
            metadata_checks: Info::BASE.metadata_checks,
            name_rule: NameRule::DnsSubdomain,
        };
        let versions = order.iter().map(|v| Slot { served: v.served, made: OnceLock::new() }).collect();
        Custom(Arc::new(Inner { info, definition, source: Mutex::new(source), versions, terminating: AtomicBool::new(false), conversion }))
    }

    pub fn definition(&self) -> &Definition {
        &self.0.definition
    }
    /// The same definition in a newer state: only its status differs. Keeps the bytes shared with the watch cache, rather than old ones.
    pub fn refresh(&self, source: Bytes) {
        *self.0.source.lock().unwrap_or_else(|e| e.into_inner()) = source;
    }
    fn source(&self) -> Bytes {
        self.0.source.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
    pub fn is_terminating(&self) -> bool {
        self.0.terminating.load(Ordering::Acquire)
    }
    /// From now on no object of the kind can be made: its definition is being deleted.
    pub fn terminate(&self) {
        self.0.terminating.store(true, Ordering::Release);
    }

    fn slot(&self, version: &str) -> Option<usize> {
        self.0.info.served.iter().position(|s| s.version == version)
    }
    /// A version with its schema; the storage version for a name that is none.
    fn version(&self, name: &str) -> &Version {
        let i = self.slot(name).unwrap_or(0);
        self.0.versions[i].made.get_or_init(|| self.read_version(i))
    }
    /// The version that an object says it is of; the storage version where it says none.
    fn named(&self, o: &Object) -> &'static str {
        let served = self.0.info.served;
        let version = o.api_version().rsplit('/').next().unwrap_or_default();
        served.iter().find(|s| s.version == version).unwrap_or(&served[0]).version
    }
    fn raw_version(&self, name: &str) -> Value {
        let tree: Value = serde_json::from_slice(&self.source()).unwrap_or_default();
        let all = tree.pointer("/spec/versions").and_then(Value::as_array).cloned().unwrap_or_default();
        all.into_iter().find(|v| v["name"] == name).unwrap_or_default()
    }
    fn read_version(&self, i: usize) -> Version {
        let name = self.0.info.served[i].version;
        let raw = self.raw_version(name);
        let mut root = Node::parse(&raw["schema"]["openAPIV3Schema"]);
        root.preserve |= self.0.definition.spec.preserve_unknown_fields;
        let own = self.0.definition.spec.versions.iter().find(|v| v.name == name);
        Version {
            columns: columns::of_version(&raw),
            scale: own.and_then(|v| v.subresources.scale.clone()),
            has_status: own.is_some_and(|v| v.subresources.status.is_some()),
            has_rules: rules::has_rules(&root),
            root,
            schema: OnceLock::new(),
        }
    }

    /// Brings a decoded tree into the form of a version: metadata, pruning, nulls. The paths of unknown fields come back; `Err` is what is
    /// wrong with metadata.
    fn settle(&self, o: &mut Value, version: &Version) -> Result<Vec<String>, String> {
        let mut gone = Vec::new();
        embedded::read(o, "", &mut gone)?;
        gone.extend(prune::prune(o, &version.root));
        prune::drop_nulls(o, &version.root);
        embedded::read_embedded(o, &version.root, &Path::root(), &mut gone)?;
        Ok(gone)
    }

    /// Defaults and pruning, where what is wrong with metadata is somebody else's business.
    fn refit(&self, o: &mut Object, version: &Version) {
        prune::prune(&mut o.0, &version.root);
        prune::drop_nulls(&mut o.0, &version.root);
        default::apply(&mut o.0, &version.root);
    }

    fn validate_in(&self, version: &Version, o: &Object, old: Option<&Object>, p: &mut Problems) {
        validate::validate(&o.0, old.map(|o| &o.0), &version.root, p);
        if let Some(s) = &version.scale {
            scale_numbers(o, s, p);
        }
        embedded::validate(&o.0, &version.root, &Path::root(), p);
        let broken_before = old.is_some_and(|old| {
            let mut before = Problems::new();
            lists::validate(&old.0, &version.root, &Path::root(), &mut before);
            !before.is_empty()
        });
        if !broken_before {
            lists::validate(&o.0, &version.root, &Path::root(), p);
        }
        if version.has_rules {
            if validate::blocks_rules(p) {
                let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
                p.push(Problem { kind: ProblemKind::Invalid, field: String::new(), value: Some(Value::Null), detail: detail.into() });
            } else {
                rules::validate(&o.0, old.map(|o| &o.0), &version.root, p);
            }
        }
    }
}

/// `com.example.stable.v1.CronTab`
fn schema_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

fn selectable(versions: &[&crate::definition::Version]) -> &'static [Selectable] {
    static LISTS: names::Lists<&'static str> = names::Lists::new();
    static MADE: std::sync::Mutex<Vec<(&'static [&'static str], &'static [Selectable])>> = std::sync::Mutex::new(Vec::new());
    let mut paths: Vec<&'static str> = versions.iter().flat_map(|v| &v.selectable_fields).map(|f| names::text(f.json_path.trim_start_matches('.'))).collect();
    paths.sort_unstable();
    paths.dedup();
    let paths = LISTS.keep(paths);
    let mut made = MADE.lock().unwrap_or_else(|e| e.into_inner());
    if let Some((_, there)) = made.iter().find(|(p, _)| std::ptr::eq(*p, paths)) {
        return there;
    }
    // The value comes from `field_value`, which knows the path.
    let all: Box<[Selectable]> = paths.iter().map(|p| Selectable { path: p, value: |_| Cow::Borrowed("") }).collect();
    let kept: &'static [Selectable] = Box::leak(all);
    made.push((paths, kept));
    kept
}

fn path_of(text: &str) -> Vec<String> {
    text.trim_start_matches('.').split('.').map(str::to_owned).collect()
}

/// What upstream checks of the numbers that `/scale` shows.
fn scale_numbers(o: &Object, s: &Scale, p: &mut Problems) {
    for text in [&s.spec_replicas_path, &s.status_replicas_path] {
        let path = path_of(text);
        let found = o.at(&path.iter().map(String::as_str).collect::<Vec<_>>());
        let at = Path::new(text);
        match (found, found.as_i64()) {
            (Value::Null, _) => {}
            (_, Some(n)) if n < 0 => p.invalid(&at, n, "should be a non-negative integer"),
            (_, Some(n)) if n > i64::from(i32::MAX) => p.invalid(&at, n, format!("should be less than or equal to {}", i32::MAX)),
            (_, Some(_)) => {}
            (other, None) => {
                let go = match other {
                    Value::String(_) => "string",
                    Value::Bool(_) => "bool",
                    Value::Array(_) => "[]interface {}",
                    Value::Object(_) => "map[string]interface {}",
                    _ => "float64",
                };
                p.invalid(&at, 0, format!(".{} accessor error: {} is of the type {go}, expected int64", path.join("."), keles_patch::go_print(other)));
            }
        }
    }
}

/// Metadata in the form that Go writes.
fn canonical_metadata(o: &mut Object) {
    let Some(ty) = builtin().get("io.k8s.api.core.v1.ConfigMap") else { return };
    if let Some(m) = o.root_mut().get_mut("metadata") {
        let mut carrier = json!({"metadata": m.take()});
        canonical::canonicalise(&mut carrier, ty);
        *m = carrier["metadata"].take();
    }
}

/// Whether anything but type and metadata changed.
fn differs(new: &Object, old: &Object) -> bool {
    let rest = |o: &Object| o.root().iter().filter(|(k, _)| !matches!(k.as_str(), "metadata" | "apiVersion" | "kind")).count();
    rest(new) != rest(old) || new.root().iter().any(|(k, v)| !matches!(k.as_str(), "metadata" | "apiVersion" | "kind") && old.root().get(k) != Some(v))
}

/// The answer to an object that does not fit its kind.
fn misfit(found_kind: &str, found_version: &str, kind: &str, why: &dyn std::fmt::Display) -> Status {
    let version = found_version.rsplit('/').next().unwrap_or_default();
    Status::bad_request(format!("{found_kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
}

impl AnyKind for Custom {
    fn info(&self) -> &Info {
        &self.0.info
    }
    fn columns(&self) -> Vec<ColumnInfo> {
        self.columns_of(&self.0.info.served[0])
    }
    fn cells(&self, o: &Object, c: &Cells) -> Result<Vec<Value>, Status> {
        self.cells_of(&self.0.info.served[0], o, c)
    }
    fn columns_of(&self, served: &Served) -> Vec<ColumnInfo> {
        self.version(served.version).columns.iter().map(Column::info).collect()
    }
    fn cells_of(&self, served: &Served, o: &Object, c: &Cells) -> Result<Vec<Value>, Status> {
        Ok(self.version(served.version).columns.iter().map(|col| col.cell(o, c)).collect())
    }
    fn example(&self) -> Object {
        let s = self.0.info.served[0];
        let mut o = Object::new(&GroupVersion::new(s.group, s.version).to_string(), self.0.info.kind);
        o.set_meta("name", "example");
        o
    }
    fn serves(&self, served: &Served) -> bool {
        // Without a way to its webhook only what needs no conversion is served.
        let lost = self.0.definition.converts_by_webhook() && self.0.conversion.is_none() && *served != self.0.info.served[0];
        !lost && self.slot(served.version).is_some_and(|i| self.0.versions[i].served)
    }

    fn set_defaults(&self, o: &mut Object) -> Result<(), Status> {
        let version = self.version(self.named(o));
        default::apply(&mut o.0, &version.root);
        Ok(())
    }
    fn prepare_create(&self, o: &mut Object, r: &Request) -> Result<(), Status> {
        if self.version(&r.version).has_status {
            o.root_mut().remove("status");
        }
        o.set_meta("generation", 1);
        Ok(())
    }
    fn prepare_update(&self, new: &mut Object, old: &Object, r: &Request) -> Result<(), Status> {
        if self.version(&r.version).has_status {
            match old.root().get("status") {
                Some(s) => drop(new.root_mut().insert("status".into(), s.clone())),
                None => drop(new.root_mut().remove("status")),
            }
        }
        let grown = old.generation() + i64::from(differs(new, old));
        new.set_meta("generation", grown);
        Ok(())
    }
    fn prepare_status(&self, new: &mut Object, old: &Object, _: &Request) -> Result<(), Status> {
        // A status update touches no metadata but what says who owns the fields.
        let managed = new.meta("managedFields").clone();
        let mut meta = old.at(&["metadata"]).clone();
        meta["resourceVersion"] = new.meta("resourceVersion").clone();
        new.root_mut().insert("metadata".into(), meta);
        new.set_meta("managedFields", managed);
        if new.meta("resourceVersion").is_null() {
            new.set_meta("resourceVersion", Value::Null);
        }
        Ok(())
    }
    fn validate(&self, o: &Object, p: &mut Problems) -> Result<(), Status> {
        self.validate_in(self.version(self.named(o)), o, None, p);
        Ok(())
    }
    fn validate_update(&self, new: &Object, old: &Object, p: &mut Problems) -> Result<(), Status> {
        self.validate_in(self.version(self.named(new)), new, Some(old), p);
        Ok(())
    }
    fn validate_status(&self, new: &Object, old: &Object, p: &mut Problems) -> Result<(), Status> {
        self.validate_update(new, old, p)
    }
    fn warnings(&self, new: &Object, old: Option<&Object>, w: &mut Vec<String>) -> Result<(), Status> {
        let had = old.map(Object::finalizers).unwrap_or_default();
        let fresh = new.finalizers().into_iter().filter(|f| !had.contains(f) && !f.contains('/') && !matches!(*f, "orphan" | "foregroundDeletion"));
        w.extend(fresh.map(|f| {
            format!("metadata.finalizers: {f:?}: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers")
        }));
        Ok(())
    }
    fn create(&self, o: &mut Object, r: &Request, p: &mut Problems, w: &mut Vec<String>) -> Result<(), Status> {
        if self.0.terminating.load(Ordering::Acquire) {
            return Err(Status::failure(405, "MethodNotAllowed", "create not allowed while custom resource definition is terminating").with_details(Default::default()));
        }
        self.prepare_create(o, r)?;
        self.validate_in(self.version(&r.version), o, None, p);
        self.warnings(o, None, w)
    }
    fn update(&self, new: &mut Object, old: &Object, r: &Request, p: &mut Problems, w: &mut Vec<String>) -> Result<(), Status> {
        self.set_defaults(new)?;
        self.prepare_update(new, old, r)?;
        self.validate_in(self.version(&r.version), new, Some(old), p);
        self.warnings(new, Some(old), w)
    }
    fn update_status(&self, new: &mut Object, old: &Object, r: &Request, p: &mut Problems) -> Result<(), Status> {
        self.set_defaults(new)?;
        self.prepare_status(new, old, r)?;
        self.validate_in(self.version(&r.version), new, Some(old), p);
        Ok(())
    }
    fn convert(&self, _: &mut Object, _from: &str, _to: &str) {}
    fn works_as_asked(&self) -> bool {
        true
    }
    fn converts_outside(&self) -> bool {
        self.0.conversion.is_some()
    }
    fn convert_outside<'a>(&'a self, objects: Vec<Object>, to: &'a Served) -> Pin<Box<dyn Future<Output = Result<Vec<Object>, Status>> + Send + 'a>> {
        match &self.0.conversion {
            Some(c) => Box::pin(c.convert(objects, to.version)),
            None => Box::pin(std::future::ready(Ok(objects))),
        }
    }
    fn has_subresource(&self, served: &Served, name: &str) -> bool {
        let own = self.0.definition.spec.versions.iter().find(|v| v.name == served.version).map(|v| &v.subresources);
        own.is_some_and(|s| match name {
            STATUS => s.status.is_some(),
            "scale" => s.scale.is_some(),
            _ => false,
        })
    }
    fn grace_seconds(&self, _: &Object, _asked: Option<i64>) -> Result<Option<i64>, Status> {
        Ok(None)
    }
    fn schema(&self, served: &Served) -> Option<TypeRef<'_>> {
        let v = self.version(served.version);
        v.schema.get_or_init(|| schema::build(&v.root, served.schema)).get(served.schema)
    }
    fn items_carry_type(&self) -> bool {
        true
    }

    fn decode(&self, served: &Served, body: &[u8], format: Format, validation: FieldValidation) -> Result<Decoded, Status> {
        let (kind, version) = (self.0.info.kind, self.version(served.version));
        let (mut v, duplicates) = match decode::parse_strict(body, format) {
            Ok(read) if read.0.is_object() => read,
            // Any type refuses such a body in the same words.
            _ => return decode::decode(body, format, self.typed(served)?, kind, validation),
        };
        let unrecognised = |why: String| decode::unrecognised(kind, &why, body);
        let text = |v: &Value, f: &str| v.get(f).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (found_kind, found_version) = (text(&v, "kind"), text(&v, "apiVersion"));
        if found_kind.is_empty() {
            return Err(unrecognised(format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(body))));
        }
        let refused = |why: &dyn std::fmt::Display| misfit(&found_kind, &found_version, kind, why);
        let expected = GroupVersion::new(served.group, served.version).to_string();
        if found_kind != kind && found_version == expected {
            let mut p = Problems::new();
            p.invalid(&Path::new("kind"), found_kind.as_str(), format!("must be {kind}"));
            return Err(Status::invalid(served.group, &found_kind, Object(v).name(), &p));
        }
        if found_version != expected {
            // Another version is the pipeline's to refuse.
            return Ok(Decoded { object: Object(v), warnings: Vec::new() });
        }
        let gone = self.settle(&mut v, version).map_err(|why| refused(&why))?;
        let strict: Vec<String> = duplicates.into_iter().chain(gone.iter().map(|f| format!("unknown field \"{f}\""))).collect();
        if validation == FieldValidation::Strict && !strict.is_empty() {
            return Err(refused(&DecodeError::Strict(strict)));
        }
        Ok(Decoded { object: Object(v), warnings: if validation == FieldValidation::Ignore { Vec::new() } else { strict } })
    }

    fn checked(&self, served: &Served, mut tree: Value) -> Result<Object, Status> {
        let kind = self.0.info.kind;
        self.settle(&mut tree, self.version(served.version)).map_err(|why| misfit(kind, served.version, kind, &why))?;
        Ok(Object(tree))
    }

    fn patched(&self, served: &Served, patch: PatchKind, current: &Object, body: &[u8], validation: FieldValidation) -> Result<Decoded, Status> {
        let version = self.version(served.version);
        let (mut patched, duplicates) = match patch {
            PatchKind::Strategic => return Err(Status::unsupported_media_type("application/strategic-merge-patch+json", PATCH_TYPES)),
            PatchKind::Json => (keles_patch::json_patch(&current.0, body).map_err(|e| e.to_status())?, Vec::new()),
            PatchKind::Merge => {
                let malformed =
                    |e: DecodeError| PatchError::Malformed(format!("error decoding patch: {}", e.to_string().trim_start_matches("couldn't get version/kind; json parse error: ")));
                let (p, duplicates) = decode::parse_strict(body, Format::Json).map_err(|e| malformed(e).to_status())?;
                (keles_patch::merge_patch(&current.0, &p).map_err(|e| e.to_status())?, duplicates)
            }
        };
        let shown = patched.to_string();
        if shown.len() > keles_patch::RESULT_BYTES_MAX {
            return Err(PatchError::TooLarge.to_status());
        }
        let misfit = |why: String| PatchError::Misfit { shown: shown.clone(), why }.to_status();
        if !patched.is_object() {
            return Err(misfit(format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", keles_patch::go_print(&patched))));
        }
        let gone = self.settle(&mut patched, version).map_err(misfit)?;
        let strict: Vec<String> = duplicates.into_iter().chain(gone.iter().map(|f| format!("unknown field \"{f}\""))).collect();
        if validation == FieldValidation::Strict && !strict.is_empty() {
            return Err(misfit(DecodeError::Strict(strict).to_string()));
        }
        Ok(Decoded { object: Object(patched), warnings: if validation == FieldValidation::Ignore { Vec::new() } else { strict } })
    }

    fn static_defaults(&self, served: &Served, o: &mut Object) {
        default::apply(&mut o.0, &self.version(served.version).root);
    }
    fn readmit(&self, served: &Served, o: &mut Object) {
        self.refit(o, self.version(served.version));
    }
    /// Upstream sets no defaults after a conversion: those of the stored version are there already.
    fn conform(&self, served: &Served, mut o: Object) -> Object {
        let root = &self.version(served.version).root;
        prune::prune(&mut o.0, root);
        prune::drop_nulls(&mut o.0, root);
        o
    }
    fn canonicalise(&self, served: &Served, o: &mut Object) {
        let version = self.version(served.version);
        prune::prune(&mut o.0, &version.root);
        prune::drop_nulls(&mut o.0, &version.root);
        canonical_metadata(o);
    }
    fn restorer(&self) -> Option<Restore> {
        let kind = self.clone();
        Some(Arc::new(move |stored| {
            let mut o = Object(serde_json::from_slice(stored).ok().filter(Value::is_object)?);
            let before = o.clone();
            if !kind.converts_outside() {
                let storage = kind.0.info.served[0];
                o.set_type(&GroupVersion::new(storage.group, storage.version).to_string(), kind.0.info.kind);
            }
            let version = kind.version(kind.named(&o));
            kind.refit(&mut o, version);
            (o != before).then_some(o)
        }))
    }
    fn field_value<'o>(&self, o: &'o Object, s: &Selectable) -> Cow<'o, str> {
        match JsonPath::parse(s.path).and_then(|p| p.find(&o.0).first().copied()) {
            Some(Value::String(s)) => Cow::Borrowed(s.as_str()),
            Some(Value::Null) | None => Cow::Borrowed(""),
            Some(other) => Cow::Owned(other.to_string()),
        }
    }
    fn selects(&self, served: &Served, field: &str) -> bool {
        let own = self.0.definition.spec.versions.iter().find(|v| v.name == served.version);
        own.is_some_and(|v| v.selectable_fields.iter().any(|f| f.json_path.trim_start_matches('.') == field))
    }
    fn scale(&self, served: &Served) -> Option<ScalePaths> {
        let s = self.version(served.version).scale.as_ref()?;
        Some(ScalePaths {
            spec_replicas: path_of(&s.spec_replicas_path),
            status_replicas: path_of(&s.status_replicas_path),
            selector: s.label_selector_path.as_deref().filter(|p| !p.is_empty()).map(path_of),
        })
    }
    fn deprecation(&self, version: &str) -> Option<String> {
        let (d, kind) = (&self.0.definition, self.0.info.kind);
        let own = d.spec.versions.iter().find(|v| v.name == version && v.deprecated)?;
        if let Some(said) = &own.deprecation_warning {
            return Some(said.clone());
        }
        let better = d.spec.versions.iter().filter(|v| v.served && !v.deprecated && priority(&v.name) < priority(version)).min_by_key(|v| priority(&v.name));
        let instead = better.map(|v| format!("; use {}/{} {kind}", d.spec.group, v.name)).unwrap_or_default();
        Some(format!("{}/{version} {kind} is deprecated{instead}", d.spec.group))
    }
    fn list_kind(&self) -> String {
        let n = &self.0.definition;
        let names = if n.status.accepted_names.kind.is_empty() { &n.spec.names } else { &n.status.accepted_names };
        if names.list_kind.is_empty() { format!("{}List", names.kind) } else { names.list_kind.clone() }
    }
    fn edition(&self) -> String {
        format!("{}/{}", self.0.definition.metadata.uid, self.0.definition.metadata.generation)
    }
    fn open_api(&self, served: &Served) -> Option<Value> {
        let raw = self.raw_version(served.version);
        Some(open_api::of_version(&raw["schema"]["openAPIV3Schema"], served.group, served.version, self.0.info.kind))
    }
}
