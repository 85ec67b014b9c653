//! What goes with a request as it is worked on: its place in a trace, and how long it waited for others.
//!
//! Set once a request with [`scope`]; whatever runs in the same task reads it, without being handed anything. Outside a request nothing is
//! there, and all of this does nothing.

use crate::trace::{Context, Span};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::time::Duration;

tokio::task_local! {
    static CURRENT: Current;
}

#[derive(Default)]
struct Current {
    span: RefCell<Option<Span>>,
    waited: Cell<Duration>,
}

/// Runs a request's work; with what came of it, how much of the time it waited for others.
pub async fn scope<F: Future>(work: F) -> (F::Output, Duration) {
    CURRENT
        .scope(Current::default(), async {
            let done = work.await;
            (done, CURRENT.with(|c| c.waited.get()))
        })
        .await
}

/// Adds time that is somebody else's: a webhook's, a queue's.
pub fn waited(time: Duration) {
    let _ = CURRENT.try_with(|c| c.waited.set(c.waited.get() + time));
}

/// Makes a span the request's: what begins from now on is within it.
pub fn begin(span: Option<Span>) {
    if span.is_some() {
        let _ = CURRENT.try_with(|c| c.span.replace(span));
    }
}

/// Ends the request's span with the answer's code.
pub fn end(code: u16) {
    const SERVER_ERROR: u16 = 500;
    let span = CURRENT.try_with(|c| c.span.take()).ok().flatten();
    if let Some(mut span) = span {
        span.attribute("http.response.status_code", code);
        if code >= SERVER_ERROR {
            span.fail();
        }
    }
}

/// Where the request is in its trace.
pub fn context() -> Option<Context> {
    CURRENT.try_with(|c| c.span.borrow().as_ref().map(|s| s.context)).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_knows_how_long_it_waited_for_others() {
        waited(Duration::from_secs(1));
        let (_, waited_for) = scope(async {
            waited(Duration::from_millis(5));
            tokio::task::yield_now().await;
            waited(Duration::from_millis(2));
        })
        .await;
        assert_eq!(waited_for, Duration::from_millis(7));
        assert_eq!(context(), None);
    }
}
