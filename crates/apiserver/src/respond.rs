//! From an [`Answer`] or a [`Status`] to an HTTP response: encoding, compression, warnings.

use crate::negotiate::{Accepted, Encoding};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT, VARY, WARNING};
use http::{HeaderMap, Response, StatusCode};
use keles_api::{Status, cbor, protobuf};
use keles_registry::{Answer, Body as Made, Query};
use keles_serve::body::{self, Body};
use std::io::Write;
use tokio_util::sync::CancellationToken;

/// Bodies under this go out as they are; upstream's figure.
const GZIP_FROM_BYTES: usize = 128 << 10;
/// Speed over size: most clients are near.
const GZIP_LEVEL: u32 = 1;
pub const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What of a request decides how its answer is written.
pub struct Style {
    pub accepted: Accepted,
    pretty: bool,
    gzip: bool,
}

impl Style {
    pub fn new(accepted: Accepted, headers: &HeaderMap, query: &Query) -> Style {
        let text = |n| headers.get(n).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
        // Upstream prints for people: those who ask, and the agents that people use.
        let agent = text(USER_AGENT);
        let person = ["curl", "Wget", "Mozilla/5.0"].iter().any(|p| agent.starts_with(p));
        let gzip = text(ACCEPT_ENCODING).split(',').any(|e| matches!(e.trim().split_once(';').unwrap_or((e.trim(), "")), ("gzip", q) if !matches!(q.trim(), "q=0" | "q=0.0")));
        Style { accepted, pretty: query.opt_flag("pretty").unwrap_or(person), gzip }
    }
}

/// The response of a good answer. A watch ends when the server `stops`.
pub fn answer(a: Answer, style: &Style, stops: &CancellationToken) -> Response<Body> {
    let code = StatusCode::from_u16(a.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let media = style.accepted.encoding.media_type();
    let mut r = match a.body {
        Made::Bytes(json) => match encoded(json, style) {
            Ok(bytes) => whole(bytes, style.gzip, media),
            Err(s) => return failure(&s, &Style { accepted: Accepted::default(), ..*style }),
        },
        Made::Message(m) => whole(m, style.gzip, media),
        Made::Chunks(c) if style.accepted.encoding == Encoding::Json && !style.pretty => chunks(c, style.gzip, media),
        Made::Chunks(c) => return answer(Answer { body: Made::Bytes(Made::Chunks(c).collect()), ..a }, style, stops),
        Made::Protobuf(c) => chunks(c, style.gzip, media),
        Made::Watch(s) => {
            let stops = stops.clone();
            let s = s.take_until(stops.cancelled_owned());
            match style.accepted.encoding {
                Encoding::Protobuf => with_type(Response::new(body::stream(s)), protobuf::WATCH_MEDIA_TYPE),
                Encoding::Cbor => with_type(Response::new(body::stream(s.map(|lines| cbor::watch_events(&lines).into()))), cbor::WATCH_MEDIA_TYPE),
                _ => with_type(Response::new(body::stream(s)), media),
            }
        }
    };
    *r.status_mut() = code;
    warn(r.headers_mut(), &a.warnings);
    r.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    r
}

/// The response of a refusal, or of a review: any JSON document with a code.
pub fn failure(s: &Status, style: &Style) -> Response<Body> {
    let mut r = answer(Answer { code: s.code, body: Made::Bytes(s.to_json().into()), warnings: Vec::new() }, style, &CancellationToken::new());
    if let Some(seconds) = s.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        r.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds as u64));
    }
    r
}

pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut r = Response::new(body::full(text));
    *r.status_mut() = code;
    r.headers_mut().insert(CONTENT_TYPE, TEXT);
    r.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    r
}

/// For paths that no route has, in upstream's words.
pub fn no_route() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn with_type(mut r: Response<Body>, media: &'static str) -> Response<Body> {
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    r
}

/// A JSON document as the client wants it; 406 when it has no such form.
fn encoded(json: Bytes, style: &Style) -> Result<Bytes, Status> {
    Ok(match style.accepted.encoding {
        Encoding::Yaml => to_yaml(&json),
        Encoding::Json if style.pretty => to_pretty(&json),
        Encoding::Json => json,
        Encoding::Cbor => cbor::encode(&serde_json::from_slice(&json).map_err(Status::internal)?).into(),
        Encoding::Protobuf => protobuf::encode(&json).map_err(|e| Status::failure(406, "NotAcceptable", e.to_string()))?.into(),
    })
}

