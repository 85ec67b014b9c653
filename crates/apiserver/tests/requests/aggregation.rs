//! APIServices: those of this server itself, and requests to another API server over real TLS that checks who comes.

use crate::world::peer::Stand;
use crate::world::{Reply, World};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use keles_pki::{Pki, Subject};
use keles_serve::{ConnInfo, body, tls};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::DropGuard;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1.ext.example.com";
const WIDGETS: &str = "/apis/ext.example.com/v1/namespaces/default/widgets";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// Nothing here takes this long unless it never comes.
const LIMIT: Duration = Duration::from_secs(60);

/// A request as the other server saw it.
#[derive(Clone, Debug)]
struct Seen {
    line: String,
    headers: http::HeaderMap,
    /// Common name of a certificate of the cluster's front-proxy authority.
    proxy: Option<String>,
    body: String,
}

impl Seen {
    fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect()
    }
}

/// An API server of `ext.example.com/v1`.
struct Extension {
    address: SocketAddr,
    ca_pem: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    _serving: DropGuard,
}

impl Extension {
    async fn start(w: &World, ip: IpAddr) -> Extension {
        let front_proxy = Pki::open(w.folder()).unwrap().front_proxy_ca_pem().to_owned();
        let ders: Vec<Vec<u8>> = rustls_pemfile::certs(&mut front_proxy.as_bytes()).map(|c| c.unwrap().to_vec()).collect();
        let verifier = tls::client_verifier(&ders).unwrap();
        let stand = Stand::open(ip, "ext", &["ext.default.svc"], Some(verifier.clone())).await;
        let (address, ca_pem, seen) = (stand.address, stand.ca_pem.clone(), Arc::new(Mutex::new(Vec::new())));
        let all: Arc<Mutex<Vec<Seen>>> = seen.clone();
        let connect = move |info: ConnInfo| {
            let known = tls::verify_client(verifier.as_ref(), &info.certificates).is_ok();
            let proxy = info.certificates.first().filter(|_| known).and_then(|c| Subject::of(c)).map(|s| s.common_name);
            let all = all.clone();
            move |r: Request<Incoming>| {
                let (proxy, all) = (proxy.clone(), all.clone());
                async move { answer(r, proxy, &all).await }
            }
        };
        Extension { address, ca_pem, seen, _serving: stand.serve(connect) }
    }
    fn seen(&self, line: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|s| s.line == line).cloned().collect()
    }
    fn service(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ext"}, "spec": {"ports": [{"name": "api", "port": 443}]}})
    }
    fn slice(&self, endpoints: Value) -> Value {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "ext-1", "labels": {"kubernetes.io/service-name": "ext"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "api", "port": self.address.port(), "protocol": "TCP"}]})
    }
    fn api_service(&self) -> Value {
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": NAME},
            "spec": {"group": "ext.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10, "caBundle": BASE64.encode(&self.ca_pem),
                "service": {"namespace": "default", "name": "ext", "port": 443}}})
    }
    fn endpoints(&self) -> Value {
        json!([{"addresses": [self.address.ip().to_string()], "conditions": {"ready": true}}])
    }
    /// All of it in place and available.
    async fn register(&self, w: &World) {
        let admin = w.admin();
        for (path, o) in [
            ("/api/v1/namespaces/default/services", self.service()),
            ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", self.slice(self.endpoints())),
            (SERVICES, self.api_service()),
        ] {
            let made = admin.post(path, &o).await;
            assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
        }
        available(w, "Passed").await;
    }
}

fn json_answer(v: &Value) -> Response<body::Body> {
    let mut r = Response::new(body::full(v.to_string()));
    r.headers_mut().insert("content-type", "application/json".parse().unwrap());
    r
}

