//! `x-kubernetes-validations`: the one seam to the CEL environment.
//!
//! Not wired yet: rules of a schema are kept ([`Node::rules`]) and not evaluated (docs/STATUS.md). What is here decides when they would be.

use crate::structural::Node;
use keles_api::Problems;
use serde_json::Value;

/// Checks the rules of a schema on a well-formed resource. `old`: its state before, on update.
pub fn validate(_v: &Value, _old: Option<&Value>, _root: &Node, _p: &mut Problems) {}

/// Whether a schema has rules at all.
pub fn has_rules(root: &Node) -> bool {
    root.any(&|n| n.rules.is_some())
}
