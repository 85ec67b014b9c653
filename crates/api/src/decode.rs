//! Decoding of request bodies against a type.
use crate::{Object, Status, TypeRef};
use serde_json::Value;

/// `fieldValidation`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub object: Object,
    /// Unknown and duplicate fields, for `Warn`.
    pub warnings: Vec<String>,
}
pub fn decode(_body: &[u8], _format: Format, _ty: TypeRef, _kind: &str, _validation: FieldValidation) -> Result<Decoded, Status> {
    Err(Status::not_implemented("decoding"))
}
/// The same checks on a tree (the result of a patch).
pub fn check_tree(_object: Value, _ty: TypeRef, _kind: &str, _validation: FieldValidation) -> Result<Decoded, Status> {
    Err(Status::not_implemented("decoding"))
}
pub fn parse_json(_body: &[u8]) -> Result<Value, Status> {
    Err(Status::not_implemented("decoding"))
}
pub fn parse_yaml(_body: &[u8]) -> Result<Value, Status> {
    Err(Status::not_implemented("decoding"))
}
