//! SPDY/3.1 frames: the eight control frames and data, with compressed header blocks.
//!
//! Source: SPDY Protocol, draft 3.1. Integers are big endian, names are lower case, header blocks of one direction share one
//! zlib stream that starts from a fixed dictionary.

use super::super::StreamError;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

const VERSION: u16 = 3;
const FRAME_HEADER_BYTES: usize = 8;
/// Longest frame we take; clients send 32 KB pieces.
const MAX_FRAME_BYTES: usize = 1 << 20;
/// Longest header block after decompression.
const MAX_HEADERS_BYTES: usize = 64 << 10;
pub const FLAG_FIN: u8 = 1;

pub type Headers = Vec<(String, String)>;

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Data { stream: u32, fin: bool, bytes: Bytes },
    SynStream { stream: u32, fin: bool, headers: Headers },
    SynReply { stream: u32, fin: bool, headers: Headers },
    Reset { stream: u32, status: u32 },
    Settings,
    Ping { id: u32 },
    GoAway { last_stream: u32, status: u32 },
    Headers { stream: u32, fin: bool, headers: Headers },
    WindowUpdate { stream: u32, delta_bytes: u32 },
}

/// Reads frames; keeps the inflating state of its direction.
pub struct Decoder {
    inflate: Decompress,
}

/// Writes frames; keeps the deflating state of its direction.
pub struct Encoder {
    deflate: Compress,
}

fn broken(what: impl Into<String>) -> StreamError {
    StreamError::Peer(format!("spdy: {}", what.into()))
}

impl Decoder {
    pub fn new() -> Self {
        Decoder { inflate: Decompress::new(true) }
    }
    /// The next whole frame of `buf`, absent when more bytes are needed.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, StreamError> {
        if buf.len() < FRAME_HEADER_BYTES {
            return Ok(None);
        }
        let len = u32::from_be_bytes([0, buf[5], buf[6], buf[7]]) as usize;
        if len > MAX_FRAME_BYTES {
            return Err(broken(format!("a frame of {len} bytes, the limit is {MAX_FRAME_BYTES}")));
        }
        if buf.len() < FRAME_HEADER_BYTES + len {
            return Ok(None);
        }
        let mut head = buf.split_to(FRAME_HEADER_BYTES);
        let body = buf.split_to(len).freeze();
        let (first, flags) = (head.get_u32(), head.get_u8());
        let fin = flags & FLAG_FIN != 0;
        if first & 1 << 31 == 0 {
            return Ok(Some(Frame::Data { stream: first, fin, bytes: body }));
        }
        let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
        if version != VERSION {
            return Err(broken(format!("version {version} instead of {VERSION}")));
        }
        self.control(kind, fin, body).map(Some)
    }
    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Frame, StreamError> {
        let needed = match kind {
            1 => 10,
            2 | 8 | 6 => 4,
            3 | 7 | 9 => 8,
            4 => 0,
            other => return Err(broken(format!("unknown control frame {other}"))),
        };
        if body.len() < needed {
            return Err(broken(format!("control frame {kind} of {} bytes", body.len())));
        }
        if kind == 4 {
            return Ok(Frame::Settings);
        }
        let stream = body.get_u32() & 0x7fff_ffff;
        Ok(match kind {
            1 => {
                body.advance(6);
                Frame::SynStream { stream, fin, headers: self.headers(&body)? }
            }
            2 => Frame::SynReply { stream, fin, headers: self.headers(&body)? },
            3 => Frame::Reset { stream, status: body.get_u32() },
            6 => Frame::Ping { id: stream },
            7 => Frame::GoAway { last_stream: stream, status: body.get_u32() },
            8 => Frame::Headers { stream, fin, headers: self.headers(&body)? },
            _ => Frame::WindowUpdate { stream, delta_bytes: body.get_u32() & 0x7fff_ffff },
        })
    }
    fn headers(&mut self, packed: &[u8]) -> Result<Headers, StreamError> {
        let plain = self.unpack(packed)?;
        let mut b = plain.as_slice();
        let word = |b: &mut &[u8]| -> Result<usize, StreamError> {
            if b.len() < 4 {
                return Err(broken("a header block ends early"));
            }
            Ok(b.get_u32() as usize)
        };
        let text = |b: &mut &[u8]| -> Result<String, StreamError> {
            let n = word(b)?;
            if b.len() < n {
                return Err(broken("a header block ends early"));
            }
            let s = String::from_utf8_lossy(&b[..n]).into_owned();
            b.advance(n);
            Ok(s)
        };
        let count = word(&mut b)?;
        let mut out = Headers::new();
        for _ in 0..count.min(MAX_HEADERS_BYTES) {
            let name = text(&mut b)?;
            out.push((name, text(&mut b)?));
        }
        Ok(out)
    }
    fn unpack(&mut self, mut packed: &[u8]) -> Result<Vec<u8>, StreamError> {
        let mut out = Vec::with_capacity(1024);
        loop {
            if out.len() >= MAX_HEADERS_BYTES {
                return Err(broken(format!("a header block over {MAX_HEADERS_BYTES} bytes")));
            }
            out.reserve(1024);
            let (read, wrote) = (self.inflate.total_in(), self.inflate.total_out());
            let result = self.inflate.decompress_vec(packed, &mut out, FlushDecompress::Sync);
            packed = &packed[(self.inflate.total_in() - read) as usize..];
            match result {
                Err(e) if e.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(DICTIONARY).map_err(|e| broken(format!("the header dictionary: {e}")))?;
                }
                Err(e) => return Err(broken(format!("a header block: {e}"))),
                Ok(Status::StreamEnd) => return Ok(out),
                Ok(_) if packed.is_empty() && out.len() < out.capacity() => return Ok(out),
                Ok(_) if self.inflate.total_out() == wrote && packed.is_empty() => return Ok(out),
                Ok(_) => {}
            }
        }
    }
}

