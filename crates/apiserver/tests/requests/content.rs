//! What goes over the wire in which form: protobuf, OpenAPI v2, refusals, by content type and by Accept.

use crate::world::World;
use http::{Method, StatusCode};
use keles_api::protobuf;
use serde_json::{Value, json};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

#[tokio::test]
async fn a_client_that_speaks_protobuf_gets_what_one_that_speaks_json_gets() {
    let w = World::start().await;
    let (json, proto) = (w.admin(), w.admin().with_header("accept", "application/vnd.kubernetes.protobuf,application/json"));
    let made = proto.send(Method::POST, MAPS, PROTOBUF, protobuf::encode(map("a").to_string().as_bytes()).unwrap()).await;
    assert_eq!((made.status, made.header("content-type").as_str()), (StatusCode::CREATED, PROTOBUF));
    for path in [
        "/api/v1/namespaces/default/configmaps/a",
        MAPS,
        "/api/v1/namespaces",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "/apis/apps/v1/deployments",
        "/apis",
        "/apis/apps/v1",
        "/api/v1/namespaces/default/configmaps/absent",
        "/api/v1/namespaces/default/services/kubernetes/status",
    ] {
        let (a, b) = (json.get(path).await, proto.get(path).await);
        assert_eq!((a.status, b.header("content-type").as_str()), (b.status, PROTOBUF), "{path}");
        let mut want = a.json();
        let mut got = protobuf::decode(&b.body).unwrap();
        for v in [&mut want, &mut got] {
            // Two lists are of two moments.
            if v["kind"].as_str().is_some_and(|k| k.ends_with("List")) && v["metadata"].is_object() {
                v["metadata"]["resourceVersion"] = Value::Null;
            }
            // An empty list is absent in protobuf; plain discovery has no type there.
            v.as_object_mut().unwrap().retain(|k, v| !(k == "items" && v.as_array().is_some_and(Vec::is_empty)));
            if path.starts_with("/apis") && path.len() < 14 {
                v.as_object_mut().unwrap().retain(|k, _| k != "apiVersion" && k != "kind");
            }
        }
        assert_eq!(strip_null(got), strip_null(want), "{path}");
    }
}

/// What a dry run would make is in the answer, whichever form and version that is in, though the cache holds the old.
#[tokio::test]
async fn a_dry_run_answers_with_what_it_would_make() {
    let w = World::start().await;
    let (json, proto) = (w.admin(), w.admin().with_header("accept", PROTOBUF));
    json.post(MAPS, &map("a")).await;
    let (at, merge) = (format!("{MAPS}/a?dryRun=All"), "application/merge-patch+json");
    let a = proto.send(Method::PATCH, &at, merge, br#"{"data":{"a":"c"}}"#.to_vec()).await;
    assert_eq!(protobuf::decode(&a.body).unwrap()["data"]["a"], "c", "{}", a.text());
    let spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 2});
    let scalers = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let made = json.post(scalers, &json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": spec})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let b = json.send(Method::PATCH, &format!("{scalers}/h?dryRun=All"), merge, br#"{"spec":{"maxReplicas":9}}"#.to_vec()).await;
    assert_eq!(b.json()["spec"]["maxReplicas"], 9, "{}", b.text());
    assert_eq!(json.get(&format!("{scalers}/h")).await.json()["spec"]["maxReplicas"], 2);
}

/// Without what is null or empty, which protobuf does not tell from absent.
fn strip_null(v: Value) -> Value {
    match v {
        Value::Object(o) => Value::Object(o.into_iter().map(|(k, v)| (k, strip_null(v))).filter(|(_, v)| !v.is_null() && v != &json!([]) && v != "").collect()),
        Value::Array(a) => Value::Array(a.into_iter().map(strip_null).collect()),
        v => v,
    }
}

#[tokio::test]
async fn a_watch_in_protobuf_is_frames_under_its_own_type() {
    let w = World::start().await;
    let a = w.admin().with_header("accept", "application/vnd.kubernetes.protobuf;stream=watch").get("/api/v1/watch/namespaces/default?timeoutSeconds=1").await;
    assert_eq!(a.header("content-type"), "application/vnd.kubernetes.protobuf;stream=watch");
    let len = u32::from_be_bytes(a.body[..4].try_into().unwrap()) as usize;
    assert_eq!(&a.body[4..11], b"\x0a\x05ADDED");
    let at = a.body.windows(4).position(|w| w == b"k8s\0").unwrap();
    assert_eq!(protobuf::decode(&a.body[at..4 + len]).unwrap()["metadata"]["name"], "default");
}

#[tokio::test]
async fn tables_and_reviews_pick_what_they_have() {
    let w = World::start().await;
    // What kubectl sends: tables only in JSON, else protobuf.
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/vnd.kubernetes.protobuf";
    assert_eq!(w.admin().with_header("accept", accept).get("/api/v1/namespaces").await.json()["kind"], "Table");
    let a = w.admin().with_header("accept", PROTOBUF).post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await;
    assert_eq!(protobuf::decode(&a.body).unwrap()["status"]["userInfo"]["groups"][0], "system:masters");
}

