//! Who asks the agent's API and whether they may: client certificates of the cluster's authority and bearer tokens, judged by the API server.
//!
//! Entry points: [`Access::caller`] once a connection, [`Access::admit`] once a request. Source: kubernetes pkg/kubelet/server/auth.go and
//! server.go (texts), KEP-2862 (fine-grained subresources with a fall back to `nodes/proxy`). Invariant: nothing is answered unasked,
//! `/healthz` included. system:masters are not asked about, as everywhere.

use super::text;
use http::{HeaderMap, Method, Response, StatusCode};
use keles_auth::delegated::{Delegated, certificate_user};
use keles_auth::{Attributes, User};
use keles_serve::Body;
use keles_serve::tls::ClientVerifier;
use rustls::pki_types::CertificateDer;

pub struct Access {
    verifier: ClientVerifier,
    reviews: Delegated,
    node: String,
    /// Who shows nothing is system:anonymous rather than refused.
    anonymous: bool,
}

/// What a connection's certificates say.
#[derive(Clone)]
pub struct Caller {
    user: Option<User>,
}

/// Paths with a subresource of their own, in front of what else they need: (path, subresource, `nodes/proxy` is enough too).
const PATHS: &[(&str, &str, bool)] = &[
    ("/pods", "pods", true),
    ("/runningpods", "pods", true),
    ("/healthz", "healthz", true),
    ("/configz", "configz", true),
    ("/stats", "stats", false),
    ("/metrics", "metrics", false),
    ("/logs", "log", false),
    ("/checkpoint", "checkpoint", false),
    ("/statusz", "statusz", false),
    ("/flagz", "flagz", false),
];
const PROXY: &str = "proxy";

