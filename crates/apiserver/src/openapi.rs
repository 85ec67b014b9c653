//! OpenAPI: the index at `/openapi/v3` and a document a group-version, group or other path; `/openapi/v2` made from all of them, as JSON and
//! in binary.
//!
//! Made when asked for and kept compressed ([`Kept`]), by what they follow from. The v2 document is put together from a piece a
//! group-version, so that thousands of custom kinds are neither held as one tree nor made anew for one that changed.

use crate::aggregation::{State, documents};
use crate::pieces::{self, Piece};
use bytes::Bytes;
use keles_api::openapi::{self, Parts, Resource, Subresource, gnostic};
use keles_kinds::{GROUPS, VIRTUAL};
use keles_registry::{AnyKind, Scope, Served};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

pub struct OpenApi {
    /// By `api/v1` or `apis/apps/v1`.
    resources: BTreeMap<String, Vec<Resource>>,
    /// Kinds made at run time, which bring their schemas, by the same paths.
    custom: BTreeMap<String, Vec<(Arc<dyn AnyKind>, Served)>>,
    hashes: BTreeMap<String, String>,
    /// Hash of all documents.
    hash: String,
    index: Bytes,
    /// Other servers' parts of the v2 document.
    others: Vec<Arc<Value>>,
    others_hash: String,
    kept: Arc<Kept>,
}

/// What has been made, by path and form, with the hash of what it follows from. Outlives changes of kinds: only what changed is made anew.
#[derive(Default)]
pub struct Kept {
    made: Mutex<HashMap<(String, Form), (String, Arc<[Piece]>)>>,
    /// Held while the v2 document is made: who asks meanwhile waits for it instead of making it too.
    making: Mutex<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    V3,
    /// Two pieces: paths and definitions, each entry with a comma before it except in the first part.
    V2,
    /// gnostic's.
    V2Binary,
}

/// The part of the v2 document that comes first: what is built in, and other servers'.
const FIRST: &str = "";

