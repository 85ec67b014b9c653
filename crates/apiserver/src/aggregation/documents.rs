//! Discovery and OpenAPI of other servers, kept for the merged documents: asked for after each check, the last known while they are down.

use super::State;
use super::backend::Remote;
use crate::server::Inner;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a server says of its group-version.
#[derive(Clone, Default, PartialEq)]
pub struct Documents {
    /// In the form of aggregated discovery.
    pub resources: Vec<Value>,
    /// The last known: the server does not answer now.
    pub stale: bool,
    /// `apis/GROUP/VERSION` and `apis/GROUP` to the address of the document, as its index has it.
    pub v3: BTreeMap<String, String>,
    /// Paths and definitions of its v2 document, its own group-version's alone.
    pub v2: Option<Arc<Value>>,
    pub v2_etag: String,
}

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
const JSON: &str = "application/json";

/// The documents as they are now, or the last known.
pub async fn renew(server: &Inner, remote: &Remote) -> Documents {
    let old = remote.documents();
    let mut new = Documents { stale: true, ..(*old).clone() };
    if !remote.is_available() {
        return new;
    }
    match resources(server, remote).await {
        Ok(resources) => (new.resources, new.stale) = (resources, false),
        Err(error) => tracing::warn!(service = remote.spec.object_name(), error, "an aggregated API server's discovery cannot be read"),
    }
    if let Some(paths) = v3_index(server, remote).await {
        new.v3 = paths;
    }
    if let Ok(f) = remote.fetch(server, "/openapi/v2", JSON, &old.v2_etag).await
        && f.code == StatusCode::OK
    {
        new.v2 = serde_json::from_slice(&f.body).ok().map(|doc| Arc::new(own_part(doc, &remote.spec.path())));
        new.v2_etag = f.etag();
    }
    new
}

async fn resources(server: &Inner, remote: &Remote) -> Result<Vec<Value>, String> {
    let s = &remote.spec;
    let f = remote.fetch(server, "/apis", AGGREGATED, "").await?;
    let aggregated = f.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(|t| t.contains("as=APIGroupDiscoveryList"));
    if f.code == StatusCode::OK && aggregated {
        let list: Value = serde_json::from_slice(&f.body).map_err(|e| e.to_string())?;
        let items = |v: &Value, field: &str| v[field].as_array().cloned().unwrap_or_default();
        let group = items(&list, "items").into_iter().find(|g| g["metadata"]["name"] == s.group.as_str());
        let version = group.and_then(|g| items(&g, "versions").into_iter().find(|v| v["version"] == s.version.as_str()));
        return version.map(|v| items(&v, "resources")).ok_or_else(|| format!("its discovery lacks {}", s.path()));
    }
    let f = remote.fetch(server, &s.path(), JSON, "").await?;
    if f.code != StatusCode::OK {
        return Err(format!("{} answered {}", s.path(), f.code.as_u16()));
    }
    let list: Value = serde_json::from_slice(&f.body).map_err(|e| e.to_string())?;
    Ok(aggregate(&list, &s.group, &s.version))
}

/// A plain list of resources in the form of aggregated discovery.
pub fn aggregate(list: &Value, group: &str, version: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for r in list["resources"].as_array().into_iter().flatten() {
        let name = r["name"].as_str().unwrap_or_default();
        let or = |field: &str, own: &str| r[field].as_str().filter(|v| !v.is_empty()).unwrap_or(own).to_owned();
        let kind = json!({"group": or("group", group), "version": or("version", version), "kind": r["kind"]});
        let scope = if r["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let Some((parent, sub)) = name.split_once('/') else {
            let mut o = json!({"resource": name, "responseKind": kind, "scope": scope, "singularResource": r["singularName"].as_str().unwrap_or_default(), "verbs": r["verbs"]});
            for field in ["shortNames", "categories"] {
                if r[field].as_array().is_some_and(|a| !a.is_empty()) {
                    o[field] = r[field].clone();
                }
            }
            match all.iter_mut().find(|o| o["resource"] == name) {
                // A subresource came before it.
                Some(there) => {
                    o["subresources"] = there["subresources"].clone();
                    *there = o;
                }
                None => all.push(o),
            }
            continue;
        };
        let at = all.iter().position(|o| o["resource"] == parent).unwrap_or_else(|| {
            all.push(json!({"resource": parent, "scope": scope}));
            all.len() - 1
        });
        let own = json!({"subresource": sub, "responseKind": kind, "verbs": r["verbs"]});
        match all[at]["subresources"].as_array_mut() {
            Some(subs) => subs.push(own),
            None => all[at]["subresources"] = json!([own]),
        }
    }
    all
}

async fn v3_index(server: &Inner, remote: &Remote) -> Option<BTreeMap<String, String>> {
    let f = remote.fetch(server, "/openapi/v3", JSON, "").await.ok().filter(|f| f.code == StatusCode::OK)?;
    let index: Value = serde_json::from_slice(&f.body).ok()?;
    let own = [format!("apis/{}/{}", remote.spec.group, remote.spec.version), format!("apis/{}", remote.spec.group)];
    let url = |path: &String| Some((path.clone(), index["paths"][path]["serverRelativeURL"].as_str()?.to_owned()));
    Some(own.iter().filter_map(url).collect())
}

