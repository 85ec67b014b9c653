//! As much of D-Bus as it takes to hear from logind that the machine goes down, and to have it wait (D-Bus specification 0.43,
//! org.freedesktop.login1(5)).
//!
//! Entry point: [`Logind::connect`]. Blocking, as the descriptor that delays the shutdown comes as ancillary data; its caller gives it a thread.

use keles_linux::fdpass;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The specification's place of the system bus.
pub const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const LOGIND: &str = "org.freedesktop.login1";
const LOGIND_PATH: &str = "/org/freedesktop/login1";
const LOGIND_MANAGER: &str = "org.freedesktop.login1.Manager";
const SIGNAL: &str = "PrepareForShutdown";
/// How long the bus may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Nothing we ask for is nearly so long.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("the system bus at {path} cannot be reached: {source}")]
    Connect { path: String, source: io::Error },
    #[error("the system bus does not let us in: it says {0:?}")]
    Refused(String),
    #[error("{call}: {source}")]
    Io { call: &'static str, source: io::Error },
    #[error("{call}: the bus answered with the error {name}")]
    Answer { call: &'static str, name: String },
    #[error("{call}: the bus's answer cannot be read")]
    Form { call: &'static str },
}

type Result<T> = std::result::Result<T, BusError>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

/// Bytes in the order of the wire, aligned as it wants them.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }
    fn u32(&mut self, number: u32) {
        self.pad(4);
        self.0.extend(number.to_le_bytes());
    }
    fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }
    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }
    /// A field of the header: a number, and a variant that holds a text.
    fn field(&mut self, code: u8, kind: &str, text: &str) {
        self.pad(8);
        self.0.push(code);
        self.signature(kind);
        if kind == "g" { self.signature(text) } else { self.text(text) }
    }
}

/// What came: the parts we look at.
#[derive(Debug, PartialEq)]
struct Message {
    kind: Kind,
    reply_to: Option<u32>,
    member: String,
    sender: String,
    error: String,
    body: Vec<u8>,
}

/// Reads what `Writer` wrote.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let part = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(part)
    }
    fn pad(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }
    fn u32(&mut self) -> Option<u32> {
        self.pad(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        self.pad(8);
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }
    fn signature(&mut self) -> Option<String> {
        let length = usize::from(*self.take(1)?.first()?);
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }
}

/// Length of the whole message, by its first 16 bytes.
fn length(start: &[u8; 16]) -> Option<usize> {
    let number = |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]) as usize;
    // Senders may use either order; ours and every logind on this machine's architectures is the little one.
    if start[0] != b'l' || number(4) > MAX_MESSAGE_BYTES || number(12) > MAX_MESSAGE_BYTES {
        return None;
    }
    Some((16 + number(12)).next_multiple_of(8) + number(4))
}

fn decode(bytes: &[u8]) -> Option<Message> {
    let kind = [Kind::Call, Kind::Return, Kind::Error, Kind::Signal].into_iter().find(|kind| *kind as u8 == bytes[1])?;
    let mut message = Message { kind, reply_to: None, member: String::new(), sender: String::new(), error: String::new(), body: Vec::new() };
    let mut reader = Reader { bytes, at: 12 };
    let end = 16 + reader.u32()? as usize;
    while reader.at < end {
        reader.pad(8);
        let code = *reader.take(1)?.first()?;
        match (code, reader.signature()?.as_str()) {
            (5, "u") => message.reply_to = Some(reader.u32()?),
            (3, "s") => message.member = reader.text()?,
            (4, "s") => message.error = reader.text()?,
            (7, "s") => message.sender = reader.text()?,
            (_, "s" | "o") => drop(reader.text()?),
            (_, "g") => drop(reader.signature()?),
            (_, "u") => drop(reader.u32()?),
            _ => return None,
        }
    }
    message.body = bytes.get(end.next_multiple_of(8)..)?.to_vec();
    Some(message)
}

/// A call of a method whose arguments are all texts.
struct Call<'a> {
    name: &'static str,
    to: &'a str,
    path: &'a str,
    interface: &'a str,
    arguments: &'a [&'a str],
}

impl Call<'_> {
    fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        self.arguments.iter().for_each(|text| body.text(text));
        let mut head = Writer(vec![b'l', Kind::Call as u8, 0, 1]);
        head.u32(body.0.len() as u32);
        head.u32(serial);
        // The length of the fields, known afterwards.
        head.u32(0);
        head.field(1, "o", self.path);
        head.field(2, "s", self.interface);
        head.field(3, "s", self.name);
        head.field(6, "s", self.to);
        if !self.arguments.is_empty() {
            head.field(8, "g", &"s".repeat(self.arguments.len()));
        }
        let fields = (head.0.len() - 16) as u32;
        head.0[12..16].copy_from_slice(&fields.to_le_bytes());
        head.pad(8);
        head.0.extend(body.0);
        head.0
    }
}

