//! Logs, streams and proxies against a node's API and a backend of the test's own.

use crate::world::World;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use keles_pki::{Names, Pki, Subject};
use keles_serve::{Body, ConnInfo, Limits, Server, body, tls};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A node `n1` whose API echoes; returns when it listens and is registered, with a pod `p` bound to it.
async fn world_with_node() -> (World, CancellationToken) {
    let w = World::start().await;
    let pki = Pki::open(w.folder()).unwrap();
    let c = pki.kubelet_server("n1", &Names::default()).unwrap();
    let verifier = tls::client_verifier(&[pki.ca_der()]).unwrap();
    let config = tls::server_config(c.certificate_der().unwrap(), c.key_der().unwrap(), Some(verifier)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let connect = |info: ConnInfo| {
        let caller = info.certificates.first().and_then(|c| Subject::of(c)).map(|s| s.common_name).unwrap_or_default();
        move |r: Request<Incoming>| kubelet(r, caller.clone())
    };
    tokio::spawn(Server { listener, tls: config, limits: Limits::default() }.run(connect, stop.clone()));
    let admin = w.admin();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    assert_eq!(admin.post("/api/v1/nodes", &node).await.status, StatusCode::CREATED);
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    let made = admin.post("/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    (w, stop)
}

/// The node's side: tells what it was asked, or upgrades and echoes.
async fn kubelet(mut r: Request<Incoming>, caller: String) -> Response<Body> {
    let uri = r.uri().to_string();
    if uri.contains("previous") {
        let mut bad = Response::new(body::full("previous terminated container \"c\" in pod \"p\" not found"));
        *bad.status_mut() = StatusCode::BAD_REQUEST;
        return bad;
    }
    if !uri.starts_with("/exec") {
        return Response::new(body::full(format!("{caller} {uri}")));
    }
    let protocol = r.headers().get("sec-websocket-protocol").cloned();
    let upgrade = hyper::upgrade::on(&mut r);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        io.write_all(uri.as_bytes()).await.unwrap();
        io.write_all(b"\n").await.unwrap();
        let mut buffer = [0; 1024];
        while let Ok(n) = io.read(&mut buffer).await {
            if n == 0 || io.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
    });
    let mut switching = Response::new(body::empty());
    *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    switching.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    switching.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    if let Some(p) = protocol {
        switching.headers_mut().insert("sec-websocket-protocol", p);
    }
    switching
}

#[tokio::test]
async fn logs_come_from_the_node_as_the_api_server_with_its_own_certificate() {
    let (w, _stop) = world_with_node().await;
    let admin = w.admin();
    let log = admin.get("/api/v1/namespaces/default/pods/p/log?tailLines=5&timestamps=true").await;
    assert_eq!(log.text(), "kube-apiserver-kubelet-client /containerLogs/default/p/c?timestamps=true&tailLines=5");
    let bad = admin.get("/api/v1/namespaces/default/pods/p/log?previous=true").await;
    assert_eq!((bad.status, bad.json()["message"].as_str()), (StatusCode::BAD_REQUEST, Some("previous terminated container \"c\" in pod \"p\" not found")));
    let pods = admin.get("/api/v1/nodes/n1/proxy/pods?x=y").await;
    assert_eq!(pods.text(), "kube-apiserver-kubelet-client /pods?x=y");
}

#[tokio::test]
async fn a_log_comes_in_messages_of_a_websocket_to_who_asks_for_one() {
    let (w, _stop) = world_with_node().await;
    let path = "/api/v1/namespaces/default/pods/p/log?tailLines=5";
    let said = "kube-apiserver-kubelet-client /containerLogs/default/p/c?tailLines=5";
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", "binary.k8s.io"), ("sec-websocket-key", "x")];
    let (answer, mut io) = w.admin().upgrade(Method::GET, path, &headers).await;
    assert_eq!((answer.status(), &answer.headers()["sec-websocket-protocol"]), (StatusCode::SWITCHING_PROTOCOLS, &"binary.k8s.io".parse::<http::HeaderValue>().unwrap()));
    // An empty message, the text, and a close without an error (1000), each with its length.
    let mut frames = vec![0x82, 0, 0x82, u8::try_from(said.len()).unwrap()];
    frames.extend(said.as_bytes());
    frames.extend([0x88, 2, 0x03, 0xe8]);
    let mut got = vec![0; frames.len()];
    io.read_exact(&mut got).await.unwrap();
    assert_eq!(got, frames);
}

#[tokio::test]
async fn exec_bytes_pass_through_unchanged() {
    let (w, _stop) = world_with_node().await;
    let path = "/api/v1/namespaces/default/pods/p/exec?command=cat&stdin=true&stdout=true";
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", "v5.channel.k8s.io"), ("sec-websocket-key", "x")];
    let (answer, mut io) = w.admin().upgrade(Method::GET, path, &headers).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let mut first = vec![0; "/exec/default/p/c?input=1&output=1&command=cat\n".len()];
    io.read_exact(&mut first).await.unwrap();
    assert_eq!(String::from_utf8(first).unwrap(), "/exec/default/p/c?input=1&output=1&command=cat\n");
    let sent: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let (mut read, mut write) = tokio::io::split(io);
    let (expected, mut got) = (sent.clone(), vec![0; sent.len()]);
    tokio::join!(async { write.write_all(&sent).await.unwrap() }, async { read.read_exact(&mut got).await.unwrap() });
    assert_eq!(got, expected);
}

#[tokio::test]
async fn websocket_exec_needs_the_permission_to_create() {
    let (w, _stop) = world_with_node().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = |verbs: &[&str]| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods/exec"], "verbs": verbs}]});
    w.admin().post(&format!("{rbac}/roles"), &role(&["get"])).await;
    w.admin()
        .post(&format!("{rbac}/rolebindings"), &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]}))
        .await;
    let jane = w.admin().with_header("impersonate-user", "jane");
    let path = "/api/v1/namespaces/default/pods/p/exec?command=cat&stdout=true";
    let refused = jane.get(path).await;
    assert_eq!(
        (refused.status, refused.json()["message"].as_str()),
        (StatusCode::FORBIDDEN, Some("pods \"p\" is forbidden: User \"jane\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"default\""))
    );
    w.admin().put(&format!("{rbac}/roles/r"), &role(&["get", "create"])).await;
    assert_eq!(jane.get(path).await.status, StatusCode::BAD_REQUEST, "allowed now, but it asks for no upgrade");
}