impl Kept {
    /// The pieces of a path, made unless they are there and follow from the same.
    fn pieces(&self, path: &str, form: Form, hash: &str, make: impl FnOnce() -> Vec<Piece>) -> Arc<[Piece]> {
        let key = (path.to_owned(), form);
        if let Some((_, made)) = self.lock().get(&key).filter(|(of, _)| of == hash) {
            return made.clone();
        }
        let made: Arc<[Piece]> = make().into();
        self.lock().insert(key, (hash.to_owned(), made.clone()));
        made
    }
    /// Forgets paths that are not served any more.
    fn forget(&self, is_served: impl Fn(&str) -> bool) {
        self.lock().retain(|(path, _), _| path == FIRST || is_served(path));
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, Form), (String, Arc<[Piece]>)>> {
        self.made.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl OpenApi {
    /// `state`: servers whose documents belong to the index and to v2. `kept`: what was made before.
    pub fn new(kinds: &[Arc<dyn AnyKind>], state: &State, kept: Arc<Kept>) -> OpenApi {
        let resources = resources(kinds);
        let custom = custom(kinds);
        let editions = |path: &String| custom.get(path).into_iter().flatten().map(|(k, _)| k.edition()).collect::<Vec<_>>().join(" ");
        // The content follows from this program and the list of resources; hashing both spares making every document at start.
        let program = program();
        let mut hashes: BTreeMap<String, String> =
            resources.iter().map(|(path, list)| (path.clone(), hex::encode_upper(Sha256::digest(format!("{program} {list:?} {}", editions(path)))))).collect();
        let groups = resources.keys().filter_map(|p| p.rsplit_once('/').map(|(group, _)| group.to_owned())).collect::<std::collections::BTreeSet<_>>();
        hashes.extend(groups.into_iter().chain(["apis", "version", "openid/v1/jwks"].map(str::to_owned)).map(|path| {
            let hash = hex::encode_upper(Sha256::digest(format!("{program} {path}")));
            (path, hash)
        }));
        let hash = hex::encode_upper(Sha256::digest(hashes.values().map(String::as_str).collect::<String>()));
        let mut paths: Map<_, _> = hashes.iter().map(|(path, hash)| (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))).collect();
        let others: Vec<_> = state.remotes.values().map(|r| r.documents()).chain(state.locals.values().map(|l| (*l.documents).clone())).collect();
        paths.extend(others.iter().flat_map(|d| &d.v3).map(|(path, url)| (path.clone(), json!({"serverRelativeURL": url}))));
        let others: Vec<Arc<Value>> = others.iter().filter_map(|d| d.v2.clone()).collect();
        let text = others_text(&others);
        let others_hash = hex::encode(Sha256::digest(&text));
        let hash = if others.is_empty() { hash } else { hex::encode_upper(Sha256::digest(format!("{hash} {text}"))) };
        let index = serde_json::to_vec(&json!({"paths": paths})).expect("a JSON tree always encodes").into();
        kept.forget(|path| hashes.contains_key(path));
        OpenApi { resources, custom, hashes, hash, index, others, others_hash, kept }
    }

    pub fn index(&self) -> Bytes {
        self.index.clone()
    }

    /// The document of `apis/apps/v1` as gzip, with its hash.
    pub fn document(&self, path: &str) -> Option<(Bytes, &str)> {
        let hash = self.hashes.get(path)?;
        let made = self.kept.pieces(path, Form::V3, hash, || vec![Piece::of(&text(&self.make(path)))]);
        Some((pieces::gzip(&made.iter().collect::<Vec<_>>()), hash))
    }

    /// The hash of the v2 document.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The v2 document as gzip; `binary` in gnostic's form. Takes seconds where thousands of custom kinds were not asked for before.
    pub fn swagger(&self, binary: bool) -> Bytes {
        let _alone = self.kept.making.lock().unwrap_or_else(|e| e.into_inner());
        let form = if binary { Form::V2Binary } else { Form::V2 };
        let (own, first): (Vec<_>, Vec<_>) = self.hashes.iter().partition(|(path, _)| self.is_custom(path));
        let first_hash = format!("{} {}", first.iter().map(|(_, hash)| hash.as_str()).collect::<String>(), self.others_hash);
        let mut all = vec![self.kept.pieces(FIRST, form, &first_hash, || self.first(first.iter().map(|(path, _)| path.as_str()), form))];
        all.extend(own.into_iter().map(|(path, hash)| self.kept.pieces(path, form, hash, || self.addition(path, form))));
        if binary {
            return pieces::gzip(&all.iter().flat_map(|p| p.iter()).collect::<Vec<_>>());
        }
        let frame = openapi::frame(crate::paths::GIT_VERSION).to_string();
        let [head, middle, tail] = [format!("{},\"paths\":{{", frame.trim_end_matches('}')), "},\"definitions\":{".into(), "}}".into()].map(|t| Piece::of(t.as_bytes()));
        let mut whole = vec![&head];
        whole.extend(all.iter().map(|p| &p[0]));
        whole.push(&middle);
        whole.extend(all.iter().map(|p| &p[1]));
        whole.push(&tail);
        pieces::gzip(&whole)
    }

    /// Whether nothing at a path is built in.
    fn is_custom(&self, path: &str) -> bool {
        let group = path.strip_prefix("apis/").map(|rest| rest.split('/').next().unwrap_or_default());
        group.is_some_and(|g| !GROUPS.iter().any(|(own, _)| *own == g))
    }

    fn first<'p>(&self, paths: impl Iterator<Item = &'p str>, form: Form) -> Vec<Piece> {
        let mut whole = openapi::swagger(paths.map(|path| self.make(path)), crate::paths::GIT_VERSION);
        self.others.iter().for_each(|part| documents::merge_v2(&mut whole, part));
        match form {
            Form::V2Binary => vec![Piece::of(&gnostic::encode(&whole))],
            _ => ["paths", "definitions"].map(|part| Piece::of(inside(&text(&whole[part])))).into(),
        }
    }

    /// What a path of custom kinds adds. The types that all documents share came with the first part.
    fn addition(&self, path: &str, form: Form) -> Vec<Piece> {
        let kinds = self.custom.get(path).map(Vec::as_slice).unwrap_or_default();
        let mut parts = Parts::default();
        parts.add(self.make(path), |name| kinds.iter().any(|(_, s)| s.schema == name || name.strip_suffix("List") == Some(s.schema)));
        let listed = |entries: Map<String, Value>| {
            let text = text(&entries.into());
            let inside = inside(&text);
            Piece::of(&if inside.is_empty() { Vec::new() } else { [b",", inside].concat() })
        };
        match form {
            Form::V2Binary => vec![Piece::of(&gnostic::addition(&parts.paths, &parts.definitions))],
            _ => vec![listed(parts.paths), listed(parts.definitions)],
        }
    }

    fn make(&self, path: &str) -> Value {
        let small = |document: Vec<u8>| serde_json::from_slice(&document).expect("our own document is JSON");
        match (path, self.resources.get(path)) {
            (_, Some(list)) => match self.custom.get(path) {
                Some(custom) => with_custom(openapi::tree(list), custom),
                None => openapi::tree(list),
            },
            ("api", _) => small(openapi::group_document("")),
            ("apis", _) => small(openapi::groups_document()),
            ("version", _) => small(openapi::version_document()),
            ("openid/v1/jwks", _) => small(openapi::jwks_document()),
            (group, _) => small(openapi::group_document(group.trim_start_matches("apis/"))),
        }
    }
}

