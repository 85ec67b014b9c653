//! Laws of create and update.

use crate::world::*;
use keles_api::Object;

use serde_json::{Value, json};

#[tokio::test]
async fn a_create_fills_in_what_the_server_decides() {
    let w = World::new().await;
    let o = w
        .req("deployments")
        .create(&deployment("d").replace("\"name\":\"d\"", "\"name\":\"d\",\"uid\":\"mine\",\"generation\":7,\"creationTimestamp\":\"2001-01-01T00:00:00Z\""))
        .await
        .unwrap();
    assert_ne!(o.uid(), "mine");
    assert_eq!((o.meta_str("creationTimestamp"), o.generation(), o.namespace()), (NOW, 1, "default"));
    assert_eq!(rv(&o), w.revision().await);
    assert_eq!(w.req("deployments").named("d").get().await.unwrap(), o, "what a create answers is what a get answers");
}

#[tokio::test]
async fn a_taken_name_is_409() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let e = w.req("configmaps").create(&config("a", "2")).await.unwrap_err();
    assert_eq!((e.code, e.reason.as_str(), e.message.as_str()), (409, "AlreadyExists", "configmaps \"a\" already exists"));
}

#[tokio::test]
async fn generate_name_makes_a_name() {
    let w = World::new().await;
    let o = w.req("configmaps").create(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"g-"}}"#).await.unwrap();
    assert!(o.name().starts_with("g-") && o.name().len() == 7, "{}", o.name());
    let e = w.req("configmaps").create(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#).await.unwrap_err();
    assert_eq!(e.message, "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required");
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let w = World::new().await;
    let before = w.revision().await;
    let o = w.req("configmaps").query("dryRun=All").create(&config("a", "1")).await.unwrap();
    assert!(o.meta("resourceVersion").is_null());
    w.req("configmaps").named("a").get().await.unwrap_err();
    let a = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let patched = w.req("configmaps").named("a").query("dryRun=All").merge(r#"{"data":{"t":"2"}}"#).await.unwrap();
    assert_eq!((patched.str_at(&["data", "t"]), rv(&patched)), ("2", rv(&a)));
    w.req("configmaps").named("a").query("dryRun=All").delete("").await.unwrap();
    assert_eq!(w.revision().await, before + 1, "only the real create");
    let e = w.req("configmaps").query("dryRun=x").create(&config("b", "1")).await.unwrap_err();
    assert_eq!(e.code, 422);
    assert!(e.message.starts_with("CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value"), "{}", e.message);
}

#[tokio::test]
async fn nothing_is_created_where_no_namespace_is() {
    let w = World::new().await;
    let e = w.req("configmaps").ns("absent").create(&config("a", "1")).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (404, "namespaces \"absent\" not found"));
    w.req("namespaces").named("other").delete("").await.unwrap();
    let e = w.req("configmaps").ns("other").create(&config("a", "1")).await.unwrap_err();
    assert_eq!(e.message, "configmaps \"a\" is forbidden: unable to create new content in namespace other because it is being terminated");
    assert_eq!(e.details.unwrap().causes[0].reason, "NamespaceTerminating");
    let e = w.req("configmaps").create(&config("a", "1").replace("\"name\"", "\"namespace\":\"other\",\"name\"")).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (400, "the namespace of the provided object does not match the namespace sent on the request"));
}

#[tokio::test]
async fn an_update_needs_the_name_of_its_url() {
    let w = World::new().await;
    let a = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let e = w.req("configmaps").named("b").put(&a).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (400, "the name of the object (a) does not match the name on the URL (b)"));
}

