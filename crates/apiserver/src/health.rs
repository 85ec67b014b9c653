//! `/healthz`, `/livez`, `/readyz`, with `?verbose`, `?exclude=` and a path a check.

use crate::respond;
use http::{Response, StatusCode};
pub use keles_observe::health::Check;
use keles_registry::Query;
use keles_serve::Body;

/// The endpoint that a path asks, as metrics name it.
pub fn path(path: &str) -> Option<&'static str> {
    ["/healthz", "/livez", "/readyz"].into_iter().find(|p| path.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Answers for `/<endpoint>` and `/<endpoint>/<check>`. `None`: no such check.
pub fn answer(endpoint: &str, check: &str, checks: &[Check], query: &Query) -> Option<Response<Body>> {
    let excluded: Vec<&str> = query.all("exclude").collect();
    let (code, text) = keles_observe::health::answer(endpoint, check, checks, &excluded, query.get("verbose").is_some())?;
    Some(respond::text(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), text))
}
