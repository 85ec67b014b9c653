//! Messages in a body: a flag, a length of four bytes, the message.

use crate::{Code, MESSAGE_BYTES_MAX, Status};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use prost::Message;

const HEAD_BYTES: usize = 5;

pub fn encode(message: &impl Message) -> Bytes {
    let n = message.encoded_len();
    let mut out = BytesMut::with_capacity(HEAD_BYTES + n);
    out.put_u8(0);
    out.put_u32(n as u32);
    message.encode_raw(&mut out);
    out.freeze()
}

/// Takes messages out of a body as they come.
pub struct Frames<B> {
    body: B,
    held: BytesMut,
    message_bytes_max: usize,
    trailers: Option<http::HeaderMap>,
}

impl<B> Frames<B>
where
    B: Body + Unpin,
    B::Data: Buf,
    B::Error: std::fmt::Display,
{
    pub fn new(body: B) -> Self {
        Frames::limited(body, MESSAGE_BYTES_MAX)
    }

    pub fn limited(body: B, message_bytes_max: usize) -> Self {
        Frames { body, held: BytesMut::new(), message_bytes_max, trailers: None }
    }

    /// The next message; `None` at the end, when [`Frames::trailers`] are known.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.held.put(data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(e)) => return Err(Status::new(Code::Unavailable, format!("the connection broke: {e}"))),
                None if self.held.is_empty() => return Ok(None),
                None => return Err(Status::new(Code::Internal, "the body ends within a message")),
            }
        }
    }

    pub fn trailers(&self) -> Option<&http::HeaderMap> {
        self.trailers.as_ref()
    }

    fn whole(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((&flag, rest)) = self.held.split_first() else { return Ok(None) };
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        if flag != 0 {
            return Err(Status::new(Code::Unimplemented, "a compressed message, though no compression was offered"));
        }
        let n = u32::from_be_bytes(*length) as usize;
        if n > self.message_bytes_max {
            return Err(Status::new(Code::ResourceExhausted, format!("received message larger than max ({n} vs. {})", self.message_bytes_max)));
        }
        if self.held.len() < HEAD_BYTES + n {
            return Ok(None);
        }
        self.held.advance(HEAD_BYTES);
        Ok(Some(self.held.split_to(n).freeze()))
    }
}

pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|e| Status::new(Code::Internal, format!("the message does not decode: {e}")))
}