#[tokio::test]
async fn a_stale_update_conflicts_and_one_without_revision_wins() {
    let w = World::new().await;
    let old = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    w.req("configmaps").named("a").merge(r#"{"data":{"t":"2"}}"#).await.unwrap();
    let e = w.req("configmaps").named("a").put(&old).await.unwrap_err();
    assert_eq!(
        (e.code, e.message.as_str()),
        (409, "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again")
    );
    let mut free = old.clone();
    free.set_meta("resourceVersion", Value::Null);
    assert_eq!(w.req("configmaps").named("a").put(&free).await.unwrap().str_at(&["data", "t"]), "1");
    free.set_meta("uid", "nope");
    let e = w.req("configmaps").named("a").put(&free).await.unwrap_err();
    assert!(e.code == 409 && e.message.contains("Precondition failed: UID in precondition: nope, UID in object meta: "), "{}", e.message);
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_the_revision() {
    let w = World::new().await;
    let a = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let before = w.revision().await;
    assert_eq!(w.req("configmaps").named("a").put(&a).await.unwrap(), a);
    assert_eq!(w.req("configmaps").named("a").merge(r#"{"data":{"t":"1"}}"#).await.unwrap(), a);
    assert_eq!(w.revision().await, before);
}

#[tokio::test]
async fn the_generation_counts_changes_of_what_is_wanted() {
    let w = World::new().await;
    w.req("deployments").create(&deployment("d")).await.unwrap();
    let d = |q: &'static str| w.req("deployments").named("d").merge(q);
    assert_eq!(d(r#"{"metadata":{"labels":{"a":"b"}}}"#).await.unwrap().generation(), 1, "metadata does not count");
    assert_eq!(d(r#"{"spec":{"replicas":5}}"#).await.unwrap().generation(), 2);
    assert_eq!(d(r#"{"metadata":{"generation":9}}"#).await.unwrap().generation(), 2, "a client cannot set it");
    let s = w.req("deployments").named("d").sub("status").merge(r#"{"status":{"replicas":5}}"#).await.unwrap();
    assert_eq!(s.generation(), 2, "status does not count");
}

#[tokio::test]
async fn status_and_the_rest_are_written_apart() {
    let w = World::new().await;
    w.req("deployments").create(&deployment("d")).await.unwrap();
    let both = r#"{"metadata":{"labels":{"l":"1"}},"spec":{"replicas":5},"status":{"replicas":3}}"#;
    let main = w.req("deployments").named("d").merge(both).await.unwrap();
    assert_eq!((main.at(&["spec", "replicas"]), main.at(&["status", "replicas"])), (&json!(5), &Value::Null), "the main resource leaves status alone");
    let s = w.req("deployments").named("d").sub("status").merge(&both.replace('5', "7").replace("\"1\"", "\"2\"")).await.unwrap();
    assert_eq!((s.at(&["spec", "replicas"]), s.at(&["status", "replicas"])), (&json!(5), &json!(3)), "status leaves the rest alone");
    assert_eq!((s.label("l"), s.kind(), s.api_version()), (Some("2"), "Deployment", "apps/v1"), "labels follow, and the answer names its type");
    assert_eq!(w.req("deployments").named("d").sub("status").get().await.unwrap(), s);
}

#[tokio::test]
async fn identity_cannot_be_changed() {
    let w = World::new().await;
    let mut a = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let time = a.meta_str("creationTimestamp").to_owned();
    a.set_meta("creationTimestamp", Value::Null);
    a.set_meta("uid", Value::Null);
    a.0["data"]["t"] = "2".into();
    let b = w.req("configmaps").named("a").put(&a).await.unwrap();
    assert_eq!((b.meta_str("creationTimestamp"), b.uid().is_empty()), (&*time, false), "left out means unchanged");
}

#[tokio::test]
async fn an_immutable_object_is_refused_with_422_but_its_metadata_may_change() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1").replace("\"data\"", "\"immutable\":true,\"data\"")).await.unwrap();
    let e = w.req("configmaps").named("a").merge(r#"{"data":{"t":"2"}}"#).await.unwrap_err();
    assert_eq!((e.code, e.reason.as_str()), (422, "Invalid"));
    assert_eq!(w.req("configmaps").named("a").get().await.unwrap().str_at(&["data", "t"]), "1", "validated before it is stored");
    w.req("configmaps").named("a").merge(r#"{"metadata":{"labels":{"x":"y"}}}"#).await.unwrap();
}

#[tokio::test]
async fn a_put_creates_where_the_kind_allows_it() {
    let w = World::new().await;
    let lease = Object(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l", "namespace": "default"}, "spec": {"holderIdentity": "me"}}));
    let l = w.req("leases").named("l").put(&lease).await.unwrap();
    assert!(!l.uid().is_empty());
    let e = w.req("leases").named("l").put(&lease).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (422, "Lease.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"));
    let c = Object(serde_json::from_str(&config("a", "1")).unwrap());
    assert_eq!(w.req("configmaps").named("a").put(&c).await.unwrap_err().code, 404);
}

#[tokio::test]
async fn concurrent_patches_all_take_effect() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|i| {
            let r = w.req("configmaps").named("a");
            tokio::spawn(async move { r.merge(&format!(r#"{{"data":{{"k{i}":"v"}}}}"#)).await.unwrap() })
        })
        .collect();
    for t in tasks {
        t.await.unwrap();
    }
    assert_eq!(w.req("configmaps").named("a").get().await.unwrap().at(&["data"]).as_object().unwrap().len(), 21);
}

#[tokio::test]
async fn a_binding_assigns_a_node_once() {
    let w = World::new().await;
    w.req("pods").create(&pod("p")).await.unwrap();
    let b = r#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"kind":"Node","name":"n1"}}"#;
    let done = w.req("pods").named("p").sub("binding").create(b).await.unwrap();
    assert_eq!((done.kind(), done.str_at(&["status"])), ("Status", "Success"));
    let p = w.req("pods").named("p").get().await.unwrap();
    assert_eq!(p.str_at(&["spec", "nodeName"]), "n1");
    assert_eq!((&p.at(&["status", "conditions"])[0]["type"], &p.at(&["status", "conditions"])[0]["status"]), (&json!("PodScheduled"), &json!("True")));
    let e = w.req("pods").named("p").sub("binding").create(&b.replace("n1", "n2")).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (409, "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""));
}

#[tokio::test]
async fn scale_reads_and_writes_replicas() {
    let w = World::new().await;
    w.req("deployments").create(&deployment("d")).await.unwrap();
    let s = w.req("deployments").named("d").sub("scale").get().await.unwrap();
    assert_eq!((s.kind(), s.at(&["spec", "replicas"]), s.str_at(&["status", "selector"])), ("Scale", &json!(2), "app=x"));
    let s = w.req("deployments").named("d").sub("scale").merge(r#"{"spec":{"replicas":4}}"#).await.unwrap();
    assert_eq!(s.at(&["spec", "replicas"]), &json!(4));
    let d = w.req("deployments").named("d").get().await.unwrap();
    assert_eq!((d.at(&["spec", "replicas"]), d.generation(), d.resource_version()), (&json!(4), 2, s.resource_version()));
}
