//! CBOR over sockets, where the feature gate turns it on (KEP-4222).

use crate::world::World;
use http::{Method, StatusCode};
use keles_api::cbor;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn on() -> World {
    World::with(|c| c.features = "CBORServingAndStorage=true".parse().unwrap()).await
}

#[tokio::test]
async fn objects_and_lists_go_both_ways_in_cbor() {
    let w = on().await;
    let c = w.admin().with_header("accept", "application/cbor, application/json;q=0.9");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "AAH/"}});
    let a = c.send(Method::POST, "/api/v1/namespaces/default/secrets", "application/cbor", cbor::encode(&secret)).await;
    assert_eq!((a.status, a.header("content-type").as_str()), (StatusCode::CREATED, "application/cbor"));
    assert!(a.body.starts_with(&[0xd9, 0xd9, 0xf7]), "the self-described tag");
    assert!(a.body.windows(5).any(|w| w == [0xd6, 0x43, 0, 1, 0xff]), "bytes under tag 22");
    assert_eq!(w.admin().get("/api/v1/namespaces/default/secrets/s").await.json()["data"]["k"], "AAH/");
    let list = cbor::decode(&c.get("/api/v1/namespaces/default/secrets").await.body).unwrap();
    assert_eq!((&list["kind"], &list["items"][0]["data"]["k"]), (&"SecretList".into(), &"AAH/".into()));
    let table = w.admin().with_header("accept", "application/cbor;as=Table;v=v1;g=meta.k8s.io").get("/api/v1/namespaces").await;
    assert_eq!(cbor::decode(&table.body).unwrap()["kind"], "Table");
    let missing = c.get(&format!("{MAPS}/absent")).await;
    assert_eq!((missing.status, cbor::decode(&missing.body).unwrap()["reason"].clone()), (StatusCode::NOT_FOUND, "NotFound".into()));
}

#[tokio::test]
async fn an_apply_in_cbor_is_an_apply() {
    let w = on().await;
    let body = cbor::encode(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}}));
    let a = w.admin().send(Method::PATCH, &format!("{MAPS}/m?fieldManager=me"), "application/apply-patch+cbor", body).await;
    assert_eq!(a.status, StatusCode::CREATED, "{}", a.text());
    let owners = &a.json()["metadata"]["managedFields"][0];
    assert_eq!((&owners["manager"], &owners["operation"]), (&"me".into(), &"Apply".into()));
}

#[tokio::test]
async fn a_watch_in_cbor_is_a_sequence() {
    let w = on().await;
    for accept in ["application/cbor", "application/cbor-seq"] {
        let a = w.admin().with_header("accept", accept).get("/api/v1/namespaces?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Ddefault").await;
        assert_eq!((a.status, a.header("content-type").as_str()), (StatusCode::OK, "application/cbor-seq"));
        let event: Value = cbor::decode(&a.body).unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&"ADDED".into(), &"default".into()));
    }
}

#[tokio::test]
async fn bad_cbor_is_refused_and_the_server_goes_on() {
    let w = on().await;
    let deep = [vec![0x81; 100_000], vec![1]].concat();
    for body in [deep, vec![0x9b; 9], vec![0xa2, 0x41, b'a', 1, 0x41, b'a', 2], Vec::from(b"\x5f\x41".as_slice())] {
        let a = w.admin().send(Method::POST, MAPS, "application/cbor", body).await;
        assert_eq!(a.status, StatusCode::BAD_REQUEST, "{}", a.text());
    }
    let a = w.admin().with_header("accept", "text/html").get("/api/v1/namespaces").await;
    assert_eq!((a.status, a.text().contains("application/vnd.kubernetes.protobuf, application/cbor")), (StatusCode::NOT_ACCEPTABLE, true));
    assert_eq!(w.admin().get("/readyz").await.status, StatusCode::OK);
}
