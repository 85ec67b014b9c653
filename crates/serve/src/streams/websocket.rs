//! WebSocket carriers: numbered channels (one message, first byte the channel) and a plain byte tunnel.

use super::{STREAM_BUFFER_BYTES, StreamError};
use base64::Engine;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};

/// RFC 6455, section 5.5: a control frame's payload is at most 125 bytes, two of them the code.
const MAX_CLOSE_REASON_BYTES: usize = 123;
/// Channel of the v5 protocol whose payload names the channel that the client closed.
pub const CLOSE_CHANNEL: u8 = 255;

/// Payload encoding of a channel protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Binary,
    Base64,
}

/// What a client sent on a numbered channel.
pub enum Incoming {
    Data {
        channel: u8,
        bytes: Bytes,
    },
    /// v5: no more data will come on this channel.
    Closed {
        channel: u8,
    },
}

type Stream<S> = WebSocketStream<S>;

/// The receiving half.
pub struct ChannelReader<S> {
    stream: SplitStream<Stream<S>>,
    encoding: Encoding,
}

/// The sending half.
pub struct ChannelWriter<S> {
    sink: SplitSink<Stream<S>, Message>,
    encoding: Encoding,
}

pub async fn channels<S: AsyncRead + AsyncWrite + Unpin>(io: S, encoding: Encoding) -> (ChannelReader<S>, ChannelWriter<S>) {
    let (sink, stream) = server(io).await.split();
    (ChannelReader { stream, encoding }, ChannelWriter { sink, encoding })
}

async fn server<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> Stream<S> {
    const MAX_MESSAGE_BYTES: usize = 32 << 20;
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES)).max_frame_size(Some(MAX_MESSAGE_BYTES));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

impl<S: AsyncRead + AsyncWrite + Unpin> ChannelReader<S> {
    /// The next message, absent at the end. Pings are answered by the sending half when it next flushes.
    pub async fn next(&mut self) -> Result<Option<Incoming>, StreamError> {
        while let Some(message) = self.stream.next().await {
            let payload = match message? {
                Message::Binary(b) => b,
                Message::Text(t) => Bytes::from(t),
                Message::Close(_) => return Ok(None),
                _ => continue,
            };
            let Some((&first, rest)) = payload.split_first() else { continue };
            return Ok(Some(match self.encoding {
                Encoding::Binary if first == CLOSE_CHANNEL && rest.len() == 1 => Incoming::Closed { channel: rest[0] },
                Encoding::Binary => Incoming::Data { channel: first, bytes: payload.slice(1..) },
                Encoding::Base64 => {
                    let bytes = base64::engine::general_purpose::STANDARD.decode(rest).map_err(|e| StreamError::Peer(format!("a base64 channel message: {e}")))?;
                    Incoming::Data { channel: first.wrapping_sub(b'0'), bytes: bytes.into() }
                }
            }));
        }
        Ok(None)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ChannelWriter<S> {
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<(), StreamError> {
        let message = match self.encoding {
            Encoding::Binary => {
                let mut b = BytesMut::with_capacity(bytes.len() + 1);
                b.put_u8(channel);
                b.put_slice(bytes);
                Message::Binary(b.freeze())
            }
            Encoding::Base64 => Message::Text(format!("{}{}", char::from(b'0' + channel), base64::engine::general_purpose::STANDARD.encode(bytes)).into()),
        };
        Ok(self.sink.send(message).await?)
    }
    /// The coded Close without which kubectl prints 1005. Fine when the peer is already gone.
    pub async fn close(&mut self, error: Option<&str>) {
        let (code, reason) = match error {
            None => (CloseCode::Normal, String::new()),
            Some(e) => (CloseCode::Error, shorten(e)),
        };
        let _ = self.sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
        let _ = self.sink.close().await;
    }
}

/// Sends a body as messages, after an empty one, and closes; ends early when the client closes.
pub async fn one_way<S, B>(io: S, encoding: Encoding, mut body: B) -> Result<(), StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let (mut sink, mut stream) = server(io).await.split();
    let message = |bytes: Bytes| match encoding {
        Encoding::Binary => Message::Binary(bytes),
        Encoding::Base64 => Message::Text(base64::engine::general_purpose::STANDARD.encode(&bytes).into()),
    };
    sink.send(message(Bytes::new())).await?;
    let error = loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            said = stream.next() => match said {
                None | Some(Err(_) | Ok(Message::Close(_))) => return Ok(()),
                Some(Ok(_)) => continue,
            },
        };
        match frame {
            None => break None,
            Some(Err(e)) => break Some(e.to_string()),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    sink.send(message(bytes)).await?;
                }
            }
        }
    };
    ChannelWriter { sink, encoding }.close(error.as_deref()).await;
    Ok(())
}

fn shorten(reason: &str) -> String {
    let mut end = reason.len().min(MAX_CLOSE_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

/// A byte stream carried in binary messages: SPDY inside WebSocket. Messages have no meaning as units.
pub async fn tunnel<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: S) -> DuplexStream {
    let (mut sink, mut stream) = server(io).await.split();
    let (ours, theirs) = tokio::io::duplex(STREAM_BUFFER_BYTES);
    let (mut from_us, mut to_us) = tokio::io::split(theirs);
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let ended = match message {
                Message::Binary(b) => to_us.write_all(&b).await.is_err(),
                Message::Close(_) => true,
                _ => false,
            };
            if ended {
                break;
            }
        }
        let _ = to_us.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buf = BytesMut::with_capacity(STREAM_BUFFER_BYTES);
        while let Ok(n) = from_us.read_buf(&mut buf).await {
            if n == 0 || sink.send(Message::Binary(buf.split().freeze())).await.is_err() {
                break;
            }
        }
        let _ = sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await;
        let _ = sink.close().await;
    });
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_reason_fits_its_frame_and_stays_text() {
        let long = "é".repeat(100);
        let s = shorten(&long);
        assert!(s.len() <= MAX_CLOSE_REASON_BYTES && long.starts_with(&s));
    }
}
