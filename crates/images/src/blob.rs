//! Layer blobs as streams: digests of what passes, decompression told by the first bytes, on a thread of its own.

use keles_oci::{Digest, Hasher};
use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const BUFFER_BYTES: usize = 128 << 10;
/// What goes from thread to thread at once, and how much may wait.
const PIECE_BYTES: usize = 256 << 10;
const PIECES_WAITING: usize = 4;
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

/// Both ends of a pipe between threads: one decompresses while the other makes files.
pub fn pipe() -> (Filler, Ahead) {
    let (sender, receiver) = sync_channel(PIECES_WAITING);
    let (used, empty) = sync_channel(PIECES_WAITING + 2);
    (Filler { sender, empty }, Ahead { receiver, used, piece: Vec::new(), at: 0 })
}

pub struct Filler {
    sender: SyncSender<io::Result<Vec<u8>>>,
    /// Buffers that were read come back.
    empty: Receiver<Vec<u8>>,
}

impl Filler {
    /// Decompresses the blob into the pipe, to its end also when that fails or nobody reads: the digest of the blob as it is stored, or why
    /// not all of it came.
    pub fn run(self, blob: impl Read) -> io::Result<Digest> {
        let mut hashing = Hashing::new(blob);
        if let Err(error) = Decompressed::new(&mut hashing).and_then(|mut content| self.fill(&mut content)) {
            // Nobody reads any more: nobody to tell.
            let _ = self.sender.send(Err(error));
        }
        drop(self);
        hashing.drain()?;
        Ok(hashing.finish().0)
    }

    fn fill(&self, content: &mut impl Read) -> io::Result<()> {
        loop {
            let mut piece = self.empty.try_recv().unwrap_or_default();
            piece.clear();
            piece.reserve_exact(PIECE_BYTES);
            content.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
            if piece.is_empty() || self.sender.send(Ok(piece)).is_err() {
                return Ok(());
            }
        }
    }
}

pub struct Ahead {
    receiver: Receiver<io::Result<Vec<u8>>>,
    used: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            match self.receiver.recv() {
                Ok(piece) => {
                    let read = std::mem::replace(&mut self.piece, piece?);
                    self.at = 0;
                    // Too many, or the filler is done: freed instead.
                    let _ = self.used.try_send(read);
                }
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn through(stored: &[u8]) -> (io::Result<Vec<u8>>, io::Result<Digest>) {
        let (filler, mut ahead) = pipe();
        std::thread::scope(|scope| {
            let filling = scope.spawn(|| filler.run(stored));
            let mut content = Vec::new();
            let read = ahead.read_to_end(&mut content).map(|_| content);
            drop(ahead);
            (read, filling.join().expect("no panic"))
        })
    }

    #[test]
    fn what_goes_through_the_pipe_is_whole_and_its_digest_that_of_what_is_stored() {
        let content: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&content).expect("memory");
        let gzip = gzip.finish().expect("memory");
        for stored in [content.clone(), gzip, zstd::encode_all(&content[..], 1).expect("memory")] {
            let (read, digest) = through(&stored);
            assert!(read.expect("good") == content);
            assert_eq!(digest.expect("good"), Digest::of(&stored));
        }
    }

    #[test]
    fn broken_compression_is_an_error_and_the_digest_is_of_everything_all_the_same() {
        let mut broken = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0];
        broken.extend([0xff; 100_000]);
        let (read, digest) = through(&broken);
        assert!(read.is_err());
        assert_eq!(digest.expect("all came"), Digest::of(&broken));
        assert_eq!(through(b"").0.expect("nothing"), b"");
    }

    #[test]
    fn a_reader_that_stops_does_not_hold_the_filler() {
        let (filler, ahead) = pipe();
        drop(ahead);
        let content = vec![7; PIECE_BYTES * (PIECES_WAITING + 5)];
        assert_eq!(filler.run(&content[..]).expect("all came"), Digest::of(&content));
    }
}
