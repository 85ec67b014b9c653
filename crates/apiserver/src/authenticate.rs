//! Who asks: what the connection, the headers of a proxy and the token say, first come first served.

use crate::certificates::Verifiers;
use crate::metrics;
use crate::server::Inner;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use keles_api::Status;
use keles_auth::authenticators::request_header::RequestHeader;
use keles_auth::rbac::Reason;
use keles_auth::{Attributes, User};
use keles_pki::Subject;
use keles_serve::ConnInfo;
use keles_serve::tls::verify_client;
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

    /// Why the request is allowed, or 403.
    pub async fn authorize(&self, a: &Attributes<'_>) -> Result<Reason, Status> {
        self.authorizers.decide(a).await.map_err(|why| a.forbidden(&why))
    }

    /// Whether the authorizers allow it.
    pub async fn allows(&self, a: &Attributes<'_>) -> bool {
        self.authorizers.decide(a).await.is_ok()
    }
}