/// A connection to logind.
pub struct Logind {
    socket: UnixStream,
    serial: u32,
    /// Signals that came while an answer was waited for: whether a shutdown begins (or is called off).
    /// Who said so, and whether a shutdown begins.
    heard: Vec<(String, bool)>,
    fds: Vec<OwnedFd>,
}

impl Logind {
    /// Opens the bus and asks to be told of shutdowns.
    pub fn connect(path: &Path) -> Result<Self> {
        let failed = |source| BusError::Connect { path: path.display().to_string(), source };
        let socket = UnixStream::connect(path).map_err(failed)?;
        socket.set_read_timeout(Some(ANSWER_LIMIT)).map_err(failed)?;
        let mut logind = Self { socket, serial: 0, heard: Vec::new(), fds: Vec::new() };
        logind.enter()?;
        let bus = |name, arguments| Call { name, to: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus", arguments };
        logind.call(&bus("Hello", &[]))?;
        let rule = format!("type='signal',sender='{LOGIND}',interface='{LOGIND_MANAGER}',member='{SIGNAL}',path='{LOGIND_PATH}'");
        logind.call(&bus("AddMatch", &[&rule]))?;
        Ok(logind)
    }

    /// The words before the first message: who we are (our user's number, in hexadecimal), and that we take descriptors.
    fn enter(&mut self) -> Result<()> {
        let failed = |source| BusError::Io { call: "authentication", source };
        let uid: String = rustix::process::geteuid().as_raw().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        self.socket.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).map_err(failed)?;
        self.expect_line("OK")?;
        self.socket.write_all(b"NEGOTIATE_UNIX_FD\r\n").map_err(failed)?;
        self.expect_line("AGREE_UNIX_FD")?;
        self.socket.write_all(b"BEGIN\r\n").map_err(failed)
    }

    fn expect_line(&mut self, word: &str) -> Result<()> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 512 {
            let mut byte = [0];
            self.socket.read_exact(&mut byte).map_err(|source| BusError::Io { call: "authentication", source })?;
            line.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if line.starts_with(word) { Ok(()) } else { Err(BusError::Refused(line)) }
    }

    fn call(&mut self, call: &Call<'_>) -> Result<Vec<u8>> {
        self.serial += 1;
        let failed = |source| BusError::Io { call: call.name, source };
        self.socket.write_all(&call.encode(self.serial)).map_err(failed)?;
        loop {
            let message = self.receive(call.name)?;
            match message.kind {
                Kind::Return if message.reply_to == Some(self.serial) => return Ok(message.body),
                Kind::Error if message.reply_to == Some(self.serial) => return Err(BusError::Answer { call: call.name, name: message.error }),
                _ => self.hear(&message),
            }
        }
    }

    fn hear(&mut self, message: &Message) {
        if message.kind == Kind::Signal && message.member == SIGNAL {
            self.heard.extend(Reader { bytes: &message.body, at: 0 }.u32().map(|begins| (message.sender.clone(), begins != 0)));
        }
    }

    fn receive(&mut self, call: &'static str) -> Result<Message> {
        let mut start = [0; 16];
        self.fill(&mut start, call)?;
        let length = length(&start).ok_or(BusError::Form { call })?;
        let mut whole = start.to_vec();
        whole.resize(length, 0);
        self.fill(&mut whole[16..], call)?;
        decode(&whole).ok_or(BusError::Form { call })
    }

    /// Reads so many bytes and keeps the descriptors that come with them.
    fn fill(&mut self, mut bytes: &mut [u8], call: &'static str) -> Result<()> {
        while !bytes.is_empty() {
            let (count, fds) = fdpass::receive(&self.socket, bytes).map_err(|source| BusError::Io { call, source })?;
            if count == 0 {
                return Err(BusError::Io { call, source: io::ErrorKind::UnexpectedEof.into() });
            }
            self.fds.extend(fds);
            bytes = &mut bytes[count..];
        }
        Ok(())
    }

