//! Conversion by webhook: the `ConversionReview` that goes out, and what may come back.
//!
//! Entry point: [`Conversion::convert`]. A webhook may change everything but an object's identity: of metadata only labels and annotations
//! are taken over. Deliberately absent: how the webhook is reached ([`Webhook`], in `apiserver`), and when ([`keles_registry`]).
//! Source: k8s.io/apiextensions-apiserver/pkg/apiserver/conversion.

use crate::definition::Definition;
use keles_api::{GroupVersion, Object, Path, Problems, Status, meta};
use serde_json::{Map, Value, json};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

const GROUP: &str = "apiextensions.k8s.io";
/// Versions of the review that we speak.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// The answer to a review, or why there is none.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<Value, String>> + Send + 'a>>;

/// Who converts.
pub trait Webhook: Send + Sync {
    /// Posts a review.
    fn post(&self, review: Value) -> Answering<'_>;
}

/// How the objects of a definition change their version.
pub struct Conversion {
    hook: Arc<dyn Webhook>,
    /// Versions of the review that the webhook knows, the best first.
    reviews: Vec<String>,
    group: String,
    versions: Vec<String>,
}

impl Conversion {
    pub fn new(d: &Definition, hook: Arc<dyn Webhook>) -> Self {
        let webhook = d.spec.conversion.as_ref().and_then(|c| c.webhook.as_ref());
        let reviews = webhook.and_then(|w| w["conversionReviewVersions"].as_array()).into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        Conversion { hook, reviews, group: d.spec.group.clone(), versions: d.spec.versions.iter().map(|v| v.name.clone()).collect() }
    }

    /// Objects in the version `to`, in their order; those that have it already are not sent.
    pub async fn convert(&self, objects: Vec<Object>, to: &str) -> Result<Vec<Object>, Status> {
        self.converted(objects, to).await.map_err(|why| Status::failure(500, "", why))
    }

    async fn converted(&self, mut objects: Vec<Object>, to: &str) -> Result<Vec<Object>, String> {
        let (wanted, many) = (GroupVersion::new(&self.group, to).to_string(), objects.len() > 1);
        self.check(to, "to")?;
        let going: Vec<usize> = (0..objects.len()).filter(|i| objects[*i].api_version() != wanted).collect();
        let Some(first) = going.first().map(|i| &objects[*i]) else { return Ok(objects) };
        let shown = shown(first);
        for i in &going {
            let from = objects[*i].api_version();
            self.check(from.strip_prefix(&format!("{}/", self.group)).unwrap_or(from), "from")?;
        }
        let failed = |why: String| format!("conversion webhook for {shown} failed: {why}");
        let review = self.reviews.iter().find(|v| REVIEWS.contains(&v.as_str())).ok_or("webhook does not accept v1 or v1beta1 ConversionReview")?;
        let uid = uuid::Uuid::new_v4().to_string();
        let sent: Vec<&Value> = going.iter().map(|i| &objects[*i].0).collect();
        let body = json!({"kind": "ConversionReview", "apiVersion": format!("{GROUP}/{review}"), "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": sent}});
        let answer = self.hook.post(body).await.map_err(failed)?;
        let got = read(answer, review, &uid).map_err(failed)?;
        if got.len() != going.len() {
            return Err(format!("conversion webhook for {shown} returned {} objects, expected {}", got.len(), going.len()));
        }
        for (n, (i, new)) in going.iter().zip(got).enumerate() {
            let place = if many { format!("invalid converted object at index {n}") } else { "invalid object at index 0".to_owned() };
            let fits = fits(&objects[*i], &new, &wanted).map_err(|why| format!("conversion webhook for {shown} returned {place}: {why}"));
            fits?;
            let settled = settle(&objects[*i], new).map_err(|why| {
                let place = if many { format!("invalid metadata in object at index {n}") } else { "invalid metadata".to_owned() };
                format!("conversion webhook for {shown} returned {place}: {why}")
            });
            objects[*i] = settled?;
        }
        Ok(objects)
    }

    /// Whether the definition has a version.
    fn check(&self, version: &str, way: &str) -> Result<(), String> {
        if self.versions.iter().any(|v| v == version) {
            return Ok(());
        }
        Err(format!("request to convert CR {way} an invalid group/version: {}", GroupVersion::new(&self.group, version)))
    }
}

