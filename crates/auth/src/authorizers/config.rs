//! Which authorizers there are and in which order: `--authorization-mode` and its flags, or an AuthorizationConfiguration file.

use super::abac::{Abac, AbacError};
use super::always::{AlwaysAllow, AlwaysDeny};
use super::webhook::{Webhook, WebhookError};
use super::{Authorizer, Chain, MODES};
use crate::durations::{self, BadDuration};
use crate::node::NodeAuthorizer;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Upstream's defaults.
pub const AUTHORIZED_TTL: Duration = Duration::from_secs(5 * 60);
pub const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// The flags.
#[derive(Clone, Debug)]
pub struct Options {
    /// In order; empty when `config_file` says it.
    pub modes: Vec<String>,
    pub policy_file: Option<PathBuf>,
    pub webhook_kubeconfig: Option<PathBuf>,
    pub webhook_version: String,
    pub webhook_authorized_ttl: Duration,
    pub webhook_unauthorized_ttl: Duration,
    pub config_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            modes: vec!["Node".into(), "RBAC".into()],
            policy_file: None,
            webhook_kubeconfig: None,
            webhook_version: "v1beta1".into(),
            webhook_authorized_ttl: AUTHORIZED_TTL,
            webhook_unauthorized_ttl: UNAUTHORIZED_TTL,
            config_file: None,
        }
    }
}

