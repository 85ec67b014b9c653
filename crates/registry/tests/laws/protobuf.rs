//! Lists and watches in protobuf say what JSON says, and their bytes are made once.

use crate::world::{Req, World, config};
use bytes::Bytes;
use futures::StreamExt;
use keles_api::protobuf;
use keles_registry::{Body, Form, MetaVersion, Verb, Wire};
use serde_json::Value;

fn in_protobuf(mut r: Req) -> Req {
    r.call.wire = Wire::Protobuf;
    r
}

async fn list(r: Req) -> Value {
    let Body::Protobuf(pieces) = in_protobuf(r).serve(Verb::List).await.unwrap().body else { panic!("a list in protobuf") };
    protobuf::decode(&pieces.flat_map(|p| p.to_vec()).collect::<Vec<u8>>()).unwrap()
}

/// The events of a piece: type, and the object in JSON.
fn events(mut piece: &[u8]) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    while let Some((len, rest)) = piece.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*len) as usize);
        piece = rest;
        // WatchEvent{1 type, 2 RawExtension{1 object}}: found by the mark that every object begins with.
        let name = String::from_utf8(frame[2..2 + frame[1] as usize].to_vec()).unwrap();
        let at = frame.windows(4).position(|w| w == b"k8s\0").unwrap();
        all.push((name, protobuf::decode(&frame[at..]).unwrap()));
    }
    all
}

async fn watch(r: Req) -> futures::stream::BoxStream<'static, Bytes> {
    let Body::Watch(s) = in_protobuf(r).serve(Verb::Watch).await.unwrap().body else { panic!("a stream") };
    s
}

#[tokio::test]
async fn a_list_in_protobuf_holds_what_the_list_in_json_holds() {
    let w = World::new().await;
    for i in 0..300 {
        w.req("configmaps").create(&config(&format!("c{i:03}"), &"x".repeat(i % 60))).await.unwrap();
    }
    for query in ["", "limit=7", "labelSelector=t=none"] {
        let mut want = w.req("configmaps").query(query).list().await.unwrap();
        let mut got = list(w.req("configmaps").query(query)).await;
        // Items of a list in JSON carry no type, nor does their message; an empty list is absent there.
        if want["items"].as_array().is_some_and(Vec::is_empty) {
            want.as_object_mut().unwrap().remove("items");
        }
        // The token of a page names the moment it was made.
        assert_eq!(want["metadata"]["continue"].is_string(), got["metadata"]["continue"].is_string(), "{query}");
        for v in [&mut want, &mut got] {
            v["metadata"].as_object_mut().unwrap().remove("continue");
        }
        assert_eq!(got, want, "{query}");
    }
}

#[tokio::test]
async fn metadata_alone_goes_out_in_protobuf_too() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let got = list(w.req("configmaps").form(Form::Partial(MetaVersion::V1))).await;
    assert_eq!((got["kind"].as_str(), got["apiVersion"].as_str()), (Some("PartialObjectMetadataList"), Some("meta.k8s.io/v1")));
    assert_eq!((&got["items"][0]["metadata"]["name"], got["items"][0].get("data")), (&Value::from("a"), None));
}

#[tokio::test]
async fn many_watchers_share_one_frame_and_it_says_what_the_line_says() {
    let w = World::new().await;
    let query = format!("watch=1&resourceVersion={}", w.revision().await);
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(watch(w.req("configmaps").query(&query)).await);
    }
    for s in &mut streams {
        assert!(s.next().await.unwrap().is_empty(), "the answer begins before there is an event");
    }
    // The first event of a watcher is its own; from then on all are shared.
    w.req("configmaps").create(&config("first", "1")).await.unwrap();
    for s in &mut streams {
        s.next().await.unwrap();
    }
    let made = w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let mut places = std::collections::HashSet::new();
    for s in &mut streams {
        let piece = s.next().await.unwrap();
        places.insert(piece.as_ptr() as usize);
        assert_eq!(events(&piece), [("ADDED".to_owned(), made.0.clone())]);
    }
    assert_eq!(places.len(), 1, "one buffer for all");
}

#[tokio::test]
async fn bookmarks_deletes_and_errors_are_frames_as_well() {
    let w = World::new().await;
    w.req("configmaps").create(&config("a", "1")).await.unwrap();
    let mut s = watch(w.req("configmaps").query("watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&labelSelector=t=1")).await;
    let first = events(&s.next().await.unwrap());
    assert_eq!(first.iter().map(|(t, _)| t.as_str()).collect::<Vec<_>>(), ["ADDED", "BOOKMARK"]);
    assert_eq!(first[1].1["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    // Leaving the selector.
    w.req("configmaps").named("a").merge(r#"{"metadata":{"labels":{"t":"2"}}}"#).await.unwrap();
    let left = events(&s.next().await.unwrap());
    assert_eq!((left[0].0.as_str(), &left[0].1["metadata"]["labels"]["t"]), ("DELETED", &Value::from("1")));
    let mut s = watch(in_protobuf(Req::new(w.restarted().await, "configmaps").query("watch=1&resourceVersion=1"))).await;
    let error = events(&s.next().await.unwrap());
    assert_eq!((error[0].0.as_str(), &error[0].1["kind"], &error[0].1["code"]), ("ERROR", &Value::from("Status"), &Value::from(410)));
}
