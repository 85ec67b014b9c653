//! Pages for those who look into a running server: `/statusz`, `/flagz`, `/debug/pprof`, `/debug/flags/v`.
//!
//! Authorized as any path; what changes or slows the process goes with `--profiling=false`. Of Go's profiles there is the CPU's; the others
//! are about Go's own runtime and answer 404 by name.

use crate::chain::{Asked, header, read};
use crate::features::Feature;
use crate::paths::GIT_VERSION;
use crate::respond;
use crate::server::Inner;
use http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use keles_api::Status;
use keles_observe::logs;
use keles_observe::pages::{self, Component, Page};
use keles_observe::profile::{self, DEFAULT_SECONDS, SECONDS_MAX};
use keles_registry::Query;
use keles_serve::Body;
use std::time::Duration;

/// A page of a component; `None` when its feature is off.
pub fn page(server: &Inner, asked: &Asked, which: &str) -> Option<Result<Response<Body>, Status>> {
    let (feature, make): (Feature, fn(&Component, &str) -> Result<Page, Status>) = match which {
        "statusz" => (Feature::Statusz, pages::statusz),
        _ => (Feature::Flagz, pages::flagz),
    };
    if !server.config.features.on(feature) {
        return None;
    }
    let mut paths: Vec<String> = crate::paths::roots(server).into_iter().filter_map(|p| Some(format!("/{}", p.split('/').nth(1)?))).collect();
    paths.dedup();
    let component = Component { name: "kube-apiserver", version: GIT_VERSION.trim_start_matches('v'), paths, flags: server.config.flags.clone() };
    Some(make(&component, header(asked.request.headers(), ACCEPT)).map(|(body, media)| {
        let mut r = respond::text(StatusCode::OK, body);
        r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        r
    }))
}

const INDEX: &str = "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/<br>\n<p>\n<a href=\"profile\">profile</a>: CPU profile; the query seconds says how long.<br>\n<a href=\"cmdline\">cmdline</a>: the command line of the process.\n</p>\n</body>\n</html>\n";

/// `/debug/…`
pub async fn serve(server: &Inner, asked: Asked, parts: &[String]) -> Result<Response<Body>, Status> {
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["api_priority_and_fairness", name] => Ok(match server.gate.dump(name, !asked.query.text("includeRequestDetails").is_empty()) {
            Some(table) => respond::text(StatusCode::OK, table),
            None => respond::no_route(),
        }),
        _ if !server.config.profiling => Ok(respond::no_route()),
        of_process => self::of_process(of_process, asked.request, &asked.query).await,
    }
}

/// What lies below `/debug/` of any part: profiles and the verbosity of its process.
pub async fn of_process(parts: &[&str], request: Request<Body>, query: &Query) -> Result<Response<Body>, Status> {
    match parts {
        ["pprof"] => {
            let mut r = respond::text(StatusCode::OK, INDEX);
            r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
            Ok(r)
        }
        ["pprof", "cmdline"] => Ok(respond::text(StatusCode::OK, std::env::args().collect::<Vec<_>>().join("\0"))),
        ["pprof", "profile"] => {
            let seconds = query.get("seconds").map(str::to_owned);
            Ok(cpu(seconds.as_deref()).await)
        }
        ["pprof", name] => Ok(respond::text(StatusCode::NOT_FOUND, format!("Unknown profile: {name} (this server has the CPU profile: profile)\n"))),
        ["flags"] => Ok(respond::text(StatusCode::OK, "/debug/flags/\n\nv\n")),
        ["flags", "v"] => verbosity(request).await,
        _ => Ok(respond::no_route()),
    }
}

async fn cpu(seconds: Option<&str>) -> Response<Body> {
    let seconds = match seconds.map(str::parse::<u64>) {
        None => DEFAULT_SECONDS,
        Some(Ok(s)) if (1..=SECONDS_MAX).contains(&s) => s,
        Some(_) => return respond::text(StatusCode::BAD_REQUEST, format!("seconds must be a number from 1 to {SECONDS_MAX}\n")),
    };
    match profile::cpu(tokio::time::sleep(Duration::from_secs(seconds))).await {
        Ok(bytes) => {
            let mut r = respond::text(StatusCode::OK, bytes);
            r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            r.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"profile\""));
            r
        }
        Err(e) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
    }
}

/// How much is logged from now on: the body of a PUT.
async fn verbosity(request: Request<Body>) -> Result<Response<Body>, Status> {
    if *request.method() != Method::PUT {
        return Ok(respond::text(StatusCode::NOT_ACCEPTABLE, "unsupported http method\n"));
    }
    let body = read(request.into_body()).await?;
    let said = std::str::from_utf8(&body).map_err(|e| e.to_string()).and_then(logs::set_verbosity);
    Ok(match said {
        Ok(said) => respond::text(StatusCode::OK, format!("{said}\n")),
        Err(why) => respond::text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    })
}
