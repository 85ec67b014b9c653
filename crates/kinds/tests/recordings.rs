//! Recorded requests against the rules alone, without a server: defaults, prepare, validation.
//!
//! Runs where the recordings are (`/work/shared/reference/recordings`); elsewhere there is nothing to compare with and the test says so.
//! `KIND=Pod SHOW=40 cargo test -p keles-kinds --test recordings -- --nocapture` prints the differences of one kind.

use keles_api::{Object, Problems};
use keles_registry::kind::{AnyKind, NameRule, Request, Scope, User};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const RECORDINGS: &str = "/work/shared/reference/recordings";
/// Share of comparable cases that must hold, in percent, over the kinds whose rules are whole.
const HOLD_MIN_PERCENT: usize = 98;
const WHOLE: &[&str] =
    &["Namespace", "Node", "Pod", "Service", "Endpoints", "EndpointSlice", "ConfigMap", "Secret", "ServiceAccount", "Event", "Lease", "Deployment", "ReplicaSet"];

fn lines(file: &str) -> String {
    let out = Command::new("zcat").arg(format!("{RECORDINGS}/{file}")).output().expect("zcat is part of every system");
    String::from_utf8(out.stdout).expect("recordings are UTF-8")
}

fn kind_of(api_version: &str, kind: &str) -> Option<&'static dyn AnyKind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    keles_kinds::all().iter().copied().find(|k| k.info().kind == kind && k.info().served.iter().any(|s| s.group == group && s.version == version))
}

fn storage_version(k: &dyn AnyKind) -> String {
    let s = k.info().served[0];
    if s.group.is_empty() { s.version.into() } else { format!("{}/{}", s.group, s.version) }
}

/// Decoded, in the storage version, with defaults of the schema and of the kind. `None`: the decoder refuses it.
fn defaulted(k: &dyn AnyKind, body: Value) -> Option<Object> {
    let version = body["apiVersion"].as_str()?.to_owned();
    let name = |s: &keles_registry::kind::Served| if s.group.is_empty() { s.version.to_owned() } else { format!("{}/{}", s.group, s.version) };
    let asked = k.info().served.iter().find(|s| name(s) == version)?;
    let schema = keles_api::schema::builtin();
    let mut o = keles_api::decode::check_tree(body, schema.get(asked.schema)?, k.info().kind, keles_api::decode::FieldValidation::Ignore).ok()?.object;
    let to = storage_version(k);
    if version != to {
        o.set_type(&to, k.info().kind);
        k.convert(&mut o, &version, &to);
    }
    keles_api::defaults::apply_static(&mut o.0, schema.get(k.info().served[0].schema)?);
    k.set_defaults(&mut o).expect("a tree");
    Some(o)
}

fn created(k: &dyn AnyKind, body: Value) -> Option<Object> {
    let mut o = defaulted(k, body)?;
    o.set_meta("uid", UID);
    match k.info().kind {
        "Pod" => admit_pod(&mut o),
        "Node" => admit_node(&mut o),
        _ => {}
    }
    k.prepare_create(&mut o, &request()).expect("a tree");
    Some(o)
}

const UID: &str = "5e1c9b9e-0000-4000-8000-000000000000";

/// What the admission plugins of upstream do to every pod.
fn admit_pod(o: &mut Object) {
    let Some(map) = o.0["spec"].as_object_mut() else { return };
    map.entry("serviceAccountName").or_insert("default".into());
    map.entry("serviceAccount").or_insert("default".into());
    let critical = map.get("priorityClassName") == Some(&json!("system-node-critical"));
    map.entry("priority").or_insert(if critical { 2_000_001_000.into() } else { 0.into() });
    map.entry("preemptionPolicy").or_insert("PreemptLowerPriority".into());
    let list = map.entry("tolerations").or_insert(json!([])).as_array_mut().expect("decoded as a list");
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !list.iter().any(|t| t["key"] == key) {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

/// A new node is tainted until it is ready.
fn admit_node(o: &mut Object) {
    let spec = o.root_mut().entry("spec").or_insert(json!({}));
    if spec["taints"].is_null() {
        spec["taints"] = json!([]);
    }
    if let Some(taints) = spec["taints"].as_array_mut() {
        taints.push(json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}));
    }
}

fn request() -> Request {
    let user = User { name: "admin".into(), uid: "admin".into(), groups: vec!["system:masters".into(), "system:authenticated".into()], ..User::default() };
    Request { user, now: "2026-01-01T00:00:00Z".into(), ..Request::default() }
}

