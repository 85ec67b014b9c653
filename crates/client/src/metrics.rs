//! `rest_client_*`: what the clients of this process asked of API servers, under upstream's names.

use http::{Request, Response};
use keles_observe::metrics::{Collect, CounterVec, HistogramVec, alpha, register};
use kube::client::Body;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

const SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
/// What stands for the code of a request that was not answered.
const NO_ANSWER: &str = "<error>";

static REQUESTS: CounterVec<3> = CounterVec::new(alpha("rest_client_requests_total", "Requests to API servers, by HTTP code, host and method."), ["code", "host", "method"]);
static DURATION: HistogramVec<2> =
    HistogramVec::new(alpha("rest_client_request_duration_seconds", "Time until an API server begins to answer, in seconds, by host and verb."), ["host", "verb"], SECONDS);
static FAMILIES: &[&dyn Collect] = &[&REQUESTS, &DURATION];

/// Counts what goes through it.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    host: Arc<str>,
}

/// Makes [`Counted`] of any transport to a host: requests name it only further down.
#[derive(Clone, Debug)]
pub struct Counting(Arc<str>);

impl Counting {
    pub fn host(host: &str) -> Counting {
        Counting(host.into())
    }
    /// Where a request is a function call.
    pub fn in_process() -> Counting {
        Counting::host("in-process")
    }
}

impl<S> tower::Layer<S> for Counting {
    type Service = Counted<S>;
    fn layer(&self, inner: S) -> Counted<S> {
        register(FAMILIES);
        Counted { inner, host: self.0.clone() }
    }
}

impl<S, B> tower::Service<Request<Body>> for Counted<S>
where
    S: tower::Service<Request<Body>, Response = Response<B>> + 'static,
    S::Future: Send + 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }
    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.method().clone();
        let host = self.host.clone();
        let answering = self.inner.call(request);
        Box::pin(async move {
            let began = Instant::now();
            let answer = answering.await;
            DURATION.with([&host, method.as_str()]).observe_seconds(began.elapsed());
            let code = answer.as_ref().map(|r| r.status());
            REQUESTS.with([code.as_ref().map_or(NO_ANSWER, |c| c.as_str()), &host, method.as_str()]).increment();
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_observe::metrics::{Format, render};
    use std::convert::Infallible;
    use tower::{Layer, ServiceExt};

    #[tokio::test]
    async fn requests_are_counted_by_code_host_and_method() {
        let answers = tower::service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::builder().status(404).body(()).unwrap()) });
        let request = Request::delete("/api/v1/pods").body(Body::empty()).unwrap();
        Counting::host("h.example:6443").layer(answers).oneshot(request).await.unwrap();
        let text = render(Format::Text, &[]);
        assert!(text.contains("rest_client_requests_total{code=\"404\",host=\"h.example:6443\",method=\"DELETE\"} 1\n"), "{text}");
        assert!(text.contains("rest_client_request_duration_seconds_count{host=\"h.example:6443\",verb=\"DELETE\"} 1\n"), "{text}");
    }
}
