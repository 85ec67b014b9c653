//! Admission webhooks over real TLS: what they are shown, what their answers do, and what becomes of a request when they do not answer.

use crate::world::World;
use crate::world::peer::Stand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Method, Response, StatusCode};
use keles_serve::body;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio_util::sync::DropGuard;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// A webhook server: `answer` makes the `response` of a `request`, `None` never answers.
struct Hooks {
    address: SocketAddr,
    ca_pem: String,
    seen: Arc<Mutex<Vec<Value>>>,
    _serving: DropGuard,
}

impl Hooks {
    async fn start(answer: impl Fn(&str, &Value) -> Option<Value> + Clone + Send + Sync + 'static) -> Hooks {
        Hooks::at(Ipv4Addr::LOCALHOST.into(), answer).await
    }
    /// With a certificate for `hooks` and, as behind a Service, `hooks.default.svc`, but for no address other than loopback.
    async fn at(ip: IpAddr, answer: impl Fn(&str, &Value) -> Option<Value> + Clone + Send + Sync + 'static) -> Hooks {
        let stand = Stand::open(ip, "hooks", &["hooks.default.svc"], None).await;
        let (address, ca_pem, seen) = (stand.address, stand.ca_pem.clone(), Arc::new(Mutex::new(Vec::new())));
        let all = seen.clone();
        let connect = move |_| {
            let (answer, all) = (answer.clone(), all.clone());
            move |r: http::Request<hyper::body::Incoming>| {
                let (answer, all) = (answer.clone(), all.clone());
                async move {
                    let path = r.uri().path().to_owned();
                    let review: Value = serde_json::from_slice(&body::read(r.into_body(), 1 << 20).await.unwrap()).unwrap();
                    let request = review["request"].clone();
                    let Some(mut response) = answer(&path, &request) else { return std::future::pending().await };
                    response["uid"] = request["uid"].clone();
                    all.lock().unwrap().push(request);
                    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
                    Response::new(body::full(answer.to_string()))
                }
            }
        };
        Hooks { address, ca_pem, seen, _serving: stand.serve(connect) }
    }

    /// A hook for ConfigMaps at `path`, with more fields or other ones.
    fn hook(&self, path: &str, more: Value) -> Value {
        let mut h = json!({"name": format!("{path}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://{}/{path}", self.address), "caBundle": BASE64.encode(&self.ca_pem)},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
        h.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        h
    }
    fn seen(&self) -> Vec<Value> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn config(kind: &str, name: &str, hooks: Vec<Value>) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": hooks})
}

async fn register(w: &World, kind: &str, name: &str, hooks: Vec<Value>) {
    let made = w.admin().post(&format!("{GROUP}/{}s", kind.to_lowercase()), &config(kind, name, hooks)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
}

const MUTATING: &str = "MutatingWebhookConfiguration";
const VALIDATING: &str = "ValidatingWebhookConfiguration";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

fn patch(operations: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": BASE64.encode(operations.to_string())})
}

#[tokio::test]
async fn a_mutating_hook_sees_the_request_and_its_patch_is_stored() {
    let w = World::start().await;
    let hooks = Hooks::start(|_, _| Some(patch(json!([{"op": "add", "path": "/data/added", "value": "1"}])))).await;
    register(&w, MUTATING, "m", vec![hooks.hook("add", json!({}))]).await;
    let made = w.admin().post(&format!("{MAPS}?fieldManager=me"), &map("a")).await.json();
    assert_eq!(made["data"], json!({"k": "v", "added": "1"}));
    let seen = hooks.seen();
    let r = &seen[0];
    assert_eq!((&r["operation"], &r["namespace"], &r["name"]), (&json!("CREATE"), &json!("default"), &json!("a")));
    assert_eq!((&r["kind"], &r["resource"]), (&json!({"group": "", "version": "v1", "kind": "ConfigMap"}), &json!({"group": "", "version": "v1", "resource": "configmaps"})));
    assert_eq!((&r["object"]["data"], &r["oldObject"], &r["dryRun"]), (&json!({"k": "v"}), &Value::Null, &json!(false)));
    assert_eq!((&r["options"]["kind"], &r["options"]["fieldManager"]), (&json!("CreateOptions"), &json!("me")));
    assert!(r["userInfo"]["groups"].as_array().unwrap().contains(&json!("system:masters")), "{r}");
    w.admin().send(Method::DELETE, &format!("{MAPS}/a"), "application/json", vec![]).await;
    let r = &hooks.seen()[0];
    assert_eq!((&r["operation"], &r["object"], &r["oldObject"]["data"]["k"]), (&json!("DELETE"), &Value::Null, &json!("v")));
}

#[tokio::test]
async fn what_a_hook_adds_gets_its_defaults() {
    let w = World::start().await;
    let sidecar = json!({"name": "added", "image": "sidecar", "ports": [{"containerPort": 80}]});
    let hooks = Hooks::start(move |_, _| Some(patch(json!([{"op": "add", "path": "/spec/containers/-", "value": sidecar}])))).await;
    let pods = json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    register(&w, MUTATING, "m", vec![hooks.hook("sidecar", pods)]).await;
    let admin = w.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = admin.post("/api/v1/namespaces/default/pods", &pod).await.json();
    let added = &made["spec"]["containers"][1];
    assert_eq!(
        (&added["name"], &added["imagePullPolicy"], &added["terminationMessagePath"], &added["ports"][0]["protocol"]),
        (&json!("added"), &json!("Always"), &json!("/dev/termination-log"), &json!("TCP")),
        "{made}"
    );
}

#[tokio::test]
async fn a_hook_behind_a_service_is_reached_at_its_endpoints_under_its_service_name() {
    let Some(ip) = crate::world::own_address() else { return };
    let w = World::start().await;
    let hooks = Hooks::at(ip, |_, _| Some(json!({"allowed": false, "status": {"message": "seen"}}))).await;
    let mut hook = hooks.hook("behind", json!({}));
    hook["clientConfig"] = json!({"service": {"namespace": "default", "name": "hooks", "path": "/behind", "port": 8443}, "caBundle": BASE64.encode(&hooks.ca_pem)});
    register(&w, VALIDATING, "v", vec![hook]).await;
    let admin = w.admin();
    let absent = admin.post(MAPS, &map("a")).await;
    let told = "Internal error occurred: failed calling webhook \"behind.example.com\": failed to call webhook: Post \"https://hooks.default.svc:8443/behind?timeout=10s\": service \"hooks\" not found";
    assert_eq!((absent.status.as_u16(), absent.json()["message"].as_str()), (500, Some(told)));
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hooks"}, "spec": {"ports": [{"name": "https", "port": 8443}]}});
    assert_eq!(admin.post("/api/v1/namespaces/default/services", &service).await.status, StatusCode::CREATED);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "hooks-1", "labels": {"kubernetes.io/service-name": "hooks"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}], "ports": [{"name": "https", "port": hooks.address.port(), "protocol": "TCP"}]});
    let made = admin.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let refused = admin.post(MAPS, &map("a")).await;
    let denied = "admission webhook \"behind.example.com\" denied the request: seen";
    assert_eq!((refused.status.as_u16(), refused.json()["message"].as_str()), (400, Some(denied)), "a denial without a code");
}

