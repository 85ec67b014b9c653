//! The order in which versions of a group are preferred.

use std::cmp::Reverse;

/// Sorts versions as upstream prefers them: `v2` before `v1` before `v1beta2` before `v1alpha1`, then others by name.
pub fn priority(version: &str) -> (u8, Reverse<u64>, Reverse<u64>, String) {
    let other = || (3, Reverse(0), Reverse(0), version.to_owned());
    let Some(rest) = version.strip_prefix('v') else { return other() };
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Ok(major) = rest[..digits].parse() else { return other() };
    let tail = &rest[digits..];
    let (level, minor) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
        _ if tail.is_empty() => (0, "0"),
        (Some(n), _) => (1, n),
        (_, Some(n)) => (2, n),
        _ => return other(),
    };
    let Ok(minor) = minor.parse() else { return other() };
    (level, Reverse(major), Reverse(minor), String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_by_level_then_number() {
        let mut all = ["v1alpha1", "foo1", "v2", "v1beta2", "v10", "v1", "v1beta10", "v12alpha2"];
        all.sort_by_key(|v| priority(v));
        assert_eq!(all, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v12alpha2", "v1alpha1", "foo1"]);
    }
}
