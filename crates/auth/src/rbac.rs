//! Role-based access control over an index of roles and bindings.
//!
//! The index maps each subject to its grants. Aggregated ClusterRoles get their rules here from the labels of the others, so that
//! they hold whether or not a controller has written them.

use crate::{Attributes, MASTERS, User, service_account_names};
use keles_api::Object;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

/// A `PolicyRule` of rbac.authorization.k8s.io/v1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|v| v == "*" || v == value)
}

impl Rule {
    pub fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has(&self.verbs, a.verb) {
            return false;
        }
        if !a.is_resource() {
            return self.non_resource_urls.iter().any(|u| u == "*" || u == a.path || u.strip_suffix('*').is_some_and(|p| a.path.starts_with(p)));
        }
        has(&self.api_groups, a.group) && self.allows_resource(a.resource, a.subresource) && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == a.name))
    }
    fn allows_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|r| {
            if r == "*" {
                return true;
            }
            match r.split_once('/') {
                None => subresource.is_empty() && r == resource,
                Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == resource || of == "*"),
            }
        })
    }
    /// As upstream prints rules in messages.
    pub fn compact(&self) -> String {
        let part = |name: &str, list: &[String]| (!list.is_empty()).then(|| format!("{name}:[{}]", list.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" ")));
        let parts = [
            part("APIGroups", &self.api_groups),
            part("Resources", &self.resources),
            part("NonResourceURLs", &self.non_resource_urls),
            part("ResourceNames", &self.resource_names),
            part("Verbs", &self.verbs),
        ];
        format!("{{{}}}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
    /// One rule a verb, group, resource, name or path.
    fn pieces(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        for v in &self.verbs {
            out.extend(self.non_resource_urls.iter().map(|u| Rule { verbs: vec![v.clone()], non_resource_urls: vec![u.clone()], ..Rule::default() }));
            for g in &self.api_groups {
                for r in &self.resources {
                    let one = Rule { verbs: vec![v.clone()], api_groups: vec![g.clone()], resources: vec![r.clone()], ..Rule::default() };
                    if self.resource_names.is_empty() {
                        out.push(one);
                    } else {
                        out.extend(self.resource_names.iter().map(|n| Rule { resource_names: vec![n.clone()], ..one.clone() }));
                    }
                }
            }
        }
        out
    }
    /// Whether `self` gives all that the single-valued `piece` gives.
    fn covers(&self, piece: &Rule) -> bool {
        let all = |mine: &[String], theirs: &[String]| theirs.iter().all(|t| has(mine, t));
        if !all(&self.verbs, &piece.verbs) {
            return false;
        }
        if let Some(u) = piece.non_resource_urls.first() {
            return self.non_resource_urls.iter().any(|m| m == "*" || m == u || m.strip_suffix('*').is_some_and(|p| u.starts_with(p)));
        }
        let resource = piece.resources.first().map(String::as_str).unwrap_or("");
        let resource_held = self.resources.iter().any(|m| m == "*" || m == resource || resource.split_once('/').is_some_and(|(_, sub)| m.strip_prefix("*/") == Some(sub)));
        all(&self.api_groups, &piece.api_groups)
            && resource_held
            && (self.resource_names.is_empty() || (!piece.resource_names.is_empty() && piece.resource_names.iter().all(|n| self.resource_names.contains(n))))
    }
}

/// The rules of `wanted` that `held` does not give, in small pieces; empty when everything is held.
pub fn not_covered(held: &[&Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(Rule::pieces).filter(|p| !held.iter().any(|h| h.covers(p))).collect()
}

/// The stored roles and bindings.
#[derive(Default)]
pub struct PolicyObjects {
    pub cluster_roles: Vec<Object>,
    pub roles: Vec<Object>,
    pub cluster_role_bindings: Vec<Object>,
    pub role_bindings: Vec<Object>,
}

/// Where roles and bindings come from.
pub trait PolicySource: Send + Sync + 'static {
    /// Grows whenever a role or binding changed.
    fn version(&self) -> u64;
    fn load(&self) -> PolicyObjects;
}

