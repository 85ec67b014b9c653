//! The log's bytes: file header, frames, records. Pure; golden bytes in the tests.
//!
//! A file is a 16-byte header and then frames. A frame is what one group commit wrote: a header (magic, payload length, payload crc32c,
//! crc32c of these) and records back to back. The frame, not the record, is the unit that may be torn, because one write call made it.
//! All integers are little-endian.

use crate::Revision;

const FILE_MAGIC: &[u8; 8] = b"KELESLOG";
const FILE_VERSION: u32 = 1;
pub const FILE_HEADER_BYTES: usize = 16;

const FRAME_MAGIC: u32 = 0x4d52_464b; // "KFRM"
pub const FRAME_HEADER_BYTES: usize = 16;
pub const RECORD_HEADER_BYTES: usize = 1 + 8 + 8 + 8 + 4 + 4 + 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Delete,
    /// History before `created` is forgotten; `revision` is the present one.
    Compact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub kind: Kind,
    pub revision: Revision,
    /// Put, Delete: when the key was created. Compact: the oldest revision kept.
    pub created: Revision,
    /// Unix milliseconds; 0: never.
    pub expires_ms: u64,
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub value_crc: u32,
}

pub fn file_header() -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    header[..8].copy_from_slice(FILE_MAGIC);
    header[8..12].copy_from_slice(&FILE_VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// A frame under construction.
pub struct Frame {
    buffer: Vec<u8>,
}

impl Frame {
    pub fn new() -> Frame {
        Frame { buffer: vec![0; FRAME_HEADER_BYTES] }
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.len() == FRAME_HEADER_BYTES
    }

    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Appends a record; where its value starts, counted from the frame's first byte.
    pub fn push(&mut self, r: &Record) -> u64 {
        let out = &mut self.buffer;
        out.push(match r.kind {
            Kind::Put => 1,
            Kind::Delete => 2,
            Kind::Compact => 3,
        });
        out.extend_from_slice(&r.revision.to_le_bytes());
        out.extend_from_slice(&r.created.to_le_bytes());
        out.extend_from_slice(&r.expires_ms.to_le_bytes());
        out.extend_from_slice(&(r.key.len() as u32).to_le_bytes());
        out.extend_from_slice(&(r.value.len() as u32).to_le_bytes());
        out.extend_from_slice(&r.value_crc.to_le_bytes());
        out.extend_from_slice(r.key);
        let value_at = out.len() as u64;
        out.extend_from_slice(r.value);
        value_at
    }

    /// Fills in the header; the bytes to write.
    pub fn finish(&mut self) -> &[u8] {
        let length = (self.buffer.len() - FRAME_HEADER_BYTES) as u32;
        let payload_crc = crc32c::crc32c(&self.buffer[FRAME_HEADER_BYTES..]);
        self.buffer[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        self.buffer[4..8].copy_from_slice(&length.to_le_bytes());
        self.buffer[8..12].copy_from_slice(&payload_crc.to_le_bytes());
        let header_crc = crc32c::crc32c(&self.buffer[..12]);
        self.buffer[12..16].copy_from_slice(&header_crc.to_le_bytes());
        &self.buffer
    }

    pub fn clear(&mut self) {
        self.buffer.truncate(FRAME_HEADER_BYTES);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A valid frame header: payload length and payload checksum.
pub fn frame_header(bytes: &[u8]) -> Option<(usize, u32)> {
    let header = bytes.get(..FRAME_HEADER_BYTES)?;
    if u32_at(header, 0) != FRAME_MAGIC || u32_at(header, 12) != crc32c::crc32c(&header[..12]) {
        return None;
    }
    Some((u32_at(header, 4) as usize, u32_at(header, 8)))
}

/// Whether a whole valid frame starts anywhere in `bytes`: tells damage in the middle from a torn end.
pub fn holds_a_frame(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| {
        frame_header(&bytes[at..]).is_some_and(|(length, crc)| {
            let start = at + FRAME_HEADER_BYTES;
            bytes.get(start..start + length).is_some_and(|payload| crc32c::crc32c(payload) == crc)
        })
    })
}

/// The record at `at` of a frame's payload and where the next one starts; `None` when it does not parse.
pub fn decode(payload: &[u8], at: usize) -> Option<(Record<'_>, usize)> {
    let header = payload.get(at..at + RECORD_HEADER_BYTES)?;
    let kind = match header[0] {
        1 => Kind::Put,
        2 => Kind::Delete,
        3 => Kind::Compact,
        _ => return None,
    };
    let key_at = at + RECORD_HEADER_BYTES;
    let value_at = key_at.checked_add(u32_at(header, 25) as usize)?;
    let end = value_at.checked_add(u32_at(header, 29) as usize)?;
    let record = Record {
        kind,
        revision: u64_at(header, 1),
        created: u64_at(header, 9),
        expires_ms: u64_at(header, 17),
        key: payload.get(key_at..value_at)?,
        value: payload.get(value_at..end)?,
        value_crc: u32_at(header, 33),
    };
    Some((record, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_written_by_the_first_version_reads_for_ever() {
        let mut frame = Frame::new();
        let record = Record { kind: Kind::Put, revision: 7, created: 5, expires_ms: 9, key: b"k", value: b"vv", value_crc: crc32c::crc32c(b"vv") };
        assert_eq!(frame.push(&record), (FRAME_HEADER_BYTES + RECORD_HEADER_BYTES + 1) as u64);
        let bytes = frame.finish().to_vec();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("golden_frame.hex").trim(), "the format of disk files must not change; add a version instead");
        let (length, crc) = frame_header(&bytes).expect("the header is valid");
        assert_eq!(crc32c::crc32c(&bytes[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length]), crc);
        assert_eq!(decode(&bytes[FRAME_HEADER_BYTES..], 0), Some((record, length)));
    }
}
