//! The registry protocol, as far as pulls need it: manifests and blobs of one repository, with the challenge-response of tokens.
//!
//! Entry point: [`Repository`]. A connection per request: a pull makes few, and blobs come from other hosts anyway. HTTPS with the
//! machine's trusted certificates; plain HTTP only to loopback and registries configured so. Deliberately absent: push, mirrors, proxies.

mod challenge;
mod connection;

pub use connection::Tls;

use crate::archive::DOCUMENT_LIMIT_BYTES;
use crate::error::RegistryFault;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use challenge::Challenge;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use keles_oci::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use keles_oci::{Digest, Reference};
use std::sync::Mutex;
use std::time::Duration;

/// How long a registry may say nothing.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(60);
const REDIRECTS_LIMIT: usize = 5;
/// Of a token reply or an error message.
const REPLY_LIMIT_BYTES: usize = 1 << 20;
/// Of a registry's own words in our message.
const MESSAGE_LIMIT_CHARS: usize = 300;

/// A credential: name and password, or a token.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// The registry it is for (`docker.io`, `localhost:5000`); empty: whichever is asked.
    pub registry: String,
    pub username: String,
    pub password: String,
    /// Exchanged for access tokens at the registry's token server.
    pub identity_token: String,
    /// Sent as it is.
    pub registry_token: String,
}

impl std::fmt::Debug for Auth {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("registry", &self.registry).field("username", &self.username).finish_non_exhaustive()
    }
}

impl Auth {
    pub(crate) fn fits(&self, registry: &str) -> bool {
        let own = self.registry.trim_start_matches("https://").trim_start_matches("http://");
        let own = own.split('/').next().unwrap_or_default();
        own.is_empty() || own == registry || (registry == "docker.io" && matches!(own, "index.docker.io" | "registry-1.docker.io"))
    }

    fn basic(&self) -> Option<String> {
        (!self.username.is_empty()).then(|| format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password))))
    }
}

/// One repository of one registry, with what was learned about access to it.
pub struct Repository {
    registry: String,
    base: String,
    repository: String,
    auth: Option<Auth>,
    insecure: Vec<String>,
    tls: Tls,
    /// The `Authorization` that the registry accepted.
    authorization: Mutex<Option<String>>,
}

impl Repository {
    pub fn new(reference: &Reference, auth: Option<Auth>, insecure: &[String], tls: &Tls) -> Repository {
        let scheme = if is_insecure(&reference.registry, insecure) { "http" } else { "https" };
        let given = auth.as_ref().filter(|a| !a.registry_token.is_empty()).map(|a| format!("Bearer {}", a.registry_token));
        Repository {
            registry: reference.registry.clone(),
            base: format!("{scheme}://{}/v2/{}", reference.host(), reference.repository),
            repository: reference.repository.clone(),
            auth,
            insecure: insecure.to_vec(),
            tls: tls.clone(),
            authorization: Mutex::new(given),
        }
    }

    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// A manifest or index by tag or digest.
    pub async fn manifest(&self, wanted: &str) -> Result<Bytes, RegistryFault> {
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
        let response = self.get(&format!("{}/manifests/{wanted}", self.base), &accept).await?;
        self.whole(response, DOCUMENT_LIMIT_BYTES as usize).await
    }

    pub async fn small_blob(&self, digest: &Digest) -> Result<Bytes, RegistryFault> {
        let response = self.blob(digest).await?;
        self.collect(response, DOCUMENT_LIMIT_BYTES as usize).await
    }

    pub async fn blob(&self, digest: &Digest) -> Result<Incoming, RegistryFault> {
        Ok(self.get(&format!("{}/blobs/{digest}", self.base), "*/*").await?.into_body())
    }

    async fn whole(&self, response: Response<Incoming>, limit: usize) -> Result<Bytes, RegistryFault> {
        self.collect(response.into_body(), limit).await
    }

