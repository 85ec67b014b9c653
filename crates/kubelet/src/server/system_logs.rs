//! `/logs/`: the node's own logs, as Go's `http.FileServer` shows a folder.
//!
//! Entry point: [`answer`]. Invariant: only what lies beneath the folder is shown. Links may lead from one place of it to another; upstream follows
//! them anywhere, so that a pod which may write a link into the host's logs reads every file of the host.
//! Deliberately absent: several ranges at once (the whole file is sent, as RFC 9110 allows), entity tags (Go has none either), log query: without
//! `enableSystemLogQuery` upstream reads no `?query=`.
//! Source: kubernetes pkg/kubelet/kubelet.go, Go's net/http/fs.go.

use super::{decode, text};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use keles_linux::rooted::RootDir;
use keles_serve::{Body, body};
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

const ROOT: &str = "/logs";
const INDEX: &str = "index.html";
/// A file is read and sent in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;
/// So much of a file tells what it holds (Go's figure).
const SNIFFED_BYTES: usize = 512;
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// Types by the end of the name; others are told by what they begin with.
const TYPES: &[(&str, &str)] = &[
    ("css", "text/css; charset=utf-8"),
    ("htm", HTML),
    ("html", HTML),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("log", TEXT),
    ("svg", "image/svg+xml"),
    ("txt", TEXT),
    ("xml", "text/xml; charset=utf-8"),
];

/// The answer to a GET or HEAD of `path`, which begins with `/logs`.
pub async fn answer(folder: PathBuf, path: &str, query: &str, headers: &HeaderMap) -> Response<Body> {
    let (path, query, headers) = (decode_path(path.strip_prefix(ROOT).unwrap_or(path)), query.to_owned(), headers.clone());
    let shown = move || show(&folder, &path, &query, &headers).unwrap_or_else(|error| refusal(&error));
    tokio::task::spawn_blocking(shown).await.unwrap_or_else(|error| refusal(&io::Error::other(error)))
}

/// A plus stands for itself in a path.
fn decode_path(path: &str) -> String {
    decode(&path.replace('+', "%2B"))
}

/// In Go's words.
fn refusal(error: &io::Error) -> Response<Body> {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => text(StatusCode::NOT_FOUND, "404 page not found"),
        ErrorKind::PermissionDenied => text(StatusCode::FORBIDDEN, "403 Forbidden"),
        _ => text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error"),
    }
}

/// `path` is below the folder and begins with `/`, but for the folder itself, which may be named without.
fn show(folder: &Path, path: &str, query: &str, headers: &HeaderMap) -> io::Result<Response<Body>> {
    if path.is_empty() {
        return Ok(redirect("logs/", query));
    }
    if path.ends_with(&format!("/{INDEX}")) {
        return Ok(redirect("./", query));
    }
    let below = cleaned(path);
    let name = below.file_name().map(|name| name.to_string_lossy().into_owned());
    let file = open(folder, &below)?;
    let info = file.metadata()?;
    match (info.is_dir(), path.ends_with('/'), name) {
        (true, false, Some(name)) => Ok(redirect(&format!("{}/", escaped(&name)), query)),
        (false, true, Some(name)) => Ok(redirect(&format!("../{}", escaped(&name)), query)),
        (true, ..) => match open(folder, &below.join(INDEX)) {
            Ok(index) if index.metadata()?.is_file() => send(index, INDEX, headers),
            _ => list(&file, headers),
        },
        (false, _, name) => send(file, &name.unwrap_or_default(), headers),
    }
}