/// Sets or deletes what stands at a path of names and indices; `false` when the path leads nowhere.
fn set_path(o: &mut Value, path: &[Value], v: &Value) -> bool {
    let Some((last, before)) = path.split_last() else { return false };
    let index = |s: &Value| s.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let mut c = o;
    for s in before {
        let next = match (c, s) {
            (Value::Object(m), Value::String(k)) => m.get_mut(k),
            (Value::Array(l), n) => l.get_mut(index(n)),
            _ => None,
        };
        match next {
            Some(n) => c = n,
            None => return false,
        }
    }
    match (c, last) {
        (Value::Object(m), Value::String(k)) if v == "@delete" => m.remove(k).is_some(),
        (Value::Object(m), Value::String(k)) => {
            m.insert(k.clone(), v.clone());
            true
        }
        (Value::Array(l), n) if index(n) < l.len() => {
            if v == "@delete" {
                l.remove(index(n));
            } else {
                l[index(n)] = v.clone();
            }
            true
        }
        _ => false,
    }
}

fn merge(o: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *o = patch.clone();
        return;
    };
    if !o.is_object() {
        *o = json!({});
    }
    let map = o.as_object_mut().expect("made an object just above");
    for (k, v) in patch {
        if v.is_null() {
            map.remove(k);
        } else {
            merge(map.entry(k.clone()).or_insert(Value::Null), v);
        }
    }
}

