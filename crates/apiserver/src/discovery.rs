//! Discovery, plain and aggregated, made from the kinds' own facts.
//!
//! Documents are made once ([`Discovery::new`]) and handed out as shared bytes; kinds made at run time make a new [`Discovery`]
//! ([`crate::live::Live`]).

use crate::aggregation::{State, priorities};
use bytes::Bytes;
use keles_kinds::{GROUPS, VIRTUAL};
use keles_registry::{AnyKind, Scope};
use keles_rules::storage_hash::storage_hash;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A resource (or subresource, `pods/log`) of one group-version.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    singular: String,
    namespaced: bool,
    kind: String,
    /// Group and version of the kind where they differ from the resource's.
    other: Option<(String, String)>,
    /// Aggregated discovery names the group and version of a custom kind, but not of a built-in one.
    own: Option<(String, String)>,
    verbs: Vec<&'static str>,
    short_names: Vec<&'static str>,
    categories: Vec<&'static str>,
    storage_hash: String,
}

/// A document and the tag of its content.
#[derive(Clone)]
pub struct Document {
    pub bytes: Bytes,
    /// Quoted, for `ETag`.
    pub etag: String,
}

pub struct Discovery {
    /// By path without a trailing slash.
    plain: BTreeMap<String, Bytes>,
    /// By `/api` or `/apis`, then `v2` or `v2beta1`.
    aggregated: BTreeMap<(&'static str, &'static str), Document>,
}

impl Discovery {
    /// `state`: group-versions of other servers, and the order of all.
    pub fn new(kinds: &[Arc<dyn AnyKind>], server_address: &str, state: &State) -> Discovery {
        let rows = rows(kinds);
        let mut plain = BTreeMap::new();
        plain.insert(
            "/api".to_owned(),
            bytes(&json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]})),
        );
        let served = all_groups(kinds, state);
        let groups: Vec<Value> = served.iter().filter(|(g, _)| !g.is_empty()).map(|(g, versions)| group(g, versions)).collect();
        for g in &groups {
            let mut one = json!({"kind": "APIGroup", "apiVersion": "v1"});
            one.as_object_mut().expect("made as an object").extend(g.as_object().expect("made as an object").clone());
            plain.insert(format!("/apis/{}", g["name"].as_str().unwrap_or_default()), bytes(&one));
        }
        plain.insert("/apis".to_owned(), bytes(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})));
        for ((g, v), list) in &rows {
            let path = if g.is_empty() { format!("/api/{v}") } else { format!("/apis/{g}/{v}") };
            plain.insert(path, bytes(&resource_list(g, v, list)));
        }
        let mut aggregated = BTreeMap::new();
        for (path, core) in [("/api", true), ("/apis", false)] {
            for version in ["v2", "v2beta1"] {
                aggregated.insert((path, version), aggregate(&rows, &served, state, core, version));
            }
        }
        Discovery { plain, aggregated }
    }

    /// Paths of groups and their versions, for the list of all paths.
    pub fn group_paths(&self) -> impl Iterator<Item = &String> {
        self.plain.keys().filter(|p| p.starts_with("/apis/"))
    }
    pub fn plain(&self, path: &str) -> Option<Bytes> {
        self.plain.get(path).cloned()
    }
    pub fn aggregated(&self, path: &str, version: &str) -> Option<&Document> {
        self.aggregated.iter().find(|((p, v), _)| *p == path && *v == version).map(|(_, d)| d)
    }
}

fn bytes(v: &Value) -> Bytes {
    serde_json::to_vec(v).expect("a JSON tree always encodes").into()
}

/// Groups and their versions: the built-in ones in upstream's order, then those of custom kinds by name, newest version first.
pub fn groups(kinds: &[Arc<dyn AnyKind>]) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(String, Vec<String>)> = GROUPS.iter().map(|(g, versions)| ((*g).to_owned(), versions.iter().map(|v| (*v).to_owned()).collect())).collect();
    let mut custom: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for k in kinds {
        for s in k.info().served.iter().filter(|s| k.serves(s)) {
            let row = match all.iter_mut().find(|(g, _)| g == s.group) {
                Some((_, versions)) => versions,
                None => custom.entry(s.group.to_owned()).or_default(),
            };
            if !row.iter().any(|v| v == s.version) {
                row.push(s.version.to_owned());
            }
        }
    }
    custom.values_mut().for_each(|v| v.sort_by_key(|v| keles_custom::priority(v)));
    all.extend(custom);
    all
}