/// `example.com/v1, Kind=Widget`
fn shown(o: &Object) -> String {
    format!("{}, Kind={}", o.api_version(), o.kind())
}

/// The converted objects of an answer.
fn read(mut answer: Value, review: &str, uid: &str) -> Result<Vec<Value>, String> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&answer["apiVersion"]), text(&answer["kind"]));
    let expected = format!("{GROUP}/{review}");
    // Upstream looks at neither in v1beta1.
    let strict = review == "v1";
    if strict && (api_version != expected || kind != "ConversionReview") {
        return Err(format!("expected webhook response of {expected}, Kind=ConversionReview, got {api_version}, Kind={kind}"));
    }
    if !answer["response"].is_object() {
        return Err("no response provided".into());
    }
    let response = &mut answer["response"];
    if strict && text(&response["uid"]) != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(&response["uid"])));
    }
    let status = text(&response["result"]["status"]);
    if status != "Success" {
        let message = text(&response["result"]["message"]);
        return Err(if message.is_empty() { format!("response.result.status was '{status}', not 'Success'") } else { message });
    }
    match response["convertedObjects"].take() {
        Value::Array(all) => Ok(all),
        Value::Null => Ok(Vec::new()),
        _ => Err("response.convertedObjects is not a list".into()),
    }
}

/// What a conversion may not change: the version asked for, the kind and the identity.
fn fits(from: &Object, new: &Value, wanted: &str) -> Result<(), String> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    if !new.is_object() {
        return Err("it is not an object".into());
    }
    let got = text(&new["apiVersion"]);
    if got != wanted {
        return Err(format!("invalid groupVersion (expected {wanted}, received {got})"));
    }
    let kind = text(&new["kind"]);
    if kind != from.kind() {
        return Err(format!("invalid kind (expected {}, received {kind})", from.kind()));
    }
    let meta = |field: &str| new["metadata"].get(field).map(text).unwrap_or_default();
    for (what, before, after) in [("name", from.name(), meta("name")), ("namespace", from.namespace(), meta("namespace")), ("UID", from.uid(), meta("uid"))] {
        if before != after {
            return Err(format!("must have the same {what}: {before} != {after}"));
        }
    }
    Ok(())
}

/// A JSON type as Go names it.
fn go_type(v: &Value) -> &'static str {
    match v {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// The converted object with the metadata it had, but for labels and annotations.
fn settle(from: &Object, mut new: Value) -> Result<Object, String> {
    let said = match new.get("metadata") {
        None => return Err("missing metadata in converted object".into()),
        Some(Value::Object(m)) => m.clone(),
        Some(other) => return Err(format!("invalid metadata of type {} in converted object", go_type(other))),
    };
    let mut meta = from.at(&["metadata"]).as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        take_texts(field, &said, &mut meta)?;
    }
    new["metadata"] = Value::Object(meta);
    Ok(Object(new))
}