/// Where a permission comes from.
#[derive(Debug)]
struct Grant {
    /// `None`: everywhere.
    namespace: Option<String>,
    rules: Arc<Vec<Rule>>,
    binding: String,
    role: String,
    subject: String,
}

/// Why a request is allowed; the text is made only when somebody reads it.
pub enum Reason {
    Superuser,
    /// The Node authorizer.
    Node,
    /// In the words of another authorizer.
    Text(String),
    Granted {
        binding: String,
        role: String,
        subject: String,
    },
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Superuser | Reason::Node => Ok(()),
            Reason::Text(t) => f.write_str(t),
            Reason::Granted { binding, role, subject } => write!(f, "RBAC: allowed by {binding} of {role} to {subject}"),
        }
    }
}

#[derive(Default)]
struct Index {
    users: HashMap<String, Vec<Arc<Grant>>>,
    groups: HashMap<String, Vec<Arc<Grant>>>,
    /// By `namespace/name`.
    accounts: HashMap<String, Vec<Arc<Grant>>>,
    /// By `name`, and `namespace/name`: for the escalation check.
    roles: HashMap<String, Arc<Vec<Rule>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
    role_ref: RoleRef,
}
#[derive(Deserialize)]
struct Subject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}
#[derive(Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

fn rules_of(o: &Object) -> Vec<Rule> {
    Option::<Vec<Rule>>::deserialize(o.at(&["rules"])).ok().flatten().unwrap_or_default()
}

/// Whether a ClusterRole's aggregation rule selects `candidate`. An empty selector selects every role, as upstream's does.
fn aggregates(aggregate: &Object, candidate: &Object) -> bool {
    let Some(selectors) = aggregate.at(&["aggregationRule", "clusterRoleSelectors"]).as_array() else { return false };
    selectors.iter().any(|s| keles_api::selector::Selector::from_object(s).is_ok_and(|s| s.matches_object(candidate)))
}

/// The rules of an aggregated ClusterRole: its own stored ones and those of every role it selects, to any depth.
fn aggregated_rules(role: &Object, all: &[Object], depth: usize) -> Vec<Rule> {
    /// admin selects edit selects view: deeper chains than this are loops.
    const MAX_DEPTH: usize = 8;
    let mut rules = rules_of(role);
    if depth < MAX_DEPTH && !role.at(&["aggregationRule"]).is_null() {
        for other in all.iter().filter(|o| o.name() != role.name() && aggregates(role, o)) {
            for r in aggregated_rules(other, all, depth + 1) {
                if !rules.contains(&r) {
                    rules.push(r);
                }
            }
        }
    }
    rules
}

impl Index {
    fn build(objects: &PolicyObjects) -> Index {
        let mut ix = Index::default();
        for r in &objects.cluster_roles {
            ix.roles.insert(r.name().into(), Arc::new(aggregated_rules(r, &objects.cluster_roles, 0)));
        }
        for r in &objects.roles {
            ix.roles.insert(format!("{}/{}", r.namespace(), r.name()), Arc::new(rules_of(r)));
        }
        for b in &objects.cluster_role_bindings {
            ix.bind(b, None);
        }
        for b in &objects.role_bindings {
            ix.bind(b, Some(b.namespace()));
        }
        ix
    }

