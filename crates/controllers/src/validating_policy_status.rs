//! Type checks of ValidatingAdmissionPolicies: which expressions cannot work on the kinds that a policy matches (KEP-3488).
//!
//! Expressions are compiled when a policy is written without knowing what `object` is; here they are checked again for each kind that the
//! policy names outright, and the status tells of what does not fit. Deliberately absent: wildcards, subresources (as upstream) and custom
//! kinds, of whose objects nothing is known here: their fields may be anything.

use crate::Start;
use k8s_openapi::api::admissionregistration::v1::{ExpressionWarning, NamedRuleWithOperations, ValidatingAdmissionPolicy};
use keles_api::schema;
use keles_cel::uses::Admission;
use keles_cel::{Decl, Environment, Type};
use keles_client::ObjectKey;
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Kinds that an expression is checked against; upstream's figure.
const KINDS_MAX: usize = 10;

pub struct ValidatingPolicyStatusController {
    policies: Writer<ValidatingAdmissionPolicy>,
}

impl ValidatingPolicyStatusController {
    pub fn new(start: &Start) -> Self {
        ValidatingPolicyStatusController { policies: start.writer() }
    }
}

impl Controller for ValidatingPolicyStatusController {
    const NAME: &'static str = "validatingadmissionpolicy-status-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.own(self.policies.informer());
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let Some(policy) = self.policies.informer().get_key(key) else { return Ok(Outcome::Done) };
        let generation = policy.metadata.generation.unwrap_or(0);
        if policy.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0) >= generation {
            return Ok(Outcome::Done);
        }
        let mut checking = json!({});
        let warnings = check(&policy);
        if !warnings.is_empty() {
            checking["expressionWarnings"] = json!(warnings);
        }
        let status = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": key.name},
            "status": {"observedGeneration": generation, "typeChecking": checking},
        });
        self.policies.apply_status(key, Self::NAME, status).await?;
        Ok(Outcome::Done)
    }
}

/// A kind with what is known of its objects.
struct Known {
    /// `apps/v1, Kind=Deployment`
    shown: String,
    object: Arc<Decl>,
}

/// Every expression of the policy that does not fit some kind, by the field it stands in.
fn check(policy: &ValidatingAdmissionPolicy) -> Vec<ExpressionWarning> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    let rules = spec.match_constraints.as_ref().and_then(|m| m.resource_rules.as_deref()).unwrap_or_default();
    let kinds = matched(rules);
    let params = spec.param_kind.as_ref().map(|k| {
        let version = k.api_version.as_deref().unwrap_or_default();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let known = schema::builtin().of_kind(group, version, k.kind.as_deref().unwrap_or_default());
        known.map_or_else(|| Arc::new(Decl::from(Type::Dyn)), Decl::from_schema)
    });
    let variables: Vec<(&str, &str)> = spec.variables.iter().flatten().map(|v| (v.name.as_str(), v.expression.as_str())).collect();
    let mut all = Vec::new();
    for (i, v) in spec.validations.iter().flatten().enumerate() {
        let message = v.message_expression.as_deref().unwrap_or_default();
        for (field, text, authorizer) in [("expression", v.expression.as_str(), true), ("messageExpression", message, false)] {
            let of = |k: &Known| Some(format!("{}: {}", k.shown, environment(k, params.as_ref(), &variables, authorizer).compile(text).err()?));
            let found: Vec<String> = kinds.iter().filter(|_| !text.is_empty()).filter_map(of).collect();
            if !found.is_empty() {
                all.push(ExpressionWarning { field_ref: format!("spec.validations[{i}].{field}"), warning: found.join("\n") });
            }
        }
    }
    all
}

/// What expressions may name, with the kind's own type for the objects.
fn environment(kind: &Known, params: Option<&Arc<Decl>>, variables: &[(&str, &str)], authorizer: bool) -> Environment {
    let typed = |known: &[(String, Type)]| {
        let there = Admission { params: params.is_some(), authorizer, variables: (!variables.is_empty()).then_some(known), ..Admission::default() };
        let env = there.environment().declare("object", kind.object.clone()).declare("oldObject", kind.object.clone());
        params.map_or(env.clone(), |p| env.declare("params", p.clone()))
    };
    let mut known: Vec<(String, Type)> = Vec::new();
    for (name, text) in variables {
        // One that does not fit is told of where it is used: its value may be anything.
        let ty = typed(&known).compile(text).map_or(Type::Dyn, |p| p.result().clone());
        known.push(((*name).to_owned(), ty));
    }
    typed(&known)
}