fn group(name: &str, versions: &[String]) -> Value {
    let version = |v: &str| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    json!({"name": name, "versions": versions.iter().map(|v| version(v)).collect::<Vec<_>>(), "preferredVersion": version(&versions[0])})
}

type Rows = BTreeMap<(String, String), Vec<Row>>;

/// Every resource by group and version, sorted by name.
fn rows(kinds: &[Arc<dyn AnyKind>]) -> Rows {
    let mut all: Rows = BTreeMap::new();
    for (g, versions) in groups(kinds) {
        for v in versions {
            all.insert((g.clone(), v), Vec::new());
        }
    }
    for k in kinds {
        let i = k.info();
        let storage = i.served[0];
        for s in i.served.iter().filter(|s| k.serves(s)) {
            let own = k.items_carry_type().then(|| (s.group.to_owned(), s.version.to_owned()));
            let list = all.entry((s.group.into(), s.version.into())).or_default();
            let namespaced = i.scope == Scope::Namespaced;
            list.push(Row {
                name: i.plural.into(),
                singular: i.singular.into(),
                namespaced,
                kind: i.kind.into(),
                other: None,
                own: own.clone(),
                verbs: i.verbs.to_vec(),
                short_names: i.short_names.to_vec(),
                categories: i.categories.to_vec(),
                storage_hash: storage_hash(storage.group, upstream_storage_version(i.kind).unwrap_or(storage.version), i.kind),
            });
            list.extend(i.subresources.iter().filter(|sub| k.has_subresource(s, sub.name)).map(|sub| Row {
                name: format!("{}/{}", i.plural, sub.name),
                singular: String::new(),
                namespaced,
                kind: sub.kind.into(),
                other: (!sub.version.is_empty()).then(|| (sub.group.into(), sub.version.into())),
                own: own.clone(),
                verbs: sub.verbs.to_vec(),
                short_names: Vec::new(),
                categories: Vec::new(),
                storage_hash: String::new(),
            }));
        }
    }
    for v in VIRTUAL {
        all.entry((v.group.into(), v.version.into())).or_default().push(Row {
            name: v.plural.into(),
            singular: v.singular.into(),
            namespaced: v.scope == Scope::Namespaced,
            kind: v.kind.into(),
            other: None,
            own: None,
            verbs: v.verbs.to_vec(),
            short_names: v.short_names.to_vec(),
            categories: Vec::new(),
            storage_hash: String::new(),
        });
    }
    for list in all.values_mut() {
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }
    all
}

/// Kinds that upstream still stores in an older version than it prefers: the hash names that one.
fn upstream_storage_version(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "CustomResourceDefinition" | "MutatingAdmissionPolicy" | "MutatingAdmissionPolicyBinding" => "v1beta1",
        "DeviceTaintRule" => "v1alpha3",
        _ => return None,
    })
}

fn resource_list(group: &str, version: &str, list: &[Row]) -> Value {
    let resources: Vec<Value> = list.iter().map(plain_row).collect();
    if group.is_empty() {
        return json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources});
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"), "resources": resources})
}

fn plain_row(r: &Row) -> Value {
    let mut o = Map::from_iter([
        ("name".into(), json!(r.name)),
        ("singularName".into(), json!(r.singular)),
        ("namespaced".into(), json!(r.namespaced)),
        ("kind".into(), json!(r.kind)),
        ("verbs".into(), json!(r.verbs)),
    ]);
    let mut put = |key: &str, value: Value, present: bool| present.then(|| o.insert(key.into(), value));
    if let Some((g, v)) = &r.other {
        put("group", json!(g), true);
        put("version", json!(v), true);
    }
    put("shortNames", json!(r.short_names), !r.short_names.is_empty());
    put("categories", json!(r.categories), !r.categories.is_empty());
    put("storageVersionHash", json!(r.storage_hash), !r.storage_hash.is_empty());
    Value::Object(o)
}

/// Those of other servers too, in the order that APIServices give.
fn all_groups(kinds: &[Arc<dyn AnyKind>], state: &State) -> Vec<(String, Vec<String>)> {
    let mut all = groups(kinds);
    for (g, v) in state.remotes.keys().chain(state.locals.keys()) {
        match all.iter_mut().find(|(there, _)| there == g) {
            Some((_, versions)) if versions.contains(v) => {}
            Some((_, versions)) => versions.push(v.clone()),
            None => all.push((g.clone(), vec![v.clone()])),
        }
    }
    priorities::sort(&mut all, |g, v| state.priorities.get(&(g.to_owned(), v.to_owned())).copied().unwrap_or_else(|| priorities::of(g, v)));
    all
}

