//! Type checks of ValidatingAdmissionPolicies: which expressions cannot work on the kinds that a policy matches (KEP-3488).
//!
//! Expressions are compiled when a policy is written without knowing what `object` is; here they are checked again for each kind that the
//! policy names outright, and the status tells of what does not fit. Built-in kinds are in the schema table, others are asked for in
//! discovery and OpenAPI. Deliberately absent, as upstream: wildcards and subresources.

use crate::Start;
use k8s_openapi::api::admissionregistration::v1::{ExpressionWarning, NamedRuleWithOperations, ValidatingAdmissionPolicy};
use keles_api::schema;
use keles_cel::uses::Admission;
use keles_cel::{Decl, Environment, Type};
use keles_client::ObjectKey;
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Kinds of one rule that an expression is checked against; upstream's figure.
const KINDS_MAX: usize = 10;
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

pub struct ValidatingPolicyStatusController {
    client: kube::Client,
    policies: Writer<ValidatingAdmissionPolicy>,
}

impl ValidatingPolicyStatusController {
    pub fn new(start: &Start) -> Self {
        ValidatingPolicyStatusController { client: start.client.clone(), policies: start.writer() }
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
        let warnings = check(&policy, &mut Kinds { client: Some(self.client.clone()), asked: HashMap::new() }).await;
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

/// Group, version and kind.
type Gvk = (String, String, String);

/// The kinds there are.
struct Kinds {
    /// Who is asked for those that are not built in; absent: nobody.
    client: Option<kube::Client>,
    /// What was answered, by group and version.
    asked: HashMap<(String, String), Published>,
}

/// A group-version that is not built in.
#[derive(Default)]
struct Published {
    /// Kinds by their resources.
    resources: BTreeMap<String, String>,
    /// Schemas of OpenAPI v3 by kind.
    schemas: BTreeMap<String, Value>,
}

impl Published {
    /// `list`: its resources in discovery; `document`: its OpenAPI v3 document.
    fn read(group: &str, version: &str, list: &Value, document: &Value) -> Published {
        let text = |v: &Value, field: &str| v[field].as_str().unwrap_or_default().to_owned();
        let resources = list["resources"].as_array().into_iter().flatten().map(|r| (text(r, "name"), text(r, "kind"))).collect();
        let kind_of = |s: &Value| {
            let all = s["x-kubernetes-group-version-kind"].as_array()?;
            all.iter().find(|g| g["group"] == group && g["version"] == version).map(|g| text(g, "kind"))
        };
        let schemas = document["components"]["schemas"].as_object().into_iter().flatten().filter_map(|(_, s)| Some((kind_of(s)?, s.clone()))).collect();
        Published { resources, schemas }
    }
}

impl Kinds {
    /// A group-version as the server publishes it; empty where it does not.
    async fn published(&mut self, group: &str, version: &str) -> &Published {
        let key = (group.to_owned(), version.to_owned());
        if !self.asked.contains_key(&key) {
            let path = format!("apis/{group}/{version}");
            let found = match &self.client {
                Some(client) => futures::future::try_join(read(client, format!("/{path}")), read(client, format!("/openapi/v3/{path}"))).await.ok(),
                None => None,
            };
            let found = found.map(|(list, document)| Published::read(group, version, &list, &document)).unwrap_or_default();
            self.asked.insert(key.clone(), found);
        }
        &self.asked[&key]
    }

    /// The kind of a resource.
    async fn kind_of(&mut self, group: &str, version: &str, resource: &str) -> Option<String> {
        let mut built_in = schema::builtin().types().filter_map(|ty| ty.object()).flat_map(|o| o.gvks());
        match built_in.find(|(g, v, kind)| *g == group && *v == version && plural(kind) == resource) {
            Some((_, _, kind)) => Some(kind.to_owned()),
            None => self.published(group, version).await.resources.get(resource).cloned(),
        }
    }

    /// What is known of a kind's objects.
    async fn declared(&mut self, group: &str, version: &str, kind: &str) -> Option<Arc<Decl>> {
        if let Some(ty) = schema::builtin().of_kind(group, version, kind) {
            return Some(Decl::from_schema(ty));
        }
        let schema = self.published(group, version).await.schemas.get(kind)?;
        Decl::from_published(schema, schema::builtin().get(OBJECT_META)?)
    }

    /// The kinds that rules name outright, in order, not too many.
    async fn matched(&mut self, rules: &[NamedRuleWithOperations]) -> Vec<Known> {
        let mut found: BTreeSet<Gvk> = BTreeSet::new();
        'rules: for rule in rules {
            let mut count = 0;
            for (group, version, resource) in named(rule) {
                let Some(kind) = self.kind_of(group, version, resource).await else { continue };
                found.insert((group.to_owned(), version.to_owned(), kind));
                count += 1;
                if count == KINDS_MAX {
                    break 'rules;
                }
            }
        }
        let mut known = Vec::new();
        for (group, version, kind) in found {
            let Some(object) = self.declared(&group, &version, &kind).await else { continue };
            let api_version = if group.is_empty() { version } else { format!("{group}/{version}") };
            known.push(Known { shown: format!("{api_version}, Kind={kind}"), object });
        }
        known
    }
}

async fn read(client: &kube::Client, path: String) -> kube::Result<Value> {
    client.request(http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?).await
}

/// What a rule names without a wildcard: group, version and resource, sorted each. A wildcard in groups or versions leaves nothing.
fn named(rule: &NamedRuleWithOperations) -> Vec<(&str, &str, &str)> {
    fn sorted<'r>(list: &'r Option<Vec<String>>, wanted: impl Fn(&str) -> bool) -> Vec<&'r str> {
        let mut all: Vec<&str> = list.iter().flatten().map(String::as_str).filter(|t| wanted(t)).collect();
        all.sort_unstable();
        all
    }
    let is_wild = |list: &Option<Vec<String>>| list.iter().flatten().any(|t| t.contains('*'));
    if is_wild(&rule.api_groups) || is_wild(&rule.api_versions) {
        return Vec::new();
    }
    let versions = sorted(&rule.api_versions, |_| true);
    let resources = sorted(&rule.resources, |r| !r.contains(['*', '/']));
    let groups = sorted(&rule.api_groups, |_| true).into_iter();
    groups.flat_map(|g| versions.iter().map(move |v| (g, *v))).flat_map(|(g, v)| resources.iter().map(move |r| (g, v, *r))).collect()
}

