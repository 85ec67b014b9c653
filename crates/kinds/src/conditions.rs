//! Conditions of the meta API (`metav1.Condition`) in the status of a kind: what is wrong with them.
//!
//! Entry point: [`conditions`]. Kinds with conditions of an older shape have rules of their own.

use crate::field::{Field, invalid_each, one_of};
use keles_api::{Problems, names};
use std::collections::HashSet;

const MESSAGE_MAX_BYTES: usize = 32 << 10;
const REASON_MAX_BYTES: usize = 1 << 10;

/// Conditions of the meta API in a field `conditions`.
pub fn conditions(of: &Field, max_count: usize, p: &mut Problems) {
    let count = of.list("conditions").len();
    if count > max_count {
        p.too_many(&of.at("conditions"), count, max_count);
    }
    let mut seen = HashSet::new();
    for c in of.items("conditions") {
        let kind = c.str("type");
        if !seen.insert(kind) {
            p.duplicate(&c.at("type"), kind);
        }
        condition(&c, p);
    }
}

/// One condition (documented with `metav1.Condition`).
fn condition(c: &Field, p: &mut Problems) {
    const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    let kind = c.str("type");
    invalid_each(p, &c.at("type"), kind, names::qualified_name(kind));
    one_of(p, &c.at("status"), c.str("status"), &["False", "True", "Unknown"]);
    if c.int("observedGeneration") < 0 {
        p.invalid(&c.at("observedGeneration"), c.int("observedGeneration"), "must be greater than or equal to zero");
    }
    if c.str("lastTransitionTime").is_empty() {
        p.required(&c.at("lastTransitionTime"), "must be set");
    }
    let reason = c.str("reason");
    let bytes = reason.as_bytes();
    let good = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_,:".contains(b))
        && bytes.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    if reason.is_empty() {
        p.required(&c.at("reason"), "must be set");
    } else {
        if !good {
            p.invalid(
                &c.at("reason"),
                reason,
                names::form_error(REASON, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"]),
            );
        }
        if reason.len() > REASON_MAX_BYTES {
            p.too_long(&c.at("reason"), REASON_MAX_BYTES);
        }
    }
    if c.str("message").len() > MESSAGE_MAX_BYTES {
        p.too_long(&c.at("message"), MESSAGE_MAX_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_api::Path;
    use serde_json::json;

    #[test]
    fn a_condition_says_since_when_and_why() {
        let status = json!({"conditions": [{"type": "", "status": "yes", "observedGeneration": -1}]});
        let mut p = Problems::new();
        conditions(&Field::new(&status, Path::new("status")), usize::MAX, &mut p);
        let fields: Vec<&str> = p.iter().map(|p| p.field.as_str()).collect();
        let of = |name: &str| fields.iter().filter(|f| f.ends_with(name)).count();
        assert_eq!((of(".type"), of(".status"), of(".observedGeneration"), of(".lastTransitionTime"), of(".reason")), (2, 1, 1, 1, 1));
    }
}
