//! An etcd of one's own, from Debian's packages `etcd-server` and `etcd-client`: one member or several on free ports of loopback, data in a folder that goes with it.
//!
//! Entry points: [`installed`], [`Etcd::start`]. Members may be killed and started again on their data, or frozen.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "etcd";
const CLIENT: &str = "etcdctl";
const LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A port may be taken by another between the look for it and its use.
const TRIES: usize = 5;

/// Whether it is on this machine; says when not, and fails where nothing may be skipped.
pub fn installed() -> bool {
    let missing = [PROGRAM, CLIENT].into_iter().find(|p| Command::new(p).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err());
    if let Some(program) = missing {
        assert!(std::env::var_os("KELES_TEST_NO_SKIP").is_none(), "{program} is not installed (make deps)");
        eprintln!("SKIPPED: {program} is not installed (make deps)");
    }
    missing.is_none()
}

/// What it is started with.
#[derive(Clone, Debug)]
pub struct Options {
    pub members: usize,
    /// Clients come over TLS and show a certificate of the same authority.
    pub tls: bool,
    /// As `--quota-backend-bytes=1000000`.
    pub flags: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options { members: 1, tls: false, flags: Vec::new() }
    }
}

pub struct Etcd {
    dir: tempfile::TempDir,
    options: Options,
    members: Vec<Member>,
    restarted: bool,
}

struct Member {
    name: String,
    client: u16,
    peer: u16,
    /// Plain HTTP whatever the clients' is: for its health.
    metrics: u16,
    process: Option<Child>,
}

impl Etcd {
    /// Starts it and waits until every member answers.
    pub fn start(options: Options) -> io::Result<Etcd> {
        let mut last = None;
        for _ in 0..TRIES {
            match Etcd::try_start(options.clone()) {
                Ok(etcd) => return Ok(etcd),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("no try was made")))
    }

    fn try_start(options: Options) -> io::Result<Etcd> {
        let dir = tempfile::Builder::new().prefix("etcd").tempdir()?;
        if options.tls {
            certificates(dir.path()).map_err(io::Error::other)?;
        }
        // All held at once, so that they differ.
        let held: Vec<TcpListener> = (0..options.members * 3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
        let ports: Vec<u16> = held.iter().map(|l| Ok(l.local_addr()?.port())).collect::<io::Result<_>>()?;
        let members = ports.chunks(3).enumerate().map(|(i, p)| Member { name: format!("m{i}"), client: p[0], peer: p[1], metrics: p[2], process: None }).collect();
        drop(held);
        let mut etcd = Etcd { dir, options, members, restarted: false };
        for i in 0..etcd.members.len() {
            etcd.spawn(i)?;
        }
        (0..etcd.members.len()).try_for_each(|i| etcd.wait(i))?;
        Ok(etcd)
    }

    fn spawn(&mut self, i: usize) -> io::Result<()> {
        let cluster = self.members.iter().map(|m| format!("{}=http://127.0.0.1:{}", m.name, m.peer)).collect::<Vec<_>>().join(",");
        let (client, dir) = (self.endpoint(i), self.dir.path());
        let m = &self.members[i];
        let peer = format!("http://127.0.0.1:{}", m.peer);
        let mut command = Command::new(PROGRAM);
        // What the machine's own is told of is none of this one's business.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command.args(["--name", &m.name, "--initial-cluster-token", "testkit", "--initial-cluster", &cluster]).arg("--data-dir").arg(dir.join(&m.name));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--listen-metrics-urls", &format!("http://127.0.0.1:{}", m.metrics)]);
        if self.options.tls {
            for (flag, file) in [("--cert-file", "server.pem"), ("--key-file", "server-key.pem"), ("--trusted-ca-file", "ca.pem")] {
                command.arg(flag).arg(dir.join(file));
            }
            command.arg("--client-cert-auth");
        }
        command.args(&self.options.flags);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join(format!("{}.log", m.name)))?;
        let process = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.members[i].process = Some(process);
        Ok(())
    }