#[tokio::test]
async fn refusals_name_what_would_be_accepted() {
    let w = World::start().await;
    let said = |accept: &'static str, path: &'static str| {
        let client = w.admin().with_header("accept", accept);
        async move {
            let a = client.get(path).await;
            (a.status.as_u16(), a.json()["message"].as_str().unwrap_or_default().to_owned())
        }
    };
    let all = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!(said("application/cbor", "/api/v1/namespaces").await, (406, all.to_owned()), "upstream has CBOR off by default");
    assert_eq!(said("text/html", "/apis").await, (406, all.to_owned()));
    let a = w.admin().with_header("accept", "application/yaml").get("/api/v1/namespaces?watch=1").await;
    assert_eq!(a.status, StatusCode::NOT_ACCEPTABLE);
    assert!(a.text().contains("application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"), "{}", a.text());
    for (media, path, method) in
        [("application/cbor", MAPS, Method::POST), ("application/xml", MAPS, Method::POST), ("application/apply-patch+cbor", "/api/v1/namespaces/default", Method::PATCH)]
    {
        let a = w.admin().send(method, path, media, b"x".to_vec()).await;
        assert_eq!((a.status.as_u16(), a.json()["reason"].as_str()), (415, Some("UnsupportedMediaType")), "{media}");
    }
    assert_eq!(w.admin().with_header("accept", PROTOBUF).get("/version").await.json()["major"], "1", "the version is JSON whatever is asked for");
}

#[tokio::test]
async fn openapi_v2_comes_as_json_and_in_gnostics_binary_with_a_tag() {
    let w = World::start().await;
    let a = w.admin().get("/openapi/v2").await;
    let doc = a.json();
    assert_eq!((doc["swagger"].as_str(), a.header("content-type").as_str()), (Some("2.0"), "application/json"));
    let deployment = &doc["definitions"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(deployment["x-kubernetes-group-version-kind"], json!([{"group": "apps", "kind": "Deployment", "version": "v1"}]));
    assert_eq!(deployment["properties"]["spec"]["$ref"], "#/definitions/io.k8s.api.apps.v1.DeploymentSpec");
    assert_eq!(doc["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]["parameters"][0]["in"], "body");
    let b = w.admin().with_header("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf").get("/openapi/v2").await;
    assert_eq!(b.header("content-type"), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "an @ is no character of a media type");
    assert!(b.body.starts_with(b"\x0a\x032.0\x12"), "Document{{swagger}}");
    let name = b"io.k8s.api.apps.v1.DeploymentSpec";
    assert!(b.body.windows(name.len()).any(|w| w == name));
    let tag = a.header("etag");
    assert_eq!(w.admin().with_header("if-none-match", &tag).get("/openapi/v2").await.status, StatusCode::NOT_MODIFIED);
    assert_eq!(w.admin().with_header("accept", "application/xml").get("/openapi/v2").await.status, StatusCode::NOT_ACCEPTABLE);
}

#[tokio::test]
async fn openapi_v3_has_groups_and_watch_paths_and_its_documents_do_not_change_under_a_hash() {
    let w = World::start().await;
    let index = w.admin().get("/openapi/v3").await.json();
    for path in ["api", "apis", "apis/apps", "version", "openid/v1/jwks", "apis/apps/v1", "api/v1"] {
        let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap_or_else(|| panic!("{path} is in the index")).to_owned();
        let a = w.admin().get(&url).await;
        assert_eq!((a.status, a.header("cache-control").as_str()), (StatusCode::OK, "public, immutable"), "{path}");
        assert_eq!(w.admin().with_header("if-none-match", &a.header("etag")).get(&url).await.status, StatusCode::NOT_MODIFIED, "{path}");
    }
    let core = w.admin().get("/openapi/v3/api/v1").await.json();
    assert_eq!(core["paths"]["/api/v1/watch/namespaces/{namespace}/pods/{name}"]["get"]["x-kubernetes-action"], "watch");
}

#[tokio::test]
async fn bad_bodies_are_refused_in_every_form() {
    let w = World::start().await;
    let deep = |open: &str, n: usize| open.repeat(n).into_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("application/json", deep("{\"a\":", 100_000)),
        ("application/json", deep("[", 100_000)),
        ("application/json", b"{\"kind\":\"ConfigMap\",\"data\":{\"a\":1e999999}}".to_vec()),
        ("application/yaml", deep("[", 50_000)),
        ("application/yaml", b"a: &a [*a]".to_vec()),
        ("application/yaml", b"data: {a: .inf}".to_vec()),
        (PROTOBUF, b"k8s\0\xff\xff\xff".to_vec()),
        (PROTOBUF, b"{}".to_vec()),
        (PROTOBUF, protobuf::envelope("v1", "ConfigMap", b"\x0a\x04\x0a\x02\xff\xfe")),
    ];
    for (media, body) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let a = w.admin().send(Method::POST, MAPS, media, body).await;
        assert_eq!((a.status.as_u16(), a.json()["reason"].as_str()), (400, Some("BadRequest")), "{media} {shown}: {}", a.text());
        assert!(a.body.len() < 2000, "{media} {shown}: the answer is {} bytes", a.body.len());
    }
    // A hundred thousand items in one list: refused or taken, in bounds; the server goes on.
    let mut many = map("many");
    many["metadata"]["finalizers"] = (0..100_000).map(|i| format!("example.com/{i}")).collect();
    let a = w.admin().send(Method::POST, MAPS, "application/json", many.to_string().into_bytes()).await;
    assert!(matches!(a.status.as_u16(), 201 | 400 | 413 | 422), "{}", a.status);
    assert_eq!(w.admin().get("/readyz").await.status, StatusCode::OK);
}
