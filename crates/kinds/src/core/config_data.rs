//! What ConfigMaps and Secrets share: keys, the limit on their size, immutability.

use crate::field::{Field, invalid_each, same};
use crate::formats;
use keles_api::Problems;
use serde_json::Value;

/// Keeps one object well below what the store takes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// A key of the map in a field.
pub fn key(p: &mut Problems, root: &Field, field: &str, key: &str) {
    invalid_each(p, &root.at(field).key(key), key, formats::config_key(key));
}

/// Bytes behind base64 text.
pub fn decoded_bytes(v: &Value) -> usize {
    let text = v.as_str().unwrap_or("");
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(text.len() / 4 * 3)
}

/// Once `immutable` is true it stays so, and the data with it.
pub fn only_if_mutable(new: &Field, old: &Field, data: &[&str], p: &mut Problems) {
    if !old.bool("immutable") {
        return;
    }
    if !new.bool("immutable") {
        p.forbidden(&new.at("immutable"), "field is immutable when `immutable` is set");
    }
    for field in data {
        if !same(new.get(field).value(), old.get(field).value()) {
            p.forbidden(&new.at(field), "field is immutable when `immutable` is set");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_api::Object;
    use serde_json::json;

    #[test]
    fn an_immutable_object_keeps_its_data_but_not_its_labels() {
        let object = |data: &str, immutable: bool| Object(json!({"metadata": {"labels": {"v": data}}, "data": {"a": data}, "immutable": immutable}));
        let check = |new: &Object, old: &Object| {
            let mut p = Problems::new();
            only_if_mutable(&Field::root(new), &Field::root(old), &["data"], &mut p);
            p.len()
        };
        let old = object("1", true);
        let mut relabelled = old.clone();
        relabelled.set_meta("labels", json!({"v": "2"}));
        assert_eq!(check(&relabelled, &old), 0);
        assert_eq!(check(&object("2", true), &old), 1);
        assert_eq!(check(&object("2", false), &old), 2);
        assert_eq!(check(&object("2", false), &object("1", false)), 0);
    }

    #[test]
    fn base64_is_measured_decoded() {
        for (text, bytes) in [("", 0), ("aGVsbG8=", 5), ("aGVsbG8h", 6), ("YQ==", 1)] {
            assert_eq!(decoded_bytes(&json!(text)), bytes, "{text}");
        }
    }
}