#[tokio::test]
async fn a_denial_stands_and_nothing_is_stored() {
    let w = World::start().await;
    let hooks = Hooks::start(|_, r| {
        let bad = r["object"]["data"]["bad"] == "yes";
        Some(json!({"allowed": !bad, "status": {"code": 403, "message": "bad is not good"}, "warnings": ["looked at"]}))
    })
    .await;
    register(&w, VALIDATING, "v", vec![hooks.hook("deny", json!({}))]).await;
    let good = w.admin().post(MAPS, &map("good")).await;
    assert_eq!((good.status, good.header("warning").as_str()), (StatusCode::CREATED, "299 - \"looked at\""));
    let mut bad = map("bad");
    bad["data"]["bad"] = "yes".into();
    let refused = w.admin().post(MAPS, &bad).await;
    assert_eq!((refused.status, refused.json()["message"].as_str()), (StatusCode::FORBIDDEN, Some("admission webhook \"deny.example.com\" denied the request: bad is not good")));
    assert_eq!(w.admin().get(&format!("{MAPS}/bad")).await.status, StatusCode::NOT_FOUND);
    let patched = w.admin().send(Method::PATCH, &format!("{MAPS}/good"), "application/merge-patch+json", br#"{"data":{"bad":"yes"}}"#.to_vec()).await;
    assert_eq!(patched.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_hook_that_does_not_answer_fails_or_is_left_out_as_its_policy_says() {
    let w = World::start().await;
    let hooks = Hooks::start(|_, _| None).await;
    register(&w, VALIDATING, "slow", vec![hooks.hook("slow", json!({"timeoutSeconds": 1, "failurePolicy": "Fail"}))]).await;
    let refused = w.admin().post(MAPS, &map("a")).await;
    assert_eq!((refused.status.as_u16(), refused.json()["reason"].as_str()), (500, Some("InternalError")));
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Internal error occurred: failed calling webhook \"slow.example.com\": failed to call webhook: Post \"https://127.0.0.1:"), "{message}");
    assert!(message.ends_with("/slow?timeout=1s\": context deadline exceeded"), "{message}");
    let lax = json!({"webhooks": [hooks.hook("slow", json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"}))]}).to_string();
    let put = w.admin().send(Method::PATCH, &format!("{GROUP}/validatingwebhookconfigurations/slow"), "application/merge-patch+json", lax.into_bytes()).await;
    assert_eq!(put.status, StatusCode::OK, "{}", put.text());
    assert_eq!(w.admin().post(MAPS, &map("a")).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_hook_of_another_authority_is_not_believed() {
    let w = World::start().await;
    let hooks = Hooks::start(|_, _| Some(json!({"allowed": true}))).await;
    let other = Hooks::start(|_, _| None).await;
    let mut hook = hooks.hook("foreign", json!({}));
    hook["clientConfig"]["caBundle"] = BASE64.encode(&other.ca_pem).into();
    register(&w, VALIDATING, "v", vec![hook]).await;
    let refused = w.admin().post(MAPS, &map("a")).await;
    assert_eq!(refused.status.as_u16(), 500, "{}", refused.text());
    assert!(hooks.seen().is_empty());
}

#[tokio::test]
async fn hooks_run_by_name_and_those_that_ask_see_later_changes() {
    let w = World::start().await;
    // "first" counts what is there each time it is called; "second" adds a key.
    let hooks = Hooks::start(|path, r| {
        let keys = r["object"]["data"].as_object().map_or(0, |d| d.len());
        Some(match path {
            "/first" => patch(json!([{"op": "add", "path": "/metadata/annotations", "value": {"keys": keys.to_string()}}])),
            _ => patch(json!([{"op": "add", "path": "/data/second", "value": "1"}])),
        })
    })
    .await;
    register(&w, MUTATING, "b", vec![hooks.hook("second", json!({}))]).await;
    register(&w, MUTATING, "a", vec![hooks.hook("first", json!({"reinvocationPolicy": "IfNeeded"}))]).await;
    let made = w.admin().post(MAPS, &map("x")).await.json();
    assert_eq!((made["metadata"]["annotations"]["keys"].as_str(), hooks.seen().len()), (Some("2"), 3), "first, second, first again");
}

#[tokio::test]
async fn selectors_conditions_and_side_effects_decide_who_is_called() {
    let w = World::start().await;
    let hooks = Hooks::start(|_, _| Some(json!({"allowed": false}))).await;
    let by_label = json!({"objectSelector": {"matchLabels": {"watched": "yes"}}});
    let by_condition = json!({"matchConditions": [{"name": "c", "expression": "object.metadata.name.startsWith('secret-')"}]});
    let by_namespace = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}});
    let effects = json!({"sideEffects": "NoneOnDryRun", "objectSelector": {"matchLabels": {"none": "such"}}});
    register(
        &w,
        VALIDATING,
        "v",
        vec![hooks.hook("label", by_label), hooks.hook("condition", by_condition), hooks.hook("namespace", by_namespace), hooks.hook("effects", effects)],
    )
    .await;
    let admin = w.admin();
    assert_eq!(admin.post(MAPS, &map("plain")).await.status, StatusCode::CREATED);
    let mut labelled = map("labelled");
    labelled["metadata"]["labels"] = json!({"watched": "yes"});
    assert!(admin.post(MAPS, &labelled).await.text().contains("label.example.com"));
    assert!(admin.post(MAPS, &map("secret-1")).await.text().contains("condition.example.com"));
    assert!(admin.post("/api/v1/namespaces/kube-system/configmaps", &map("x")).await.text().contains("namespace.example.com"));
    assert_eq!(admin.post(&format!("{MAPS}?dryRun=All"), &map("dry")).await.status, StatusCode::CREATED);
    assert_eq!(hooks.seen().len(), 3);
}

#[tokio::test]
async fn a_denied_exec_never_reaches_the_node() {
    let w = World::start().await;
    let admin = w.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(admin.post("/api/v1/namespaces/default/pods", &pod).await.status, StatusCode::CREATED);
    let hooks = Hooks::start(|_, _| Some(json!({"allowed": false, "status": {"code": 403, "message": "no shells"}}))).await;
    let rules = json!({"rules": [{"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/exec"]}]});
    register(&w, VALIDATING, "v", vec![hooks.hook("exec", rules)]).await;
    let refused = admin.send(Method::POST, "/api/v1/namespaces/default/pods/p/exec?command=sh&stdin=1", "application/json", vec![]).await;
    assert!(refused.text().contains("admission webhook \\\"exec.example.com\\\" denied the request: no shells"), "{}", refused.text());
    let r = &hooks.seen()[0];
    assert_eq!((&r["operation"], &r["subResource"], &r["kind"]["kind"]), (&json!("CONNECT"), &json!("exec"), &json!("PodExecOptions")));
    assert_eq!(r["object"], json!({"apiVersion": "v1", "kind": "PodExecOptions", "command": ["sh"], "stdin": true}));
}