    fn manager<'a>(name: &'static str, arguments: &'a [&'a str]) -> Call<'a> {
        Call { name, to: LOGIND, path: LOGIND_PATH, interface: LOGIND_MANAGER, arguments }
    }

    /// How long logind lets others delay a shutdown.
    pub fn longest_delay(&mut self) -> Result<Duration> {
        let call = Call { interface: "org.freedesktop.DBus.Properties", ..Self::manager("Get", &[LOGIND_MANAGER, "InhibitDelayMaxUSec"]) };
        let body = self.call(&call)?;
        let mut reader = Reader { bytes: &body, at: 0 };
        let micros = reader.signature().filter(|kind| kind == "t").and_then(|_| reader.u64());
        micros.map(Duration::from_micros).ok_or(BusError::Form { call: "Get InhibitDelayMaxUSec" })
    }

    /// Has logind take its configuration anew.
    pub fn reload(&mut self) -> Result<()> {
        // SIGHUP is what logind takes as that; systemd's KillUnit has a number, so it is a call of its own kind.
        let mut body = Writer::default();
        ["systemd-logind.service", "all"].iter().for_each(|text| body.text(text));
        body.u32(1);
        let call = Call { name: "KillUnit", to: "org.freedesktop.systemd1", path: "/org/freedesktop/systemd1", interface: "org.freedesktop.systemd1.Manager", arguments: &[] };
        self.serial += 1;
        let mut head = Writer(call.encode(self.serial));
        head.0[4..8].copy_from_slice(&(body.0.len() as u32).to_le_bytes());
        let fields = u32::from_le_bytes(head.0[12..16].try_into().unwrap_or_default()) as usize;
        head.0.truncate(16 + fields);
        head.field(8, "g", "ssi");
        let fields = (head.0.len() - 16) as u32;
        head.0[12..16].copy_from_slice(&fields.to_le_bytes());
        head.pad(8);
        head.0.extend(body.0);
        self.socket.write_all(&head.0).map_err(|source| BusError::Io { call: "KillUnit", source })?;
        let serial = self.serial;
        loop {
            let message = self.receive("KillUnit")?;
            match message.kind {
                Kind::Return if message.reply_to == Some(serial) => return Ok(()),
                Kind::Error if message.reply_to == Some(serial) => return Err(BusError::Answer { call: "KillUnit", name: message.error }),
                _ => self.hear(&message),
            }
        }
    }

    /// Delays shutdowns for as long as what is returned is open.
    pub fn inhibit(&mut self) -> Result<OwnedFd> {
        self.fds.clear();
        self.call(&Self::manager("Inhibit", &["shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"]))?;
        self.fds.pop().ok_or(BusError::Form { call: "Inhibit" })
    }

    /// Ends [`Logind::next`] when it is dropped.
    pub fn closer(&self) -> io::Result<Closer> {
        self.socket.try_clone().map(Closer)
    }

    /// Waits for the next word of a shutdown: true, it begins; false, it is called off.
    pub fn next(&mut self) -> Result<bool> {
        loop {
            let (sender, begins) = self.next_of_anybody()?;
            let bus = "org.freedesktop.DBus";
            let owner = self.call(&Call { name: "GetNameOwner", to: bus, path: "/org/freedesktop/DBus", interface: bus, arguments: &[LOGIND] })?;
            // Anybody on the bus may send a signal; the bus itself says who did.
            if (Reader { bytes: &owner, at: 0 }).text().as_ref() == Some(&sender) {
                return Ok(begins);
            }
            tracing::warn!(sender, "somebody else than logind speaks of a shutdown: not heard");
        }
    }

    fn next_of_anybody(&mut self) -> Result<(String, bool)> {
        self.socket.set_read_timeout(None).map_err(|source| BusError::Io { call: SIGNAL, source })?;
        while self.heard.is_empty() {
            let message = self.receive(SIGNAL)?;
            self.hear(&message);
        }
        let word = self.heard.remove(0);
        self.socket.set_read_timeout(Some(ANSWER_LIMIT)).map_err(|source| BusError::Io { call: SIGNAL, source })?;
        Ok(word)
    }
}

/// See [`Logind::closer`].
pub struct Closer(UnixStream);

impl Drop for Closer {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// `DBUS_SYSTEM_BUS_ADDRESS` (`unix:path=…`), else the usual place.
pub fn system_bus() -> PathBuf {
    let named = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok();
    let path = named.as_deref().and_then(|address| address.strip_prefix("unix:path=")).map(|path| path.split([',', ';']).next().unwrap_or(path).to_owned());
    path.map_or_else(|| SYSTEM_BUS.into(), PathBuf::from)
}

/// A bus with logind on it, for tests: answers each connection's calls, and signals when told to.
#[cfg(test)]
pub mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;

    /// What the fake is told, and what it tells.
    pub struct Fake {
        pub path: PathBuf,
        /// True: say that a shutdown begins.
        pub say: mpsc::Sender<bool>,
        /// Names of the calls that came, and `released` once a delay's descriptor was closed.
        pub heard: tokio::sync::mpsc::UnboundedReceiver<String>,
    }

    fn answer(serial: u32, reply_to: u32, signature: &str, body: &[u8], fds: u32) -> Vec<u8> {
        let mut head = Writer(vec![b'l', Kind::Return as u8, 1, 1]);
        head.u32(body.len() as u32);
        head.u32(serial);
        head.u32(0);
        for (code, number) in [(5, reply_to), (9, fds)] {
            if code == 5 || number > 0 {
                head.pad(8);
                head.0.push(code);
                head.signature("u");
                head.u32(number);
            }
        }
        if !signature.is_empty() {
            head.field(8, "g", signature);
        }
        let fields = (head.0.len() - 16) as u32;
        head.0[12..16].copy_from_slice(&fields.to_le_bytes());
        head.pad(8);
        head.0.extend(body);
        head.0
    }

