//! The ordered chain: request info, authenticate, limit, impersonate, authorize, dispatch.

use crate::aggregation;
use crate::audit::Record;
use crate::authenticate::Caller;
use crate::metrics::Metrics;
use crate::negotiate::{self, Accepted, Forms};
use crate::path::RequestInfo;
use crate::respond::{self, AUDIT_ID, Style};
use crate::server::Inner;
use crate::{notices, paths, reviews, token_request};
use futures::FutureExt;
use http::header::HeaderValue;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use keles_api::Status;
use keles_api::status::Details;
use keles_auth::{Attributes, Selectors, User};
use keles_registry::{Call, Form, Query, Request as About, Verb};
use keles_serve::body::{self, ReadError};
use keles_serve::{Body, BoxError};
use rand::Rng;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Upstream's limit of a request body.
pub const BODY_BYTES_MAX: usize = 3 << 20;
/// For requests that are not long-running.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// One request on its way down.
pub struct Asked {
    pub info: RequestInfo,
    pub query: Query,
    pub user: Arc<User>,
    pub request: Request<Body>,
}

impl Inner {
    /// Answers any request; never fails.
    pub async fn handle(&self, caller: Caller, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let info = RequestInfo::parse(request.method(), request.uri().path(), &query);
        let audit_id = request.headers().get(AUDIT_ID).cloned().unwrap_or_else(new_audit_id);
        // A refusal goes out as the client asked for objects; who accepts nothing that we have gets JSON.
        let style = Style::new(negotiate::accept(request.headers(), Forms::All).map(|a| Accepted { form: Form::Object, ..a }).unwrap_or_default(), request.headers(), &query);
        let (verb, long, notice) = (info.verb, is_long_running(&info), self.deprecation(&info));
        let resource = if info.is_resource { info.resource.clone() } else { String::new() };
        let flying = Flying::new(self.metrics.clone(), long);
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let mut record = None;
        // A request that panics is answered and written down, and takes nobody with it.
        let answered = AssertUnwindSafe(self.answer(&caller, info, query, request, long, &audit_id, &mut record)).catch_unwind().await;
        let mut response = match answered {
            Ok(Ok(r)) => r,
            Ok(Err(s)) => respond::failure(&s, &style),
            Err(_) => {
                tracing::error!(%method, path, "a request panicked");
                if let Some(r) = record.take() {
                    r.panicked();
                }
                respond::text(StatusCode::INTERNAL_SERVER_ERROR, "This request caused apiserver to panic. Look in the logs for details.\n")
            }
        };
        if let Some(r) = record {
            response = r.finish(response, long).await;
        }
        if long {
            // A watch is open for as long as its body is sent.
            response = response.map(|b| body::hold(b, flying));
        }
        if let Some(w) = notice.filter(|_| !matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) {
            respond::warn_first(response.headers_mut(), &w);
        }
        response.headers_mut().insert(AUDIT_ID, audit_id);
        self.metrics.observe(verb, &resource, response.status().as_u16(), started.elapsed());
        response
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, and each is a fact of its own about the request")]
    async fn answer(
        &self,
        caller: &Caller,
        info: RequestInfo,
        query: Query,
        mut request: Request<Body>,
        long: bool,
        audit_id: &HeaderValue,
        record: &mut Option<Record>,
    ) -> Result<Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        let found = self.authenticate(caller, request.headers_mut(), &path).await;
        if let Some(auditor) = &self.auditor {
            *record = auditor.begin(&info, found.as_deref().ok(), caller.peer, audit_id, &request);
        }
        let mut user = found?;
        if let Some(other) = self.impersonate(&user, request.headers_mut()).await? {
            if let Some(r) = record.as_mut() {
                r.impersonated(&other);
            }
            user = other;
        }
        let selectors = if info.is_collection() { Selectors::parse(query.text("fieldSelector"), query.text("labelSelector")) } else { None };
        let decided = self.authorizers.decide(&Attributes { selectors: selectors.as_ref(), ..attributes(&info, &user, &path) }).await;
        if let Some(r) = record.as_mut() {
            r.decided(&decided);
        }
        decided.map_err(|why| attributes(&info, &user, &path).forbidden(&why))?;
        if let Some(r) = record.as_mut() {
            request = r.take_body(request, long).await?;
        }
        let asked = Asked { info, query, user, request };
        if long {
            return self.dispatch(asked).await;
        }
        let Ok(_slot) = self.in_flight.try_acquire() else {
            return Err(Status::too_many_requests("Too many requests, please try again later.", 1));
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, self.dispatch(asked)).await {
            Ok(r) => r,
            Err(_) => Err(Status::timeout("request did not complete within the allotted timeout")),
        }
    }

