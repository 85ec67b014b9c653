//! OpenAPI v3: the index at `/openapi/v3` and a document a group-version, made when asked for and kept compressed.

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use keles_api::openapi::{self, Resource, Subresource};
use keles_kinds::{GROUPS, VIRTUAL};
use keles_registry::{AnyKind, Scope};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

pub struct OpenApi {
    /// By `api/v1` or `apis/apps/v1`.
    resources: BTreeMap<String, Vec<Resource>>,
    hashes: BTreeMap<String, String>,
    index: Bytes,
    /// gzip of what has been asked for.
    made: Mutex<HashMap<String, Bytes>>,
}

impl OpenApi {
    pub fn new(kinds: &[Arc<dyn AnyKind>]) -> OpenApi {
        let resources = resources(kinds);
        // The content follows from this program and the list of resources; hashing both spares making every document at start.
        let program = program();
        let hashes: BTreeMap<String, String> = resources.iter().map(|(path, list)| (path.clone(), hex::encode_upper(Sha256::digest(format!("{program} {list:?}"))))).collect();
        let paths: Map<_, _> = hashes.iter().map(|(path, hash)| (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))).collect();
        let index = serde_json::to_vec(&json!({"paths": paths})).expect("a JSON tree always encodes").into();
        OpenApi { resources, hashes, index, made: Mutex::default() }
    }

    pub fn index(&self) -> Bytes {
        self.index.clone()
    }

    /// The document of `apis/apps/v1` as gzip, with its hash.
    pub fn document(&self, path: &str) -> Option<(Bytes, &str)> {
        let (list, hash) = (self.resources.get(path)?, self.hashes.get(path)?);
        if let Some(made) = self.lock().get(path) {
            return Some((made.clone(), hash));
        }
        let mut g = GzEncoder::new(Vec::new(), Compression::default());
        g.write_all(&openapi::document(list)).ok()?;
        let made = Bytes::from(g.finish().ok()?);
        self.lock().insert(path.into(), made.clone());
        Some((made, hash))
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
    for (g, versions) in GROUPS {
        for v in *versions {
            all.entry(path(g, v)).or_default();
        }
    }
    for k in kinds {
        let i = k.info();
        for s in i.served {
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