    fn wait(&mut self, i: usize) -> io::Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            // With an alarm it says that its health is bad, which is what some tests are about.
            if health(self.members[i].metrics).is_ok_and(|said| said.contains("\"health\":\"true\"") || (self.restarted && said.contains("\"health\""))) {
                return Ok(());
            }
            let ended = self.members[i].process.as_mut().map_or(Ok(None), Child::try_wait)?;
            if ended.is_some() || Instant::now() > end {
                return Err(io::Error::other(format!("etcd does not answer:\n{}", self.log(i))));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// `http://127.0.0.1:PORT` of a member.
    pub fn endpoint(&self, i: usize) -> String {
        format!("{}://127.0.0.1:{}", if self.options.tls { "https" } else { "http" }, self.members[i].client)
    }

    /// Of all members, separated by commas.
    pub fn endpoints(&self) -> String {
        (0..self.members.len()).map(|i| self.endpoint(i)).collect::<Vec<_>>().join(",")
    }

    /// `ca.pem`, `client.pem`, `client-key.pem`, and `stranger.pem`, `stranger-key.pem` of another authority; with TLS only.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self, i: usize) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("m{i}.log"))).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self, i: usize) -> io::Result<()> {
        let Some(mut process) = self.members[i].process.take() else { return Ok(()) };
        process.kill()?;
        process.wait().map(drop)
    }

    /// Neither answers nor closes a connection until it is woken: a machine that hangs.
    pub fn freeze(&self, i: usize) -> io::Result<()> {
        self.signal(i, "-STOP")
    }

    pub fn wake(&self, i: usize) -> io::Result<()> {
        self.signal(i, "-CONT")
    }

    fn signal(&self, i: usize, signal: &str) -> io::Result<()> {
        let process = self.members[i].process.as_ref().ok_or_else(|| io::Error::other("it does not run"))?;
        let sent = Command::new("kill").args([signal, &process.id().to_string()]).status()?;
        if sent.success() { Ok(()) } else { Err(io::Error::other(format!("kill: {sent}"))) }
    }

    /// Starts a killed member on its data and waits until it answers.
    pub fn restart(&mut self, i: usize) -> io::Result<()> {
        self.restarted = true;
        // Its port may have been lent to another for a moment.
        for _ in 1..TRIES {
            self.spawn(i)?;
            if self.wait(i).is_ok() {
                return Ok(());
            }
            self.kill(i)?;
            std::thread::sleep(Duration::from_secs(1));
        }
        self.spawn(i)?;
        self.wait(i)
    }

    /// `etcd Version: 3.4.23`, and more.
    pub fn version(&self) -> String {
        Command::new(PROGRAM).arg("--version").output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
    }

    /// Debian's client of it, against all members.
    pub fn ctl(&self, args: &[&str]) -> io::Result<String> {
        // Its own limits are 2 and 5 s.
        let out = Command::new(CLIENT)
            .env("ETCDCTL_API", "3")
            .args(["--dial-timeout=120s", "--command-timeout=120s", "--endpoints"])
            .arg(self.endpoints())
            .args(args)
            .stdin(Stdio::null())
            .output()?;
        let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        if out.status.success() { Ok(said) } else { Err(io::Error::other(said)) }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for i in 0..self.members.len() {
            let _ = self.kill(i);
        }
    }
}

fn health(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn certificates(dir: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let authority = |name: &str| -> Result<_, rcgen::Error> {
        let key = rcgen::KeyPair::generate()?;
        let mut parameters = rcgen::CertificateParams::new(vec![])?;
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = parameters.self_signed(&key)?;
        Ok((certificate.pem(), rcgen::Issuer::new(parameters, key)))
    };
    let (ca, issuer) = authority("testkit etcd authority")?;
    let (_, other) = authority("another authority")?;
    std::fs::write(dir.join("ca.pem"), ca)?;
    for (name, of) in [("server", &issuer), ("client", &issuer), ("stranger", &other)] {
        let key = rcgen::KeyPair::generate()?;
        let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()])?;
        parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        std::fs::write(dir.join(format!("{name}.pem")), parameters.signed_by(&key, of)?.pem())?;
        std::fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem())?;
    }
    Ok(())
}
