//! Requests by verb, resource, scope and code.
//!
//! A request looks its [`Series`] up once, by labels that are there already; counting it is then a few atomics. Names of resources that
//! are not served are not labels: nobody can make series up.

use crate::path::RequestInfo;
use http::{HeaderMap, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use keles_observe::metrics::{Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramVec, Interned, alpha, stable};
use keles_registry::{PatchType, Query};
use keles_serve::Body;
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

const SECONDS_BOUNDS: &[f64] = &[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
const SLI_BOUNDS: &[f64] = &[0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
const SIZE_BOUNDS_BYTES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// The value of label `component`.
const COMPONENT: &str = "apiserver";

pub static TOTAL: CounterVec<9> = CounterVec::new(
    stable("apiserver_request_total", "Requests by verb, dry run, group, version, resource, subresource, scope, component and HTTP code."),
    ["code", "component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"],
);
pub static SECONDS: HistogramVec<8> = HistogramVec::new(
    stable("apiserver_request_duration_seconds", "Time to answer in seconds, by verb, dry run, group, version, resource, subresource, scope and component."),
    ["component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"],
    SECONDS_BOUNDS,
);
pub static SLI_SECONDS: HistogramVec<7> = HistogramVec::new(
    alpha(
        "apiserver_request_sli_duration_seconds",
        "Time to answer in seconds without that of webhooks and queues, by verb, group, version, resource, subresource, scope and component.",
    ),
    ["component", "group", "resource", "scope", "subresource", "verb", "version"],
    SLI_BOUNDS,
);
pub static SIZES: HistogramVec<7> = HistogramVec::new(
    stable("apiserver_response_sizes", "Size of answers to reads in bytes, by group, version, verb, resource, subresource, scope and component."),
    ["component", "group", "resource", "scope", "subresource", "verb", "version"],
    SIZE_BOUNDS_BYTES,
);
pub static LONG_RUNNING: GaugeVec<7> = GaugeVec::new(
    stable("apiserver_longrunning_requests", "Watches, streams and logs that are open, by verb, group, version, resource, subresource, scope and component."),
    ["component", "group", "resource", "scope", "subresource", "verb", "version"],
);
pub static IN_FLIGHT: GaugeVec<1> =
    GaugeVec::new(stable("apiserver_current_inflight_requests", "Requests being answered, long-running ones aside, by kind (readOnly, mutating)."), ["request_kind"]);
pub static TERMINATIONS: CounterVec<8> = CounterVec::new(
    alpha("apiserver_request_terminations_total", "Requests refused or ended to protect the server, by verb, group, version, resource, subresource, scope, component and code."),
    ["code", "component", "group", "resource", "scope", "subresource", "verb", "version"],
);
pub static DEPRECATED: GaugeVec<5> = GaugeVec::new(
    stable("apiserver_requested_deprecated_apis", "Deprecated APIs that were asked for, by group, version, resource, subresource and the release that removes them."),
    ["group", "removed_release", "resource", "subresource", "version"],
);

/// What the labels of a request are, but for its code.
struct Labels {
    verb: &'static str,
    dry_run: &'static str,
    group: Box<str>,
    version: Box<str>,
    resource: Box<str>,
    subresource: Box<str>,
    scope: &'static str,
}

/// All that is counted of requests with the same labels; each series appears when first counted.
pub struct Series {
    labels: Labels,
    codes: RwLock<Vec<(u16, &'static Counter)>>,
    seconds: OnceLock<&'static Histogram>,
    sli_seconds: OnceLock<&'static Histogram>,
    sizes: OnceLock<&'static Histogram>,
    open: OnceLock<&'static Gauge>,
}

static KNOWN: Interned<Series, 7> = Interned::new();

impl Series {
    /// The series of a request. `served`: whether group, version and resource name something that is served.
    pub fn of(info: &RequestInfo, query: &Query, headers: &HeaderMap, served: bool) -> &'static Series {
        let (group, version, resource, subresource) = match (info.is_resource, served) {
            (true, true) => (info.group.as_str(), info.version.as_str(), info.resource.as_str(), subresource(&info.subresource)),
            _ => ("", "", "", ""),
        };
        let (verb, dry_run, scope) = (verb(info, headers), dry_run(query), scope(info));
        KNOWN.get([verb, dry_run, group, version, resource, subresource, scope], |[_, _, group, version, resource, subresource, _]| {
            let labels = Labels { verb, dry_run, group: group.into(), version: version.into(), resource: resource.into(), subresource: subresource.into(), scope };
            Series { labels, codes: RwLock::default(), seconds: OnceLock::new(), sli_seconds: OnceLock::new(), sizes: OnceLock::new(), open: OnceLock::new() }
        })
    }

    /// Of the paths of health, which upstream shows as subresources.
    pub fn of_path(method: &str, path: &'static str) -> &'static Series {
        let verb = known_verb(method);
        KNOWN.get([verb, "", "", "", "", path, ""], |_| {
            let labels = Labels { verb, dry_run: "", group: "".into(), version: "".into(), resource: "".into(), subresource: path.into(), scope: "" };
            Series { labels, codes: RwLock::default(), seconds: OnceLock::new(), sli_seconds: OnceLock::new(), sizes: OnceLock::new(), open: OnceLock::new() }
        })
    }

    /// Counts a request that is over. `waited`: how much of the time was not ours (webhooks, queues).
    pub fn finished(&self, code: u16, took: Duration, waited: Duration) {
        let l = &self.labels;
        self.code(code).increment();
        let seconds = self.seconds.get_or_init(|| SECONDS.with([COMPONENT, l.dry_run, &l.group, &l.resource, l.scope, &l.subresource, l.verb, &l.version]));
        seconds.observe_seconds(took);
        let sli = self.sli_seconds.get_or_init(|| SLI_SECONDS.with(self.seven()));
        sli.observe_seconds(took.saturating_sub(waited));
        if matches!(code, 429 | 504) {
            TERMINATIONS.with([&code.to_string(), COMPONENT, &l.group, &l.resource, l.scope, &l.subresource, l.verb, &l.version]).increment();
        }
    }

    fn seven(&self) -> [&str; 7] {
        let l = &self.labels;
        [COMPONENT, &l.group, &l.resource, l.scope, &l.subresource, l.verb, &l.version]
    }

    fn code(&self, code: u16) -> &'static Counter {
        let known = |all: &[(u16, &'static Counter)]| all.iter().find(|(c, _)| *c == code).map(|(_, counter)| *counter);
        if let Some(c) = known(&self.codes.read().unwrap_or_else(PoisonError::into_inner)) {
            return c;
        }
        let l = &self.labels;
        let counter = TOTAL.with([&code.to_string(), COMPONENT, l.dry_run, &l.group, &l.resource, l.scope, &l.subresource, l.verb, &l.version]);
        self.codes.write().unwrap_or_else(PoisonError::into_inner).push((code, counter));
        counter
    }

    /// Counts how large an answer to a read is, once it is known: at once, or when the last piece of a list has gone.
    pub fn sized(&'static self, response: Response<Body>) -> Response<Body> {
        if !matches!(self.labels.verb, "GET" | "LIST") || self.labels.resource.is_empty() {
            return response;
        }
        let sizes = self.sizes.get_or_init(|| SIZES.with(self.seven()));
        if let Some(bytes) = response.body().size_hint().exact() {
            sizes.observe(bytes as f64);
            return response;
        }
        let mut sent = Sent { bytes: 0, sizes };
        response.map(|b| {
            b.map_frame(move |frame| {
                sent.add(frame.data_ref().map_or(0, bytes::Bytes::len));
                frame
            })
            .boxed_unsync()
        })
    }
}

/// Notes the bytes that went out when the body is over.
struct Sent {
    bytes: usize,
    sizes: &'static Histogram,
}

impl Sent {
    /// A method, so that a closure takes the whole of it and not the number alone.
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.sizes.observe(self.bytes as f64);
    }
}

/// A request while it is open; counted when it is over. Of a long-running one that is when its body is.
pub struct Open {
    series: &'static Series,
    gauge: &'static Gauge,
    started: Instant,
    /// The answer's code, once there is one.
    pub code: u16,
    pub waited: Duration,
}

impl Open {
    pub fn new(series: &'static Series, long: bool) -> Open {
        let gauge = if long { series.open.get_or_init(|| LONG_RUNNING.with(series.seven())) } else { in_flight(series.labels.verb) };
        gauge.add(1.0);
        // Somebody who goes away before the answer is 499 in other servers' logs; upstream counts such a request as 0.
        Open { series, gauge, started: Instant::now(), code: 0, waited: Duration::ZERO }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.add(-1.0);
        self.series.finished(self.code, self.started.elapsed(), self.waited);
    }
}

fn in_flight(verb: &str) -> &'static Gauge {
    static READS: OnceLock<&Gauge> = OnceLock::new();
    static WRITES: OnceLock<&Gauge> = OnceLock::new();
    match verb {
        "GET" | "LIST" | "WATCH" | "HEAD" | "OPTIONS" | "CONNECT" => READS.get_or_init(|| IN_FLIGHT.with(["readOnly"])),
        _ => WRITES.get_or_init(|| IN_FLIGHT.with(["mutating"])),
    }
}

/// Upstream's name of what is done; unknown methods are `other`.
fn verb(info: &RequestInfo, headers: &HeaderMap) -> &'static str {
    let connects = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy");
    if info.is_resource && connects {
        return "CONNECT";
    }
    let applies = || {
        headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|m| PatchType::of(m.split(';').next().unwrap_or_default().trim()) == Some(PatchType::Apply))
    };
    match info.verb {
        "create" => "POST",
        "update" => "PUT",
        "patch" if applies() => "APPLY",
        other => known_verb(other),
    }
}

fn known_verb(verb: &str) -> &'static str {
    const KNOWN: &[&str] = &["GET", "LIST", "WATCH", "POST", "PUT", "PATCH", "DELETE", "DELETECOLLECTION", "HEAD", "OPTIONS"];
    KNOWN.iter().find(|k| k.eq_ignore_ascii_case(verb)).copied().unwrap_or("other")
}