/// Without dots, as a path from the folder.
fn cleaned(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// A file or folder beneath `folder`. Links are followed first and what they lead to is opened from the folder, so that none that is put there
/// meanwhile leads out of it.
fn open(folder: &Path, below: &Path) -> io::Result<File> {
    let root = folder.canonicalize()?;
    let real = root.join(below).canonicalize()?;
    let inside = real.strip_prefix(&root).map_err(|_| io::Error::from(ErrorKind::PermissionDenied))?;
    let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    // A pipe would keep the opener waiting.
    let file = File::from(RootDir::open(&root)?.resolve(inside, OFlags::RDONLY | OFlags::NONBLOCK)?);
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() { Ok(file) } else { Err(ErrorKind::PermissionDenied.into()) }
}

/// Relative, so that it holds behind the API server's proxy too.
fn redirect(to: &str, query: &str) -> Response<Body> {
    let location = if query.is_empty() { to.to_owned() } else { format!("{to}?{query}") };
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    put(&mut response, header::LOCATION, &location);
    response
}

fn put(response: &mut Response<Body>, name: HeaderName, value: &str) {
    // What is put is ASCII: numbers, dates, types and escaped paths.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// As Go writes a URL's path.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte);
    let path: String = name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect();
    // A colon in front of the first slash would end a scheme.
    if path.split('/').next().is_some_and(|first| first.contains(':')) { format!("./{path}") } else { path }
}

fn in_html(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

fn list(folder: &File, headers: &HeaderMap) -> io::Result<Response<Body>> {
    let changed = changed(folder)?;
    if is_known(headers, changed) {
        return Ok(not_modified(changed));
    }
    // By the open descriptor: the name may be another folder's by now.
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))?;
    let name = |entry: io::Result<std::fs::DirEntry>| -> io::Result<String> {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        Ok(if entry.file_type()?.is_dir() { name + "/" } else { name })
    };
    let mut names: Vec<String> = entries.map(name).collect::<io::Result<_>>()?;
    names.sort();
    let lines: String = names.iter().map(|name| format!("<a href=\"{}\">{}</a>\n", escaped(name), in_html(name))).collect();
    let page = format!("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{lines}</pre>\n");
    let mut response = Response::new(body::full(page));
    put(&mut response, header::CONTENT_TYPE, HTML);
    put(&mut response, header::LAST_MODIFIED, &date(changed));
    Ok(response)
}

/// In whole seconds, as headers have it.
fn changed(file: &File) -> io::Result<Timestamp> {
    let at = Timestamp::try_from(file.metadata()?.modified()?).map_err(io::Error::other)?;
    Timestamp::from_second(at.as_second()).map_err(io::Error::other)
}

fn date(at: Timestamp) -> String {
    DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap_or_default()
}

fn date_of(headers: &HeaderMap, name: HeaderName) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(headers.get(name)?.to_str().ok()?).ok()
}

/// The client has it as it is.
fn is_known(headers: &HeaderMap, changed: Timestamp) -> bool {
    date_of(headers, header::IF_MODIFIED_SINCE).is_some_and(|known| changed <= known)
}

fn not_modified(changed: Timestamp) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    put(&mut response, header::LAST_MODIFIED, &date(changed));
    response
}

/// A file, or the range of it that is asked for; as long as it is now.
fn send(mut file: File, name: &str, headers: &HeaderMap) -> io::Result<Response<Body>> {
    let (changed, size) = (changed(&file)?, file.metadata()?.len());
    if is_known(headers, changed) {
        return Ok(not_modified(changed));
    }
    let media = media(name, &mut file)?;
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    // A range of what the client knows is of no use once that has changed.
    let still = headers.get(header::IF_RANGE).is_none() || date_of(headers, header::IF_RANGE) == Some(changed);
    let range = match asked.filter(|_| still).map_or(Ok(None), |asked| range(asked, size)) {
        Ok(range) => range,
        Err(fault) => {
            let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, fault);
            put(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(response);
        }
    };
    let (begin, length) = range.unwrap_or((0, size));
    file.seek(SeekFrom::Start(begin))?;
    let mut response = Response::new(pieces(file, length));
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        put(&mut response, header::CONTENT_RANGE, &format!("bytes {begin}-{}/{size}", begin + length - 1));
    }
    put(&mut response, header::CONTENT_TYPE, media);
    put(&mut response, header::CONTENT_LENGTH, &length.to_string());
    put(&mut response, header::ACCEPT_RANGES, "bytes");
    put(&mut response, header::LAST_MODIFIED, &date(changed));
    Ok(response)
}

