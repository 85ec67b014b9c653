//! JSON patch, merge patch, strategic merge patch, field sets and server-side apply: pure functions over documents.
//!
//! Entry point: [`patch`], which reads a request body, applies it, checks the result against its type and words every error as upstream
//! does; the three kinds are public by themselves. Ownership and apply are in [`managed`]. Source: k8s.io/apiserver/pkg/endpoints/handlers/patch.go.
//! Deliberately absent: retries on conflict, defaulting and validation (the registry's pipeline).

pub mod fieldset;
mod json_patch;
pub mod managed;
mod merge_patch;
mod strategic;
mod typed;

pub use json_patch::json_patch;
pub use merge_patch::merge_patch;
pub use strategic::strategic_merge_patch;

use keles_api::decode::{self, DecodeError, Decoded, FieldValidation, Format};
use keles_api::status::Details;
use keles_api::{Path, Problems, Status, TypeRef};
use serde_json::Value;

/// As upstream's limit.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;
/// No patch may make an object larger than a request may be.
pub const RESULT_BYTES_MAX: usize = 3 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
}

impl PatchKind {
    /// By media type, parameters aside.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(PatchKind::Json),
            "application/merge-patch+json" => Some(PatchKind::Merge),
            "application/strategic-merge-patch+json" => Some(PatchKind::Strategic),
            _ => None,
        }
    }
}

/// Why a patch was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself makes no sense.
    #[error("{0}")]
    Malformed(String),
    /// A sound patch that does not apply to this document: a missing path, a failed test.
    #[error("{0}")]
    DoesNotApply(String),
    /// The strategic merge cannot be done: a list item without its merge key.
    #[error("{0}")]
    Unmergeable(String),
    #[error("The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {0}")]
    TooManyOperations(usize),
    #[error("the patched object is larger than {RESULT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the patch moves more items about than a request may")]
    TooMuch,
    /// The patched document would be nested deeper than documents are read.
    #[error("{}", keles_api::depth::TOO_DEEP)]
    TooDeep,
    /// The patched document does not fit its type; `shown` is what upstream prints of it.
    #[error("{why}")]
    Misfit { shown: String, why: String },
}

impl PatchError {
    /// The answer upstream gives for it. A misfit names no object: upstream words it ` "" is invalid`.
    pub fn to_status(&self) -> Status {
        match self {
            PatchError::Malformed(why) => Status::bad_request(why.clone()),
            PatchError::DoesNotApply(_) => Status::failure(422, "Invalid", "the server rejected our request due to an error in our request").with_details(Details::default()),
            PatchError::Unmergeable(why) => Status::failure(500, "", why.clone()),
            PatchError::TooManyOperations(_) | PatchError::TooLarge | PatchError::TooMuch => {
                Status::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {self}"))
            }
            PatchError::Misfit { shown, why } => misfit(shown, why),
            PatchError::TooDeep => misfit("", keles_api::depth::TOO_DEEP),
        }
    }
}

fn misfit(shown: &str, why: &str) -> Status {
    let mut p = Problems::new();
    p.invalid(&Path::new("patch"), shown, why);
    Status::invalid("", "", "", &p)
}

/// Applies a request body to `current` (in the version of the request) and checks the result against its type.
pub fn patch(kind: PatchKind, current: &Value, body: &[u8], ty: TypeRef, validation: FieldValidation) -> Result<Decoded, Status> {
    apply(kind, current, body, ty, validation).map_err(|e| e.to_status())
}

/// As [`patch`], with the error unworded.
pub fn apply(kind: PatchKind, current: &Value, body: &[u8], ty: TypeRef, validation: FieldValidation) -> Result<Decoded, PatchError> {
    let (parsed, mut found) = decode::parse_strict(body, Format::Json).map_err(|e| PatchError::Malformed(malformed(&e)))?;
    if kind == PatchKind::Json && validation != FieldValidation::Ignore {
        found.extend(json_patch::unknown_members(&parsed)?);
        found.iter_mut().for_each(|what| what.insert_str(0, "json patch "));
    }
    let patched = match kind {
        PatchKind::Json => json_patch::apply(current, &parsed)?,
        PatchKind::Merge => merge_patch(current, &parsed)?,
        PatchKind::Strategic => strategic_merge_patch(current, &parsed, ty)?,
    };
    let strategic = kind == PatchKind::Strategic;
    let conform = if strategic { decode::convert } else { decode::conform };
    if !keles_api::depth::fits(&patched, 0) {
        return Err(PatchError::TooDeep);
    }
    let text = patched.to_string();
    if text.len() > RESULT_BYTES_MAX {
        return Err(PatchError::TooLarge);
    }
    let checked = conform(patched, ty, if validation == FieldValidation::Ignore { validation } else { FieldValidation::Warn });
    let misfit = |why: String| PatchError::Misfit { shown: if strategic { go_print(&parsed) } else { text.clone() }, why };
    let mut decoded = checked.map_err(|e| misfit(e.to_string()))?;
    if validation != FieldValidation::Ignore {
        decoded.warnings.splice(0..0, found);
    }
    if validation == FieldValidation::Strict && !decoded.warnings.is_empty() {
        return Err(misfit(DecodeError::Strict(decoded.warnings).to_string()));
    }
    Ok(decoded)
}

