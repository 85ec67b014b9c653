//! Rules of webhooks and policies: operations, groups, versions, resources, scope; and selectors of namespaces and objects.

use keles_api::{Object, Selector};
use keles_registry::{Attributes, Operation, Scope, Served};
use serde_json::Value;

/// Configurations of admission itself are sent to nobody: a wrong one could then never be put right.
const EXEMPT: &[&str] = &[
    "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];

pub fn is_exempt(a: &Attributes<'_>) -> bool {
    a.request.group == "admissionregistration.k8s.io" && EXEMPT.contains(&a.info.plural)
}

pub fn operation(o: Operation) -> &'static str {
    match o {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// One `rules` entry (`RuleWithOperations`, `NamedRuleWithOperations`).
#[derive(Clone, Debug)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    /// Empty: any name.
    names: Vec<String>,
}

fn texts(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(|t| t.as_str().map(str::to_owned)).collect()
}

fn has(all: &[String], one: &str) -> bool {
    all.iter().any(|a| a == "*" || a == one)
}

impl Rule {
    pub fn parse(v: &Value) -> Rule {
        Rule {
            operations: texts(&v["operations"]),
            groups: texts(&v["apiGroups"]),
            versions: texts(&v["apiVersions"]),
            resources: texts(&v["resources"]),
            scope: v["scope"].as_str().unwrap_or("*").to_owned(),
            names: texts(&v["resourceNames"]),
        }
    }

    fn matches(&self, a: &Attributes<'_>, group: &str, version: &str) -> bool {
        has(&self.operations, operation(a.operation))
            && has(&self.groups, group)
            && has(&self.versions, version)
            && self.resources.iter().any(|r| covers(r, &a.request.plural, &a.request.subresource))
            && match self.scope.as_str() {
                "Namespaced" => a.info.scope == Scope::Namespaced,
                // A namespace is an object of the cluster.
                "Cluster" => a.info.scope == Scope::Cluster,
                _ => true,
            }
            && (self.names.is_empty() || self.names.contains(&a.request.name))
    }
}

/// `pods`, `pods/status`, `pods/*`, `*/status`, `*/*`, `*` (which leaves subresources out).
fn covers(rule: &str, plural: &str, subresource: &str) -> bool {
    let (resource, sub) = rule.split_once('/').unwrap_or((rule, ""));
    (resource == "*" || resource == plural) && (sub == subresource || sub == "*")
}

/// The rules of a hook with their policy about versions.
#[derive(Clone, Debug, Default)]
pub struct Matching {
    pub rules: Vec<Rule>,
    /// Requests that these mean are left out (policies only).
    pub excluded: Vec<Rule>,
    pub exact: bool,
    pub namespaces: Option<Selector>,
    pub objects: Option<Selector>,
}

impl Matching {
    /// From a webhook (`rules` beside the selectors) or a policy's `matchConstraints` / `matchResources` (`resourceRules`).
    pub fn parse(v: &Value) -> Matching {
        let rules = |field: &str| v[field].as_array().into_iter().flatten().map(Rule::parse).collect::<Vec<_>>();
        let mut own = rules("rules");
        own.extend(rules("resourceRules"));
        Matching {
            rules: own,
            excluded: rules("excludeResourceRules"),
            exact: v["matchPolicy"] == "Exact",
            namespaces: selector(&v["namespaceSelector"]),
            objects: selector(&v["objectSelector"]),
        }
    }

    /// The version in which the hook wants the object; `None` when it does not want the request at all.
    pub fn version(&self, a: &Attributes<'_>) -> Option<Served> {
        let asked = a.info.served.iter().find(|s| s.group == a.request.group && s.version == a.request.version).copied()?;
        if self.excluded.iter().any(|r| r.matches(a, asked.group, asked.version)) {
            return None;
        }
        let wants = |s: &Served| self.rules.iter().any(|r| r.matches(a, s.group, s.version));
        if wants(&asked) {
            return Some(asked);
        }
        // The same object under another name is the same object (matchPolicy Equivalent).
        (!self.exact).then(|| a.info.served.iter().find(|s| wants(s)).copied()).flatten()
    }

    /// Whether the selectors choose the request. `namespace` is that of the request, `None` when it is not there.
    pub fn selects(&self, a: &Attributes<'_>, object: Option<&Object>, namespace: Option<&Object>) -> bool {
        let of_namespace = match (&self.namespaces, namespace) {
            (None, _) => true,
            (Some(s), Some(ns)) => s.matches_object(ns),
            (Some(s), None) if a.info.scope == Scope::Namespaced => s.matches(|_| None),
            (Some(_), None) => true,
        };
        let of_object = self.objects.as_ref().is_none_or(|s| object.into_iter().chain(a.old).any(|o| s.matches_object(o)));
        of_namespace && of_object
    }
}

/// `None` for a selector that chooses everything.
fn selector(v: &Value) -> Option<Selector> {
    Selector::from_object(v).ok().filter(|s| !v.is_null() && !s.is_everything())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_and_subresources_are_matched_as_rules_name_them() {
        for (rule, plural, sub, expected) in [
            ("pods", "pods", "", true),
            ("pods", "pods", "status", false),
            ("pods/*", "pods", "status", true),
            ("pods/*", "pods", "", true),
            ("*", "pods", "", true),
            ("*", "pods", "exec", false),
            ("*/exec", "pods", "exec", true),
            ("*/*", "services", "status", true),
            ("pods/exec", "pods", "attach", false),
        ] {
            assert_eq!(covers(rule, plural, sub), expected, "{rule} of {plural}/{sub}");
        }
    }
}
