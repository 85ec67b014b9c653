//! PATCH: JSON patch, merge patch, strategic merge patch, on the client's version of the object; the result is an update.

use crate::call::{Answer, Body, PatchType};
use crate::exchange::Exchange;
use crate::options::WriteOptions;
use crate::update::Part;
use keles_api::decode::{self, DecodeError, FieldValidation, Format};
use keles_api::{Object, Path, Problems, Status};
use serde_json::Value;

/// A patch, read once and applied as often as others are faster.
enum Patch {
    Json(bytes::Bytes),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// The patch, and the duplicate fields in it.
    fn parse(t: Option<PatchType>, body: &bytes::Bytes) -> Result<(Self, Vec<String>), Status> {
        Ok(match t {
            Some(PatchType::Json) => (Patch::Json(body.clone()), Vec::new()),
            Some(PatchType::Merge) => {
                let (v, duplicates) = document(body).map_err(|why| Status::bad_request(format!("error decoding patch: {why}")))?;
                (Patch::Merge(v), duplicates)
            }
            Some(PatchType::Strategic) => {
                let (v, duplicates) = document(body).map_err(Status::bad_request)?;
                (Patch::Strategic(v), duplicates)
            }
            Some(PatchType::Apply) => return Err(apply_refused()),
            None => {
                return Err(Status::unsupported_media_type(
                    "",
                    &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"],
                ));
            }
        })
    }
}

/// A patch that is a JSON object; the error is Go's.
fn document(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    let (v, duplicates) = decode::parse_strict(body, Format::Json).map_err(|e| decode::explain_json(&String::from_utf8_lossy(body)).unwrap_or_else(|| e.to_string()))?;
    let found = match &v {
        Value::Object(_) | Value::Null => return Ok((v, duplicates)),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
    };
    Err(format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"))
}

fn apply_refused() -> Status {
    let mut s = Status::not_implemented("server-side apply (application/apply-patch+yaml)");
    s.code = 415;
    s.reason = "UnsupportedMediaType".into();
    s
}

impl Exchange<'_> {
    pub async fn patch(mut self, part: Part) -> Result<Answer, Status> {
        let options = WriteOptions::parse(&self.call.query, "PatchOptions")?;
        let (patch, duplicates) = Patch::parse(self.call.patch_type, &self.call.body)?;
        self.request.dry_run = options.dry_run;
        self.request.field_manager = options.field_manager.clone();
        let mut warnings = Vec::new();
        let mut found = Vec::new();
        let mut make = |old: &Object| {
            let (o, w) = self.patched(&patch, &duplicates, old, &options)?;
            found = w;
            Ok(o)
        };
        let outcome = self.modify(part, &mut warnings, &mut make).await?;
        found.append(&mut warnings);
        let body = self.outcome(&self.own_key(), outcome)?;
        Ok(Answer { code: 200, body: Body::Bytes(body), warnings: found })
    }

    /// Old state in, new state out, both in the storage version; the patch meets the client's version (lessons.md 51).
    fn patched(&self, patch: &Patch, duplicates: &[String], old: &Object, options: &WriteOptions) -> Result<(Object, Vec<String>), Status> {
        let mut doc = old.clone();
        self.resource.convert(&mut doc, &self.resource.storage(), &self.served);
        let kind = self.resource.info().kind;
        let ty = self.schema(&self.served)?;
        let changed = match patch {
            Patch::Json(p) => keles_patch::json_patch(&doc.0, p),
            Patch::Merge(p) => keles_patch::merge_patch(&doc.0, p),
            Patch::Strategic(p) => keles_patch::strategic_merge_patch(&doc.0, p, ty),
        };
        let changed = changed.map_err(|e| e.to_status(self.served.group, kind, &self.request.name))?;
        if !changed.is_object() {
            return Err(unfit(patch, &changed, "the result is not an object"));
        }
        let shown = changed.clone();
        let mut d = match options.field_validation {
            FieldValidation::Ignore => decode::conform(changed, ty, FieldValidation::Ignore),
            _ => decode::conform(changed, ty, FieldValidation::Warn),
        }
        .map_err(|e| unfit(patch, &shown, &e.to_string()))?;
        if options.field_validation != FieldValidation::Ignore {
            d.warnings.splice(0..0, duplicates.iter().cloned());
        }
        if options.field_validation == FieldValidation::Strict && !d.warnings.is_empty() {
            return Err(unfit(patch, &shown, &DecodeError::Strict(d.warnings).to_string()));
        }
        d.warnings.iter().for_each(|w| self.heard.warn(w.as_str()));
        let mut o = d.object;
        if o.api_version() != doc.api_version() || o.kind() != kind {
            return Err(Status::bad_request(format!(
                "The PATCH request changed apiVersion or kind from {} {kind} to {} {}; they cannot be patched",
                doc.api_version(),
                o.api_version(),
                o.kind()
            )));
        }
        self.settle_namespace(&mut o)?;
        self.internalize(&mut o)?;
        Ok((o, d.warnings))
    }
}

