//! OpenAPI: the index at `/openapi/v3` and a document a group-version, group or other path; `/openapi/v2` made from all of them, as JSON and
//! in binary. Made when asked for and kept compressed.

use crate::aggregation::{State, documents};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use keles_api::openapi::{self, Resource, Subresource};
use keles_kinds::VIRTUAL;
use keles_registry::{AnyKind, Scope, Served};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
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
    /// gzip of what has been asked for.
    made: Mutex<HashMap<String, Bytes>>,
}

impl OpenApi {
    /// `state`: servers whose documents belong to the index and to v2.
    pub fn new(kinds: &[Arc<dyn AnyKind>], state: &State) -> OpenApi {
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
        let others: Vec<_> = state.remotes.values().map(|r| r.documents()).collect();
        paths.extend(others.iter().flat_map(|d| &d.v3).map(|(path, url)| (path.clone(), json!({"serverRelativeURL": url}))));
        let others: Vec<Arc<Value>> = others.iter().filter_map(|d| d.v2.clone()).collect();
        let hash = if others.is_empty() { hash } else { hex::encode_upper(Sha256::digest(format!("{hash} {}", others.iter().map(|d| d.to_string()).collect::<String>()))) };
        let index = serde_json::to_vec(&json!({"paths": paths})).expect("a JSON tree always encodes").into();
        OpenApi { resources, custom, hashes, hash, index, others, made: Mutex::default() }
    }

    pub fn index(&self) -> Bytes {
        self.index.clone()
    }

    /// The document of `apis/apps/v1` as gzip, with its hash.
    pub fn document(&self, path: &str) -> Option<(Bytes, &str)> {
        let hash = self.hashes.get(path)?;
        Some((self.kept(path, || self.make(path)), hash))
    }

    /// The v2 document as gzip, with its hash; `binary` in gnostic's form.
    pub fn swagger(&self, binary: bool) -> (Bytes, &str) {
        let own = || self.hashes.keys().map(|path| serde_json::from_slice(&self.make(path)).unwrap_or_default());
        let swagger = || {
            let mut whole = openapi::swagger(own(), crate::paths::GIT_VERSION);
            self.others.iter().for_each(|part| documents::merge_v2(&mut whole, part));
            whole
        };
        let made = if binary {
            self.kept("v2 binary", || openapi::gnostic::encode(&swagger()))
        } else {
            self.kept("v2", || serde_json::to_vec(&swagger()).expect("a JSON tree always encodes"))
        };
        (made, &self.hash)
    }

    fn make(&self, path: &str) -> Vec<u8> {
        match (path, self.resources.get(path)) {
            (_, Some(list)) => match self.custom.get(path) {
                Some(custom) => with_custom(&openapi::document(list), custom),
                None => openapi::document(list),
            },
            ("api", _) => openapi::group_document(""),
            ("apis", _) => openapi::groups_document(),
            ("version", _) => openapi::version_document(),
            ("openid/v1/jwks", _) => openapi::jwks_document(),
            (group, _) => openapi::group_document(group.trim_start_matches("apis/")),
        }
    }

    /// gzip of what is made, kept under a name.
    fn kept(&self, name: &str, make: impl FnOnce() -> Vec<u8>) -> Bytes {
        if let Some(made) = self.lock().get(name) {
            return made.clone();
        }
        let mut g = GzEncoder::new(Vec::new(), Compression::default());
        g.write_all(&make()).expect("writing to memory cannot fail");
        let made = Bytes::from(g.finish().expect("writing to memory cannot fail"));
        self.lock().insert(name.into(), made.clone());
        made
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Bytes>> {
        self.made.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What tells this build from another: clients keep documents by their hash, across upgrades.
fn program() -> String {
    let of = |m: std::fs::Metadata| format!("{} {:?}", m.len(), m.modified().ok());
    let file = std::env::current_exe().and_then(std::fs::metadata).map(of).unwrap_or_default();
    format!("{} {file}", env!("CARGO_PKG_VERSION"))
}

pub fn inflate(gzip: &[u8]) -> Bytes {
    let mut out = Vec::new();
    // What we compressed ourselves in memory cannot fail to come back.
    let _ = GzDecoder::new(gzip).read_to_end(&mut out);
    out.into()
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
fn with_custom(document: &[u8], custom: &[(Arc<dyn AnyKind>, Served)]) -> Vec<u8> {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
    let mut doc: Value = serde_json::from_slice(document).unwrap_or_default();
    let needed = [format!("{META}.ObjectMeta"), format!("{META}.ListMeta"), "io.k8s.api.autoscaling.v1.Scale".to_owned()];
    let shared = openapi::components(keles_api::schema::builtin(), &keles_api::schema::descriptions(), needed);
    let Some(schemas) = doc.pointer_mut("/components/schemas").and_then(Value::as_object_mut) else { return document.to_vec() };
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
    serde_json::to_vec(&doc).expect("a JSON tree always encodes")
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
