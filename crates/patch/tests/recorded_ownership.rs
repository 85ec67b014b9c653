//! Recorded creates and applies of Kubernetes v1.36: managedFields and conflicts are what upstream answered. Runs where the reference
//! folder is (`KELES_REFERENCE`, else /work/shared/reference).

use keles_api::schema::builtin;
use keles_api::{GroupVersion, TypeRef};
use keles_patch::managed::{OneVersion, Writer, apply, update};
use serde_json::Value;
use std::collections::BTreeMap;
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

fn type_of(object: &Value) -> Option<TypeRef<'static>> {
    let gv = GroupVersion::parse(object["apiVersion"].as_str()?);
    builtin().of_kind(&gv.group, &gv.version, object["kind"].as_str()?)
}

/// Entries without times, by manager.
fn entries(object: &Value) -> Vec<Value> {
    let mut all: Vec<Value> = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    for e in &mut all {
        e.as_object_mut().unwrap().remove("time");
    }
    all.sort_by_key(|e| format!("{}{}", e["operation"], e["manager"]));
    all
}

fn first_difference(want: &Value, got: &Value, at: &str) -> Option<String> {
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).find_map(|k| match (a.get(k), b.get(k)) {
            (Some(x), Some(y)) => first_difference(x, y, &format!("{at}.{k}")),
            (Some(_), None) => Some(format!("{at}.{k} is missing")),
            _ => Some(format!("{at}.{k} is too much")),
        }),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a.iter().zip(b).find_map(|(x, y)| first_difference(x, y, at)),
        (a, b) if a == b => None,
        (a, b) => Some(format!("{at}: {b} instead of {a}")),
    }
}

fn verdict(what: &str, faults: BTreeMap<String, Vec<String>>, looked_at: usize, at_least: usize) {
    let total: usize = faults.values().map(Vec::len).sum();
    let shown: Vec<String> = faults.iter().map(|(why, all)| format!("{} × {why} {}", all.len(), all[0])).take(40).collect();
    assert!(total == 0, "{total} of {looked_at} {what} differ:\n{}", shown.join("\n"));
    assert!(looked_at > at_least, "only {looked_at} {what} were looked at");
}

#[test]
fn creates_own_what_upstream_says() {
    let Some(cases) = cases() else { return };
    let (mut looked_at, mut faults) = (0, BTreeMap::<String, Vec<String>>::new());
    for case in &cases {
        for (request, answer) in case["requests"].as_array().unwrap().iter().zip(case["answers"].as_array().unwrap()) {
            let body = &answer["body"];
            let want = entries(body);
            let [entry] = &want[..] else { continue };
            if request["method"] != "POST" || answer["status"] != 201 || entry["operation"] != "Update" {
                continue;
            }
            let Some(ty) = type_of(body) else { continue };
            looked_at += 1;
            let mut object = body.clone();
            object["metadata"].as_object_mut().unwrap().remove("managedFields");
            let w = Writer {
                manager: entry["manager"].as_str().unwrap(),
                api_version: entry["apiVersion"].as_str().unwrap(),
                subresource: "",
                reset: &[&["status"]],
                now: "2026-01-01T00:00:00Z",
            };
            object["metadata"]["managedFields"] = update(None, &object, &w, &OneVersion { api_version: w.api_version, ty });
            let got = entries(&object);
            // What prepare and admission set later is in the answer and owned by nobody; an empty list of the request is null in the answer.
            let later = |d: &String| d.ends_with("is too much") || request["body"].to_string().contains("[]");
            if let Some(d) = first_difference(&Value::from(want.clone()), &Value::from(got), "").filter(|d| !later(d)) {
                faults.entry(format!("{}{d}", body["kind"])).or_default().push(case["id"].to_string());
            }
        }
    }
    verdict("creates", faults, looked_at, 1_000);
}

#[test]
fn applies_merge_and_conflict_as_upstream_did() {
    let Some(cases) = cases() else { return };
    let (mut looked_at, mut faults) = (0, BTreeMap::<String, Vec<String>>::new());
    for case in cases.iter().filter(|c| c["area"] == "apply") {
        let mut live: Option<Value> = None;
        for (request, answer) in case["requests"].as_array().unwrap().iter().zip(case["answers"].as_array().unwrap()) {
            let (path, body) = (request["path"].as_str().unwrap(), &answer["body"]);
            let applied = &request["body"];
            let is_apply = request["method"] == "PATCH" && applied["kind"].is_string();
            let manager = path.split("fieldManager=").nth(1).map(|m| m.split('&').next().unwrap());
            if let (true, Some(manager), Some(ty)) = (is_apply && !body.to_string().contains("api-priority-and-fairness"), manager, type_of(applied)) {
                looked_at += 1;
                let w = Writer { manager, api_version: applied["apiVersion"].as_str().unwrap(), subresource: "", reset: &[&["status"]], now: "2026-01-01T00:00:00Z" };
                let fault = match apply(live.as_ref(), applied, path.contains("force=true"), &w, &OneVersion { api_version: w.api_version, ty }) {
                    Ok(done) if answer["status"] == 200 || answer["status"] == 201 => first_difference(&Value::from(entries(body)), &Value::from(entries(&done.object)), ""),
                    Ok(_) if answer["status"] == 409 => Some(format!("applied instead of {}", body["message"])),
                    Ok(_) => None,
                    Err(e) if body["message"] == e.to_string() => None,
                    Err(e) => Some(format!("{e} instead of {}", body["message"])),
                };
                if let Some(why) = fault {
                    faults.entry(format!("{} {}", applied["kind"], why.chars().take(300).collect::<String>())).or_default().push(case["id"].to_string());
                }
            }
            // Upstream's flow control writes conditions of its own in between.
            let undisturbed = |o: &Value| !o.to_string().contains("api-priority-and-fairness");
            if let (Some(old), Some("edit"), true) = (&live, manager, answer["status"] == 200 && undisturbed(body)) {
                looked_at += 1;
                let ty = type_of(old).unwrap();
                let mut new = keles_patch::merge_patch(old, applied).unwrap();
                let w = Writer { manager: "edit", api_version: old["apiVersion"].as_str().unwrap(), subresource: "", reset: &[&["status"]], now: "2026-01-01T00:00:00Z" };
                new["metadata"]["managedFields"] = update(Some(old), &new, &w, &OneVersion { api_version: w.api_version, ty });
                if let Some(why) = first_difference(&Value::from(entries(body)), &Value::from(entries(&new)), "edit") {
                    faults.entry(why).or_default().push(case["id"].to_string());
                }
            }
            if request["method"] == "DELETE" {
                live = None;
            } else if body["metadata"]["name"].is_string() && body["kind"] != "Status" && !path.contains("dryRun") {
                live = Some(body.clone());
            }
        }
    }
    verdict("applies", faults, looked_at, 200);
}
