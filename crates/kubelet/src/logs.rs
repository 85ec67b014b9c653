//! Container logs in CRI format (`<time> <stream> <P|F> <text>`): reading, tail, since, limits, following.
//!
//! Entry points: [`stream`], [`last_lines`], and [`choose`] (which attempt's log a request means, with upstream's refusals). Following is woken
//! by inotify and by the container's end; nothing polls.

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use rustix::fs::inotify;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Bytes read from a file at once.
const BLOCK_BYTES: usize = 64 << 10;
/// A line that never ends is passed on in pieces of this size.
const MAX_LINE_BYTES: usize = 1 << 20;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    pub follow: bool,
    /// `stdout` or `stderr` only.
    pub stream: Option<String>,
}

/// Which log a request means: the container's present or last attempt, or the one before. The error is what users see.
pub fn choose(status: &PodStatus, pod: &str, name: &str, previous: bool) -> Result<String, String> {
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|status| status.name == name);
    let Some(found) = found else {
        return Err(format!("container \"{name}\" in pod \"{pod}\" is waiting to start - no logs yet"));
    };
    let id_of = |id: &Option<String>| id.as_deref().and_then(|id| id.split("://").nth(1)).map(String::from).filter(|id| !id.is_empty());
    let last = found.last_state.as_ref().and_then(|state| state.terminated.as_ref()).and_then(|ended| id_of(&ended.container_id));
    if previous {
        return last.ok_or_else(|| format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"));
    }
    let state = found.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return id_of(&found.container_id).ok_or_else(|| waiting(found, pod));
    }
    let present = state.and_then(|state| state.terminated.as_ref()).map(|ended| id_of(&ended.container_id));
    match (present, last) {
        (Some(Some(id)), _) | (_, Some(id)) => Ok(id),
        (Some(None), None) => Err(format!("container \"{name}\" in pod \"{pod}\" is terminated")),
        (None, None) => Err(waiting(found, pod)),
    }
}

fn waiting(status: &ContainerStatus, pod: &str) -> String {
    let reason = status.state.as_ref().and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
    let start = format!("container \"{}\" in pod \"{pod}\" is waiting to start", status.name);
    match reason {
        Some("ErrImagePull") => format!("{start}: image can't be pulled"),
        Some("ImagePullBackOff") => format!("{start}: trying and failing to pull image"),
        Some(reason) => format!("{start}: {reason}"),
        None => format!("{start} - no logs yet"),
    }
}

/// Turns raw log lines into what the client sees.
struct Filter {
    options: Options,
    left_bytes: Option<u64>,
    /// The line before was partial: this one continues it.
    continues: bool,
}

impl Filter {
    fn new(options: Options) -> Self {
        Self { left_bytes: options.limit_bytes, options, continues: false }
    }

    fn is_full(&self) -> bool {
        self.left_bytes == Some(0)
    }

    /// `line` without its newline.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some((time, stream, partial, text)) = parse(line) else { return };
        if self.options.stream.as_deref().is_some_and(|wanted| wanted != stream) {
            return;
        }
        if self.options.since.is_some_and(|since| time.parse::<Timestamp>().is_ok_and(|at| at < since)) {
            return;
        }
        let mut piece = Vec::with_capacity(text.len() + 40);
        if self.options.timestamps && !self.continues {
            piece.extend_from_slice(time.as_bytes());
            piece.push(b' ');
        }
        piece.extend_from_slice(text);
        if !partial {
            piece.push(b'\n');
        }
        self.continues = partial;
        if let Some(left) = &mut self.left_bytes {
            piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= piece.len() as u64;
        }
        out.extend_from_slice(&piece);
    }
}

fn parse(line: &[u8]) -> Option<(&str, &str, bool, &[u8])> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tag = parts.next()?;
    Some((time, stream, tag.first() == Some(&b'P'), parts.next().unwrap_or_default()))
}

