//! Label maps and label selectors: what is wrong with them. Matching is in `api::selector`.

use crate::field::Field;
use keles_api::{Path, Problems, names};
use serde_json::Value;

const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

/// A label key.
pub fn key(p: &mut Problems, at: &Path, key: &str) {
    for message in names::qualified_name(key) {
        p.invalid(at, key, message);
    }
}

/// A map of labels; problems name the map, not the entry.
pub fn labels(p: &mut Problems, of: &Field) {
    for (k, v) in of.value().as_object().into_iter().flatten() {
        key(p, of.path(), k);
        let v = v.as_str().unwrap_or("");
        for message in names::label_value(v) {
            p.invalid(of.path(), v, message);
        }
    }
}

/// A map of annotations: keys like label keys (upper case allowed), values of any text, a limit on the whole.
pub fn annotations(p: &mut Problems, of: &Field) {
    let mut bytes = 0;
    for (k, v) in of.value().as_object().into_iter().flatten() {
        for message in names::qualified_name(&k.to_lowercase()) {
            p.invalid(of.path(), k.as_str(), message);
        }
        bytes += k.len() + v.as_str().unwrap_or("").len();
    }
    if bytes > ANNOTATIONS_MAX_BYTES {
        p.too_long(of.path(), ANNOTATIONS_MAX_BYTES);
    }
}

/// A LabelSelector; nothing to say about an absent one.
pub fn selector(p: &mut Problems, of: &Field) {
    labels(p, &of.get("matchLabels"));
    for e in of.items("matchExpressions") {
        requirement(p, &e);
    }
}

fn requirement(p: &mut Problems, e: &Field) {
    let values = e.list("values").len();
    match e.str("operator") {
        "In" | "NotIn" if values == 0 => p.required(&e.at("values"), "must be specified when `operator` is 'In' or 'NotIn'"),
        "Exists" | "DoesNotExist" if values > 0 => p.forbidden(&e.at("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => p.invalid(&e.at("operator"), other, "not a valid selector operator"),
    }
    key(p, &e.at("key"), e.str("key"));
    for v in e.items("values") {
        for message in names::label_value(v.text()) {
            p.invalid(v.path(), v.text(), message);
        }
    }
}

/// Whether a selector has neither labels nor expressions.
pub fn is_empty(selector: &Value) -> bool {
    let none = |f: &str| selector.get(f).is_none_or(|v| v.as_object().is_none_or(|m| m.is_empty()) && v.as_array().is_none_or(|l| l.is_empty()));
    none("matchLabels") && none("matchExpressions")
}

/// Whether a LabelSelector selects these labels. An invalid operator selects nothing.
pub fn matches(selector: &Value, labels: &Value) -> bool {
    let label = |k: &str| labels.get(k).and_then(Value::as_str);
    let equal = |(k, v): (&String, &Value)| label(k) == Some(v.as_str().unwrap_or(""));
    let fits = |e: &Value| {
        let found = label(e["key"].as_str().unwrap_or(""));
        let among = |v: &str| e["values"].as_array().is_some_and(|l| l.iter().any(|x| x.as_str() == Some(v)));
        match e["operator"].as_str().unwrap_or("") {
            "In" => found.is_some_and(among),
            "NotIn" => !found.is_some_and(among),
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => false,
        }
    };
    selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten().all(equal)
        && selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten().all(fits)
}
