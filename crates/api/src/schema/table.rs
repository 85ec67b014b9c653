//! The committed table of built-in types.
use super::Schema;
use std::sync::OnceLock;

pub fn builtin() -> &'static Schema {
    static S: OnceLock<Schema> = OnceLock::new();
    S.get_or_init(Schema::default)
}
/// Descriptions of types and fields.
pub struct Descriptions(String);
impl Descriptions {
    pub fn load() -> Self {
        Descriptions(String::new())
    }
    pub fn of_type(&self, _name: &str) -> &str {
        &self.0
    }
    pub fn of_field(&self, _name: &str, _field: &str) -> &str {
        &self.0
    }
}
