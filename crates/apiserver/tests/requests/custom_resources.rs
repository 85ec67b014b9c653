//! Definitions become kinds that are served: over HTTP, and through kubectl where there is one.

use crate::world::{Client, World};
use http::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const BACKUPS: &str = "/apis/data.example.com/v1/namespaces/default/backups";
const PATIENCE: Duration = Duration::from_secs(60);

/// An operator's definition: two versions, subresources, columns, defaults, lists with keys.
fn backups() -> Value {
    let spec = json!({
        "type": "object", "required": ["schedule"], "description": "What is wanted.",
        "properties": {
            "schedule": {"type": "string", "minLength": 3, "description": "When it runs."},
            "keep": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 30, "default": 7},
            "tier": {"type": "string", "enum": ["hot", "cold"], "default": "hot"},
            "port": {"x-kubernetes-int-or-string": true},
            "note": {"type": "string", "nullable": true},
            "options": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "targets": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "bucket": {"type": "string"}}}},
        },
    });
    let status = json!({"type": "object", "properties": {"ready": {"type": "integer"}, "selector": {"type": "string"}}});
    let schema = json!({"openAPIV3Schema": {"type": "object", "description": "Backup copies data.", "properties": {"spec": spec, "status": status}}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "backups.data.example.com"},
        "spec": {
            "group": "data.example.com", "scope": "Namespaced",
            "names": {"plural": "backups", "singular": "backup", "kind": "Backup", "listKind": "BackupList", "shortNames": ["bk"], "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": schema,
                 "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.keep", "statusReplicasPath": ".status.ready", "labelSelectorPath": ".status.selector"}},
                 "selectableFields": [{"jsonPath": ".spec.tier"}],
                 "additionalPrinterColumns": [{"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"}, {"name": "Keep", "type": "integer", "jsonPath": ".spec.keep"}]},
                {"name": "v1beta1", "served": true, "storage": false,
                 "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"schedule": {"type": "string"}}}}}}},
            ],
        },
    })
}

fn backup(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "data.example.com/v1", "kind": "Backup", "metadata": {"name": name}, "spec": spec})
}

async fn patch(c: &Client, path: &str, body: Value) -> crate::world::Reply {
    c.send(Method::PATCH, path, "application/merge-patch+json", body.to_string().into_bytes()).await
}

/// Waits, by watching, until the definition says what is wanted.
async fn until(w: &World, wanted: impl Fn(Option<&keles_api::Object>) -> bool) {
    let registry = w.server().registry();
    let mut changed = registry.subscribe("apiextensions.k8s.io", "customresourcedefinitions").expect("definitions are a resource");
    let there = async {
        loop {
            changed.borrow_and_update();
            let o = registry.read("apiextensions.k8s.io", "customresourcedefinitions", "", "backups.data.example.com");
            if wanted(o.as_deref()) {
                return;
            }
            changed.changed().await.expect("the registry lives");
        }
    };
    tokio::time::timeout(PATIENCE, there).await.expect("the definition gets there");
}

fn is_established(o: Option<&keles_api::Object>) -> bool {
    let conditions = o.map(|o| o.at(&["status", "conditions"]).clone()).unwrap_or_default();
    conditions.as_array().into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
}

