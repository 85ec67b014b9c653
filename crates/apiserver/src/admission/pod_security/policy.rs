//! What a namespace's labels demand: a level and a version for each mode.

use keles_api::{Object, Path, Problems};
use std::fmt;

const PREFIX: &str = "pod-security.kubernetes.io/";
/// The newest version whose checks are known; later ones and `latest` mean it.
pub const NEWEST_MINOR: u32 = 36;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
    pub fn text(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// A level as of a release; `minor` absent is `latest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standard {
    pub level: Level,
    pub minor: Option<u32>,
}

impl Standard {
    pub fn effective_minor(self) -> u32 {
        self.minor.unwrap_or(NEWEST_MINOR).min(NEWEST_MINOR)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            Some(minor) => write!(f, "{}:v1.{minor}", self.level.text()),
            None => write!(f, "{}:latest", self.level.text()),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub enforce: Standard,
    pub audit: Standard,
    pub warn: Standard,
}

/// `latest` or `v1.N` without leading zeros.
fn version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let digits = text.strip_prefix("v1.")?;
    let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| canonical).map(Some)
}

impl Policy {
    /// From a namespace's labels, and what of them cannot be read: an unreadable level is the strictest where pods are refused, and the
    /// laxest where they are only told of.
    pub fn of(namespace: &Object) -> (Policy, Problems) {
        let (mut policy, mut problems) = (Policy::default(), Problems::new());
        let labels = namespace.at(&["metadata", "labels"]);
        let at = |key: &str| Path::new("metadata").child("labels").key(key);
        let label = |mode: &str| labels[format!("{PREFIX}{mode}")].as_str();
        for (mode, standard, unreadable) in
            [("enforce", &mut policy.enforce, Level::Restricted), ("audit", &mut policy.audit, Level::Privileged), ("warn", &mut policy.warn, Level::Privileged)]
        {
            if let Some(text) = label(mode) {
                standard.level = Level::parse(text).unwrap_or_else(|| {
                    problems.invalid(&at(&format!("{PREFIX}{mode}")), text, "must be one of privileged, baseline, restricted");
                    unreadable
                });
            }
            if let Some(text) = label(&format!("{mode}-version")) {
                standard.minor = version(text).unwrap_or_else(|| {
                    problems.invalid(&at(&format!("{PREFIX}{mode}-version")), text, "must be \"latest\" or \"v1.x\"");
                    None
                });
            }
        }
        // Who is refused pods is warned of workloads whose pods would be refused.
        let enforces = label("enforce").and_then(Level::parse).is_some();
        if enforces && label("warn").is_none() && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.minor = policy.enforce.minor;
            }
        }
        (policy, problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(labels: serde_json::Value) -> (Policy, usize) {
        let (p, problems) = Policy::of(&Object(json!({"metadata": {"labels": labels}})));
        (p, problems.into_vec().len())
    }

    #[test]
    fn labels_say_level_and_version_by_mode() {
        let key = |k: &str| format!("{PREFIX}{k}");
        let (p, wrong) = of(json!({key("enforce"): "baseline", key("enforce-version"): "v1.24", key("audit"): "restricted"}));
        assert_eq!((p.enforce.to_string().as_str(), p.audit.to_string().as_str(), wrong), ("baseline:v1.24", "restricted:latest", 0));
        assert_eq!(p.warn, p.enforce, "who is refused pods is warned of workloads too");
        assert_eq!(of(json!({})).0, Policy::default());
        let (p, wrong) = of(json!({key("enforce"): "strict", key("enforce-version"): "v1.08"}));
        assert_eq!((p.enforce.to_string().as_str(), wrong), ("restricted:latest", 2), "what cannot be read is the strictest");
    }

    #[test]
    fn a_later_version_means_the_newest_known() {
        assert_eq!(Standard { level: Level::Baseline, minor: Some(99) }.effective_minor(), NEWEST_MINOR);
        assert_eq!(version("v1.99"), Some(Some(99)));
        for bad in ["1.2", "v1", "v1.", "v1.-1", "v2.0", "v1.2.3", "Latest"] {
            assert_eq!(version(bad), None, "{bad}");
        }
    }
}
