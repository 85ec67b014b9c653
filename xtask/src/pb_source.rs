//! Reads the sources of `k8s-pb`: upstream's markers (`+listType`, `+patchMergeKey`, `+default`, …) in doc comments, protobuf numbers,
//! and the list kinds, which `k8s-openapi` has only as a generic.
//!
//! Its names have lost capitals (`RbdVolumeSource`, `pod_ip`); types and fields are matched without case and underscores. A message field that matches no JSON
//! name is one that Go inlines (as that one may again): its message's fields belong to the outer type, numbered `outer * 256 + inner`.

use crate::model::{Field, Model, Ty, Type};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Default)]
struct Message {
    docs: Vec<String>,
    fields: Vec<PbField>,
}

struct PbField {
    name: String,
    docs: Vec<String>,
    number: u32,
    /// Upstream's name of the message, for message fields.
    message: Option<String>,
}

pub fn add(root: &Path, model: &mut Model) -> Result<(), String> {
    let mut messages = BTreeMap::new();
    let src = root.join("src");
    let mut dirs = vec![src.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))? {
            let path = entry.map_err(|e| e.to_string())?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.file_name().is_some_and(|n| n == "mod.rs") {
                let module: Vec<String> = dir.strip_prefix(&src).map_err(|e| e.to_string())?.iter().map(|c| c.to_string_lossy().into_owned()).collect();
                let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                read_module(&text, &module, &mut messages);
            }
        }
    }
    add_lists(&messages, model);
    for (name, t) in model.iter_mut() {
        let Some(m) = messages.get(&name.to_ascii_lowercase()) else { continue };
        if let Some(v) = marker(&m.docs, "structType") {
            t.map_type = v;
        }
        for f in &m.fields {
            apply(f, 0, t, &messages);
        }
    }
    Ok(())
}

fn upstream(module: &[String], name: &str) -> String {
    crate::openapi_source::upstream_name(&format!("{}::{name}", module.join("::")))
}

fn read_module(text: &str, module: &[String], out: &mut BTreeMap<String, Message>) {
    let (mut docs, mut current): (Vec<String>, Option<(String, Message)>) = (Vec::new(), None);
    let mut number = 0;
    let lines: Vec<&str> = text.lines().collect();
    let mut i = 0;
    while i < lines.len() {
        let line = lines[i].trim();
        i += 1;
        if let Some(d) = line.strip_prefix("///") {
            docs.push(d.strip_prefix(' ').unwrap_or(d).to_owned());
        } else if let Some(name) = line.strip_prefix("pub struct ") {
            current = Some((name.trim_end_matches([' ', '{', '}']).to_owned(), Message { docs: std::mem::take(&mut docs), fields: vec![] }));
        } else if line.starts_with("#[prost(") {
            let mut attr = line.to_owned();
            while !attr.ends_with(")]") && i < lines.len() {
                attr.push_str(lines[i].trim());
                i += 1;
            }
            number = attr.split("tag = \"").nth(1).and_then(|t| t.split('"').next()).and_then(|n| n.parse().ok()).unwrap_or(0);
        } else if let (Some(f), Some((_, m))) = (line.strip_prefix("pub "), current.as_mut()) {
            let mut decl = f.to_owned();
            while !decl.ends_with(',') && i < lines.len() {
                decl.push_str(lines[i].trim());
                i += 1;
            }
            let (name, ty) = decl.split_once(':').unwrap_or((&decl, ""));
            m.fields.push(PbField { name: name.trim_start_matches("r#").to_owned(), docs: std::mem::take(&mut docs), number, message: message_of(ty, module) });
        } else if line == "}" {
            if let Some((name, m)) = current.take() {
                out.insert(upstream(module, &name).to_ascii_lowercase(), m);
            }
            docs.clear();
        }
    }
}

