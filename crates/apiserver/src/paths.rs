//! Paths that are no resources: version, health, metrics, discovery, OpenAPI, the token issuer's documents.

use crate::aggregation;
use crate::chain::{Asked, header, method_not_allowed};
use crate::debug;
use crate::features::Feature;
use crate::health::{self, Check};
use crate::metrics;
use crate::negotiate::{self, Accepted, Forms, JSON};
use crate::pieces;
use crate::respond::{self, Style};
use crate::server::Inner;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Method, Response, StatusCode};
use keles_api::Status;
use keles_api::openapi::gnostic;
use keles_registry::Answer;
use keles_serve::Body;
use keles_serve::body;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// What upstream's clients see of us: major and minor say which API this is.
pub const GIT_VERSION: &str = "v1.36.0+keles";

pub async fn serve(server: &Inner, asked: Asked) -> Result<Response<Body>, Status> {
    let debugs = asked.request.uri().path().strip_prefix("/debug/").map(|rest| rest.trim_end_matches('/').split('/').map(str::to_owned).collect::<Vec<_>>());
    if let Some(parts) = debugs {
        return debug::serve(server, asked, &parts).await;
    }
    if !matches!(*asked.request.method(), Method::GET | Method::HEAD) {
        return Err(method_not_allowed());
    }
    let full = asked.request.uri().path();
    let path = full.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        [] => json_answer(&asked, &json!({"paths": roots(server)})),
        ["version"] => json_answer(&asked, &version()),
        [endpoint @ ("healthz" | "livez" | "readyz"), check @ ..] => {
            let store = if check.is_empty() || *check == ["etcd"] { server.registry.store_health().await.err().map(|e| e.to_string()) } else { None };
            let checks = checks(server, endpoint, store);
            metrics::checks::note(endpoint, &checks);
            Ok(health::answer(endpoint, &check.join("/"), &checks, &asked.query).unwrap_or_else(respond::no_route))
        }
        [which @ ("statusz" | "flagz")] => debug::page(server, &asked, which).unwrap_or_else(|| Ok(respond::no_route())),
        ["metrics"] => Ok(metrics::serve(server, &asked)),
        ["metrics", "slis"] => Ok(metrics::serve_slis(&asked)),
        ["openapi", "v2"] => swagger(server, asked).await,
        ["openapi", "v3"] => json_bytes(&asked, server.openapi.get(&server.registry).index()),
        ["openapi", "v3", rest @ ..] => match aggregation::documents::owner_of_v3(&server.aggregation.state(), &rest.join("/")) {
            Some(remote) => aggregation::proxy::document(server, &remote, asked).await,
            None => match aggregation::documents::local_of_v3(&server.aggregation.state(), &rest.join("/")) {
                Some(local) => json_answer(&asked, &local.v3),
                None => openapi(server, &asked, &rest.join("/")),
            },
        },
        [".well-known", "openid-configuration"] => {
            let document = openid_configuration(server).await?;
            json_answer(&asked, &document)
        }
        ["openid", "v1", "jwks"] => jwks(server).await,
        ["api"] | ["apis"] if negotiate::aggregated_discovery(asked.request.headers()).is_some() => Ok(aggregated(server, &asked, path)),
        ["api" | "apis", ..] => match server.discovery.get(&server.registry).plain(path) {
            Some(b) => negotiated(server, &asked, b),
            None => Ok(respond::no_route()),
        },
        _ => Ok(respond::no_route()),
    }
}

fn json_answer(asked: &Asked, v: &Value) -> Result<Response<Body>, Status> {
    json_bytes(asked, serde_json::to_vec(v).expect("a JSON tree always encodes").into())
}

/// A document that is JSON whatever the client accepts.
fn json_bytes(asked: &Asked, json: Bytes) -> Result<Response<Body>, Status> {
    let style = Style::new(Accepted::default(), asked.request.headers(), &asked.query);
    Ok(respond::answer(Answer::ok(json), &style, &Default::default()))
}

/// A document that has all encodings.
fn negotiated(server: &Inner, asked: &Asked, json: Bytes) -> Result<Response<Body>, Status> {
    let style = Style::new(server.media().accept(asked.request.headers(), Forms::Plain)?, asked.request.headers(), &asked.query);
    Ok(respond::answer(Answer::ok(json), &style, &Default::default()))
}

/// The paths that `/` lists, sorted.
pub fn roots(server: &Inner) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .iter()
    .map(|p| (*p).to_owned())
    .collect();
    paths.extend(server.discovery.get(&server.registry).group_paths().cloned());
    paths.extend(checks(server, "readyz", None).iter().flat_map(|c| ["healthz", "livez", "readyz"].map(|e| format!("/{e}/{}", c.name))));
    let features = &server.config.features;
    paths.extend([(Feature::Statusz, "/statusz"), (Feature::Flagz, "/flagz")].into_iter().filter(|(f, _)| features.on(*f)).map(|(_, p)| p.to_owned()));
    if server.config.profiling {
        paths.extend(["/debug/pprof", "/debug/flags/v"].map(str::to_owned));
    }
    paths.sort();
    paths
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none, this is Rust", "compiler": "rustc", "platform": format!("linux/{}", arch()),
    })
}

