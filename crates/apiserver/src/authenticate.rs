//! Who asks: a table of authenticators, first come first served, and impersonation.

use crate::server::Inner;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use keles_api::Status;
use keles_auth::rbac::Reason;
use keles_auth::tokens::TokenError;
use keles_auth::{Attributes, User};
use keles_serve::ConnInfo;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// What the connection says about the caller, worked out once.
#[derive(Clone)]
pub enum Caller {
    /// In this process: set by `service_for`, out of reach of the wire.
    Known(Arc<User>),
    /// Over TLS with a client certificate of our CA.
    Certificate(Arc<User>),
    /// Over TLS with a certificate that is not ours or out of its time.
    BadCertificate,
    Stranger,
}

impl Caller {
    pub fn of(connection: &ConnInfo, verifier: &keles_serve::tls::ClientVerifier) -> Caller {
        let Some(leaf) = connection.certificates.first() else { return Caller::Stranger };
        if keles_serve::tls::verify_client(verifier.as_ref(), &connection.certificates).is_err() {
            return Caller::BadCertificate;
        }
        match keles_auth::x509::user(leaf, &hex::encode(Sha256::digest(leaf))) {
            Some(u) => Caller::Certificate(Arc::new(u)),
            None => Caller::BadCertificate,
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Protocol under which browsers carry a bearer token: `base64url.bearer.authorization.k8s.io.TOKEN`.
const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

fn websocket_bearer(headers: &HeaderMap) -> Option<String> {
    use base64::Engine;
    let protocols = headers.get("sec-websocket-protocol")?.to_str().ok()?;
    let encoded = protocols.split(',').map(str::trim).find_map(|p| p.strip_prefix(WEBSOCKET_TOKEN))?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok()
}

impl Inner {
    /// The caller's user; 401 for credentials that are not good, anonymous for none.
    pub async fn authenticate(&self, caller: &Caller, headers: &HeaderMap) -> Result<Arc<User>, Status> {
        match caller {
            Caller::Known(u) | Caller::Certificate(u) => return Ok(u.clone()),
            Caller::BadCertificate | Caller::Stranger => {}
        }
        let token = bearer(headers).map(str::to_owned).or_else(|| websocket_bearer(headers));
        if let Some(token) = token {
            return match self.check_token(token, Vec::new()).await {
                Ok((user, _)) => Ok(user),
                Err(error) => {
                    tracing::debug!(%error, "a token was refused");
                    Err(Status::unauthorized())
                }
            };
        }
        match caller {
            Caller::BadCertificate => Err(Status::unauthorized()),
            _ => Ok(self.anonymous.clone()),
        }
    }

    /// Checks a token off the event loop while the signing key is still being made.
    pub async fn check_token(&self, token: String, audiences: Vec<String>) -> Result<(Arc<User>, Vec<String>), TokenError> {
        let now = jiff::Timestamp::now().as_second();
        if self.tokens.key().is_ready() {
            return self.tokens.authenticate(&token, &audiences, now);
        }
        let tokens = self.tokens.clone();
        tokio::task::spawn_blocking(move || tokens.authenticate(&token, &audiences, now)).await.unwrap_or(Err(TokenError::NotOurs))
    }

    /// Whom the caller wants to act as (`Impersonate-*`), each part allowed by verb `impersonate`.
    pub fn impersonate(&self, user: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>, Status> {
        let text = |v: &http::HeaderValue| v.to_str().unwrap_or_default().to_owned();
        let name = headers.get("impersonate-user").map(text).unwrap_or_default();
        let groups: Vec<String> = headers.get_all("impersonate-group").iter().map(text).collect();
        let uid = headers.get("impersonate-uid").map(text).unwrap_or_default();
        let extra: Vec<(String, String)> = headers.iter().filter_map(|(k, v)| Some((percent_decoded(k.as_str().strip_prefix("impersonate-extra-")?), text(v)))).collect();
        if name.is_empty() {
            if groups.is_empty() && uid.is_empty() && extra.is_empty() {
                return Ok(user);
            }
            return Err(Status::internal("requested impersonation without impersonating a user"));
        }
        let mut wanted = match keles_auth::service_account_names(&name) {
            Some((ns, n)) => {
                self.may_impersonate(&user, "", "serviceaccounts", "", ns, n)?;
                keles_auth::service_account(ns, n, "")
            }
            None => {
                self.may_impersonate(&user, "", "users", "", "", &name)?;
                User { name: name.clone(), ..User::default() }
            }
        };
        if !groups.is_empty() {
            wanted.groups.clear();
        }
        for g in groups {
            self.may_impersonate(&user, "", "groups", "", "", &g)?;
            wanted.groups.push(g);
        }
        if !uid.is_empty() {
            self.may_impersonate(&user, "authentication.k8s.io", "uids", "", "", &uid)?;
            wanted.uid = uid;
        }
        for (key, value) in extra {
            self.may_impersonate(&user, "authentication.k8s.io", "userextras", &key, "", &value)?;
            wanted.extra.entry(key).or_default().push(value);
        }
        if wanted.name != keles_auth::ANONYMOUS {
            keles_auth::mark_authenticated(&mut wanted);
        } else if wanted.groups.is_empty() {
            wanted.groups.push(keles_auth::UNAUTHENTICATED.into());
        }
        Ok(Arc::new(wanted))
    }

    fn may_impersonate(&self, user: &User, group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Result<(), Status> {
        let a = Attributes { user, verb: "impersonate", group, resource, subresource, namespace, name, path: "" };
        self.authorize(&a).map(|_| ())
    }

    /// Why the request is allowed, or 403.
    pub fn authorize(&self, a: &Attributes<'_>) -> Result<Reason, Status> {
        self.decide(a).ok_or_else(|| a.forbidden(""))
    }

    /// The authorizers in order: nodes, then roles.
    pub fn decide(&self, a: &Attributes<'_>) -> Option<Reason> {
        self.nodes.allows(a).or_else(|| self.authorizer.allows(a))
    }
}

fn percent_decoded(s: &str) -> String {
    keles_registry::Query::parse(&s.replace('+', "%2B")).0.into_iter().next().map(|(k, _)| k).unwrap_or_default()
}
