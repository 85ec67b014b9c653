//! `/healthz`, `/livez`, `/readyz`, with `?verbose`, `?exclude=` and a path a check.

use crate::respond;
use http::{Response, StatusCode};
use keles_registry::Query;
use keles_serve::Body;

/// The outcome of one check.
pub struct Check {
    pub name: &'static str,
    pub failure: Option<String>,
}

/// The endpoint that a path asks, as metrics name it.
pub fn path(path: &str) -> Option<&'static str> {
    ["/healthz", "/livez", "/readyz"].into_iter().find(|p| path.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Answers for `/<endpoint>` and `/<endpoint>/<check>`. `None`: no such check.
pub fn answer(endpoint: &str, check: &str, checks: &[Check], query: &Query) -> Option<Response<Body>> {
    if !check.is_empty() {
        let c = checks.iter().find(|c| c.name == check)?;
        return Some(match &c.failure {
            None => respond::text(StatusCode::OK, "ok"),
            Some(why) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
        });
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut lines = String::new();
    let mut failed = Vec::new();
    for c in checks {
        if excluded.contains(&c.name) {
            lines.push_str(&format!("[+]{} excluded: ok\n", c.name));
        } else if c.failure.is_some() {
            failed.push(c.name);
            lines.push_str(&format!("[-]{} failed: reason withheld\n", c.name));
        } else {
            lines.push_str(&format!("[+]{} ok\n", c.name));
        }
    }
    for unknown in excluded.iter().filter(|e| !checks.iter().any(|c| c.name == **e)) {
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for \"{unknown}\"\n"));
    }
    Some(if !failed.is_empty() {
        respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{endpoint} check failed\n"))
    } else if query.get("verbose").is_some() {
        respond::text(StatusCode::OK, format!("{lines}{endpoint} check passed\n"))
    } else {
        respond::text(StatusCode::OK, "ok")
    })
}
