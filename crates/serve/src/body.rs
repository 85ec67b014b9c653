//! Response bodies as one type, and request bodies read up to a limit.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_util::sync::CancellationToken;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Every response body of ours.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body of pieces, each sent as soon as it is there. Empty pieces are skipped: an empty chunk ends an HTTP/1.1 body.
pub fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    stream_of(pieces.filter(|b| futures::future::ready(!b.is_empty())).map(|b| Ok(Frame::data(b))))
}

/// The same body, keeping `guard` until it has been sent or given up.
pub fn hold<T: Send + 'static>(b: Body, guard: T) -> Body {
    b.map_frame(move |frame| {
        let _kept = &guard;
        frame
    })
    .boxed_unsync()
}

/// The same body, ended when `stop` is cancelled.
pub fn until(b: Body, stop: CancellationToken) -> Body {
    stream_of(BodyStream::new(b).take_until(stop.cancelled_owned()))
}

fn stream_of(frames: impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send + 'static) -> Body {
    StreamBody::new(frames).boxed_unsync()
}

/// The same body, keeping `guard` until it has first nothing to send, has been sent or given up: what it had ready when it began.
pub fn hold_while_ready<T: Send + Unpin + 'static>(b: Body, guard: T) -> Body {
    Ready { body: b, guard: Some(guard) }.boxed_unsync()
}

struct Ready<T> {
    body: Body,
    guard: Option<T>,
}

impl<T: Unpin> http_body::Body for Ready<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if !matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.guard = None;
        }
        polled
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the body is over the limit of {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
    #[error("the body broke off: {0}")]
    Broken(BoxError),
}

/// Reads a whole body, at most `limit_bytes` of it.
pub async fn read<B>(body: B, limit_bytes: usize) -> Result<Bytes, ReadError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    if body.size_hint().lower() > limit_bytes as u64 {
        return Err(ReadError::TooLarge { limit_bytes });
    }
    // Most bodies arrive as one frame: handed on without a copy.
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| ReadError::Broken(e.into()))?.into_data() else { continue };
        if data.len() + all.len() + first.as_ref().map_or(0, Bytes::len) > limit_bytes {
            return Err(ReadError::TooLarge { limit_bytes });
        }
        match first.take() {
            None if all.is_empty() => first = Some(data),
            None => all.extend_from_slice(&data),
            Some(f) => {
                all.reserve(f.len() + data.len());
                all.extend_from_slice(&f);
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_held_while_a_body_is_ready_goes_when_it_waits() {
        let (send, pieces) = futures::channel::mpsc::unbounded();
        let held = std::sync::Arc::new(());
        let mut b = hold_while_ready(stream(pieces), held.clone());
        for piece in ["a", "b"] {
            send.unbounded_send(Bytes::from(piece)).unwrap();
        }
        for piece in ["a", "b"] {
            assert_eq!(b.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
            assert_eq!(std::sync::Arc::strong_count(&held), 2, "still at it");
        }
        assert!(futures::poll!(b.frame()).is_pending());
        assert_eq!(std::sync::Arc::strong_count(&held), 1, "it waits for news now");
        send.unbounded_send(Bytes::from("c")).unwrap();
        assert_eq!(b.frame().await.unwrap().unwrap().into_data().unwrap(), "c");
    }

    #[tokio::test]
    async fn a_body_ends_when_told() {
        let stop = CancellationToken::new();
        let mut b = until(stream(futures::stream::pending()), stop.clone());
        assert!(futures::poll!(b.frame()).is_pending());
        stop.cancel();
        assert!(b.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_whether_announced_or_not() {
        assert!(matches!(read(Full::new(Bytes::from_static(b"12345")), 4).await, Err(ReadError::TooLarge { limit_bytes: 4 })));
        let pieces = futures::stream::iter([Bytes::from_static(b"123"), Bytes::from_static(b"45")]);
        assert!(matches!(read(stream(pieces), 4).await, Err(ReadError::TooLarge { .. })));
        let pieces = futures::stream::iter([Bytes::from_static(b"123"), Bytes::new(), Bytes::from_static(b"45"), Bytes::from_static(b"6")]);
        assert_eq!(read(stream(pieces), 6).await.unwrap(), "123456");
    }
}
