//! Hostile requests over real sockets: each is answered in the words of upstream or cut off, and the server stays well and small.
//!
//! What documents do to the codecs, the patches and the kinds is in `keles-patch`'s `hostile` and `keles-kinds`' `any_bytes`.

use crate::world::peer::Peer;
use crate::world::{Client, Reply, World};
use futures::StreamExt;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const BODY_BYTES_MAX: usize = 3 << 20;
/// What the test's process may hold when a test is over: server, client and the bodies between them.
const RESIDENT_KIB_MAX: u64 = 1 << 20;

/// The server answers, stores and reads, and has not kept what it was sent.
async fn is_well(w: &World) {
    let admin = w.admin();
    assert_eq!(admin.get("/readyz").await.status, StatusCode::OK);
    let made = admin.post(MAPS, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "well-"}})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells what a process holds");
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).expect("a line of what is resident");
    assert!(resident < RESIDENT_KIB_MAX, "{resident} KiB");
}

/// A refusal: a Status that says why, and not that something broke.
fn refused(r: &Reply, code: u16, what: &str) -> String {
    assert_eq!(r.status.as_u16(), code, "{what}: {}", &r.text()[..r.text().len().min(500)]);
    r.json()["message"].as_str().unwrap_or_else(|| panic!("{what}: no message")).to_owned()
}

async fn raw(c: &Client, alpn: &[u8]) -> TlsStream<tokio::net::TcpStream> {
    c.connect(alpn).await.into_inner()
}

