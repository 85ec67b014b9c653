//! The server under measurement: started on its own folder, ports and bridge, accounted by the kernel, ended at the drop.

use crate::Error;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BRIDGE: &str = "kbench";
/// Under callgrind it takes some twenty times as long as by itself.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);
/// A server that takes less than this part of a core, over this time, has settled.
const SETTLED: f64 = 0.05;
const SETTLING: Duration = Duration::from_secs(1);

pub struct Server {
    child: Child,
    pub dir: tempfile::TempDir,
    pub client: kube::Client,
    pub started: Instant,
    /// From exec to the first answer of /readyz with ok.
    pub ready_after: Duration,
}

fn free_port() -> Result<u16, Error> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Server {
    /// `role` is `server` or `apiserver`.
    pub async fn start(keles: &Path, role: &str) -> Result<Server, Error> {
        Self::on(keles, role, tempfile::Builder::new().prefix("keles-bench-").tempdir()?).await
    }

    /// Ended and started again on the same folder.
    pub async fn restart(mut self, keles: &Path) -> Result<Server, Error> {
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir()?);
        drop(self);
        std::fs::remove_file(dir.path().join("kubeconfig"))?;
        Self::on(keles, "apiserver", dir).await
    }

    async fn on(keles: &Path, role: &str, dir: tempfile::TempDir) -> Result<Server, Error> {
        Self::by(Command::new(keles), role, dir).await
    }

    /// The API server as another program runs it: `command` ends with the path of keles.
    pub async fn under(command: Command, dir: tempfile::TempDir) -> Result<Server, Error> {
        Self::by(command, "apiserver", dir).await
    }

    async fn by(mut command: Command, role: &str, dir: tempfile::TempDir) -> Result<Server, Error> {
        let (data, kubeconfig) = (dir.path().join("data"), dir.path().join("kubeconfig"));
        command.arg(role).arg("--data-dir").arg(&data).arg("--write-kubeconfig").arg(&kubeconfig).args(["--https-listen-port", &free_port()?.to_string()]);
        if role == "server" {
            command.args([
                "--bridge",
                BRIDGE,
                "--cluster-cidr",
                "10.46.0.0/16",
                "--service-cidr",
                "10.47.0.0/16",
                "--kubelet-port",
                &free_port()?.to_string(),
                "--node-cidr-mask-size",
                "22",
                "--max-pods",
                "600",
            ]);
        }
        let started = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(dir.path().join("log"))?).spawn()?;
        let client = loop {
            if started.elapsed() > START_LIMIT {
                return Err(format!("not ready within {START_LIMIT:?}").into());
            }
            // The kubeconfig is written last, whole or not at all; what is read of it is usable.
            match keles_client::from_kubeconfig(&kubeconfig).await {
                Ok(c) if is_ready(&c).await => break c,
                _ => tokio::time::sleep(POLL).await,
            }
        };
        Ok(Server { child, dir, client, started, ready_after: started.elapsed() })
    }
    pub fn id(&self) -> u32 {
        self.child.id()
    }
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
    /// User and system time so far, seconds.
    pub fn cpu_seconds(&self) -> f64 {
        const TICKS_PER_SECOND: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / TICKS_PER_SECOND
    }
    /// Resident memory, MiB.
    pub fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|v| v.split_whitespace().next()).and_then(|v| v.parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1024.0
    }
}

async fn is_ready(client: &kube::Client) -> bool {
    let request = http_get("/readyz");
    client.request_text(request).await.is_ok_and(|t| t.trim() == "ok")
}

pub fn http_get(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(path).body(Vec::new()).expect("a constant path is a valid request")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        let _ = Command::new("ip").args(["link", "del", BRIDGE]).stderr(Stdio::null()).status();
        let _ = Command::new("nft").args(["delete", "table", "ip", BRIDGE]).stderr(Stdio::null()).status();
    }
}

/// Laps of a server's CPU time.
pub struct Meter<'a> {
    server: &'a Server,
    last: f64,
}

impl<'a> Meter<'a> {
    /// From when the server has no more to do for what was before: its start (a first one makes an RSA key, as long as some hundred
    /// writes take), a burst of pods.
    pub async fn settled(server: &'a Server) -> Self {
        let mut meter = Meter { server, last: server.cpu_seconds() };
        loop {
            tokio::time::sleep(SETTLING).await;
            if meter.lap() <= SETTLING.as_secs_f64() * SETTLED {
                return meter;
            }
        }
    }
    /// Server CPU seconds since the last lap.
    pub fn lap(&mut self) -> f64 {
        let now = self.server.cpu_seconds();
        let spent = now - self.last;
        self.last = now;
        spent
    }
}
