//! The log sink: one JSON document a line, files turned over by size and kept by age and number.

use super::line::line;
use super::{Format, Mode, Options, Sink};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::future::{BoxFuture, ready};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// When the operator says nothing.
const DEFAULT_MEGABYTES: u64 = 100;
const DAY: Duration = Duration::from_secs(86_400);
const MODE: u32 = 0o600;

pub struct Log {
    state: Mutex<Target>,
    format: Format,
    strict: bool,
}

enum Target {
    Stdout,
    File(Rolling),
}

struct Rolling {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
    max_age_days: u32,
    max_backups: u32,
    compress: bool,
}

impl Log {
    pub fn open(path: &Path, o: &Options) -> io::Result<Log> {
        if path == Path::new("-") {
            return Ok(Log::to(Target::Stdout, o));
        }
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        let megabytes = if o.log_max_megabytes == 0 { DEFAULT_MEGABYTES } else { o.log_max_megabytes };
        let rolling =
            Rolling { path: path.into(), file, bytes, max_bytes: megabytes << 20, max_age_days: o.log_max_age_days, max_backups: o.log_max_backups, compress: o.log_compress };
        Ok(Log::to(Target::File(rolling), o))
    }

    fn to(target: Target, o: &Options) -> Log {
        Log { state: Mutex::new(target), format: o.log_format, strict: o.log_mode == Mode::BlockingStrict }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(MODE).open(path)
}

impl Sink for Log {
    fn take<'a>(&'a self, event: &'a Arc<Value>) -> BoxFuture<'a, bool> {
        let mut line = match self.format {
            Format::Json => serde_json::to_vec(&**event).expect("a JSON tree always encodes"),
            Format::Legacy => line(event).into_bytes(),
        };
        line.push(b'\n');
        let mut target = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let written = match &mut *target {
            Target::Stdout => io::stdout().lock().write_all(&line),
            Target::File(r) => r.write(&line),
        };
        if let Err(error) = &written {
            tracing::error!(%error, "an audit event was not written");
        }
        Box::pin(ready(written.is_ok() || !self.strict))
    }
}

impl Rolling {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.max_bytes {
            self.turn_over()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// `audit.log` becomes `audit-2026-11-21T14-25-36.123.log`, as upstream names them.
    fn turn_over(&mut self) -> io::Result<()> {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%3f").to_string();
        let old = self.beside(&time, "");
        std::fs::rename(&self.path, &old)?;
        self.file = open(&self.path)?;
        self.bytes = 0;
        if self.compress {
            let mut zipped = GzEncoder::new(OpenOptions::new().create_new(true).write(true).mode(MODE).open(self.beside(&time, ".gz"))?, Compression::default());
            io::copy(&mut File::open(&old)?, &mut zipped)?;
            zipped.finish()?;
            std::fs::remove_file(&old)?;
        }
        self.clean()
    }

    fn parts(&self) -> (String, String) {
        let text = |p: Option<&std::ffi::OsStr>| p.map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let extension = text(self.path.extension());
        (text(self.path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
    }
    fn beside(&self, time: &str, more: &str) -> PathBuf {
        let (stem, extension) = self.parts();
        self.path.with_file_name(format!("{stem}-{time}{extension}{more}"))
    }

    /// Removes what is too old or too many.
    fn clean(&self) -> io::Result<()> {
        let (stem, extension) = self.parts();
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut old: Vec<(String, PathBuf)> = Vec::new();
        for e in std::fs::read_dir(folder)? {
            let e = e?;
            let name = e.file_name().to_string_lossy().into_owned();
            let rest = name.strip_prefix(&format!("{stem}-")).map(|r| r.strip_suffix(".gz").unwrap_or(r));
            if rest.is_some_and(|r| r.ends_with(&extension) && r.starts_with(|c: char| c.is_ascii_digit())) {
                old.push((name, e.path()));
            }
        }
        // The names are times: the newest last.
        old.sort();
        let surplus = if self.max_backups == 0 { 0 } else { old.len().saturating_sub(self.max_backups as usize) };
        for (i, (_, path)) in old.iter().enumerate() {
            let age = path.metadata().and_then(|m| m.modified()).ok().and_then(|m| SystemTime::now().duration_since(m).ok()).unwrap_or_default();
            if i < surplus || (self.max_age_days > 0 && age > DAY * self.max_age_days) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use serde_json::json;

    #[test]
    fn a_full_file_is_turned_over_and_only_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = Log::open(&path, &Options { log_max_megabytes: 1, log_max_backups: 2, ..Options::default() }).unwrap();
        let event = Arc::new(json!({"filler": "x".repeat(600 << 10)}));
        for _ in 0..5 {
            assert_eq!(log.take(&event).now_or_never(), Some(true));
            // Two files of one millisecond would have one name.
            let at = SystemTime::now();
            while at.elapsed().unwrap() < Duration::from_millis(2) {}
        }
        let mut names: Vec<String> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names[0].starts_with("audit-2") && names[2] == "audit.log", "{names:?}");
        let line = std::fs::read_to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<Value>(line.trim()).unwrap(), *event);
    }
}
