//! The OpenAPI v3 documents, paths and all, against those of Kubernetes v1.36, where the reference folder is (`KELES_REFERENCE`, else
//! /work/shared/reference). The resources come from its discovery documents. Texts are not compared, they are our own.

use keles_api::openapi::{Resource, Subresource, document, group_document, groups_document, jwks_document, version_document};
use keles_api::schema::builtin;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn reference(what: &str) -> Option<PathBuf> {
    let root = std::env::var("KELES_REFERENCE").unwrap_or_else(|_| "/work/shared/reference".into());
    Some(PathBuf::from(root).join(what)).filter(|p| p.exists())
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text(v: &Value, key: &str) -> String {
    v[key].as_str().unwrap_or_default().to_owned()
}

/// The resources of a discovery document.
fn resources(group: &str, version: &str, list: &Value) -> Vec<Resource> {
    let schema = |g: &str, v: &str, kind: &str| builtin().of_kind(g, v, kind).map(|t| t.name().to_owned()).unwrap_or_default();
    let rows: Vec<&Value> = list["resources"].as_array().unwrap().iter().collect();
    let verbs = |r: &Value| r["verbs"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let sub = |r: &Value, name: &str| {
        let own = !text(r, "version").is_empty();
        let (g, v) = if own { (text(r, "group"), text(r, "version")) } else { (group.to_owned(), version.to_owned()) };
        Subresource { name: name.to_owned(), schema: schema(&g, &v, &text(r, "kind")), group: g, version: v, kind: text(r, "kind"), verbs: verbs(r) }
    };
    let main = |r: &&Value| {
        let plural = text(r, "name");
        Resource {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: text(r, "kind"),
            namespaced: r["namespaced"] == true,
            schema: schema(group, version, &text(r, "kind")),
            verbs: verbs(r),
            subresources: rows.iter().filter_map(|s| Some(sub(s, text(s, "name").strip_prefix(&plural)?.strip_prefix('/')?))).collect(),
            plural,
        }
    };
    rows.iter().filter(|r| !text(r, "name").contains('/')).map(main).collect()
}

/// Without texts, and without CBOR, which upstream has off by default and we do not offer.
fn plain(v: &Value) -> Value {
    match v {
        Value::Object(o) => {
            let keep = |(k, v): &(&String, &Value)| !(k.as_str() == "description" && v.is_string()) && !k.contains("cbor");
            Value::Object(o.iter().filter(keep).map(|(k, v)| (k.clone(), if k == "required" { sorted(v) } else { plain(v) })).collect())
        }
        Value::Array(a) => Value::Array(a.iter().map(plain).collect()),
        other => other.clone(),
    }
}

fn sorted(v: &Value) -> Value {
    let Some(mut all) = v.as_array().cloned() else { return plain(v) };
    all.sort_by_key(Value::to_string);
    all.into()
}

fn differences(want: &Value, got: &Value, at: &str, out: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            for k in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                match (a.get(k), b.get(k)) {
                    (Some(x), Some(y)) => differences(x, y, &format!("{at} {k}"), out),
                    (x, y) => out.push(format!("{at} {k}: {} instead of {}", y.unwrap_or(&Value::Null), x.unwrap_or(&Value::Null))),
                }
            }
        }
        (a, b) if a == b || sorted(a) == sorted(b) => {}
        (a, b) => out.push(format!("{at}: {b} instead of {a}")),
    }
}

#[test]
fn documents_agree_with_those_of_upstream() {
    let (Some(want), Some(discovery)) = (reference("openapi-v3"), reference("discovery")) else { return };
    let mut faults = Vec::new();
    let mut compared: BTreeMap<String, usize> = BTreeMap::new();
    for f in std::fs::read_dir(want).unwrap().flatten() {
        let name = f.file_name().into_string().unwrap().trim_end_matches("_openapi.json").to_owned();
        let parts: Vec<&str> = name.split("__").collect();
        let got = match parts.as_slice() {
            // The logs of the host are not served.
            ["logs"] => continue,
            ["version"] => version_document(),
            ["openid", ..] => jwks_document(),
            ["api"] => group_document(""),
            ["apis"] => groups_document(),
            ["apis", group] => group_document(group),
            ["api", version] => document(&resources("", version, &read(discovery.join(format!("{name}.json"))))),
            ["apis", group, version] => document(&resources(group, version, &read(discovery.join(format!("{name}.json"))))),
            other => panic!("{other:?}"),
        };
        let want = read(f.path());
        compared.insert(name.clone(), want["paths"].as_object().map_or(0, |p| p.len()));
        differences(&plain(&want), &plain(&serde_json::from_slice(&got).unwrap()), &name, &mut faults);
    }
    // Upstream calls a byte string an atomic list there, which means nothing.
    faults.retain(|f| !f.contains("APIServiceSpec properties caBundle x-kubernetes-list-type"));
    let shown: Vec<String> = faults.iter().map(|f| f.chars().take(260).collect()).take(40).collect();
    assert!(faults.is_empty(), "{} differences in {} documents:\n{}", faults.len(), compared.len(), shown.join("\n"));
    assert!(compared.values().sum::<usize>() > 500, "{compared:?}");
}