/// Where the last `lines` lines of a file begin.
fn tail_offset(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let length = file.metadata()?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut found = 0;
    let mut end = length;
    let mut block = vec![0; BLOCK_BYTES];
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES as u64);
        let size = (end - start) as usize;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        for at in (0..size).rev() {
            // The newline at the very end closes the last line and opens none.
            if block[at] == b'\n' && start + at as u64 + 1 != length {
                found += 1;
                if found == lines {
                    return Ok(start + at as u64 + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

struct Reader {
    file: File,
    filter: Filter,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Reader {
    fn open(path: &Path, options: Options) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        let start = match options.tail_lines {
            Some(lines) => tail_offset(&mut file, lines)?,
            None => 0,
        };
        file.seek(SeekFrom::Start(start))?;
        Ok(Self { file, filter: Filter::new(options), rest: Vec::new() })
    }

    /// Goes on with the file that now has the name, if it is another one.
    fn follow_rename(&mut self, path: &Path) -> std::io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let own = self.file.metadata()?.ino();
        if !std::fs::metadata(path).is_ok_and(|info| info.ino() != own) {
            return Ok(false);
        }
        self.file = File::open(path)?;
        Ok(true)
    }

    /// What came since the last call, at most a block; empty at the end of what is written.
    fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        let mut block = vec![0; BLOCK_BYTES];
        let size = self.file.read(&mut block)?;
        if size == 0 || self.filter.is_full() {
            return Ok(None);
        }
        self.rest.extend_from_slice(&block[..size]);
        let mut out = Vec::new();
        let mut start = 0;
        while let Some(at) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            self.filter.line(&self.rest[start..start + at], &mut out);
            start += at + 1;
        }
        self.rest.drain(..start);
        if self.rest.len() > MAX_LINE_BYTES {
            let line = std::mem::take(&mut self.rest);
            self.filter.line(&line, &mut out);
        }
        Ok(Some(Bytes::from(out)))
    }
}

/// Sends a log to `out` as it is asked for; following ends when `ended` resolves and all is sent, or when the receiver is gone.
pub async fn stream(path: PathBuf, options: Options, out: mpsc::Sender<Bytes>, ended: impl Future<Output = ()>) -> std::io::Result<()> {
    let follow = options.follow;
    // The watch begins before the first read: what is written between them is seen.
    let watch = if follow { Some(Watch::new(&path)?) } else { None };
    let mut reader = Reader::open(&path, options)?;
    let mut ended = std::pin::pin!(ended);
    let mut over = !follow;
    loop {
        while let Some(bytes) = reader.next()? {
            if !bytes.is_empty() && out.send(bytes).await.is_err() {
                return Ok(());
            }
        }
        // Rotated: what comes now is in a new file of the same name.
        if reader.follow_rename(&path)? {
            if let Some(watch) = &watch {
                watch.add(&path)?;
            }
            continue;
        }
        if over || reader.filter.is_full() {
            return Ok(());
        }
        let Some(watch) = &watch else { return Ok(()) };
        tokio::select! {
            changed = watch.changed() => changed?,
            () = &mut ended => over = true,
            () = out.closed() => return Ok(()),
        }
    }
}

const WATCHED: inotify::WatchFlags = inotify::WatchFlags::MODIFY.union(inotify::WatchFlags::CLOSE_WRITE);

/// inotify on one file, and on its folder for a successor.
struct Watch {
    fd: AsyncFd<std::os::fd::OwnedFd>,
}

impl Watch {
    fn new(path: &Path) -> std::io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&fd, path, WATCHED)?;
        if let Some(dir) = path.parent() {
            inotify::add_watch(&fd, dir, inotify::WatchFlags::CREATE)?;
        }
        // An owned descriptor keeps `new`'s condition; its successor `register` is unsafe, which only crate `linux` may be.
        #[allow(deprecated, reason = "sound for an OwnedFd")]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd })
    }

    /// Also wakes for a new file at `path`.
    fn add(&self, path: &Path) -> std::io::Result<()> {
        inotify::add_watch(self.fd.get_ref(), path, WATCHED)?;
        Ok(())
    }

    async fn changed(&self) -> std::io::Result<()> {
        let mut guard = self.fd.readable().await?;
        let mut buffer = [0; 4096];
        while rustix::io::read(self.fd.get_ref(), &mut buffer).is_ok_and(|size| size > 0) {}
        guard.clear_ready();
        Ok(())
    }
}

