//! Spans to a collector: OTLP over gRPC, in batches.

use super::{Attribute, Context, Finished};
use crate::proto::Message;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Spans that wait to be sent; further ones are lost.
pub const QUEUED_MAX: usize = 2048;
const BATCH_MAX: usize = 512;
/// The longest a span waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(5);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failure, spans are lost for so long.
const RETRY_AFTER: Duration = Duration::from_secs(5);
const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("HTTP/2: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("no answer within {} s", EXPORT_TIMEOUT.as_secs())]
    Timeout,
    #[error("refused with gRPC status {0}")]
    Refused(String),
}

/// Sends what comes, until nobody can send any more.
pub async fn run(endpoint: String, service: &'static str, mut from: mpsc::Receiver<Finished>) {
    let mut connection: Option<SendRequest<Full<Bytes>>> = None;
    let mut batch = Vec::new();
    let mut failing = false;
    while let Some(first) = from.recv().await {
        batch.push(first);
        let until = tokio::time::Instant::now() + BATCH_WAIT;
        while batch.len() < BATCH_MAX {
            match tokio::time::timeout_at(until, from.recv()).await {
                Ok(Some(span)) => batch.push(span),
                _ => break,
            }
        }
        let sent = tokio::time::timeout(EXPORT_TIMEOUT, send(&mut connection, &endpoint, service, &batch)).await.unwrap_or(Err(ExportError::Timeout));
        if let Err(error) = sent {
            connection = None;
            // Said once, until it works again.
            if !std::mem::replace(&mut failing, true) {
                tracing::warn!(endpoint, %error, "spans cannot be exported and are lost");
            }
            tokio::time::sleep(RETRY_AFTER).await;
        } else {
            failing = false;
        }
        batch.clear();
    }
}

async fn send(connection: &mut Option<SendRequest<Full<Bytes>>>, endpoint: &str, service: &str, batch: &[Finished]) -> Result<(), ExportError> {
    let mut sender = match connection.take().filter(|c| !c.is_closed()) {
        Some(c) => c,
        None => {
            let stream = TcpStream::connect(endpoint).await?;
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender
        }
    };
    let message = encode(service, batch);
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.extend_from_slice(&message);
    let request = Request::post(format!("http://{endpoint}{PATH}")).header("content-type", "application/grpc").header("te", "trailers").body(Full::new(framed.freeze()))?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let (head, body) = answer.into_parts();
    let trailers = body.collect().await?.trailers().cloned().unwrap_or_default();
    let status = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status")).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    match status.as_deref() {
        Some("0") => {}
        Some(other) => return Err(ExportError::Refused(other.to_owned())),
        None => return Err(ExportError::Refused(format!("missing, HTTP {}", head.status))),
    }
    *connection = Some(sender);
    Ok(())
}

/// ExportTraceServiceRequest.
fn encode(service: &str, batch: &[Finished]) -> Vec<u8> {
    let mut out = Message::default();
    out.message(1, |resource_spans| {
        resource_spans.message(1, |resource| attribute(resource, 1, "service.name", &service.into()));
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(1, |scope| {
                scope.text(1, "keles");
            });
            for span in batch {
                scope_spans.message(2, |m| one(m, span));
            }
        });
    });
    out.0
}

fn one(m: &mut Message, s: &Finished) {
    m.bytes(1, &s.context.trace_id.to_be_bytes()).bytes(2, &s.context.span_id.to_be_bytes());
    if let Some(p) = s.parent {
        m.bytes(4, &p.to_be_bytes());
    }
    m.text(5, &s.name).varint(6, s.kind as u64).fixed64(7, nanoseconds(s.began)).fixed64(8, nanoseconds(s.ended));
    for (name, value) in &s.attributes {
        attribute(m, 9, name, value);
    }
    if let Some(Context { trace_id, span_id, .. }) = s.link {
        m.message(13, |l| {
            l.bytes(1, &trace_id.to_be_bytes()).bytes(2, &span_id.to_be_bytes());
        });
    }
    if s.failed {
        const ERROR: u64 = 2;
        m.message(15, |status| {
            status.varint(3, ERROR);
        });
    }
    m.fixed32(16, 1);
}

fn attribute(m: &mut Message, field: u32, name: &str, value: &Attribute) {
    m.message(field, |pair| {
        pair.text(1, name).message(2, |v| match value {
            Attribute::Text(s) => {
                v.text(1, s);
            }
            Attribute::Number(n) => {
                v.varint(3, *n as u64);
            }
        });
    });
}

fn nanoseconds(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;
    use crate::proto::tests::at;

    #[test]
    fn a_batch_is_otlps_message() {
        let now = UNIX_EPOCH + Duration::from_nanos(5);
        let span = Finished {
            context: Context { trace_id: 1, span_id: 2, sampled: true },
            parent: Some(3),
            link: None,
            name: "GET /api/v1/pods".into(),
            kind: Kind::Server,
            began: now,
            ended: now,
            attributes: vec![("http.response.status_code", Attribute::Number(200))],
            failed: true,
        };
        let m = encode("apiserver", &[span]);
        let text = |path: &[u32]| String::from_utf8(at(&m, path).unwrap()).unwrap();
        assert_eq!((text(&[1, 1, 1, 1]), text(&[1, 1, 1, 2, 1])), ("service.name".into(), "apiserver".into()));
        assert_eq!(text(&[1, 2, 2, 5]), "GET /api/v1/pods");
        assert_eq!(at(&m, &[1, 2, 2, 1]).unwrap(), 1u128.to_be_bytes());
        assert_eq!(at(&m, &[1, 2, 2, 4]).unwrap(), 3u64.to_be_bytes());
        assert_eq!(at(&m, &[1, 2, 2, 7]).unwrap(), 5u64.to_le_bytes());
        assert_eq!(at(&m, &[1, 2, 2, 9, 2, 3]).unwrap(), 200u64.to_le_bytes());
        assert_eq!(at(&m, &[1, 2, 2, 15, 3]).unwrap(), 2u64.to_le_bytes());
    }
}
