//! Two upgraded connections joined: bytes pass through unchanged, whatever protocol they speak.

use crate::chain::{header, wants_upgrade};
use http::header::{HOST, HeaderMap, HeaderName, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use keles_api::Status;
use keles_serve::Body;
use keles_serve::body;
use tokio_util::sync::CancellationToken;

/// Headers of one hop, and the caller's credentials: they are for us alone. Those of an upgrade go on.
const HOP: &[HeaderName] = &[HOST, TRANSFER_ENCODING, http::header::AUTHORIZATION];

/// Takes the client's side of an upgrade out of its request.
pub fn take(request: &mut Request<Body>) -> Result<OnUpgrade, Status> {
    if !wants_upgrade(request.method(), request.headers()) {
        return Err(Status::bad_request("unable to upgrade: missing upgrade headers in request"));
    }
    let none = || Status::not_implemented("an upgrade of a request without a connection of its own (HTTP/2, or a client of this process)");
    request.extensions_mut().remove::<OnUpgrade>().ok_or_else(none)
}

/// Answers the client as the backend did, and joins the two once both have switched.
pub fn join(client: OnUpgrade, mut answer: Response<Incoming>, stops: &CancellationToken) -> Response<Body> {
    let backend = hyper::upgrade::on(&mut answer);
    let stops = stops.clone();
    tokio::spawn(async move {
        let joined = async {
            let (client, backend) = tokio::try_join!(client, backend)?;
            // Either end may close its half first; both must have done so for the stream to be over.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend)).await;
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            r = joined => if let Err(error) = r { tracing::debug!(%error, "a stream did not open") },
            () = stops.cancelled() => {}
        }
    });
    let mut r = Response::new(body::empty());
    *r.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    copy_headers(answer.headers(), r.headers_mut());
    r
}

pub fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (k, v) in from.iter().filter(|(k, _)| !HOP.contains(k)) {
        to.append(k.clone(), v.clone());
    }
}

/// The same without the headers that manage the connection: for plain requests and answers.
pub fn copy_end_to_end(from: &HeaderMap, to: &mut HeaderMap) {
    let named: Vec<String> = header(from, http::header::CONNECTION).split(',').map(|n| n.trim().to_ascii_lowercase()).collect();
    const MANAGING: &[&str] = &["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "content-length"];
    for (k, v) in from.iter().filter(|(k, _)| !HOP.contains(k) && !MANAGING.contains(&k.as_str()) && !named.iter().any(|n| n == k.as_str())) {
        to.append(k.clone(), v.clone());
    }
}
