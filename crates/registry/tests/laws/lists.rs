//! Laws of get and list.

use crate::world::*;
use keles_registry::{Form, MetaVersion};
use keles_store::Store;
use serde_json::Value;

#[tokio::test]
async fn the_revision_of_a_list_is_the_stores_even_when_it_is_empty() {
    let w = World::new().await;
    let list = w.req("configmaps").list().await.unwrap();
    assert_eq!(list["metadata"]["resourceVersion"], w.revision().await.to_string());
    assert_eq!((list["kind"].as_str(), list["apiVersion"].as_str(), &list["items"]), (Some("ConfigMapList"), Some("v1"), &serde_json::json!([])));
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    w.req("configmaps").ns("other").create(&config("b", "1")).await.unwrap();
    let list = w.req("configmaps").list().await.unwrap();
    assert_eq!(list["metadata"]["resourceVersion"], w.revision().await.to_string(), "not the greatest of the items");
}

#[tokio::test]
async fn a_list_never_misses_the_callers_own_write() {
    let w = World::new().await;
    for i in 0..200 {
        w.req("configmaps").create(&config(&format!("c{i:03}"), "1")).await.unwrap();
        assert_eq!(names(&w.req("configmaps").list().await.unwrap()).len(), i + 1);
    }
}

#[tokio::test]
async fn items_are_sorted_and_carry_no_type() {
    let w = World::new().await;
    for n in ["b", "a", "c"] {
        w.req("configmaps").create(&config(n, "1")).await.unwrap();
    }
    w.req("configmaps").ns("other").create(&config("0", "1")).await.unwrap();
    let list = w.req("configmaps").ns("").list().await.unwrap();
    assert_eq!(names(&list), ["a", "b", "c", "0"], "by namespace, then name");
    assert!(list["items"][0].get("kind").is_none() && list["items"][0].get("apiVersion").is_none());
    assert!(list["items"][0]["metadata"]["resourceVersion"].is_string(), "the revision is put into every item");
}

#[tokio::test]
async fn pages_keep_the_revision_of_the_first() {
    let w = World::new().await;
    for n in ["a", "b", "c", "d", "e"] {
        w.req("configmaps").create(&config(n, "1")).await.unwrap();
    }
    let one = w.req("configmaps").query("limit=2").list().await.unwrap();
    assert_eq!((names(&one), &one["metadata"]["remainingItemCount"]), (vec!["a".to_owned(), "b".to_owned()], &Value::from(3)));
    w.req("configmaps").named("d").delete("").await.unwrap();
    w.req("configmaps").create(&config("bb", "1")).await.unwrap();
    let token = one["metadata"]["continue"].as_str().unwrap();
    let two = w.req("configmaps").query(&format!("limit=2&continue={token}")).list().await.unwrap();
    assert_eq!(names(&two), ["c", "d"], "what changed since the first page is not seen");
    assert_eq!(two["metadata"]["resourceVersion"], one["metadata"]["resourceVersion"]);
    let token = two["metadata"]["continue"].as_str().unwrap();
    let three = w.req("configmaps").query(&format!("limit=2&continue={token}")).list().await.unwrap();
    assert_eq!(names(&three), ["e"]);
    assert!(three["metadata"].get("remainingItemCount").is_none() && three["metadata"].get("continue").is_none(), "the last page says neither");
}

#[tokio::test]
async fn an_expired_continue_token_is_410_with_one_that_works() {
    let w = World::new().await;
    for n in ["a", "b", "c"] {
        w.req("configmaps").create(&config(n, "1")).await.unwrap();
    }
    let one = w.req("configmaps").query("limit=1").list().await.unwrap();
    let token = one["metadata"]["continue"].as_str().unwrap();
    w.req("configmaps").named("c").delete("").await.unwrap();
    let head = w.revision().await;
    w.store.compact(head).await.unwrap();
    let later = w.restarted().await;
    let e = Req::new(later.clone(), "configmaps").query(&format!("limit=1&continue={token}")).list().await.unwrap_err();
    assert_eq!((e.code, e.reason.as_str()), (410, "Expired"));
    let rest = Req::new(later, "configmaps").query(&format!("continue={}", e.metadata.continue_)).list().await.unwrap();
    assert_eq!(names(&rest), ["b"], "the inconsistent rest, at the present revision");
}