    async fn collect(&self, body: Incoming, limit: usize) -> Result<Bytes, RegistryFault> {
        match tokio::time::timeout(SILENCE_LIMIT, Limited::new(body, limit).collect()).await {
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(e)) => Err(self.unreachable(e.to_string())),
            Err(_) => Err(self.unreachable("it stopped answering".into())),
        }
    }

    fn unreachable(&self, reason: String) -> RegistryFault {
        RegistryFault::Unreachable { registry: self.registry.clone(), reason }
    }

    fn protocol(&self, what: impl Into<String>) -> RegistryFault {
        RegistryFault::Protocol { registry: self.registry.clone(), what: what.into() }
    }

    fn accepted(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// A successful response; answers the registry's challenge once.
    async fn get(&self, url: &str, accept: &str) -> Result<Response<Incoming>, RegistryFault> {
        let before = self.accepted();
        let response = self.follow(url, accept, before.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.judge(response).await;
        }
        let challenges: Vec<Challenge> = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).filter_map(Challenge::parse).collect();
        let answer = self.answer(&challenges).await?;
        let response = self.follow(url, accept, Some(&answer)).await?;
        *self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(answer);
        self.judge(response).await
    }

    /// Errors by status, in the registry's own words where it has some.
    async fn judge(&self, response: Response<Incoming>) -> Result<Response<Incoming>, RegistryFault> {
        let registry = self.registry.clone();
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => Err(RegistryFault::NotFound { registry }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RegistryFault::Denied { registry }),
            status => {
                let body = self.whole(response, REPLY_LIMIT_BYTES).await.unwrap_or_default();
                Err(RegistryFault::Status { registry, status: status.as_u16(), message: message(&body) })
            }
        }
    }

    /// Redirects lead to storage servers: the registry's credential is not for them.
    async fn follow(&self, url: &str, accept: &str, authorization: Option<&str>) -> Result<Response<Incoming>, RegistryFault> {
        let mut uri = self.uri(url)?;
        let mut headers = self.headers(accept, authorization)?;
        for _ in 0..=REDIRECTS_LIMIT {
            let response = self.tls.send(Method::GET, &uri, headers.clone(), Bytes::new()).await.map_err(|e| self.unreachable(e))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).ok_or_else(|| self.protocol("a redirect without a location"))?;
            let next = self.uri(&challenge::join(&uri, location))?;
            if next.authority() != uri.authority() {
                headers.remove(AUTHORIZATION);
            }
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(self.protocol(format!("it redirects from HTTPS to {next}, which is not")));
            }
            uri = next;
        }
        Err(self.protocol(format!("more than {REDIRECTS_LIMIT} redirects")))
    }

    fn uri(&self, url: &str) -> Result<Uri, RegistryFault> {
        url.parse().map_err(|e| self.protocol(format!("{url:?} is not a URL: {e}")))
    }

    fn headers(&self, accept: &str, authorization: Option<&str>) -> Result<HeaderMap, RegistryFault> {
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| self.protocol("a credential has characters that HTTP does not allow"));
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, value(accept)?);
        if let Some(authorization) = authorization {
            let mut secret = value(authorization)?;
            secret.set_sensitive(true);
            headers.insert(AUTHORIZATION, secret);
        }
        Ok(headers)
    }

    /// What to send as `Authorization` to satisfy the registry.
    async fn answer(&self, challenges: &[Challenge]) -> Result<String, RegistryFault> {
        let denied = || RegistryFault::Denied { registry: self.registry.clone() };
        for challenge in challenges {
            match challenge {
                Challenge::Bearer(parameters) => return self.token(parameters).await,
                Challenge::Basic => {
                    if let Some(basic) = self.auth.as_ref().and_then(Auth::basic) {
                        return Ok(basic);
                    }
                }
            }
        }
        Err(denied())
    }

    /// Asks the token server (distribution's token specification; with an identity token its OAuth2 form).
    async fn token(&self, parameters: &challenge::Parameters) -> Result<String, RegistryFault> {
        let realm = parameters.get("realm").ok_or_else(|| self.protocol("its challenge names no token server"))?;
        let uri = self.uri(realm)?;
        let host = uri.authority().map(|a| a.as_str()).unwrap_or_default();
        if uri.scheme_str() != Some("https") && !is_insecure(host, &self.insecure) {
            return Err(self.protocol(format!("its token server {realm} is not reached by HTTPS; credentials are not sent there")));
        }
        let scope = parameters.get("scope").cloned().unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let mut query = vec![("scope", scope)];
        query.extend(parameters.get("service").map(|s| ("service", s.clone())));
        let response = match self.auth.as_ref().filter(|a| !a.identity_token.is_empty()) {
            Some(auth) => {
                query.extend([("grant_type", "refresh_token".into()), ("refresh_token", auth.identity_token.clone()), ("client_id", "keles".into())]);
                let mut headers = self.headers("application/json", None)?;
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                self.tls.send(Method::POST, &uri, headers, challenge::form(&query).into()).await.map_err(|e| self.unreachable(e))?
            }
            None => {
                let separator = if realm.contains('?') { '&' } else { '?' };
                let basic = self.auth.as_ref().and_then(Auth::basic);
                self.follow(&format!("{realm}{separator}{}", challenge::form(&query)), "application/json", basic.as_deref()).await?
            }
        };
        let response = self.judge(response).await?;
        let reply: TokenReply =
            serde_json::from_slice(&self.whole(response, REPLY_LIMIT_BYTES).await?).map_err(|e| self.protocol(format!("its token server's answer is not valid: {e}")))?;
        let token = reply.token.or(reply.access_token).ok_or_else(|| self.protocol("its token server gave no token"))?;
        Ok(format!("Bearer {token}"))
    }
}

#[derive(serde::Deserialize)]
struct TokenReply {
    token: Option<String>,
    access_token: Option<String>,
}

/// Loopback needs no TLS: nobody is in between.
fn is_insecure(registry: &str, configured: &[String]) -> bool {
    let authority: Option<http::uri::Authority> = registry.parse().ok();
    let host = authority.as_ref().map(|a| a.host()).unwrap_or(registry).trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let https_port = authority.as_ref().and_then(|a| a.port_u16()) == Some(443);
    (loopback && !https_port) || configured.iter().any(|c| c == registry || c == host)
}

fn message(body: &[u8]) -> String {
    let tree: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let own = tree.pointer("/errors/0/message").and_then(|m| m.as_str()).map(str::to_string);
    own.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()).chars().filter(|c| !c.is_control()).take(MESSAGE_LIMIT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_and_what_is_configured() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.3.2.1", "[::1]:5000"] {
            assert!(is_insecure(host, &[]), "{host}");
        }
        for host in ["docker.io", "localhost:443", "10.0.0.1:5000", "localhost.example.com", "127.0.0.1.example.com"] {
            assert!(!is_insecure(host, &[]), "{host}");
        }
        assert!(is_insecure("10.0.0.1:5000", &["10.0.0.1:5000".into()]) && is_insecure("reg.local:80", &["reg.local".into()]));
    }

    #[test]
    fn a_credential_is_for_its_registry_and_not_shown() {
        let auth = |registry: &str| Auth { registry: registry.into(), username: "u".into(), password: "hidden".into(), ..Auth::default() };
        assert!(auth("").fits("docker.io") && auth("https://index.docker.io/v1/").fits("docker.io") && auth("localhost:5000").fits("localhost:5000"));
        assert!(!auth("localhost:5000").fits("localhost:5001"));
        assert!(!format!("{:?}", auth("x")).contains("hidden"));
    }
}