    fn bind(&mut self, b: &Object, namespace: Option<&str>) {
        let Ok(binding) = b.typed::<Binding>() else { return };
        let key = match (binding.role_ref.kind.as_str(), namespace) {
            ("ClusterRole", _) => binding.role_ref.name.clone(),
            ("Role", Some(ns)) => format!("{ns}/{}", binding.role_ref.name),
            _ => return,
        };
        let Some(rules) = self.roles.get(&key).cloned() else { return };
        for s in binding.subjects.unwrap_or_default() {
            let quoted = if s.kind == "ServiceAccount" { format!("{}/{}", s.name, s.namespace) } else { s.name.clone() };
            let grant = Arc::new(Grant {
                namespace: namespace.map(str::to_owned),
                rules: rules.clone(),
                binding: match namespace {
                    None => format!("ClusterRoleBinding \"{}\"", b.name()),
                    Some(ns) => format!("RoleBinding \"{}/{ns}\"", b.name()),
                },
                role: format!("{} \"{}\"", binding.role_ref.kind, binding.role_ref.name),
                subject: format!("{} \"{quoted}\"", s.kind),
            });
            match s.kind.as_str() {
                "User" => self.users.entry(s.name).or_default().push(grant),
                "Group" => self.groups.entry(s.name).or_default().push(grant),
                "ServiceAccount" => self.accounts.entry(format!("{}/{}", s.namespace, s.name)).or_default().push(grant),
                _ => {}
            }
        }
    }

    fn grants<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Arc<Grant>> + 'a {
        let account = service_account_names(&user.name).and_then(|(ns, n)| self.accounts.get(&format!("{ns}/{n}")));
        self.users.get(&user.name).into_iter().chain(account).chain(user.groups.iter().filter_map(|g| self.groups.get(g))).flatten()
    }
}

/// Decides by roles and bindings.
pub struct Authorizer {
    source: Arc<dyn PolicySource>,
    index: RwLock<(u64, Arc<Index>)>,
}

impl Authorizer {
    pub fn new(source: Arc<dyn PolicySource>) -> Self {
        Authorizer { source, index: RwLock::new((u64::MAX, Arc::default())) }
    }

    /// The index as of now. Whoever first sees a new version builds it; the others wait for that.
    fn index(&self) -> Arc<Index> {
        let version = self.source.version();
        {
            let held = self.index.read().unwrap_or_else(|e| e.into_inner());
            if held.0 == version {
                return held.1.clone();
            }
        }
        let mut held = self.index.write().unwrap_or_else(|e| e.into_inner());
        if held.0 != version {
            *held = (version, Arc::new(Index::build(&self.source.load())));
        }
        held.1.clone()
    }

    /// Why it is allowed; `None` when it is not.
    pub fn allows(&self, a: &Attributes<'_>) -> Option<Reason> {
        if is_superuser(a.user) {
            return Some(Reason::Superuser);
        }
        let index = self.index();
        index.grants(a.user).find(|g| g.namespace.as_deref().is_none_or(|ns| ns == a.namespace) && g.rules.iter().any(|r| r.allows(a))).map(|g| Reason::Granted {
            binding: g.binding.clone(),
            role: g.role.clone(),
            subject: g.subject.clone(),
        })
    }

    /// Every rule the user has in `namespace` (cluster-wide ones included): what bindings give, so those of [`MASTERS`] come from a binding too.
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let index = self.index();
        index.grants(user).filter(|g| g.namespace.as_deref().is_none_or(|ns| ns == namespace)).flat_map(|g| g.rules.iter().cloned()).collect()
    }

    /// The rules behind a roleRef; `None` when there is no such role.
    pub fn role(&self, kind: &str, name: &str, namespace: &str) -> Option<Arc<Vec<Rule>>> {
        let key = if kind == "ClusterRole" { name.to_owned() } else { format!("{namespace}/{name}") };
        self.index().roles.get(&key).cloned()
    }
}

pub fn is_superuser(u: &User) -> bool {
    u.groups.iter().any(|g| g == MASTERS)
}

pub(crate) fn everything() -> Vec<Rule> {
    let star = || vec!["*".to_owned()];
    vec![Rule { verbs: star(), api_groups: star(), resources: star(), ..Rule::default() }, Rule { verbs: star(), non_resource_urls: star(), ..Rule::default() }]
}

#[cfg(test)]
#[path = "rbac_tests.rs"]
mod tests;
