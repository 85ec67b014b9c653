//! Laws that hold for every kind: a new row is tested without a new test.

use keles_api::{Object, Path, Problems, meta, names, schema};
use keles_registry::kind::{AnyKind, Cells, NameRule, Request, STATUS, Scope};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const DISCOVERY: &str = "/work/shared/reference/discovery";
const TEST_DATA: &str = "/work/shared/reference/api-testdata";
const NOW_UNIX_SECONDS: i64 = 1_767_225_600;

fn kinds() -> impl Iterator<Item = &'static dyn AnyKind> {
    keles_kinds::all().iter().copied()
}

fn request(k: &dyn AnyKind) -> Request {
    let served = k.info().served[0];
    Request { group: served.group.into(), version: served.version.into(), plural: k.info().plural.into(), now: "2026-01-01T00:00:00Z".into(), ..Request::default() }
}

/// The example as the pipeline would store it, with what the server decides.
fn created(k: &dyn AnyKind) -> (Object, Problems) {
    let mut o = k.example();
    let ty = schema::builtin().get(k.info().served[0].schema).expect("every kind has a schema");
    keles_api::defaults::apply_static(&mut o.0, ty);
    for (field, value) in [("uid", "5e1c9b9e-0000-4000-8000-000000000000"), ("creationTimestamp", "2026-01-01T00:00:00Z"), ("resourceVersion", "1")] {
        o.set_meta(field, value);
    }
    let mut p = Problems::new();
    k.set_defaults(&mut o).expect("a tree");
    k.create(&mut o, &request(k), &mut p, &mut Vec::new()).expect("an example is of its own kind");
    (o, p)
}

#[test]
fn every_example_is_accepted() {
    for k in kinds() {
        let (o, p) = created(k);
        assert!(p.is_empty(), "{}: {}", k.info().kind, p.aggregate());
        assert_eq!(o.kind(), k.info().kind);
        let mut p = Problems::new();
        let check: meta::NameCheck = match k.info().name_rule {
            NameRule::DnsSubdomain => names::dns_subdomain,
            NameRule::DnsLabel => names::dns_label,
            NameRule::Dns1035Label => names::dns1035_label,
            NameRule::PathSegment | NameRule::Own => names::path_segment,
        };
        meta::validate_create(&o, k.info().scope == Scope::Namespaced, check, &Path::new("metadata"), &mut p);
        assert!(p.is_empty(), "{}: {}", k.info().kind, p.aggregate());
    }
}

#[test]
fn defaults_are_idempotent() {
    for k in kinds() {
        let mut once = k.example();
        k.set_defaults(&mut once).expect("an example is of its own kind");
        let mut twice = once.clone();
        k.set_defaults(&mut twice).expect("an example is of its own kind");
        assert_eq!(once, twice, "{}", k.info().kind);
    }
}

#[test]
fn an_unchanged_object_may_be_updated() {
    for k in kinds() {
        let (old, _) = created(k);
        let mut new = old.clone();
        let mut p = Problems::new();
        k.update(&mut new, &old, &request(k), &mut p, &mut Vec::new()).expect("an example is of its own kind");
        assert!(p.is_empty(), "{}: {}", k.info().kind, p.aggregate());
        assert!(keles_kinds::field::same(&new.0, &old.0), "{}: an update without change changes nothing", k.info().kind);
    }
}

/// Makes everything on the way to a field that a gate is about, and the field.
fn put(v: &mut Value, path: &[&str]) {
    match path {
        [] => *v = serde_json::json!("given"),
        ["[]", rest @ ..] => {
            if !v.is_array() {
                *v = serde_json::json!([{}]);
            }
            put(&mut v[0], rest);
        }
        ["{}", rest @ ..] => put(&mut v["k"], rest),
        [name, rest @ ..] => put(&mut v[*name], rest),
    }
}

fn holds(v: &Value, path: &[&str]) -> bool {
    match path {
        [] => !v.is_null(),
        ["[]", rest @ ..] => holds(&v[0], rest),
        ["{}", rest @ ..] => holds(&v["k"], rest),
        [name, rest @ ..] => holds(&v[*name], rest),
    }
}