/// One webhook.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    pub name: String,
    /// Absent: the API server of the pod this process runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Of SubjectAccessReview: `v1` or `v1beta1`.
    pub version: String,
    pub authorized_ttl: Duration,
    pub unauthorized_ttl: Duration,
    pub timeout: Duration,
    pub deny_on_failure: bool,
    pub match_conditions: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorizationError {
    #[error("--authorization-mode: {0:?} is no mode; there are AlwaysAllow, AlwaysDeny, ABAC, Webhook, RBAC, Node")]
    Mode(String),
    #[error("--authorization-mode: {0:?} stands twice")]
    Twice(String),
    #[error("authorization mode {mode} needs {flag}")]
    Needs { mode: &'static str, flag: &'static str },
    #[error("--authorization-webhook-version: {0:?} is neither v1 nor v1beta1")]
    Version(String),
    #[error("cannot read the authorization configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is no AuthorizationConfiguration: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("{}: only authorizers of type Webhook may come and go while the server runs; it began with {began}, the file now says {now}", path.display())]
    Types { path: PathBuf, began: String, now: String },
    #[error(transparent)]
    Abac(#[from] AbacError),
    #[error(transparent)]
    Webhook(#[from] WebhookError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    authorizers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    r#type: String,
    name: String,
    webhook: Option<WebhookEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WebhookEntry {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    #[serde(default = "yes")]
    cache_authorized_requests: bool,
    #[serde(default = "yes")]
    cache_unauthorized_requests: bool,
    timeout: String,
    subject_access_review_version: String,
    #[serde(default)]
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionInfo,
    #[serde(default)]
    match_conditions: Vec<Condition>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConnectionInfo {
    r#type: String,
    kube_config_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    expression: String,
}

/// The parts of this server that some modes are.
#[derive(Clone)]
pub struct Built {
    pub rbac: Arc<dyn Authorizer>,
    pub node: Arc<NodeAuthorizer>,
}

enum Wanted {
    Mode(String),
    Webhook(WebhookOptions),
}

impl Options {
    /// The chain that the flags or the file describe.
    pub fn build(&self, built: &Built) -> Result<Chain, AuthorizationError> {
        Ok(Chain::new(self.made(self.wanted()?, built)?))
    }

    fn wanted(&self) -> Result<Vec<Wanted>, AuthorizationError> {
        match &self.config_file {
            Some(path) => read_file(path),
            None => self.of_flags(),
        }
    }

    fn made(&self, wanted: Vec<Wanted>, built: &Built) -> Result<Vec<Arc<dyn Authorizer>>, AuthorizationError> {
        let mut all: Vec<Arc<dyn Authorizer>> = Vec::new();
        for w in wanted {
            all.push(match w {
                Wanted::Webhook(o) => Arc::new(Webhook::open(&o)?),
                Wanted::Mode(m) => match m.as_str() {
                    "AlwaysAllow" => Arc::new(AlwaysAllow),
                    "AlwaysDeny" => Arc::new(AlwaysDeny),
                    "ABAC" => {
                        let path = self.policy_file.as_ref().ok_or(AuthorizationError::Needs { mode: "ABAC", flag: "--authorization-policy-file" })?;
                        Arc::new(Abac::open(path)?)
                    }
                    "RBAC" => built.rbac.clone(),
                    _ => built.node.clone(),
                },
            });
        }
        Ok(all)
    }

    fn of_flags(&self) -> Result<Vec<Wanted>, AuthorizationError> {
        let mut out = Vec::new();
        for (i, mode) in self.modes.iter().enumerate() {
            if !MODES.iter().any(|m| m.name == mode) {
                return Err(AuthorizationError::Mode(mode.clone()));
            }
            if self.modes[..i].contains(mode) {
                return Err(AuthorizationError::Twice(mode.clone()));
            }
            out.push(if mode == "Webhook" { Wanted::Webhook(self.webhook()?) } else { Wanted::Mode(mode.clone()) });
        }
        Ok(out)
    }

    fn webhook(&self) -> Result<WebhookOptions, AuthorizationError> {
        let kubeconfig = self.webhook_kubeconfig.clone().ok_or(AuthorizationError::Needs { mode: "Webhook", flag: "--authorization-webhook-config-file" })?;
        if !["v1", "v1beta1"].contains(&self.webhook_version.as_str()) {
            return Err(AuthorizationError::Version(self.webhook_version.clone()));
        }
        Ok(WebhookOptions {
            name: "default".into(),
            kubeconfig: Some(kubeconfig),
            version: self.webhook_version.clone(),
            authorized_ttl: self.webhook_authorized_ttl,
            unauthorized_ttl: self.webhook_unauthorized_ttl,
            timeout: WEBHOOK_TIMEOUT,
            deny_on_failure: false,
            match_conditions: Vec::new(),
        })
    }
}

/// Reads an AuthorizationConfiguration file again.
pub struct Reload {
    options: Options,
    built: Built,
    path: PathBuf,
    /// The types besides Webhook that the server began with, sorted.
    began: String,
}

impl Reload {
    /// `None` where flags say which authorizers there are.
    pub fn of(options: &Options, built: &Built) -> Result<Option<Reload>, AuthorizationError> {
        let Some(path) = options.config_file.clone() else { return Ok(None) };
        Ok(Some(Reload { began: types(&options.wanted()?), options: options.clone(), built: built.clone(), path }))
    }

    /// Puts what the file says now into the chain, or leaves it as it is.
    pub fn reload(&self, chain: &Chain) -> Result<(), AuthorizationError> {
        let wanted = self.options.wanted()?;
        let now = types(&wanted);
        if now != self.began {
            return Err(AuthorizationError::Types { path: self.path.clone(), began: self.began.clone(), now });
        }
        chain.replace(self.options.made(wanted, &self.built)?);
        Ok(())
    }
}

fn types(wanted: &[Wanted]) -> String {
    let mut all: Vec<&str> = wanted.iter().filter_map(|w| if let Wanted::Mode(m) = w { Some(m.as_str()) } else { None }).collect();
    all.sort_unstable();
    all.join(",")
}

const API_VERSIONS: &[&str] = &["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];

fn read_file(path: &Path) -> Result<Vec<Wanted>, AuthorizationError> {
    let bytes = std::fs::read(path).map_err(|source| AuthorizationError::Read { path: path.into(), source })?;
    let bad = |why: String| AuthorizationError::File { path: path.into(), why };
    let file: File = serde_yaml_ng::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if !API_VERSIONS.contains(&file.api_version.as_str()) || file.kind != "AuthorizationConfiguration" {
        return Err(bad(format!("apiVersion {:?}, kind {:?}; wanted {} AuthorizationConfiguration", file.api_version, file.kind, API_VERSIONS[0])));
    }
    if file.authorizers.is_empty() {
        return Err(bad("authorizers: Required value: at least one authorization mode must be defined".into()));
    }
    let mut out = Vec::new();
    for (i, e) in file.authorizers.iter().enumerate() {
        let at = format!("authorizers[{i}]");
        let mode = MODES.iter().find(|m| m.name == e.r#type).ok_or_else(|| bad(format!("{at}.type: Unsupported value: {:?}", e.r#type)))?;
        let before = &file.authorizers[..i];
        if !mode.several && before.iter().any(|o| o.r#type == e.r#type) {
            return Err(bad(format!("{at}.type: Duplicate value: {:?}", e.r#type)));
        }
        if before.iter().any(|o| o.name == e.name) {
            return Err(bad(format!("{at}.name: Duplicate value: {:?}", e.name)));
        }
        let problems = keles_api::names::dns_subdomain(&e.name, false);
        if e.name.is_empty() || !problems.is_empty() {
            return Err(bad(format!("{at}.name: Invalid value: {:?}: {}", e.name, problems.join("; "))));
        }
        out.push(match (e.r#type.as_str(), &e.webhook) {
            ("Webhook", Some(w)) => Wanted::Webhook(webhook_entry(&e.name, w).map_err(|why| bad(format!("{at}.webhook.{why}")))?),
            ("Webhook", None) => return Err(bad(format!("{at}.webhook: Required value"))),
            (_, Some(_)) => return Err(bad(format!("{at}.webhook: Invalid value: \"non-null\": may only be specified when type=Webhook"))),
            (mode, None) => Wanted::Mode(mode.to_owned()),
        });
    }
    Ok(out)
}

fn webhook_entry(name: &str, w: &WebhookEntry) -> Result<WebhookOptions, String> {
    let time = |field: &str, text: &Option<String>, default: Duration| match text {
        None => Ok(default),
        Some(t) => durations::parse(t).map_err(|e: BadDuration| format!("{field}: {e}")),
    };
    if !["v1", "v1beta1"].contains(&w.subject_access_review_version.as_str()) {
        return Err(format!("subjectAccessReviewVersion: Unsupported value: {:?}: supported values: \"v1\", \"v1beta1\"", w.subject_access_review_version));
    }
    if !w.match_conditions.is_empty() && w.match_condition_subject_access_review_version != "v1" {
        return Err("matchConditionSubjectAccessReviewVersion: Required value: must be v1 where there are matchConditions".into());
    }
    let deny_on_failure = match w.failure_policy.as_str() {
        "Deny" => true,
        "NoOpinion" => false,
        other => return Err(format!("failurePolicy: Unsupported value: {other:?}: supported values: \"Deny\", \"NoOpinion\"")),
    };
    let kubeconfig = match (w.connection_info.r#type.as_str(), &w.connection_info.kube_config_file) {
        ("KubeConfigFile", Some(f)) => Some(f.clone()),
        ("KubeConfigFile", None) => return Err("connectionInfo.kubeConfigFile: Required value".into()),
        ("InClusterConfig", None) => None,
        ("InClusterConfig", Some(_)) => return Err("connectionInfo.kubeConfigFile: Invalid value: can only be set when type=KubeConfigFile".into()),
        (other, _) => return Err(format!("connectionInfo.type: Unsupported value: {other:?}: supported values: \"KubeConfigFile\", \"InClusterConfig\"")),
    };
    let timeout = durations::parse(&w.timeout).map_err(|e| format!("timeout: {e}"))?;
    if timeout.is_zero() || timeout > WEBHOOK_TIMEOUT {
        return Err(format!("timeout: Invalid value: {:?}: must be over 0s and at most 30s", w.timeout));
    }
    let kept = |on: bool, ttl: Duration| if on { ttl } else { Duration::ZERO };
    Ok(WebhookOptions {
        name: name.into(),
        kubeconfig,
        version: w.subject_access_review_version.clone(),
        authorized_ttl: kept(w.cache_authorized_requests, time("authorizedTTL", &w.authorized_ttl, AUTHORIZED_TTL)?),
        unauthorized_ttl: kept(w.cache_unauthorized_requests, time("unauthorizedTTL", &w.unauthorized_ttl, UNAUTHORIZED_TTL)?),
        timeout,
        deny_on_failure,
        match_conditions: w.match_conditions.iter().map(|c| c.expression.clone()).collect(),
    })
}
