//! Who asks: what the connection, the headers of a proxy and the token say, first come first served; and impersonation.

use crate::metrics;
use crate::server::Inner;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use keles_api::Status;
use keles_auth::authenticators::request_header::{RequestHeader, unescape};
use keles_auth::rbac::Reason;
use keles_auth::{Attributes, User};
use keles_pki::Subject;
use keles_serve::ConnInfo;
use keles_serve::tls::{ClientVerifier, verify_client};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

/// What the connection says about the caller, worked out once.
#[derive(Clone)]
pub struct Caller {
    /// The other end, for audit.
    pub peer: IpAddr,
    credential: Credential,
}

#[derive(Clone)]
enum Credential {
    /// In this process: set by `service_for`, out of reach of the wire.
    Known(Arc<User>),
    /// Over TLS with a client certificate of our CA.
    Certificate(Arc<User>),
    /// Over TLS with the certificate of a proxy that says in headers who asks.
    Proxy,
    /// Over TLS with a certificate that is not ours or out of its time.
    BadCertificate,
    Stranger,
}

/// Whose certificates count.
pub struct Verifiers {
    pub clients: ClientVerifier,
    pub proxies: ClientVerifier,
}

impl Caller {
    pub fn known(user: Arc<User>) -> Caller {
        Caller { peer: Ipv4Addr::LOCALHOST.into(), credential: Credential::Known(user) }
    }

    pub fn of(connection: &ConnInfo, verifiers: &Verifiers, headers: &RequestHeader) -> Caller {
        Caller { peer: connection.peer.ip(), credential: Credential::of(connection, verifiers, headers) }
    }
}

impl Credential {
    fn of(connection: &ConnInfo, verifiers: &Verifiers, headers: &RequestHeader) -> Credential {
        let Some(leaf) = connection.certificates.first() else { return Credential::Stranger };
        if verify_client(verifiers.clients.as_ref(), &connection.certificates).is_ok() {
            return match keles_auth::x509::user(leaf, &hex::encode(Sha256::digest(leaf))) {
                Some(u) => Credential::Certificate(Arc::new(u)),
                None => Credential::BadCertificate,
            };
        }
        let proxy = verify_client(verifiers.proxies.as_ref(), &connection.certificates).is_ok();
        if proxy && Subject::of(leaf).is_some_and(|s| headers.allows(&s.common_name)) { Credential::Proxy } else { Credential::BadCertificate }
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
    /// The caller's user; 401 for credentials that are not good, anonymous for none where `path` allows it. Credentials are taken off.
    pub async fn authenticate(&self, caller: &Caller, headers: &mut HeaderMap, path: &str) -> Result<Arc<User>, Status> {
        let started = Instant::now();
        let found = self.find_user(caller, headers, path).await;
        metrics::authenticated(&found, started.elapsed());
        let user = found?;
        headers.remove(AUTHORIZATION);
        self.config.authentication.request_header.strip(headers);
        Ok(user)
    }

    async fn find_user(&self, caller: &Caller, headers: &HeaderMap, path: &str) -> Result<Arc<User>, Status> {
        match &caller.credential {
            Credential::Known(u) => return Ok(u.clone()),
            Credential::Proxy => {
                if let Some(u) = self.config.authentication.request_header.user(headers) {
                    return Ok(Arc::new(u));
                }
            }
            Credential::Certificate(u) => return Ok(u.clone()),
            Credential::BadCertificate | Credential::Stranger => {}
        }
        let token = bearer(headers).map(str::to_owned).or_else(|| websocket_bearer(headers));
        if let Some(token) = token {
            return self.authentication.tokens.authenticate(&token, &[]).await.map(|a| a.user).map_err(|_| Status::unauthorized());
        }
        match &caller.credential {
            Credential::Stranger if self.authentication.anonymous.allows(path) => Ok(self.anonymous.clone()),
            _ => Err(Status::unauthorized()),
        }
    }

    /// Whom the caller wants to act as (`Impersonate-*`), each part allowed by verb `impersonate`; `None` when as nobody else.
    pub async fn impersonate(&self, user: &Arc<User>, headers: &mut HeaderMap) -> Result<Option<Arc<User>>, Status> {
        let text = |v: &http::HeaderValue| v.to_str().unwrap_or_default().to_owned();
        let name = headers.get("impersonate-user").map(text).unwrap_or_default();
        let groups: Vec<String> = headers.get_all("impersonate-group").iter().map(text).collect();
        let uid = headers.get("impersonate-uid").map(text).unwrap_or_default();
        let extra: Vec<(String, String)> = headers.iter().filter_map(|(k, v)| Some((unescape(k.as_str().strip_prefix("impersonate-extra-")?), text(v)))).collect();
        if name.is_empty() {
            if groups.is_empty() && uid.is_empty() && extra.is_empty() {
                return Ok(None);
            }
            return Err(Status::internal("requested impersonation without impersonating a user"));
        }
        let mut wanted = match keles_auth::service_account_names(&name) {
            Some((ns, n)) => {
                self.may_impersonate(user, "", "serviceaccounts", "", ns, n).await?;
                keles_auth::service_account(ns, n, "")
            }
            None => {
                self.may_impersonate(user, "", "users", "", "", &name).await?;
                User { name: name.clone(), ..User::default() }
            }
        };
        if !groups.is_empty() {
            wanted.groups.clear();
        }
        for g in groups {
            self.may_impersonate(user, "", "groups", "", "", &g).await?;
            wanted.groups.push(g);
        }
        if !uid.is_empty() {
            self.may_impersonate(user, "authentication.k8s.io", "uids", "", "", &uid).await?;
            wanted.uid = uid;
        }
        for (key, value) in extra {
            self.may_impersonate(user, "authentication.k8s.io", "userextras", &key, "", &value).await?;
            wanted.extra.entry(key).or_default().push(value);
        }
        if wanted.name != keles_auth::ANONYMOUS {
            keles_auth::mark_authenticated(&mut wanted);
        } else if wanted.groups.is_empty() {
            wanted.groups.push(keles_auth::UNAUTHENTICATED.into());
        }
        let used: Vec<http::HeaderName> = headers.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
        for k in used {
            headers.remove(k);
        }
        Ok(Some(Arc::new(wanted)))
    }

    async fn may_impersonate(&self, user: &User, group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Result<(), Status> {
        let version = if group.is_empty() { "" } else { "v1" };
        let a = Attributes { verb: "impersonate", group, version, resource, subresource, namespace, name, ..Attributes::of(user) };
        self.authorize(&a).await.map(|_| ())
    }

    /// Why the request is allowed, or 403.
    pub async fn authorize(&self, a: &Attributes<'_>) -> Result<Reason, Status> {
        self.authorizers.decide(a).await.map_err(|why| a.forbidden(&why))
    }

    /// Whether the authorizers allow it.
    pub async fn allows(&self, a: &Attributes<'_>) -> bool {
        self.authorizers.decide(a).await.is_ok()
    }
}