async fn answer(mut r: Request<Incoming>, proxy: Option<String>, all: &Mutex<Vec<Seen>>) -> Response<body::Body> {
    let upgraded = hyper::upgrade::on(&mut r);
    let (parts, sent) = r.into_parts();
    let path = parts.uri.path().to_owned();
    let sent = if parts.headers.contains_key("upgrade") { String::new() } else { String::from_utf8(body::read(sent, 1 << 20).await.unwrap().to_vec()).unwrap() };
    let seen = Seen { line: format!("{} {}", parts.method, parts.uri), headers: parts.headers, proxy, body: sent.clone() };
    all.lock().unwrap().push(seen.clone());
    let thing = |name: &str| json!({"apiVersion": "ext.example.com/v1", "kind": "Widget", "metadata": {"name": name, "namespace": "default"}});
    match (parts.method.as_str(), path.as_str()) {
        ("GET", "/apis/ext.example.com/v1") => json_answer(&json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "ext.example.com/v1", "resources": [
            {"name": "widgets", "singularName": "widget", "namespaced": true, "kind": "Widget", "verbs": ["get", "list", "create", "watch"], "shortNames": ["wi"]}]})),
        ("GET", WIDGETS) => json_answer(&json!({"apiVersion": "ext.example.com/v1", "kind": "WidgetList", "metadata": {}, "items": [thing("one")]})),
        ("POST", WIDGETS) => {
            let mut r = json_answer(&serde_json::from_str(&sent).unwrap());
            *r.status_mut() = StatusCode::CREATED;
            r
        }
        ("GET", p) if p.ends_with("/widgets/moved") => {
            let mut r = json_answer(&json!({}));
            *r.status_mut() = StatusCode::FOUND;
            r.headers_mut().insert("location", "https://elsewhere.example/".parse().unwrap());
            r
        }
        ("GET", p) if p.ends_with("/widgets/one/talk") => {
            tokio::spawn(async move {
                let mut io = hyper_util::rt::TokioIo::new(upgraded.await.unwrap());
                let mut word = [0; 5];
                io.read_exact(&mut word).await.unwrap();
                word.reverse();
                io.write_all(&word).await.unwrap();
                io.shutdown().await.unwrap();
            });
            let mut r = Response::new(body::empty());
            *r.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            r.headers_mut().insert("connection", "upgrade".parse().unwrap());
            r.headers_mut().insert("upgrade", "talk".parse().unwrap());
            r
        }
        ("GET", "/openapi/v3") => json_answer(
            &json!({"paths": {"apis/ext.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/ext.example.com/v1?hash=EXT"}, "version": {"serverRelativeURL": "/openapi/v3/version?hash=V"}}}),
        ),
        ("GET", "/openapi/v3/apis/ext.example.com/v1") => json_answer(&json!({"openapi": "3.0.0", "info": {"title": "ext", "version": "1"}, "paths": {}})),
        ("GET", "/openapi/v2") => json_answer(&json!({"swagger": "2.0", "info": {"title": "ext", "version": "1"},
            "paths": {WIDGETS: {"get": {"responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/com.example.ext.v1.Widget"}}}}}},
            "definitions": {"com.example.ext.v1.Widget": {"type": "object"}}})),
        _ => {
            let mut r = json_answer(&json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}));
            *r.status_mut() = StatusCode::NOT_FOUND;
            r
        }
    }
}

/// What `ask` answers once `good` says so; asked again at each change of APIServices and of what is served.
async fn once<F: Future<Output = Reply>>(w: &World, ask: impl Fn() -> F, good: impl Fn(&Reply) -> bool) -> Reply {
    let registry = w.server().registry();
    let (mut objects, mut kinds) = (registry.subscribe("apiregistration.k8s.io", "apiservices").unwrap(), registry.kinds_changed());
    let mut last = String::new();
    let found = tokio::time::timeout(LIMIT, async {
        loop {
            objects.borrow_and_update();
            kinds.borrow_and_update();
            let r = ask().await;
            if good(&r) {
                return r;
            }
            last = r.text();
            tokio::select! {
                r = objects.changed() => r.unwrap(),
                r = kinds.changed() => r.unwrap(),
            }
        }
    })
    .await;
    found.unwrap_or_else(|_| panic!("it never came: {last}"))
}

/// The condition of the remote APIService once its reason is `reason`.
async fn available(w: &World, reason: &str) -> Value {
    let admin = w.admin();
    let path = format!("{SERVICES}/{NAME}");
    let r = once(w, || admin.get(&path), |r| r.status == StatusCode::OK && r.json()["status"]["conditions"][0]["reason"] == reason).await;
    r.json()["status"]["conditions"][0].clone()
}

fn names(list: &Value) -> BTreeSet<String> {
    list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_group_version_of_our_own_has_an_api_service() {
    let w = World::start().await;
    let admin = w.admin();
    let all_available = |r: &Reply| {
        let items = r.json()["items"].as_array().cloned().unwrap();
        !items.is_empty() && names(&r.json()).contains("v1.apps") && items.iter().all(|o| o["status"]["conditions"][0]["status"] == "True")
    };
    let list = once(&w, || admin.get(SERVICES), all_available).await.json();
    let groups = admin.get("/apis").await.json();
    let mut served: BTreeSet<String> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|g| g["name"] != "apiregistration.k8s.io")
        .flat_map(|g| g["versions"].as_array().unwrap().iter().map(|v| format!("{}.{}", v["version"].as_str().unwrap(), g["name"].as_str().unwrap())))
        .collect();
    served.insert("v1.".into());
    assert_eq!(names(&list), served);
    let apps = admin.get(&format!("{SERVICES}/v1.apps")).await.json();
    assert_eq!(apps["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"}));
    assert_eq!(apps["spec"], json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15}));
    let c = &apps["status"]["conditions"][0];
    assert_eq!((&c["type"], &c["reason"], &c["message"]), (&json!("Available"), &json!("Local"), &json!("Local APIServices are always available")));
}