fn whole(bytes: Bytes, gzip: bool, media: &'static str) -> Response<Body> {
    if gzip && bytes.len() >= GZIP_FROM_BYTES {
        let mut g = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::new(GZIP_LEVEL));
        if g.write_all(&bytes).is_ok()
            && let Ok(small) = g.finish()
        {
            return zipped(with_type(Response::new(body::full(small)), media));
        }
    }
    with_type(Response::new(body::full(bytes)), media)
}

/// A list in pieces, compressed piece by piece when asked for and large.
fn chunks(mut c: Box<dyn Iterator<Item = Bytes> + Send>, gzip: bool, media: &'static str) -> Response<Body> {
    let mut first = Vec::new();
    while gzip && first.iter().map(Bytes::len).sum::<usize>() < GZIP_FROM_BYTES {
        let Some(piece) = c.next() else {
            return with_type(Response::new(body::stream(futures::stream::iter(first))), media);
        };
        first.push(piece);
    }
    if !gzip {
        return with_type(Response::new(body::stream(futures::stream::iter(c))), media);
    }
    let mut encoder = Some(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL)));
    let mut c = first.into_iter().chain(c);
    let pieces = std::iter::from_fn(move || {
        loop {
            let Some(piece) = c.next() else {
                return encoder.take().and_then(|e| e.finish().ok()).map(Bytes::from);
            };
            let e = encoder.as_mut()?;
            e.write_all(&piece).ok()?;
            if !e.get_ref().is_empty() {
                return Some(Bytes::from(std::mem::take(e.get_mut())));
            }
        }
    });
    zipped(with_type(Response::new(body::stream(futures::stream::iter(pieces))), media))
}

fn zipped(mut r: Response<Body>) -> Response<Body> {
    r.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    r.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
    r
}

fn to_yaml(json: &Bytes) -> Bytes {
    let tree: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    keles_api::yaml::to_yaml(&tree).into()
}

/// With line breaks and two columns a level, in the order of the text.
fn to_pretty(json: &Bytes) -> Bytes {
    let mut out = Vec::with_capacity(json.len() + json.len() / 2);
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    for (i, c) in json.iter().copied().enumerate() {
        if in_text {
            out.push(c);
            in_text = escaped || c != b'"';
            escaped = !escaped && c == b'\\';
            continue;
        }
        let empty = |close: u8| json.get(i + 1) == Some(&close);
        match c {
            b'{' | b'[' => {
                out.push(c);
                depth += 1;
                if !empty(c + 2) {
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if i == 0 || json[i - 1] != c - 2 {
                    line(&mut out, depth);
                }
                out.push(c);
            }
            b',' => {
                out.push(c);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => {
                in_text = c == b'"';
                out.push(c);
            }
        }
    }
    out.into()
}

/// A warning before those that are there already, as upstream orders them: the API first, then the object.
pub fn warn_first(headers: &mut HeaderMap, warning: &str) {
    let others: Vec<HeaderValue> = headers.get_all(WARNING).into_iter().cloned().collect();
    headers.remove(WARNING);
    warn(headers, &[warning]);
    for w in others {
        headers.append(WARNING, w);
    }
}

/// `Warning: 299 - "text"`, one header a text, as RFC 2616 quotes it.
pub fn warn<S: AsRef<str>>(headers: &mut HeaderMap, warnings: &[S]) {
    for w in warnings {
        let w = w.as_ref();
        let quoted: String = w.chars().flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] }).filter(|c| !c.is_control()).collect();
        if let Ok(v) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append(WARNING, v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pretty_json_keeps_its_order_and_its_text() {
        let json = Bytes::from_static(br#"{"kind":"A","apiVersion":"v1","a":[],"b":{},"c":[1,{"x":"{\"a\": [,]\\"}],"d":null}"#);
        let pretty = to_pretty(&json);
        let want = "{\n  \"kind\": \"A\",\n  \"apiVersion\": \"v1\",\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    {\n      \"x\": \"{\\\"a\\\": [,]\\\\\"\n    }\n  ],\n  \"d\": null\n}";
        assert_eq!(std::str::from_utf8(&pretty).unwrap(), want);
    }
}
