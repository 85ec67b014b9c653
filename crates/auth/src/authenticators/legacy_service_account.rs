//! Tokens without an end, kept in Secrets of type `kubernetes.io/service-account-token`.
//!
//! They are good while their Secret holds exactly them and their account stands. Made by the controller `serviceaccount-token-controller`.

use super::bootstrap_token::{Objects, data};
use super::{Authenticated, Refused, TokenAuthenticator, equal, implicit};
use crate::service_account;
use crate::tokens::Tokens;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub const ISSUER: &str = "kubernetes/serviceaccount";
pub const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// The claims of such a token.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
pub struct LegacyClaims {
    pub iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub account_uid: String,
    pub sub: String,
}

impl LegacyClaims {
    pub fn new(namespace: &str, secret: &str, account: &str, account_uid: &str) -> LegacyClaims {
        let sub = format!("{}{namespace}:{account}", crate::SERVICE_ACCOUNT_PREFIX);
        LegacyClaims { iss: ISSUER.into(), namespace: namespace.into(), secret: secret.into(), account: account.into(), account_uid: account_uid.into(), sub }
    }
}

pub struct LegacyServiceAccounts {
    tokens: Arc<Tokens>,
    objects: Arc<dyn Objects>,
}

impl LegacyServiceAccounts {
    pub fn new(tokens: Arc<Tokens>, objects: Arc<dyn Objects>) -> Self {
        LegacyServiceAccounts { tokens, objects }
    }

    fn check(&self, token: &str, c: &LegacyClaims) -> Result<crate::User, Refused> {
        let refuse = |why: &str| Refused(why.to_owned());
        if c.sub != format!("{}{}:{}", crate::SERVICE_ACCOUNT_PREFIX, c.namespace, c.account) || c.namespace.is_empty() || c.account.is_empty() {
            return Err(refuse("sub claim is invalid"));
        }
        let now = jiff::Timestamp::now();
        let gone = |o: &keles_api::Object| {
            let at = o.deletion_timestamp().and_then(|t| t.parse::<jiff::Timestamp>().ok());
            at.is_some_and(|t| now.as_second() >= t.as_second() + crate::tokens::DELETION_LEEWAY_SECONDS)
        };
        let secret = self.objects.read("secrets", &c.namespace, &c.secret).ok_or_else(|| refuse("Token has been invalidated"))?;
        if gone(&secret) || !equal(&data(&secret, "token"), token) {
            return Err(refuse("Token has been invalidated"));
        }
        let account = self.objects.read("serviceaccounts", &c.namespace, &c.account).ok_or_else(|| refuse("ServiceAccount has been deleted"))?;
        if gone(&account) {
            return Err(refuse("ServiceAccount has been deleted"));
        }
        if account.uid() != c.account_uid {
            return Err(Refused(format!("ServiceAccount UID ({}) does not match claim ({})", account.uid(), c.account_uid)));
        }
        if secret.label(INVALID_SINCE).is_some() {
            return Err(refuse(
                "the token in secret has been marked as invalid: use a fresh token from the TokenRequest API, or remove the label kubernetes.io/legacy-token-invalid-since",
            ));
        }
        self.objects.legacy_token_used(&secret);
        Ok(service_account(&c.namespace, &c.account, &c.account_uid))
    }
}

#[async_trait]
impl TokenAuthenticator for LegacyServiceAccounts {
    fn name(&self) -> &'static str {
        "legacy-serviceaccount"
    }
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, Refused> {
        let claims = token.split('.').nth(1).and_then(|b| URL_SAFE_NO_PAD.decode(b).ok()).and_then(|b| serde_json::from_slice::<LegacyClaims>(&b).ok());
        let Some(claims) = claims.filter(|c| c.iss == ISSUER) else { return Ok(None) };
        let (tokens, text) = (self.tokens.clone(), token.to_owned());
        let signed = tokio::task::spawn_blocking(move || tokens.is_signed(&text)).await.unwrap_or(false);
        if !signed {
            return Err(Refused("the token's signature is wrong".into()));
        }
        let Some(audiences) = implicit(self.tokens.audiences(), audiences) else { return Ok(None) };
        let user = self.check(token, &claims)?;
        Ok(Some(Authenticated { user: Arc::new(user), audiences }))
    }
}