/// Sends bytes over HTTP/1.1, as far as the server takes them; what it answers.
async fn say(c: &Client, head: &str, body: &[u8]) -> String {
    let (mut from, mut to) = tokio::io::split(raw(c, b"http/1.1").await);
    let all = [head.as_bytes(), body].concat();
    let send = async move {
        let _ = to.write_all(&all).await;
        to
    };
    let mut answer = [0; 4096];
    let (_open, n) = tokio::join!(send, from.read(&mut answer));
    String::from_utf8_lossy(&answer[..n.unwrap_or(0)]).into_owned()
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_announced_or_not() {
    let w = World::start().await;
    let admin = w.admin();
    for method in [Method::POST, Method::DELETE] {
        let r = admin.send(method.clone(), MAPS, JSON, vec![b' '; BODY_BYTES_MAX + 1]).await;
        assert_eq!(refused(&r, 413, method.as_str()), "Request entity too large: limit is 3145728");
    }
    let r = admin.send(Method::POST, MAPS, JSON, vec![b' '; BODY_BYTES_MAX]).await;
    assert_eq!(r.status, StatusCode::BAD_REQUEST, "at the limit it is read");
    let chunk = [b"10000\r\n".as_slice(), &vec![b' '; 0x1_0000], b"\r\n"].concat();
    let answer = say(&admin, &format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n"), &chunk.repeat(64)).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    is_well(&w).await;
}

#[tokio::test]
async fn compressed_bodies_are_not_unpacked() {
    use std::io::Write;
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..256 {
        bomb.write_all(&vec![b'0'; 1 << 20]).expect("memory");
    }
    let w = World::start().await;
    let r = w.admin().with_header("content-encoding", "gzip").send(Method::POST, MAPS, JSON, bomb.finish().expect("memory")).await;
    assert!(refused(&r, 400, "gzip").contains("invalid character '\\x1f' looking for beginning of value"));
    is_well(&w).await;
}

#[tokio::test]
async fn slow_bodies_and_headers_hold_nobody_up() {
    let w = World::start().await;
    let admin = w.admin();
    let mut open = Vec::new();
    for i in 0..60 {
        let mut io = raw(&admin, b"http/1.1").await;
        let part = if i % 2 == 0 { format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{{") } else { format!("GET {MAPS} HTTP/1.1\r\nhost: ") };
        io.write_all(part.as_bytes()).await.expect("the server listens");
        open.push(io);
    }
    is_well(&w).await;
    drop(open);
    is_well(&w).await;
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let w = World::start().await;
    let admin = w.admin();
    let many: String = (0..10_000).map(|i| format!("x-{i}: y\r\n")).collect();
    for (head, code) in [
        (format!("GET {MAPS} HTTP/1.1\r\nhost: x\r\n{many}\r\n"), "431"),
        (format!("GET {MAPS} HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(2 << 20)), "431"),
        (format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000)), "414"),
        (format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(2 << 20)), "431"),
        (format!("GET {MAPS}?labelSelector={} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000)), "414"),
        (format!("GET {MAPS}/\0 HTTP/1.1\r\nhost: x\r\n\r\n"), "400"),
        ("GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".into(), "400"),
        ("GET / HTTP/9.9\r\n\r\n".into(), "400"),
        ("\0\0\0\0\r\n\r\n".into(), "400"),
    ] {
        let answer = say(&admin, &head, b"").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{code} for {}: {answer}", &head[..head.len().min(80)].escape_debug());
    }
    is_well(&w).await;
}

/// Frames of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let n = payload.len() as u32;
    [&n.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `GET https://x/` by the static table and one literal (RFC 7541).
const GET: &[u8] = b"\x82\x87\x84\x41\x01x";

/// Floods a connection, as far as the server takes it, and reads what it says until it ends the connection or `frames` are all sent.
async fn flood(c: &Client, frames: impl Iterator<Item = Vec<u8>>) {
    let (mut from, mut to) = tokio::io::split(raw(c, b"h2").await);
    to.write_all(PREFACE).await.expect("the server listens");
    let read = async {
        let mut room = vec![0; 1 << 16];
        while from.read(&mut room).await.is_ok_and(|n| n > 0) {}
    };
    let write = async {
        for f in frames {
            if to.write_all(&f).await.is_err() {
                break;
            }
        }
    };
    tokio::pin!(read);
    // Who has been sent away need not be read to the end, and who has not has written all.
    tokio::select! {
        () = &mut read => {}
        () = write => {}
    }
}

#[tokio::test]
async fn floods_of_http2_frames_are_cut_off_or_served() {
    let w = World::start().await;
    let admin = w.admin();
    let streams = || (1..40_001u32).step_by(2);
    let rapid_reset = streams().flat_map(|s| [frame(HEADERS, END_STREAM | END_HEADERS, s, GET), frame(RST_STREAM, 0, s, &8u32.to_be_bytes())]);
    flood(&admin, rapid_reset).await;
    is_well(&w).await;
    let open_for_ever = streams().map(|s| frame(HEADERS, END_HEADERS, s, GET));
    flood(&admin, open_for_ever).await;
    is_well(&w).await;
    let continuation =
        std::iter::once(frame(HEADERS, END_STREAM, 1, GET)).chain((0..4000).map(|_| frame(CONTINUATION, 0, 1, &[b"\0\x01x\x7f\x81\x7e".as_slice(), &vec![b'y'; 16_000]].concat())));
    flood(&admin, continuation).await;
    is_well(&w).await;
    let empty_continuation = std::iter::once(frame(HEADERS, END_STREAM, 1, GET)).chain((0..100_000).map(|_| frame(CONTINUATION, 0, 1, b"")));
    flood(&admin, empty_continuation).await;
    is_well(&w).await;
    flood(&admin, (0..50_000).map(|_| frame(SETTINGS, 0, 0, b""))).await;
    flood(&admin, (0..50_000).map(|_| frame(PING, 0, 0, b"12345678"))).await;
    flood(&admin, (0..100).map(|i| frame(i, 0xff, u32::from(i) | 1, &[0xff; 100]))).await;
    // An index into HPACK's dynamic table that nobody filled, and a table of a size nobody allowed.
    flood(&admin, [frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\xff\xff\xff\x7f")].into_iter()).await;
    flood(&admin, [frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x3f\xff\xff\xff\x7f")].into_iter()).await;
    is_well(&w).await;
}

#[tokio::test]
async fn absurd_queries_are_refused_or_mean_the_default() {
    let w = World::start().await;
    let admin = w.admin();
    let label = |text: &str| format!("labelSelector={text}");
    let out_of_range = "strconv.ParseInt: parsing \"99999999999999999999\": value out of range";
    for (query, code, text) in [
        ("watch=1&timeoutSeconds=99999999999999999999".to_owned(), 400, out_of_range),
        ("watch=1&timeoutSeconds=soon".to_owned(), 400, "strconv.ParseInt: parsing \"soon\": invalid syntax"),
        ("limit=99999999999999999999".to_owned(), 400, out_of_range),
        ("watch=1&resourceVersion=99999999999999999999".to_owned(), 400, "strconv.ParseUint: parsing \"99999999999999999999\": value out of range"),
        ("watch=1&resourceVersion=-1".to_owned(), 400, "strconv.ParseUint: parsing \"-1\": invalid syntax"),
        ("resourceVersion=9223372036854775807".to_owned(), 504, "Too large resource version: 9223372036854775807"),
        ("resourceVersionMatch=Foo".to_owned(), 422, "resourceVersionMatch"),
        ("watch=1&sendInitialEvents=maybe".to_owned(), 422, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        ("continue=abc".to_owned(), 400, "continue key is not valid"),
        ("continue=%00%ff".to_owned(), 400, "continue key is not valid"),
        (format!("continue={}", "A".repeat(50_000)), 400, "continue key is not valid"),
        // {"v":"meta.k8s.io/v1","rv":-1,"start":"../../"}
        ("continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiLi4vLi4vIn0".to_owned(), 400, "continue key is not valid: ../../"),
        (label(&"a".repeat(60_000)), 400, "unable to parse requirement: <nil>: Invalid value: "),
        (label(&"a%3Db,".repeat(9000)), 400, "found '', expected: identifier after ','"),
        (label("%00"), 400, "unable to parse requirement"),
        (label("a%20in%20((((((((("), 400, "unable to parse requirement"),
        ("fieldSelector=spec.absent%3D1".to_owned(), 400, "\"spec.absent\" is not a known field selector"),
        ("limit=-5".to_owned(), 200, ""),
        ("watch=1&timeoutSeconds=1&allowWatchBookmarks=%00".to_owned(), 200, ""),
        (format!("fieldSelector={}", "metadata.name%3Da,".repeat(3000)), 200, ""),
        (format!("{}limit=1", "unknown=1&".repeat(6000)), 200, ""),
    ] {
        let r = admin.get(&format!("{MAPS}?{query}")).await;
        let shown = &query[..query.len().min(80)];
        if code == 200 {
            assert_eq!(r.status, StatusCode::OK, "{shown}: {}", r.text());
        } else {
            let message = refused(&r, code, shown);
            assert!(message.contains(text), "{shown}: {}", &message[..message.len().min(300)]);
        }
    }
    is_well(&w).await;
}

#[tokio::test]
async fn odd_names_lead_nowhere() {
    let w = World::start().await;
    let admin = w.admin();
    for (name, code, text) in [
        ("..", 400, "Name parameter invalid: \"..\": may not be '..'"),
        ("%2e%2e", 400, "Name parameter invalid: \"..\": may not be '..'"),
        (".", 400, "Name parameter invalid: \".\": may not be '.'"),
        ("a%25", 400, "Name parameter invalid: \"a%\": may not contain '%'"),
        ("%00", 404, "configmaps \"\\x00\" not found"),
        ("%F0%9F%98%80", 404, "configmaps \"😀\" not found"),
        ("a;b", 404, "configmaps \"a;b\" not found"),
        ("a/b/c/d/e", 404, "the server could not find the requested resource"),
    ] {
        for method in [Method::GET, Method::DELETE] {
            let message = refused(&admin.send(method, &format!("{MAPS}/{name}"), JSON, Vec::new()).await, code, name);
            assert!(message.replace('\0', "\\x00").starts_with(text), "{name}: {message}");
        }
    }
    for name in ["../secrets", "..", "a\0b", "😀", "a/b", &"a".repeat(100_000), "A", " ", "\u{202e}x"] {
        let r = admin.post(MAPS, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})).await;
        assert!(refused(&r, 422, name).contains("metadata.name: Invalid value: "));
        let r = admin.post(&format!("{MAPS}?dryRun=All"), &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": name}})).await;
        assert!((400..500).contains(&r.status.as_u16()), "{name:?}: {}", r.status);
    }
    is_well(&w).await;
}

#[tokio::test]
async fn documents_that_are_none_are_refused_in_every_content_type() {
    let w = World::start().await;
    let admin = w.admin();
    admin.post(MAPS, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "there"}})).await;
    let nested = |open: &str, close: &str, n: usize| [open.repeat(n).into_bytes(), b"1".to_vec(), close.repeat(n).into_bytes()].concat();
    let bodies: Vec<Vec<u8>> = vec![
        b"null".to_vec(),
        b"".to_vec(),
        b"[]".to_vec(),
        b"\"x\"".to_vec(),
        b"1e999999".to_vec(),
        b"\0".to_vec(),
        b"\xff\xfe\xfd".to_vec(),
        b"k8s\0".to_vec(),
        b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"{\"apiVersion\":1e400}".to_vec(),
        b"{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":[]}".to_vec(),
        b"&a [*a]".to_vec(),
        b"%YAML 9.9\n---\n- !!binary x".to_vec(),
        nested("{\"a\":", "}", 126),
        nested("{\"a\":", "}", 128),
        nested("[", "]", 10_000),
        nested("{\"metadata\":", "}", 100_000),
        nested("[", "", 1_000_000),
        nested("{a: ", "}", 100_000),
        nested("- ", "", 1_000_000),
        nested("? ", "", 100_000),
        nested("\u{1b}", "", 1000),
        vec![0x9f; 1_000_000],
        vec![0xdb; 1_000_000],
        b"a: ".repeat(500_000),
        b"\"\\u0000\"".to_vec(),
    ];
    for media in [JSON, "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor", "text/plain", "\u{7f}"] {
        if media.parse::<http::HeaderValue>().is_err() {
            continue;
        }
        for body in &bodies {
            let r = admin.send(Method::POST, MAPS, media, body.clone()).await;
            let what = format!("{media} {:?}", String::from_utf8_lossy(&body[..body.len().min(30)]));
            assert!((400..500).contains(&r.status.as_u16()), "{what}: {}", r.status);
            refused(&r, r.status.as_u16(), &what);
        }
    }
    for media in
        ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml", "application/apply-patch+cbor"]
    {
        for body in &bodies {
            let r = admin.send(Method::PATCH, &format!("{MAPS}/there?fieldManager=t"), media, body.clone()).await;
            let what = format!("{media} {:?}", String::from_utf8_lossy(&body[..body.len().min(30)]));
            // What no schema can type is a 500 of upstream's too, but one that says so.
            let untypable = media.starts_with("application/apply") && r.text().contains("failed to create typed patch object");
            assert!(untypable || r.status.is_success() || (400..500).contains(&r.status.as_u16()), "{what}: {} {}", r.status, r.text());
        }
    }
    is_well(&w).await;
}

#[tokio::test]
async fn lists_of_a_hundred_thousand_items_are_refused_in_time() {
    const ITEMS: usize = 100_000;
    let w = World::start().await;
    let admin = w.admin();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    assert_eq!(admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.status, StatusCode::CREATED, "pods need it");
    // Compact ones, so that they fit into a request.
    let port = json!({"port": 1});
    for (path, kind, api_version, rest) in [
        ("/api/v1/namespaces/default/services", "Service", "v1", json!({"spec": {"ports": vec![port.clone(); ITEMS]}})),
        ("/api/v1/namespaces/default/pods", "Pod", "v1", json!({"spec": {"containers": vec![json!({"name": "c"}); ITEMS]}})),
        ("/api/v1/namespaces/default/pods", "Pod", "v1", json!({"spec": {"volumes": vec![json!({"name": "v"}); ITEMS], "tolerations": vec![json!({}); ITEMS]}})),
        (
            "/api/v1/namespaces/default/pods",
            "Pod",
            "v1",
            json!({"spec": {"containers": [{"name": "c", "image": "i", "env": vec![json!({}); ITEMS], "ports": [{"containerPort": 1}]}]}}),
        ),
        (
            "/api/v1/namespaces/default/configmaps",
            "ConfigMap",
            "v1",
            json!({"binaryData": (0..ITEMS).map(|i| (format!("/{i}"), json!("IQ=="))).collect::<serde_json::Map<_, _>>()}),
        ),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", "ClusterRole", "rbac.authorization.k8s.io/v1", json!({"rules": vec![json!({}); ITEMS]})),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            "NetworkPolicy",
            "networking.k8s.io/v1",
            json!({"spec": {"podSelector": {}, "ingress": vec![json!({"ports": [{"port": 0}]}); ITEMS]}}),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            "EndpointSlice",
            "discovery.k8s.io/v1",
            json!({"addressType": "IPv4", "endpoints": vec![json!({"addresses": ["x"]}); ITEMS]}),
        ),
    ] {
        let mut body = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
        body.as_object_mut().expect("an object").extend(rest.as_object().expect("an object").clone());
        let r = admin.post(path, &body).await;
        refused(&r, 422, kind);
    }
    let unknown: Value = (0..ITEMS).map(|i| (format!("f{i}"), Value::Null)).collect::<serde_json::Map<_, _>>().into();
    let r = admin.post(&format!("{MAPS}?dryRun=All"), &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": unknown})).await;
    refused(&r, 422, "unknown fields");
    is_well(&w).await;
}

fn definition(schema: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "foos.x.example"}, "spec": {
        "group": "x.example", "scope": "Namespaced", "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

#[tokio::test]
async fn definitions_that_upstream_crashes_on_or_that_explode_are_422() {
    let w = World::start().await;
    let admin = w.admin();
    let spec = |inner: Value| json!({"type": "object", "properties": {"spec": inner}});
    let mut odd = Vec::new();
    for fields in [
        json!([{"jsonPath": "."}]),
        json!([{"jsonPath": ".spec"}]),
        json!([{"jsonPath": ".spec.absent"}]),
        json!([{"jsonPath": "[*"}]),
        json!([{"jsonPath": ""}]),
        json!([{"jsonPath": format!(".{}", "a.".repeat(50_000))}]),
    ] {
        let mut d = definition(spec(json!({"type": "object", "properties": {"a": {"type": "string"}}})));
        d["spec"]["versions"][0]["selectableFields"] = fields;
        odd.push(d);
    }
    let deep = (0..40).fold(json!({"type": "string"}), |s, _| json!({"type": "object", "properties": {"a": s}, "required": 1}));
    odd.push(definition(deep));
    odd.push(definition(spec(json!({"type": "string", "pattern": "(a{1000}){1000}{1000}"}))));
    odd.push(definition(spec(json!({"type": "string", "pattern": format!("{}a{}", "(".repeat(5000), ")".repeat(5000))}))));
    odd.push(definition(spec(json!({"$ref": "#/properties/spec"}))));
    odd.push(definition(spec(json!({"type": "object", "allOf": (0..1000).map(|_| json!({"type": "string"})).collect::<Vec<_>>()}))));
    let list = json!({"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}});
    let mut for_ever = list;
    for_ever["x-kubernetes-validations"] = json!([{"rule": "self.all(a, self.all(b, a.all(c, b.all(d, c.all(e, d.all(f, e == f))))))"}]);
    odd.push(definition(spec(for_ever)));
    odd.push(definition(spec(json!({"type": "string", "x-kubernetes-validations": [{"rule": "(".repeat(10_000)}]}))));
    odd.push(definition(spec(json!({"type": "string", "x-kubernetes-validations": [{"rule": "self == ''", "messageExpression": "1 + "}]}))));
    for d in odd {
        let r = admin.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &d).await;
        let shown = d.to_string();
        assert!(matches!(r.status.as_u16(), 400 | 422), "{}: {} {}", &shown[..shown.len().min(400)], r.status, &r.text()[..r.text().len().min(400)]);
        assert!(r.json()["message"].is_string());
    }
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"completionMode": "Indexed", "completions": 1, "successPolicy": {"rules": [null]},
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let r = admin.post("/apis/batch/v1/namespaces/default/jobs", &job).await;
    refused(&r, 422, "a null success rule");
    is_well(&w).await;
}

#[tokio::test]
async fn expressions_that_would_run_for_ever_end_with_their_cost() {
    let w = World::start().await;
    let admin = w.admin();
    let schema = json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 20, "items": {"type": "string", "maxLength": 20}}}});
    let group = "/apis/admissionregistration.k8s.io/v1";
    let made = admin.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition(schema)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let rule = "object.data.all(a, object.data.all(b, object.data.all(c, object.data.all(d, object.data.all(e, object.data.all(f, true))))))";
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}]},
        "validations": [{"expression": rule}]}});
    let made = admin.post(&format!("{group}/validatingadmissionpolicies"), &policy).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    admin.post(&format!("{group}/validatingadmissionpolicybindings"), &binding).await;
    let data: serde_json::Map<String, Value> = (0..2000).map(|i| (format!("k{i}"), json!(""))).collect();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": data});
    let r = admin.post(MAPS, &map).await;
    assert!((400..=500).contains(&r.status.as_u16()) && r.text().contains("cost"), "{}", r.text());
    admin.send(Method::DELETE, &format!("{group}/validatingadmissionpolicybindings/b"), JSON, Vec::new()).await;
    is_well(&w).await;
}