    fn signal(begins: bool) -> Vec<u8> {
        let mut head = Writer(vec![b'l', Kind::Signal as u8, 1, 1]);
        head.u32(4);
        head.u32(9999);
        head.u32(0);
        head.field(1, "o", LOGIND_PATH);
        head.field(2, "s", LOGIND_MANAGER);
        head.field(3, "s", SIGNAL);
        head.field(7, "s", ":1.1");
        head.field(8, "g", "b");
        let fields = (head.0.len() - 16) as u32;
        head.0[12..16].copy_from_slice(&fields.to_le_bytes());
        head.pad(8);
        head.u32(u32::from(begins));
        head.0
    }

    pub fn fake(folder: &Path, longest: Duration) -> Fake {
        let path = folder.join("bus");
        let listener = UnixListener::bind(&path).expect("a socket");
        let (say, said) = mpsc::channel();
        let (tell, heard) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || serve(&listener, longest, &tell, said));
        Fake { path, say, heard }
    }

    fn serve(listener: &UnixListener, longest: Duration, tell: &tokio::sync::mpsc::UnboundedSender<String>, said: mpsc::Receiver<bool>) -> Option<()> {
        let (mut socket, _) = listener.accept().ok()?;
        let line = |socket: &mut UnixStream| {
            let mut text = Vec::new();
            while !text.ends_with(b"\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).ok()?;
                text.push(byte[0]);
            }
            Some(text)
        };
        line(&mut socket)?;
        socket.write_all(b"OK 1234\r\n").ok()?;
        line(&mut socket)?;
        socket.write_all(b"AGREE_UNIX_FD\r\n").ok()?;
        line(&mut socket)?;
        let mut out = socket.try_clone().ok()?;
        std::thread::spawn(move || said.iter().try_for_each(|begins| out.write_all(&signal(begins))));
        let mut serial = 0;
        loop {
            let mut start = [0; 16];
            socket.read_exact(&mut start).ok()?;
            let mut whole = start.to_vec();
            whole.resize(length(&start)?, 0);
            socket.read_exact(&mut whole[16..]).ok()?;
            let call = decode(&whole)?;
            serial += 1;
            let reply_to = u32::from_le_bytes(start[8..12].try_into().ok()?);
            let _ = tell.send(call.member.clone());
            match call.member.as_str() {
                "Get" => {
                    let mut body = Writer::default();
                    body.signature("t");
                    body.pad(8);
                    body.0.extend((longest.as_micros() as u64).to_le_bytes());
                    socket.write_all(&answer(serial, reply_to, "v", &body.0, 0)).ok()?;
                }
                "GetNameOwner" => {
                    let mut body = Writer::default();
                    body.text(":1.1");
                    socket.write_all(&answer(serial, reply_to, "s", &body.0, 0)).ok()?;
                }
                "Inhibit" => {
                    let (mut ours, theirs) = std::io::pipe().ok()?;
                    fdpass::send(&socket, &answer(serial, reply_to, "h", &[0; 4], 1), &[theirs.as_fd()]).ok()?;
                    drop(theirs);
                    let tell = tell.clone();
                    std::thread::spawn(move || {
                        let _ = ours.read_to_end(&mut Vec::new());
                        tell.send("released".into())
                    });
                }
                _ => socket.write_all(&answer(serial, reply_to, "", &[], 0)).ok()?,
            }
        }
    }

    #[test]
    fn logind_says_how_long_it_waits_delays_and_signals() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut fake = fake(folder.path(), Duration::from_secs(5));
        let mut logind = Logind::connect(&fake.path).expect("connected");
        assert_eq!(logind.longest_delay().expect("told"), Duration::from_secs(5));
        let delay = logind.inhibit().expect("a descriptor");
        fake.say.send(true).expect("heard");
        assert!(logind.next().expect("told"));
        fake.say.send(false).expect("heard");
        assert!(!logind.next().expect("told"));
        drop(delay);
        let mut calls = Vec::new();
        while calls.last().is_none_or(|call| call != "released") {
            calls.push(fake.heard.blocking_recv().expect("told"));
        }
        assert_eq!(calls, ["Hello", "AddMatch", "Get", "Inhibit", "GetNameOwner", "GetNameOwner", "released"]);
    }

    #[test]
    fn no_bus_is_said_with_its_place() {
        let refused = Logind::connect(Path::new("/nowhere/bus")).err().expect("no bus");
        assert!(refused.to_string().starts_with("the system bus at /nowhere/bus cannot be reached"), "{refused}");
    }
}
