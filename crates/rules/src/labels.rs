//! Typed label selectors against typed labels.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

/// Whether the selector selects these labels. An empty selector selects everything; an unknown operator nothing.
pub fn selects(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let wanted = selector.match_labels.iter().flatten().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value));
    wanted && selector.match_expressions.iter().flatten().all(|requirement| holds(requirement, labels))
}
/// Whether every one of `wanted` is among `labels`.
pub fn has_all(wanted: &Labels, labels: Option<&Labels>) -> bool {
    wanted.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

fn holds(requirement: &LabelSelectorRequirement, labels: Option<&Labels>) -> bool {
    let value = labels.and_then(|l| l.get(&requirement.key));
    let listed = || value.is_some_and(|value| requirement.values.iter().flatten().any(|v| v == value));
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_follow_the_api_s_operators() {
        let labels: Labels = [("a".to_owned(), "1".to_owned())].into();
        for (key, operator, values, expected) in [
            ("a", "In", vec!["1", "2"], true),
            ("a", "In", vec!["2"], false),
            ("b", "In", vec!["1"], false),
            ("a", "NotIn", vec!["1"], false),
            ("b", "NotIn", vec!["1"], true),
            ("a", "Exists", vec![], true),
            ("b", "DoesNotExist", vec![], true),
            ("a", "Unheard", vec![], false),
        ] {
            let requirement = LabelSelectorRequirement { key: key.into(), operator: operator.into(), values: Some(values.iter().map(|v| v.to_string()).collect()) };
            let selector = LabelSelector { match_expressions: Some(vec![requirement]), ..Default::default() };
            assert_eq!(selects(&selector, Some(&labels)), expected, "{key} {operator} {values:?}");
        }
    }
}