fn text(v: &Value) -> Vec<u8> {
    serde_json::to_vec(v).expect("a JSON tree always encodes")
}

/// The entries of a JSON object, without its braces.
fn inside(object: &[u8]) -> &[u8] {
    object.strip_prefix(b"{").and_then(|o| o.strip_suffix(b"}")).unwrap_or_default()
}

fn others_text(others: &[Arc<Value>]) -> String {
    others.iter().map(|d| d.to_string()).collect()
}

/// What tells this build from another: clients keep documents by their hash, across upgrades.
fn program() -> String {
    let of = |m: std::fs::Metadata| format!("{} {:?}", m.len(), m.modified().ok());
    let file = std::env::current_exe().and_then(std::fs::metadata).map(of).unwrap_or_default();
    format!("{} {file}", env!("CARGO_PKG_VERSION"))
}

fn resources(kinds: &[Arc<dyn AnyKind>]) -> BTreeMap<String, Vec<Resource>> {
    let mut all: BTreeMap<String, Vec<Resource>> = BTreeMap::new();
    let path = |g: &str, v: &str| if g.is_empty() { format!("api/{v}") } else { format!("apis/{g}/{v}") };
    for (g, versions) in crate::discovery::groups(kinds) {
        for v in versions {
            all.entry(path(&g, &v)).or_default();
        }
    }
    for k in kinds {
        let i = k.info();
        for s in i.served.iter().filter(|s| k.serves(s)) {
            all.entry(path(s.group, s.version)).or_default().push(Resource {
                group: s.group.into(),
                version: s.version.into(),
                plural: i.plural.into(),
                kind: i.kind.into(),
                namespaced: i.scope == Scope::Namespaced,
                schema: s.schema.into(),
                verbs: i.verbs.iter().map(|v| (*v).to_owned()).collect(),
                subresources: i
                    .subresources
                    .iter()
                    .filter(|sub| k.has_subresource(s, sub.name))
                    .map(|sub| Subresource {
                        name: sub.name.into(),
                        group: if sub.version.is_empty() { s.group.into() } else { sub.group.into() },
                        version: if sub.version.is_empty() { s.version.into() } else { sub.version.into() },
                        kind: sub.kind.into(),
                        schema: subresource_schema(sub.kind, sub.group, sub.version, i.kind, s.schema),
                        verbs: sub.verbs.iter().map(|v| (*v).to_owned()).collect(),
                    })
                    .collect(),
            });
        }
    }
    for v in VIRTUAL {
        all.entry(path(v.group, v.version)).or_default().push(Resource {
            group: v.group.into(),
            version: v.version.into(),
            plural: v.plural.into(),
            kind: v.kind.into(),
            namespaced: v.scope == Scope::Namespaced,
            schema: v.schema.into(),
            verbs: v.verbs.iter().map(|v| (*v).to_owned()).collect(),
            subresources: Vec::new(),
        });
    }
    all
}

fn custom(kinds: &[Arc<dyn AnyKind>]) -> BTreeMap<String, Vec<(Arc<dyn AnyKind>, Served)>> {
    let mut all: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for k in kinds.iter().filter(|k| !k.edition().is_empty()) {
        for s in k.info().served.iter().filter(|s| k.serves(s)) {
            all.entry(format!("apis/{}/{}", s.group, s.version)).or_default().push((k.clone(), *s));
        }
    }
    all
}

/// A document with the schemas that custom kinds bring, and those that they refer to.
fn with_custom(mut doc: Value, custom: &[(Arc<dyn AnyKind>, Served)]) -> Value {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
    let needed = [format!("{META}.ObjectMeta"), format!("{META}.ListMeta"), "io.k8s.api.autoscaling.v1.Scale".to_owned()];
    let shared = openapi::components(keles_api::schema::builtin(), &keles_api::schema::descriptions(), needed);
    let Some(schemas) = doc.pointer_mut("/components/schemas").and_then(Value::as_object_mut) else { return doc };
    schemas.extend(shared);
    for (k, s) in custom {
        let (kind, plural) = (k.info().kind, k.info().plural);
        let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        let list = json!({
            "description": format!("{} is a list of {kind}", k.list_kind()), "type": "object", "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string", "description": keles_custom::API_VERSION_TEXT},
                "items": {"type": "array", "items": reference(s.schema), "description": format!("List of {plural}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md")},
                "kind": {"type": "string", "description": keles_custom::KIND_TEXT},
                "metadata": {"allOf": [reference(&format!("{META}.ListMeta"))], "description": "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"},
            },
            "x-kubernetes-group-version-kind": [{"group": s.group, "version": s.version, "kind": k.list_kind()}],
        });
        schemas.insert(format!("{}List", s.schema), list);
        schemas.extend(k.open_api(s).map(|schema| (s.schema.to_owned(), schema)));
    }
    doc
}

