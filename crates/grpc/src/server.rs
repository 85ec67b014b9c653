//! Answers.

use crate::frame::{self, Frames};
use crate::{Code, Status};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use http::{Request, Response};
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a method that streams gives.
pub type Answers<A> = BoxStream<'static, Result<A, Status>>;

type Handler = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Result<Answers<Bytes>, Status>> + Send + Sync>;

/// Methods by their paths, `/package.Service/Method`.
#[derive(Default)]
pub struct Server {
    methods: HashMap<&'static str, Handler>,
}

impl Server {
    pub fn new() -> Server {
        Server::default()
    }

    /// Answers a request with one message.
    pub fn unary<Q, A, F>(self, method: &'static str, answer: impl Fn(Q) -> F + Send + Sync + 'static) -> Server
    where
        Q: Message + Default,
        A: Message,
        F: Future<Output = Result<A, Status>> + Send + 'static,
    {
        self.method(method, move |request| {
            let answer = answer(request);
            async move {
                let message = frame::encode(&answer.await?);
                Ok(futures::stream::once(std::future::ready(Ok(message))).boxed())
            }
        })
    }

    /// Answers a request with messages, until they end or the caller goes.
    pub fn server_streaming<Q, A, F>(self, method: &'static str, answer: impl Fn(Q) -> F + Send + Sync + 'static) -> Server
    where
        Q: Message + Default,
        A: Message + 'static,
        F: Future<Output = Result<Answers<A>, Status>> + Send + 'static,
    {
        self.method(method, move |request| {
            let answers = answer(request);
            async move { Ok(answers.await?.map(|a| a.map(|a| frame::encode(&a))).boxed()) }
        })
    }

    fn method<Q, F>(mut self, method: &'static str, answer: impl Fn(Q) -> F + Send + Sync + 'static) -> Server
    where
        Q: Message + Default,
        F: Future<Output = Result<Answers<Bytes>, Status>> + Send + 'static,
    {
        let handler = move |request: Bytes| match frame::decode(request) {
            Ok(request) => answer(request).boxed(),
            Err(status) => std::future::ready(Err(status)).boxed(),
        };
        self.methods.insert(method, Arc::new(handler));
        self
    }

    /// Serves until cancelled; connections end with it.
    pub async fn serve_unix(self, listener: UnixListener, cancel: CancellationToken) {
        let methods = Arc::new(self.methods);
        let mut connections = JoinSet::new();
        while let Some(accepted) = cancel.run_until_cancelled(listener.accept()).await {
            let io = match accepted {
                Ok((io, _)) => io,
                Err(error) => {
                    // Out of file descriptors, most likely: connections that end give some back.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    connections.join_next().await;
                    continue;
                }
            };
            let methods = methods.clone();
            connections.spawn(async move {
                let service = service_fn(move |r| answer(methods.clone(), r).map(Ok::<_, Infallible>));
                if let Err(error) = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await {
                    tracing::debug!(%error, "a gRPC connection ended");
                }
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(methods: Arc<HashMap<&'static str, Handler>>, r: Request<Incoming>) -> Response<Body> {
    let answered = async {
        let method = methods.get(r.uri().path()).ok_or_else(|| Status::new(Code::Unimplemented, format!("unknown method {}", r.uri().path())))?.clone();
        let deadline = r.headers().get("grpc-timeout").and_then(|t| t.to_str().ok()).and_then(timeout);
        let call = async {
            let message = Frames::new(r.into_body()).next().await?.ok_or_else(|| Status::new(Code::Internal, "a request without a message"))?;
            method(message).await
        };
        match deadline {
            None => call.await,
            Some(d) => tokio::time::timeout(d, call).await.unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "context deadline exceeded"))),
        }
    };
    let body = match answered.await {
        // The frames of the answers, then the trailers that say how they ended; after a failure nothing follows.
        Ok(answers) => {
            let all = answers.map(Some).chain(futures::stream::once(std::future::ready(None)));
            let frames = all.scan(false, |over, next| {
                let frame = match next {
                    _ if *over => None,
                    Some(Ok(message)) => Some(Frame::data(message)),
                    Some(Err(status)) => {
                        *over = true;
                        Some(Frame::trailers(Status::trailers(Err(&status))))
                    }
                    None => Some(Frame::trailers(Status::trailers(Ok(())))),
                };
                std::future::ready(frame.map(Ok))
            });
            Body::new(StreamBody::new(frames))
        }
        Err(status) => Body::new(StreamBody::new(futures::stream::once(std::future::ready(Ok(Frame::trailers(Status::trailers(Err(&status)))))))),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}

/// `grpc-timeout`: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let n: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}
