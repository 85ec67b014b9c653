//! Node selector terms against a node: what node affinity of pods and of volumes shares.

use crate::labels::Labels;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

/// The only field that terms can match.
pub const NAME_FIELD: &str = "metadata.name";

/// Whether some term of the selector holds for the node.
pub fn selects(selector: &NodeSelector, name: &str, labels: Option<&Labels>) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, name, labels))
}

/// Every requirement holds; a term without any matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, name: &str, labels: Option<&Labels>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let field = |key: &str| Some(name).filter(|name| key == NAME_FIELD && !name.is_empty());
    expressions.iter().all(|requirement| holds(requirement, label(&requirement.key))) && fields.iter().all(|requirement| holds(requirement, field(&requirement.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|v| v == value));
    let compare = |wanted: fn(i64, i64) -> bool| {
        let bound: Option<i64> = values.first().and_then(|v| v.parse().ok());
        value.and_then(|v| v.parse().ok()).zip(bound).is_some_and(|(have, bound)| wanted(have, bound))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|have, bound| have > bound),
        "Lt" => compare(|have, bound| have < bound),
        _ => false,
    }
}
