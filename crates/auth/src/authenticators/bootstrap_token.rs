//! Bootstrap tokens: `ID.SECRET`, kept in Secrets `kube-system/bootstrap-token-ID`, with which nodes join.
//!
//! Source: kubernetes.io "Authenticating with Bootstrap Tokens".

use super::{Authenticated, Refused, TokenAuthenticator, equal, implicit};
use crate::{User, mark_authenticated};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keles_api::Object;
use std::sync::Arc;

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const DEFAULT_GROUP: &str = "system:bootstrappers";
const USER_PREFIX: &str = "system:bootstrap:";
const ID_CHARS: usize = 6;
const SECRET_CHARS: usize = 16;

/// Stored objects as authenticators see them.
pub trait Objects: Send + Sync + 'static {
    /// An object of the core group; `None` when there is none.
    fn read(&self, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// A legacy token of this Secret was used (upstream notes the day in a label).
    fn legacy_token_used(&self, _secret: &Object) {}
}

pub struct BootstrapTokens {
    objects: Arc<dyn Objects>,
    own_audiences: Vec<String>,
}

impl BootstrapTokens {
    pub fn new(objects: Arc<dyn Objects>, own_audiences: Vec<String>) -> Self {
        BootstrapTokens { objects, own_audiences }
    }

    fn user(&self, token: &str, now: jiff::Timestamp) -> Option<User> {
        let (id, secret) = split(token)?;
        let o = self.objects.read("secrets", NAMESPACE, &format!("bootstrap-token-{id}"))?;
        if o.deletion_timestamp().is_some() || o.str_at(&["type"]) != SECRET_TYPE {
            return None;
        }
        if !equal(&data(&o, "token-secret"), secret) || data(&o, "token-id") != id {
            return None;
        }
        let expiration = data(&o, "expiration");
        if !expiration.is_empty() && expiration.parse::<jiff::Timestamp>().is_ok_and(|t| now >= t) || (!expiration.is_empty() && expiration.parse::<jiff::Timestamp>().is_err()) {
            return None;
        }
        if data(&o, "usage-bootstrap-authentication") != "true" {
            return None;
        }
        let extra = data(&o, "auth-extra-groups");
        let mut groups: Vec<String> = extra.split(',').filter(|g| !g.is_empty()).map(str::to_owned).collect();
        if !groups.iter().all(|g| is_group(g)) {
            return None;
        }
        groups.push(DEFAULT_GROUP.into());
        groups.sort();
        groups.dedup();
        let mut user = User { name: format!("{USER_PREFIX}{id}"), groups, ..User::default() };
        mark_authenticated(&mut user);
        Some(user)
    }
}

/// One value of a Secret as text.
pub(super) fn data(o: &Object, key: &str) -> String {
    BASE64.decode(o.str_at(&["data", key])).ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
}

/// `[a-z0-9]{6}.[a-z0-9]{16}`
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == ID_CHARS && secret.len() == SECRET_CHARS && plain(id) && plain(secret)).then_some((id, secret))
}

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`
fn is_group(g: &str) -> bool {
    let Some(rest) = g.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=256).contains(&rest.len()) && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-') && rest.bytes().last().is_some_and(plain)
}

#[async_trait]
impl TokenAuthenticator for BootstrapTokens {
    fn name(&self) -> &'static str {
        "bootstrap-token"
    }
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, Refused> {
        let Some(audiences) = implicit(&self.own_audiences, audiences) else { return Ok(None) };
        Ok(self.user(token, jiff::Timestamp::now()).map(|u| Authenticated { user: Arc::new(u), audiences }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct One(Object);
    impl Objects for One {
        fn read(&self, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
            ((plural, namespace, name) == ("secrets", NAMESPACE, "bootstrap-token-abcdef")).then(|| Arc::new(self.0.clone()))
        }
    }

    fn user(change: impl Fn(&mut Object), token: &str) -> Option<User> {
        let b = |s: &str| BASE64.encode(s);
        let mut o = Object(json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": SECRET_TYPE, "data": {
            "token-id": b("abcdef"), "token-secret": b("0123456789abcdef"), "usage-bootstrap-authentication": b("true"),
            "expiration": b("2030-01-01T00:00:00Z"), "auth-extra-groups": b("system:bootstrappers:workers")}}));
        change(&mut o);
        BootstrapTokens::new(Arc::new(One(o)), Vec::new()).user(token, "2029-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_bootstrap_token_is_its_secret_and_dies_with_it() {
        const TOKEN: &str = "abcdef.0123456789abcdef";
        let set = |key: &'static str, v: &'static str| move |o: &mut Object| o.0["data"][key] = BASE64.encode(v).into();
        let u = user(|_| {}, TOKEN).expect("good");
        assert_eq!(u.name, "system:bootstrap:abcdef");
        assert_eq!(u.groups, ["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]);
        assert!(user(|_| {}, "abcdef.0123456789abcdee").is_none(), "another secret");
        assert!(user(|_| {}, "ABCDEF.0123456789abcdef").is_none(), "not of the form");
        assert!(user(set("expiration", "2028-01-01T00:00:00Z"), TOKEN).is_none(), "over");
        assert!(user(set("expiration", "soon"), TOKEN).is_none(), "no time");
        assert!(user(set("usage-bootstrap-authentication", "false"), TOKEN).is_none(), "not for this");
        assert!(user(set("auth-extra-groups", "system:masters"), TOKEN).is_none(), "a group it may not have");
        assert!(user(|o| o.0["type"] = "Opaque".into(), TOKEN).is_none(), "another type");
    }
}
