//! Tokens of a pod's service account for plugins (KEP-4412): `tokenAttributes` of a provider's configuration.
//!
//! Entry point: [`TokenAttributes::account`]. A plugin that needs a service account, or annotations that this one does not have, is not asked.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use keles_api::names;
use keles_oci::Digest;
use keles_volumes::{Result, Token, TokenAsk};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// What TokenRequest gives when nothing is asked (TokenRequestSpec.expirationSeconds).
const EXPIRATION_SECONDS: i64 = 3600;
/// The only protocol with fields for tokens.
const PROTOCOL: &str = "credentialprovider.kubelet.k8s.io/v1";

/// Service accounts and their tokens, as the API has them.
#[async_trait]
pub trait Accounts: Send + Sync {
    async fn account(&self, namespace: &str, name: &str) -> Result<Option<ServiceAccount>>;
    async fn account_token(&self, ask: &TokenAsk) -> Result<Token>;
}

/// ServiceAccountTokenAttributes of `kubelet.config.k8s.io/v1`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TokenAttributes {
    #[serde(default)]
    service_account_token_audience: String,
    #[serde(default)]
    cache_type: Option<CacheType>,
    #[serde(default)]
    require_service_account: Option<bool>,
    #[serde(default)]
    required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    optional_service_account_annotation_keys: Vec<String>,
}

/// For whom what a plugin said is kept.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
pub(super) enum CacheType {
    /// For all pods of the service account.
    ServiceAccount,
    /// For who has this very token: the pod, until its token is a new one.
    Token,
}

/// The service account for which a plugin is asked.
pub(super) struct Account {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Those that the configuration names.
    pub annotations: BTreeMap<String, String>,
    pub token: String,
    cache: CacheType,
}

/// Whether a plugin is asked, and with what.
pub(super) enum Asks {
    With(Account),
    /// The pod has no service account, and the plugin needs none.
    Without,
    Not,
}

impl TokenAttributes {
    /// What is wrong with them; `protocol` is the provider's.
    pub fn check(&self, protocol: &str) -> std::result::Result<(), String> {
        let (required, optional) = (&self.required_service_account_annotation_keys, &self.optional_service_account_annotation_keys);
        let both = || required.iter().find(|key| optional.contains(key));
        let problem = match () {
            () if protocol != PROTOCOL => format!("it is only supported for {PROTOCOL}"),
            () if self.service_account_token_audience.is_empty() => "serviceAccountTokenAudience is required".into(),
            () if self.cache_type.is_none() => "cacheType is required: ServiceAccount or Token".into(),
            () if self.require_service_account.is_none() => "requireServiceAccount is required".into(),
            () if self.require_service_account == Some(false) && !required.is_empty() => {
                "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set".into()
            }
            () => match both() {
                Some(key) => format!("annotation key {key:?} cannot be both required and optional"),
                None => return check_keys(required).and_then(|()| check_keys(optional)).map_err(|problem| format!("tokenAttributes: {problem}")),
            },
        };
        Err(format!("tokenAttributes: {problem}"))
    }

    /// The pod's service account with a token of it, bound to the pod.
    pub async fn account(&self, pod: &Pod, accounts: &dyn Accounts) -> Result<Asks> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (namespace, name) = (text(&pod.metadata.namespace), pod.spec.as_ref().map(|spec| text(&spec.service_account_name)).unwrap_or_default());
        if name.is_empty() {
            return Ok(if self.require_service_account == Some(false) { Asks::Without } else { Asks::Not });
        }
        let missing = || keles_volumes::VolumeError::NotFound { kind: "serviceaccount", name: name.clone() };
        let account = accounts.account(&namespace, &name).await?.ok_or_else(missing)?;
        let has = account.metadata.annotations.unwrap_or_default();
        if let Some(absent) = self.required_service_account_annotation_keys.iter().find(|key| !has.contains_key(*key)) {
            tracing::debug!(namespace, name, annotation = absent, "a service account lacks an annotation that a credential provider plugin asks for");
            return Ok(Asks::Not);
        }
        let named = self.required_service_account_annotation_keys.iter().chain(&self.optional_service_account_annotation_keys);
        let annotations = named.filter_map(|key| has.get_key_value(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
        let ask = TokenAsk {
            namespace: namespace.clone(),
            service_account: name.clone(),
            audience: Some(self.service_account_token_audience.clone()),
            expiration_seconds: EXPIRATION_SECONDS,
            pod_name: text(&pod.metadata.name),
            pod_uid: text(&pod.metadata.uid),
        };
        let token = accounts.account_token(&ask).await?.token;
        let cache = self.cache_type.unwrap_or(CacheType::Token);
        Ok(Asks::With(Account { namespace, name, uid: text(&account.metadata.uid), annotations, token, cache }))
    }
}

fn check_keys(keys: &[String]) -> std::result::Result<(), String> {
    let mut seen = BTreeSet::new();
    for key in keys {
        // As annotations themselves are: case does not matter.
        if let Some(problem) = names::qualified_name(&key.to_lowercase()).into_iter().next() {
            return Err(format!("annotation key {key:?}: {problem}"));
        }
        if !seen.insert(key) {
            return Err(format!("annotation key {key:?} is there twice"));
        }
    }
    Ok(())
}

impl Account {
    /// The place of an answer for `base` (an image, a registry or all) that is kept for this account or token. No image has such a name.
    pub fn kept_as(&self, base: &str) -> String {
        let token = (self.cache == CacheType::Token).then(|| Digest::of(self.token.as_bytes()).hex().to_owned());
        serde_json::json!([base, self.namespace, self.name, self.uid, self.annotations, token]).to_string()
    }

    /// A token that comes back as the password is one pod's: it must not be kept for all of its account.
    pub fn forbids(&self, password: &str) -> bool {
        self.cache != CacheType::Token && password == self.token
    }
}
