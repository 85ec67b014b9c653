//! The audit policy (audit.k8s.io/v1 Policy): the first rule that matches says how much is recorded.
//!
//! Source: kubernetes.io "Auditing" and k8s.io/apiserver/pkg/audit/policy. An unknown field is an error.

use crate::path::RequestInfo;
use keles_auth::User;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

const STAGES: &[&str] = &["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("cannot read the audit policy {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is no audit policy: {why}", path.display())]
    File { path: PathBuf, why: String },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What a rule is asked about.
pub struct Question<'a> {
    pub user: &'a User,
    pub verb: &'a str,
    pub is_resource: bool,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
}

impl<'a> Question<'a> {
    pub fn of(i: &'a RequestInfo, user: &'a User, path: &'a str) -> Question<'a> {
        Question {
            user,
            verb: i.verb,
            is_resource: i.is_resource,
            group: &i.group,
            resource: &i.resource,
            subresource: &i.subresource,
            namespace: &i.namespace,
            name: &i.name,
            path,
        }
    }
}

/// How a request is recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub level: Level,
    pub omit_stages: Vec<String>,
    pub omit_managed_fields: bool,
}

impl Policy {
    pub fn open(path: &Path) -> Result<Policy, PolicyError> {
        let bytes = std::fs::read(path).map_err(|source| PolicyError::Read { path: path.into(), source })?;
        Policy::parse(&bytes).map_err(|why| PolicyError::File { path: path.into(), why })
    }

    fn parse(bytes: &[u8]) -> Result<Policy, String> {
        let p: Policy = serde_yaml_ng::from_slice(bytes).map_err(|e| e.to_string())?;
        if p.api_version != "audit.k8s.io/v1" || p.kind != "Policy" {
            return Err(format!("apiVersion {:?}, kind {:?}; wanted audit.k8s.io/v1 Policy", p.api_version, p.kind));
        }
        if p.rules.is_empty() {
            return Err("rules: it has none".into());
        }
        for (i, r) in p.rules.iter().enumerate() {
            let at = format!("rules[{i}]");
            if !r.non_resource_urls.is_empty() && !(r.resources.is_empty() && r.namespaces.is_empty()) {
                return Err(format!("{at}.nonResourceURLs: Invalid value: rules cannot apply to both regular resources and non-resource URLs"));
            }
            for u in &r.non_resource_urls {
                if u != "*" && (!u.starts_with('/') || u.trim_end_matches('*').contains('*') || u.ends_with("**")) {
                    return Err(format!("{at}.nonResourceURLs: Invalid value: {u:?}: must begin with a slash and have a wildcard at its end only"));
                }
            }
            if r.resources.iter().any(|g| g.group.contains('/')) {
                return Err(format!("{at}.resources: Invalid value: a group has no version"));
            }
            if r.resources.iter().any(|g| !g.resource_names.is_empty() && g.resources.is_empty()) {
                return Err(format!("{at}.resources.resourceNames: Invalid value: using resourceNames requires at least one resource"));
            }
        }
        let omitted = p.rules.iter().flat_map(|r| &r.omit_stages).chain(&p.omit_stages);
        if let Some(unknown) = omitted.into_iter().find(|s| !STAGES.contains(&s.as_str())) {
            return Err(format!("omitStages: Invalid value: {unknown:?}: allowed stages are {}", STAGES.join(",")));
        }
        Ok(p)
    }

    /// `None` when nothing is recorded.
    pub fn decide(&self, q: &Question<'_>) -> Option<Wanted> {
        let rule = self.rules.iter().find(|r| r.matches(q))?;
        if rule.level == Level::None {
            return None;
        }
        let omit_stages = self.omit_stages.iter().chain(&rule.omit_stages).cloned().collect();
        Some(Wanted { level: rule.level, omit_stages, omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields) })
    }
}

fn among(list: &[String], value: &str) -> bool {
    list.iter().any(|v| v == value)
}

