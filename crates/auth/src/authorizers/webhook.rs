//! The webhook authorizer: a SubjectAccessReview is posted, the answer kept for a time.
//!
//! Source of the rules: kubernetes.io "Webhook Mode" and KEP-3221. A failed call is `failurePolicy`: no opinion, or denied.

use super::config::WebhookOptions;
use super::{Authorizer, Decision, Known};
use crate::expression::{Expression, ExpressionError, Over};
use crate::outbound::{Endpoint, OutboundError};
use crate::rbac::Reason;
use crate::ttl_cache::{self, TtlCache};
use crate::{Attributes, User};
use async_trait::async_trait;
use keles_api::selector::{Operator, Requirement};
use serde_json::{Map, Value, json};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("the authorization webhook {name}: {source}")]
    Endpoint { name: String, source: OutboundError },
    #[error("the authorization webhook {name}: {source}")]
    Condition { name: String, source: ExpressionError },
}

#[derive(Clone)]
enum Answer {
    Allowed(String),
    Denied(String),
    NoOpinion(String),
}

pub struct Webhook {
    name: String,
    endpoint: Endpoint,
    version: String,
    allowed_ttl: Duration,
    denied_ttl: Duration,
    timeout: Duration,
    /// What a call that fails means.
    deny_on_failure: bool,
    conditions: Vec<Expression>,
    cache: TtlCache<Answer>,
}

/// Larger questions are not remembered, upstream's limit.
const CACHED_QUESTION_BYTES_MAX: usize = 10_000;

impl Webhook {
    pub fn open(o: &WebhookOptions) -> Result<Webhook, WebhookError> {
        let endpoint =
            o.kubeconfig.as_deref().map_or_else(Endpoint::in_cluster, Endpoint::from_kubeconfig).map_err(|source| WebhookError::Endpoint { name: o.name.clone(), source })?;
        let conditions = o.match_conditions.iter().enumerate().map(|(i, text)| Expression::compile_condition(&format!("matchConditions[{i}].expression"), text, Over::Request));
        let conditions = conditions.collect::<Result<_, _>>().map_err(|source| WebhookError::Condition { name: o.name.clone(), source })?;
        Ok(Webhook {
            name: o.name.clone(),
            endpoint,
            version: o.version.clone(),
            allowed_ttl: o.authorized_ttl,
            denied_ttl: o.unauthorized_ttl,
            timeout: o.timeout,
            deny_on_failure: o.deny_on_failure,
            conditions,
            cache: TtlCache::default(),
        })
    }

    fn failed(&self, why: &dyn std::fmt::Display) -> Decision {
        tracing::warn!(webhook = self.name, error = %why, "an authorization webhook failed");
        if self.deny_on_failure { Decision::Deny(String::new()) } else { Decision::NoOpinion(String::new()) }
    }

    /// Whether all conditions hold; `Err` when none is false and one fails.
    fn concerns(&self, spec: &Value) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let whole = whole(spec);
        let mut failed = None;
        for c in &self.conditions {
            match c.evaluate(&whole) {
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(Value::Bool(true)) => {}
                Ok(other) => failed = Some(format!("a match condition gave {other}, not a boolean")),
                Err(e) => failed = Some(e),
            }
        }
        failed.map_or(Ok(true), Err)
    }
}

/// The spec of a SubjectAccessReview about `a`.
pub fn review_spec(a: &Attributes<'_>) -> Value {
    let mut spec = Map::new();
    let text = |m: &mut Map<String, Value>, k: &str, v: &str| {
        if !v.is_empty() {
            m.insert(k.into(), v.into());
        }
    };
    if a.is_resource() {
        let mut r = Map::new();
        for (k, v) in
            [("namespace", a.namespace), ("verb", a.verb), ("group", a.group), ("version", a.version), ("resource", a.resource), ("subresource", a.subresource), ("name", a.name)]
        {
            text(&mut r, k, v);
        }
        if let Some(s) = a.selectors {
            let fields: Vec<Value> = s.fields.requirements.iter().map(|f| json!({"key": f.field, "operator": if f.not { "NotIn" } else { "In" }, "values": [f.value]})).collect();
            let labels: Vec<Value> = s.labels.requirements.iter().filter_map(label_requirement).collect();
            for (k, all) in [("fieldSelector", fields), ("labelSelector", labels)] {
                if !all.is_empty() {
                    r.insert(k.into(), json!({"requirements": all}));
                }
            }
        }
        spec.insert("resourceAttributes".into(), Value::Object(r));
    } else {
        let mut r = Map::new();
        text(&mut r, "path", a.path);
        text(&mut r, "verb", a.verb);
        spec.insert("nonResourceAttributes".into(), Value::Object(r));
    }
    text(&mut spec, "user", &a.user.name);
    if !a.user.groups.is_empty() {
        spec.insert("groups".into(), json!(a.user.groups));
    }
    if !a.user.extra.is_empty() {
        spec.insert("extra".into(), json!(a.user.extra));
    }
    text(&mut spec, "uid", &a.user.uid);
    Value::Object(spec)
}