/// What the server's own loops say of a definition and of a flow schema soon after they are made.
fn served(o: &mut Object) {
    match o.kind() {
        "CustomResourceDefinition" => {
            let names = o.at(&["spec", "names"]).clone();
            o.0["status"]["acceptedNames"] = names;
            o.0["status"]["conditions"] = json!([
                {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Established", "status": "True", "reason": "InitialNamesAccepted", "message": "the initial names have been accepted", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]);
        }
        "FlowSchema" => {
            let level = o.str_at(&["spec", "priorityLevelConfiguration", "name"]);
            let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists");
            o.0["status"] = json!({"conditions": [{"type": "Dangling", "status": "False", "reason": "Found", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        }
        _ => {}
    }
}

struct World {
    /// Fixtures by path of the object.
    objects: BTreeMap<String, Object>,
}

impl World {
    fn load() -> Self {
        let fixtures: Vec<Value> = serde_json::from_str(&lines("fixtures.json.gz")).expect("fixtures are JSON");
        let mut objects = BTreeMap::new();
        for f in fixtures {
            let body = f["body"].clone();
            let path = format!("{}/{}", f["path"].as_str().expect("a path"), body["metadata"]["name"].as_str().expect("a name"));
            if let Some(k) = kind_of(body["apiVersion"].as_str().expect("versioned"), body["kind"].as_str().expect("kinded")) {
                let mut o = created(k, body).expect("fixtures are well-formed");
                o.set_meta("resourceVersion", "1");
                o.set_meta("creationTimestamp", "2026-01-01T00:00:00Z");
                served(&mut o);
                objects.insert(path, o);
            }
        }
        World { objects }
    }

    /// `None`: not for the rules alone.
    fn answer(&self, q: &Value) -> Option<(Object, Problems)> {
        let path = q["path"].as_str()?.split('?').next()?;
        if q["method"] == "POST" {
            let k = kind_of(q["body"]["apiVersion"].as_str()?, q["body"]["kind"].as_str()?)?;
            let o = created(k, q["body"].clone())?;
            let mut p = Problems::new();
            meta_create(k, &o, &mut p);
            k.validate(&o, &mut p).expect("a tree");
            k.validate_request(&o, None, &asked_of(path), &mut p).expect("a tree");
            return Some((o, p));
        }
        let old = self.objects.get(path.trim_end_matches("/status"))?;
        let k = kind_of(old.api_version(), old.kind())?;
        let new = defaulted(k, changed(k, path, q, old)?)?;
        let (new, mut p) = updated(k, new, old, path.ends_with("/status"));
        k.validate_request(&new, Some(old), &asked_of(path), &mut p).expect("a tree");
        Some((new, p))
    }
}

/// The object as it is read at a path.
fn in_version_of(k: &dyn AnyKind, path: &str, o: &Object) -> Object {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let version = if parts[0] == "api" { parts[1].to_owned() } else { format!("{}/{}", parts[1], parts[2]) };
    let mut o = o.clone();
    let from = o.api_version().to_owned();
    if from != version {
        o.set_type(&version, k.info().kind);
        k.convert(&mut o, &from, &version);
    }
    o
}

/// The request's group, from its path.
fn asked_of(path: &str) -> Request {
    let group = path.strip_prefix("/apis/").and_then(|rest| rest.split('/').next()).unwrap_or("");
    Request { group: group.into(), ..request() }
}

/// The object that a PUT or merge patch asks for.
fn changed(k: &dyn AnyKind, path: &str, q: &Value, old: &Object) -> Option<Value> {
    let mut new = in_version_of(k, path, old).0;
    match (q["method"].as_str()?, q["type"].as_str()) {
        ("PUT", _) => (q.get("base").is_some() && set_path(&mut new, q["set"][0].as_array()?, &q["set"][1])).then_some(new),
        ("PATCH", Some("application/merge-patch+json")) => {
            merge(&mut new, &q["body"]);
            Some(new)
        }
        _ => None,
    }
}

fn updated(k: &dyn AnyKind, mut new: Object, old: &Object, of_status: bool) -> (Object, Problems) {
    let mut p = Problems::new();
    let at = keles_api::Path::new("metadata");
    if of_status {
        for (name, v) in old.root().iter().filter(|(name, _)| *name != "status" && *name != "metadata") {
            new.root_mut().insert(name.clone(), v.clone());
        }
        k.prepare_status(&mut new, old, &request()).expect("a tree");
        keles_api::meta::validate_update(&new, old, &at, &mut p);
        k.validate_status(&new, old, &mut p).expect("a tree");
        return (new, p);
    }
    if k.info().subresources.iter().any(|s| s.name == "status") {
        let status = old.at(&["status"]).clone();
        new.root_mut().insert("status".into(), status);
    }
    k.prepare_update(&mut new, old, &request()).expect("a tree");
    keles_api::meta::validate_update(&new, old, &at, &mut p);
    k.validate_update(&new, old, &mut p).expect("a tree");
    (new, p)
}

fn meta_create(k: &dyn AnyKind, o: &Object, p: &mut Problems) {
    let check: keles_api::meta::NameCheck = match k.info().name_rule {
        NameRule::DnsSubdomain => keles_api::names::dns_subdomain,
        NameRule::DnsLabel => keles_api::names::dns_label,
        NameRule::Dns1035Label => keles_api::names::dns1035_label,
        NameRule::PathSegment => keles_api::names::path_segment,
        NameRule::Own => |_, _| Vec::new(),
    };
    keles_api::meta::validate_create(o, k.info().scope == Scope::Namespaced, check, &keles_api::Path::new("metadata"), p);
}

/// Values of these are the server's or admission's own affair.
const FREE: &[&str] = &["metadata", "clusterIP", "clusterIPs", "nodePort", "healthCheckNodePort", "lastTransitionTime", "lastProbeTime", "lastPhaseTransitionTime"];

fn first_diff(want: &Value, have: &Value, at: &str) -> Option<String> {
    static NULL: Value = Value::Null;
    match (want, have) {
        (Value::Object(w), Value::Object(h)) => {
            let is_ours = |k: &&String| !FREE.contains(&k.as_str()) || (!at.is_empty() && *k == "metadata");
            let keys: BTreeSet<&String> = w.keys().chain(h.keys()).filter(is_ours).collect();
            keys.into_iter().find_map(|k| first_diff(w.get(k).unwrap_or(&NULL), h.get(k).unwrap_or(&NULL), &format!("{at}.{k}")))
        }
        (Value::Array(w), Value::Array(h)) if w.len() == h.len() => w.iter().zip(h).enumerate().find_map(|(i, (w, h))| first_diff(w, h, &format!("{at}[{i}]"))),
        _ if keles_kinds::field::same(want, have) => None,
        (Value::String(w), Value::String(h)) if w.parse::<jiff::Timestamp>().is_ok() && w.parse::<jiff::Timestamp>().ok() == h.parse().ok() => None,
        (Value::String(w), Value::String(h)) if h == UID && w.len() == h.len() => None,
        _ => Some(format!("{at}: {have} instead of {want}")),
    }
}

/// One problem, without what a server is free to print its own way.
fn shown(mut s: String) -> String {
    if let Some(i) = s.find("may not change fields other than").or(s.find("immutable after creation")).and_then(|i| s[i..].find('\n').map(|j| i + j)) {
        s.truncate(i);
    }
    if let (Some(a), Some(b)) = (s.find("Invalid value: "), s.rfind("}\": ").or(s.rfind("}: ")))
        && s[a..].contains('{')
    {
        let end = s[b..].find(':').map_or(s.len(), |i| b + i);
        s.replace_range(a + 15..end, "<object>");
    }
    s
}

/// What is in one list and not, or not as often, in the other.
fn without_each(all: &[String], taken: &[String]) -> Vec<String> {
    let mut rest = all.to_vec();
    for t in taken {
        if let Some(i) = rest.iter().position(|r| r == t) {
            rest.remove(i);
        }
    }
    rest
}

/// `None`: nothing to compare; `Some(None)`: the same; else the difference.
fn compare(world: &World, q: &Value, a: &Value) -> Option<Option<String>> {
    let status = a["status"].as_u64()?;
    if !matches!(status, 200 | 201 | 422) || a["body"]["message"].as_str().is_some_and(|m| m.contains("patch: Invalid value")) {
        return None;
    }
    let (o, p) = world.answer(q)?;
    let mut have: Vec<String> = p.iter().map(|p| shown(format!("{}: {}", if p.field.is_empty() { "<nil>" } else { &p.field }, p.body()))).collect();
    let causes = a["body"]["details"]["causes"].as_array().cloned().unwrap_or_default();
    let mut want: Vec<String> = causes.iter().map(|c| shown(format!("{}: {}", c["field"].as_str().unwrap_or(""), c["message"].as_str().unwrap_or("")))).collect();
    // Problems of labels and annotations are found several times by the pipeline, as by upstream.
    let of_metadata = |m: &String| m.starts_with("metadata.labels") || m.starts_with("metadata.annotations");
    [&mut have, &mut want].into_iter().for_each(|all| {
        all.sort();
        let (mut meta, rest): (Vec<String>, Vec<String>) = all.drain(..).partition(of_metadata);
        meta.dedup();
        all.extend(meta.into_iter().chain(rest));
    });
    if have != want {
        let (missing, extra) = (without_each(&want, &have), without_each(&have, &want));
        return Some(Some(format!("missing {missing:?} extra {extra:?}")));
    }
    if status == 422 {
        return Some(None);
    }
    let k = kind_of(a["body"]["apiVersion"].as_str()?, a["body"]["kind"].as_str()?)?;
    let want = defaulted(k, a["body"].clone())?;
    let mut have = o;
    keles_api::canonical::canonicalise(&mut have.0, keles_api::schema::builtin().get(k.info().served[0].schema)?);
    Some(first_diff(&want.0, &have.0, ""))
}

#[test]
fn the_rules_of_whole_kinds_agree_with_recorded_answers() {
    if !Path::new(RECORDINGS).exists() {
        eprintln!("no recordings at {RECORDINGS}: nothing to compare with");
        return;
    }
    let world = World::load();
    let only = std::env::var("KIND").ok();
    let mut show: usize = std::env::var("SHOW").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let recorded = |k: &String| Path::new(&format!("{RECORDINGS}/{k}.jsonl.gz")).exists();
    let kinds: Vec<String> = match only.as_deref() {
        Some("all") => keles_kinds::all().iter().map(|k| k.info().kind.to_owned()).filter(recorded).collect(),
        Some(k) => k.split(',').map(str::to_owned).collect(),
        None => WHOLE.iter().map(|k| (*k).to_owned()).collect(),
    };
    let (mut good, mut all) = (0, 0);
    for kind in &kinds {
        let (mut kind_good, mut kind_all) = (0, 0);
        for line in lines(&format!("{kind}.jsonl.gz")).lines() {
            let case: Value = serde_json::from_str(line).expect("recordings are JSON");
            for (q, a) in case["requests"].as_array().into_iter().flatten().zip(case["answers"].as_array().into_iter().flatten()) {
                let Some(result) = compare(&world, q, a) else { continue };
                kind_all += 1;
                kind_good += usize::from(result.is_none());
                if let Some(difference) = result.filter(|_| show > 0) {
                    show -= 1;
                    println!("{} {kind} {} {} {}\n    {}", case["id"], case["area"], q["method"], q["set"], difference.chars().take(900).collect::<String>());
                }
            }
        }
        println!("{kind:32} {kind_good:5} of {kind_all:5}");
        good += kind_good;
        all += kind_all;
    }
    assert!(all > 0, "recordings hold cases for the rules");
    assert!(only.is_some() || good * 100 >= all * HOLD_MIN_PERCENT, "{good} of {all} recorded cases hold");
}
