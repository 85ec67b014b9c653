//! Decoding of request bodies: one pass over JSON, YAML or protobuf that checks every value against its type, finds unknown and duplicate fields,
//! and prunes. Entry points: [`decode`] for bodies, [`check_tree`] for trees, [`conform`] where the caller words the error itself.
//!
//! Go's rules: `null` means absent, names match by case, integers refuse fractions, quantities, times and bytes are parsed and written
//! back in canonical form. The first wrong value in document order is the error; strict findings are collected, at most
//! [`STRICT_ERRORS_MAX`]. Invariant: what comes out is in the form rules see ([`crate::canonical::as_decoded`]) and holds only what the type has.

mod go_types;
mod leaf;
mod syntax;
mod walk;

use crate::canonical::as_decoded;
use crate::protobuf::{self, ProtobufError};
use crate::{Object, Status, TypeRef};
use serde::de::{DeserializeSeed, IntoDeserializer};
use serde_json::Value;
use std::borrow::Cow;
use walk::{Context, Seed};

/// As upstream's decoder, which stops collecting there.
pub const STRICT_ERRORS_MAX: usize = 100;
/// Bytes of an unreadable body that its error quotes.
const SUMMARY_BYTES: usize = 30;

/// `fieldValidation`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    /// The query parameter; absent means `Warn`. `Err` is upstream's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(format!("invalid fieldValidation: {other:?}")),
        }
    }
}

/// How a document is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Yaml,
    /// In its envelope, which says what type it is.
    Protobuf,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub object: Object,
    /// Unknown and duplicate fields, for `Warn`.
    pub warnings: Vec<String>,
}

/// Why a document does not fit its type.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON or YAML at all, or no object.
    #[error("{0}")]
    Syntax(String),
    /// The first value that does not fit, in Go's words.
    #[error("{0}")]
    Value(String),
    /// Unknown and duplicate fields under `Strict`.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    #[error(transparent)]
    Protobuf(#[from] ProtobufError),
}

/// Decodes a request body as the type that `kind` names.
pub fn decode(body: &[u8], format: Format, ty: TypeRef, kind: &str, validation: FieldValidation) -> Result<Decoded, Status> {
    let version = || version_of(&String::from_utf8_lossy(body), ty);
    conform_document(body, format, ty, validation).map_err(|e| match e {
        DecodeError::Syntax(why) => unrecognised(kind, &why, body),
        DecodeError::Protobuf(e) => unreadable(e),
        other => Status::bad_request(format!("{kind} in version \"{}\" cannot be handled as a {kind}: {other}", version())),
    })
}

/// Decodes a body of options of a kind, whatever its apiVersion. Upstream hands its decoder's errors on as they are.
pub fn decode_options(body: &[u8], format: Format, ty: TypeRef, kind: &str) -> Result<Object, Status> {
    let refused = |e| match e {
        DecodeError::Protobuf(ProtobufError::UnknownKind { api_version, kind: other }) => another_kind(&api_version, &other, kind),
        DecodeError::Protobuf(e) => unreadable(e),
        e => Status::bad_request(e.to_string()),
    };
    let tree = parse_strict(body, format).map_err(refused)?.0;
    let text = |field: &str| tree.get(field).and_then(Value::as_str).unwrap_or("");
    match text("kind") {
        "" => {}
        same if same == kind => {}
        other => return Err(another_kind(text("apiVersion"), other, kind)),
    }
    Ok(conform(tree, ty, FieldValidation::Ignore).map_err(refused)?.object)
}

/// Options were wanted: its scheme of options knows few kinds, and converts none of them to another.
fn another_kind(api_version: &str, kind: &str, wanted: &str) -> Status {
    const SCHEME: &str = "pkg/apis/meta/internalversion/scheme/register.go:27";
    const KNOWN: &[&str] = &["Status", "APIVersions", "APIGroupList", "APIGroup", "APIResourceList", "CreateOptions", "UpdateOptions"];
    if KNOWN.contains(&kind) {
        return Status::bad_request(format!("converting (v1.{kind}) to (v1.{wanted}): unknown conversion"));
    }
    let version = if api_version.is_empty() { "meta.k8s.io/v1" } else { api_version };
    Status::bad_request(format!("no kind {kind:?} is registered for version {version:?} in scheme {SCHEME:?}"))
}

/// The answer to a protobuf body that cannot be read: what this build does not know may be sent in another form.
fn unreadable(e: ProtobufError) -> Status {
    match e {
        ProtobufError::UnknownField { .. } => Status::failure(415, "UnsupportedMediaType", e.to_string()),
        e => Status::bad_request(e.to_string()),
    }
}

