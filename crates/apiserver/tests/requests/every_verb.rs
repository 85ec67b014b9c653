//! Every verb of every kind over real sockets, in every version it is served in.

use crate::world::{Client, Reply, World};
use http::{Method, StatusCode};
use keles_registry::kind::Scope;
use serde_json::{Value, json};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

struct Asked<'a> {
    admin: &'a Client,
    verbs: &'a [&'static str],
    wrong: &'a mut Vec<String>,
}

impl Asked<'_> {
    /// The answer when the kind has the verb; what is no success is written down.
    async fn ask(&mut self, verb: &str, method: Method, path: &str, media: &str, body: Value) -> Option<Reply> {
        if !self.verbs.contains(&verb) {
            return None;
        }
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let a = self.admin.send(method, path, media, body).await;
        if !a.status.is_success() {
            self.wrong.push(format!("{verb} {path}: {} {}", a.status, a.text()));
        }
        Some(a)
    }

    /// Writes back what it reads; once more when a controller of the server (a definition's conditions) came between.
    async fn get_and_update(&mut self, one: &str) {
        while let Some(a) = self.ask("get", Method::GET, one, JSON, Value::Null).await {
            let before = self.wrong.len();
            match self.ask("update", Method::PUT, one, JSON, a.json()).await {
                Some(put) if put.status == StatusCode::CONFLICT => self.wrong.truncate(before),
                _ => break,
            }
        }
    }
}

#[tokio::test]
async fn every_verb_of_every_kind_answers_over_http() {
    let w = World::start().await;
    let admin = w.admin();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    assert!(admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.status.is_success(), "pods need it");
    let (mut wrong, mut watches, mut kinds) = (Vec::new(), Vec::new(), 0);
    for k in keles_kinds::all() {
        let info = k.info();
        let mut example = k.example();
        if info.scope == Scope::Namespaced {
            example.set_meta("namespace", "default");
        }
        let collection = |group: &str, version: &str| {
            let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
            let within = if info.scope == Scope::Namespaced { "/namespaces/default" } else { "" };
            format!("{root}{within}/{}", info.plural)
        };
        let name = example.name().to_owned();
        let first = collection(info.served[0].group, info.served[0].version);
        let mut asked = Asked { admin: &admin, verbs: info.verbs, wrong: &mut wrong };
        asked.ask("create", Method::POST, &first, JSON, json!(example.0)).await;
        for s in info.served {
            let all = collection(s.group, s.version);
            let one = format!("{all}/{name}");
            if info.verbs.contains(&"watch") {
                let (admin, path) = (admin.clone(), format!("{all}?watch=1&timeoutSeconds=1"));
                watches.push(tokio::spawn(async move { (admin.get(&path).await.status, path) }));
            }
            asked.ask("list", Method::GET, &all, JSON, Value::Null).await;
            asked.get_and_update(&one).await;
            asked.ask("patch", Method::PATCH, &one, MERGE, json!({"metadata": {"labels": {"asked": s.version}}})).await;
            asked.ask("deletecollection", Method::DELETE, &format!("{all}?labelSelector=asked%3Dnobody"), JSON, Value::Null).await;
        }
        asked.ask("delete", Method::DELETE, &format!("{first}/{name}"), JSON, Value::Null).await;
        kinds += 1;
    }
    for watch in watches {
        let (status, path) = watch.await.expect("a watch ends");
        if !status.is_success() {
            wrong.push(format!("watch {path}: {status}"));
        }
    }
    assert!(kinds > 50, "{kinds} kinds were asked");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_status_brings_labels_only_where_upstream_lets_it() {
    let w = World::start().await;
    let admin = w.admin();
    for (plural, kept) in [("flowschemas", true), ("volumeattachments", true), ("podgroups", true), ("persistentvolumes", false), ("daemonsets", false)] {
        let k = keles_kinds::all().iter().find(|k| k.info().plural == plural).unwrap();
        let mut example = k.example();
        let within = if k.info().scope == Scope::Namespaced { "/namespaces/default" } else { "" };
        let root = if k.info().served[0].group.is_empty() { "/api" } else { "/apis" };
        let all = format!("{root}/{}{within}/{plural}", example.api_version());
        example.set_meta("labels", json!({"a": "1"}));
        let made = admin.post(&all, &example.0).await;
        assert!(made.status.is_success(), "{plural}: {}", made.text());
        let path = format!("{all}/{}/status", example.name());
        let put = admin.send(Method::PATCH, &path, MERGE, json!({"metadata": {"labels": {"b": "2"}}}).to_string().into_bytes()).await;
        assert_eq!(put.status, StatusCode::OK, "{plural}: {}", put.text());
        assert_eq!(put.json()["metadata"]["labels"]["b"].is_null(), kept, "{plural}: {}", put.text());
    }
}
