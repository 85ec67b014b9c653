//! How pods of a group are scheduled, in a Workload's templates and in a PodGroup (KEP-4671).

use crate::field::{Field, NOT_POSITIVE};
use keles_api::Problems;

/// Exactly one way; a gang says how many there must be.
pub fn scheduling(policy: &Field, p: &mut Problems) {
    match (policy.has("basic"), policy.has("gang")) {
        (false, false) => p.invalid(policy.path(), "", "must specify one of: `basic`, `gang`"),
        (true, true) => p.invalid(policy.path(), "{`basic`, `gang`}", "exactly one of `basic`, `gang` is required, but multiple fields are set"),
        (true, false) => {}
        (false, true) => {
            let gang = policy.get("gang");
            match gang.int("minCount") {
                0 => p.required(&gang.at("minCount"), ""),
                n if n < 0 => p.invalid(&gang.at("minCount"), n, NOT_POSITIVE),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_api::Path;
    use serde_json::json;

    #[test]
    fn a_gang_has_a_size() {
        let said = |policy: serde_json::Value| {
            let mut p = Problems::new();
            scheduling(&Field::new(&policy, Path::new("policy")), &mut p);
            p.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(said(json!({"basic": {}})).is_empty());
        assert_eq!(said(json!({"gang": {}})), ["policy.gang.minCount: Required value"]);
        assert_eq!(said(json!({})), ["policy: Invalid value: \"\": must specify one of: `basic`, `gang`"]);
    }
}