#[tokio::test]
async fn services_and_pods_are_reached_through_the_proxy() {
    let Some(ip) = crate::world::own_address() else { return };
    let w = World::start().await;
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|r: Request<Incoming>| async move {
                let seen = format!("{} {} auth={}", r.method(), r.uri(), r.headers().contains_key("authorization"));
                let sent = r.into_body().collect().await?.to_bytes();
                let mut a = Response::new(http_body_util::Full::new(Bytes::from(format!("{seen} {}", String::from_utf8_lossy(&sent)))));
                if seen.contains("/moved") {
                    *a.status_mut() = StatusCode::FOUND;
                    a.headers_mut().insert("location", "/there".parse().expect("a header value"));
                }
                Ok::<_, hyper::Error>(a)
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
        }
    });
    let admin = w.admin();
    admin
        .post(
            "/api/v1/namespaces/default/services",
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}]}}),
        )
        .await;
    let at = "/api/v1/namespaces/default/services";
    let none = admin.get(&format!("{at}/web:http/proxy/")).await;
    assert_eq!((none.status.as_u16(), none.json()["message"].as_str()), (503, Some("no endpoints available for service \"web:http\"")));
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}], "ports": [{"name": "http", "port": port, "protocol": "TCP"}]});
    let made = admin.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    for name in ["web", "web:80", "web:http", "http:web:http"] {
        assert_eq!(admin.get(&format!("{at}/{name}/proxy/a%2Fb?c=d")).await.text(), "GET /a%2Fb?c=d auth=false ", "{name}");
    }
    assert_eq!(admin.send(Method::PUT, &format!("{at}/web/proxy/x"), "text/plain", b"body".to_vec()).await.text(), "PUT /x auth=false body");
    let slash = admin.get(&format!("{at}/web/proxy")).await;
    assert_eq!((slash.status, slash.header("location")), (StatusCode::MOVED_PERMANENTLY, format!("{at}/web/proxy/")));
    assert_eq!(admin.get(&format!("{at}/web/proxy/moved")).await.header("location"), format!("{at}/web/proxy/there"));
}

#[tokio::test]
async fn a_backend_that_speaks_tls_is_reached_with_the_https_prefix() {
    let Some(ip) = crate::world::own_address() else { return };
    let w = World::start().await;
    let dir = tempfile::tempdir().unwrap();
    // An authority that nobody knows: what a pod shows of itself is not checked, as upstream.
    let certified = Pki::open(dir.path()).unwrap().kubelet_server("pod", &Names { dns: vec![], ips: vec![ip] }).unwrap();
    let tls = tls::server_config(certified.certificate_der().unwrap(), certified.key_der().unwrap(), None).unwrap();
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = |_| |r: Request<Incoming>| async move { Response::new(body::full(format!("secret {}", r.uri().path()))) };
    let stop = CancellationToken::new();
    let _stops = stop.clone().drop_guard();
    tokio::spawn(Server { listener, tls, limits: Limits::default() }.run(answer, stop));
    let admin = w.admin();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"name": "tls", "port": 443}]}});
    assert_eq!(admin.post("/api/v1/namespaces/default/services", &service).await.status, StatusCode::CREATED);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}], "ports": [{"name": "tls", "port": port, "protocol": "TCP"}]});
    assert_eq!(admin.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await.status, StatusCode::CREATED);
    for name in ["https:web:tls", "https:web:443", "https:web:"] {
        assert_eq!(admin.get(&format!("/api/v1/namespaces/default/services/{name}/proxy/x")).await.text(), "secret /x", "{name}");
    }
    let plain = admin.get("/api/v1/namespaces/default/services/web:tls/proxy/x").await;
    assert!(!plain.text().contains("secret"), "{}", plain.text());
}

/// `k8s\0` and the Unknown around a message: how clients send protobuf.
fn protobuf(kind: &str, message: &[u8]) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, message)].concat()
}

#[tokio::test]
async fn protobuf_creates_and_deletes_as_json_does() {
    let w = World::start().await;
    let admin = w.admin();
    let media = "application/vnd.kubernetes.protobuf";
    let at = "/api/v1/namespaces/default/configmaps";
    // ObjectMeta{name: "a", namespace: ""}, as Go writes it: an empty namespace must not be stored.
    let made = admin.send(Method::POST, at, media, protobuf("ConfigMap", b"\x0a\x05\x0a\x01a\x1a\x00")).await;
    assert_eq!((made.status, made.json()["metadata"]["namespace"].as_str()), (StatusCode::CREATED, Some("default")), "{}", made.text());
    // DeleteOptions{preconditions: {uid: "x"}}
    let refused = admin.send(Method::DELETE, &format!("{at}/a"), media, protobuf("DeleteOptions", b"\x12\x03\x0a\x01x")).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text());
    let gone = admin.send(Method::DELETE, &format!("{at}/a"), media, protobuf("DeleteOptions", b"")).await;
    assert_eq!(gone.status, StatusCode::OK, "{}", gone.text());
}
