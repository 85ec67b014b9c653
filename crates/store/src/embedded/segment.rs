//! Segment files: names, creation, the lock of the folder, reading frames one after the other.
//!
//! `FIRST-LAST.log` (hexadecimal sequence numbers) holds what segments FIRST to LAST held; a merge replaces many by one, and a file whose
//! range lies within another's is left over from an interrupted merge. Only the file with the highest LAST may end in a torn frame.

use super::record::{self, FILE_HEADER_BYTES, FRAME_HEADER_BYTES};
use crate::StoreError;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Read ahead while scanning.
const SCAN_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub struct Segment {
    /// Names the open file in this process; a merged file gets a new one.
    pub id: u32,
    pub first: u64,
    pub last: u64,
    pub path: PathBuf,
    pub file: File,
}

pub fn disk_error(path: &Path, source: &io::Error) -> StoreError {
    // io::Error cannot be cloned, and one failed fsync answers many writers.
    let source = source.raw_os_error().map_or_else(|| io::Error::new(source.kind(), source.to_string()), io::Error::from_raw_os_error);
    StoreError::Disk { path: path.display().to_string(), source }
}

pub fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { path: path.display().to_string(), offset, what: what.into() }
}

pub fn path_of(dir: &Path, first: u64, last: u64) -> PathBuf {
    dir.join(format!("{first:016x}-{last:016x}.log"))
}

fn range_of(name: &str) -> Option<(u64, u64)> {
    let (first, last) = name.strip_suffix(".log")?.split_once('-')?;
    Some((u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(last, 16).ok()?))
}

pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Takes the folder for this process; the lock goes with the file.
pub fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("LOCK");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|e| disk_error(&path, &e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse { path: dir.display().to_string() }),
        Err(e) => Err(disk_error(&path, &e.into())),
    }
}

/// A new, empty, durable segment.
pub fn create(dir: &Path, id: u32, sequence: u64) -> Result<Segment, StoreError> {
    let path = path_of(dir, sequence, sequence);
    let make = || {
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
        file.write_all_at(&record::file_header(), 0)?;
        file.sync_all()?;
        sync_dir(dir)?;
        Ok(file)
    };
    match make() {
        Ok(file) => Ok(Segment { id, first: sequence, last: sequence, path, file }),
        Err(e) => {
            // Without this a full disk would leave an empty newest segment behind; opening copes with it, but nothing half done is better.
            let _ = std::fs::remove_file(&path);
            Err(disk_error(&path, &e))
        }
    }
}

/// The segments of a folder in order; leftovers of an interrupted merge are removed.
pub fn list(dir: &Path) -> Result<Vec<Segment>, StoreError> {
    let mut ranges = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| disk_error(dir, &e))? {
        let entry = entry.map_err(|e| disk_error(dir, &e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".tmp") {
            std::fs::remove_file(entry.path()).map_err(|e| disk_error(&entry.path(), &e))?;
        } else if let Some(range) = range_of(&name) {
            ranges.push(range);
        }
    }
    // Widest first among those that start alike, so that a merged file comes before what it replaced.
    ranges.sort_by_key(|&(first, last)| (first, std::cmp::Reverse(last)));
    let mut segments: Vec<Segment> = Vec::new();
    for (first, last) in ranges {
        let path = path_of(dir, first, last);
        match segments.last() {
            Some(before) if last <= before.last => {
                std::fs::remove_file(&path).map_err(|e| disk_error(&path, &e))?;
                continue;
            }
            Some(before) if first != before.last + 1 => {
                return Err(damaged(&path_of(dir, before.last + 1, first - 1), 0, "the file is missing"));
            }
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|e| disk_error(&path, &e))?;
        segments.push(Segment { id: segments.len() as u32, first, last, path, file });
    }
    Ok(segments)
}

/// What a scan meets next.
pub enum Scanned<'a> {
    /// A payload and the offset in the file where it starts.
    Frame(&'a [u8], u64),
    /// The end, with the length of what is valid.
    End(u64),
    /// The last frame is not whole.
    Torn(u64),
}

/// Reads a segment's frames in order.
pub struct Scanner<'a> {
    segment: &'a Segment,
    size: u64,
    /// File offset of `buffer[0]`.
    base: u64,
    buffer: Vec<u8>,
    /// Where the next frame starts, in the buffer.
    at: usize,
}

impl<'a> Scanner<'a> {
    /// `None`: the file ends before its header does, which only a crash at creation leaves.
    pub fn open(segment: &'a Segment) -> Result<Option<Scanner<'a>>, StoreError> {
        let size = segment.file.metadata().map_err(|e| disk_error(&segment.path, &e))?.len();
        let mut scanner = Scanner { segment, size, base: 0, buffer: Vec::new(), at: 0 };
        if !scanner.fill(FILE_HEADER_BYTES)? {
            return Ok(None);
        }
        if scanner.buffer[..FILE_HEADER_BYTES] != record::file_header() {
            return Err(damaged(&segment.path, 0, "the header is not that of a log of this version"));
        }
        scanner.at = FILE_HEADER_BYTES;
        Ok(Some(scanner))
    }

    /// Makes `wanted` bytes from `at` on available; false at the end of the file.
    fn fill(&mut self, wanted: usize) -> Result<bool, StoreError> {
        if self.buffer.len() - self.at >= wanted {
            return Ok(true);
        }
        self.buffer.drain(..self.at);
        self.base += self.at as u64;
        self.at = 0;
        let held = self.buffer.len();
        let rest = (self.size - self.base) as usize - held;
        let more = rest.min(wanted.max(SCAN_BYTES) - held);
        self.buffer.resize(held + more, 0);
        let offset = self.base + held as u64;
        self.segment.file.read_exact_at(&mut self.buffer[held..], offset).map_err(|e| damaged(&self.segment.path, offset, format!("cannot be read: {e}")))?;
        Ok(self.buffer.len() >= wanted)
    }

    pub fn next(&mut self) -> Result<Scanned<'_>, StoreError> {
        let start = self.base + self.at as u64;
        if start == self.size {
            return Ok(Scanned::End(start));
        }
        if !self.fill(FRAME_HEADER_BYTES)? {
            return Ok(Scanned::Torn(start));
        }
        let Some((length, crc)) = record::frame_header(&self.buffer[self.at..]) else {
            return self.torn_or_damaged(start, "a frame's header does not match its checksum");
        };
        if !self.fill(FRAME_HEADER_BYTES + length)? {
            return Ok(Scanned::Torn(start));
        }
        let from = self.at + FRAME_HEADER_BYTES;
        if crc32c::crc32c(&self.buffer[from..from + length]) != crc {
            if start + (FRAME_HEADER_BYTES + length) as u64 == self.size {
                return Ok(Scanned::Torn(start));
            }
            return Err(damaged(&self.segment.path, start, "a frame does not match its checksum"));
        }
        self.at = from + length;
        Ok(Scanned::Frame(&self.buffer[from..from + length], start + FRAME_HEADER_BYTES as u64))
    }

    /// Without a header the frame's end is unknown: it is the torn last one unless a whole frame follows.
    fn torn_or_damaged(&mut self, start: u64, what: &str) -> Result<Scanned<'_>, StoreError> {
        self.fill((self.size - start) as usize)?;
        if record::holds_a_frame(&self.buffer[self.at + 1..]) {
            return Err(damaged(&self.segment.path, start, what));
        }
        Ok(Scanned::Torn(start))
    }
}