async fn established(c: &Client, w: &World) {
    let made = c.post(CRDS, &backups()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    until(w, is_established).await;
}

#[tokio::test]
async fn an_established_definition_is_served_and_published_at_once() {
    let w = World::start().await;
    let c = w.admin();
    assert_eq!(c.get(BACKUPS).await.text(), "404 page not found\n");
    established(&c, &w).await;
    let status = c.get(&format!("{CRDS}/backups.data.example.com")).await.json()["status"].clone();
    assert_eq!(status["acceptedNames"]["kind"], "Backup");
    assert_eq!(status["storedVersions"], json!(["v1"]));
    assert_eq!(status["conditions"][0]["reason"], "NoConflicts");
    assert_eq!(status["conditions"][1]["reason"], "InitialNamesAccepted");
    assert_eq!(c.get(BACKUPS).await.json()["kind"], "BackupList");
    let group = c.get("/apis/data.example.com/").await.json();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    assert_eq!(group["versions"].as_array().map(Vec::len), Some(2));
    let list = c.get("/apis/data.example.com/v1").await.json();
    let names: Vec<_> = list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["backups", "backups/scale", "backups/status"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["bk"]));
    let aggregated = c.clone().with_header("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").get("/apis").await.json();
    let ours = aggregated["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "data.example.com").expect("in aggregated discovery").clone();
    assert_eq!(ours["versions"][0]["resources"][0]["responseKind"], json!({"group": "data.example.com", "version": "v1", "kind": "Backup"}));
    let index = c.get("/openapi/v3").await.json();
    assert!(index["paths"]["apis/data.example.com/v1"].is_object(), "{index}");
    let doc = c.get("/openapi/v3/apis/data.example.com/v1").await.json();
    let schema = &doc["components"]["schemas"]["com.example.data.v1.Backup"];
    assert_eq!(schema["properties"]["spec"]["properties"]["keep"]["default"], 7);
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Backup");
    assert!(doc["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"].is_object());
}

#[tokio::test]
async fn objects_are_defaulted_pruned_and_validated_in_upstreams_words() {
    let w = World::start().await;
    let c = w.admin();
    established(&c, &w).await;
    let spec = json!({"schedule": "daily", "bogus": 1, "note": null, "port": "http", "options": {"free": {"x": 1}}, "targets": [{"name": "a", "bad": 1}]});
    let strict = c.post(&format!("{BACKUPS}?fieldValidation=Strict"), &backup("a", spec.clone())).await;
    assert_eq!(
        (strict.status.as_u16(), strict.json()["message"].as_str().unwrap().to_owned()),
        (400, "Backup in version \"v1\" cannot be handled as a Backup: strict decoding error: unknown field \"spec.bogus\", unknown field \"spec.targets[0].bad\"".into())
    );
    let made = c.post(BACKUPS, &backup("a", spec)).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.header("warning"), "299 - \"unknown field \\\"spec.bogus\\\"\"", "unknown fields are warned of unless asked otherwise");
    let made = made.json();
    assert_eq!(made["spec"], json!({"schedule": "daily", "keep": 7, "tier": "hot", "note": null, "port": "http", "options": {"free": {"x": 1}}, "targets": [{"name": "a"}]}));
    assert_eq!(made["metadata"]["generation"], 1);
    let bad = c.post(BACKUPS, &backup("b", json!({"schedule": "x", "keep": "many", "tier": "warm", "targets": [{"name": "a"}, {"name": "a"}], "template": {"kind": "Pod"}}))).await;
    assert_eq!(bad.status, 422);
    let causes: Vec<String> =
        bad.json()["details"]["causes"].as_array().unwrap().iter().map(|c| format!("{}: {}", c["field"].as_str().unwrap_or_default(), c["message"].as_str().unwrap())).collect();
    for want in [
        "spec.keep: Invalid value: \"string\": spec.keep in body must be of type integer: \"string\"",
        "spec.schedule: Invalid value: \"x\": spec.schedule in body should be at least 3 chars long",
        "spec.tier: Unsupported value: \"warm\": supported values: \"hot\", \"cold\"",
        "spec.template.apiVersion: Required value: must not be empty",
        "spec.targets[1]: Duplicate value: {\"name\":\"a\"}",
    ] {
        assert!(causes.iter().any(|c| c == want), "{want} is not among {causes:#?}");
    }
    let strategic = c.send(Method::PATCH, &format!("{BACKUPS}/a"), "application/strategic-merge-patch+json", b"{}".to_vec()).await;
    assert_eq!(strategic.status, 415);
    let grown = patch(&c, &format!("{BACKUPS}/a"), json!({"spec": {"keep": 3}})).await.json();
    assert_eq!((grown["metadata"]["generation"].clone(), grown["spec"]["keep"].clone()), (json!(2), json!(3)));
    let old = c.get("/apis/data.example.com/v1beta1/namespaces/default/backups/a").await.json();
    assert_eq!((old["apiVersion"].clone(), old["spec"].clone()), (json!("data.example.com/v1beta1"), json!({"schedule": "daily"})));
}