impl Encoder {
    pub fn new() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(DICTIONARY).expect("a fresh stream takes a dictionary");
        Encoder { deflate }
    }
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::Data { stream, fin, bytes } => {
                out.put_u32(stream & 0x7fff_ffff);
                out.put_u32(u32::from(*fin) << 24 | bytes.len() as u32);
                out.put_slice(bytes);
            }
            Frame::SynStream { stream, fin, headers } => {
                let packed = self.pack(headers);
                control(out, 1, *fin, 10 + packed.len());
                out.put_u32(*stream);
                out.put_slice(&[0; 6]);
                out.put_slice(&packed);
            }
            Frame::SynReply { stream, fin, headers } | Frame::Headers { stream, fin, headers } => {
                let packed = self.pack(headers);
                control(out, if matches!(frame, Frame::SynReply { .. }) { 2 } else { 8 }, *fin, 4 + packed.len());
                out.put_u32(*stream);
                out.put_slice(&packed);
            }
            Frame::Reset { stream, status } => words(out, 3, &[*stream, *status]),
            Frame::Settings => words(out, 4, &[0]),
            Frame::Ping { id } => words(out, 6, &[*id]),
            Frame::GoAway { last_stream, status } => words(out, 7, &[*last_stream, *status]),
            Frame::WindowUpdate { stream, delta_bytes } => words(out, 9, &[*stream, *delta_bytes]),
        }
    }
    fn pack(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for s in headers.iter().flat_map(|(k, v)| [k, v]) {
            plain.put_u32(s.len() as u32);
            plain.put_slice(s.as_bytes());
        }
        let start = self.deflate.total_in();
        let mut out = Vec::with_capacity(plain.len() + 64);
        loop {
            let done = (self.deflate.total_in() - start) as usize;
            self.deflate.compress_vec(&plain[done..], &mut out, FlushCompress::Sync).expect("deflating memory into memory does not fail");
            if (self.deflate.total_in() - start) as usize == plain.len() && out.len() < out.capacity() {
                return out;
            }
            out.reserve(1024);
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, fin: bool, len: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(fin) << 24 | len as u32);
}

fn words(out: &mut BytesMut, kind: u16, body: &[u32]) {
    control(out, kind, false, body.len() * 4);
    body.iter().for_each(|w| out.put_u32(*w));
}

/// The dictionary of SPDY/3 header compression: length-prefixed words, then common values.
static DICTIONARY: &[u8] = include_bytes!("dictionary.bin");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_every_peer_has() {
        let (mut a, mut b) = (1u32, 0u32);
        for byte in DICTIONARY {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((DICTIONARY.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn frames_survive_the_wire_in_any_pieces() {
        let h = |v: &str| vec![("streamtype".to_owned(), v.to_owned()), ("port".to_owned(), "80".to_owned())];
        let frames = [
            Frame::SynStream { stream: 1, fin: false, headers: h("error") },
            Frame::SynStream { stream: 3, fin: false, headers: h("data") },
            Frame::SynReply { stream: 3, fin: false, headers: vec![] },
            Frame::Data { stream: 3, fin: true, bytes: Bytes::from_static(b"hello") },
            Frame::Reset { stream: 3, status: 5 },
            Frame::Ping { id: 7 },
            Frame::GoAway { last_stream: 3, status: 0 },
            Frame::WindowUpdate { stream: 3, delta_bytes: 9 },
            Frame::Headers { stream: 1, fin: true, headers: h("x") },
        ];
        let (mut encoder, mut wire) = (Encoder::new(), BytesMut::new());
        frames.iter().for_each(|f| encoder.encode(f, &mut wire));
        let (mut decoder, mut buf, mut got) = (Decoder::new(), BytesMut::new(), vec![]);
        for byte in wire {
            buf.put_u8(byte);
            got.extend(decoder.decode(&mut buf).expect("valid"));
        }
        assert_eq!(got, frames);
    }

    #[test]
    fn garbage_is_refused_and_never_panics() {
        for bad in [
            &[0x80, 2, 0, 1, 0, 0, 0, 0][..],
            &[0x80, 3, 0, 1, 0, 0, 0, 1, 9],
            &[0x80, 3, 0, 99, 0, 0, 0, 0],
            &[0x80, 3, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 9, 9, 9, 9],
            &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
        ] {
            assert!(Decoder::new().decode(&mut BytesMut::from(bad)).is_err(), "{bad:x?}");
        }
    }
}