/// The schema of a subresource: the parent's, that of another group, or none for option kinds, which no body has.
fn subresource_schema(kind: &str, group: &str, version: &str, parent: &str, parent_schema: &str) -> String {
    if kind == parent {
        return parent_schema.into();
    }
    if version.is_empty() {
        return if kind.ends_with("Options") { String::new() } else { format!("io.k8s.api.core.v1.{kind}") };
    }
    let word = group.split('.').next().unwrap_or_default();
    format!("io.k8s.api.{word}.{version}.{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_custom::{Custom, Definition};

    fn definition(plural: &str, kind: &str, group: &str, generation: u64) -> Arc<dyn AnyKind> {
        let text = json!({"metadata": {"name": format!("{plural}.{group}"), "uid": plural, "generation": generation}, "spec": {
            "group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer", "maximum": generation}}}}}}}]}})
        .to_string();
        Arc::new(Custom::new(Definition::read(text.as_bytes()).unwrap(), text.into()))
    }
    fn with(custom: Vec<Arc<dyn AnyKind>>, kept: &Arc<Kept>) -> OpenApi {
        OpenApi::new(&[keles_kinds::shared(), custom].concat(), &State::default(), kept.clone())
    }
    fn plain(gzip: Bytes) -> Vec<u8> {
        pieces::inflated(gzip).collect::<Vec<_>>().concat()
    }

    #[test]
    fn the_v2_document_is_that_of_all_v3_documents() {
        let o = with(vec![definition("foos", "Foo", "a.example", 1), definition("bars", "Bar", "a.example", 1), definition("things", "Thing", "b.example", 1)], &Arc::default());
        let whole = openapi::swagger(o.hashes.keys().map(|path| o.make(path)), crate::paths::GIT_VERSION);
        let got: Value = serde_json::from_slice(&plain(o.swagger(false))).unwrap();
        assert!(got["definitions"]["example.a.v1.Foo"].is_object() && got["definitions"]["example.b.v1.ThingList"].is_object());
        assert!(got == whole, "put together from pieces and made at once");
        // Both forms hold the same entries, if in another order.
        let (in_pieces, at_once) = (plain(o.swagger(true)), gnostic::encode(&whole));
        assert!(in_pieces.len() >= at_once.len());
        let held = |bytes: &[u8], text: &str| bytes.windows(text.len()).filter(|w| *w == text.as_bytes()).count();
        for text in ["example.a.v1.Bar", "example.b.v1.ThingList", "io.k8s.api.core.v1.Pod", "/apis/b.example/v1/namespaces/{namespace}/things/{name}/scale"] {
            assert_eq!(held(&in_pieces, text), held(&at_once, text), "{text}");
        }
    }

    #[test]
    fn what_did_not_change_is_not_made_anew() {
        let kept = Arc::default();
        let made = |o: &OpenApi, path: &str| o.kept.lock().get(&(path.to_owned(), Form::V2)).map(|(_, p)| p.clone());
        let before = with(vec![definition("foos", "Foo", "a.example", 1), definition("things", "Thing", "b.example", 1)], &kept);
        before.swagger(false);
        let (a, b, first) = (made(&before, "apis/a.example/v1").unwrap(), made(&before, "apis/b.example/v1").unwrap(), made(&before, FIRST).unwrap());
        let after = with(vec![definition("foos", "Foo", "a.example", 2), definition("things", "Thing", "b.example", 1)], &kept);
        assert_ne!(before.hash(), after.hash());
        let text = String::from_utf8(plain(after.swagger(false))).unwrap();
        assert!(text.contains("\"maximum\":2"));
        assert!(Arc::ptr_eq(&made(&after, "apis/b.example/v1").unwrap(), &b) && Arc::ptr_eq(&made(&after, FIRST).unwrap(), &first));
        assert!(!Arc::ptr_eq(&made(&after, "apis/a.example/v1").unwrap(), &a));
        let gone = with(vec![definition("things", "Thing", "b.example", 1)], &kept);
        assert!(made(&gone, "apis/a.example/v1").is_none(), "what is not served any more is forgotten");
    }
}
