//! Static defaults from the schema table.
use crate::TypeRef;
use serde_json::Value;
pub fn apply_static(_object: &mut Value, _ty: TypeRef) {}