#[tokio::test]
async fn custom_group_versions_have_api_services_while_they_are_served() {
    let w = World::start().await;
    let admin = w.admin();
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "toys.play.example.com"},
        "spec": {"group": "play.example.com", "scope": "Namespaced", "names": {"plural": "toys", "singular": "toy", "kind": "Toy", "listKind": "ToyList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let made = admin.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let path = format!("{SERVICES}/v1.play.example.com");
    let own = once(&w, || admin.get(&path), |r| r.status == StatusCode::OK).await.json();
    assert_eq!(own["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "true"}));
    assert_eq!(own["spec"], json!({"group": "play.example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100}));
    // Whoever takes it away or changes it has it back.
    admin.send(Method::DELETE, &path, "application/json", vec![]).await;
    once(&w, || admin.get(&path), |r| r.status == StatusCode::OK && r.json()["metadata"]["uid"] != own["metadata"]["uid"]).await;
    admin.send(Method::PATCH, &path, "application/merge-patch+json", br#"{"spec":{"versionPriority":7}}"#.to_vec()).await;
    once(&w, || admin.get(&path), |r| r.status == StatusCode::OK && r.json()["spec"]["versionPriority"] == 100).await;
    admin.send(Method::DELETE, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/toys.play.example.com", "application/json", vec![]).await;
    once(&w, || admin.get(&path), |r| r.status == StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn availability_names_what_is_missing_step_by_step() {
    let Some(ip) = crate::world::own_address() else { return };
    let w = World::start().await;
    let ext = Extension::start(&w, ip).await;
    let admin = w.admin();
    admin.post(SERVICES, &ext.api_service()).await;
    let c = available(&w, "ServiceNotFound").await;
    assert_eq!((&c["status"], &c["message"]), (&json!("False"), &json!("service/ext in \"default\" is not present")));
    let down = admin.get(WIDGETS).await;
    assert_eq!((down.status, down.text().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "service unavailable\n"));
    let mut other = ext.service();
    other["spec"]["ports"][0]["port"] = 80.into();
    admin.post("/api/v1/namespaces/default/services", &other).await;
    assert_eq!(available(&w, "ServicePortError").await["message"], "service/ext in \"default\" is not listening on port 443");
    admin
        .send(Method::PATCH, "/api/v1/namespaces/default/services/ext", "application/json-patch+json", br#"[{"op":"replace","path":"/spec/ports/0/port","value":443}]"#.to_vec())
        .await;
    assert_eq!(available(&w, "EndpointsNotFound").await["message"], "cannot find endpointslices for service/ext in \"default\"");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    admin.post(slices, &ext.slice(json!([]))).await;
    assert_eq!(available(&w, "MissingEndpoints").await["message"], "endpointslices for service/ext in \"default\" have no addresses with port name \"api\"");
    let patch = json!({"endpoints": ext.endpoints()}).to_string();
    admin.send(Method::PATCH, &format!("{slices}/ext-1"), "application/merge-patch+json", patch.into_bytes()).await;
    let c = available(&w, "Passed").await;
    assert_eq!((&c["status"], &c["message"]), (&json!("True"), &json!("all checks passed")));
    let probe = &ext.seen("GET /apis/ext.example.com/v1")[0];
    assert_eq!(
        (probe.proxy.as_deref(), probe.all("x-remote-user"), probe.all("x-remote-group")),
        (Some("front-proxy-client"), vec!["system:kube-aggregator"], vec!["system:masters"])
    );
}

#[tokio::test]
async fn a_server_of_another_authority_or_none_fails_the_check() {
    let Some(ip) = crate::world::own_address() else { return };
    let w = World::start().await;
    let (ext, other) = (Extension::start(&w, ip).await, Extension::start(&w, ip).await);
    let admin = w.admin();
    admin.post("/api/v1/namespaces/default/services", &ext.service()).await;
    admin.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &ext.slice(ext.endpoints())).await;
    let mut o = ext.api_service();
    o["spec"]["caBundle"] = BASE64.encode(&other.ca_pem).into();
    admin.post(SERVICES, &o).await;
    let c = available(&w, "FailedDiscoveryCheck").await;
    assert!(c["message"].as_str().unwrap().starts_with(&format!("failing or missing response from https://{}/apis/ext.example.com/v1: ", ext.address)), "{c}");
    assert!(ext.seen("GET /apis/ext.example.com/v1").is_empty(), "nothing is said to a server that is not trusted");
    let lax = br#"[{"op":"remove","path":"/spec/caBundle"},{"op":"add","path":"/spec/insecureSkipTLSVerify","value":true}]"#.to_vec();
    let patched = admin.send(Method::PATCH, &format!("{SERVICES}/{NAME}"), "application/json-patch+json", lax).await;
    assert_eq!(patched.status, StatusCode::OK, "{}", patched.text());
    available(&w, "Passed").await;
}

#[tokio::test]
async fn requests_reach_the_other_server_as_their_user_and_after_rbac() {
    let Some(ip) = crate::world::own_address() else { return };
    let w = World::start().await;
    let ext = Extension::start(&w, ip).await;
    ext.register(&w).await;
    let (admin, jane) =
        (w.admin(), w.admin().with_header("impersonate-user", "jane").with_header("impersonate-group", "dev").with_header("impersonate-extra-example.com%2fscope", "a"));
    let refused = jane.get(WIDGETS).await;
    assert_eq!(
        (refused.status, refused.json()["message"].as_str()),
        (
            StatusCode::FORBIDDEN,
            Some("widgets.ext.example.com is forbidden: User \"jane\" cannot list resource \"widgets\" in API group \"ext.example.com\" in the namespace \"default\"")
        )
    );
    assert!(ext.seen(&format!("GET {WIDGETS}")).is_empty());
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    admin.post(&format!("{rbac}/roles"), &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": [{"apiGroups": ["ext.example.com"], "resources": ["widgets"], "verbs": ["list"]}]})).await;
    admin
        .post(
            &format!("{rbac}/rolebindings"),
            &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]}),
        )
        .await;
    let liar = jane.with_header("x-remote-user", "root").with_header("x-remote-group", "system:masters").with_header("x-remote-extra-more", "x");
    let listed = liar.get(&format!("{WIDGETS}?limit=5&labelSelector=a%3Db")).await;
    assert_eq!((listed.status, &listed.json()["items"][0]["metadata"]["name"]), (StatusCode::OK, &json!("one")));
    let seen = &ext.seen(&format!("GET {WIDGETS}?limit=5&labelSelector=a%3Db"))[0];
    assert_eq!(seen.proxy.as_deref(), Some("front-proxy-client"));
    assert_eq!((seen.all("x-remote-user"), seen.all("x-remote-group")), (vec!["jane"], vec!["dev", "system:authenticated"]));
    assert_eq!((seen.all("x-remote-extra-example.com%2fscope"), seen.all("x-remote-extra-more")), (vec!["a"], vec![]));
    assert!(!seen.headers.contains_key("authorization") && !seen.headers.contains_key("impersonate-user"), "{seen:?}");
    let made = admin.post(WIDGETS, &json!({"kind": "Widget", "metadata": {"name": "two"}})).await;
    assert_eq!((made.status, &made.json()["metadata"]["name"]), (StatusCode::CREATED, &json!("two")));
    assert_eq!(ext.seen(&format!("POST {WIDGETS}"))[0].body, json!({"kind": "Widget", "metadata": {"name": "two"}}).to_string());
    assert_eq!(admin.get(&format!("{WIDGETS}/none")).await.status, StatusCode::NOT_FOUND, "its own refusals come through");
    let moved = admin.get(&format!("{WIDGETS}/moved")).await;
    assert_eq!((moved.status, moved.text().as_str()), (StatusCode::BAD_GATEWAY, "the backend attempted to redirect this request, which is not permitted"));
}

#[tokio::test]
async fn an_upgrade_passes_both_ways() {
    let Some(ip) = crate::world::own_address() else { return };
    let w = World::start().await;
    let ext = Extension::start(&w, ip).await;
    ext.register(&w).await;
    let (answer, mut io) = w.admin().upgrade(Method::GET, &format!("{WIDGETS}/one/talk"), &[("connection", "upgrade"), ("upgrade", "talk")]).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    io.write_all(b"hello").await.unwrap();
    let mut back = String::new();
    io.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "olleh");
}

#[tokio::test]
async fn discovery_and_openapi_have_the_other_server_and_outlive_it() {
    let Some(ip) = crate::world::own_address() else { return };
    let w = World::start().await;
    let ext = Extension::start(&w, ip).await;
    ext.register(&w).await;
    let admin = w.admin();
    let asks = w.admin().with_header("accept", AGGREGATED);
    let of = |r: &Reply| r.json()["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "ext.example.com").cloned().unwrap_or_default();
    let current = once(&w, || asks.get("/apis"), |r| of(r)["versions"][0]["freshness"] == "Current").await;
    let version = &of(&current)["versions"][0];
    assert_eq!((&version["resources"][0]["resource"], &version["resources"][0]["responseKind"]["kind"]), (&json!("widgets"), &json!("Widget")));
    let groups = admin.get("/apis").await.json();
    let stored = groups["groups"].as_array().unwrap().iter().rfind(|g| g["name"] != "metrics.k8s.io").unwrap();
    assert_eq!(stored["name"], "ext.example.com", "2000 is below all groups of stored kinds");
    assert_eq!(admin.get("/apis/ext.example.com").await.json()["preferredVersion"], json!({"groupVersion": "ext.example.com/v1", "version": "v1"}));
    assert_eq!(admin.get("/apis/ext.example.com/v1").await.json()["resources"][0]["name"], "widgets");
    let v3 = |r: &Reply| r.json()["paths"]["apis/ext.example.com/v1"]["serverRelativeURL"].as_str().map(str::to_owned);
    let index = once(&w, || admin.get("/openapi/v3"), |r| v3(r).is_some()).await;
    assert_eq!(v3(&index).as_deref(), Some("/openapi/v3/apis/ext.example.com/v1?hash=EXT"));
    assert_ne!(index.json()["paths"]["version"]["serverRelativeURL"], "/openapi/v3/version?hash=V", "our own stays ours");
    assert_eq!(admin.get("/openapi/v3/apis/ext.example.com/v1?hash=EXT").await.json()["info"]["title"], "ext");
    let v2 = once(&w, || admin.get("/openapi/v2"), |r| r.json()["paths"][WIDGETS].is_object()).await.json();
    assert!(v2["definitions"]["com.example.ext.v1.Widget"].is_object() && v2["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    // Down: the group stays in discovery, marked as stale.
    admin.send(Method::DELETE, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/ext-1", "application/json", vec![]).await;
    available(&w, "EndpointsNotFound").await;
    let stale = once(&w, || asks.get("/apis"), |r| of(r)["versions"][0]["freshness"] == "Stale").await;
    assert_eq!(of(&stale)["versions"][0]["resources"][0]["resource"], "widgets", "the last known");
    assert_eq!(admin.get(WIDGETS).await.status, StatusCode::SERVICE_UNAVAILABLE);
    admin.send(Method::DELETE, &format!("{SERVICES}/{NAME}"), "application/json", vec![]).await;
    once(&w, || asks.get("/apis"), |r| of(r).is_null()).await;
    assert_eq!(admin.get(WIDGETS).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn kubectl_reads_what_another_server_serves() {
    let (Some(ip), Ok(kubectl)) = (crate::world::own_address(), tokio::process::Command::new("kubectl").arg("version").arg("--client").output().await) else { return };
    assert!(kubectl.status.success());
    let w = World::start().await;
    let ext = Extension::start(&w, ip).await;
    ext.register(&w).await;
    let asks = w.admin().with_header("accept", AGGREGATED);
    once(&w, || asks.get("/apis"), |r| r.text().contains("widgets")).await;
    let config = w.folder().join("kubeconfig");
    w.write_kubeconfig(&config);
    let run = async |args: &[&str]| {
        let out = tokio::process::Command::new("kubectl").args(args).env("KUBECONFIG", &config).env("HOME", w.folder()).output().await.unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(run(&["get", "wi", "-o", "name"]).await, "widget.ext.example.com/one\n");
    let shown = run(&["get", "apiservice", NAME, "--no-headers"]).await;
    assert_eq!(shown.split_whitespace().take(3).collect::<Vec<_>>(), [NAME, "default/ext", "True"]);
    assert!(run(&["get", "apiservice", "v1.apps", "--no-headers"]).await.contains("Local"));
}

#[tokio::test]
async fn other_servers_learn_whom_to_trust() {
    let w = World::start().await;
    let map = w.admin().get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.json();
    let pki = Pki::open(w.folder()).unwrap();
    let want = json!({
        "client-ca-file": pki.ca_pem(), "requestheader-client-ca-file": pki.front_proxy_ca_pem(),
        "requestheader-allowed-names": "[\"front-proxy-client\"]", "requestheader-username-headers": "[\"X-Remote-User\"]", "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]", "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
    });
    assert_eq!(map["data"], want);
    let role = w.admin().get("/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/extension-apiserver-authentication-reader").await.json();
    assert_eq!(role["rules"][0]["resourceNames"], json!(["extension-apiserver-authentication"]));
}
