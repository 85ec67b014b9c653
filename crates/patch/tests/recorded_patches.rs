//! Recorded patch requests of Kubernetes v1.36: each is applied to the object as recorded by a passed test, and refused or accepted as upstream
//! did where the patch itself decides. Runs where the reference folder is (`KELES_REFERENCE`, else /work/shared/reference).
//!
//! A patch that upstream refused later (validation, immutable fields) must apply here. Results are compared outside metadata and status,
//! since defaulting and the kinds' rules are not here: what the patch asked for must be in the answer.

use keles_api::decode::FieldValidation;
use keles_api::schema::builtin;
use keles_api::{GroupVersion, TypeRef};
use keles_patch::{PatchKind, patch};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

fn cases() -> Option<Vec<Value>> {
    let root = std::env::var("KELES_REFERENCE").unwrap_or_else(|_| "/work/shared/reference".into());
    let dir = PathBuf::from(root).join("recordings");
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).ok()? {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with(".jsonl.gz") {
            let lines = BufReader::new(flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap())).lines();
            out.extend(lines.map_while(Result::ok).map(|l| serde_json::from_str::<Value>(&l).unwrap()));
        }
    }
    Some(out)
}

/// The requests that made the objects before the recording.
fn fixtures() -> Vec<Value> {
    let root = std::env::var("KELES_REFERENCE").unwrap_or_else(|_| "/work/shared/reference".into());
    let file = std::fs::File::open(PathBuf::from(root).join("recordings/fixtures.json.gz")).unwrap();
    let all: Vec<Value> = serde_json::from_reader(flate2::read::GzDecoder::new(file)).unwrap();
    all.into_iter().filter(|r| r["method"] == "POST").collect()
}

fn path_of(request: &Value) -> &str {
    request["path"].as_str().unwrap().split('?').next().unwrap()
}

fn type_of(object: &Value) -> Option<TypeRef<'static>> {
    let gv = GroupVersion::parse(object["apiVersion"].as_str()?);
    builtin().of_kind(&gv.group, &gv.version, object["kind"].as_str()?)
}

/// The checker of recordings takes what follows `json: cannot unmarshal`, and printed objects, as the server's own affair.
fn plain(message: &str) -> String {
    let message = message.split("json: cannot unmarshal").next().unwrap();
    match (message.find("Invalid value: \""), message.rfind("\": ")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &message[..from], &message[to..]),
        _ => message.to_owned(),
    }
}

#[test]
fn recorded_patches_are_accepted_and_refused_as_upstream_did() {
    let Some(cases) = cases() else { return };
    let mut objects: HashMap<String, Value> = HashMap::new();
    for case in cases.iter().filter(|c| c["area"] == "json-patch") {
        for (request, answer) in case["requests"].as_array().unwrap().iter().zip(case["answers"].as_array().unwrap()) {
            // A passed test leaves the object as it is.
            let only_tests = request["body"].as_array().is_some_and(|ops| ops.iter().all(|o| o["op"] == "test"));
            if only_tests && answer["status"] == 200 {
                objects.insert(path_of(request).to_owned(), answer["body"].clone());
            }
        }
    }
    for fixture in fixtures() {
        let body = &fixture["body"];
        let (Some(name), Some(ty)) = (body["metadata"]["name"].as_str(), type_of(body)) else { continue };
        let mut object = keles_api::decode::check_tree(body.clone(), ty, "X", FieldValidation::Ignore).unwrap().object.0;
        keles_api::defaults::apply_static(&mut object, ty);
        objects.entry(format!("{}/{name}", path_of(&fixture))).or_insert(object);
    }
    let (mut looked_at, mut faults) = (0, BTreeMap::<String, Vec<String>>::new());
    for case in &cases {
        for (request, answer) in case["requests"].as_array().unwrap().iter().zip(case["answers"].as_array().unwrap()) {
            let kind = match case["area"].as_str().unwrap() {
                "json-patch" => PatchKind::Json,
                "merge-patch" => PatchKind::Merge,
                "strategic-patch" => PatchKind::Strategic,
                _ => continue,
            };
            let Some(current) = objects.get(path_of(request)).filter(|_| request["method"] == "PATCH") else { continue };
            let Some(ty) = type_of(current) else { continue };
            looked_at += 1;
            if let Some(why) = fault(kind, current, request, answer, ty) {
                faults.entry(why).or_default().push(format!("{} {}", case["id"], request["body"]).chars().take(300).collect());
            }
        }
    }
    let total: usize = faults.values().map(Vec::len).sum();
    let shown: Vec<String> = faults.iter().map(|(why, all)| format!("{} × {why}\n     {}", all.len(), all[0])).take(40).collect();
    assert!(total == 0, "{total} of {looked_at} differ:\n{}", shown.join("\n"));
    assert!(looked_at > 3_000, "only {looked_at} patches were looked at");
}

