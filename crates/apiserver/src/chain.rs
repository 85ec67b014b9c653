//! The ordered chain: request info, time limit, authenticate, impersonate, priority and fairness, authorize, dispatch.

use crate::aggregation;
use crate::audit::Record;
use crate::authenticate::Caller;
use crate::fairness::{self, Flow, Question};
use crate::features::Feature;
use crate::metrics::requests::{Open, Series};
use crate::negotiate::{self, Accepted, Forms, Media};
use crate::path::RequestInfo;
use crate::respond::{self, AUDIT_ID, Style};
use crate::server::Inner;
use crate::{component_status, health, lifecycle, metrics, notices, paths, reviews, token_request};
use futures::FutureExt;
use http::header::HeaderValue;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use keles_api::Status;
use keles_api::decode::Format;
use keles_api::status::Details;
use keles_auth::{Attributes, Selectors, User};
use keles_observe::{current, trace};
use keles_registry::{AnyKind, Call, Form, Query, Request as About, Verb, annotations};
use keles_serve::body::{self, ReadError};
use keles_serve::{Body, BoxError};
use rand::Rng;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

/// Upstream's limit of a request body.
pub const BODY_BYTES_MAX: usize = 3 << 20;

/// What stays the same of a request on its way down.
struct Way<'a> {
    caller: &'a Caller,
    audit_id: &'a HeaderValue,
    is_long_running: bool,
    came: Instant,
    /// When it must be answered; a long-running one, when it must have begun.
    deadline: Instant,
}

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
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let info = RequestInfo::parse(request.method(), request.uri().path(), &query);
        let audit_id = request.headers().get(AUDIT_ID).cloned().unwrap_or_else(new_audit_id);
        // A refusal goes out as the client asked for objects; who accepts nothing that we have gets JSON.
        let style = Style::new(self.media().accept(request.headers(), Forms::All).map(|a| Accepted { form: Form::Object, ..a }).unwrap_or_default(), request.headers(), &query);
        let kind = if info.is_resource { self.registry.kind(&info.group, &info.version, &info.resource) } else { None };
        let (long, notice) = (is_long_running(&info), deprecation(&info, kind.as_deref()));
        let served = kind.is_some() || info.is_resource && virtual_kind(&info).is_some();
        let series = match health::path(request.uri().path()) {
            Some(path) => Series::of_path(info.verb, path),
            None => Series::of(&info, &query, request.headers(), served),
        };
        if notice.is_some() {
            metrics::requests::DEPRECATED.with([&info.group, "", &info.resource, &info.subresource, &info.version]).set(1.0);
        }
        let mut open = Open::new(series, long);
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let (mut record, mut under) = (None, None);
        let time = if long { Ok(self.config.lifecycle.request_timeout) } else { self.config.lifecycle.time_of(&query) };
        // A request that panics is answered and written down, and takes nobody with it.
        let answering = async {
            let came = Instant::now();
            let way = Way { caller: &caller, audit_id: &audit_id, is_long_running: long, came, deadline: came + time? };
            // On the heap: the future is large, and each of what wraps it would hold a copy on the stack.
            let answering = Box::pin(self.answer(&way, info, query, request, &mut record, &mut under));
            match long {
                true => answering.await,
                false => tokio::time::timeout_at(way.deadline.into(), answering).await.unwrap_or_else(|_| Err(lifecycle::timed_out())),
            }
        };
        // Nobody reads what admission notes where nothing is audited.
        let answering = current::scope(async {
            let answered = answering.await;
            current::end(answered.as_ref().map_or_else(|s: &Status| s.code, |r| r.status().as_u16()));
            answered
        });
        let (answered, notes) = match self.auditor {
            Some(_) => annotations::collected(AssertUnwindSafe(answering).catch_unwind()).await,
            None => (AssertUnwindSafe(answering).catch_unwind().await, Default::default()),
        };
        let answered = answered.map(|(answered, waited)| {
            open.waited = waited;
            answered
        });
        let mut response = match answered {
            Ok(Ok(r)) => r,
            Ok(Err(s)) => respond::failure(&s, &style),
            Err(_) => {
                tracing::error!(%method, path, "a request panicked");
                if let Some(r) = record.take() {
                    r.panicked().await;
                }
                respond::text(StatusCode::INTERNAL_SERVER_ERROR, "This request caused apiserver to panic. Look in the logs for details.\n")
            }
        };
        if let Some(mut r) = record {
            notes.iter().for_each(|(key, value)| r.noted(key, value));
            response = r.finish(response, long).await;
        }
        open.code = response.status().as_u16();
        if long {
            // A watch is open for as long as its body is sent.
            response = response.map(|b| body::hold(b, open));
        } else {
            response = series.sized(response);
        }
        if let Some(w) = notice.filter(|_| !matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) {
            respond::warn_first(response.headers_mut(), &w);
        }
        if let Some(flow) = under {
            flow.mark(response.headers_mut());
        }
        response.headers_mut().insert(AUDIT_ID, audit_id);
        response
    }

    async fn answer(
        &self,
        way: &Way<'_>,
        info: RequestInfo,
        query: Query,
        mut request: Request<Body>,
        record: &mut Option<Record>,
        under: &mut Option<Arc<Flow>>,
    ) -> Result<Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        let found = self.authenticate(way.caller, request.headers_mut(), &path).await;
        if let Some(auditor) = &self.auditor {
            *record = auditor.begin(&info, found.as_deref().ok(), way.caller.peer, way.audit_id, &request);
            if let Some(r) = record.as_mut() {
                r.received().await?;
            }
        }
        let mut user = found?;
        let selectors = if info.is_collection() { Selectors::parse(query.text("fieldSelector"), query.text("labelSelector")) } else { None };
        if let Some(other) = self.impersonate(&Attributes { selectors: selectors.as_ref(), ..attributes(&info, &user, &path) }, request.headers_mut()).await? {
            if let Some(r) = record.as_mut() {
                r.impersonated(&other.user, other.constraint);
            }
            user = other.user;
        }
        current::begin(trace::request(|| span_name(&info, request.method()), request.headers().get("traceparent").and_then(|v| v.to_str().ok()), is_trusted(&user)));
        let question = Question { info: &info, query: &query, user: &user, path: &path, came: way.came, deadline: way.deadline, is_long_running: way.is_long_running };
        let entered = Instant::now();
        let pass = self.gate.enter(&self.registry, question, under).await;
        current::waited(entered.elapsed());
        let pass = match pass {
            Ok(pass) => pass,
            Err(seconds) => return Ok(fairness::refusal(seconds)),
        };
        let started = Instant::now();
        let decided = self.authorizers.decide(&Attributes { selectors: selectors.as_ref(), ..attributes(&info, &user, &path) }).await;
        metrics::authorized(decided.is_ok(), started.elapsed());
        if let Some(r) = record.as_mut() {
            r.decided(&decided);
        }
        decided.map_err(|why| attributes(&info, &user, &path).forbidden(&why))?;
        if let Some(r) = record.as_mut() {
            request = r.take_body(request, way.is_long_running).await?;
        }
        let is_watch = info.verb == "watch";
        let response = self.dispatch(Asked { info, query, user, request }).await?.map(|b| pass.while_sent(b, is_watch, way.deadline));
        // A watch ends by itself, with its last events.
        Ok(if way.is_long_running && !is_watch { response.map(|b| lifecycle::until(b, &self.stops)) } else { response })
    }

    async fn dispatch(&self, asked: Asked) -> Result<Response<Body>, Status> {
        if let Some(remote) = self.aggregation.find(asked.request.uri().path()) {
            return aggregation::proxy::serve(self, &remote, asked).await;
        }
        if let Some(local) = self.aggregation.find_local(asked.request.uri().path()) {
            return (local.serve)(self, asked).await;
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
            Place::Components => return component_status::serve(self, asked).await,
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
        Some(match virtual_kind(info)?.plural {
            "componentstatuses" => Place::Components,
            _ => Place::Review,
        })
    }

    /// Which representations this server speaks.
    pub fn media(&self) -> Media {
        Media { cbor: self.config.features.on(Feature::Cbor) }
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
        let accepted = if verb == Verb::Watch { self.media().accept_stream(&parts.headers, forms) } else { self.media().accept(&parts.headers, forms) }?;
        let style = Style::new(accepted, &parts.headers, &asked.query);
        let patch_type = if verb == Verb::Patch { Some(self.media().patch_type(&parts.headers)?) } else { None };
        let reads_body = matches!(verb, Verb::Create | Verb::Update | Verb::Patch | Verb::Delete | Verb::DeleteCollection);
        let body = if reads_body { read(body).await? } else { bytes::Bytes::new() };
        let (body, body_format) = if patch_type.is_some() { (negotiate::patch_body(&parts.headers, body)?, Format::Json) } else { self.media().body(&parts.headers, body)? };
        let notice = notices::orphaning_delete(&asked.info, &asked.query, &body, body_format);
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

/// The warning of a deprecated API, built in or custom.
fn deprecation(info: &RequestInfo, kind: Option<&dyn AnyKind>) -> Option<std::borrow::Cow<'static, str>> {
    let fixed = notices::deprecation(info).map(Into::into);
    fixed.or_else(|| kind?.deprecation(&info.version).map(Into::into))
}

/// The kind that is served and not stored.
fn virtual_kind(info: &RequestInfo) -> Option<&'static keles_kinds::VirtualKind> {
    keles_kinds::VIRTUAL.iter().find(|v| v.group == info.group && v.version == info.version && v.plural == info.resource)
}

/// Upstream's name of a request's span: the method and the path's pattern.
fn span_name(info: &RequestInfo, method: &Method) -> String {
    if !info.is_resource {
        return method.to_string();
    }
    let group = if info.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", info.group) };
    let namespace = if info.object_namespace().is_empty() { "" } else { "/namespaces/{:namespace}" };
    let name = if info.name.is_empty() { "" } else { "/{:name}" };
    let subresource = if info.subresource.is_empty() { String::new() } else { format!("/{}", info.subresource) };
    format!("{method} {group}/{}{namespace}/{}{name}{subresource}", info.version, info.resource)
}

/// Whose traces go on here; anybody else could have all of theirs kept.
fn is_trusted(user: &User) -> bool {
    user.groups.iter().any(|g| g == keles_auth::MASTERS || g == "system:monitoring")
}

enum Place {
    Stored,
    WrongMethod,
    Review,
    Components,
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
