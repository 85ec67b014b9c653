//! One call of one hook: the AdmissionReview out, the answer back, and what upstream says when they do not fit together.

use super::config::Hook;
use base64::Engine;
use keles_api::Status;
use keles_registry::Attributes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const API_VERSION: &str = "admission.k8s.io/v1";

/// What a hook answered.
#[derive(Debug, Default)]
pub struct Reply {
    /// A JSON patch (RFC 6902).
    pub patch: Option<Vec<u8>>,
    pub warnings: Vec<String>,
    /// For the audit event, under keys of the hook's own.
    pub notes: BTreeMap<String, String>,
    pub denied: Option<Status>,
}

#[derive(Deserialize)]
struct Review {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    response: Option<Response>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    allowed: bool,
    status: Option<Denial>,
    patch: Option<String>,
    patch_type: Option<String>,
    warnings: Option<Vec<String>>,
    audit_annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Denial {
    code: u16,
    reason: String,
    message: String,
    details: Option<keles_api::status::Details>,
}

/// Shows a request to a hook. `Err` says why no usable answer came.
pub async fn review(a: &Attributes<'_>, hook: &Hook, mut request: Value) -> Result<Reply, String> {
    let uid = uuid::Uuid::new_v4().to_string();
    request["uid"] = uid.as_str().into();
    let body = json!({"kind": "AdmissionReview", "apiVersion": API_VERSION, "request": request});
    let answer = hook.client.post(a.registry, &body, hook.timeout).await.map_err(|why| format!("failed to call webhook: {why}"))?;
    read(answer, &hook.name, &uid)
}

/// What an answer means.
fn read(answer: Value, hook: &str, uid: &str) -> Result<Reply, String> {
    let review: Review = serde_json::from_value(answer).map_err(|e| format!("the answer is no AdmissionReview: {e}"))?;
    if review.api_version != API_VERSION || review.kind != "AdmissionReview" {
        let got = format!("{}, Kind={}", review.api_version, review.kind);
        return Err(format!("expected webhook response of {API_VERSION}, Kind=AdmissionReview, got {got}"));
    }
    let r = review.response.ok_or("webhook response was absent")?;
    if r.uid != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", r.uid));
    }
    let patch = match (r.patch.filter(|p| !p.is_empty()), r.patch_type.as_deref()) {
        (None, None) => None,
        (Some(_), None) => return Err("webhook returned response.patch but not response.patchType".into()),
        (None, Some(_)) => return Err("webhook returned response.patchType but not response.patch".into()),
        (Some(p), Some("JSONPatch")) => Some(base64::engine::general_purpose::STANDARD.decode(p).map_err(|e| format!("response.patch is not base64: {e}"))?),
        (Some(_), Some(other)) => return Err(format!("webhook returned invalid response.patchType of {other:?}")),
    };
    let denied = (!r.allowed).then(|| denial(hook, r.status.unwrap_or_default()));
    Ok(Reply { patch, warnings: r.warnings.unwrap_or_default(), notes: r.audit_annotations.unwrap_or_default(), denied })
}

fn denial(hook: &str, s: Denial) -> Status {
    let by = format!("admission webhook {hook:?} denied the request");
    let message = match (s.message.as_str(), s.reason.as_str()) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let mut status = Status::failure(s.code.max(400), &s.reason, message);
    status.details = s.details.map(Box::new);
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Value {
        json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn a_denial_keeps_the_hooks_code_and_words() {
        let said = |status: Value| read(answer(json!({"uid": "u", "allowed": false, "status": status})), "h.example.com", "u").unwrap().denied.unwrap();
        let s = said(json!({"code": 403, "message": "not here", "reason": "Forbidden"}));
        assert_eq!((s.code, s.reason.as_str(), s.message.as_str()), (403, "Forbidden", "admission webhook \"h.example.com\" denied the request: not here"));
        let s = said(Value::Null);
        assert_eq!((s.code, s.message.as_str()), (400, "admission webhook \"h.example.com\" denied the request without explanation"));
        assert_eq!(said(json!({"code": 200})).code, 400, "a denial is never a success");
    }

    #[test]
    fn answers_that_do_not_fit_are_told_apart() {
        let why = |v: Value| read(v, "h", "u").unwrap_err();
        assert!(why(json!({"apiVersion": "v1", "kind": "Pod"})).starts_with("expected webhook response of admission.k8s.io/v1"));
        assert_eq!(why(answer(json!({"uid": "x", "allowed": true}))), "expected response.uid=\"u\", got \"x\"");
        assert_eq!(why(answer(json!({"uid": "u", "allowed": true, "patch": "W10="}))), "webhook returned response.patch but not response.patchType");
        assert!(why(answer(json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "Merge"}))).contains("invalid response.patchType"));
        assert_eq!(why(answer(Value::Null)), "webhook response was absent");
        assert!(read(json!([1]), "h", "u").is_err());
    }
}
