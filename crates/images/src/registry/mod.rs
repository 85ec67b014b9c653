//! The registry protocol, as far as pulls need it: manifests and blobs of one repository, with the challenge-response of tokens.
//!
//! Entry point: [`Repository`]. A connection per request: a pull makes few, and blobs come from other hosts anyway. Which server is asked, and
//! how it is believed, is `registries.yaml`'s ([`config`]). Deliberately absent: push, proxies.

mod challenge;
pub mod config;
mod connection;

use crate::archive::DOCUMENT_LIMIT_BYTES;
use crate::error::RegistryFault;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use challenge::Challenge;
use config::{Endpoint, Registries};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use keles_oci::Digest;
use keles_oci::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use std::sync::Mutex;
use std::time::Duration;

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

/// `user:password` in base64, padded or not, as docker's configuration has it.
pub fn decoded(auth: &str) -> Option<(String, String)> {
    let bytes = STANDARD_NO_PAD.decode(auth.trim_end_matches('=')).ok()?;
    // Docker once ended passwords with a NUL.
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// One repository at one server, with what was learned about access to it.
pub struct Repository {
    endpoint: Endpoint,
    auth: Option<Auth>,
    registries: Registries,
    /// How long the server may say nothing.
    silence_limit: Duration,
    /// The `Authorization` that the server accepted.
    authorization: Mutex<Option<String>>,
}

impl Repository {
    pub fn new(endpoint: &Endpoint, auth: Option<Auth>, registries: &Registries, silence_limit: Duration) -> Repository {
        let given = auth.as_ref().filter(|a| !a.registry_token.is_empty()).map(|a| format!("Bearer {}", a.registry_token));
        Repository { endpoint: endpoint.clone(), auth, registries: registries.clone(), silence_limit, authorization: Mutex::new(given) }
    }

    pub fn registry(&self) -> &str {
        &self.endpoint.host
    }

    /// Mirrors are told whom they stand in for, as containerd does.
    fn url(&self, what: &str) -> String {
        let namespace = self.endpoint.namespace.as_ref().map(|n| format!("?{}", challenge::form(&[("ns", n.clone())]))).unwrap_or_default();
        format!("{}/{}/{what}{namespace}", self.endpoint.base, self.endpoint.repository)
    }

    /// A manifest or index by tag or digest.
    pub async fn manifest(&self, wanted: &str) -> Result<Bytes, RegistryFault> {
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
        let response = self.get(&self.url(&format!("manifests/{wanted}")), &accept, 0).await?;
        self.whole(response, DOCUMENT_LIMIT_BYTES as usize).await
    }

    pub async fn small_blob(&self, digest: &Digest) -> Result<Bytes, RegistryFault> {
        let (_, body) = self.blob(digest, 0).await?;
        self.collect(body, DOCUMENT_LIMIT_BYTES as usize).await
    }

    /// A blob from this byte on, or from its beginning when the server knows no ranges: where the body starts, and the body.
    pub async fn blob(&self, digest: &Digest, from: u64) -> Result<(u64, Incoming), RegistryFault> {
        let response = self.get(&self.url(&format!("blobs/{digest}")), "*/*", from).await?;
        self.body_from(response, from)
    }

    /// A blob by a URL that its manifest gives (foreign layers); no credential goes there.
    pub async fn foreign(&self, url: &str, from: u64) -> Result<(u64, Incoming), RegistryFault> {
        let uri = self.uri(url)?;
        if uri.scheme_str() != Some("https") && !self.registries.is_plain(uri.authority().map(|a| a.as_str()).unwrap_or_default()) {
            return Err(self.protocol(format!("the layer's own address {url} is not reached by HTTPS")));
        }
        let response = self.follow(url, "*/*", None, from).await?;
        let response = self.judge(response).await?;
        self.body_from(response, from)
    }

    fn body_from(&self, response: Response<Incoming>, from: u64) -> Result<(u64, Incoming), RegistryFault> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok((0, response.into_body()));
        }
        let range = response.headers().get(CONTENT_RANGE).and_then(|r| r.to_str().ok()).unwrap_or_default();
        let start = range.strip_prefix("bytes ").and_then(|r| r.split('-').next()).and_then(|start| start.parse::<u64>().ok());
        match start {
            Some(start) if start == from => Ok((from, response.into_body())),
            _ => Err(self.protocol(format!("asked for bytes from {from} on it sent {range:?}"))),
        }
    }

    /// The next bytes of a body; a connection that is silent for too long is an error.
    pub async fn next_chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, RegistryFault> {
        loop {
            let frame = match tokio::time::timeout(self.silence_limit, body.frame()).await {
                Err(_) => return Err(self.unreachable(format!("nothing came for {:?}", self.silence_limit))),
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(|e| self.unreachable(e.to_string()))?,
            };
            // Trailers carry nothing of the blob.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    async fn whole(&self, response: Response<Incoming>, limit: usize) -> Result<Bytes, RegistryFault> {
        self.collect(response.into_body(), limit).await
    }

    async fn collect(&self, body: Incoming, limit: usize) -> Result<Bytes, RegistryFault> {
        match tokio::time::timeout(self.silence_limit, Limited::new(body, limit).collect()).await {
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(e)) => Err(self.unreachable(e.to_string())),
            Err(_) => Err(self.unreachable("it stopped answering".into())),
        }
    }

    fn unreachable(&self, reason: String) -> RegistryFault {
        RegistryFault::Unreachable { registry: self.endpoint.host.clone(), reason }
    }

    fn protocol(&self, what: impl Into<String>) -> RegistryFault {
        RegistryFault::Protocol { registry: self.endpoint.host.clone(), what: what.into() }
    }

    /// The `Authorization` that is sent; none as long as the server asked for none.
    pub fn accepted(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// A successful response; answers the registry's challenge once.
    async fn get(&self, url: &str, accept: &str, from: u64) -> Result<Response<Incoming>, RegistryFault> {
        let before = self.accepted();
        let response = self.follow(url, accept, before.as_deref(), from).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.judge(response).await;
        }
        let challenges: Vec<Challenge> = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).filter_map(Challenge::parse).collect();
        let answer = self.answer(&challenges).await?;
        let response = self.follow(url, accept, Some(&answer), from).await?;
        *self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(answer);
        self.judge(response).await
    }

    /// Errors by status, in the registry's own words where it has some.
    async fn judge(&self, response: Response<Incoming>) -> Result<Response<Incoming>, RegistryFault> {
        let registry = self.endpoint.host.clone();
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
    async fn follow(&self, url: &str, accept: &str, authorization: Option<&str>, from: u64) -> Result<Response<Incoming>, RegistryFault> {
        let mut uri = self.uri(url)?;
        let mut headers = self.headers(accept, authorization)?;
        if from > 0 {
            headers.insert(RANGE, HeaderValue::from_str(&format!("bytes={from}-")).expect("digits"));
        }
        for _ in 0..=REDIRECTS_LIMIT {
            let response = self.send(Method::GET, &uri, headers.clone(), Bytes::new()).await?;
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

    async fn send(&self, method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> Result<Response<Incoming>, RegistryFault> {
        let host = uri.authority().map(|a| a.as_str()).unwrap_or_default();
        self.registries.tls(host).send(method, uri, headers, body, self.silence_limit).await.map_err(|e| self.unreachable(e))
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
        let denied = || RegistryFault::Denied { registry: self.endpoint.host.clone() };
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
        if uri.scheme_str() != Some("https") && !self.registries.is_plain(host) {
            return Err(self.protocol(format!("its token server {realm} is not reached by HTTPS; credentials are not sent there")));
        }
        let scope = parameters.get("scope").cloned().unwrap_or_else(|| format!("repository:{}:pull", self.endpoint.repository));
        let mut query = vec![("scope", scope)];
        query.extend(parameters.get("service").map(|s| ("service", s.clone())));
        let response = match self.auth.as_ref().filter(|a| !a.identity_token.is_empty()) {
            Some(auth) => {
                query.extend([("grant_type", "refresh_token".into()), ("refresh_token", auth.identity_token.clone()), ("client_id", "keles".into())]);
                let mut headers = self.headers("application/json", None)?;
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                self.send(Method::POST, &uri, headers, challenge::form(&query).into()).await?
            }
            None => {
                let separator = if realm.contains('?') { '&' } else { '?' };
                let basic = self.auth.as_ref().and_then(Auth::basic);
                self.follow(&format!("{realm}{separator}{}", challenge::form(&query)), "application/json", basic.as_deref(), 0).await?
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

fn message(body: &[u8]) -> String {
    let tree: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let own = tree.pointer("/errors/0/message").and_then(|m| m.as_str()).map(str::to_string);
    own.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()).chars().filter(|c| !c.is_control()).take(MESSAGE_LIMIT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_credential_is_decoded_with_and_without_padding() {
        let words = |u: &str, p: &str| Some((u.to_owned(), p.to_owned()));
        assert_eq!((decoded("dTpwOnA="), decoded("dTpwOnA")), (words("u", "p:p"), words("u", "p:p")));
        assert_eq!((decoded("dQ=="), decoded("!")), (None, None), "without a colon, and no base64");
    }

    #[test]
    fn a_credential_is_for_its_registry_and_not_shown() {
        let auth = |registry: &str| Auth { registry: registry.into(), username: "u".into(), password: "hidden".into(), ..Auth::default() };
        assert!(auth("").fits("docker.io") && auth("https://index.docker.io/v1/").fits("docker.io") && auth("localhost:5000").fits("localhost:5000"));
        assert!(!auth("localhost:5000").fits("localhost:5001"));
        assert!(!format!("{:?}", auth("x")).contains("hidden"));
    }
}