    /// The warning of a deprecated API, built in or custom.
    fn deprecation(&self, info: &RequestInfo) -> Option<std::borrow::Cow<'static, str>> {
        let fixed = notices::deprecation(info).map(Into::into);
        fixed.or_else(|| info.is_resource.then(|| self.registry.kind(&info.group, &info.version, &info.resource))??.deprecation(&info.version).map(Into::into))
    }

    async fn dispatch(&self, asked: Asked) -> Result<Response<Body>, Status> {
        if let Some(remote) = self.aggregation.find(asked.request.uri().path()) {
            return aggregation::proxy::serve(self, &remote, asked).await;
        }
        if !asked.info.is_resource {
            return paths::serve(self, asked).await;
        }
        let Some(place) = self.place(&asked.info) else {
            // A group and version that is served words this as a Status, any other path as text.
            let i = &asked.info;
            let served = keles_kinds::all().iter().any(|k| k.info().served.iter().any(|s| s.group == i.group && s.version == i.version));
            return if served { Err(Status::no_such_path()) } else { Ok(respond::no_route()) };
        };
        match place {
            Place::Review => return reviews::serve(self, asked).await,
            Place::Unbuilt(what) => return Err(Status::not_implemented(what)),
            Place::WrongMethod => return Err(method_not_allowed()),
            Place::Stored => {}
        }
        match (asked.info.resource.as_str(), asked.info.subresource.as_str()) {
            ("pods", "log" | "exec" | "attach" | "portforward") => crate::pod_streams::serve(self, asked).await,
            ("pods" | "services" | "nodes", "proxy") => crate::http_proxy::serve(self, asked).await,
            ("serviceaccounts", "token") => token_request::serve(self, asked).await,
            _ => self.object(asked).await,
        }
    }

    /// Where a resource path leads; `None` when no route has it.
    fn place(&self, info: &RequestInfo) -> Option<Place> {
        if info.overlong {
            return None;
        }
        if let Some(k) = self.registry.kind(&info.group, &info.version, &info.resource) {
            let namespaced = k.info().scope == keles_registry::Scope::Namespaced;
            let served = if namespaced { !info.namespace.is_empty() || info.is_collection() } else { info.object_namespace().is_empty() };
            let known = info.subresource.is_empty() || k.info().subresources.iter().any(|s| s.name == info.subresource);
            // Across namespaces there are only list and watch.
            let across = namespaced && info.namespace.is_empty() && info.subresource.is_empty();
            if across && (info.verb == "deletecollection" || (info.verb == "create" && info.name.is_empty())) {
                return Some(Place::WrongMethod);
            }
            return (served && known).then_some(Place::Stored);
        }
        let v = keles_kinds::VIRTUAL.iter().find(|v| v.group == info.group && v.version == info.version && v.plural == info.resource)?;
        Some(match v.plural {
            "componentstatuses" => Place::Unbuilt("the resource componentstatuses (deprecated since v1.19)"),
            _ => Place::Review,
        })
    }

    /// Which forms the objects of a path have: kinds made at run time have none in protobuf.
    fn forms(&self, info: &RequestInfo) -> Forms {
        let api_version = keles_api::GroupVersion::new(&info.group, &info.version).to_string();
        let kind = self.registry.kind(&info.group, &info.version, &info.resource);
        match kind.map(|k| k.info().kind) {
            Some(kind) if info.subresource != "scale" && keles_api::protobuf::encoder(&api_version, kind).is_none() => Forms::Custom,
            _ => Forms::All,
        }
    }

    /// The main resources and the subresources that the registry serves.
    async fn object(&self, asked: Asked) -> Result<Response<Body>, Status> {
        let (parts, body) = asked.request.into_parts();
        let verb = verb(&asked.info).ok_or_else(method_not_allowed)?;
        let forms = self.forms(&asked.info);
        let accepted = if verb == Verb::Watch { negotiate::accept_stream(&parts.headers, forms) } else { negotiate::accept(&parts.headers, forms) }?;
        let style = Style::new(accepted, &parts.headers, &asked.query);
        let patch_type = if verb == Verb::Patch { Some(negotiate::patch_type(&parts.headers)?) } else { None };
        let reads_body = matches!(verb, Verb::Create | Verb::Update | Verb::Patch | Verb::Delete | Verb::DeleteCollection);
        let body = if reads_body { read(body).await? } else { bytes::Bytes::new() };
        let (body, body_format) = if patch_type.is_some() { (body, keles_registry::BodyFormat::Json) } else { negotiate::body(&parts.headers, body)? };
        let notice = notices::orphaning_delete(&asked.info, &asked.query, &body);
        let mut query = asked.query;
        let name = if asked.info.is_collection() { String::new() } else { asked.info.name.clone() };
        if asked.info.watch_path && !asked.info.name.is_empty() && query.get("fieldSelector").is_none() {
            query.0.push(("fieldSelector".into(), format!("metadata.name={}", asked.info.name)));
        }
        let call = Call {
            request: About {
                user: Arc::unwrap_or_clone(asked.user),
                namespace: asked.info.object_namespace().to_owned(),
                group: asked.info.group,
                version: asked.info.version,
                plural: asked.info.resource,
                subresource: asked.info.subresource,
                name,
                now: now(),
                ..About::default()
            },
            query,
            form: style.accepted.form,
            wire: style.accepted.wire(),
            body,
            body_format,
            patch_type,
            user_agent: header(&parts.headers, http::header::USER_AGENT).to_owned(),
        };
        let mut response = match self.registry.serve(verb, call).await {
            Ok(a) => respond::answer(a, &style, &self.stops),
            Err(s) => respond::failure(&s, &style),
        };
        respond::warn(response.headers_mut(), notice.as_slice());
        Ok(response)
    }
}

