//! A gRPC server with `grpc.health.v1.Health` that always says SERVING and counts who asks. It runs in the test: a pod on the node's network has
//! the node's address, so the agent's probe of that pod reaches it.

use http::{HeaderMap, HeaderValue, Response};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::net::TcpListener;

pub struct GrpcHealth {
    pub port: u16,
    pub asked: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl GrpcHealth {
    pub async fn start() -> GrpcHealth {
        let listener = TcpListener::bind("0.0.0.0:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let serving = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let count = count.clone();
                let answer = service_fn(move |_| {
                    count.fetch_add(1, SeqCst);
                    std::future::ready(Ok::<_, Infallible>(serving_status()))
                });
                tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(connection), answer));
            }
        });
        GrpcHealth { port, asked, serving }
    }
}

impl Drop for GrpcHealth {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// HealthCheckResponse{status: SERVING}: an uncompressed message of two bytes, field 1 is 1; the trailers say OK.
fn serving_status() -> Response<StreamBody<impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>>>> {
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let frames = [Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1])), Frame::trailers(trailers)];
    let body = StreamBody::new(futures::stream::iter(frames.map(Ok)));
    Response::builder().header("content-type", "application/grpc").body(body).expect("an answer")
}
