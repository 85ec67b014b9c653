//! The webhook authenticator: a TokenReview is posted, the answer kept for a time.

use super::{Authenticated, Refused, TokenAuthenticator};
use crate::outbound::{Endpoint, OutboundError};
use crate::ttl_cache::{self, TtlCache};
use crate::{User, mark_authenticated};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub const CACHE_TTL: Duration = Duration::from_secs(120);
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Options {
    pub kubeconfig: PathBuf,
    /// Of TokenReview: `v1` or `v1beta1`.
    pub version: String,
    pub cache_ttl: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("the authentication token webhook: {0}")]
    Endpoint(#[from] OutboundError),
    #[error("--authentication-token-webhook-version: {0:?} is neither v1 nor v1beta1")]
    Version(String),
}

pub struct Webhook {
    endpoint: Endpoint,
    version: String,
    ttl: Duration,
    own_audiences: Vec<String>,
    cache: TtlCache<Result<Option<Authenticated>, Refused>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: Option<UserInfo>,
    audiences: Option<Vec<String>>,
    error: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct UserInfo {
    username: String,
    uid: String,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
}

impl Webhook {
    pub fn open(o: &Options, own_audiences: Vec<String>) -> Result<Webhook, WebhookError> {
        if !["v1", "v1beta1"].contains(&o.version.as_str()) {
            return Err(WebhookError::Version(o.version.clone()));
        }
        Ok(Webhook { endpoint: Endpoint::from_kubeconfig(&o.kubeconfig)?, version: o.version.clone(), ttl: o.cache_ttl, own_audiences, cache: TtlCache::default() })
    }

    fn read(&self, answer: &Value, wanted: &[String]) -> Result<Option<Authenticated>, Refused> {
        let status = Option::<Status>::deserialize(&answer["status"]).map_err(|e| Refused(format!("the webhook's answer is no TokenReview: {e}")))?.unwrap_or_default();
        if !status.authenticated {
            return if status.error.is_empty() { Ok(None) } else { Err(Refused(status.error)) };
        }
        // A webhook that names no audiences is taken to mean this API server.
        let got = status.audiences.filter(|a| !a.is_empty()).unwrap_or_else(|| self.own_audiences.clone());
        let audiences: Vec<String> = wanted.iter().filter(|a| got.contains(a)).cloned().collect();
        if audiences.is_empty() {
            return Ok(None);
        }
        let info = status.user.unwrap_or_default();
        let mut user = User { name: info.username, uid: info.uid, groups: info.groups.unwrap_or_default(), extra: info.extra.unwrap_or_default() };
        mark_authenticated(&mut user);
        Ok(Some(Authenticated { user: Arc::new(user), audiences }))
    }
}

#[async_trait]
impl TokenAuthenticator for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, Refused> {
        let key = ttl_cache::key(std::iter::once(token.as_bytes()).chain(audiences.iter().map(|a| a.as_bytes())));
        if let Some(known) = self.cache.get(&key) {
            return known;
        }
        let mut spec = json!({"token": token});
        if !audiences.is_empty() {
            spec["audiences"] = json!(audiences);
        }
        let review = json!({"apiVersion": format!("authentication.k8s.io/{}", self.version), "kind": "TokenReview", "metadata": {}, "spec": spec, "status": {"user": {}}});
        // A call that failed is not an answer: it is not kept.
        let answer = self.endpoint.post(&review, TIMEOUT).await.map_err(Refused::new)?;
        let read = self.read(&answer, audiences);
        self.cache.put(key, read.clone(), self.ttl);
        read
    }
}
