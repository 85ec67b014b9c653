//! Kinds that come and go while the registry serves.

use crate::kinds;
use crate::world::World;
use keles_registry::kind::Erased;
use std::sync::Arc;

const GROUP: &str = "late.example.com";

fn late() -> Arc<Erased<kinds::Late>> {
    Arc::new(Erased::new())
}

fn named(name: &str) -> String {
    format!(r#"{{"apiVersion":"{GROUP}/v1","kind":"Late","metadata":{{"name":"{name}"}}}}"#)
}

#[tokio::test]
async fn a_kind_is_found_once_it_is_added_with_all_that_is_stored_of_it() {
    let w = World::new().await;
    assert_eq!(w.req("lates").group(GROUP).list().await.unwrap_err().code, 404);
    w.registry.add(late()).await.unwrap();
    w.req("lates").group(GROUP).create(&named("a")).await.unwrap();
    w.registry.remove(GROUP, "lates").await;
    assert_eq!(w.req("lates").group(GROUP).named("a").get().await.unwrap_err().code, 404);
    w.registry.add(late()).await.unwrap();
    let list = w.req("lates").group(GROUP).list().await.unwrap();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "what was stored is there again: {list}");
    assert_eq!(w.req("lates").group(GROUP).named("a").get().await.unwrap().name(), "a");
}

#[tokio::test]
async fn every_change_of_the_kinds_is_told() {
    let w = World::new().await;
    let mut changed = w.registry.kinds_changed();
    let before = w.registry.kinds().len();
    w.registry.add(late()).await.unwrap();
    assert!(changed.has_changed().unwrap());
    assert_eq!((w.registry.kinds().len(), w.registry.custom_kinds().len()), (before + 1, 1));
    changed.borrow_and_update();
    w.registry.remove(GROUP, "lates").await;
    assert!(changed.has_changed().unwrap());
    assert_eq!(w.registry.kinds().len(), before);
}

#[tokio::test]
async fn a_watch_ends_with_its_kind_after_the_last_event() {
    let w = World::new().await;
    w.registry.add(late()).await.unwrap();
    let mut watch = w.req("lates").group(GROUP).watch().await;
    w.req("lates").group(GROUP).create(&named("a")).await.unwrap();
    w.req("lates").group(GROUP).named("a").delete("").await.unwrap();
    w.registry.remove(GROUP, "lates").await;
    let mut seen = Vec::new();
    while let Some(e) = watch.next().await {
        seen.push(e["type"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(seen, ["ADDED", "DELETED"]);
}

#[tokio::test]
async fn a_kind_that_gives_way_to_a_newer_edition_ends_its_watches() {
    let w = World::new().await;
    w.registry.add(late()).await.unwrap();
    let mut watch = w.req("lates").group(GROUP).watch().await;
    w.registry.add(late()).await.unwrap();
    assert!(watch.next().await.is_none());
    w.req("lates").group(GROUP).create(&named("a")).await.unwrap();
    assert_eq!(w.req("lates").group(GROUP).named("a").get().await.unwrap().name(), "a");
}

#[tokio::test]
async fn writes_of_others_while_a_kind_is_added_are_neither_lost_nor_doubled() {
    let w = World::new().await;
    w.registry.add(late()).await.unwrap();
    // Another server over the same store writes while this one makes the kind anew, again and again.
    let other = w.restarted().await;
    other.add(late()).await.unwrap();
    let writing = tokio::spawn(async move {
        for i in 0..200 {
            crate::world::Req::new(other.clone(), "lates").group(GROUP).create(&named(&format!("n{i:03}"))).await.unwrap();
        }
    });
    while !writing.is_finished() {
        w.registry.add(late()).await.unwrap();
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    let list = w.req("lates").group(GROUP).list().await.unwrap();
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, (0..200).map(|i| format!("n{i:03}")).collect::<Vec<_>>());
}
