//! `meta/v1.Status`: the one error type of the API, with the codes, reasons and wording that clients know.
//!
//! Source: k8s.io/apimachinery/pkg/api/errors. HTTP codes live here and nowhere below the API server's last step.

use crate::problems::Problems;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A `Status` object. As an `Err` it is always a Failure; `Status::success` makes the other kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub kind: String,
    pub api_version: String,
    pub metadata: ListMeta,
    /// `Success` or `Failure`.
    #[serde(default)]
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(default, rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource's plural, or the kind in Invalid errors.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(default, skip_serializing_if = "is_zero_i64")]
    pub retry_after_seconds: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn is_zero(v: &u16) -> bool {
    *v == 0
}
fn is_zero_i64(v: &i64) -> bool {
    *v == 0
}

/// `plural.group`, as upstream prints a GroupResource: `pods`, `deployments.apps`.
fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

impl Status {
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Status {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: ListMeta::default(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }
    }
    /// The answer to a delete that left nothing: `{"status":"Success","details":{…}}`.
    pub fn success(group: &str, plural: &str, name: &str, uid: &str) -> Self {
        let mut s = Status::failure(0, "", "");
        s.status = "Success".into();
        s.details = Some(Box::new(Details { name: name.into(), group: group.into(), kind: plural.into(), uid: uid.into(), ..Details::default() }));
        s
    }
    pub fn with_details(mut self, d: Details) -> Self {
        self.details = Some(Box::new(d));
        self
    }
    fn about(self, group: &str, plural: &str, name: &str) -> Self {
        self.with_details(Details { name: name.into(), group: group.into(), kind: plural.into(), ..Details::default() })
    }
    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.details.get_or_insert_default().causes = causes;
        self
    }

    // 400
    pub fn bad_request(message: impl Into<String>) -> Self {
        Status::failure(400, "BadRequest", message)
    }
    // 401
    pub fn unauthorized() -> Self {
        Status::failure(401, "Unauthorized", "Unauthorized")
    }
    /// 403 for an object: `pods "a" is forbidden: why`.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> Self {
        let message =
            if name.is_empty() { format!("{} is forbidden: {why}", qualified(group, plural)) } else { format!("{} \"{name}\" is forbidden: {why}", qualified(group, plural)) };
        Status::failure(403, "Forbidden", message).about(group, plural, name)
    }
    // 404
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        Status::failure(404, "NotFound", format!("{} \"{name}\" not found", qualified(group, plural))).about(group, plural, name)
    }
    /// 404 for a path that no route serves.
    pub fn no_such_path() -> Self {
        Status::failure(404, "NotFound", "the server could not find the requested resource").with_details(Details::default())
    }
    pub fn method_not_allowed(group: &str, plural: &str, verb: &str) -> Self {
        Status::failure(405, "MethodNotAllowed", format!("{verb} is not supported on resources of kind \"{}\"", qualified(group, plural))).about(group, plural, "")
    }
    pub fn not_acceptable(supported: &[&str]) -> Self {
        Status::failure(406, "NotAcceptable", format!("only the following media types are accepted: {}", supported.join(", ")))
    }
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        Status::failure(409, "AlreadyExists", format!("{} \"{name}\" already exists", qualified(group, plural))).about(group, plural, name)
    }
    /// 409 `Operation cannot be fulfilled on pods "a": why`.
    pub fn conflict(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> Self {
        Status::failure(409, "Conflict", format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, plural))).about(group, plural, name)
    }
    /// 409 for an update with a resourceVersion that is no longer current.
    pub fn stale(group: &str, plural: &str, name: &str) -> Self {
        Status::conflict(group, plural, name, "the object has been modified; please apply your changes to the latest version and try again")
    }
    /// 410: the asked-for revision is compacted away. Reason is `Expired`, not `Gone` (lessons.md 15).
    pub fn expired(message: impl Into<String>) -> Self {
        Status::failure(410, "Expired", message)
    }
    pub fn too_large(limit_bytes: usize) -> Self {
        Status::failure(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit_bytes}"))
    }
    pub fn unsupported_media_type(got: &str, supported: &[&str]) -> Self {
        let _ = got;
        Status::failure(415, "UnsupportedMediaType", format!("the body of the request was in an unknown format - accepted media types include: {}", supported.join(", ")))
    }
    /// 422 `Pod "a" is invalid: …` with one cause a problem.
    pub fn invalid(group: &str, kind: &str, name: &str, problems: &Problems) -> Self {
        let causes = problems
            .iter()
            .map(|p| Cause { reason: p.kind.reason().into(), message: p.body(), field: if p.field.is_empty() { "<nil>".into() } else { p.field.clone() } })
            .collect();
        Status::failure(422, "Invalid", format!("{} \"{name}\" is invalid: {}", qualified(group, kind), problems.aggregate())).about(group, kind, name).with_causes(causes)
    }
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i64) -> Self {
        Status::failure(429, "TooManyRequests", message).with_details(Details { retry_after_seconds, ..Details::default() })
    }
    pub fn internal(message: impl fmt::Display) -> Self {
        let m = message.to_string();
        Status::failure(500, "InternalError", format!("Internal error occurred: {m}")).with_causes(vec![Cause { message: m, ..Cause::default() }])
    }
    /// 501 for what is not built yet; stands in docs/STATUS.md.
    pub fn not_implemented(what: &str) -> Self {
        Status::failure(501, "NotImplemented", format!("{what} is not implemented by this server yet, see docs/STATUS.md"))
    }
    pub fn unavailable(message: impl Into<String>) -> Self {
        Status::failure(503, "ServiceUnavailable", message)
    }
    pub fn timeout(message: impl Into<String>) -> Self {
        Status::failure(504, "Timeout", message)
    }
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a Status always encodes")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.message, self.code, self.reason)
    }
}
impl std::error::Error for Status {}