/// 422: the patched object is no object of its kind.
fn unfit(patch: &Patch, changed: &Value, why: &str) -> Status {
    let (shown, why) = match patch {
        Patch::Strategic(p) => (go_map(p), convertor_text(why).unwrap_or_else(|| why.into())),
        _ => (changed.to_string(), why.to_owned()),
    };
    let mut p = Problems::new();
    p.invalid(&Path::new("patch"), shown, why);
    Status::invalid("", "", "", &p)
}

/// Upstream turns the result of a strategic merge into a struct by its own convertor, whose words differ from those of its JSON decoder.
fn convertor_text(json_text: &str) -> Option<String> {
    let (found, target) = json_text.strip_prefix("json: cannot unmarshal ")?.split_once(" into Go ")?;
    let target = target.rsplit_once(" of type ").map_or("", |(_, t)| t);
    let number = match found.split_once(' ') {
        Some(("number", n)) if n.contains(['.', 'e', 'E']) => Some("float64"),
        _ if found.starts_with("number") => Some("int64"),
        _ => None,
    };
    let found = number.unwrap_or(match found {
        "object" => "map",
        "array" => "slice",
        other => other,
    });
    let scalar = matches!(target, "string" | "bool" | "int32" | "int64" | "float64" | "uint8");
    Some(match target {
        t if t.starts_with("[]") => format!("cannot restore slice from {found}"),
        t if t.starts_with("map[") => format!("cannot restore map from {found}"),
        t if scalar && number.is_none() => format!("unrecognized type: {t}"),
        t if number.is_some() && !t.ends_with("Spec") => format!("cannot convert {found} to {t}"),
        _ => format!("cannot restore struct from: {found}"),
    })
}

/// Go's `%+v` of a decoded JSON value.
fn go_map(v: &Value) -> String {
    match v {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Array(a) => format!("[{}]", a.iter().map(go_map).collect::<Vec<_>>().join(" ")),
        Value::Object(m) => {
            let mut keys: Vec<_> = m.iter().collect();
            keys.sort_by_key(|(k, _)| k.as_str());
            format!("map[{}]", keys.iter().map(|(k, v)| format!("{k}:{}", go_map(v))).collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_print_as_go_prints_them() {
        let v = serde_json::json!({"spec": {"b": [1, {"x": null}], "a": "t"}});
        assert_eq!(go_map(&v), "map[spec:map[a:t b:[1 map[x:<nil>]]]]");
    }

    #[test]
    fn strategic_merge_speaks_in_the_convertors_words() {
        let t = |found: &str, target: &str| convertor_text(&format!("json: cannot unmarshal {found} into Go struct field A.b of type {target}")).unwrap();
        assert_eq!(t("string", "v1.ServiceReference"), "cannot restore struct from: string");
        assert_eq!(t("string", "[]v1.Foo"), "cannot restore slice from string");
        assert_eq!(t("string", "map[string]string"), "cannot restore map from string");
        assert_eq!(t("string", "int32"), "unrecognized type: int32");
        assert_eq!(t("object", "string"), "unrecognized type: string");
        assert_eq!(t("number", "string"), "cannot convert int64 to string");
        assert_eq!(t("number 1.5", "int32"), "cannot convert float64 to int32");
        assert_eq!(t("number", "v1.ServiceType"), "cannot convert int64 to v1.ServiceType");
    }
}
