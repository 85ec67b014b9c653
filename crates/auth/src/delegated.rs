//! Who asks a part that is no API server, and may they: the API server is asked whose a token is (TokenReview) and what a user may do
//! (SubjectAccessReview). Its answers are kept for a while. One mechanism for the parts' own pages and for the node agent's API.
//!
//! Entry points: [`certificate_user`], [`Delegated::token_user`], [`Delegated::decide`].
//! Source: k8s.io/apiserver/pkg/authentication/authenticatorfactory and authorization/authorizerfactory, "delegating".

use crate::ttl_cache::{self, TtlCache};
use crate::{Attributes, User, x509};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use keles_api::Status;
use keles_serve::tls::{ClientVerifier, verify_client};
use kube::Api;
use kube::api::PostParams;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// How long answers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub users: Duration,
    pub allowed: Duration,
    pub denied: Duration,
}

impl Kept {
    /// Upstream's for the parts of the control plane.
    pub const OF_PARTS: Kept = Kept { users: Duration::from_secs(10), allowed: Duration::from_secs(10), denied: Duration::from_secs(10) };
    /// Upstream's for the node agent.
    pub const OF_NODES: Kept = Kept { users: Duration::from_secs(120), allowed: Duration::from_secs(300), denied: Duration::from_secs(30) };
}

/// The API server's answers.
pub struct Delegated {
    client: kube::Client,
    kept: Kept,
    users: TtlCache<Option<User>>,
    decisions: TtlCache<Result<(), String>>,
}

/// The user of a connection's certificates; `None` when they are not of an authority that counts. The error: a certificate that counts and
/// names nobody.
pub fn certificate_user(verifier: &ClientVerifier, certificates: &[CertificateDer<'static>]) -> Result<Option<User>, Status> {
    let Some(leaf) = certificates.first() else { return Ok(None) };
    if verify_client(verifier.as_ref(), certificates).is_err() {
        return Ok(None);
    }
    let id = hex::encode(Sha256::digest(leaf));
    x509::user(leaf, &id).map(Some).ok_or_else(Status::unauthorized)
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    Some(token.trim()).filter(|t| scheme.eq_ignore_ascii_case("bearer") && !t.is_empty())
}

impl Delegated {
    /// `client` is a user who may create both kinds of reviews.
    pub fn new(client: kube::Client, kept: Kept) -> Delegated {
        Delegated { client, kept, users: TtlCache::default(), decisions: TtlCache::default() }
    }

    /// The user of a request's token; `None` where there is no token. 401 for a token of nobody.
    pub async fn token_user(&self, headers: &HeaderMap) -> Result<Option<User>, Status> {
        let Some(token) = bearer(headers) else { return Ok(None) };
        let key = ttl_cache::key([token.as_bytes()]);
        if let Some(known) = self.users.get(&key) {
            return known.map(Some).ok_or_else(Status::unauthorized);
        }
        let review = TokenReview { spec: TokenReviewSpec { token: token.to_owned(), audiences: None }, ..TokenReview::default() };
        let said = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await.map_err(|error| {
            tracing::warn!(%error, "the API server did not say whose token it is");
            Status::unauthorized()
        })?;
        let status = said.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|u| User {
            name: u.username.unwrap_or_default(),
            uid: u.uid.unwrap_or_default(),
            groups: u.groups.unwrap_or_default(),
            extra: u.extra.unwrap_or_default().into_iter().collect(),
        });
        self.users.put(key, user.clone(), self.kept.users);
        user.map(Some).ok_or_else(Status::unauthorized)
    }

    /// Inside: the reason of a refusal. Outside: the API server did not decide.
    pub async fn decide(&self, asked: &Attributes<'_>) -> Result<Result<(), String>, Status> {
        let spec = review(asked);
        let key = ttl_cache::key([serde_json::to_vec(&spec).map_err(Status::internal)?.as_slice()]);
        if let Some(known) = self.decisions.get(&key) {
            return Ok(known);
        }
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let said = Api::<SubjectAccessReview>::all(self.client.clone()).create(&PostParams::default(), &review).await.map_err(Status::internal)?;
        let status = said.status.unwrap_or_default();
        let decision = if status.allowed { Ok(()) } else { Err(status.reason.unwrap_or_default()) };
        self.decisions.put(key, decision.clone(), if status.allowed { self.kept.allowed } else { self.kept.denied });
        Ok(decision)
    }
}

fn review(asked: &Attributes<'_>) -> SubjectAccessReviewSpec {
    let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    let user = asked.user;
    let resource = || ResourceAttributes {
        group: some(asked.group),
        version: some(asked.version),
        resource: some(asked.resource),
        subresource: some(asked.subresource),
        namespace: some(asked.namespace),
        name: some(asked.name),
        verb: some(asked.verb),
        ..ResourceAttributes::default()
    };
    SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        groups: Some(user.groups.clone()),
        uid: some(&user.uid),
        extra: Some(user.extra.clone().into_iter().collect()),
        resource_attributes: asked.is_resource().then(resource),
        non_resource_attributes: (!asked.is_resource()).then(|| NonResourceAttributes { path: some(asked.path), verb: some(asked.verb) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_token_is_what_follows_bearer() {
        let of = |value: &'static str| bearer(&HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))])).map(str::to_owned);
        assert_eq!(of("Bearer  abc "), Some("abc".into()));
        assert_eq!(of("bearer abc"), Some("abc".into()));
        assert_eq!((of("Basic abc"), of("Bearer "), bearer(&HeaderMap::new())), (None, None, None));
    }

    #[test]
    fn a_review_asks_for_a_resource_or_for_a_path() {
        let user = crate::user("jane", &["dev"]);
        let node = review(&Attributes { verb: "get", version: "v1", resource: "nodes", subresource: "stats", name: "n1", ..Attributes::of(&user) });
        let resource = node.resource_attributes.expect("a resource");
        assert_eq!((resource.resource.as_deref(), resource.subresource.as_deref(), resource.name.as_deref()), (Some("nodes"), Some("stats"), Some("n1")));
        assert_eq!((node.non_resource_attributes, resource.group), (None, None));
        let path = review(&Attributes { verb: "get", path: "/metrics", ..Attributes::of(&user) });
        assert_eq!(path.non_resource_attributes.and_then(|a| a.path).as_deref(), Some("/metrics"));
        assert!(path.resource_attributes.is_none());
    }
}