/// By the name, else by how it begins.
fn media(name: &str, file: &mut File) -> io::Result<&'static str> {
    let end = Path::new(name).extension().and_then(|end| end.to_str()).unwrap_or_default();
    if let Some((_, media)) = TYPES.iter().find(|(known, _)| end.eq_ignore_ascii_case(known)) {
        return Ok(media);
    }
    let mut begin = Vec::with_capacity(SNIFFED_BYTES);
    file.take(SNIFFED_BYTES as u64).read_to_end(&mut begin)?;
    // Control characters that text has none of (WHATWG MIME sniffing, binary data byte).
    let is_binary = |byte: &u8| matches!(byte, 0..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    Ok(match begin.as_slice() {
        [0x1f, 0x8b, 0x08, ..] => "application/x-gzip",
        bytes if bytes.iter().any(is_binary) => "application/octet-stream",
        _ => TEXT,
    })
}

/// Begin and length of the one range of `bytes=…`; none for what is to be sent whole. The fault is Go's.
fn range(asked: &str, size: u64) -> Result<Option<(u64, u64)>, &'static str> {
    const INVALID: &str = "invalid range";
    let list = asked.strip_prefix("bytes=").ok_or(INVALID)?;
    if list.contains(',') {
        return Ok(None);
    }
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| INVALID);
    let (begin, end) = list.trim().split_once('-').ok_or(INVALID)?;
    if begin.trim().is_empty() {
        let length = number(end)?.min(size);
        // Of nothing there is no last part to tell.
        return Ok(Some((size - length, length)).filter(|_| length > 0));
    }
    let begin = number(begin)?;
    let last = if end.trim().is_empty() { u64::MAX } else { number(end)? };
    if last < begin {
        return Err(INVALID);
    }
    if begin >= size && size > 0 {
        return Err("invalid range: failed to overlap");
    }
    Ok((size > 0).then(|| (begin, last.min(size - 1) - begin + 1)))
}