#[tokio::test]
async fn a_list_at_an_exact_revision_sees_the_past() {
    let w = World::new().await;
    let a = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    w.req("configmaps").create(&config("b", "1")).await.unwrap();
    let at = |r: u64| w.req("configmaps").query(&format!("resourceVersion={r}&resourceVersionMatch=Exact"));
    let list = at(rv(&a)).list().await.unwrap();
    assert_eq!((names(&list), list["metadata"]["resourceVersion"].as_str()), (vec!["a".to_owned()], Some(&*a.resource_version())));
    let first = at(1).list().await.unwrap();
    assert_eq!((names(&first).len(), first["metadata"]["resourceVersion"].as_str()), (0, Some("1")), "revision 1 is served from the store's history");
    let e = at(w.revision().await + 1000).list().await.unwrap_err();
    assert_eq!(e.code, 504);
    assert!(e.message.starts_with("Timeout: Too large resource version: "), "{}", e.message);
    w.store.compact(w.revision().await).await.unwrap();
    let later = w.restarted().await;
    let e = Req::new(later, "configmaps").query(&format!("resourceVersion={}&resourceVersionMatch=Exact", a.resource_version())).list().await.unwrap_err();
    assert_eq!((e.code, e.reason.as_str()), (410, "Expired"), "on a list 410 is the HTTP answer, with reason Expired");
}

#[tokio::test]
async fn label_and_field_selectors_choose() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    w.req("configmaps").create(&config("b", "2")).await.unwrap();
    assert_eq!(names(&w.req("configmaps").query("labelSelector=t=2").list().await.unwrap()), ["b"]);
    assert_eq!(names(&w.req("configmaps").query("fieldSelector=metadata.name=a").list().await.unwrap()), ["a"]);
    assert_eq!(names(&w.req("configmaps").query("fieldSelector=metadata.namespace!=default").list().await.unwrap()).len(), 0);
    let e = w.req("configmaps").query("fieldSelector=foo.bar=x").list().await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (400, "\"foo.bar\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""));
    let e = w.req("pods").query("fieldSelector=foo.bar=x").list().await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (400, "field label not supported: foo.bar"));
}

#[tokio::test]
async fn a_missing_field_compares_as_empty_or_false() {
    let w = World::new().await;
    w.req("pods").create(&pod("p")).await.unwrap();
    assert_eq!(names(&w.req("pods").query("fieldSelector=spec.nodeName=").list().await.unwrap()), ["p"]);
    assert_eq!(names(&w.req("pods").query("fieldSelector=spec.hostNetwork=false").list().await.unwrap()), ["p"]);
}

#[tokio::test]
async fn tables_and_partial_metadata_are_cut_from_the_same_object() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let t = w.req("configmaps").named("a").form(Form::Table(MetaVersion::V1)).get().await.unwrap();
    assert_eq!((t.kind(), t.api_version()), ("Table", "meta.k8s.io/v1"));
    assert_eq!(t.at(&["columnDefinitions"])[0]["name"], "Name");
    assert_eq!(t.at(&["rows"])[0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(t.at(&["rows"])[0]["object"]["metadata"]["name"], "a");
    let p = w.req("configmaps").form(Form::Partial(MetaVersion::V1)).list().await.unwrap();
    assert_eq!((p["kind"].as_str(), p["items"][0]["metadata"]["name"].as_str()), (Some("PartialObjectMetadataList"), Some("a")));
    assert!(p["items"][0].get("data").is_none());
    let none = w.req("configmaps").query("labelSelector=x").form(Form::Partial(MetaVersion::V1)).list().await.unwrap();
    assert_eq!(none["items"], Value::Null);
    let none = w.req("configmaps").query("includeObject=None").form(Form::Table(MetaVersion::V1)).list().await.unwrap();
    assert!(none["rows"][0].get("object").is_none());
}

#[tokio::test]
async fn a_long_list_comes_in_pieces_that_join_to_one_document() {
    let w = World::new().await;
    let text = "x".repeat(60);
    let filler = "y".repeat(3000);
    for i in 0..80 {
        w.req("configmaps").create(&config(&format!("c{i:02}"), &text).replace("\"data\":{", &format!("\"data\":{{\"f\":\"{filler}\","))).await.unwrap();
    }
    let keles_registry::Body::Chunks(pieces) = w.req("configmaps").serve(keles_registry::Verb::List).await.unwrap().body else { panic!("a list comes in pieces") };
    let pieces: Vec<_> = pieces.collect();
    assert!(pieces.len() > 2, "{} pieces", pieces.len());
    let all: Value = serde_json::from_slice(&pieces.concat()).unwrap();
    assert_eq!(names(&all).len(), 80);
}

#[tokio::test]
async fn what_is_stored_is_served_after_a_restart() {
    let w = World::new().await;
    let a = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let later = w.restarted().await;
    let b = Req::new(later, "configmaps").named("a").get().await.unwrap();
    assert_eq!(a, b, "the same object with the same revision");
}
