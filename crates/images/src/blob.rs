//! Layer blobs as streams: digests of what passes, decompression told by the first bytes.

use keles_oci::{Digest, Hasher};
use std::io::{self, BufRead, BufReader, Read};

const BUFFER_BYTES: usize = 128 << 10;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Hashes what is read through it.
pub struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Hashing<R> {
    pub fn new(inner: R) -> Hashing<R> {
        Hashing { inner, hasher: Hasher::default() }
    }

    /// Reads to the end, since a digest is of everything.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }

    /// The digest of what was read, and what it was read from.
    pub fn finish(self) -> (Digest, R) {
        (self.hasher.finish(), self.inner)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Plain, gzip or zstd. By content: media types lie, and archives have none.
pub enum Decompressed<R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Decompressed<R> {
    pub fn new(raw: R) -> io::Result<Decompressed<R>> {
        let mut raw = BufReader::with_capacity(BUFFER_BYTES, raw);
        // A stream may give fewer bytes at first than the magic has; two are enough to tell, and nobody sends one.
        let start = raw.fill_buf()?;
        if start.starts_with(GZIP_MAGIC) {
            return Ok(Decompressed::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(raw))));
        }
        if start.starts_with(ZSTD_MAGIC) {
            return Ok(Decompressed::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(raw)?)));
        }
        Ok(Decompressed::Plain(raw))
    }

    pub fn is_compressed(&self) -> bool {
        !matches!(self, Decompressed::Plain(_))
    }

    pub fn into_raw(self) -> BufReader<R> {
        match self {
            Decompressed::Plain(raw) => raw,
            Decompressed::Gzip(decoder) => decoder.into_inner(),
            Decompressed::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decompressed::Plain(raw) => raw.read(buffer),
            Decompressed::Gzip(decoder) => decoder.read(buffer),
            Decompressed::Zstd(decoder) => decoder.read(buffer),
        }
    }
}
