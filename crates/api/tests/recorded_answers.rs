//! Recorded answers of Kubernetes v1.36 (14,877 requests) are fixed points of decoding, canonicalising and static defaulting; upstream's
//! API fixtures decode without a finding. Runs where the reference folder is (`KELES_REFERENCE`, else /work/shared/reference).

use keles_api::decode::{FieldValidation, Format, decode};
use keles_api::schema::builtin;
use keles_api::{GroupVersion, TypeRef};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

fn reference(folder: &str) -> Option<PathBuf> {
    let root = std::env::var("KELES_REFERENCE").unwrap_or_else(|_| "/work/shared/reference".into());
    let path = PathBuf::from(root).join(folder);
    path.is_dir().then_some(path)
}

#[derive(Default)]
struct Types(HashMap<(String, String), Option<TypeRef<'static>>>);

impl Types {
    fn of(&mut self, v: &Value) -> Option<TypeRef<'static>> {
        let (av, kind) = (v["apiVersion"].as_str()?, v["kind"].as_str()?);
        *self.0.entry((av.into(), kind.into())).or_insert_with(|| {
            let gv = GroupVersion::parse(av);
            builtin().of_kind(&gv.group, &gv.version, kind)
        })
    }
}

fn difference(want: &Value, got: &Value, at: &str) -> Option<String> {
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|k| match (a.get(k), b.get(k)) {
                (Some(x), Some(y)) => difference(x, y, &format!("{at}.{k}")),
                (Some(x), None) => Some(format!("{at}.{k} is missing: {x}")),
                (None, y) => Some(format!("{at}.{k} is too much: {}", y.unwrap_or(&Value::Null))),
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a.iter().zip(b).find_map(|(x, y)| difference(x, y, &format!("{at}[]"))),
        (a, b) if a == b => None,
        (a, b) => Some(format!("{at}: {b} instead of {a}")),
    }
}

#[test]
fn every_recorded_answer_is_a_fixed_point() {
    let Some(dir) = reference("recordings") else { return };
    let mut types = Types::default();
    let (mut checked, mut faults) = (0, BTreeMap::<String, usize>::new());
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let lines = BufReader::new(flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap())).lines();
        for line in lines.map_while(Result::ok) {
            let case: Value = serde_json::from_str(&line).unwrap();
            for answer in case["answers"].as_array().into_iter().flatten() {
                let body = &answer["body"];
                let Some(ty) = types.of(body) else { continue };
                checked += 1;
                if let Some(why) = fault(body, ty) {
                    *faults.entry(format!("{} {}: {why}", body["apiVersion"], body["kind"])).or_default() += 1;
                }
            }
        }
    }
    let shown: Vec<String> = faults.iter().map(|(w, n)| format!("{n} × {w}")).take(60).collect();
    assert!(faults.is_empty(), "{} of {checked} answers differ:\n{}", faults.values().sum::<usize>(), shown.join("\n"));
    assert!(checked > 5_000, "only {checked} answers were looked at");
}

fn fault(body: &Value, ty: TypeRef) -> Option<String> {
    let text = body.to_string();
    let decoded = match decode(text.as_bytes(), Format::Json, ty, "X", FieldValidation::Strict) {
        Ok(d) => d.object.0,
        Err(e) => return Some(e.message),
    };
    if let Some(d) = difference(body, &decoded, "") {
        return Some(d);
    }
    let mut defaulted = decoded.clone();
    keles_api::defaults::apply_static(&mut defaulted, ty);
    keles_api::canonical::canonicalise(&mut defaulted, ty);
    difference(body, &defaulted, "").map(|d| format!("defaults: {d}"))
}

#[test]
fn every_upstream_fixture_decodes() {
    let Some(dir) = reference("api-testdata") else { return };
    let mut types = Types::default();
    let (mut checked, mut faults) = (0, Vec::new());
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let body: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let Some(ty) = types.of(&body) else { continue };
        checked += 1;
        for (format, file) in [(Format::Json, path.clone()), (Format::Yaml, path.with_extension("yaml"))] {
            let bytes = std::fs::read(file).unwrap();
            match decode(&bytes, format, ty, "X", FieldValidation::Strict) {
                Ok(d) => faults.extend(difference(&body, &d.object.0, "").map(|d| format!("{} {format:?}: {d}", path.file_name().unwrap().to_string_lossy()))),
                Err(e) => faults.push(format!("{}: {}", path.display(), e.message)),
            }
        }
    }
    assert!(faults.is_empty(), "{} faults in {checked} fixtures:\n{}", faults.len(), faults.join("\n"));
    assert!(checked > 60);
}