/// The same checks on a tree.
pub fn check_tree(object: Value, ty: TypeRef, kind: &str, validation: FieldValidation) -> Result<Decoded, Status> {
    let version = object.get("apiVersion").and_then(Value::as_str).map_or_else(|| type_version(ty), |v| v.rsplit('/').next().unwrap_or(v).to_owned());
    conform(object, ty, validation).map_err(|e| Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {e}")))
}

/// The same checks on a tree; the caller words the error.
pub fn conform(object: Value, ty: TypeRef, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    conform_with(object, ty, validation, Context::default())
}

/// As [`conform`], in the words of upstream's converter from trees, which strategic merge patches meet instead of its decoder.
pub fn convert(object: Value, ty: TypeRef, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    conform_with(object, ty, validation, Context::of_converter())
}

fn conform_with(object: Value, ty: TypeRef, validation: FieldValidation, mut context: Context) -> Result<Decoded, DecodeError> {
    let value = Seed { ty: Some(ty), context: &mut context }.deserialize(object.into_deserializer()).map_err(|e: serde_json::Error| DecodeError::Syntax(e.to_string()))?;
    settle(value, context, ty, validation)
}

fn conform_document(body: &[u8], format: Format, ty: TypeRef, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let mut context = Context::default();
    let value = read(body, format, Some(ty), &mut context)?;
    settle(value, context, ty, validation)
}

fn settle(mut value: Value, context: Context, ty: TypeRef, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    if let Some(why) = context.error {
        let early = why.starts_with("json: ") && (context.error_at == "apiVersion" || context.error_at == "kind");
        return Err(if early || context.error_at.is_empty() {
            DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {why}"))
        } else {
            DecodeError::Value(why)
        });
    }
    if validation == FieldValidation::Strict && !context.strict.is_empty() {
        return Err(DecodeError::Strict(context.strict));
    }
    // To Go, null is an object with nothing in it.
    if value.is_null() {
        value = Value::Object(Default::default());
    }
    as_decoded(&mut value, ty);
    let warnings = if validation == FieldValidation::Warn { context.strict } else { Vec::new() };
    Ok(Decoded { object: Object(value), warnings })
}

fn read(body: &[u8], format: Format, ty: Option<TypeRef>, context: &mut Context) -> Result<Value, DecodeError> {
    if format == Format::Protobuf {
        let (tree, settled) = protobuf::decode_settled(body)?;
        // Of the type that is asked for: there is nothing that a look at each field could find.
        if settled.is_some() && settled == ty.map(|t| t.name()) {
            return Ok(tree);
        }
        return Seed { ty, context }.deserialize(tree.into_deserializer()).map_err(|e: serde_json::Error| DecodeError::Syntax(e.to_string()));
    }
    // Nearly every body is valid, which is told much faster than it is mended.
    let text = &*std::str::from_utf8(body).map_or_else(|_| String::from_utf8_lossy(body), Cow::Borrowed);
    // kubectl sends JSON under the YAML content type.
    if format == Format::Json || text.trim_start().starts_with('{') {
        let mut d = serde_json::Deserializer::from_str(text);
        let value = Seed { ty, context }.deserialize(&mut d).and_then(|v| d.end().map(|()| v));
        value.map_err(|e| {
            let why = if e.to_string().starts_with("recursion limit") { crate::depth::TOO_DEEP.to_owned() } else { syntax::explain(text).unwrap_or_else(|| e.to_string()) };
            DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {why}"))
        })
    } else {
        let bad = |e: String| DecodeError::Syntax(format!("error converting YAML to JSON: yaml: {e}"));
        let value = Seed { ty, context }.deserialize(crate::yaml::read::document(text).map_err(bad)?).map_err(|e| bad(e.to_string()))?;
        context.name_yaml_lines(text);
        Ok(value)
    }
}

/// Any document as a tree. Numbers, nulls and unknown fields stay.
pub fn parse(body: &[u8], format: Format) -> Result<Value, Status> {
    parse_strict(body, format).map(|(v, _)| v).map_err(|e| match e {
        DecodeError::Protobuf(e) => unreadable(e),
        e => Status::bad_request(e.to_string()),
    })
}

/// Any JSON document as a tree, as [`parse`].
pub fn parse_json(body: &[u8]) -> Result<Value, Status> {
    parse(body, Format::Json)
}

/// Any document as a tree, and its duplicate fields (`duplicate field "a.b"`).
pub fn parse_strict(body: &[u8], format: Format) -> Result<(Value, Vec<String>), DecodeError> {
    let mut context = Context::default();
    let value = read(body, format, None, &mut context)?;
    Ok((value, context.strict))
}

/// Go's words for what is wrong with a JSON text, none when nothing is.
pub fn explain_json(text: &str) -> Option<String> {
    syntax::explain(text)
}

fn version_of(text: &str, ty: TypeRef) -> String {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(rename = "apiVersion", borrow, default)]
        api_version: Cow<'a, str>,
    }
    match serde_json::from_str::<Head>(text) {
        Ok(h) if !h.api_version.is_empty() => h.api_version.rsplit('/').next().unwrap_or_default().to_owned(),
        _ => type_version(ty),
    }
}

/// The version in an upstream name: `v1` of `io.k8s.api.core.v1.Pod`.
fn type_version(ty: TypeRef) -> String {
    ty.name().rsplit('.').nth(1).unwrap_or("").to_owned()
}

/// A body that is no document at all: 400, with its beginning.
pub fn unrecognised(kind: &str, why: &str, body: &[u8]) -> Status {
    Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why} ({})", summary(body)))
}

fn summary(body: &[u8]) -> String {
    let cut = &body[..body.len().min(SUMMARY_BYTES)];
    let more = if body.len() > SUMMARY_BYTES { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(cut)),
        Some(_) => format!("{}{more}", cut.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

#[cfg(test)]
mod tests;