/// The built-in kinds that rules name outright, in order, not too many.
fn matched(rules: &[NamedRuleWithOperations]) -> Vec<Known> {
    let mut named = BTreeSet::new();
    for rule in rules {
        let (groups, versions, resources) = (rule.api_groups.as_deref(), rule.api_versions.as_deref(), rule.resources.as_deref());
        let (groups, versions, resources) = (groups.unwrap_or_default(), versions.unwrap_or_default(), resources.unwrap_or_default());
        if [groups, versions, resources].iter().any(|l| l.iter().any(|t| t == "*")) {
            continue;
        }
        for (group, version) in groups.iter().flat_map(|g| versions.iter().map(move |v| (g, v))) {
            named.extend(resources.iter().filter(|r| !r.contains('/')).map(|r| (group.as_str(), version.as_str(), r.as_str())));
        }
    }
    let mut known = Vec::new();
    for ty in schema::builtin().types() {
        for (group, version, kind) in ty.object().into_iter().flat_map(|o| o.gvks()) {
            if named.contains(&(group, version, plural(kind).as_str())) {
                let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
                known.push(((group, version, kind), Known { shown: format!("{api_version}, Kind={kind}"), object: Decl::from_schema(ty) }));
            }
        }
    }
    known.sort_by_key(|(gvk, _)| *gvk);
    known.truncate(KINDS_MAX);
    known.into_iter().map(|(_, k)| k).collect()
}

/// The resource of a built-in kind, by upstream's rule for guessing it.
fn plural(kind: &str) -> String {
    let lower = kind.to_lowercase();
    match lower.chars().next_back() {
        _ if lower == "endpoints" => lower,
        Some('s') => format!("{lower}es"),
        Some('y') => format!("{}ies", &lower[..lower.len() - 1]),
        _ => format!("{lower}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(validations: serde_json::Value, resources: &[&str]) -> ValidatingAdmissionPolicy {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": resources}]},
            "variables": [{"name": "count", "expression": "object.spec.replicas"}],
            "validations": validations,
        }}))
        .expect("a policy")
    }

    fn said(validations: serde_json::Value, resources: &[&str]) -> Vec<(String, String)> {
        check(&policy(validations, resources)).into_iter().map(|w| (w.field_ref, w.warning)).collect()
    }

    #[test]
    fn a_field_that_the_kind_lacks_is_told_of() {
        let found = said(json!([{"expression": "object.replicas > 1"}, {"expression": "variables.count > 1"}]), &["deployments"]);
        assert_eq!(
            found,
            [(
                "spec.validations[0].expression".to_owned(),
                "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'replicas'\n | object.replicas > 1\n | ......^".to_owned()
            )]
        );
    }

    #[test]
    fn each_kind_is_checked_by_itself_and_unknown_ones_not_at_all() {
        let wrong = json!([{"expression": "variables.count > 1", "messageExpression": "object.spec.nope"}]);
        let found = said(wrong.clone(), &["statefulsets", "daemonsets", "deployments/scale", "things"]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "spec.validations[0].messageExpression");
        let kinds: Vec<&str> = found[0].1.lines().filter_map(|l| l.split_once(": ERROR").map(|(k, _)| k)).collect();
        assert_eq!(kinds, ["apps/v1, Kind=DaemonSet", "apps/v1, Kind=StatefulSet"]);
        assert!(said(wrong, &["*"]).is_empty());
    }

    #[test]
    fn kinds_are_found_by_their_resources() {
        for (kind, resource) in [("Endpoints", "endpoints"), ("Ingress", "ingresses"), ("NetworkPolicy", "networkpolicies"), ("StorageClass", "storageclasses"), ("Pod", "pods")] {
            assert_eq!(plural(kind), resource);
        }
    }
}