/// Paths below `path`, and what they refer to.
fn own_part(mut doc: Value, path: &str) -> Value {
    let take = |doc: &mut Value, field: &str| match doc.get_mut(field).map(Value::take) {
        Some(Value::Object(m)) => m,
        _ => Map::new(),
    };
    let (mut paths, all) = (take(&mut doc, "paths"), take(&mut doc, "definitions"));
    let below = format!("{path}/");
    paths.retain(|p, _| p == path || p.starts_with(&below));
    let mut needed = Map::new();
    let mut open: Vec<String> = Vec::new();
    paths.values().for_each(|v| references(v, &mut open));
    while let Some(name) = open.pop() {
        if let Some(d) = all.get(&name).filter(|_| !needed.contains_key(&name)) {
            references(d, &mut open);
            needed.insert(name, d.clone());
        }
    }
    json!({"paths": paths, "definitions": needed})
}

const DEFINITIONS: &str = "#/definitions/";

fn references(v: &Value, found: &mut Vec<String>) {
    match v {
        Value::Object(m) => {
            found.extend(m.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(DEFINITIONS)).map(str::to_owned));
            m.values().for_each(|v| references(v, found));
        }
        Value::Array(a) => a.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

fn rename(v: &mut Value, names: &BTreeMap<String, String>) {
    match v {
        Value::Object(m) => {
            let new = m.get("$ref").and_then(Value::as_str).and_then(|r| names.get(r.strip_prefix(DEFINITIONS)?)).map(|n| format!("{DEFINITIONS}{n}"));
            if let Some(new) = new {
                m.insert("$ref".into(), new.into());
            }
            m.values_mut().for_each(|v| rename(v, names));
        }
        Value::Array(a) => a.iter_mut().for_each(|v| rename(v, names)),
        _ => {}
    }
}

/// Adds another server's part to a v2 document. Paths that are there stay; a definition of the same name with another content gets a
/// name of its own (`_v2`), as upstream's merge does.
pub fn merge_v2(into: &mut Value, part: &Value) {
    let mut part = part.clone();
    let Some(there) = into["definitions"].as_object() else { return };
    let names: BTreeMap<String, String> = part["definitions"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, d)| there.get(*name).is_some_and(|t| t != *d))
        .map(|(name, _)| (name.clone(), (2..).map(|n| format!("{name}_v{n}")).find(|n| !there.contains_key(n)).unwrap_or_default()))
        .collect();
    rename(&mut part, &names);
    for (field, new_name) in [("definitions", Some(&names)), ("paths", None)] {
        let (Some(to), Some(Value::Object(from))) = (into[field].as_object_mut(), part.get_mut(field).map(Value::take)) else { continue };
        for (key, v) in from {
            let key = new_name.and_then(|n| n.get(&key)).cloned().unwrap_or(key);
            to.entry(key).or_insert(v);
        }
    }
}

/// The handler of our own whose OpenAPI document `path` is.
pub fn local_of_v3(state: &State, path: &str) -> Option<&'static super::local::Local> {
    state.locals.values().find(|l| l.documents.v3.contains_key(path)).copied()
}

/// The server whose OpenAPI document `path` is.
pub fn owner_of_v3(state: &State, path: &str) -> Option<Arc<Remote>> {
    state.remotes.values().find(|r| r.documents().v3.contains_key(path)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_list_becomes_an_aggregated_one() {
        let list = json!({"resources": [
            {"name": "things/status", "namespaced": true, "kind": "Thing", "verbs": ["get"]},
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list"], "shortNames": ["th"]}]});
        assert_eq!(
            aggregate(&list, "g.example", "v1"),
            [json!({"resource": "things", "responseKind": {"group": "g.example", "version": "v1", "kind": "Thing"}, "scope": "Namespaced", "singularResource": "thing",
                "verbs": ["get", "list"], "shortNames": ["th"],
                "subresources": [{"subresource": "status", "responseKind": {"group": "g.example", "version": "v1", "kind": "Thing"}, "verbs": ["get"]}]})]
        );
    }

    #[test]
    fn definitions_of_one_name_and_two_contents_both_stay() {
        let mut ours = json!({"paths": {"/a": 1}, "definitions": {"X": {"type": "string"}, "Y": {"type": "object"}}});
        let theirs = own_part(
            json!({"paths": {"/apis/g/v1/x": {"$ref": "#/definitions/X"}, "/apis/g/v1/y": {"$ref": "#/definitions/Y"}, "/version": {}},
                "definitions": {"X": {"type": "integer"}, "Y": {"type": "object"}, "Unused": {}}}),
            "/apis/g/v1",
        );
        merge_v2(&mut ours, &theirs);
        assert_eq!(
            ours,
            json!({"paths": {"/a": 1, "/apis/g/v1/x": {"$ref": "#/definitions/X_v2"}, "/apis/g/v1/y": {"$ref": "#/definitions/Y"}},
                "definitions": {"X": {"type": "string"}, "X_v2": {"type": "integer"}, "Y": {"type": "object"}}})
        );
    }
}