fn scope(info: &RequestInfo) -> &'static str {
    match info {
        i if !i.name.is_empty() || i.verb == "create" => "resource",
        i if !i.namespace.is_empty() => "namespace",
        i if i.is_resource => "cluster",
        _ => "",
    }
}

fn dry_run(query: &Query) -> &'static str {
    match query.get("dryRun") {
        None | Some("") => "",
        Some("All") => "All",
        Some(_) => "invalid",
    }
}

/// Subresources are a closed set; others are none.
fn subresource(given: &str) -> &str {
    const KNOWN: &[&str] =
        &["status", "scale", "log", "exec", "attach", "portforward", "proxy", "binding", "eviction", "ephemeralcontainers", "resize", "token", "finalize", "approval"];
    if KNOWN.contains(&given) { given } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn labels(method: Method, uri: &str, served: bool) -> String {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let query = Query::parse(query);
        let l = &Series::of(&RequestInfo::parse(&method, path, &query), &query, &HeaderMap::new(), served).labels;
        format!("{} {}/{} {}/{} {} {}", l.verb, l.group, l.version, l.resource, l.subresource, l.scope, l.dry_run)
    }

    #[test]
    fn labels_are_upstreams() {
        for (method, uri, want) in [
            (Method::GET, "/api/v1/pods", "LIST /v1 pods/ cluster "),
            (Method::GET, "/api/v1/namespaces/a/pods?watch=1", "WATCH /v1 pods/ namespace "),
            (Method::GET, "/api/v1/namespaces/a/pods/p/log", "GET /v1 pods/log resource "),
            (Method::POST, "/apis/apps/v1/namespaces/a/deployments?dryRun=All", "POST apps/v1 deployments/ resource All"),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "DELETECOLLECTION /v1 pods/ namespace "),
            (Method::GET, "/api/v1/namespaces/a/pods/p/exec", "CONNECT /v1 pods/exec resource "),
            (Method::GET, "/apis", "GET / / "),
        ] {
            assert_eq!(labels(method, uri, true).trim_end(), want.trim_end(), "{uri}");
        }
    }

    #[test]
    fn what_is_not_served_makes_no_series_of_its_own() {
        assert_eq!(labels(Method::GET, "/apis/made.up/v9/namespaces/a/things", false), labels(Method::GET, "/apis/other/v1/namespaces/b/those", false));
        assert!(labels(Method::PUT, "/api/v1/namespaces/a/pods/p/made-up", true).contains("pods/ "));
    }

    #[test]
    fn a_request_is_counted_once_it_is_over() {
        let info = RequestInfo::parse(&Method::GET, "/apis/test.metrics/v1/namespaces/a/ones/x", &Query::default());
        let series = Series::of(&info, &Query::default(), &HeaderMap::new(), true);
        let mut open = Open::new(series, false);
        open.code = 200;
        assert_eq!(series.code(200).get(), 0);
        drop(open);
        assert_eq!((series.code(200).get(), series.seconds.get().unwrap().count()), (1, 1));
    }
}
