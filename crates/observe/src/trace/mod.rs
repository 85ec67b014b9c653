//! Traces: spans of requests and of what they lead to, sent by OTLP.
//!
//! Entry points: [`start`] with upstream's TracingConfiguration, [`request`] for the span of a request, [`child`] for what happens within
//! (a webhook, the store), [`traceparent`] for what is sent to others. Without [`start`] nothing is made and nothing is paid but a load.
//! Invariants: a collector that is slow or gone costs spans, never requests; at most [`export::QUEUED_MAX`] wait.
//! The exporter is our own (`export`): OTLP over gRPC is one message of a dozen fields, the library for it brings tonic and a second
//! set of tracing types (about 40 crates).
//! Sources: KEP-647, opentelemetry.io/docs/specs/otlp, W3C trace context.

mod config;
mod export;

pub use config::{Configuration, TraceError};

use crate::current;
use rand::Rng;
use std::fmt::Write;
use std::sync::OnceLock;
use std::time::SystemTime;
use tokio::sync::mpsc;

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace_id: u128,
    pub span_id: u64,
    pub sampled: bool,
}

impl Context {
    /// The header of the W3C: `00-<trace id>-<span id>-<flags>`.
    pub fn parse(header: &str) -> Option<Context> {
        let mut parts = header.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lower = |s: &str, len: usize| s.len() == len && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        // Later versions may say more; the first four parts stay what they are.
        let fits = lower(version, 2) && version != "ff" && lower(trace, 32) && lower(span, 16) && lower(flags, 2) && (version != "00" || parts.next().is_none());
        let trace_id = u128::from_str_radix(trace, 16).ok()?;
        let span_id = u64::from_str_radix(span, 16).ok()?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        (fits && trace_id != 0 && span_id != 0).then_some(Context { trace_id, span_id, sampled })
    }
    /// As [`Context::parse`] reads it.
    pub fn header(&self) -> String {
        let mut s = String::with_capacity(55);
        let _ = write!(s, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled));
        s
    }
}

/// What a span is to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Text(String),
    Number(i64),
}

impl From<&str> for Attribute {
    fn from(s: &str) -> Self {
        Attribute::Text(s.to_owned())
    }
}
impl From<String> for Attribute {
    fn from(s: String) -> Self {
        Attribute::Text(s)
    }
}
impl From<u16> for Attribute {
    fn from(n: u16) -> Self {
        Attribute::Number(n.into())
    }
}

/// A span that is over.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    context: Context,
    parent: Option<u64>,
    link: Option<Context>,
    name: String,
    kind: Kind,
    began: SystemTime,
    ended: SystemTime,
    attributes: Vec<(&'static str, Attribute)>,
    failed: bool,
}

struct Tracer {
    /// Of a million traces that begin here, so many are kept.
    per_million: u32,
    to: mpsc::Sender<Finished>,
}

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// Starts exporting, as `service`; a second call changes nothing. Must run within tokio.
pub fn start(c: &Configuration, service: &'static str) {
    let (to, from) = mpsc::channel(export::QUEUED_MAX);
    if TRACER.set(Tracer { per_million: c.sampling_rate_per_million, to }).is_ok() {
        tokio::spawn(export::run(c.endpoint.clone(), service, from));
    }
}

/// An open span; it ends when dropped.
pub struct Span {
    pub context: Context,
    what: Option<Finished>,
}

/// The span of a request. `header` is its `traceparent`; `trusted` callers go on with their trace, others begin one that names theirs.
pub fn request(name: impl FnOnce() -> String, header: Option<&str>, trusted: bool) -> Option<Span> {
    let tracer = TRACER.get()?;
    let theirs = header.and_then(Context::parse);
    let mut random = rand::rng();
    let (context, parent, link) = match theirs {
        Some(t) if trusted => (Context { span_id: random.random_range(1..=u64::MAX), ..t }, Some(t.span_id), None),
        _ => {
            let trace_id = random.random_range(1..=u128::MAX);
            (Context { trace_id, span_id: random.random_range(1..=u64::MAX), sampled: samples(trace_id, tracer.per_million) }, None, theirs)
        }
    };
    Some(Span::open(context, parent, link, name, Kind::Server))
}

/// A span within the request's ([`current::begin`]); `None` when there is none.
pub fn child(name: impl FnOnce() -> String, kind: Kind) -> Option<Span> {
    TRACER.get()?;
    let parent = current::context()?;
    let context = Context { span_id: rand::rng().random_range(1..=u64::MAX), ..parent };
    Some(Span::open(context, Some(parent.span_id), None, name, kind))
}

/// The header that tells others of the request's trace.
pub fn traceparent() -> Option<String> {
    TRACER.get()?;
    current::context().map(|c| c.header())
}

/// By the trace's id, so that all who sample at a rate keep the same traces.
fn samples(trace_id: u128, per_million: u32) -> bool {
    const MILLION: u64 = 1_000_000;
    (trace_id as u64 >> 1) < ((1u64 << 63) / MILLION).saturating_mul(u64::from(per_million)) || u64::from(per_million) >= MILLION
}

impl Span {
    fn open(context: Context, parent: Option<u64>, link: Option<Context>, name: impl FnOnce() -> String, kind: Kind) -> Span {
        let now = SystemTime::now();
        // A trace that is not kept has no words, only its ids to pass on.
        let what = context.sampled.then(|| Finished { context, parent, link, name: name(), kind, began: now, ended: now, attributes: Vec::new(), failed: false });
        Span { context, what }
    }
    pub fn attribute(&mut self, name: &'static str, value: impl Into<Attribute>) {
        if let Some(w) = &mut self.what {
            w.attributes.push((name, value.into()));
        }
    }
    pub fn fail(&mut self) {
        if let Some(w) = &mut self.what {
            w.failed = true;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let (Some(mut w), Some(t)) = (self.what.take(), TRACER.get()) {
            w.ended = SystemTime::now();
            // Full: the collector is behind, and the span is lost rather than the request slowed.
            let _ = t.to.try_send(w);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_w3cs() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let c = Context::parse(text).unwrap();
        assert_eq!((c.header().as_str(), c.sampled), (text, true));
        for bad in [
            "",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        ] {
            assert_eq!(Context::parse(bad), None, "{bad}");
        }
        assert!(Context::parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more").is_some_and(|c| !c.sampled));
    }

    #[test]
    fn sampling_is_a_share_of_the_ids() {
        assert!(!samples(u128::MAX, 0) && samples(u128::MAX, 1_000_000));
        let kept = (0..10_000u128).filter(|i| samples(i * (u64::MAX as u128 / 10_000), 250_000)).count();
        assert!((2_400..2_600).contains(&kept), "{kept}");
    }
}