#[test]
fn what_a_gate_that_is_off_guards_is_taken_away_and_stays_where_it_is_in_use() {
    let mut seen = 0;
    for k in kinds() {
        for (place, rows) in k.gated() {
            for (row, path) in rows.iter().flat_map(|row| row.paths.iter().map(move |path| (row, path))) {
                let whole: Vec<&str> = place.iter().chain(path.iter()).copied().collect();
                let mut new = k.example();
                put(&mut new.0, &whole);
                k.set_defaults(&mut new).expect("a tree");
                k.create(&mut new, &request(k), &mut Problems::new(), &mut Vec::new()).expect("a tree");
                assert!(!holds(&new.0, &whole), "{} of {}: {whole:?}", row.gate, k.info().kind);
                let (mut old, _) = created(k);
                let mut new = old.clone();
                put(&mut new.0, &whole);
                k.update(&mut new, &old, &request(k), &mut Problems::new(), &mut Vec::new()).expect("a tree");
                assert!(!holds(&new.0, &whole), "{} of {}: {whole:?}", row.gate, k.info().kind);
                put(&mut old.0, &whole);
                let mut new = old.clone();
                k.update(&mut new, &old, &request(k), &mut Problems::new(), &mut Vec::new()).expect("a tree");
                assert!(holds(&new.0, &whole), "{} of {}, in use: {whole:?}", row.gate, k.info().kind);
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn every_kind_survives_an_object_with_nothing_in_it() {
    for k in kinds() {
        let mut o = Object::new(k.example().api_version(), k.info().kind);
        k.set_defaults(&mut o).expect("a tree");
        k.create(&mut o, &request(k), &mut Problems::new(), &mut Vec::new()).expect("a tree is never of the wrong type");
        let bare = Object::new(k.example().api_version(), k.info().kind);
        k.update(&mut bare.clone(), &bare, &request(k), &mut Problems::new(), &mut Vec::new()).expect("a tree is never of the wrong type");
        k.update_status(&mut bare.clone(), &bare, &request(k), &mut Problems::new()).expect("a tree is never of the wrong type");
        assert_eq!(k.cells(&bare, &Cells { now_unix_seconds: NOW_UNIX_SECONDS }).expect("cells").len(), k.columns().len(), "{}", k.info().kind);
    }
}

#[test]
fn a_table_row_fits_its_columns() {
    for k in kinds() {
        let (o, _) = created(k);
        let (columns, cells) = (k.columns(), k.cells(&o, &Cells { now_unix_seconds: NOW_UNIX_SECONDS }).expect("cells"));
        assert_eq!(columns.len(), cells.len(), "{}", k.info().kind);
        let named: Vec<usize> =
            columns.iter().enumerate().filter(|(_, c)| c.name == "Name" && (c.format == "name" || k.info().kind == "StorageVersionMigration")).map(|(i, _)| i).collect();
        assert_eq!(named.len(), 1, "{} has one column of names", k.info().kind);
        assert_eq!(cells[named[0]], o.name(), "{}", k.info().kind);
        for (column, cell) in columns.iter().zip(&cells) {
            assert!(!cell.is_object() && !cell.is_array(), "{}.{}: {cell}", k.info().kind, column.name);
        }
    }
}

#[test]
fn names_are_unique_and_versions_have_schemas() {
    let (mut resources, mut short, mut rows) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for k in kinds() {
        let info = k.info();
        assert!(rows.insert(info.served[0].schema), "{} has one row", info.kind);
        for s in info.served {
            assert!(resources.insert((s.group, s.version, info.plural)), "{}/{}/{} is served once", s.group, s.version, info.plural);
            assert!(schema::builtin().get(s.schema).is_some(), "{} is in the schema table", s.schema);
        }
        for name in info.short_names {
            assert!(short.insert(*name), "{name} is short for one kind");
        }
        assert_eq!(info.singular, info.kind.to_lowercase());
    }
    for v in keles_kinds::VIRTUAL {
        assert!(resources.insert((v.group, v.version, v.plural)), "{} is served once", v.plural);
        assert!(schema::builtin().get(v.schema).is_some(), "{} is in the schema table", v.schema);
    }
}

#[test]
fn versions_convert_there_and_back() {
    for k in kinds() {
        let (stored, _) = created(k);
        let storage = stored.api_version().to_owned();
        for s in &k.info().served[1..] {
            let version = if s.group.is_empty() { s.version.to_owned() } else { format!("{}/{}", s.group, s.version) };
            let mut o = stored.clone();
            o.set_type(&version, k.info().kind);
            k.convert(&mut o, &storage, &version);
            o.set_type(&storage, k.info().kind);
            k.convert(&mut o, &version, &storage);
            assert!(keles_kinds::field::same(&o.0, &stored.0), "{} through {version}:\n{}\n{}", k.info().kind, o.0, stored.0);
        }
    }
}

/// Upstream's objects with every field set, where they are at hand: nothing of them is lost on the way to the storage version and back.
#[test]
fn upstreams_objects_of_every_version_survive_the_storage_version() {
    let name = |group: &str, version: &str| if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    for k in kinds().filter(|k| k.info().served.len() > 1) {
        let storage = name(k.info().served[0].group, k.info().served[0].version);
        for served in &k.info().served[1..] {
            let group = if served.group.is_empty() { "core" } else { served.group };
            let Ok(text) = std::fs::read_to_string(format!("{TEST_DATA}/{group}.{}.{}.json", served.version, k.info().kind)) else { continue };
            let body: Value = serde_json::from_str(&text).expect("test data is JSON");
            let ty = schema::builtin().get(served.schema).expect("every version has a schema");
            let mut given = keles_api::decode::check_tree(body, ty, k.info().kind, keles_api::decode::FieldValidation::Strict).expect("test data fits its type").object;
            keles_api::canonical::canonicalise(&mut given.0, ty);
            let (mut o, version) = (given.clone(), name(served.group, served.version));
            o.set_type(&storage, k.info().kind);
            k.convert(&mut o, &version, &storage);
            o.set_type(&version, k.info().kind);
            k.convert(&mut o, &storage, &version);
            let mut back = k.conform(served, o);
            // As upstream, autoscaling/v1 says the raw numbers behind its status in an annotation.
            if let Some(annotations) = back.0.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
                annotations.retain(|key, _| !key.starts_with("autoscaling.alpha.kubernetes.io/"));
            }
            assert_eq!(back, given, "{version} {}", k.info().kind);
        }
    }
}

#[test]
fn a_status_that_a_client_sends_is_not_stored() {
    for k in kinds().filter(|k| k.info().subresources.iter().any(|s| s.name == STATUS)) {
        // Nodes register with their status; the rest is told by whoever runs the object.
        if k.info().kind == "Node" {
            continue;
        }
        let mut o = k.example();
        o.root_mut().insert("status".into(), serde_json::json!({"observedGeneration": 7, "message": "mine"}));
        k.set_defaults(&mut o).expect("a tree");
        k.create(&mut o, &request(k), &mut Problems::new(), &mut Vec::new()).expect("an example is of its own kind");
        assert!(o.at(&["status", "message"]).is_null(), "{}", k.info().kind);
    }
}

/// What discovery says of a resource.
fn said(r: &Value) -> (String, bool, String, Vec<&str>, Vec<&str>, Vec<&str>) {
    let text = |f: &str| r[f].as_str().unwrap_or("").to_owned();
    let list = |f: &str| r[f].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
    (text("kind"), r["namespaced"] == true, text("singularName"), list("shortNames"), list("categories"), list("verbs"))
}

#[test]
fn discovery_equals_the_reference() {
    let Ok(files) = std::fs::read_dir(DISCOVERY) else {
        eprintln!("no reference at {DISCOVERY}: nothing to compare with");
        return;
    };
    let mut ours = BTreeMap::new();
    for k in kinds() {
        let info = k.info();
        for s in info.served {
            let namespaced = info.scope == Scope::Namespaced;
            let own = (info.kind.to_owned(), namespaced, info.singular.to_owned(), info.short_names.to_vec(), info.categories.to_vec(), info.verbs.to_vec());
            ours.insert((s.group, s.version, info.plural.to_owned()), own);
            for sub in info.subresources {
                let said = (sub.kind.to_owned(), namespaced, String::new(), vec![], vec![], sub.verbs.to_vec());
                ours.insert((s.group, s.version, format!("{}/{}", info.plural, sub.name)), said);
            }
        }
    }
    for v in keles_kinds::VIRTUAL {
        let said = (v.kind.to_owned(), v.scope == Scope::Namespaced, v.singular.to_owned(), v.short_names.to_vec(), vec![], v.verbs.to_vec());
        ours.insert((v.group, v.version, v.plural.to_owned()), said);
    }
    let mut compared = 0;
    for file in files.flatten() {
        let doc: Value = serde_json::from_slice(&std::fs::read(file.path()).expect("readable")).expect("JSON");
        if doc["kind"] != "APIResourceList" {
            continue;
        }
        let gv = doc["groupVersion"].as_str().expect("a groupVersion");
        let (group, version) = gv.split_once('/').unwrap_or(("", gv));
        for r in doc["resources"].as_array().expect("resources") {
            let name = r["name"].as_str().expect("a name");
            let found = ours.iter().find(|(k, _)| k.0 == group && k.1 == version && k.2 == name).map(|(_, v)| v);
            assert_eq!(found, Some(&said(r)), "{gv} {name}");
            compared += 1;
        }
    }
    assert_eq!(compared, ours.len(), "nothing is served that upstream does not serve");
}
