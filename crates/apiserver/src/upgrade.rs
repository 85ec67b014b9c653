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
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const BUFFER_BYTES: usize = 16 << 10;
/// How long a client may take to close after the backend has.
const LINGER: Duration = Duration::from_secs(10);
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
            pass(TokioIo::new(client), TokioIo::new(backend)).await;
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

/// Moves bytes both ways. Either end may close its half first. A backend that is gone is no reason to hold back what it said before: the
/// client still gets that and what it sends is taken, so that its connection is not reset over it; a client that is gone ends all.
async fn pass(client: impl AsyncRead + AsyncWrite, backend: impl AsyncRead + AsyncWrite) {
    let ((mut from_client, mut to_client), (mut from_backend, mut to_backend)) = (tokio::io::split(client), tokio::io::split(backend));
    let asking = async {
        let stopped = one_way(&mut from_client, &mut to_backend).await;
        if stopped == Stopped::Writing {
            let _ = tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await;
        }
        stopped
    };
    let answering = one_way(&mut from_backend, &mut to_client);
    tokio::pin!(asking, answering);
    tokio::select! {
        stopped = &mut asking => if stopped != Stopped::Reading {
            answering.await;
        },
        stopped = &mut answering => if stopped != Stopped::Writing {
            let _ = tokio::time::timeout(LINGER, asking).await;
        },
    }
}

/// Why bytes no longer move one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    /// The sender closed its half, and so did we.
    End,
    /// The sender is gone.
    Reading,
    /// The receiver is gone.
    Writing,
}

async fn one_way(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> Stopped {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let stopped = match from.read(&mut buffer).await {
            Ok(0) => Stopped::End,
            Ok(n) if to.write_all(&buffer[..n]).await.is_ok() && to.flush().await.is_ok() => continue,
            Ok(_) => return Stopped::Writing,
            Err(_) => Stopped::Reading,
        };
        let _ = to.shutdown().await;
        return stopped;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let there = TcpStream::connect(listener.local_addr().expect("an address"));
        let (there, here) = tokio::join!(there, listener.accept());
        (there.expect("connects"), here.expect("accepted").0)
    }

    #[tokio::test]
    async fn what_a_backend_said_before_it_went_reaches_a_client_that_still_sends() {
        let ((mut client, ours), (theirs, mut backend)) = (pair().await, pair().await);
        let passing = tokio::spawn(pass(ours, theirs));
        backend.write_all(b"the end").await.expect("written");
        drop(backend);
        let mut got = [0; 7];
        client.read_exact(&mut got).await.expect("arrives");
        assert_eq!(&got, b"the end");
        client.write_all(&vec![1; 1 << 20]).await.expect("is taken, though nobody wants it");
        assert_eq!(client.read(&mut got).await.expect("no reset"), 0);
        drop(client);
        passing.await.expect("ends with the client");
    }

    #[tokio::test]
    async fn a_client_may_close_its_half_and_still_hear_the_answer() {
        let ((mut client, ours), (theirs, mut backend)) = (pair().await, pair().await);
        let passing = tokio::spawn(pass(ours, theirs));
        client.write_all(b"ask").await.expect("written");
        client.shutdown().await.expect("closed");
        let mut got = Vec::new();
        backend.read_to_end(&mut got).await.expect("the end is passed on");
        backend.write_all(b"answer").await.expect("written");
        drop(backend);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("arrives");
        assert_eq!((got.as_slice(), answer.as_str()), (&b"ask"[..], "answer"));
        passing.await.expect("ends");
    }
}
