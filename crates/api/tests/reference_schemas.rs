//! The schemas made from the table against the OpenAPI v3 documents of Kubernetes v1.36, where the reference folder is
//! (`KELES_REFERENCE`, else /work/shared/reference).

use keles_api::openapi::components;
use keles_api::schema::{builtin, descriptions};
use serde_json::Value;
use std::path::PathBuf;

fn difference(want: &Value, got: &Value, at: &str, out: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            for k in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                match (a.get(k), b.get(k)) {
                    (Some(x), Some(y)) => difference(x, y, &format!("{at}.{k}"), out),
                    (x, y) => out.push(format!("{at}.{k}: {} instead of {}", y.unwrap_or(&Value::Null), x.unwrap_or(&Value::Null))),
                }
            }
        }
        (a, b) if a == b || sorted(a) == sorted(b) => {}
        (a, b) => out.push(format!("{at}: {b} instead of {a}")),
    }
}

/// `required` has no order; neither have groups, versions and kinds.
fn sorted(v: &Value) -> Option<Vec<String>> {
    let mut all: Vec<String> = v.as_array()?.iter().map(Value::to_string).collect();
    all.sort();
    Some(all)
}

#[test]
fn schemas_agree_with_the_documents_of_upstream() {
    let root = std::env::var("KELES_REFERENCE").unwrap_or_else(|_| "/work/shared/reference".into());
    let Ok(dir) = std::fs::read_dir(PathBuf::from(root).join("openapi-v3")) else { return };
    let texts = descriptions();
    let (mut seen, mut faults) = (std::collections::BTreeSet::new(), Vec::new());
    for entry in dir {
        let doc: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        for (name, want) in doc["components"]["schemas"].as_object().into_iter().flatten() {
            // Meta types list the groups of the document they stand in.
            let meta = name.ends_with(".DeleteOptions") || name.ends_with(".WatchEvent");
            if seen.insert(name.clone()) {
                let ours = components(builtin(), &texts, [name.clone()]);
                let mut got = ours.get(name).cloned().unwrap_or(Value::Null);
                if meta {
                    got["x-kubernetes-group-version-kind"] = want["x-kubernetes-group-version-kind"].clone();
                }
                difference(want, &got, name.rsplit('.').next().unwrap(), &mut faults);
            }
        }
    }
    // Upstream calls a byte string an atomic list here, which means nothing.
    faults.retain(|f| !f.starts_with("APIServiceSpec.properties.caBundle.x-kubernetes-list-type"));
    let shown: Vec<String> = faults.iter().map(|f| f.chars().take(200).collect()).take(50).collect();
    assert!(faults.is_empty(), "{} differences in {} schemas:\n{}", faults.len(), seen.len(), shown.join("\n"));
    assert!(seen.len() > 700);
}
