//! How long things take: requests, watches, the way down. Settings, and the time a request has.

use crate::{health, respond};
use http::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body::Body as _;
use keles_api::Status;
use keles_api::status::Details;
use keles_registry::{Lifetimes, Query};
use keles_serve::body::{self, Body};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// `--request-timeout` and its neighbours, with upstream's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Most time of a request that is not long-running.
    pub request_timeout: Duration,
    /// Shortest of the random lengths of watches that name none; the longest is twice that.
    pub min_request_timeout: Duration,
    /// Queues and levels by objects; off: only the two limits below.
    pub priority_and_fairness: bool,
    /// Requests at once that read, and that write; with priority and fairness their sum is shared out. 0 is no limit without it.
    pub max_requests_in_flight: u32,
    pub max_mutating_requests_in_flight: u32,
    /// How long the server goes on, saying that it is not ready, before it takes no new connections.
    pub shutdown_delay: Duration,
    /// On the way down new requests are asked to come again elsewhere (429) until the open ones are answered, instead of finding no listener.
    pub send_retry_after: bool,
    /// Part of HTTP/2 requests after which the client is asked to connect anew, so that load spreads; 0 to 0.02.
    pub goaway_chance: f64,
    /// How long after its start the server counts as live though it has not finished starting.
    pub livez_grace_period: Duration,
    /// How long Events live after their last write; zero: for ever.
    pub event_ttl: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1800),
            priority_and_fairness: true,
            max_requests_in_flight: 400,
            max_mutating_requests_in_flight: 200,
            shutdown_delay: Duration::ZERO,
            send_retry_after: false,
            goaway_chance: 0.0,
            livez_grace_period: Duration::ZERO,
            event_ttl: Duration::from_secs(3600),
        }
    }
}

impl Options {
    pub(crate) fn lifetimes(&self) -> Lifetimes {
        Lifetimes { event_ttl: self.event_ttl, watch_min: self.min_request_timeout, ..Lifetimes::default() }
    }

    /// The time of a request that asks with `?timeout=`: no more than the server's.
    pub(crate) fn time_of(&self, query: &Query) -> Result<Duration, Status> {
        let asked = match query.get("timeout").filter(|t| !t.is_empty()) {
            None => return Ok(self.request_timeout),
            Some(text) => duration(text).map_err(|why| Status::bad_request(format!("invalid timeout specified in the request URL - {why}")))?,
        };
        Ok(if asked.is_zero() { self.request_timeout } else { asked.min(self.request_timeout) })
    }
}

/// Knows the requests that came over the wire and are being worked on; once shut, lets no more in but those that ask about health.
#[derive(Default)]
pub(crate) struct Door(TaskTracker);

impl Door {
    /// Inside for as long as the token lives. `Err`: the refusal to answer with.
    pub fn enter(&self, request_path: &str) -> Result<TaskTrackerToken, Response<Body>> {
        // Counted before the look at the door, so that who shuts it waits for whoever got past.
        let inside = self.0.token();
        if self.0.is_closed() && health::path(request_path).is_none() {
            return Err(come_again());
        }
        Ok(inside)
    }
    /// Lets no more in, and waits for those inside, but not longer than `limit`.
    pub async fn shut(&self, limit: Duration) {
        self.0.close();
        let _ = tokio::time::timeout(limit, self.0.wait()).await;
    }
}

/// 429 in upstream's words; the connection is closed, so that the next goes elsewhere.
fn come_again() -> Response<Body> {
    const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");
    let mut r = respond::text(StatusCode::TOO_MANY_REQUESTS, "The apiserver is shutting down, please try again later.\n");
    r.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    r.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    r
}

/// 504 in upstream's words.
pub(crate) fn timed_out() -> Status {
    Status::timeout("Timeout: request did not complete within the allotted timeout").with_details(Details::default())
}

/// The body of a stream, ended when the server `stops`.
pub(crate) fn until(b: Body, stops: &CancellationToken) -> Body {
    if b.size_hint().exact().is_some() { b } else { body::until(b, stops.clone()) }
}

/// A duration as Go reads it, with its words for what is none; one below zero is zero.
fn duration(text: &str) -> Result<Duration, String> {
    let negative = text.strip_prefix('-');
    let unsigned = negative.or_else(|| text.strip_prefix('+')).unwrap_or(text);
    match keles_auth::durations::parse(unsigned) {
        Ok(d) => Ok(if negative.is_some() { Duration::ZERO } else { d }),
        Err(_) => Err(match unsigned.strip_suffix(|c: char| c.is_ascii_digit() || c == '.') {
            Some(_) if unsigned.contains(|c: char| c.is_ascii_digit()) && unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
                format!("time: missing unit in duration {text:?}")
            }
            _ => match unit(unsigned) {
                Some(u) => format!("time: unknown unit {u:?} in duration {text:?}"),
                None => format!("time: invalid duration {text:?}"),
            },
        }),
    }
}

/// What stands after the first number, where there is one.
fn unit(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let unit = rest.split(|c: char| c.is_ascii_digit() || c == '.').next().unwrap_or_default();
    (rest.len() < text.len() && !unit.is_empty()).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_shut_door_refuses_waits_for_who_is_inside_and_still_answers_about_health() {
        let door = Arc::new(Door::default());
        let inside = door.enter("/api/v1/pods").ok().expect("open");
        let shutting = tokio::spawn({
            let door = door.clone();
            async move { door.shut(Duration::from_secs(3600)).await }
        });
        while !door.0.is_closed() {
            tokio::task::yield_now().await;
        }
        let refused = door.enter("/api/v1/pods").err().expect("shut");
        let header = |name| refused.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        assert_eq!((refused.status().as_u16(), header("retry-after"), header("connection")), (429, "5", "close"));
        drop(door.enter("/readyz/ping").ok().expect("health is always told"));
        assert!(!shutting.is_finished(), "one is still inside");
        drop(inside);
        shutting.await.unwrap();
    }

    #[test]
    fn a_request_has_the_time_it_asks_for_but_not_more_than_the_server_gives() {
        let o = Options { request_timeout: Duration::from_secs(60), ..Options::default() };
        let time = |q: &str| o.time_of(&Query::parse(q)).map(|d| d.as_millis()).map_err(|s| (s.code, s.message));
        for (q, ms) in [("", 60_000), ("timeout=", 60_000), ("timeout=0", 60_000), ("timeout=0s", 60_000), ("timeout=250ms", 250), ("timeout=5m", 60_000), ("timeout=-3s", 60_000)]
        {
            assert_eq!(time(q), Ok(ms), "{q}");
        }
        let bad = |why: &str| Err((400, format!("invalid timeout specified in the request URL - time: {why}")));
        assert_eq!(time("timeout=34"), bad("missing unit in duration \"34\""));
        assert_eq!(time("timeout=foo"), bad("invalid duration \"foo\""));
        assert_eq!(time("timeout=3y"), bad("unknown unit \"y\" in duration \"3y\""));
    }
}
