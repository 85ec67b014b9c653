//! A container's log file in the CRI's form: time, stream, F (full line) or P (part of one), text.
//!
//! Lines over 16 KiB are cut into parts, as is text after the last newline when a stream ends. The file is opened before
//! the container starts. Source: Kubernetes design "CRI logging", containerd's 16 KiB.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MAX_LINE_BYTES: usize = 16 << 10;
const STREAM_NAMES: [&str; 2] = ["stdout", "stderr"];

pub struct Log {
    path: PathBuf,
    file: File,
    partial: [Vec<u8>; 2],
    out: Vec<u8>,
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl Log {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Log { path: path.to_owned(), file: open(path)?, partial: Default::default(), out: Vec::new() })
    }

    /// After the agent has renamed the file.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    pub fn write(&mut self, stream: usize, mut data: &[u8]) {
        let time = format!("{:.9}", jiff::Timestamp::now());
        while let Some(end) = data.iter().position(|b| *b == b'\n') {
            let (line, rest) = (&data[..end], &data[end + 1..]);
            data = rest;
            let mut whole = std::mem::take(&mut self.partial[stream]);
            whole.extend_from_slice(line);
            let mut left = whole.as_slice();
            while left.len() > MAX_LINE_BYTES {
                self.push(&time, stream, "P", &left[..MAX_LINE_BYTES]);
                left = &left[MAX_LINE_BYTES..];
            }
            self.push(&time, stream, "F", left);
        }
        self.partial[stream].extend_from_slice(data);
        while self.partial[stream].len() > MAX_LINE_BYTES {
            let rest = self.partial[stream].split_off(MAX_LINE_BYTES);
            let part = std::mem::replace(&mut self.partial[stream], rest);
            self.push(&time, stream, "P", &part);
        }
        self.flush();
    }

    /// The stream ended: what follows the last newline is a part.
    pub fn end(&mut self, stream: usize) {
        let rest = std::mem::take(&mut self.partial[stream]);
        if !rest.is_empty() {
            let time = format!("{:.9}", jiff::Timestamp::now());
            self.push(&time, stream, "P", &rest);
            self.flush();
        }
    }

    fn push(&mut self, time: &str, stream: usize, tag: &str, text: &[u8]) {
        for word in [time, " ", STREAM_NAMES[stream], " ", tag, " "] {
            self.out.extend_from_slice(word.as_bytes());
        }
        self.out.extend_from_slice(text);
        self.out.push(b'\n');
    }

    fn flush(&mut self) {
        // A full disk loses lines; the container runs on.
        if let Err(e) = self.file.write_all(&self.out) {
            eprintln!("shim: log {}: {e}", self.path.display());
        }
        self.out.clear();
        self.out.shrink_to(MAX_LINE_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stream, tag and text of each line.
    fn lines(path: &Path) -> Vec<(String, String, String)> {
        let text = std::fs::read_to_string(path).unwrap();
        let parse = |l: &str| {
            let mut w = l.splitn(4, ' ');
            let time = w.next().unwrap();
            assert_eq!((time.len(), &time[29..]), (30, "Z"), "{time}");
            (w.next().unwrap().to_owned(), w.next().unwrap().to_owned(), w.next().unwrap().to_owned())
        };
        text.lines().map(parse).collect()
    }
    fn row(stream: &str, tag: &str, text: &str) -> (String, String, String) {
        (stream.into(), tag.into(), text.into())
    }

    #[test]
    fn lines_are_joined_across_reads_and_streams_stay_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c/0.log");
        let mut log = Log::open(&path).unwrap();
        log.write(0, b"he");
        log.write(1, b"err\n");
        log.write(0, b"llo\n\nlast");
        log.end(0);
        log.end(1);
        assert_eq!(lines(&path), [row("stderr", "F", "err"), row("stdout", "F", "hello"), row("stdout", "F", ""), row("stdout", "P", "last")]);
    }

    #[test]
    fn a_line_over_16_kib_becomes_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path).unwrap();
        log.write(0, &[b'x'; 40_000]);
        log.write(0, b"y\n");
        let seen: Vec<(String, usize)> = lines(&path).into_iter().map(|(_, tag, text)| (tag, text.len())).collect();
        assert_eq!(seen, [("P".into(), 16384), ("P".into(), 16384), ("F".into(), 40_001 - 2 * 16384)]);
    }

    #[test]
    fn after_rotation_a_new_file_gets_the_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path).unwrap();
        log.write(0, b"old\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        log.reopen().unwrap();
        log.write(0, b"new\n");
        assert_eq!(lines(&path), [row("stdout", "F", "new")]);
    }
}