/// A version in aggregated discovery: our own rows, or what another server last said.
fn aggregated_version(rows: &Rows, state: &State, group: &str, version: &str) -> Value {
    let key = (group.to_owned(), version.to_owned());
    let other = state.remotes.get(&key).map(|r| r.documents()).or_else(|| state.locals.get(&key).map(|l| (*l.documents).clone()));
    let Some(documents) = other else {
        return json!({"version": version, "freshness": "Current", "resources": rows.get(&key).map(|r| aggregated_rows(r)).unwrap_or_default()});
    };
    let mut v = json!({"version": version, "freshness": if documents.stale { "Stale" } else { "Current" }});
    if !documents.resources.is_empty() {
        v["resources"] = documents.resources.clone().into();
    }
    v
}

fn aggregate(rows: &Rows, groups: &[(String, Vec<String>)], state: &State, core: bool, version: &str) -> Document {
    let items: Vec<Value> = groups
        .iter()
        .filter(|(g, _)| g.is_empty() == core)
        .map(|(g, versions)| {
            let metadata = if core { json!({}) } else { json!({"name": g}) };
            let versions: Vec<Value> = versions.iter().map(|v| aggregated_version(rows, state, g, v)).collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let bytes = bytes(&json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items}));
    let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&bytes)));
    Document { bytes, etag }
}

fn aggregated_rows(list: &[Row]) -> Vec<Value> {
    let (subs, mains): (Vec<&Row>, Vec<&Row>) = list.iter().partition(|r| r.name.contains('/'));
    let response_kind = |r: &Row| {
        let (g, v) = r.other.clone().or_else(|| r.own.clone()).unwrap_or_default();
        json!({"group": g, "version": v, "kind": r.kind})
    };
    mains
        .iter()
        .map(|r| {
            let scope = if r.namespaced { "Namespaced" } else { "Cluster" };
            let mut o = json!({"resource": r.name, "responseKind": response_kind(r), "scope": scope, "singularResource": r.singular, "verbs": r.verbs});
            let own: Vec<Value> = subs
                .iter()
                .filter_map(|s| Some((s, s.name.strip_prefix(&r.name)?.strip_prefix('/')?)))
                .map(|(s, name)| json!({"subresource": name, "responseKind": response_kind(s), "verbs": s.verbs}))
                .collect();
            let map = o.as_object_mut().expect("made as an object");
            for (key, value, present) in [
                ("shortNames", json!(r.short_names), !r.short_names.is_empty()),
                ("categories", json!(r.categories), !r.categories.is_empty()),
                ("subresources", json!(own), !own.is_empty()),
            ] {
                if present {
                    map.insert(key.into(), value);
                }
            }
            o
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const REFERENCE: &str = "/work/shared/reference/discovery";

    fn ours() -> Discovery {
        Discovery::new(&keles_kinds::shared(), "10.10.10.10:8050", &State::default())
    }

    /// Compares with upstream's own documents where they are at hand.
    #[test]
    fn every_plain_document_equals_the_reference() {
        let Ok(files) = std::fs::read_dir(REFERENCE) else { return };
        let d = ours();
        let mut wrong = Vec::new();
        for f in files.flatten() {
            let name = f.file_name().into_string().unwrap();
            if name.starts_with("aggregated") {
                continue;
            }
            let path = format!("/{}", name.trim_end_matches(".json").replace("__", "/"));
            let want: Value = serde_json::from_slice(&std::fs::read(f.path()).unwrap()).unwrap();
            let got: Value = d.plain(&path).map(|b| serde_json::from_slice(&b).unwrap()).unwrap_or_default();
            if got != want {
                let rows = |v: &Value| v["resources"].as_array().cloned().unwrap_or_default();
                let differ: Vec<String> = rows(&want)
                    .iter()
                    .filter(|r| !rows(&got).contains(r))
                    .map(|r| format!("wanted {r}"))
                    .chain(rows(&got).iter().filter(|r| !rows(&want).contains(r)).map(|r| format!("got {r}")))
                    .collect();
                wrong.push(format!("{path}: {}", differ.join("; ")));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn the_aggregated_document_equals_the_reference() {
        let Ok(want) = std::fs::read(Path::new(REFERENCE).join("aggregated_v2.json")) else { return };
        let want: Value = serde_json::from_slice(&want).unwrap();
        let got: Value = serde_json::from_slice(&ours().aggregated("/apis", "v2").unwrap().bytes).unwrap();
        assert_eq!(got, want);
    }
}