enum Place {
    Stored,
    WrongMethod,
    Review,
    Unbuilt(&'static str),
}

pub fn header(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// RFC 3339 with whole seconds.
pub fn now() -> String {
    let t = jiff::Timestamp::now();
    jiff::Timestamp::from_second(t.as_second()).unwrap_or(t).to_string()
}

/// Reads a request body within the limit.
pub async fn read(b: Body) -> Result<bytes::Bytes, Status> {
    body::read(b, BODY_BYTES_MAX).await.map_err(|e| match e {
        ReadError::TooLarge { limit_bytes } => Status::too_large(limit_bytes),
        ReadError::Broken(e) => broken(&e),
    })
}

fn broken(e: &BoxError) -> Status {
    Status::bad_request(format!("the body could not be read: {e}"))
}

pub fn method_not_allowed() -> Status {
    Status::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource").with_details(Details::default())
}

fn verb(info: &RequestInfo) -> Option<Verb> {
    Some(match (info.verb, info.name.is_empty()) {
        ("get", false) => Verb::Get,
        ("list", _) => Verb::List,
        ("watch", _) => Verb::Watch,
        ("create", true) => Verb::Create,
        // Creating below an object: binding, eviction.
        ("create", false) if !info.subresource.is_empty() => Verb::Create,
        ("update", false) => Verb::Update,
        ("patch", false) => Verb::Patch,
        ("delete", false) => Verb::Delete,
        ("deletecollection", _) => Verb::DeleteCollection,
        _ => return None,
    })
}

fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch" || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

fn attributes<'a>(info: &'a RequestInfo, user: &'a User, path: &'a str) -> Attributes<'a> {
    Attributes {
        user,
        verb: info.verb,
        group: &info.group,
        version: &info.version,
        resource: if info.is_resource { &info.resource } else { "" },
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path,
        selectors: None,
    }
}

/// A UUID (version 4) from the thread's generator: unique, not secret.
fn new_audit_id() -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(rand::rng().random()).into_uuid();
    HeaderValue::from_str(id.as_hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())).expect("hex digits and dashes are a header value")
}

/// Whether a request asks for another protocol on its connection.
pub fn wants_upgrade(method: &Method, headers: &HeaderMap) -> bool {
    matches!(*method, Method::GET | Method::POST) && header(headers, http::header::CONNECTION).to_ascii_lowercase().contains("upgrade")
}

/// Counts a request while it is open.
struct Flying {
    metrics: Arc<Metrics>,
    long: bool,
}

impl Flying {
    fn new(metrics: Arc<Metrics>, long: bool) -> Self {
        let f = Flying { metrics, long };
        f.counter().fetch_add(1, Ordering::Relaxed);
        f
    }
    fn counter(&self) -> &AtomicI64 {
        if self.long { &self.metrics.long_running } else { &self.metrics.in_flight }
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        self.counter().fetch_sub(1, Ordering::Relaxed);
    }
}
