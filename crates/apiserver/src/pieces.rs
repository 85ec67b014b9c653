//! A gzip body put together from pieces that were compressed one by one.
//!
//! A piece is raw deflate that ends at a byte boundary without ending the stream, so pieces stand one behind another in one gzip member
//! (RFC 1951, 1952), which every client can read: a document of thousands of parts is made anew by making the parts that changed.
//! Entry points: [`Piece::of`], [`gzip`], [`inflated`].

use bytes::{Buf, Bytes};
use flate2::read::GzDecoder;
use flate2::{Compress, Compression, Crc, FlushCompress};
use std::io::Read;

/// Some compressed bytes of a body.
#[derive(Debug)]
pub struct Piece {
    deflated: Bytes,
    /// Of the plain bytes; it knows how many there are.
    crc: Crc,
}

/// What `inflated` hands out at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Least room for output: a flush that finds less than six bytes is done in parts.
const ROOM_BYTES: usize = 64;
/// No name, no time, no system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// A last block, which is empty.
const DEFLATE_END: [u8; 2] = [3, 0];

impl Piece {
    pub fn of(plain: &[u8]) -> Piece {
        let mut crc = Crc::new();
        crc.update(plain);
        let mut deflate = Compress::new(Compression::default(), false);
        let mut out = Vec::with_capacity(plain.len() / 8 + ROOM_BYTES);
        // All is written out when room is left behind it (zlib's deflate(): the same flush until then).
        while !plain.is_empty() {
            let taken = usize::try_from(deflate.total_in()).expect("no more than the slice has");
            deflate.compress_vec(&plain[taken..], &mut out, FlushCompress::Sync).expect("raw deflate of memory has no bad state");
            if out.len() < out.capacity() {
                break;
            }
            out.reserve(out.capacity() + ROOM_BYTES);
        }
        out.shrink_to_fit();
        let deflated = out.into();
        Piece { deflated, crc }
    }
}

/// The pieces as one gzip member.
pub fn gzip(pieces: &[&Piece]) -> Bytes {
    let body: usize = pieces.iter().map(|p| p.deflated.len()).sum();
    let mut out = Vec::with_capacity(GZIP_HEAD.len() + body + DEFLATE_END.len() + 8);
    out.extend_from_slice(&GZIP_HEAD);
    let mut crc = Crc::new();
    for p in pieces {
        out.extend_from_slice(&p.deflated);
        crc.combine(&p.crc);
    }
    out.extend_from_slice(&DEFLATE_END);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    out.into()
}

/// How many plain bytes a gzip body of ours has (RFC 1952: ISIZE).
pub fn plain_len(gzip: &[u8]) -> usize {
    gzip.last_chunk().map_or(0, |last| u32::from_le_bytes(*last) as usize)
}

/// The plain bytes of a gzip body of ours, made as they are taken, so that a large document is never held whole.
pub fn inflated(gzip: Bytes) -> impl Iterator<Item = Bytes> + Send {
    let mut from = GzDecoder::new(gzip.reader());
    std::iter::from_fn(move || {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        // What we compressed ourselves in memory cannot fail to come back.
        let _ = from.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
        (!chunk.is_empty()).then(|| chunk.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_one_member_that_any_decoder_reads() {
        let parts: Vec<Vec<u8>> = vec![b"{\"a\":".to_vec(), Vec::new(), vec![b'x'; 300_000], (0..200_000u32).flat_map(u32::to_le_bytes).collect(), b"}".to_vec()];
        let pieces: Vec<Piece> = parts.iter().map(|p| Piece::of(p)).collect();
        let whole = gzip(&pieces.iter().collect::<Vec<_>>());
        let want = parts.concat();
        let mut got = Vec::new();
        let mut one_member = GzDecoder::new(&whole[..]);
        one_member.read_to_end(&mut got).unwrap();
        assert!(got == want, "length, checksum and content agree");
        assert_eq!(one_member.into_inner().len(), 0, "nothing behind the member");
        assert_eq!(plain_len(&whole), want.len());
        assert!(inflated(whole.clone()).collect::<Vec<_>>().concat() == want);
        assert!(inflated(whole).all(|c| c.len() <= CHUNK_BYTES));
        assert_eq!(inflated(gzip(&[])).count(), 0);
    }
}