/// The spec with the empty values that the wire leaves out: conditions may name every field.
fn whole(spec: &Value) -> Value {
    let mut s = json!({"user": "", "uid": "", "groups": [], "extra": {}});
    for (k, v) in spec.as_object().into_iter().flatten() {
        s[k] = v.clone();
    }
    for (part, fields) in
        [("resourceAttributes", ["namespace", "verb", "group", "version", "resource", "subresource", "name"].as_slice()), ("nonResourceAttributes", &["path", "verb"])]
    {
        for f in fields {
            if s[part].is_object() && s[part].get(f).is_none() {
                s[part][f] = "".into();
            }
        }
    }
    // Looking a part up above leaves a null behind; `has` must not see it.
    if let Some(o) = s.as_object_mut() {
        o.retain(|_, v| !v.is_null());
    }
    s
}

/// A requirement in the four operators of the API; `<` and `>` have none.
fn label_requirement(r: &Requirement) -> Option<Value> {
    let operator = match r.operator {
        Operator::In | Operator::Equals | Operator::DoubleEquals => "In",
        Operator::NotIn | Operator::NotEquals => "NotIn",
        Operator::Exists => return Some(json!({"key": r.key, "operator": "Exists"})),
        Operator::DoesNotExist => return Some(json!({"key": r.key, "operator": "DoesNotExist"})),
        Operator::GreaterThan | Operator::LessThan => return None,
    };
    Some(json!({"key": r.key, "operator": operator, "values": r.values}))
}

#[async_trait]
impl Authorizer for Webhook {
    fn name(&self) -> &str {
        &self.name
    }
    async fn decide(&self, a: &Attributes<'_>) -> Decision {
        let spec = review_spec(a);
        match self.concerns(&spec) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(e) => return self.failed(&e),
        }
        let question = spec.to_string();
        let key = ttl_cache::key([question.as_bytes()]);
        let answer = match self.cache.get(&key) {
            Some(known) => known,
            None => {
                // v1beta1 wrote `groups` as `group`.
                let mut spec = spec;
                if self.version == "v1beta1"
                    && let Some(groups) = spec.as_object_mut().and_then(|s| s.remove("groups"))
                {
                    spec["group"] = groups;
                }
                let review = json!({"apiVersion": format!("authorization.k8s.io/{}", self.version), "kind": "SubjectAccessReview", "metadata": {}, "spec": spec, "status": {"allowed": false}});
                let status = match self.endpoint.post(&review, self.timeout).await {
                    Ok(r) => r["status"].clone(),
                    Err(e) => return self.failed(&e),
                };
                let reason = status["reason"].as_str().unwrap_or_default().to_owned();
                let (allowed, denied) = (status["allowed"] == true, status["denied"] == true);
                let answer = match (allowed, denied) {
                    (true, true) => return self.failed(&"webhook subject access review returned both allow and deny response"),
                    (true, false) => Answer::Allowed(reason),
                    (false, true) => Answer::Denied(reason),
                    (false, false) => Answer::NoOpinion(reason),
                };
                if question.len() <= CACHED_QUESTION_BYTES_MAX {
                    self.cache.put(key, answer.clone(), if allowed { self.allowed_ttl } else { self.denied_ttl });
                }
                answer
            }
        };
        match answer {
            Answer::Allowed(reason) => Decision::Allow(Reason::Text(reason)),
            Answer::Denied(reason) => Decision::Deny(reason),
            Answer::NoOpinion(reason) => Decision::NoOpinion(reason),
        }
    }
    fn rules(&self, _: &User, _: &str) -> Known {
        Known { rules: Vec::new(), incomplete: Some("webhook authorizer does not support user rule resolution".into()) }
    }
}