/// `length` bytes from where the file stands; fewer when it is cut meanwhile, which ends the connection.
fn pieces(file: File, length: u64) -> Body {
    body::stream(futures::stream::unfold(file.take(length), |mut left| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE_BYTES.min(left.limit() as usize)];
            let read = left.read(&mut piece)?;
            piece.truncate(read);
            Ok::<_, io::Error>((Bytes::from(piece), left))
        });
        read.await.ok()?.ok().filter(|(piece, _)| !piece.is_empty())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::os::unix::fs::symlink;

    struct Shown {
        status: u16,
        headers: HeaderMap,
        body: String,
    }

    impl Shown {
        fn header(&self, name: &str) -> &str {
            self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
        }
    }

    async fn get(folder: &Path, path: &str, headers: &[(&'static str, &str)]) -> Shown {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a header"))).collect();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (parts, body) = answer(folder.into(), path, query, &headers).await.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Shown { status: parts.status.as_u16(), headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() }
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        let logs = dir.path().join("log");
        std::fs::create_dir_all(logs.join("pods/a b")).expect("made");
        std::fs::write(logs.join("syslog"), "0123456789").expect("written");
        std::fs::write(logs.join("a:b<c>?.gz"), [0x1f, 0x8b, 8, 0]).expect("written");
        std::fs::write(logs.join("wtmp"), [0, 1, 2]).expect("written");
        std::fs::write(dir.path().join("secret"), "of the host").expect("written");
        dir
    }

    #[tokio::test]
    async fn a_folder_is_listed_by_name_with_links() {
        let dir = folder();
        let shown = get(&dir.path().join("log"), "/logs/?query=kubelet", &[]).await;
        assert_eq!((shown.status, shown.header("content-type")), (200, "text/html; charset=utf-8"), "log query is off: it is not read");
        let links = "<a href=\"./a:b%3Cc%3E%3F.gz\">a:b&lt;c&gt;?.gz</a>\n<a href=\"pods/\">pods/</a>\n<a href=\"syslog\">syslog</a>\n<a href=\"wtmp\">wtmp</a>\n";
        assert_eq!(shown.body, format!("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{links}</pre>\n"));
        let again = get(&dir.path().join("log"), "/logs/", &[("if-modified-since", shown.header("last-modified"))]).await;
        assert_eq!((again.status, again.body.as_str()), (304, ""));
        assert_eq!(get(&dir.path().join("log"), "/logs/pods/", &[]).await.body.matches("<a href=\"a%20b/\">a b/</a>").count(), 1);
    }

    #[tokio::test]
    async fn folders_end_with_a_slash_and_files_do_not() {
        let dir = folder();
        let logs = dir.path().join("log");
        for (path, to) in [("/logs", "logs/"), ("/logs/pods", "pods/"), ("/logs/pods/a%20b?x=1", "a%20b/?x=1"), ("/logs/syslog/", "../syslog"), ("/logs/pods/index.html", "./")] {
            let shown = get(&logs, path, &[]).await;
            assert_eq!((shown.status, shown.header("location")), (301, to), "{path}");
        }
    }

    #[tokio::test]
    async fn files_have_a_type_and_are_given_in_ranges() {
        let dir = folder();
        let logs = dir.path().join("log");
        let whole = get(&logs, "/logs/syslog", &[]).await;
        assert_eq!((whole.status, whole.body.as_str(), whole.header("content-type"), whole.header("accept-ranges")), (200, "0123456789", TEXT, "bytes"));
        assert_eq!(get(&logs, "/logs/wtmp", &[]).await.header("content-type"), "application/octet-stream");
        assert_eq!(get(&logs, "/logs/a:b%3Cc%3E%3F.gz", &[]).await.header("content-type"), "application/x-gzip");
        for (asked, body, told) in
            [("bytes=2-4", "234", "bytes 2-4/10"), ("bytes=8-", "89", "bytes 8-9/10"), ("bytes=-3", "789", "bytes 7-9/10"), ("bytes=5-99", "56789", "bytes 5-9/10")]
        {
            let shown = get(&logs, "/logs/syslog", &[("range", asked)]).await;
            assert_eq!((shown.status, shown.body.as_str(), shown.header("content-range")), (206, body, told), "{asked}");
        }
        let beyond = get(&logs, "/logs/syslog", &[("range", "bytes=10-")]).await;
        assert_eq!((beyond.status, beyond.body.as_str(), beyond.header("content-range")), (416, "invalid range: failed to overlap\n", "bytes */10"));
        assert_eq!(get(&logs, "/logs/syslog", &[("range", "lines=1-2")]).await.body, "invalid range\n");
        assert_eq!(get(&logs, "/logs/syslog", &[("range", "bytes=0-1,4-5")]).await.body, "0123456789");
        let old = [("range", "bytes=0-1"), ("if-range", "Sun, 06 Nov 1994 08:49:37 GMT")];
        assert_eq!(get(&logs, "/logs/syslog", &old).await.body, "0123456789", "it has changed since");
        assert_eq!(get(&logs, "/logs/syslog", &[("range", "bytes=0-1"), ("if-range", whole.header("last-modified"))]).await.body, "01");
        assert_eq!(get(&logs, "/logs/syslog", &[("if-modified-since", whole.header("last-modified"))]).await.status, 304);
    }

    #[tokio::test]
    async fn nothing_outside_the_folder_is_shown() {
        let dir = folder();
        let logs = dir.path().join("log");
        symlink("../secret", logs.join("out")).expect("linked");
        symlink("/", logs.join("host")).expect("linked");
        symlink(logs.join("syslog"), logs.join("pods/inside")).expect("linked");
        assert_eq!(get(&logs, "/logs/pods/inside", &[]).await.body, "0123456789", "a link within the folder, by its whole path");
        for path in ["/logs/out", "/logs/host/", "/logs/host/etc/passwd"] {
            let shown = get(&logs, path, &[]).await;
            assert_eq!((shown.status, shown.body.as_str()), (403, "403 Forbidden\n"), "{path}");
        }
        for path in ["/logs/../secret", "/logs/%2e%2e/secret", "/logs/pods/..%2f..%2fsecret", "/logs/nothing", "/logs/syslog/more"] {
            let shown = get(&logs, path, &[]).await;
            assert_eq!((shown.status, shown.body.as_str()), (404, "404 page not found\n"), "{path}");
        }
        let socket = std::os::unix::net::UnixListener::bind(logs.join("socket"));
        assert!(socket.is_ok());
        assert_ne!(get(&logs, "/logs/socket", &[]).await.status, 200);
    }
}
