//! Joins the sources into one model and writes the table and the descriptions.
//!
//! The table is text, one line a type or field, compressed with zstd: `T name map-type scalar gvks` and
//! `F name type flags default`, tab separated; names of types are replaced by their index. See `crates/api/src/schema/table.rs`.

use crate::model::{Field, Model, Presence, Ty};
use crate::{openapi_source, overlay, pb_source, reference};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// zstd's highest ordinary level: written seldom, read at every start.
const LEVEL: i32 = 19;

fn schema_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/api/src/schema")
}

/// The folder of a dependency's source.
fn source_of(package: &str) -> Result<PathBuf, String> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    let meta: Value = serde_json::from_slice(&out.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let found = meta["packages"].as_array().into_iter().flatten().find(|p| p["name"] == package);
    let manifest = found.and_then(|p| p["manifest_path"].as_str()).ok_or_else(|| format!("no package {package} in cargo metadata"))?;
    Ok(Path::new(manifest).parent().expect("a manifest lies in a folder").to_owned())
}

fn model(with_overlay: bool) -> Result<Model, String> {
    let mut m = openapi_source::read(&source_of("k8s-openapi")?)?;
    pb_source::add(&source_of("k8s-pb")?, &mut m)?;
    // k8s-openapi marks the metadata of objects required; upstream holds it by value and does not.
    let object_meta = Ty::Ref("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta".into());
    for f in m.values_mut().filter_map(|t| t.fields.get_mut("metadata")).filter(|f| f.ty == object_meta) {
        (f.required, f.presence) = (false, Presence::Always);
    }
    m.values_mut().flat_map(|t| t.fields.values_mut()).for_each(|f| {
        if f.default.is_some() {
            let known = f.clone();
            reference::settle(f);
            if f.default.is_some() {
                f.presence = known.presence;
            }
        }
    });
    if with_overlay {
        for file in ["overlay.txt", "numbers.txt", "presence.txt"] {
            let path = schema_dir().join(file);
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            overlay::apply(&text, &mut m).map_err(|e| format!("{file}: {e}"))?;
        }
    }
    Ok(m)
}

pub fn diff(dir: &str) -> Result<(), String> {
    print!("{}", reference::diff(&model(true)?, &reference::read(dir)?));
    Ok(())
}

pub fn run() -> Result<(), String> {
    let m = model(true)?;
    let index: BTreeMap<&str, usize> = m.keys().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
    let (mut table, mut texts) = (String::new(), String::new());
    for (name, t) in &m {
        let gvks: Vec<String> = t.gvks.iter().map(|(g, v, k)| format!("{g}/{v}/{k}")).collect();
        let _ = writeln!(table, "T{name}\t{}\t{}\t{}", t.map_type, t.scalar.map(String::from).unwrap_or_default(), gvks.join(" "));
        let _ = writeln!(texts, "{name}\t{}", Value::from(t.description.as_str()));
        for (f, field) in t.fields.iter().filter(|_| t.scalar.is_none()) {
            let _ = writeln!(table, "F{f}\t{}\t{}\t{}", type_text(&field.ty, &index)?, flags(field), field.default.as_ref().map(Value::to_string).unwrap_or_default());
            let _ = writeln!(texts, ".{f}\t{}", Value::from(field.description.as_str()));
        }
    }
    for (file, text) in [("table.zst", table), ("descriptions.zst", texts)] {
        let packed = zstd::encode_all(text.as_bytes(), LEVEL).map_err(|e| format!("{file}: {e}"))?;
        let path = schema_dir().join(file);
        std::fs::write(&path, &packed).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("{}: {} bytes, {} unpacked", path.display(), packed.len(), text.len());
    }
    println!("{} types, {} fields", m.len(), m.values().map(|t| t.fields.len()).sum::<usize>());
    Ok(())
}

fn type_text(t: &Ty, index: &BTreeMap<&str, usize>) -> Result<String, String> {
    Ok(match t {
        Ty::Ref(n) => format!("@{}", index.get(n.as_str()).ok_or_else(|| format!("type {n} is referred to but not in any source"))?),
        Ty::List(i) => format!("[{}", type_text(i, index)?),
        Ty::Map(i) => format!("{{{}", type_text(i, index)?),
        other => other.to_string(),
    })
}

/// Space separated: `r` required; `A`, `O`, `P`, `N` presence; `La` `Ls` `Lm` list type; `k=` map keys; `m=` merge key; `s=` strategy; `ma` `mg`
/// map type; `#` protobuf number.
fn flags(f: &Field) -> String {
    let mut out = vec![match f.rule() {
        Presence::Always => "A".to_owned(),
        Presence::Pointer => "P".to_owned(),
        Presence::Nullable => "N".to_owned(),
        _ => "O".to_owned(),
    }];
    if f.required {
        out.push("r".into());
    }
    if let Some(c) = f.list_type.chars().next() {
        out.push(format!("L{c}"));
    }
    if !f.map_keys.is_empty() {
        out.push(format!("k={}", f.map_keys.join(",")));
    }
    if !f.merge_key.is_empty() {
        out.push(format!("m={}", f.merge_key));
    }
    if !f.strategy.is_empty() {
        out.push(format!("s={}", f.strategy));
    }
    if let Some(c) = f.map_type.chars().next() {
        out.push(format!("m{c}"));
    }
    if f.number != 0 {
        out.push(format!("#{}", f.number));
    }
    out.join(" ")
}
