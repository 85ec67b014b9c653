//! The one place where `metadata.managedFields` will be kept once server-side apply is built.
//!
//! Until then objects carry none: what clients send is dropped, as upstream resets it on create, so that nothing half-true is stored.

use keles_api::Object;

/// Called on every write, after admission and before validation. `old` is absent on create.
pub fn keep(new: &mut Object, _old: Option<&Object>, _manager: &str) {
    new.set_meta("managedFields", serde_json::Value::Null);
}