/// `error decoding patch: invalid character …`
fn malformed(e: &DecodeError) -> String {
    let text = e.to_string();
    format!("error decoding patch: {}", text.trim_start_matches("couldn't get version/kind; json parse error: "))
}

/// A tree as Go's `%+v` prints it: `map[a:1 b:[x y]]`.
pub fn go_print(v: &Value) -> String {
    match v {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Array(a) => format!("[{}]", a.iter().map(go_print).collect::<Vec<_>>().join(" ")),
        Value::Object(o) => {
            let mut keys: Vec<&String> = o.keys().collect();
            keys.sort_unstable();
            format!("map[{}]", keys.into_iter().map(|k| format!("{k}:{}", go_print(&o[k]))).collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_api::schema::builtin;
    use serde_json::json;

    fn pod() -> TypeRef<'static> {
        builtin().get("io.k8s.api.core.v1.Pod").unwrap()
    }
    fn refused(kind: PatchKind, patch: Value) -> Status {
        let current = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "resources": {}}]}, "status": {}});
        super::patch(kind, &current, patch.to_string().as_bytes(), pod(), FieldValidation::Strict).unwrap_err()
    }

    #[test]
    fn a_patch_that_breaks_its_type_is_refused_in_upstreams_words() {
        let s = refused(PatchKind::Strategic, json!({"spec": {"containers": [{"name": "c", "image": 7}]}}));
        assert_eq!(
            (s.code, s.message.as_str()),
            (422, " \"\" is invalid: patch: Invalid value: \"map[spec:map[containers:[map[image:7 name:c]]]]\": cannot convert int64 to string")
        );
        assert_eq!(s.details.unwrap().causes[0].field, "patch");
        assert!(refused(PatchKind::Strategic, json!({"spec": "x"})).message.ends_with("cannot restore struct from: string"));
        assert!(
            refused(PatchKind::Strategic, json!({"spec": {"securityContext": {"fsGroupChangePolicy": 7}}})).message.ends_with("cannot convert int64 to v1.PodFSGroupChangePolicy")
        );
        assert!(
            refused(PatchKind::Merge, json!({"spec": {"priority": "x"}}))
                .message
                .contains("json: cannot unmarshal string into Go struct field PodSpec.spec.priority of type int32")
        );
        assert!(refused(PatchKind::Merge, json!({"spec": {"bogus": 1}})).message.ends_with("strict decoding error: unknown field \"spec.bogus\""));
    }
    #[test]
    fn a_patch_that_does_not_apply_is_the_generic_422() {
        let s = refused(PatchKind::Json, json!([{"op": "test", "path": "/spec/containers/0/name", "value": "x"}]));
        assert_eq!((s.code, s.reason.as_str(), s.message.as_str()), (422, "Invalid", "the server rejected our request due to an error in our request"));
    }
    #[test]
    fn what_an_operation_does_not_know_is_told_or_refused_as_the_client_asks() {
        let current = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}});
        let ask = |body: &str, how| super::patch(PatchKind::Json, &current, body.as_bytes(), pod(), how);
        let odd = r#"[{"op": "test", "path": "/kind", "value": "Pod"}, {"op": "test", "path": "/kind", "value": "Pod", "Path": "x", "note": 1}]"#;
        assert_eq!(ask(odd, FieldValidation::Warn).unwrap().warnings, [r#"json patch unknown field "[1].Path""#, r#"json patch unknown field "[1].note""#]);
        let refused = ask(odd, FieldValidation::Strict).unwrap_err();
        assert_eq!(refused.code, 422);
        assert!(refused.message.ends_with(r#"strict decoding error: json patch unknown field "[1].Path", json patch unknown field "[1].note""#), "{}", refused.message);
        assert!(ask(odd, FieldValidation::Ignore).unwrap().warnings.is_empty());
        let wrong = ask(r#"[{"op": 7, "path": "/kind"}]"#, FieldValidation::Warn).unwrap_err();
        assert_eq!((wrong.code, wrong.message.as_str()), (400, "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"));
    }
    #[test]
    fn text_that_is_no_patch_is_a_bad_request() {
        let got = patch(PatchKind::Merge, &json!({}), b"{", pod(), FieldValidation::Warn).unwrap_err();
        assert_eq!((got.code, got.message.as_str()), (400, "error decoding patch: unexpected end of JSON input"));
        let many: Vec<Value> = (0..=JSON_PATCH_OPERATIONS_MAX).map(|_| json!({"op": "test", "path": "", "value": {}})).collect();
        assert_eq!(patch(PatchKind::Json, &json!({}), Value::from(many).to_string().as_bytes(), pod(), FieldValidation::Warn).unwrap_err().code, 413);
    }
}
