//! What the API server counts, under upstream's names: `/metrics` and `/metrics/slis`.
//!
//! One table, [`FAMILIES`]; requests are counted through [`requests::Series`], which a request looks up once. What can be read off the
//! server when somebody asks (objects, revisions, sizes) is in [`state`], and costs nothing in between.

pub mod checks;
pub mod requests;
mod state;

use crate::chain::{Asked, header};
use crate::server::Inner;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use keles_api::Status;
use keles_auth::User;
use keles_observe::metrics::{Collect, Counter, CounterVec, Format, Histogram, HistogramVec, alpha, register, render, stable};
use keles_serve::Body;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Upper bounds of most durations that are not a request's, in seconds.
const SHORT_SECONDS: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
const WEBHOOK_SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];

pub static AUTHENTICATION_ATTEMPTS: CounterVec<1> = CounterVec::new(alpha("authentication_attempts", "Attempts to authenticate, by what came of them."), ["result"]);
pub static AUTHENTICATION_SECONDS: HistogramVec<1> =
    HistogramVec::new(alpha("authentication_duration_seconds", "Time to authenticate, in seconds, by what came of it."), ["result"], SHORT_SECONDS);
pub static AUTHENTICATED_REQUESTS: CounterVec<1> =
    CounterVec::new(alpha("authenticated_user_requests", "Requests of users, by the user's name; all but a few are counted as other."), ["username"]);
pub static AUTHORIZATION_ATTEMPTS: CounterVec<1> = CounterVec::new(alpha("authorization_attempts_total", "Decisions about requests, by what was decided."), ["result"]);
pub static AUTHORIZATION_SECONDS: HistogramVec<1> =
    HistogramVec::new(alpha("authorization_duration_seconds", "Time to decide about a request, in seconds, by what was decided."), ["result"], SHORT_SECONDS);

pub static AUDIT_EVENTS: CounterVec<0> = CounterVec::new(alpha("apiserver_audit_event_total", "Audit events sent to the sinks."), []);
pub static AUDIT_LEVELS: CounterVec<1> = CounterVec::new(alpha("apiserver_audit_level_total", "Requests by the level the audit policy gives them."), ["level"]);

pub static WEBHOOK_SECONDS_TAKEN: HistogramVec<4> = HistogramVec::new(
    stable(
        "apiserver_admission_webhook_admission_duration_seconds",
        "Time of an admission webhook, in seconds, by its name, operation, type (admit or validate) and whether it refused.",
    ),
    ["name", "operation", "rejected", "type"],
    WEBHOOK_SECONDS,
);
pub static WEBHOOK_REQUESTS: CounterVec<5> = CounterVec::new(
    alpha("apiserver_admission_webhook_request_total", "Calls of admission webhooks, by name, operation, type, HTTP code and whether they refused."),
    ["code", "name", "operation", "rejected", "type"],
);
pub static WEBHOOK_FAIL_OPEN: CounterVec<2> =
    CounterVec::new(alpha("apiserver_admission_webhook_fail_open_count", "Calls of admission webhooks that failed and were ignored, by name and type."), ["name", "type"]);

/// Everything counted here as it happens.
pub static FAMILIES: &[&dyn Collect] = &[
    &requests::TOTAL,
    &requests::SECONDS,
    &requests::SLI_SECONDS,
    &requests::SIZES,
    &requests::LONG_RUNNING,
    &requests::IN_FLIGHT,
    &requests::TERMINATIONS,
    &requests::DEPRECATED,
    &AUTHENTICATION_ATTEMPTS,
    &AUTHENTICATION_SECONDS,
    &AUTHENTICATED_REQUESTS,
    &AUTHORIZATION_ATTEMPTS,
    &AUTHORIZATION_SECONDS,
    &AUDIT_EVENTS,
    &AUDIT_LEVELS,
    &WEBHOOK_SECONDS_TAKEN,
    &WEBHOOK_REQUESTS,
    &WEBHOOK_FAIL_OPEN,
];

/// A few series that every request counts, looked up once.
struct Outcomes {
    attempts: &'static Counter,
    seconds: &'static Histogram,
}

macro_rules! outcome {
    ($attempts:ident, $seconds:ident, $result:literal) => {{
        static ROW: OnceLock<Outcomes> = OnceLock::new();
        ROW.get_or_init(|| Outcomes { attempts: $attempts.with([$result]), seconds: $seconds.with([$result]) })
    }};
}

/// Counts an attempt to authenticate.
pub fn authenticated(found: &Result<Arc<User>, Status>, took: Duration) {
    let row = match found {
        Ok(_) => outcome!(AUTHENTICATION_ATTEMPTS, AUTHENTICATION_SECONDS, "success"),
        Err(_) => outcome!(AUTHENTICATION_ATTEMPTS, AUTHENTICATION_SECONDS, "failure"),
    };
    row.attempts.increment();
    row.seconds.observe_seconds(took);
    if let Ok(user) = found {
        AUTHENTICATED_REQUESTS.with([shown_user(&user.name)]).increment();
    }
}

/// Upstream names a few users of the control plane and calls the rest `other`: names are no labels.
fn shown_user(name: &str) -> &str {
    match name {
        "admin" | "system:anonymous" | "system:apiserver" | "system:kube-proxy" | "system:kube-controller-manager" | "system:kube-scheduler" => name,
        _ => "other",
    }
}

/// Counts a decision about a request.
pub fn authorized(allowed: bool, took: Duration) {
    let row = if allowed { outcome!(AUTHORIZATION_ATTEMPTS, AUTHORIZATION_SECONDS, "allowed") } else { outcome!(AUTHORIZATION_ATTEMPTS, AUTHORIZATION_SECONDS, "denied") };
    row.attempts.increment();
    row.seconds.observe_seconds(took);
}

pub fn start() {
    register(FAMILIES);
}

/// Answers `/metrics` in the format the scraper asks for.
pub fn serve(server: &Inner, asked: &Asked) -> Response<Body> {
    let format = format(asked);
    text(format, render(format, &[&state::State(server), &server.gate]))
}

/// Answers `/metrics/slis`: the health checks alone.
pub fn serve_slis(asked: &Asked) -> Response<Body> {
    let format = format(asked);
    text(format, checks::render(format))
}

fn format(asked: &Asked) -> Format {
    Format::accepted(header(asked.request.headers(), ACCEPT))
}

fn text(format: Format, text: String) -> Response<Body> {
    let mut r = crate::respond::text(StatusCode::OK, text);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    r
}
