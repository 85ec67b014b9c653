//! Laws of groups, versions and field validation.

use crate::world::*;
use keles_registry::PatchType;

const CORE: &str = r#"{"apiVersion":"v1","kind":"Event","metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"p"},"message":"one"}"#;

#[tokio::test]
async fn an_object_is_read_in_the_version_that_is_asked_for() {
    let w = World::new().await;
    let core = w.req("events").create(CORE).await.unwrap();
    let other = w.req("events").group("events.k8s.io").named("e").get().await.unwrap();
    assert_eq!((other.api_version(), other.str_at(&["note"]), other.str_at(&["message"])), ("events.k8s.io/v1", "one", ""));
    assert_eq!((other.uid(), other.resource_version()), (core.uid(), core.resource_version()));
    let list = w.req("events").group("events.k8s.io").list().await.unwrap();
    assert_eq!((list["apiVersion"].as_str(), list["items"][0]["note"].as_str()), (Some("events.k8s.io/v1"), Some("one")));
    let mut s = w.req("events").group("events.k8s.io").query("watch=1").watch().await;
    let e = s.next().await.unwrap();
    assert_eq!((e["object"]["apiVersion"].as_str(), e["object"]["note"].as_str()), (Some("events.k8s.io/v1"), Some("one")));
}

#[tokio::test]
async fn a_patch_meets_the_version_of_the_request() {
    let w = World::new().await;
    w.req("events").create(CORE).await.unwrap();
    let o = w.req("events").group("events.k8s.io").named("e").patch(PatchType::Json, r#"[{"op":"replace","path":"/note","value":"two"}]"#).await.unwrap();
    assert_eq!(o.str_at(&["note"]), "two");
    assert_eq!(w.req("events").named("e").get().await.unwrap().str_at(&["message"]), "two");
}

#[tokio::test]
async fn resources_of_one_plural_in_two_groups_do_not_mix() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let foreign = config("b", "2").replace("\"v1\"", "\"x.example/v1\"");
    w.req("configmaps").group("x.example").create(&foreign).await.unwrap();
    assert_eq!(names(&w.req("configmaps").list().await.unwrap()), ["a"]);
    assert_eq!(names(&w.req("configmaps").group("x.example").list().await.unwrap()), ["b"]);
    let e = w.req("configmaps").create(&foreign).await.unwrap_err();
    assert_eq!(e.message, "the API version in the data (x.example/v1) does not match the expected API version (v1)");
}

#[tokio::test]
async fn every_resource_can_be_watched_in_one_namespace_and_in_all() {
    let w = World::new().await;
    for plural in ["configmaps", "pods", "deployments", "leases", "events"] {
        for ns in ["default", ""] {
            let mut s = w.req(plural).ns(ns).query("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan").watch().await;
            assert_eq!(s.short().await, "BOOKMARK  end-of-initial", "{plural} in {ns:?}");
        }
    }
}

#[tokio::test]
async fn unknown_and_duplicate_fields_are_refused_told_or_ignored() {
    let w = World::new().await;
    let body = config("a", "1").replace("\"data\"", "\"bogus\":1,\"other\":2,\"kind\":\"ConfigMap\",\"data\"");
    let e = w.req("configmaps").query("fieldValidation=Strict").create(&body).await.unwrap_err();
    assert_eq!(e.code, 400);
    for part in ["strict decoding error: ", "unknown field \"bogus\"", "unknown field \"other\"", "duplicate field \"kind\""] {
        assert!(e.message.contains(part), "{part} in {}", e.message);
    }
    let told = w.req("configmaps").query("dryRun=All").create_answer(&body).await.unwrap();
    assert_eq!(told.warnings.len(), 3, "{:?}", told.warnings);
    let quiet = w.req("configmaps").query("fieldValidation=Ignore").create_answer(&body).await.unwrap();
    assert!(quiet.warnings.is_empty());
    assert!(w.req("configmaps").named("a").get().await.unwrap().at(&["bogus"]).is_null(), "what is unknown is not kept");
}

#[tokio::test]
async fn warnings_reach_the_client_with_a_refusal_too() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let a = w.req("configmaps").create_answer(&config("a", "1").replace("\"data\"", "\"bogus\":1,\"data\"")).await.unwrap();
    assert_eq!((a.code, a.warnings), (409, vec!["unknown field \"bogus\"".to_owned()]));
}
