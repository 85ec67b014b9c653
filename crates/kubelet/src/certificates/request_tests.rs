use super::*;
use http::{Method, Response};
use http_body_util::BodyExt;
use keles_serve::{Body, body};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

const LONG: Duration = Duration::from_secs(3600);

/// An API server with one request at most, whose status becomes each of `statuses` while it is watched.
#[derive(Clone)]
struct Fake {
    there: Arc<Mutex<Option<Value>>>,
    statuses: Vec<Value>,
}

impl Fake {
    fn new(there: Option<Value>, statuses: Vec<Value>) -> (Fake, kube::Client) {
        let fake = Fake { there: Arc::new(Mutex::new(there)), statuses };
        let served = fake.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let fake = served.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        (fake, keles_client::in_process(service))
    }

    fn there(&self) -> Value {
        self.there.lock().expect("not poisoned").clone().expect("a request")
    }

    async fn answer(&self, request: http::Request<kube::client::Body>) -> Response<Body> {
        let (parts, sent) = request.into_parts();
        let plain = |value: Value| Response::new(body::full(value.to_string()));
        let query = parts.uri.query().unwrap_or_default();
        if parts.method == Method::POST {
            let mut posted: Value = serde_json::from_slice(&sent.collect().await.expect("a body").to_bytes()).expect("JSON");
            let mut there = self.there.lock().expect("not poisoned");
            if there.is_some() {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "AlreadyExists", "message": "there", "code": 409});
                return Response::builder().status(409).body(body::full(status.to_string())).expect("an answer");
            }
            let name = posted["metadata"]["name"].as_str().unwrap_or("csr-made").to_owned();
            posted["metadata"] = json!({"name": name, "uid": "u1", "resourceVersion": "1"});
            *there = Some(posted.clone());
            return plain(posted);
        }
        if query.contains("watch=") {
            let lines: Vec<_> = self.statuses.iter().map(|status| self.event(status)).collect();
            return Response::new(body::stream(futures::stream::iter(lines).chain(futures::stream::pending())));
        }
        if parts.uri.path().ends_with("/certificatesigningrequests") {
            return plain(json!({"kind": "CertificateSigningRequestList", "apiVersion": "certificates.k8s.io/v1", "metadata": {"resourceVersion": "1"}, "items": [self.there()]}));
        }
        plain(self.there())
    }

    fn event(&self, status: &Value) -> bytes::Bytes {
        let mut object = self.there();
        object["status"] = status.clone();
        object["apiVersion"] = json!("certificates.k8s.io/v1");
        object["kind"] = json!("CertificateSigningRequest");
        object["metadata"]["resourceVersion"] = json!("2");
        format!("{}\n", json!({"type": "MODIFIED", "object": object})).into()
    }
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Why", "message": "because"})
}

fn issued() -> Value {
    json!({"conditions": [condition("Approved")], "certificate": ByteString(b"PEM".to_vec())})
}

async fn asked(statuses: Vec<Value>) -> Result<String, RequestError> {
    let key = RequestKey::generate().expect("a key");
    let (_, client) = Fake::new(None, statuses);
    ask(&client, &Wanted::client("n1"), &key, Name::Any, LONG).await
}

#[tokio::test]
async fn a_request_is_posted_and_its_certificate_is_the_answer_once_approved_and_issued() {
    let key = RequestKey::generate().expect("a key");
    let (fake, client) = Fake::new(None, vec![json!({"certificate": ByteString(b"unapproved".to_vec())}), json!({"conditions": [condition("Approved")]}), issued()]);
    assert_eq!(ask(&client, &Wanted::client("n1"), &key, Name::OfKey, LONG).await.expect("issued"), "PEM");
    let posted = fake.there();
    assert_eq!(posted["metadata"]["name"], key.request_name("system:node:n1", "system:nodes", &["digital signature", "client auth"]));
    assert_eq!((&posted["spec"]["signerName"], &posted["spec"]["usages"]), (&json!(CLIENT_SIGNER), &json!(["digital signature", "client auth"])));
}

#[tokio::test]
async fn a_verdict_against_it_is_told_in_words() {
    let denied = asked(vec![json!({"conditions": [condition("Denied")]})]).await.expect_err("denied");
    assert_eq!(denied.to_string(), "certificate signing request csr-made is denied, reason: Why, message: because");
    let failed = asked(vec![json!({"conditions": [condition("Approved"), condition("Failed")]})]).await.expect_err("failed");
    assert!(failed.to_string().contains("failed, reason: Why"), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let error = asked(vec![]).await.expect_err("nobody decides");
    assert!(matches!(error, RequestError::TimedOut { .. }) && error.to_string().contains("kubectl certificate approve csr-made"), "{error}");
}

fn found(key: &RequestKey, wanted: &Wanted) -> CertificateSigningRequest {
    let request = key.request(&wanted.user(), GROUP, &wanted.names).expect("made");
    let spec = CertificateSigningRequestSpec { request: ByteString(request.into_bytes()), signer_name: wanted.signer.into(), ..Default::default() };
    CertificateSigningRequest { metadata: ObjectMeta { name: Some("found".into()), uid: Some("u0".into()), ..Default::default() }, spec, status: None }
}

#[tokio::test]
async fn a_request_of_an_earlier_start_is_waited_for_if_it_is_ours() {
    let (key, wanted) = (RequestKey::generate().expect("a key"), Wanted::client("n1"));
    let there = serde_json::to_value(found(&key, &wanted)).expect("JSON");
    let (_, client) = Fake::new(Some(there), vec![issued()]);
    assert_eq!(ask(&client, &wanted, &key, Name::OfKey, LONG).await.expect("issued"), "PEM");
    let other = RequestKey::generate().expect("a key");
    assert!(matches!(ask(&client, &wanted, &other, Name::OfKey, LONG).await, Err(RequestError::Foreign { why: "another key", .. })));
}

#[test]
fn what_is_of_another_or_over_is_not_ours() {
    let (key, wanted, now) = (RequestKey::generate().expect("a key"), Wanted::client("n1"), Timestamp::now());
    let ours = found(&key, &wanted);
    assert_eq!(check(&ours, &wanted, &key, now), Ok(()));
    assert_eq!(check(&ours, &Wanted::client("n2"), &key, now), Err("another subject"));
    assert_eq!(check(&ours, &Wanted::serving("n1", Names::default()), &key, now), Err("another signer"));
    let pem = keles_pki::self_signed("x", &Names::default()).expect("made").certificate_pem;
    let mut over = ours;
    over.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
    assert_eq!(check(&over, &wanted, &key, now), Ok(()));
    assert_eq!(check(&over, &wanted, &key, now + jiff::SignedDuration::from_hours(24 * 400)), Err("its certificate has expired"));
}