fn fault(kind: PatchKind, current: &Value, request: &Value, answer: &Value, ty: TypeRef) -> Option<String> {
    let query = request["path"].as_str().unwrap();
    let validation = if query.contains("fieldValidation=Strict") {
        FieldValidation::Strict
    } else if query.contains("fieldValidation=Ignore") {
        FieldValidation::Ignore
    } else {
        FieldValidation::Warn
    };
    let body = request["body"].as_str().map_or_else(|| request["body"].to_string(), str::to_owned);
    let got = patch(kind, current, body.as_bytes(), ty, validation);
    let message = answer["body"]["message"].as_str().unwrap_or("");
    let by_patch = message.starts_with(" \"\" is invalid: patch:") || message.starts_with("the server rejected our request");
    // The fixture's write-only field is not in the stored object.
    let write_only = request["body"].to_string().contains("stringData");
    match got {
        _ if write_only => None,
        Err(e) if by_patch && plain(&e.message) == plain(message) => None,
        Err(e) => Some(format!(
            "{kind:?}: refused with {} instead of {}",
            e.message.chars().rev().take(160).collect::<String>().chars().rev().collect::<String>(),
            if message.is_empty() { "applied" } else { &message[message.len().saturating_sub(100)..] }
        )),
        Ok(_) if by_patch => Some(format!("{kind:?}: applied instead of {}", message.chars().rev().take(120).collect::<String>().chars().rev().collect::<String>())),
        Ok(d) => {
            let warned = answer["warning"].as_array().into_iter().flatten().filter_map(Value::as_str).filter(|w| w.contains("unknown field")).count();
            (answer["status"] == 200 && warned != d.warnings.len()).then(|| format!("{kind:?}: warnings {:?} instead of {}", d.warnings, answer["warning"])).or_else(|| {
                let body = &answer["body"];
                if answer["status"] != 200 {
                    None
                } else {
                    let mut stored = d.object.0;
                    keles_api::canonical::canonicalise(&mut stored, ty);
                    difference(body, &stored)
                }
            })
        }
    }
}

/// Fields that rules of a kind set or keep, which are not here.
const KIND_RULES: &[&str] = &[
    "roleRef.apiGroup",
    "spec.expirationSeconds",
    "spec.limited",
    "spec.podCIDRs",
    "spec.ports[].targetPort",
    "spec.request",
    "spec.sessionAffinityConfig",
    "spec.signerName",
    "spec.taints",
    "spec.tolerations",
    "spec.usages",
    "stringData",
];

/// The first field of the patched object that the answer has otherwise; fields only the answer has are defaults.
fn difference(answer: &Value, ours: &Value) -> Option<String> {
    let (a, o) = (answer.as_object()?, ours.as_object()?);
    o.iter()
        .filter(|(k, _)| *k != "metadata" && *k != "status")
        .find_map(|(k, v)| lacks(a.get(k), v).map(|at| format!("{k}{at}")))
        .filter(|at| !KIND_RULES.iter().any(|r| at.starts_with(r)))
        .map(|at| format!("result differs at {at}"))
}

fn lacks(answer: Option<&Value>, ours: &Value) -> Option<String> {
    match (answer, ours) {
        (Some(Value::Object(a)), Value::Object(o)) => o.iter().find_map(|(k, v)| lacks(a.get(k), v).map(|at| format!(".{k}{at}"))),
        (Some(Value::Array(a)), Value::Array(o)) if a.len() == o.len() => a.iter().zip(o).find_map(|(a, o)| lacks(Some(a), o).map(|at| format!("[]{at}"))),
        (Some(a), o) if a == o => None,
        (None, Value::Null) => None,
        (None, Value::Object(o)) if o.is_empty() => None,
        (a, o) => Some(format!(": {o} instead of {}", a.unwrap_or(&Value::Null))),
    }
}