impl Rule {
    fn matches(&self, q: &Question<'_>) -> bool {
        if !self.users.is_empty() && !among(&self.users, &q.user.name) {
            return false;
        }
        if !self.user_groups.is_empty() && !q.user.groups.iter().any(|g| among(&self.user_groups, g)) {
            return false;
        }
        if !self.verbs.is_empty() && !among(&self.verbs, q.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return q.is_resource
                && (self.namespaces.is_empty() || among(&self.namespaces, q.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(q)));
        }
        if !self.non_resource_urls.is_empty() {
            return !q.is_resource && self.non_resource_urls.iter().any(|u| u == "*" || u == q.path || u.strip_suffix('*').is_some_and(|p| q.path.starts_with(p)));
        }
        true
    }
}

impl Resources {
    fn matches(&self, q: &Question<'_>) -> bool {
        if self.group != q.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !among(&self.resource_names, q.name) {
            return false;
        }
        let whole = if q.subresource.is_empty() { q.resource.to_owned() } else { format!("{}/{}", q.resource, q.subresource) };
        self.resources
            .iter()
            .any(|r| *r == whole || r == "*" || (!q.subresource.is_empty() && r.strip_prefix("*/") == Some(q.subresource)) || r.strip_suffix("/*") == Some(q.resource))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";

    fn level(p: &Policy, user: &str, verb: &str, what: &str, namespace: &str, path: &str) -> Option<Level> {
        let user = keles_auth::user(user, &[]);
        let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
        let q = Question { user: &user, verb, is_resource: path.is_empty(), group: "", resource, subresource, namespace, name: "n", path };
        p.decide(&q).map(|w| w.level)
    }

    #[test]
    fn the_first_rule_that_matches_says_how_much() {
        let p = Policy::parse(
            format!(
                "{HEAD}omitStages: [RequestReceived]\nrules:\n- {{level: None, users: ['system:kube-proxy'], verbs: [watch]}}\n\
                 - {{level: Request, resources: [{{group: '', resources: [pods]}}]}}\n- {{level: RequestResponse, resources: [{{group: '', resources: ['*/status']}}]}}\n\
                 - {{level: Metadata, namespaces: [kube-system]}}\n- {{level: None, nonResourceURLs: ['/healthz*']}}\n- {{level: Metadata, userGroups: ['system:authenticated'], omitStages: [ResponseStarted]}}\n"
            )
            .as_bytes(),
        )
        .expect("a good policy");
        assert_eq!(level(&p, "system:kube-proxy", "watch", "services", "a", ""), None);
        assert_eq!(level(&p, "jane", "get", "pods", "a", ""), Some(Level::Request));
        assert_eq!(level(&p, "jane", "get", "pods/log", "a", ""), Some(Level::Metadata));
        assert_eq!(level(&p, "jane", "update", "nodes/status", "", ""), Some(Level::RequestResponse));
        assert_eq!(level(&p, "jane", "get", "", "", "/healthz/ping"), None);
        let user = keles_auth::user("x", &[]);
        let q = Question { user: &user, verb: "get", is_resource: false, group: "", resource: "", subresource: "", namespace: "", name: "", path: "/version" };
        assert_eq!(p.decide(&q).unwrap().omit_stages, ["RequestReceived", "ResponseStarted"]);
    }

    #[test]
    fn a_policy_that_is_none_is_refused_by_field() {
        for (text, words) in [
            ("rules: []\n", "it has none"),
            ("rules:\n- level: Everything\n", "Everything"),
            ("rules:\n- {level: None, surprise: 1}\n", "surprise"),
            ("omitStages: [Never]\nrules:\n- level: None\n", "allowed stages"),
            ("rules:\n- {level: None, nonResourceURLs: ['/a'], namespaces: [b]}\n", "both regular resources"),
        ] {
            let e = Policy::parse(format!("{HEAD}{text}").as_bytes()).unwrap_err();
            assert!(e.contains(words), "{text}: {e}");
        }
    }
}
