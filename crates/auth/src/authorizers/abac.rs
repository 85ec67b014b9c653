//! ABAC: a policy file with one JSON object a line (`--authorization-policy-file`, abac.authorization.kubernetes.io/v1beta1).
//!
//! A line allows when user or group, and all attributes it names, match. `readonly` limits it to get, list and watch.

use super::{Authorizer, Decision, Known};
use crate::rbac::{Reason, Rule};
use crate::{Attributes, User};
use async_trait::async_trait;
use serde::Deserialize;
use std::path::{Path, PathBuf};

const API_VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";
const READS: &[&str] = &["get", "list", "watch"];

#[derive(Debug, thiserror::Error)]
pub enum AbacError {
    #[error("cannot read the authorization policy {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} line {line}: {why}", path.display())]
    Line { path: PathBuf, line: usize, why: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    spec: Option<Policy>,
    /// The unversioned form of old: the policy's fields stand in the line itself.
    #[serde(flatten)]
    old: Policy,
}

#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    #[serde(alias = "apiGroup")]
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

fn is(pattern: &str, value: &str) -> bool {
    pattern == "*" || pattern == value
}

impl Policy {
    fn of_subject(&self, u: &User) -> bool {
        if self.user.is_empty() && self.group.is_empty() {
            return false;
        }
        let user = self.user.is_empty() || self.user == "*" || self.user == u.name;
        let group = self.group.is_empty() || self.group == "*" || u.groups.contains(&self.group);
        user && group
    }
    fn of_request(&self, a: &Attributes<'_>) -> bool {
        if self.readonly && !a.is_read_only() {
            return false;
        }
        if a.is_resource() {
            return is(&self.namespace, a.namespace) && is(&self.resource, a.resource) && is(&self.api_group, a.group);
        }
        is(&self.non_resource_path, a.path) || self.non_resource_path.strip_suffix('*').is_some_and(|p| !p.is_empty() && a.path.starts_with(p))
    }
    /// The unversioned form took an absent attribute for every value, in the core group alone.
    fn upgraded(mut self) -> Policy {
        let any = |s: &mut String| {
            if s.is_empty() {
                *s = "*".into();
            }
        };
        if self.user.is_empty() && self.group.is_empty() {
            self.group = crate::AUTHENTICATED.into();
        }
        if self.user == "*" {
            self.user = String::new();
            self.group = crate::AUTHENTICATED.into();
        }
        if self.resource.is_empty() && self.namespace.is_empty() {
            any(&mut self.non_resource_path);
        }
        any(&mut self.namespace);
        any(&mut self.resource);
        self.api_group = "*".into();
        self
    }
    fn rules(&self) -> Vec<Rule> {
        let verbs: Vec<String> = if self.readonly { READS.iter().map(|v| (*v).to_owned()).collect() } else { vec!["*".into()] };
        let mut out = Vec::new();
        if !self.resource.is_empty() {
            out.push(Rule { verbs: verbs.clone(), api_groups: vec![self.api_group.clone()], resources: vec![self.resource.clone()], ..Rule::default() });
        }
        if !self.non_resource_path.is_empty() {
            out.push(Rule { verbs, non_resource_urls: vec![self.non_resource_path.clone()], ..Rule::default() });
        }
        out
    }
}

#[derive(Debug)]
pub struct Abac {
    policies: Vec<Policy>,
}

impl Abac {
    pub fn open(path: &Path) -> Result<Abac, AbacError> {
        let text = std::fs::read_to_string(path).map_err(|source| AbacError::Read { path: path.into(), source })?;
        let mut policies = Vec::new();
        for (i, line) in text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())).filter(|(_, l)| !l.is_empty() && !l.starts_with('#')) {
            policies.push(parse(line).map_err(|why| AbacError::Line { path: path.into(), line: i, why })?);
        }
        if policies.is_empty() {
            tracing::warn!(path = %path.display(), "the authorization policy is empty: ABAC allows nothing");
        }
        Ok(Abac { policies })
    }
}

fn parse(line: &str) -> Result<Policy, String> {
    let l: Line = serde_json::from_str(line).map_err(|e| e.to_string())?;
    match (l.api_version.as_str(), l.kind.as_str(), l.spec) {
        (API_VERSION, "Policy", Some(spec)) => Ok(spec),
        ("", "", None) => Ok(l.old.upgraded()),
        (v, k, _) => Err(format!("apiVersion {v:?}, kind {k:?} is no Policy of {API_VERSION} with a spec")),
    }
}

#[async_trait]
impl Authorizer for Abac {
    fn name(&self) -> &str {
        "ABAC"
    }
    async fn decide(&self, a: &Attributes<'_>) -> Decision {
        if self.policies.iter().any(|p| p.of_subject(a.user) && p.of_request(a)) {
            return Decision::Allow(Reason::Text(String::new()));
        }
        Decision::NoOpinion("No policy matched.".into())
    }
    fn rules(&self, user: &User, namespace: &str) -> Known {
        let mine = self.policies.iter().filter(|p| p.of_subject(user) && is(&p.namespace, namespace));
        Known { rules: mine.flat_map(Policy::rules).collect(), incomplete: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(a: &Abac, user: &str, verb: &str, resource: &str, namespace: &str, path: &str) -> bool {
        let user = crate::user(user, &["staff"]);
        let q = Attributes { verb, resource, namespace, path, ..Attributes::of(&user) };
        a.policies.iter().any(|p| p.of_subject(&user) && p.of_request(&q))
    }

    #[test]
    fn a_line_allows_what_all_its_attributes_match() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = |spec: &str| format!("{{\"apiVersion\":\"{API_VERSION}\",\"kind\":\"Policy\",\"spec\":{spec}}}\n");
        let text = line(r#"{"user":"bob","namespace":"projectCaribou","resource":"pods","readonly":true,"apiGroup":"*"}"#)
            + "# a comment\n\n"
            + &line(r#"{"group":"staff","nonResourcePath":"/metrics/*","readonly":true}"#)
            + r#"{"user":"kubelet","resource":"events"}"#;
        std::fs::write(file.path(), text).unwrap();
        let a = Abac::open(file.path()).unwrap();
        assert!(may(&a, "bob", "list", "pods", "projectCaribou", ""));
        assert!(!may(&a, "bob", "create", "pods", "projectCaribou", ""));
        assert!(!may(&a, "bob", "list", "pods", "other", ""));
        assert!(may(&a, "jane", "get", "", "", "/metrics/x") && !may(&a, "jane", "get", "", "", "/version"));
        assert!(may(&a, "kubelet", "create", "events", "any", ""));
    }

    #[test]
    fn a_line_that_is_no_policy_is_refused_by_number() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\n{\"apiVersion\":\"v9\",\"kind\":\"Policy\"}\n").unwrap();
        let e = Abac::open(file.path()).unwrap_err().to_string();
        assert!(e.contains("line 2") && e.contains("v9"), "{e}");
    }
}