/// The last lines of a log as one text, for termination messages.
pub fn last_lines(path: &Path, lines: usize, max_bytes: usize) -> String {
    let options = Options { tail_lines: Some(lines as u64), ..Default::default() };
    let Ok(mut reader) = Reader::open(path, options) else { return String::new() };
    let mut text = Vec::new();
    while let Ok(Some(bytes)) = reader.next() {
        text.extend_from_slice(&bytes);
    }
    let start = text.len().saturating_sub(max_bytes);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Write;

    const LOG: &str = "2026-01-01T00:00:01.000000001Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n2026-01-01T00:00:03Z stdout P thr\n2026-01-01T00:00:03Z stdout F ee\n";

    async fn read(text: &str, options: Options) -> String {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(file.path(), text).expect("written");
        let (tx, mut rx) = mpsc::channel(16);
        stream(file.path().into(), options, tx, std::future::pending()).await.expect("read");
        let mut out = Vec::new();
        while let Some(bytes) = rx.recv().await {
            out.extend_from_slice(&bytes);
        }
        String::from_utf8(out).expect("utf-8")
    }

    #[tokio::test]
    async fn partial_lines_are_joined() {
        assert_eq!(read(LOG, Options::default()).await, "one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn tail_since_timestamps_stream_and_limit_choose_what_is_shown() {
        let cases = [
            (Options { tail_lines: Some(3), ..Default::default() }, "two\nthree\n"),
            (Options { tail_lines: Some(0), ..Default::default() }, ""),
            (Options { since: Some("2026-01-01T00:00:02Z".parse().expect("time")), ..Default::default() }, "two\nthree\n"),
            (Options { limit_bytes: Some(5), ..Default::default() }, "one\nt"),
            (Options { stream: Some("stderr".into()), timestamps: true, ..Default::default() }, "2026-01-01T00:00:02Z two\n"),
        ];
        for (options, expected) in cases {
            assert_eq!(read(LOG, options.clone()).await, expected, "{options:?}");
        }
    }

    #[tokio::test]
    async fn a_text_without_a_last_newline_ends_as_it_was_written() {
        assert_eq!(read("2026-01-01T00:00:01Z stdout P last\n", Options::default()).await, "last");
    }

    #[tokio::test]
    async fn following_shows_what_comes_and_ends_with_the_container() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        let (tx, mut rx) = mpsc::channel(16);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let path = file.path().to_path_buf();
        let options = Options { follow: true, ..Default::default() };
        let task = tokio::spawn(async move { stream(path, options, tx, async { drop(ended.await) }).await });
        let mut writer = std::fs::OpenOptions::new().append(true).open(file.path()).expect("opened");
        writer.write_all(b"2026-01-01T00:00:01Z stdout F first\n").expect("written");
        assert_eq!(rx.recv().await.as_deref(), Some(b"first\n".as_slice()));
        writer.write_all(b"2026-01-01T00:00:01Z stdout F last\n").expect("written");
        end.send(()).expect("still followed");
        assert_eq!(rx.recv().await.as_deref(), Some(b"last\n".as_slice()));
        assert_eq!(rx.recv().await, None);
        task.await.expect("joined").expect("read");
    }

    #[tokio::test]
    async fn following_goes_on_in_the_file_that_takes_the_place_of_a_rotated_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:01Z stdout F first\n").expect("written");
        let (tx, mut rx) = mpsc::channel(16);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let options = Options { follow: true, ..Default::default() };
        let followed = path.clone();
        let task = tokio::spawn(async move { stream(followed, options, tx, async { drop(ended.await) }).await });
        assert_eq!(rx.recv().await.as_deref(), Some(b"first\n".as_slice()));
        std::fs::rename(&path, dir.path().join("0.log.old")).expect("renamed");
        std::fs::write(&path, "2026-01-01T00:00:02Z stdout F second\n").expect("written");
        assert_eq!(rx.recv().await.as_deref(), Some(b"second\n".as_slice()));
        end.send(()).expect("still followed");
        assert_eq!(rx.recv().await, None);
        task.await.expect("joined").expect("read");
    }

    #[test]
    fn last_lines_are_bounded_in_bytes() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(file.path(), LOG).expect("written");
        assert_eq!(last_lines(file.path(), 80, 2048), "one\ntwo\nthree\n");
        assert_eq!(last_lines(file.path(), 80, 4), "ree\n");
    }

    #[test]
    fn a_container_without_logs_says_why() {
        let status = |state: serde_json::Value, last: serde_json::Value| -> PodStatus {
            let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state, "lastState": last});
            serde_json::from_value(json!({"containerStatuses": [container]})).expect("a status")
        };
        let ended = |id: &str| json!({"terminated": {"exitCode": 1, "containerID": format!("keles://{id}")}});
        let waits = |reason: &str| status(json!({"waiting": {"reason": reason}}), json!({}));
        assert_eq!(choose(&waits("ContainerCreating"), "p", "c", false), Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating".into()));
        assert_eq!(choose(&waits("ErrImagePull"), "p", "c", false), Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled".into()));
        assert_eq!(choose(&waits("x"), "p", "c", true), Err("previous terminated container \"c\" in pod \"p\" not found".into()));
        assert_eq!(choose(&status(ended("a"), ended("b")), "p", "c", false), Ok("a".into()));
        assert_eq!(choose(&status(ended("a"), ended("b")), "p", "c", true), Ok("b".into()));
        assert_eq!(choose(&status(json!({"waiting": {"reason": "CrashLoopBackOff"}}), ended("b")), "p", "c", false), Ok("b".into()));
    }
}
