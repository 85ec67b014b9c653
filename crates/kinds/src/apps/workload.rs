//! What the workload kinds share: selector and template, numbers or percentages, counts in their status.

use crate::core::pod::template;
use crate::field::{Field, NEGATIVE, non_negative, same};
use crate::labels;
use keles_api::{Object, Path, Problems, names};
use serde_json::Value;

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// A selector that must be there and select something, and a template that it selects.
pub fn selector_and_template(spec: &Field, p: &mut Problems, empty: &str) {
    let selector = spec.get("selector");
    if selector.is_set() {
        labels::selector(p, &selector);
        if labels::is_empty(selector.value()) {
            p.invalid(selector.path(), selector.value().clone(), empty);
        }
    } else {
        p.required(selector.path(), "");
    }
    if is_valid_selector(&selector) {
        selected_template(spec, p);
    } else {
        p.invalid(selector.path(), selector.value().clone(), "invalid label selector");
    }
}

/// Whether a selector can be used at all; an absent one can, and selects nothing.
pub fn is_valid_selector(selector: &Field) -> bool {
    let mut found = Problems::new();
    labels::selector(&mut found, selector);
    found.is_empty()
}

fn selected_template(spec: &Field, p: &mut Problems) {
    template_labels(spec, p);
    let t = spec.get("template");
    template::validate(&t, p);
    always_running(&t, "ReplicaSet", p);
}

/// The template's labels are what the selector selects; an empty selector selects anything.
pub fn template_labels(spec: &Field, p: &mut Problems) {
    let selector = spec.get("selector");
    let labels_of_template = spec.get("template").get("metadata").get("labels");
    let fits = if selector.is_set() { labels::matches(selector.value(), labels_of_template.value()) } else { false };
    if !fits {
        p.invalid(labels_of_template.path(), labels_of_template.value().clone(), "`selector` does not match template `labels`");
    }
}

/// Pods that a controller keeps up restart always and have no deadline.
pub fn always_running(t: &Field, owner: &str, p: &mut Problems) {
    let spec = t.get("spec");
    if spec.str("restartPolicy") != "Always" {
        p.not_supported(&spec.at("restartPolicy"), spec.str("restartPolicy"), &["Always"]);
    }
    if spec.has("activeDeadlineSeconds") {
        p.forbidden(&spec.at("activeDeadlineSeconds"), format!("activeDeadlineSeconds in {owner} is not Supported"));
    }
}

/// A number that is not negative, or a percentage.
pub fn count_or_percent(p: &mut Problems, at: &Path, v: &Value) {
    match v {
        Value::String(s) if percent(v).is_none() => p.invalid(at, s.as_str(), PERCENT),
        Value::String(_) | Value::Null => {}
        number if number.as_i64().unwrap_or(0) < 0 => p.invalid(at, number.clone(), NEGATIVE),
        _ => {}
    }
}

/// `25%` as 25.
pub fn percent(v: &Value) -> Option<i64> {
    let digits = v.as_str()?.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(i64::MAX))
}

pub fn not_over_100_percent(p: &mut Problems, at: &Path, v: &Value) {
    if percent(v).is_some_and(|n| n > 100) {
        p.invalid(at, v.clone(), "must not be greater than 100%");
    }
}

/// Whether a number or percentage is nothing.
pub fn is_zero(v: &Value) -> bool {
    percent(v).or(v.as_i64()).or(v.as_str().and_then(|s| s.parse().ok())).unwrap_or(0) == 0
}

/// Counts of a status: none negative, none over the replicas.
pub fn status_counts(status: &Field, counts: &[&str], below_replicas: &[&str], p: &mut Problems) {
    status_counts_saying(status, counts, below_replicas, "readyReplicas", p);
}

/// `ready`: what upstream calls `readyReplicas` there.
pub fn status_counts_saying(status: &Field, counts: &[&str], below_replicas: &[&str], ready: &str, p: &mut Problems) {
    for name in counts {
        non_negative(p, status, name);
    }
    for name in below_replicas {
        if status.int(name) > status.int("replicas") {
            p.invalid(&status.at(name), status.int(name), "cannot be greater than status.replicas");
        }
    }
    if status.int("availableReplicas") > status.int("readyReplicas") {
        p.invalid(&status.at("availableReplicas"), status.int("availableReplicas"), format!("cannot be greater than {ready}"));
    }
}

/// A count of name collisions only grows.
pub fn collisions_only_grow(new: &Field, old: &Field, p: &mut Problems) {
    let decremented = match (new.opt_int("collisionCount"), old.opt_int("collisionCount")) {
        (None, before) => before.is_some(),
        (Some(now), before) => now < before.unwrap_or(0),
    };
    if decremented {
        p.invalid(&new.at("collisionCount"), new.int("collisionCount"), "cannot be decremented");
    }
}

/// A selector may not change after creation.
pub fn immutable_selector(new: &Field, old: &Field, p: &mut Problems) {
    let (now, before) = (new.get("selector"), old.get("selector"));
    if now.is_set() != before.is_set() || !same(now.value(), before.value()) {
        p.invalid(now.path(), now.value().clone(), crate::field::IMMUTABLE);
    }
}

/// A workload's name becomes a label of its pods.
pub fn label_name(p: &mut Problems, at: &Path, name: &str) {
    for message in names::dns_label(name, false) {
        p.invalid(at, name, message);
    }
}

/// Warnings of a new or changed pod template, which stands at `path`.
pub fn template_warnings(new: &Object, old: Option<&Object>, path: &[&str], w: &mut Vec<String>) {
    if old.is_none_or(|old| !same(old.at(path), new.at(path))) {
        template::warnings(&path.iter().fold(Field::root(new), |f, name| f.get(name)), w);
    }
}

/// Pods are called after their owner, so that a new owner's name should do as a host's; `of` says what is.
pub fn name_warning(new: &Object, old: Option<&Object>, of: &str, w: &mut Vec<String>) {
    let wrong = names::dns_label(new.name(), false);
    if old.is_none() && !wrong.is_empty() {
        w.push(format!("metadata.name: this is used in {of}, which can result in surprising behavior; a DNS label is recommended: [{}]", wrong.join(" ")));
    }
}

/// What names of owners of pods are used in.
pub const POD_NAMES: &str = "Pod names and hostnames";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentages_are_digits_and_a_sign() {
        assert_eq!(percent(&json!("25%")), Some(25));
        for bad in [json!("%"), json!("-1%"), json!("25"), json!(25)] {
            assert_eq!(percent(&bad), None, "{bad}");
        }
        assert!(is_zero(&json!("0%")) && is_zero(&json!(0)) && !is_zero(&json!("1%")));
    }
}