#[tokio::test]
async fn webhooks_that_lie_fail_the_request_and_nothing_else() {
    let w = World::start().await;
    let admin = w.admin();
    let answer = |said: &Value, response: Value| {
        let mut response = response;
        response["uid"] = said["request"]["uid"].clone();
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    };
    use base64::Engine;
    let patch = |operations: Value| json!({"allowed": true, "patchType": "JSONPatch", "patch": base64::engine::general_purpose::STANDARD.encode(operations.to_string())});
    let hooks = Peer::start(move |_, path, said| match path {
        "/huge" => json!({"x": "y".repeat(64 << 20)}),
        "/list" => json!([1, 2]),
        "/other-uid" => json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "other", "allowed": true}}),
        "/code" => answer(said, json!({"allowed": false, "status": {"code": 999_999, "message": "x"}})),
        "/odd-code" => answer(said, json!({"allowed": false, "status": {"code": 1234, "message": "x"}})),
        "/no-object" => answer(said, patch(json!([{"op": "replace", "path": "", "value": null}]))),
        "/doubling" => answer(said, patch(json!([{"op": "add", "path": "/data", "value": {"a": "x".repeat(1 << 16)}}, {"op": "copy", "from": "", "path": "/data/b"}, {"op": "copy", "from": "/data", "path": "/data/c"}]))),
        "/type" => answer(said, patch(json!([{"op": "replace", "path": "/data", "value": 7}]))),
        "/name" => answer(said, patch(json!([{"op": "replace", "path": "/metadata/name", "value": "../x"}]))),
        "/not-base64" => answer(said, json!({"allowed": true, "patchType": "JSONPatch", "patch": "!!!"})),
        _ => answer(said, json!({"allowed": "yes"})),
    })
    .await;
    let ca = base64::engine::general_purpose::STANDARD.encode(hooks.ca_pem());
    let configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    for path in ["huge", "list", "other-uid", "code", "odd-code", "no-object", "doubling", "type", "name", "not-base64", "bool"] {
        let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": "h"}, "webhooks": [{"name": "h.example.com", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": format!("{}/{path}", hooks.url), "caBundle": ca},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}]});
        let made = admin.post(configurations, &hook).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
        let r = admin.post(MAPS, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}})).await;
        assert!((400..=500).contains(&r.status.as_u16()), "{path}: {}", r.status);
        assert!(!r.text().contains("panic"), "{path}: {}", r.text());
        refused(&r, r.status.as_u16(), path);
        admin.send(Method::DELETE, &format!("{configurations}/h"), JSON, Vec::new()).await;
    }
    is_well(&w).await;
}

#[tokio::test]
async fn many_at_once_are_all_answered() {
    let w = World::start().await;
    let admin = w.admin();
    let all = futures::stream::iter(0..300).map(|i| {
        let admin = admin.clone();
        async move { admin.send(Method::POST, MAPS, JSON, vec![b'['; 1000 * (i % 7 + 1)]).await.status }
    });
    let statuses: Vec<StatusCode> = all.buffer_unordered(50).collect().await;
    assert!(statuses.iter().all(|s| matches!(s.as_u16(), 400 | 429)), "{statuses:?}");
    is_well(&w).await;
}
