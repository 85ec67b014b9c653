//! Laws of server-side apply and managedFields over every kind, over real sockets, in every version it is served in.

use crate::world::{Client, Reply, World};
use http::Method;
use keles_registry::kind::{AnyKind, STATUS, Scope, Served};
use serde_json::{Value, json};

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

fn path_of(k: &dyn AnyKind, s: &Served, name: &str) -> String {
    let root = if s.group.is_empty() { format!("/api/{}", s.version) } else { format!("/apis/{}/{}", s.group, s.version) };
    let within = if k.info().scope == Scope::Namespaced { "/namespaces/default" } else { "" };
    format!("{root}{within}/{}/{name}", k.info().plural)
}

async fn apply(admin: &Client, path: &str, manager: &str, body: &Value) -> Reply {
    admin.send(Method::PATCH, &format!("{path}?fieldManager={manager}"), APPLY, body.to_string().into_bytes()).await
}

/// `manager operation` of each entry of the main resource; controllers write status meanwhile.
fn owners(o: &Value) -> Vec<String> {
    let all = o["metadata"]["managedFields"].as_array().into_iter().flatten().filter(|e| e["subresource"].is_null());
    all.map(|e| format!("{} {}", e["manager"].as_str().unwrap_or(""), e["operation"].as_str().unwrap_or(""))).collect()
}

/// Kinds whose status the server itself writes, so that their revision moves by itself.
const FLUID: &[&str] = &["apiservices", "customresourcedefinitions", "flowschemas", "prioritylevelconfigurations"];

/// What only appliers change.
fn applied(o: &Value, plural: &str) -> Value {
    let mut o = o.clone();
    if FLUID.contains(&plural) {
        o.as_object_mut().expect("an object").remove("status");
        let meta = o["metadata"].as_object_mut().expect("an object");
        ["resourceVersion", "finalizers"].iter().for_each(|f| drop(meta.remove(*f)));
        if let Some(all) = meta.get_mut("managedFields").and_then(Value::as_array_mut) {
            all.retain(|e| e["subresource"].is_null());
        }
    }
    o
}

struct Law<'a> {
    admin: &'a Client,
    wrong: &'a mut Vec<String>,
    kind: &'a str,
}

impl Law<'_> {
    fn hold(&mut self, holds: bool, what: &str, seen: &Reply) {
        if !holds {
            self.wrong.push(format!("{}: {what}: {} {}", self.kind, seen.status, seen.text().chars().take(400).collect::<String>()));
        }
    }

    async fn check(&mut self, k: &dyn AnyKind, s: &Served, config: &Value) {
        let name = config["metadata"]["name"].as_str().expect("it was named");
        let path = path_of(k, s, name);
        let first = apply(self.admin, &path, "m1", config).await;
        self.hold(first.status == 201, "an apply creates", &first);
        if first.status != 201 {
            return;
        }
        self.hold(owners(&first.json()) == ["m1 Apply"], "the applier alone owns", &first);
        let again = apply(self.admin, &path, "m1", config).await;
        self.hold(
            again.status == 200 && applied(&again.json(), k.info().plural) == applied(&first.json(), k.info().plural),
            &format!("the same apply changes nothing of {}", first.text()),
            &again,
        );
        let label = |key: &str, value: &str| json!({"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {"name": name, "labels": {key: value}}});
        let mut other = label("two", "2");
        if k.info().scope == Scope::Namespaced {
            other["metadata"]["namespace"] = "default".into();
        }
        let beside = apply(self.admin, &path, "m2", &other).await;
        let both = owners(&beside.json());
        self.hold(beside.status == 200 && both == ["m1 Apply", "m2 Apply"], "appliers of different fields live together", &beside);
        let clash = apply(self.admin, &path, "m3", &label("two", "3")).await;
        let message = "Apply failed with 1 conflict: conflict with \"m2\": .metadata.labels.two";
        self.hold(clash.status == 409 && clash.json()["message"] == message, "another value for the same field conflicts by name", &clash);
        let edit = self.admin.send(Method::PATCH, &format!("{path}?fieldManager=edit"), MERGE, br#"{"metadata":{"annotations":{"e":"1"}}}"#.to_vec()).await;
        let all = owners(&edit.json());
        self.hold(all == ["m1 Apply", "m2 Apply", "edit Update"], "an update keeps the appliers", &edit);
    }
}

#[tokio::test]
async fn every_kind_can_be_applied_and_knows_its_owners() {
    let w = World::start().await;
    let admin = w.admin();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    assert!(admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.status.is_success(), "pods need it");
    let (mut wrong, mut kinds) = (Vec::new(), 0);
    for k in keles_kinds::all() {
        let info = k.info();
        if !["patch", "create", "delete"].iter().all(|v| info.verbs.contains(v)) {
            continue;
        }
        for s in info.served {
            let mut example = k.example();
            if *s != info.served[0] {
                let (from, to) = (example.api_version().to_owned(), if s.group.is_empty() { s.version.to_owned() } else { format!("{}/{}", s.group, s.version) });
                example.set_type(&to, info.kind);
                k.convert(&mut example, &from, &to);
                example = k.conform(s, example);
            }
            if info.kind == "Event" && !s.group.is_empty() {
                // The example has no eventTime, which this group requires.
                continue;
            }
            let name = example.name().to_owned();
            // Every applier owns something.
            let mut labels = example.meta("labels").clone();
            labels["one"] = "1".into();
            example.set_meta("labels", labels);
            if info.scope == Scope::Namespaced {
                example.set_meta("namespace", "default");
            }
            // What a client applies does not speak of the status.
            example.root_mut().remove(STATUS);
            Law { admin: &admin, wrong: &mut wrong, kind: &format!("{} {}", info.kind, s.version) }.check(*k, s, &example.0).await;
            let path = path_of(*k, s, &name);
            admin.send(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), "application/json", Vec::new()).await;
            admin.send(Method::PATCH, &path, MERGE, br#"{"metadata":{"finalizers":null}}"#.to_vec()).await;
            kinds += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(kinds > 50, "only {kinds} kinds were tried");
}

#[tokio::test]
async fn an_apply_that_creates_needs_the_right_to_create() {
    let w = World::start().await;
    let (admin, jane) = (w.admin(), w.admin().with_header("impersonate-user", "jane"));
    let role = |verbs: &[&str]| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "maps"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "maps"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "maps"}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    assert!(admin.post(&format!("{rbac}/clusterroles"), &role(&["get", "patch"])).await.status.is_success());
    assert!(admin.post(&format!("{rbac}/clusterrolebindings"), &binding).await.status.is_success());
    let path = "/api/v1/namespaces/default/configmaps/a";
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let refused = apply(&jane, path, "m", &config).await;
    let why = "configmaps \"a\" is forbidden: User \"jane\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    assert_eq!((refused.status.as_u16(), refused.json()["message"].as_str().unwrap_or_default()), (403, why));
    assert!(admin.put(&format!("{rbac}/clusterroles/maps"), &role(&["get", "patch", "create"])).await.status.is_success());
    assert_eq!(apply(&jane, path, "m", &config).await.status, 201);
}