fn take_texts(field: &str, said: &Map<String, Value>, meta: &mut Map<String, Value>) -> Result<(), String> {
    let texts = match said.get(field) {
        None | Some(Value::Null) => {
            meta.remove(field);
            return Ok(());
        }
        Some(Value::Object(texts)) => texts,
        Some(other) => return Err(format!("invalid metadata.{field} of type {} in converted object", go_type(other))),
    };
    if let Some((k, v)) = texts.iter().find(|(_, v)| !v.is_string()) {
        return Err(format!("metadata.{field}[{k}] must be a string, but is {} in converted object", go_type(v)));
    }
    if meta.get(field).and_then(Value::as_object) != Some(texts) {
        let mut p = Problems::new();
        let (said, at) = (Value::Object(texts.clone()), Path::new("metadata").child(field));
        if field == "labels" {
            meta::validate_labels(&said, &at, &mut p)
        } else {
            meta::validate_annotations(&said, &at, &mut p)
        }
        let all: Vec<String> = p.iter().map(ToString::to_string).collect();
        match all.as_slice() {
            [] => {}
            [one] => return Err(one.clone()),
            many => return Err(format!("[{}]", many.join(", "))),
        }
    }
    meta.insert(field.to_owned(), Value::Object(texts.clone()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Answers with what `make` makes of the request.
    struct Hook<F>(F, Mutex<Vec<Value>>);

    impl<F: Fn(&Value) -> Value + Send + Sync> Webhook for Hook<F> {
        fn post(&self, review: Value) -> Answering<'_> {
            let answer = (self.0)(&review["request"]);
            self.1.lock().unwrap().push(review);
            Box::pin(std::future::ready(Ok(answer)))
        }
    }

    fn definition(reviews: Value) -> Definition {
        let d = json!({"spec": {"group": "g.io", "versions": [{"name": "v1"}, {"name": "v2"}], "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": reviews}}}});
        serde_json::from_value(d).unwrap()
    }
    fn object(version: &str, name: &str) -> Object {
        Object(
            json!({"apiVersion": format!("g.io/{version}"), "kind": "W", "metadata": {"name": name, "namespace": "n", "uid": "u", "labels": {"a": "b"}, "resourceVersion": "7"}, "spec": {"x": 1}}),
        )
    }
    fn success(r: &Value, change: impl Fn(&mut Value)) -> Value {
        let all: Vec<Value> = r["objects"]
            .as_array()
            .unwrap()
            .iter()
            .cloned()
            .map(|mut o| {
                o["apiVersion"] = r["desiredAPIVersion"].clone();
                change(&mut o);
                o
            })
            .collect();
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {"uid": r["uid"], "result": {"status": "Success"}, "convertedObjects": all}})
    }
    fn run(reviews: Value, objects: Vec<Object>, make: impl Fn(&Value) -> Value + Send + Sync + 'static) -> (Result<Vec<Object>, String>, Vec<Value>) {
        let hook = Arc::new(Hook(make, Mutex::default()));
        let c = Conversion::new(&definition(reviews), hook.clone());
        let done = futures_lite(c.converted(objects, "v2"));
        (done, std::mem::take(&mut *hook.1.lock().unwrap()))
    }
    /// Runs a future that never waits.
    fn futures_lite<T>(f: impl Future<Output = T>) -> T {
        let mut f = Box::pin(f);
        match f.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(t) => t,
            std::task::Poll::Pending => panic!("the hook answers at once"),
        }
    }
    fn why(make: impl Fn(&Value) -> Value + Send + Sync + 'static) -> String {
        run(json!(["v1"]), vec![object("v1", "a")], make).0.unwrap_err()
    }

    #[test]
    fn objects_of_other_versions_go_out_together_and_come_back_in_their_order() {
        let (done, sent) = run(json!(["v3", "v1"]), vec![object("v1", "a"), object("v2", "b"), object("v1", "c")], |r| success(r, |o| o["spec"]["y"] = 2.into()));
        let done = done.unwrap();
        assert_eq!(done.iter().map(Object::name).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(done.iter().all(|o| o.api_version() == "g.io/v2"));
        assert_eq!((done[0].at(&["spec", "y"]), done[1].at(&["spec", "y"])), (&json!(2), &Value::Null));
        assert_eq!(sent.len(), 1);
        assert_eq!((&sent[0]["apiVersion"], &sent[0]["request"]["desiredAPIVersion"]), (&json!("apiextensions.k8s.io/v1"), &json!("g.io/v2")));
        assert_eq!(sent[0]["request"]["objects"].as_array().unwrap().len(), 2);
        assert!(run(json!(["v1"]), vec![object("v2", "b")], |_| panic!("nothing to convert")).0.is_ok());
    }

    #[test]
    fn only_labels_and_annotations_of_metadata_are_taken_over() {
        let (done, _) = run(json!(["v1beta1"]), vec![object("v1", "a")], |r| {
            let mut a = success(r, |o| {
                o["metadata"] = json!({"name": "a", "namespace": "n", "uid": "u", "annotations": {"k": "v"}, "resourceVersion": "8", "finalizers": ["f"]});
            });
            // v1beta1 is not asked for its type and uid.
            a["apiVersion"] = "x".into();
            a["response"]["uid"] = "other".into();
            a
        });
        assert_eq!(done.unwrap()[0].at(&["metadata"]), &json!({"name": "a", "namespace": "n", "uid": "u", "annotations": {"k": "v"}, "resourceVersion": "7"}));
    }

    #[test]
    fn answers_that_lie_are_told_in_upstreams_words() {
        const AT: &str = "conversion webhook for g.io/v1, Kind=W ";
        assert_eq!(why(|_| json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview"})), format!("{AT}failed: no response provided"));
        assert!(why(|_| json!([])).starts_with(&format!("{AT}failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got ")));
        assert!(
            why(|r| {
                let mut a = success(r, |_| {});
                a["response"]["uid"] = "x".into();
                a
            })
            .contains("failed: expected response.uid=\"")
        );
        assert_eq!(
            why(|r| {
                let mut a = success(r, |_| {});
                a["response"]["result"] = json!({"status": "Failure", "message": "no way"});
                a
            }),
            format!("{AT}failed: no way")
        );
        assert_eq!(
            why(|r| {
                let mut a = success(r, |_| {});
                a["response"]["result"] = Value::Null;
                a
            }),
            format!("{AT}failed: response.result.status was '', not 'Success'")
        );
        assert_eq!(
            why(|r| {
                let mut a = success(r, |_| {});
                a["response"]["convertedObjects"] = json!([]);
                a
            }),
            format!("{AT}returned 0 objects, expected 1")
        );
        assert_eq!(
            why(|r| success(r, |o| o["apiVersion"] = "g.io/v1".into())),
            format!("{AT}returned invalid object at index 0: invalid groupVersion (expected g.io/v2, received g.io/v1)")
        );
        assert_eq!(why(|r| success(r, |o| o["kind"] = "X".into())), format!("{AT}returned invalid object at index 0: invalid kind (expected W, received X)"));
        assert_eq!(why(|r| success(r, |o| o["metadata"]["name"] = "b".into())), format!("{AT}returned invalid object at index 0: must have the same name: a != b"));
        assert_eq!(why(|r| success(r, |o| o["metadata"]["uid"] = "b".into())), format!("{AT}returned invalid object at index 0: must have the same UID: u != b"));
        assert_eq!(
            why(|r| success(r, |o| o["metadata"]["labels"] = json!({"a": 1}))),
            format!("{AT}returned invalid metadata: metadata.labels[a] must be a string, but is int64 in converted object")
        );
        assert!(
            why(|r| success(r, |o| o["metadata"]["labels"] = json!({"a": "b c"}))).starts_with(&format!("{AT}returned invalid metadata: metadata.labels: Invalid value: \"b c\""))
        );
        assert_eq!(run(json!(["v9"]), vec![object("v1", "a")], |_| Value::Null).0.unwrap_err(), "webhook does not accept v1 or v1beta1 ConversionReview");
        assert_eq!(run(json!(["v1"]), vec![object("v0", "a")], |_| Value::Null).0.unwrap_err(), "request to convert CR from an invalid group/version: g.io/v0");
    }
}
