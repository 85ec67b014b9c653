//! The record of one request and the events made of it.

use super::Auditor;
use super::policy::{Level, Wanted};
use crate::chain::{header, read};
use crate::negotiate;
use crate::path::RequestInfo;
use crate::reviews::user_info;
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use keles_api::Status;
use keles_auth::User;
use keles_auth::rbac::Reason;
use keles_serve::Body;
use keles_serve::body;
use serde_json::{Map, Value, json};
use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;

const RECEIVED: &str = "RequestReceived";
const STARTED: &str = "ResponseStarted";
const COMPLETE: &str = "ResponseComplete";
const PANIC: &str = "Panic";
/// What stands before the key of a note of a webhook's patch.
pub const PATCH_NOTE: &str = "patch.webhook.admission.k8s.io/";

/// One request, from its arrival on.
pub struct Record {
    auditor: Arc<Auditor>,
    wanted: Wanted,
    event: Map<String, Value>,
    /// Whether the answer is to be told as of a failed authentication.
    stranger: bool,
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

impl Record {
    pub(super) fn new<B>(auditor: Arc<Auditor>, wanted: Wanted, info: &RequestInfo, user: Option<&User>, peer: IpAddr, audit_id: &HeaderValue, request: &Request<B>) -> Record {
        let mut e = Map::new();
        let mut put = |k: &str, v: Value| e.insert(k.into(), v);
        put("kind", "Event".into());
        put("apiVersion", "audit.k8s.io/v1".into());
        put("level", wanted.level.name().into());
        put("auditID", audit_id.to_str().unwrap_or_default().into());
        put("requestURI", request.uri().path_and_query().map_or("", |p| p.as_str()).into());
        put("verb", info.verb.into());
        put("user", user.map_or(json!({}), user_info));
        put("sourceIPs", source_ips(request.headers(), peer).into());
        let agent = header(request.headers(), USER_AGENT);
        if !agent.is_empty() {
            put("userAgent", agent.into());
        }
        if info.is_resource {
            put("objectRef", object_ref(info));
        }
        put("requestReceivedTimestamp", now().into());
        Record { auditor, wanted, event: e, stranger: user.is_none() }
    }

    /// Tells that the request is there. 500 where the operator wants none that is not written down.
    pub async fn received(&mut self) -> Result<(), Status> {
        if self.stranger || self.stage(RECEIVED).await { Ok(()) } else { Err(Status::internal("failed to store audit event")) }
    }

    /// Sends the event as it stands at a stage; false when that is to fail the request.
    pub(super) async fn stage(&mut self, stage: &str) -> bool {
        match self.at(stage) {
            Some(e) => self.auditor.send(e).await,
            None => true,
        }
    }

    /// The event of a stage, if the policy wants it.
    fn at(&self, stage: &str) -> Option<Value> {
        if self.wanted.omit_stages.iter().any(|s| s == stage) {
            return None;
        }
        let mut e = self.event.clone();
        e.insert("stage".into(), stage.into());
        e.insert("stageTimestamp".into(), now().into());
        Some(Value::Object(e))
    }

    /// `constraint` is the right by which, when it was not the general one.
    pub fn impersonated(&mut self, user: &User, constraint: Option<&str>) {
        self.event.insert("impersonatedUser".into(), user_info(user));
        if let Some(c) = constraint {
            self.event.insert("authenticationMetadata".into(), json!({"impersonationConstraint": c}));
        }
    }

    /// What admission noted; patches of webhooks tell of the request's body and need its level.
    pub fn noted(&mut self, key: &str, value: &str) {
        if self.wanted.level >= Level::Request || !key.starts_with(PATCH_NOTE) {
            self.annotate(key, value);
        }
    }

    /// What the authorizers said.
    pub fn decided(&mut self, decision: &Result<Reason, String>) {
        let (decision, reason) = match decision {
            Ok(reason) => ("allow", reason.to_string()),
            Err(why) => ("forbid", why.clone()),
        };
        self.annotate("authorization.k8s.io/decision", decision);
        self.annotate("authorization.k8s.io/reason", &reason);
    }

    pub fn annotate(&mut self, key: &str, value: &str) {
        let all = self.event.entry("annotations").or_insert_with(|| json!({}));
        all[key] = value.into();
    }

    /// Reads the body of a write, notes what the policy wants of it, and puts it back.
    pub async fn take_body(&mut self, request: Request<Body>, long: bool) -> Result<Request<Body>, Status> {
        let writes = matches!(self.event["verb"].as_str(), Some("create" | "update" | "patch" | "delete" | "deletecollection")) && self.event.contains_key("objectRef");
        if long || !writes {
            return Ok(request);
        }
        let (parts, b) = request.into_parts();
        let bytes = read(b).await?;
        let names_object = self.event["verb"] != "patch" && self.event["verb"] != "delete" && self.event["verb"] != "deletecollection";
        if (names_object || self.wanted.level >= Level::Request)
            && let Some(o) = tree(&parts.headers, &bytes)
        {
            if names_object {
                self.refer(&o);
            }
            if self.wanted.level >= Level::Request {
                let o = self.shown(o);
                self.event.insert("requestObject".into(), o);
            }
        }
        Ok(Request::from_parts(parts, body::full(bytes)))
    }

