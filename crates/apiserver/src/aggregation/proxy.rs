//! Requests of group-versions that another server serves: handed on with the front-proxy certificate and the caller's name.
//!
//! Authentication and authorization are done. Bodies stream both ways, upgrades pass. Texts: k8s.io/kube-aggregator/pkg/apiserver/handler_proxy.go.

use super::backend::{Remote, identify};
use crate::chain::{Asked, wants_upgrade};
use crate::respond;
use crate::server::Inner;
use crate::upgrade;
use http::header::LOCATION;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use keles_api::Status;
use keles_auth::User;
use keles_serve::{Body, BoxError, body};

pub async fn serve(server: &Inner, remote: &Remote, asked: Asked) -> Result<Response<Body>, Status> {
    if !remote.is_available() {
        return Ok(unavailable());
    }
    let mut request = asked.request;
    let upgraded = if wants_upgrade(request.method(), request.headers()) { Some(upgrade::take(&mut request)?) } else { None };
    let (parts, body) = request.into_parts();
    let mut onward = Request::new(body);
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = parts.uri.path_and_query().map_or_else(|| "/".parse(), |p| p.as_str().parse()).map_err(|_| Status::bad_request("the path is not one"))?;
    if upgraded.is_some() {
        upgrade::copy_headers(&parts.headers, onward.headers_mut());
    } else {
        upgrade::copy_end_to_end(&parts.headers, onward.headers_mut());
    }
    identify(onward.headers_mut(), &asked.user);
    let Ok(to) = remote.resolve(server) else { return Ok(unavailable()) };
    let answer = match remote.send(&to, onward).await {
        Ok(a) => a,
        Err(e) => return Ok(respond::text(StatusCode::SERVICE_UNAVAILABLE, format!("error trying to reach service: {e}\n"))),
    };
    match upgraded {
        Some(client) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => Ok(upgrade::join(client, answer, &server.stops)),
        _ => Ok(hand_back(answer)),
    }
}

/// A document of the server's OpenAPI, asked for in our own name: who may read ours may read all of it.
pub async fn document(server: &Inner, remote: &Remote, mut asked: Asked) -> Result<Response<Body>, Status> {
    asked.user = std::sync::Arc::new(User { name: "system:aggregator".into(), ..User::default() });
    let (mut parts, _) = asked.request.into_parts();
    parts.headers.remove(http::header::CONNECTION);
    asked.request = Request::from_parts(parts, body::empty());
    serve(server, remote, asked).await
}

fn unavailable() -> Response<Body> {
    respond::text(StatusCode::SERVICE_UNAVAILABLE, "service unavailable\n")
}

fn hand_back(answer: Response<hyper::body::Incoming>) -> Response<Body> {
    // A redirect would send the client, with its credentials, to where the other server likes.
    if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) {
        return respond::text(StatusCode::BAD_GATEWAY, "the backend attempted to redirect this request, which is not permitted");
    }
    let (parts, body) = answer.into_parts();
    let mut r = Response::new(body.map_err(BoxError::from).boxed_unsync());
    *r.status_mut() = parts.status;
    upgrade::copy_end_to_end(&parts.headers, r.headers_mut());
    r
}
