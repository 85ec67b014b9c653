//! JSON patch, merge patch, strategic merge patch: pure functions from a document and a patch to a document.

use keles_api::{Status, TypeRef};
use serde_json::Value;

/// Why a patch was refused.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    #[error("{0}")]
    Malformed(String),
}

impl PatchError {
    /// The answer upstream gives for it.
    pub fn to_status(&self, _group: &str, _kind: &str, _name: &str) -> Status {
        Status::not_implemented("patch")
    }
}

pub fn json_patch(_doc: &Value, _patch: &[u8]) -> Result<Value, PatchError> {
    Err(PatchError::Malformed("not built".into()))
}
pub fn merge_patch(_doc: &Value, _patch: &Value) -> Result<Value, PatchError> {
    Err(PatchError::Malformed("not built".into()))
}
pub fn strategic_merge_patch(_doc: &Value, _patch: &Value, _ty: TypeRef) -> Result<Value, PatchError> {
    Err(PatchError::Malformed("not built".into()))
}
