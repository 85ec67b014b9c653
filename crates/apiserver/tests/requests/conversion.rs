//! Custom resources of several versions whose conversion a webhook makes, over real TLS: every verb in every version, another storage
//! version, and webhooks that lie, fail or are not there.

use crate::world::peer::Stand;
use crate::world::{Client, World};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Method, Response, StatusCode};
use keles_serve::body;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::DropGuard;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const OWN: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/doors.example.org";
const V1: &str = "/apis/example.org/v1/namespaces/default/doors";
const V2: &str = "/apis/example.org/v2/namespaces/default/doors";
const PATIENCE: Duration = Duration::from_secs(60);

/// What a webhook does with the review it has made; a text is an HTTP error.
type Twist = Arc<dyn Fn(&mut Value) -> Option<StatusCode> + Send + Sync>;

/// v1 has `spec.at: "host:port"`, v2 `spec.host` and `spec.port`.
struct Converter {
    address: SocketAddr,
    ca_pem: String,
    /// How many objects each review held.
    seen: Arc<Mutex<Vec<usize>>>,
    twist: Arc<Mutex<Option<Twist>>>,
    _serving: DropGuard,
}

fn converted(o: &Value, to: &str) -> Value {
    let mut o = o.clone();
    let spec = &o["spec"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let new = match (to, spec.get("at")) {
        ("example.org/v2", Some(at)) => {
            let at = text(at);
            let (host, port) = at.split_once(':').unwrap_or((&at, ""));
            json!({"host": host, "port": port})
        }
        ("example.org/v1", None) if spec.get("host").is_some() => json!({"at": format!("{}:{}", text(&spec["host"]), text(&spec["port"]))}),
        _ => spec.clone(),
    };
    o["spec"] = new;
    o["apiVersion"] = to.into();
    o
}

impl Converter {
    async fn start() -> Converter {
        let stand = Stand::open(Ipv4Addr::LOCALHOST.into(), "hooks", &[], None).await;
        let (address, ca_pem) = (stand.address, stand.ca_pem.clone());
        let (seen, twist) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None::<Twist>)));
        let (all, how) = (seen.clone(), twist.clone());
        let connect = move |_| {
            let (all, how) = (all.clone(), how.clone());
            move |r: http::Request<hyper::body::Incoming>| {
                let (all, how) = (all.clone(), how.clone());
                async move {
                    let review: Value = serde_json::from_slice(&body::read(r.into_body(), 16 << 20).await.unwrap()).unwrap();
                    let request = &review["request"];
                    let objects = request["objects"].as_array().unwrap();
                    all.lock().unwrap().push(objects.len());
                    let to = request["desiredAPIVersion"].as_str().unwrap();
                    let out: Vec<Value> = objects.iter().map(|o| converted(o, to)).collect();
                    let mut answer = json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview",
                        "response": {"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": out}});
                    let twist = how.lock().unwrap().clone();
                    let code = twist.and_then(|t| t(&mut answer)).unwrap_or(StatusCode::OK);
                    let mut r = Response::new(body::full(answer.to_string()));
                    *r.status_mut() = code;
                    r
                }
            }
        };
        Converter { address, ca_pem, seen, twist, _serving: stand.serve(connect) }
    }
    fn calls(&self) -> Vec<usize> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
    fn twisted(&self, f: impl Fn(&mut Value) -> Option<StatusCode> + Send + Sync + 'static) {
        *self.twist.lock().unwrap() = Some(Arc::new(f));
    }
    fn honest(&self) {
        *self.twist.lock().unwrap() = None;
    }
    fn config(&self) -> Value {
        json!({"url": format!("https://{}/convert", self.address), "caBundle": BASE64.encode(&self.ca_pem)})
    }
}

fn doors(client: Value) -> Value {
    let version = |name: &str, storage: bool, properties: Value| {
        json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {}},
            "selectableFields": if name == "v2" { json!([{"jsonPath": ".spec.host"}]) } else { json!([]) },
            "additionalPrinterColumns": if name == "v2" { json!([{"name": "Host", "type": "string", "jsonPath": ".spec.host"}]) } else { json!([]) },
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": properties}, "status": {"type": "object", "properties": {"open": {"type": "boolean"}}}}}}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "doors.example.org"}, "spec": {
    "group": "example.org", "scope": "Namespaced", "names": {"plural": "doors", "singular": "door", "kind": "Door", "listKind": "DoorList"},
    "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1", "v1beta1"], "clientConfig": client}},
    "versions": [
        version("v1", true, json!({"at": {"type": "string", "pattern": "^[a-z]+:[0-9]+$"}})),
        version("v2", false, json!({"host": {"type": "string", "maxLength": 8}, "port": {"type": "string", "default": "80"}})),
    ]}})
}