/// Go's name of the processor.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `store`: what is wrong with it now.
fn checks(server: &Inner, endpoint: &str, store: Option<String>) -> Vec<Check> {
    let when = |good: bool, why: &str| (!good).then(|| why.to_owned());
    let in_grace = endpoint == "livez" && server.began.elapsed() < server.config.lifecycle.livez_grace_period;
    let mut all = vec![
        Check { name: "ping", failure: None },
        Check { name: "log", failure: None },
        Check { name: "etcd", failure: when(server.follows.load(Ordering::SeqCst), "the store is no longer followed").or(store) },
        Check { name: "poststarthook/rbac/bootstrap-roles", failure: when(server.ready.load(Ordering::SeqCst) || in_grace, "not finished") },
    ];
    if endpoint == "readyz" {
        all.push(Check { name: "shutdown", failure: when(!server.leaving.load(Ordering::SeqCst), "process is shutting down") });
    }
    all
}

fn openapi(server: &Inner, asked: &Asked, path: &str) -> Result<Response<Body>, Status> {
    let documents = server.openapi.get(&server.registry);
    let Some((gzip, hash)) = documents.document(path) else { return Ok(respond::no_route()) };
    // The hash in the index's URL names the content: such an answer never changes.
    let fresh = asked.query.get("hash") == Some(hash);
    Ok(kept(asked, gzip, hash, JSON, if fresh { "public, immutable" } else { "no-cache, private" }))
}

async fn swagger(server: &Inner, asked: Asked) -> Result<Response<Body>, Status> {
    let Some(binary) = negotiate::swagger(asked.request.headers()) else {
        return Ok(respond::text(StatusCode::NOT_ACCEPTABLE, "406 Not Acceptable\n"));
    };
    let documents = server.openapi.get(&server.registry);
    let etag = tag(documents.hash());
    if asked.request.headers().get(IF_NONE_MATCH) == Some(&etag) {
        return Ok(not_modified(etag));
    }
    // It may take seconds, which no other request is to wait for.
    let made = tokio::task::spawn_blocking({
        let documents = documents.clone();
        move || documents.swagger(binary)
    });
    let gzip = made.await.map_err(Status::internal)?;
    Ok(kept(&asked, gzip, documents.hash(), if binary { gnostic::ANSWERED } else { JSON }, "no-cache, private"))
}

/// Plain documents up to this size are sent with their length; longer ones as they are inflated.
const WHOLE_BYTES_MAX: usize = 1 << 20;

/// A document that is kept as gzip, with its hash as tag.
fn kept(asked: &Asked, gzip: Bytes, hash: &str, media: &'static str, cache: &'static str) -> Response<Body> {
    let zipped = header(asked.request.headers(), ACCEPT_ENCODING).contains("gzip");
    let etag = tag(hash);
    if asked.request.headers().get(IF_NONE_MATCH) == Some(&etag) {
        return not_modified(etag);
    }
    let body = match zipped {
        true => body::full(gzip),
        false if pieces::plain_len(&gzip) <= WHOLE_BYTES_MAX => body::full(pieces::inflated(gzip).collect::<Vec<_>>().concat()),
        false => body::stream(futures::stream::iter(pieces::inflated(gzip))),
    };
    let mut r = Response::new(body);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    r.headers_mut().insert(ETAG, etag);
    r.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    r.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    if zipped {
        r.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    r
}

fn tag(hash: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{hash}\"")).expect("hex digits are a header value")
}

fn not_modified(etag: HeaderValue) -> Response<Body> {
    let mut r = Response::new(body::empty());
    *r.status_mut() = StatusCode::NOT_MODIFIED;
    r.headers_mut().insert(ETAG, etag);
    r
}

fn aggregated(server: &Inner, asked: &Asked, path: &str) -> Response<Body> {
    let version = negotiate::aggregated_discovery(asked.request.headers()).unwrap_or("v2");
    let documents = server.discovery.get(&server.registry);
    let Some(d) = documents.aggregated(path, version) else { return respond::no_route() };
    let etag = HeaderValue::from_str(&d.etag).expect("hex digits and quotes are a header value");
    let mut r = if asked.request.headers().get(IF_NONE_MATCH) == Some(&etag) { not_modified(etag.clone()) } else { Response::new(body::full(d.bytes.clone())) };
    let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_str(&media).expect("ASCII is a header value"));
    r.headers_mut().insert(ETAG, etag);
    r.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    r.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    r
}

async fn openid_configuration(server: &Inner) -> Result<Value, Status> {
    let tokens = server.tokens.clone();
    let algorithms = if tokens.key().is_ready() { tokens.algorithms() } else { tokio::task::spawn_blocking(move || tokens.algorithms()).await.map_err(Status::internal)? };
    Ok(json!({
        "issuer": server.tokens.issuer(),
        "jwks_uri": server.config.service_accounts.jwks_uri.clone().unwrap_or_else(|| format!("https://{}:{}/openid/v1/jwks", server.config.advertise_address, server.config.port)),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms.map_err(Status::internal)?,
    }))
}

async fn jwks(server: &Inner) -> Result<Response<Body>, Status> {
    let tokens = server.tokens.clone();
    let keys = if tokens.key().is_ready() { tokens.jwks() } else { tokio::task::spawn_blocking(move || tokens.jwks()).await.map_err(Status::internal)? };
    let mut r = Response::new(body::full(keys.map_err(Status::internal)?));
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    r.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Ok(r)
}