/// The message a field's Rust type names, `super::` resolved against the module.
fn message_of(ty: &str, module: &[String]) -> Option<String> {
    let inner = ty.rsplit('<').next()?.trim_end_matches([',', '>', ' ']).trim();
    if inner.starts_with("::") || !inner.rsplit("::").next()?.starts_with(|c: char| c.is_ascii_uppercase()) {
        return None;
    }
    let parts: Vec<&str> = inner.split("::").collect();
    let ups = parts.iter().filter(|p| **p == "super").count();
    let mut path: Vec<String> = module[..module.len().checked_sub(ups)?].to_vec();
    path.extend(parts[ups..].iter().map(|s| (*s).to_owned()));
    let name = path.pop()?;
    Some(upstream(&path, &name))
}

fn marker(docs: &[String], key: &str) -> Option<String> {
    docs.iter().find_map(|d| d.trim().strip_prefix('+').and_then(|d| d.strip_prefix(key)).and_then(|d| d.strip_prefix('=')).map(|v| v.trim().to_owned()))
}

fn markers(docs: &[String], key: &str) -> Vec<String> {
    docs.iter().filter_map(|d| d.trim().strip_prefix('+').and_then(|d| d.strip_prefix(key)).and_then(|d| d.strip_prefix('=')).map(|v| v.trim().to_owned())).collect()
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '$' | '-')).map(|c| c.to_ascii_lowercase()).collect()
}

fn apply(f: &PbField, outer: u32, t: &mut Type, messages: &BTreeMap<String, Message>) {
    let wanted = plain(&f.name);
    let hit = t.fields.iter_mut().find(|(n, _)| plain(n) == wanted);
    let Some((_, field)) = hit else {
        // Inlined by Go.
        if let Some(m) = f.message.as_ref().filter(|_| outer < 256).and_then(|m| messages.get(&m.to_ascii_lowercase())) {
            for inner in &m.fields {
                apply(inner, outer * 256 + f.number, t, messages);
            }
        }
        return;
    };
    field.number = outer * 256 + f.number;
    if let Some(v) = marker(&f.docs, "listType") {
        field.list_type = v;
    }
    field.map_keys = markers(&f.docs, "listMapKey");
    if let Some(v) = marker(&f.docs, "patchMergeKey") {
        field.merge_key = v;
    }
    if let Some(v) = marker(&f.docs, "patchStrategy") {
        field.strategy = v;
    }
    if let Some(v) = marker(&f.docs, "mapType").or_else(|| marker(&f.docs, "structType")) {
        field.map_type = v;
    }
    if let Some(v) = marker(&f.docs, "default") {
        field.default = serde_json::from_str(&v).ok();
    }
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

fn add_lists(messages: &BTreeMap<String, Message>, model: &mut Model) {
    let items: Vec<(String, (String, String, String))> = model.iter().filter_map(|(n, t)| Some((n.clone(), t.gvks.first()?.clone()))).collect();
    for (item, (g, v, k)) in items {
        let list = format!("{item}List");
        let m = messages.get(&list.to_ascii_lowercase());
        let docs = |f: &str| m.and_then(|m| m.fields.iter().find(|x| x.name == f)).map(|f| prose(&f.docs)).unwrap_or_default();
        let text = |d: &str| Field { description: d.into(), ty: Ty::Scalar('s'), ..Field::default() };
        let mut t = Type { description: m.map(|m| prose(&m.docs)).unwrap_or_default(), gvks: vec![(g, v, format!("{k}List"))], ..Type::default() };
        t.fields.insert("apiVersion".into(), text(API_VERSION));
        t.fields.insert("kind".into(), text(KIND));
        let meta = Ty::Ref("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta".into());
        t.fields.insert("metadata".into(), Field { description: docs("metadata"), ty: meta, number: 1, default: Some(Value::Object(Default::default())), ..Field::default() });
        t.fields.insert("items".into(), Field { description: docs("items"), number: 2, ty: Ty::List(Box::new(Ty::Ref(item))), required: true, ..Field::default() });
        model.insert(list, t);
    }
}

/// Doc lines as OpenAPI prints them: markers dropped, lines joined, angle brackets of links removed.
fn prose(docs: &[String]) -> String {
    let lines: Vec<&str> = docs.iter().map(|d| d.trim()).filter(|d| !d.starts_with('+')).collect();
    lines.join(" ").replace("<http", "http").replace('>', "").trim().to_owned()
}