fn door(version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("example.org/{version}"), "kind": "Door", "metadata": {"name": name}, "spec": spec})
}

/// Waits until the kinds that are served have changed and the definition says so.
async fn served(w: &World, act: impl Future<Output = ()>) {
    let mut kinds = w.server().registry().kinds_changed();
    kinds.borrow_and_update();
    act.await;
    tokio::time::timeout(PATIENCE, kinds.changed()).await.expect("the kind is served").expect("the registry lives");
}

async fn world(client: Value) -> (World, Client) {
    let w = World::start().await;
    let c = w.admin();
    served(&w, async {
        let made = c.post(CRDS, &doors(client)).await;
        assert_eq!(made.status, 201, "{}", made.text());
    })
    .await;
    (w, c)
}

async fn patch(c: &Client, path: &str, media: &str, body: Value) -> crate::world::Reply {
    c.send(Method::PATCH, path, media, body.to_string().into_bytes()).await
}

/// What lies in the store.
async fn stored(w: &World, name: &str) -> Value {
    let page = w.store().range(format!("/registry/example.org/doors/default/{name}").as_bytes(), None, 0, None).await.unwrap();
    serde_json::from_slice(&page.entries[0].value).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_is_written_and_read_and_one_is_stored() {
    let hook = Converter::start().await;
    let (w, c) = world(hook.config()).await;
    let made = c.post(V2, &door("v2", "a", json!({"host": "front"}))).await;
    assert_eq!((made.status.as_u16(), made.json()["spec"].clone()), (201, json!({"host": "front", "port": "80"})), "{}", made.text());
    let raw = stored(&w, "a").await;
    assert_eq!((&raw["apiVersion"], &raw["spec"]), (&json!("example.org/v1"), &json!({"at": "front:80"})));
    hook.calls();
    assert_eq!(c.get(&format!("{V1}/a")).await.json()["spec"], json!({"at": "front:80"}));
    assert_eq!(c.get(V1).await.json()["items"][0]["spec"], json!({"at": "front:80"}));
    assert_eq!(hook.calls(), [0usize; 0], "the version that is stored is read without asking anybody");
    for name in ["b", "c"] {
        assert_eq!(c.post(V1, &door("v1", name, json!({"at": "back:81"}))).await.status, 201);
    }
    assert_eq!(hook.calls(), [0usize; 0]);
    let list = c.get(V2).await.json();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("DoorList"), &json!("example.org/v2")));
    let hosts: Vec<_> = list["items"].as_array().unwrap().iter().map(|o| (o["apiVersion"].clone(), o["spec"]["host"].clone())).collect();
    assert_eq!(hosts, [(json!("example.org/v2"), json!("front")), (json!("example.org/v2"), json!("back")), (json!("example.org/v2"), json!("back"))]);
    assert!(hook.calls().len() <= 2, "a list converts in batches");
    c.get(V2).await;
    assert_eq!(hook.calls(), [0usize; 0], "what was converted once is kept");
    let chosen = c.get(&format!("{V2}?fieldSelector=spec.host%3Dfront")).await.json();
    assert_eq!(chosen["items"].as_array().map(Vec::len), Some(1), "selectable fields are those of the version asked in");
    let table = c.clone().with_header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").get(V2).await.json();
    assert_eq!(table["rows"][0]["cells"], json!(["a", "front"]), "columns are those of the version asked in");
    // Validation is by the version asked in.
    let long = c.post(V2, &door("v2", "d", json!({"host": "muchtoolong"}))).await;
    assert_eq!(long.status, 422, "{}", long.text());
    assert_eq!(c.post(V1, &door("v1", "d", json!({"at": "NO"}))).await.status, 422);
    let merged = patch(&c, &format!("{V2}/a"), "application/merge-patch+json", json!({"spec": {"port": "90"}})).await;
    assert_eq!(merged.json()["spec"], json!({"host": "front", "port": "90"}), "{}", merged.text());
    assert_eq!(stored(&w, "a").await["spec"], json!({"at": "front:90"}));
    let mut old = c.get(&format!("{V2}/a")).await.json();
    old["spec"]["host"] = "side".into();
    assert_eq!(c.put(&format!("{V2}/a"), &old).await.json()["spec"], json!({"host": "side", "port": "90"}));
    let same = c.get(&format!("{V2}/a")).await.json();
    let again = c.put(&format!("{V2}/a"), &same).await.json();
    assert_eq!(again["metadata"]["resourceVersion"], same["metadata"]["resourceVersion"], "a write that changes nothing is none");
    let mut status = again.clone();
    status["status"] = json!({"open": true});
    let told = c.put(&format!("{V2}/a/status"), &status).await;
    assert_eq!(told.json()["status"], json!({"open": true}), "{}", told.text());
    assert_eq!(c.get(&format!("{V1}/a")).await.json()["spec"], json!({"at": "side:90"}));
    let gone = c.send(Method::DELETE, &format!("{V2}/a"), "application/json", Vec::new()).await;
    assert_eq!(gone.status, 200, "{}", gone.text());
    assert_eq!(c.get(&format!("{V1}/a")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_of_fields_are_followed_through_versions() {
    let hook = Converter::start().await;
    let (_w, c) = world(hook.config()).await;
    const APPLY: &str = "application/apply-patch+yaml";
    let first = patch(&c, &format!("{V1}/a?fieldManager=one"), APPLY, door("v1", "a", json!({"at": "front:80"}))).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let taken = patch(&c, &format!("{V2}/a?fieldManager=two"), APPLY, door("v2", "a", json!({"host": "back", "port": "80"}))).await;
    assert_eq!(taken.status, 409, "{}", taken.text());
    let forced = patch(&c, &format!("{V2}/a?fieldManager=two&force=true"), APPLY, door("v2", "a", json!({"host": "back", "port": "80"}))).await.json();
    assert_eq!(forced["spec"], json!({"host": "back", "port": "80"}));
    let fields = |o: &Value, manager: &str| {
        o["metadata"]["managedFields"].as_array().into_iter().flatten().find(|m| m["manager"] == manager).map(|m| (m["apiVersion"].clone(), m["fieldsV1"]["f:spec"].clone()))
    };
    assert_eq!(fields(&forced, "two"), Some((json!("example.org/v2"), json!({"f:host": {}, "f:port": {}}))));
    assert_eq!(fields(&forced, "one"), None, "whose only field was taken owns nothing any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_an_older_storage_version_are_served_and_moved_by_any_write() {
    let hook = Converter::start().await;
    let (w, c) = world(hook.config()).await;
    assert_eq!(c.post(V1, &door("v1", "a", json!({"at": "front:80"}))).await.status, 201);
    let mut d = c.get(OWN).await.json();
    served(&w, async {
        d["spec"]["versions"][0]["storage"] = false.into();
        d["spec"]["versions"][1]["storage"] = true.into();
        let put = c.put(OWN, &d).await;
        assert_eq!(put.json()["status"]["storedVersions"], json!(["v1", "v2"]), "{}", put.text());
    })
    .await;
    assert_eq!(stored(&w, "a").await["apiVersion"], "example.org/v1");
    hook.calls();
    assert_eq!(c.get(&format!("{V1}/a")).await.json()["spec"], json!({"at": "front:80"}));
    assert_eq!(hook.calls(), [0usize; 0], "an object asked for in the version it is stored in is not converted");
    let now = c.get(&format!("{V2}/a")).await.json();
    assert_eq!((&now["apiVersion"], &now["spec"]), (&json!("example.org/v2"), &json!({"host": "front", "port": "80"})));
    assert_eq!(c.post(V2, &door("v2", "b", json!({"host": "new", "port": "1"}))).await.status, 201);
    let list = c.get(V1).await.json();
    let all: Vec<_> = list["items"].as_array().unwrap().iter().map(|o| (o["apiVersion"].as_str().unwrap(), o["spec"]["at"].as_str().unwrap())).collect();
    assert_eq!(all, [("example.org/v1", "front:80"), ("example.org/v1", "new:1")], "a list whose objects are stored in two versions");
    // A version that may still be stored cannot be dropped.
    let mut fewer = c.get(OWN).await.json();
    fewer["spec"]["versions"].as_array_mut().unwrap().remove(0);
    let refused = c.put(OWN, &fewer).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("status.storedVersions[0]"), "{}", refused.text());
    let before = now["metadata"]["resourceVersion"].clone();
    let touched = c.put(&format!("{V2}/a"), &now).await.json();
    assert_ne!(touched["metadata"]["resourceVersion"], before, "a write that changes nothing moves the object to the storage version");
    assert_eq!(stored(&w, "a").await["spec"], json!({"host": "front", "port": "80"}));
    let moved = patch(&c, &format!("{OWN}/status"), "application/merge-patch+json", json!({"status": {"storedVersions": ["v2"]}})).await;
    assert_eq!(moved.status, 200, "{}", moved.text());
    served(&w, async {
        let mut fewer = c.get(OWN).await.json();
        fewer["spec"]["versions"].as_array_mut().unwrap().remove(0);
        let put = c.put(OWN, &fewer).await;
        assert_eq!(put.status, 200, "{}", put.text());
    })
    .await;
    assert_eq!(c.get(V1).await.status, 404);
    assert_eq!(c.get(V2).await.json()["items"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_shows_objects_in_the_version_it_asks_for() {
    let hook = Converter::start().await;
    let (_w, c) = world(hook.config()).await;
    assert_eq!(c.post(V1, &door("v1", "a", json!({"at": "front:80"}))).await.status, 201);
    let rv = c.get(V1).await.json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    assert_eq!(c.post(V1, &door("v1", "b", json!({"at": "back:81"}))).await.status, 201);
    patch(&c, &format!("{V1}/a"), "application/merge-patch+json", json!({"spec": {"at": "side:82"}})).await;
    c.send(Method::DELETE, &format!("{V1}/b"), "application/json", Vec::new()).await;
    let events = |text: String| -> Vec<(String, Value, Value)> {
        let all = serde_json::Deserializer::from_str(&text).into_iter::<Value>().map(Result::unwrap);
        all.map(|e| (e["type"].as_str().unwrap().to_owned(), e["object"]["apiVersion"].clone(), e["object"]["spec"]["host"].clone())).collect()
    };
    let v2 = json!("example.org/v2");
    let seen = events(c.get(&format!("{V2}?watch=1&timeoutSeconds=1&resourceVersion={rv}")).await.text());
    assert_eq!(seen, [("ADDED".to_owned(), v2.clone(), json!("back")), ("MODIFIED".to_owned(), v2.clone(), json!("side")), ("DELETED".to_owned(), v2.clone(), json!("back"))]);
    let first = events(c.get(&format!("{V2}?watch=1&timeoutSeconds=1")).await.text());
    assert_eq!(first, [("ADDED".to_owned(), v2.clone(), json!("side"))]);
    // Entering and leaving a selection of fields that only this version has.
    let chosen = events(c.get(&format!("{V2}?watch=1&timeoutSeconds=1&resourceVersion={rv}&fieldSelector=spec.host%3Dfront")).await.text());
    assert_eq!(chosen, [("DELETED".to_owned(), v2, json!("front"))]);
    hook.twisted(|_| Some(StatusCode::INTERNAL_SERVER_ERROR));
    patch(&c, &format!("{V1}/a"), "application/merge-patch+json", json!({"spec": {"at": "other:83"}})).await;
    let broken = c.get(&format!("{V2}?watch=1&timeoutSeconds=1&resourceVersion={rv}")).await.text();
    assert!(broken.contains("\"type\":\"ERROR\"") && broken.contains("conversion webhook for example.org/v1, Kind=Door failed: an error on the server"), "{broken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_that_lie_fail_or_are_not_there_are_told_and_harm_nothing_else() {
    let hook = Converter::start().await;
    let (w, c) = world(hook.config()).await;
    assert_eq!(c.post(V1, &door("v1", "a", json!({"at": "front:80"}))).await.status, 201);
    let told = async |twist: fn(&mut Value) -> Option<StatusCode>| {
        hook.twisted(twist);
        let r = c.get(&format!("{V2}/a")).await;
        hook.honest();
        assert_eq!(r.status, 500, "{}", r.text());
        r.json()["message"].as_str().unwrap().to_owned()
    };
    const AT: &str = "conversion webhook for example.org/v1, Kind=Door ";
    let uid = told(|a| {
        a["response"]["uid"] = "x".into();
        None
    })
    .await;
    assert!(uid.starts_with(&format!("{AT}failed: expected response.uid=")), "{uid}");
    assert_eq!(
        told(|a| {
            a["response"]["result"] = json!({"status": "Failed", "message": "not today"});
            None
        })
        .await,
        format!("{AT}failed: not today")
    );
    assert_eq!(
        told(|a| {
            a["response"]["convertedObjects"] = json!([]);
            None
        })
        .await,
        format!("{AT}returned 0 objects, expected 1")
    );
    assert_eq!(
        told(|a| {
            a["response"]["convertedObjects"][0]["metadata"]["name"] = "b".into();
            None
        })
        .await,
        format!("{AT}returned invalid object at index 0: must have the same name: a != b")
    );
    let code = told(|_| Some(StatusCode::NOT_FOUND)).await;
    assert_eq!(code, format!("{AT}failed: the server could not find the requested resource"), "an answer is an answer: no address stands before it");
    hook.twisted(|_| Some(StatusCode::BAD_GATEWAY));
    assert_eq!(c.post(V2, &door("v2", "b", json!({"host": "x", "port": "1"}))).await.status, 500);
    assert_eq!(c.get(&format!("{V1}/b")).await.status, 404, "nothing was stored");
    assert_eq!(c.get(V1).await.status, 200, "the stored version needs nobody");
    hook.honest();
    // Nobody listens.
    let mut d = c.get(OWN).await.json();
    let port = {
        let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        l.local_addr().unwrap().port()
    };
    d["spec"]["conversion"]["webhook"]["clientConfig"]["url"] = format!("https://127.0.0.1:{port}/convert").into();
    served(&w, async { assert_eq!(c.put(OWN, &d).await.status, 200) }).await;
    let refused = c.get(&format!("{V2}/a")).await.json()["message"].as_str().unwrap().to_owned();
    assert_eq!(refused, format!("{AT}failed: Post \"https://127.0.0.1:{port}/convert?timeout=30s\": dial tcp 127.0.0.1:{port}: connect: connection refused"));
    // A Service that is not there.
    let mut d = c.get(OWN).await.json();
    let client = json!({"service": {"namespace": "default", "name": "nobody", "path": "/convert", "port": 443}, "caBundle": BASE64.encode(&hook.ca_pem)});
    d["spec"]["conversion"]["webhook"]["clientConfig"] = client;
    served(&w, async {
        let r = c.put(OWN, &d).await;
        assert_eq!(r.status, 200, "{}", r.text())
    })
    .await;
    let absent = c.get(&format!("{V2}/a")).await.json()["message"].as_str().unwrap().to_owned();
    assert!(absent.starts_with(&format!("{AT}failed: Post \"https://nobody.default.svc:443/convert?timeout=30s\": ")) && absent.contains("\"nobody\" not found"), "{absent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_of_policies_are_in_the_version_that_the_policy_names() {
    let hook = Converter::start().await;
    let (w, c) = world(hook.config()).await;
    let made = c.post(V1, &door("v1", "limit", json!({"at": "front:80"}))).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let policies = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": {
        "paramKind": {"apiVersion": "example.org/v2", "kind": "Door"},
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "object.metadata.name == params.spec.host && params.apiVersion == 'example.org/v2'", "message": "not that door"}]}});
    let binding = |reference: Value| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "b"},
            "spec": {"policyName": "p", "validationActions": ["Deny"], "paramRef": reference}})
    };
    assert_eq!(c.post(&format!("{policies}/validatingadmissionpolicies"), &policy).await.status, 201);
    let bindings = format!("{policies}/validatingadmissionpolicybindings");
    let maps = "/api/v1/namespaces/default/configmaps?dryRun=All";
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    for reference in [json!({"name": "limit", "parameterNotFoundAction": "Deny"}), json!({"selector": {}, "parameterNotFoundAction": "Deny"})] {
        let made = c.post(&bindings, &binding(reference)).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let good = c.post(maps, &map("front")).await;
        assert_eq!(good.status, 201, "{}", good.text());
        let bad = c.post(maps, &map("back")).await;
        assert_eq!(bad.status, 422, "{}", bad.text());
        assert!(bad.text().contains("not that door"), "{}", bad.text());
        assert_eq!(c.send(Method::DELETE, &format!("{bindings}/b"), "", Vec::new()).await.status, 200);
    }
    drop(w);
}
