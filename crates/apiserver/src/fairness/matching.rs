//! FlowSchemas as rules: which one a request falls under, and which flow of it.
//!
//! Parsed once from the objects. Source: API field documentation of flowcontrol.apiserver.k8s.io/v1 FlowSchema.

use crate::path::RequestInfo;
use keles_api::Object;
use keles_auth::{SERVICE_ACCOUNT_PREFIX, User};
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What of a request is looked at.
pub struct About<'a> {
    pub info: &'a RequestInfo,
    pub user: &'a User,
    pub path: &'a str,
}

/// A FlowSchema's spec.
#[derive(Debug)]
pub struct Schema {
    pub precedence: i64,
    pub level: String,
    pub distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

/// What tells the flows of a schema apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distinguisher {
    None,
    User,
    Namespace,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug)]
enum Subject {
    AnyUser,
    User(String),
    AnyGroup,
    Group(String),
    /// `namespace:name` as it ends a user name.
    Account(String),
    /// `namespace:`.
    AccountsOf(String),
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Names,
    groups: Names,
    /// `resource` or `resource/subresource`.
    resources: Names,
    namespaces: Names,
    cluster_scope: bool,
}

#[derive(Debug)]
struct PathRule {
    verbs: Names,
    paths: Vec<String>,
}

#[derive(Debug)]
enum Names {
    Any,
    Of(Vec<String>),
}

impl Schema {
    pub fn parse(o: &Object) -> Schema {
        let spec = o.at(&["spec"]);
        Schema {
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            level: o.str_at(&["spec", "priorityLevelConfiguration", "name"]).to_owned(),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: items(&spec["rules"]).map(Rule::parse).collect(),
        }
    }

    pub fn matches(&self, a: &About) -> bool {
        self.rules.iter().any(|r| r.matches(a))
    }
}

impl Distinguisher {
    /// What names the flow within its schema.
    pub fn of<'a>(self, a: &About<'a>) -> &'a str {
        match self {
            Distinguisher::None => "",
            Distinguisher::User => &a.user.name,
            Distinguisher::Namespace => &a.info.namespace,
        }
    }
}

/// The hash of a flow: what its hand of queues is dealt by. The same in every process.
pub fn hash(schema: &str, flow: &str) -> u64 {
    let mut h = DefaultHasher::new();
    (schema, flow).hash(&mut h);
    h.finish()
}

impl Rule {
    fn parse(v: &Value) -> Rule {
        Rule {
            subjects: items(&v["subjects"]).filter_map(Subject::parse).collect(),
            resources: items(&v["resourceRules"]).map(ResourceRule::parse).collect(),
            paths: items(&v["nonResourceRules"]).map(PathRule::parse).collect(),
        }
    }
    fn matches(&self, a: &About) -> bool {
        let place = if a.info.is_resource { self.resources.iter().any(|r| r.matches(a.info)) } else { self.paths.iter().any(|r| r.matches(a.info.verb, a.path)) };
        place && self.subjects.iter().any(|s| s.matches(a.user))
    }
}

impl Subject {
    fn parse(v: &Value) -> Option<Subject> {
        let text = |field: &str, name: &str| v[field][name].as_str().map(str::to_owned);
        Some(match v["kind"].as_str()? {
            "User" => match text("user", "name")? {
                n if n == "*" => Subject::AnyUser,
                n => Subject::User(n),
            },
            "Group" => match text("group", "name")? {
                n if n == "*" => Subject::AnyGroup,
                n => Subject::Group(n),
            },
            "ServiceAccount" => match (text("serviceAccount", "namespace")?, text("serviceAccount", "name")?) {
                (namespace, n) if n == "*" => Subject::AccountsOf(format!("{namespace}:")),
                (namespace, n) => Subject::Account(format!("{namespace}:{n}")),
            },
            _ => return None,
        })
    }
    fn matches(&self, u: &User) -> bool {
        let account = || u.name.strip_prefix(SERVICE_ACCOUNT_PREFIX);
        match self {
            Subject::AnyUser | Subject::AnyGroup => true,
            Subject::User(n) => *n == u.name,
            Subject::Group(n) => u.groups.iter().any(|g| g == n),
            Subject::Account(n) => account() == Some(n),
            Subject::AccountsOf(namespace) => account().is_some_and(|a| a.starts_with(namespace.as_str())),
        }
    }
}

impl ResourceRule {
    fn parse(v: &Value) -> ResourceRule {
        ResourceRule {
            verbs: Names::parse(&v["verbs"]),
            groups: Names::parse(&v["apiGroups"]),
            resources: Names::parse(&v["resources"]),
            namespaces: Names::parse(&v["namespaces"]),
            cluster_scope: v["clusterScope"] == true,
        }
    }
    fn matches(&self, i: &RequestInfo) -> bool {
        // A request for all namespaces is of the cluster, like one for what has none.
        let place = if i.namespace.is_empty() { self.cluster_scope } else { self.namespaces.has(&i.namespace) };
        place && self.verbs.has(i.verb) && self.groups.has(&i.group) && self.resources.has_resource(&i.resource, &i.subresource)
    }
}

impl PathRule {
    fn parse(v: &Value) -> PathRule {
        PathRule { verbs: Names::parse(&v["verbs"]), paths: items(&v["nonResourceURLs"]).filter_map(|p| p.as_str().map(str::to_owned)).collect() }
    }
    fn matches(&self, verb: &str, path: &str) -> bool {
        self.verbs.has(verb) && self.paths.iter().any(|p| below(p, path))
    }
}

/// Whether `path` is the rule's, or below it: `/healthz` and `/healthz/*` have `/healthz/ping`.
fn below(rule: &str, path: &str) -> bool {
    if rule == "*" || rule == path {
        return true;
    }
    let folder = rule.strip_suffix('*').unwrap_or(rule);
    path.strip_prefix(folder).is_some_and(|rest| folder.ends_with('/') || rest.starts_with('/'))
}

impl Names {
    fn parse(v: &Value) -> Names {
        let all: Vec<String> = items(v).filter_map(|n| n.as_str().map(str::to_owned)).collect();
        // Validation keeps "*" alone.
        if all == ["*"] { Names::Any } else { Names::Of(all) }
    }
    fn has(&self, name: &str) -> bool {
        match self {
            Names::Any => true,
            Names::Of(all) => all.iter().any(|n| n == name),
        }
    }
    fn has_resource(&self, resource: &str, sub: &str) -> bool {
        match self {
            Names::Any => true,
            Names::Of(all) if sub.is_empty() => all.iter().any(|n| n == resource),
            Names::Of(all) => all.iter().any(|n| n.strip_prefix(resource).and_then(|r| r.strip_prefix('/')) == Some(sub)),
        }
    }
}

fn items(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}