/// Every expression of the policy that does not fit some kind, by the field it stands in.
async fn check(policy: &ValidatingAdmissionPolicy, all_kinds: &mut Kinds) -> Vec<ExpressionWarning> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    let rules = spec.match_constraints.as_ref().and_then(|m| m.resource_rules.as_deref()).unwrap_or_default();
    let kinds = all_kinds.matched(rules).await;
    let params = match &spec.param_kind {
        Some(k) => {
            let version = k.api_version.as_deref().unwrap_or_default();
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let known = all_kinds.declared(group, version, k.kind.as_deref().unwrap_or_default()).await;
            Some(known.unwrap_or_else(|| Arc::new(Decl::from(Type::Dyn))))
        }
        None => None,
    };
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

    async fn told(policy: &ValidatingAdmissionPolicy, kinds: &mut Kinds) -> Vec<(String, String)> {
        check(policy, kinds).await.into_iter().map(|w| (w.field_ref, w.warning)).collect()
    }
    async fn said(validations: serde_json::Value, resources: &[&str]) -> Vec<(String, String)> {
        told(&policy(validations, resources), &mut Kinds { client: None, asked: HashMap::new() }).await
    }

    #[tokio::test]
    async fn a_field_that_the_kind_lacks_is_told_of() {
        let found = said(json!([{"expression": "object.replicas > 1"}, {"expression": "variables.count > 1"}]), &["deployments"]).await;
        assert_eq!(
            found,
            [(
                "spec.validations[0].expression".to_owned(),
                "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'replicas'\n | object.replicas > 1\n | ......^".to_owned()
            )]
        );
    }

    #[tokio::test]
    async fn each_kind_is_checked_by_itself_and_unknown_ones_not_at_all() {
        let wrong = json!([{"expression": "variables.count > 1", "messageExpression": "object.spec.nope"}]);
        let found = said(wrong.clone(), &["statefulsets", "daemonsets", "deployments/scale", "things"]).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "spec.validations[0].messageExpression");
        let kinds: Vec<&str> = found[0].1.lines().filter_map(|l| l.split_once(": ERROR").map(|(k, _)| k)).collect();
        assert_eq!(kinds, ["apps/v1, Kind=DaemonSet", "apps/v1, Kind=StatefulSet"]);
        assert!(said(wrong.clone(), &["*"]).await.is_empty());
        assert_eq!(said(wrong, &["*", "daemonsets"]).await.len(), 1, "a wildcard is passed over, what stands beside it is not");
    }

    #[tokio::test]
    async fn custom_kinds_and_parameters_are_checked_as_they_are_published() {
        let list = json!({"resources": [{"name": "things", "kind": "Thing"}, {"name": "things/status", "kind": "Thing"}]});
        let schema = json!({"type": "object", "x-kubernetes-group-version-kind": [{"group": "x.example", "version": "v1", "kind": "Thing"}],
            "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}});
        let document = json!({"components": {"schemas": {"example.x.v1.Thing": schema, "Other": {"type": "object"}}}});
        let mut kinds = Kinds { client: None, asked: HashMap::from([(("x.example".to_owned(), "v1".to_owned()), Published::read("x.example", "v1", &list, &document))]) };
        let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "paramKind": {"apiVersion": "x.example/v1", "kind": "Thing"},
            "matchConstraints": {"resourceRules": [{"apiGroups": ["x.example"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["things"]}]},
            "validations": [
                {"expression": "object.spec.size > params.spec.size && object.metadata.labels['a'] == 'b'"},
                {"expression": "object.spec.weight > 1"},
                {"expression": "params.spec.weight > 1"},
                {"expression": "object.spec.size == 'large'"},
            ],
        }}))
        .expect("a policy");
        let found = told(&policy, &mut kinds).await;
        let first_lines: Vec<(&str, &str)> = found.iter().map(|(field, why)| (field.as_str(), why.lines().next().unwrap_or_default())).collect();
        assert_eq!(
            first_lines,
            [
                ("spec.validations[1].expression", "x.example/v1, Kind=Thing: ERROR: <input>:1:12: undefined field 'weight'"),
                ("spec.validations[2].expression", "x.example/v1, Kind=Thing: ERROR: <input>:1:12: undefined field 'weight'"),
                ("spec.validations[3].expression", "x.example/v1, Kind=Thing: ERROR: <input>:1:18: found no matching overload for '_==_' applied to '(int, string)'"),
            ]
        );
    }

    #[tokio::test]
    async fn a_rule_is_followed_for_ten_kinds() {
        let all = [
            "bindings",
            "configmaps",
            "endpoints",
            "events",
            "limitranges",
            "namespaces",
            "nodes",
            "persistentvolumeclaims",
            "persistentvolumes",
            "pods",
            "podtemplates",
            "secrets",
            "services",
        ];
        let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": all}]},
            "validations": [{"expression": "object.nope == 1"}]}}))
        .expect("a policy");
        let found = told(&policy, &mut Kinds { client: None, asked: HashMap::new() }).await;
        let kinds = found[0].1.lines().filter(|l| l.contains("ERROR")).count();
        assert_eq!(kinds, KINDS_MAX);
        assert!(!found[0].1.contains("Kind=Service:"));
    }

    #[test]
    fn kinds_are_found_by_their_resources() {
        for (kind, resource) in [("Endpoints", "endpoints"), ("Ingress", "ingresses"), ("NetworkPolicy", "networkpolicies"), ("StorageClass", "storageclasses"), ("Pod", "pods")] {
            assert_eq!(plural(kind), resource);
        }
    }
}