/// Subresources of the node, any of which is enough for a path.
fn subresources(path: &str) -> Vec<&'static str> {
    let below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match PATHS.iter().find(|(root, _, _)| below(root)) {
        Some((_, own, true)) => vec![own, PROXY],
        Some((_, own, false)) => vec![own],
        None => vec![PROXY],
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

impl Access {
    pub fn new(verifier: ClientVerifier, reviews: Delegated, node: String, anonymous: bool) -> Self {
        Self { verifier, reviews, node, anonymous }
    }

    pub fn caller(&self, certificates: &[CertificateDer<'static>]) -> Caller {
        Caller { user: certificate_user(&self.verifier, certificates).ok().flatten() }
    }

    /// Ok: the request may be answered. Otherwise the answer.
    pub async fn admit(&self, caller: &Caller, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Response<Body>> {
        let unauthorized = || text(StatusCode::UNAUTHORIZED, "Unauthorized");
        let user = match &caller.user {
            Some(user) => user.clone(),
            None => match self.reviews.token_user(headers).await {
                Ok(Some(user)) => user,
                Ok(None) if self.anonymous => keles_auth::anonymous(),
                _ => return Err(unauthorized()),
            },
        };
        if user.groups.iter().any(|group| group == keles_auth::MASTERS) {
            return Ok(());
        }
        let (verb, subresources) = (verb(method), subresources(path));
        let said = |what: &str| format!("{what} (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])", user.name, subresources.join(" "));
        for subresource in &subresources {
            let asked = Attributes { verb, version: "v1", resource: "nodes", subresource, name: &self.node, path, ..Attributes::of(&user) };
            match self.reviews.decide(&asked).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(_)) => {}
                Err(error) => {
                    tracing::warn!(%error, user = user.name, "the API server did not say whether a user may");
                    return Err(text(StatusCode::INTERNAL_SERVER_ERROR, said("Authorization error")));
                }
            }
        }
        Err(text(StatusCode::FORBIDDEN, said("Forbidden")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::AUTHORIZATION;
    use http_body_util::BodyExt;
    use k8s_openapi::api::authentication::v1::TokenReview;
    use k8s_openapi::api::authorization::v1::SubjectAccessReview;
    use keles_auth::delegated::Kept;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_path_has_its_subresources() {
        let of = |path: &str| subresources(path).join(" ");
        assert_eq!(
            (of("/pods"), of("/runningpods/"), of("/healthz/ping"), of("/configz")),
            ("pods proxy".into(), "pods proxy".into(), "healthz proxy".into(), "configz proxy".into())
        );
        assert_eq!((of("/stats/summary"), of("/metrics/cadvisor"), of("/logs/syslog")), ("stats".into(), "metrics".into(), "log".into()));
        assert_eq!((of("/exec/ns/p/c"), of("/containerLogs/ns/p/c"), of("/podsecrets"), of("/")), ("proxy".into(), "proxy".into(), "proxy".into(), "proxy".into()));
        assert_eq!((of("/checkpoint/a/b/c"), of("/statusz"), of("/flagz")), ("checkpoint".into(), "statusz".into(), "flagz".into()));
    }

    /// An API server that knows one token, `good`, whose user may what `may` says; it counts what it was asked.
    fn api_server(may: fn(&str) -> bool, asked: Arc<AtomicUsize>) -> kube::Client {
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let asked = asked.clone();
            async move {
                asked.fetch_add(1, Ordering::SeqCst);
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.expect("a whole body").to_bytes();
                let answer: Value = if path.ends_with("tokenreviews") {
                    let review: TokenReview = serde_json::from_slice(&body).expect("a review");
                    let user = json!({"username": "system:serviceaccount:default:m", "groups": ["system:serviceaccounts"]});
                    json!({"spec": review.spec, "status": {"authenticated": review.spec.token == "good", "user": user}})
                } else {
                    let review: SubjectAccessReview = serde_json::from_slice(&body).expect("a review");
                    let resource = review.spec.resource_attributes.clone().expect("a resource");
                    assert_eq!((resource.resource.as_deref(), resource.name.as_deref()), (Some("nodes"), Some("n1")));
                    json!({"spec": review.spec, "status": {"allowed": may(resource.subresource.as_deref().unwrap_or_default())}})
                };
                Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(answer.to_string().into_bytes())))
            }
        });
        kube::Client::new(service, "default")
    }

    fn access(may: fn(&str) -> bool, asked: &Arc<AtomicUsize>) -> Access {
        let ca = keles_pki::self_signed("ca", &keles_pki::Names { dns: vec![], ips: vec![] }).expect("a certificate");
        let der: Vec<Vec<u8>> = ca.certificate_der().expect("parses").iter().map(|der| der.to_vec()).collect();
        let verifier = keles_serve::tls::client_verifier(&der).expect("a verifier");
        Access::new(verifier, Delegated::new(api_server(may, asked.clone()), Kept::OF_NODES), "n1".into(), false)
    }

    async fn ask(access: &Access, path: &str, token: &str) -> (u16, String) {
        let mut headers = HeaderMap::new();
        if !token.is_empty() {
            headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().expect("a header"));
        }
        match access.admit(&access.caller(&[]), &Method::GET, path, &headers).await {
            Ok(()) => (200, String::new()),
            Err(answer) => {
                let (parts, body) = answer.into_parts();
                (parts.status.as_u16(), String::from_utf8_lossy(&body.collect().await.expect("text").to_bytes()).trim_end().to_owned())
            }
        }
    }

    #[tokio::test]
    async fn tokens_are_reviewed_and_rights_asked_for_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let access = access(|subresource| subresource == "stats" || subresource == "proxy", &asked);
        assert_eq!(ask(&access, "/healthz", "").await, (401, "Unauthorized".into()));
        assert_eq!(ask(&access, "/stats/summary", "bad").await, (401, "Unauthorized".into()));
        assert_eq!(ask(&access, "/stats/summary", "good").await.0, 200);
        let forbidden = "Forbidden (user=system:serviceaccount:default:m, verb=get, resource=nodes, subresource(s)=[metrics])";
        assert_eq!(ask(&access, "/metrics/resource", "good").await, (403, forbidden.into()));
        assert_eq!(ask(&access, "/pods", "good").await.0, 200, "nodes/proxy is enough where nodes/pods is missing");
        let before = asked.load(Ordering::SeqCst);
        for path in ["/stats/summary", "/metrics", "/pods"] {
            ask(&access, path, "good").await;
        }
        ask(&access, "/stats/summary", "bad").await;
        assert_eq!(asked.load(Ordering::SeqCst), before, "answers are kept");
    }
}