    /// Fills the reference to the object from its metadata.
    fn refer(&mut self, o: &Value) {
        let Some(r) = self.event.get_mut("objectRef") else { return };
        for (field, key) in [("name", "name"), ("namespace", "namespace"), ("uid", "uid"), ("resourceVersion", "resourceVersion")] {
            if let (None, Some(v)) = (r.get(field), o["metadata"][key].as_str().filter(|v| !v.is_empty())) {
                r[field] = v.into();
            }
        }
    }

    fn shown(&self, mut o: Value) -> Value {
        if self.wanted.omit_managed_fields {
            let strip = |o: &mut Value| {
                if let Some(m) = o.get_mut("metadata").and_then(Value::as_object_mut) {
                    m.remove("managedFields");
                }
            };
            strip(&mut o);
            o.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
        }
        o
    }

    pub async fn panicked(mut self) {
        self.event.insert("responseStatus".into(), json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": "APIServer panic'd", "code": 500}));
        self.stage(PANIC).await;
    }

    /// Notes the answer. What is long-running is told twice: when it starts, and when its body ends.
    pub async fn finish(mut self, response: Response<Body>, long: bool) -> Response<Body> {
        let code = response.status().as_u16();
        if self.stranger {
            let status = json!({"metadata": {}, "status": "Failure", "message": "Authentication failed, no credentials were accepted", "reason": "Unauthorized", "code": code});
            self.event.insert("responseStatus".into(), status);
            self.stage(STARTED).await;
            self.stage(COMPLETE).await;
            return response;
        }
        self.event.insert("responseStatus".into(), json!({"metadata": {}, "code": code}));
        if long && code < 400 {
            self.stage(STARTED).await;
            return response.map(|b| body::hold(b, Ending(Some(self))));
        }
        let wants = code >= 400 || self.wanted.level == Level::RequestResponse;
        if !wants {
            self.stage(COMPLETE).await;
            return response;
        }
        let (parts, b) = response.into_parts();
        let Ok(collected) = b.collect().await else {
            self.stage(COMPLETE).await;
            return Response::from_parts(parts, body::empty());
        };
        let bytes = collected.to_bytes();
        if let Some(o) = unzipped(&parts.headers, &bytes).and_then(|b| tree(&parts.headers, &b)) {
            if code >= 400 && o["kind"] == "Status" {
                let mut status = o.clone();
                if let Some(s) = status.as_object_mut() {
                    s.remove("kind");
                    s.remove("apiVersion");
                }
                self.event.insert("responseStatus".into(), status);
            }
            if self.wanted.level == Level::RequestResponse {
                let o = self.shown(o);
                self.event.insert("responseObject".into(), o);
            }
        }
        self.stage(COMPLETE).await;
        Response::from_parts(parts, body::full(bytes))
    }
}

/// Tells the end of a long-running request when its body is dropped.
struct Ending(Option<Record>);

impl Drop for Ending {
    fn drop(&mut self) {
        let Some((r, e)) = self.0.take().and_then(|r| r.at(COMPLETE).map(|e| (r, e))) else { return };
        // A body may be dropped while the runtime ends; the last events of that moment go with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { r.auditor.send(e).await });
        }
    }
}

fn object_ref(i: &RequestInfo) -> Value {
    let mut r = Map::new();
    let mut put = |k: &str, v: &str| {
        if !v.is_empty() {
            r.insert(k.into(), v.into());
        }
    };
    put("resource", &i.resource);
    put("namespace", &i.namespace);
    put("name", &i.name);
    put("apiGroup", &i.group);
    put("apiVersion", &i.version);
    put("subresource", &i.subresource);
    Value::Object(r)
}

/// Who sent it, as far as proxies tell: `X-Forwarded-For`, `X-Real-Ip`, then the peer, none twice.
fn source_ips(headers: &HeaderMap, peer: IpAddr) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let forwarded = header(headers, "x-forwarded-for").split(',').map(str::trim).chain([header(headers, "x-real-ip").trim()]);
    for ip in forwarded.filter_map(|t| t.parse::<IpAddr>().ok()).chain([peer]) {
        let text = ip.to_string();
        if !out.contains(&text) {
            out.push(text);
        }
    }
    out
}

/// The document in a body; `None` for what is empty or not a document.
fn tree(headers: &HeaderMap, bytes: &Bytes) -> Option<Value> {
    if bytes.is_empty() {
        return None;
    }
    let media = header(headers, CONTENT_TYPE);
    // Patches are JSON or YAML under names of their own.
    if media.contains("json") || media.is_empty() {
        return serde_json::from_slice(bytes).ok();
    }
    if media.contains("yaml") {
        return serde_yaml_ng::from_slice(bytes).ok();
    }
    let (bytes, format) = (negotiate::Media { cbor: true }).body(headers, bytes.clone()).ok()?;
    keles_api::decode::parse(&bytes, format).ok()
}

fn unzipped(headers: &HeaderMap, bytes: &Bytes) -> Option<Bytes> {
    if header(headers, CONTENT_ENCODING) != "gzip" {
        return Some(bytes.clone());
    }
    let mut out = Vec::new();
    GzDecoder::new(bytes.as_ref()).read_to_end(&mut out).ok()?;
    Some(out.into())
}