#[tokio::test]
async fn status_scale_selectors_and_tables_work_as_for_built_in_kinds() {
    let w = World::start().await;
    let c = w.admin();
    established(&c, &w).await;
    for (name, tier) in [("a", "hot"), ("b", "cold")] {
        assert_eq!(c.post(BACKUPS, &backup(name, json!({"schedule": "daily", "tier": tier, "keep": 2}))).await.status, 201);
    }
    let one = format!("{BACKUPS}/a");
    let shown =
        patch(&c, &format!("{one}/status"), json!({"metadata": {"labels": {"no": "change"}}, "spec": {"keep": 9}, "status": {"ready": 1, "selector": "app=x"}})).await.json();
    assert_eq!((shown["status"]["ready"].clone(), shown["spec"]["keep"].clone(), shown["metadata"]["labels"].clone()), (json!(1), json!(2), Value::Null));
    assert_eq!(patch(&c, &one, json!({"status": {"ready": 5}})).await.json()["status"]["ready"], 1, "the main resource leaves status alone");
    let scale = c.get(&format!("{one}/scale")).await.json();
    assert_eq!((scale["kind"].clone(), scale["spec"]["replicas"].clone(), scale["status"].clone()), (json!("Scale"), json!(2), json!({"replicas": 1, "selector": "app=x"})));
    assert_eq!(patch(&c, &format!("{one}/scale"), json!({"spec": {"replicas": 4}})).await.json()["spec"]["replicas"], 4);
    assert_eq!(c.get(&one).await.json()["spec"]["keep"], 4);
    let cold = c.get(&format!("{BACKUPS}?fieldSelector=spec.tier%3Dcold")).await.json();
    assert_eq!(cold["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].clone()).collect::<Vec<_>>(), [json!("b")]);
    assert_eq!(cold["items"][0]["kind"], "Backup", "items of custom resources carry their type");
    assert_eq!(c.get(&format!("{BACKUPS}?fieldSelector=spec.keep%3D1")).await.json()["message"], "field label not supported: spec.keep");
    let table = c.clone().with_header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").get(BACKUPS).await.json();
    assert_eq!(table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect::<Vec<_>>(), ["Name", "Schedule", "Keep"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "daily", 4]));
    let partial = c.clone().with_header("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").get(&one).await.json();
    assert_eq!((partial["kind"].clone(), partial.get("spec")), (json!("PartialObjectMetadata"), None));
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_with_it_and_is_gone_from_discovery() {
    let w = World::start().await;
    let c = w.admin();
    established(&c, &w).await;
    let mut held = backup("held", json!({"schedule": "daily"}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    for o in [&held, &backup("free", json!({"schedule": "daily"}))] {
        assert_eq!(c.post(BACKUPS, o).await.status, 201);
    }
    let revision = c.get(BACKUPS).await.json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let watching = tokio::spawn({
        let (c, path) = (c.clone(), format!("{BACKUPS}?watch=1&resourceVersion={revision}"));
        async move { c.get(&path).await.text() }
    });
    let gone = c.send(Method::DELETE, &format!("{CRDS}/backups.data.example.com"), "application/json", Vec::new()).await.json();
    assert_eq!(gone["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    until(&w, |o| o.is_some_and(|o| o.at(&["status", "conditions"]).to_string().contains("InstanceDeletionInProgress"))).await;
    let mut changed = w.server().registry().subscribe("data.example.com", "backups").expect("it is still served");
    tokio::time::timeout(PATIENCE, async {
        while !c.get(&format!("{BACKUPS}/free")).await.status.is_client_error() {
            changed.changed().await.expect("the registry lives");
        }
    })
    .await
    .expect("what nothing holds goes");
    let late = c.post(BACKUPS, &backup("late", json!({"schedule": "daily"}))).await;
    assert_eq!((late.status.as_u16(), late.json()["message"].clone()), (405, json!("create not allowed while custom resource definition is terminating")));
    assert_eq!(patch(&c, &format!("{BACKUPS}/held"), json!({"metadata": {"finalizers": null}})).await.status, 200);
    until(&w, |o| o.is_none()).await;
    let events = tokio::time::timeout(PATIENCE, watching).await.expect("a watch ends with its resource").unwrap();
    assert_eq!(events.matches("\"type\":\"DELETED\"").count(), 2, "every object is seen to go: {events}");
    // The kind goes right after its definition: the next change of the kinds says so.
    let mut kinds = w.server().registry().kinds_changed();
    tokio::time::timeout(PATIENCE, async {
        while w.server().registry().kind("data.example.com", "v1", "backups").is_some() {
            kinds.changed().await.expect("the registry lives");
        }
    })
    .await
    .expect("the kind goes");
    assert_eq!(c.get(BACKUPS).await.text(), "404 page not found\n");
    assert_eq!(c.get("/apis/data.example.com").await.status, 404);
    assert!(c.get("/openapi/v3").await.json()["paths"]["apis/data.example.com/v1"].is_null());
}

#[tokio::test]
async fn a_changed_schema_and_another_storage_version_reach_what_is_stored() {
    let w = World::start().await;
    let c = w.admin();
    established(&c, &w).await;
    assert_eq!(c.post(BACKUPS, &backup("a", json!({"schedule": "daily", "keep": 5}))).await.status, 201);
    let path = format!("{CRDS}/backups.data.example.com");
    let mut d = c.get(&path).await.json();
    let generation = w.server().registry().kinds_changed();
    d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"] = json!({"type": "string", "default": "red"});
    d["spec"]["versions"][0]["storage"] = false.into();
    d["spec"]["versions"][1]["storage"] = true.into();
    d["spec"]["versions"][1]["schema"] = d["spec"]["versions"][0]["schema"].clone();
    d["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["description"] = "Backup copied data.".into();
    let put = c.put(&path, &d).await;
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(put.json()["status"]["storedVersions"], json!(["v1", "v1beta1"]));
    let mut kinds = generation;
    tokio::time::timeout(PATIENCE, kinds.changed()).await.expect("the kind is made anew").expect("the registry lives");
    let now = c.get(&format!("{BACKUPS}/a")).await.json();
    assert_eq!((now["apiVersion"].clone(), now["spec"]["color"].clone()), (json!("data.example.com/v1"), json!("red")), "defaults reach what was stored before them");
    let before = now["metadata"]["resourceVersion"].clone();
    let touched = c.put(&format!("{BACKUPS}/a"), &now).await.json();
    assert_ne!(touched["metadata"]["resourceVersion"], before, "a write that changes nothing still brings the object to the new storage version");
    let w = w.restart().await;
    let after = w.admin().get(&format!("{BACKUPS}/a")).await.json();
    assert_eq!(after["spec"], touched["spec"], "served from the first request after a restart");
}

#[tokio::test]
async fn a_taken_name_is_refused_until_it_is_free() {
    let w = World::start().await;
    let c = w.admin();
    established(&c, &w).await;
    let mut other = backups();
    other["metadata"]["name"] = "vaults.data.example.com".into();
    other["spec"]["names"] = json!({"plural": "vaults", "singular": "vault", "kind": "Backup", "listKind": "VaultList", "shortNames": ["bk"]});
    assert_eq!(c.post(CRDS, &other).await.status, 201);
    let registry = w.server().registry().clone();
    let accepted = move || registry.read("apiextensions.k8s.io", "customresourcedefinitions", "", "vaults.data.example.com").map(|o| o.at(&["status"]).clone()).unwrap_or_default();
    until(&w, |_| accepted()["conditions"].is_array()).await;
    let conditions = accepted()["conditions"].clone();
    assert_eq!((conditions[0]["reason"].clone(), conditions[0]["message"].clone()), (json!("KindConflict"), json!("\"Backup\" is already in use")));
    assert_eq!((conditions[1]["status"].clone(), conditions[1]["reason"].clone()), (json!("False"), json!("NotAccepted")));
    assert_eq!(c.get("/apis/data.example.com/v1/vaults").await.status, 404);
    c.send(Method::DELETE, &format!("{CRDS}/backups.data.example.com"), "application/json", Vec::new()).await;
    until(&w, |_| accepted()["conditions"][1]["status"] == "True").await;
    assert_eq!(c.get("/apis/data.example.com/v1/vaults").await.json()["kind"], "VaultList");
}

/// kubectl against the server, as an administrator; what it prints, errors too.
fn kubectl(folder: &Path, arguments: &[&str]) -> String {
    let out = Command::new("timeout").args(["60", "kubectl"]).args(arguments).env("KUBECONFIG", folder.join("kubeconfig")).env("HOME", folder).output().expect("timeout runs");
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_with_custom_resources_as_with_any_other() {
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        eprintln!("no kubectl here: nothing is tested");
        return;
    }
    let w = World::start().await;
    let folder = w.folder().to_owned();
    w.write_kubeconfig(&folder.join("kubeconfig"));
    std::fs::write(folder.join("crd.json"), backups().to_string()).unwrap();
    std::fs::write(folder.join("cr.json"), backup("a", json!({"schedule": "daily", "targets": [{"name": "x", "bucket": "one"}]})).to_string()).unwrap();
    std::fs::write(folder.join("bad.json"), backup("b", json!({"schedule": "daily", "bogus": 1})).to_string()).unwrap();
    let told = tokio::task::spawn_blocking(move || {
        let path = |f: &str| folder.join(f).to_str().unwrap().to_owned();
        let run = |arguments: &[&str]| kubectl(&folder, arguments);
        let check = |arguments: &[&str], want: &str| {
            let got = run(arguments);
            assert!(got.contains(want), "kubectl {}: wanted {want:?}, got {got}", arguments.join(" "));
        };
        check(&["create", "-f", &path("crd.json")], "created");
        check(&["wait", "--for", "condition=established", "--timeout=20s", "crd/backups.data.example.com"], "condition met");
        check(&["apply", "-f", &path("cr.json")], "backup.data.example.com/a created");
        check(&["apply", "-f", &path("cr.json")], "unchanged");
        check(&["get", "bk"], "NAME   SCHEDULE   KEEP\na      daily      7\n");
        check(&["get", "all", "-o", "name"], "backup.data.example.com/a");
        check(&["explain", "backup.spec.schedule"], "When it runs.");
        check(&["create", "-f", &path("bad.json")], "strict decoding error: unknown field \"spec.bogus\"");
        check(&["patch", "backup", "a", "--type", "merge", "-p", "{\"spec\":{\"keep\":99}}"], "spec.keep in body should be less than or equal to 30");
        check(&["patch", "backup", "a", "--type", "json", "-p", "[{\"op\":\"add\",\"path\":\"/spec/tier\",\"value\":\"cold\"}]"], "patched");
        check(&["scale", "backup/a", "--replicas=3"], "scaled");
        check(&["apply", "--server-side", "--force-conflicts", "-f", &path("cr.json")], "serverside-applied");
        check(&["get", "backup", "a", "-o", "jsonpath={.spec.keep}/{.spec.tier}"], "3/cold");
        check(&["api-resources", "--api-group=data.example.com"], "data.example.com/v1");
        check(&["delete", "crd", "backups.data.example.com", "--timeout=30s"], "deleted");
        run(&["get", "backups"])
    });
    let after = told.await.unwrap();
    assert!(after.contains("the server could not find the requested resource") || after.contains("the server doesn't have a resource type"), "{after}");
}

#[tokio::test]
async fn rules_hold_and_deprecated_versions_say_so() {
    let w = World::start().await;
    let c = w.admin();
    let mut d = backups();
    d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] = json!([
        {"rule": "self.tier != 'cold' || self.keep >= 5", "message": "cold data is kept for five at least"},
        {"rule": "self.schedule == oldSelf.schedule", "message": "the schedule stays", "fieldPath": ".schedule"},
    ]);
    d["spec"]["versions"][1]["deprecated"] = true.into();
    assert_eq!(c.post(CRDS, &d).await.status, 201);
    until(&w, is_established).await;
    let bad = c.post(BACKUPS, &backup("a", json!({"schedule": "daily", "tier": "cold", "keep": 2}))).await;
    assert_eq!(bad.json()["message"], "Backup.data.example.com \"a\" is invalid: spec: Invalid value: \"object\": cold data is kept for five at least");
    assert_eq!(c.post(BACKUPS, &backup("a", json!({"schedule": "daily", "tier": "cold"}))).await.status, 201, "the default makes the rule hold");
    let changed = patch(&c, &format!("{BACKUPS}/a"), json!({"spec": {"schedule": "weekly"}})).await;
    assert_eq!(changed.json()["message"], "Backup.data.example.com \"a\" is invalid: spec.schedule: Invalid value: \"object\": the schedule stays");
    let old = c.get("/apis/data.example.com/v1beta1/namespaces/default/backups/a").await;
    assert_eq!(old.header("warning"), "299 - \"data.example.com/v1beta1 Backup is deprecated; use data.example.com/v1 Backup\"");
    assert_eq!(c.get(&format!("{BACKUPS}/a")).await.header("warning"), "");
}

/// The v2 document once it is as wanted.
async fn published(w: &World, c: &Client, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut kinds = w.server().registry().kinds_changed();
    let there = async {
        loop {
            kinds.borrow_and_update();
            let doc = c.get("/openapi/v2").await.json();
            if wanted(&doc["definitions"]) {
                return doc;
            }
            kinds.changed().await.expect("the registry lives");
        }
    };
    tokio::time::timeout(PATIENCE, there).await.expect("it is published")
}

fn references<'v>(v: &'v Value, out: &mut Vec<&'v str>) {
    match v {
        Value::Object(o) => {
            out.extend(o.get("$ref").and_then(Value::as_str));
            o.values().for_each(|v| references(v, out));
        }
        Value::Array(a) => a.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

#[tokio::test]
async fn versions_that_go_or_get_another_name_do_so_in_openapi() {
    let w = World::start().await;
    let c = w.admin();
    established(&c, &w).await;
    let own = format!("{CRDS}/backups.data.example.com");
    let has = |definitions: &Value, version: &str| definitions[format!("com.example.data.{version}.Backup")].is_object();
    let doc = published(&w, &c, |d| has(d, "v1") && has(d, "v1beta1")).await;
    let mut found = Vec::new();
    references(&doc, &mut found);
    let missing: Vec<_> = found.iter().filter(|r| doc["definitions"].get(r.rsplit('/').next().unwrap_or_default()).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let change = async |operations: Value| {
        let r = c.send(Method::PATCH, &own, "application/json-patch+json", operations.to_string().into_bytes()).await;
        assert_eq!(r.status, 200, "{}", r.text());
    };
    change(json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}])).await;
    let doc = published(&w, &c, |d| has(d, "v1") && !has(d, "v1beta1")).await;
    assert!(doc["paths"].get("/apis/data.example.com/v1beta1/backups").is_none());
    assert!(c.get("/openapi/v3").await.json()["paths"].get("apis/data.example.com/v1beta1").is_none());
    change(json!([{"op": "replace", "path": "/spec/versions/1/served", "value": true}, {"op": "replace", "path": "/spec/versions/1/name", "value": "v1beta2"}])).await;
    published(&w, &c, |d| has(d, "v1") && has(d, "v1beta2") && !has(d, "v1beta1")).await;
    assert!(c.get("/openapi/v3").await.json()["paths"].get("apis/data.example.com/v1beta2").is_some());
}

#[tokio::test]
async fn definitions_are_deleted_by_label_and_their_status_is_anybodys_to_add_to() {
    let w = World::start().await;
    let c = w.admin();
    established(&c, &w).await;
    for (plural, label) in [("ones", "x"), ("twos", "x")] {
        let kind = format!("{}{}", plural[..1].to_uppercase(), &plural[1..]);
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let made = c
            .post(
                CRDS,
                &json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.other.example"), "labels": {"set": label}},
                    "spec": {"group": "other.example", "scope": "Cluster", "names": {"plural": plural, "kind": kind, "listKind": format!("{kind}List")},
                        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}}),
            )
            .await;
        assert_eq!(made.status, 201, "{}", made.text());
    }
    let names = |list: &Value| list["items"].as_array().into_iter().flatten().map(|o| o["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&c.get(&format!("{CRDS}?labelSelector=set%3Dx")).await.json()), ["ones.other.example", "twos.other.example"]);
    assert_eq!(c.send(Method::DELETE, &format!("{CRDS}?labelSelector=set%3Dx"), "", Vec::new()).await.status, 200);
    let mut changed = w.server().registry().subscribe("apiextensions.k8s.io", "customresourcedefinitions").expect("definitions are a resource");
    let gone = async {
        loop {
            changed.borrow_and_update();
            if names(&c.get(CRDS).await.json()) == ["backups.data.example.com"] {
                return;
            }
            changed.changed().await.expect("the registry lives");
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("those with the label go, and no other");
    let status = format!("{CRDS}/backups.data.example.com/status");
    let mine = json!([{"op": "add", "path": "/status/conditions/-", "value": {"type": "Mine", "status": "True", "reason": "Test", "message": "m"}}]);
    let r = c.send(Method::PATCH, &status, "application/json-patch+json", mine.to_string().into_bytes()).await;
    assert_eq!(r.status, 200, "{}", r.text());
    let conditions = c.get(&status).await.json()["status"]["conditions"].clone();
    let kinds: Vec<_> = conditions.as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["NamesAccepted", "Established", "Mine"]);
}

#[tokio::test]
async fn what_no_schema_knows_and_what_is_written_twice_is_told_of() {
    let w = World::start().await;
    let c = w.admin();
    established(&c, &w).await;
    let head = "apiVersion: data.example.com/v1\nkind: Backup\nmetadata:\n  name: a\n";
    let send = async |method: Method, path: &str, media: &str, rest: &str| {
        c.send(method, path, media, format!("{head}{rest}").into_bytes()).await.json()["message"].as_str().unwrap_or_default().to_owned()
    };
    let apply = format!("{BACKUPS}/a?fieldManager=m&fieldValidation=Strict");
    let create = format!("{BACKUPS}?fieldValidation=Strict");
    let twice = "spec:\n  schedule: daily\n  options:\n    a: 1\n    a: 2\n  schedule: daily\n";
    for (method, path, media) in [(Method::PATCH, &apply, "application/apply-patch+yaml"), (Method::POST, &create, "application/yaml")] {
        let told = send(method, path, media, twice).await;
        assert!(told.contains("line 9: key \"a\" already set in map") && told.contains("line 10: key \"schedule\" already set in map"), "{told}");
    }
    let unknown = "  odd: 1\nspec:\n  schedule: daily\n  zeal: 1\n  template:\n    apiVersion: v1\n    kind: X\n    metadata:\n      name: inner\n      strange: 1\n";
    let told = send(Method::PATCH, &apply, "application/apply-patch+yaml", unknown).await;
    for path in [".metadata.odd", ".spec.zeal", ".spec.template.metadata.strange"] {
        assert!(told.contains(&format!("{path}: field not declared in schema")), "{path}: {told}");
    }
    let told = send(Method::POST, &create, "application/yaml", unknown).await;
    for path in ["metadata.odd", "spec.zeal", "spec.template.metadata.strange"] {
        assert!(told.contains(&format!("unknown field \"{path}\"")), "{path}: {told}");
    }
    assert_eq!(c.get(&format!("{BACKUPS}/a")).await.status, 404, "nothing of it is stored");
}
