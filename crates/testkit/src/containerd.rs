//! A containerd of one's own, from Debian's package: root, state and sockets in a folder that goes with it. Without its CRI plugin, or with it and a
//! pod network of its own.
//!
//! Entry points: [`Containerd::start`], [`Containerd::start_with_cri`].

use crate::image::Image;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Where Debian's package `containernetworking-plugins` puts them.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";
/// The namespace that the CRI plugin has its images and containers in.
const CRI_NAMESPACE: &str = "k8s.io";
/// Of the process that holds a sandbox's namespaces.
const PAUSE: &str = "testkit.local/pause:v1";
/// How long it may take to start or to take an image in.
const LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub struct Containerd {
    dir: tempfile::TempDir,
    process: Child,
    /// With the CRI plugin: of its pods.
    network: Option<CniNetwork>,
}

/// What pods of the CRI plugin are attached to.
#[derive(Clone, Debug)]
pub struct CniNetwork {
    /// At most 15 characters.
    pub bridge: String,
    /// `10.246.0.0/24`.
    pub range: String,
}

impl Containerd {
    /// Starts it; it answers some time later.
    pub fn start() -> io::Result<Containerd> {
        Self::start_as(None)
    }

    /// Starts it with its CRI plugin (runc, overlayfs, cgroupfs, CNI's bridge) and waits until it answers. The image of sandboxes is in it.
    pub fn start_with_cri(network: CniNetwork) -> io::Result<Containerd> {
        let mut containerd = Self::start_as(Some(network))?;
        let end = Instant::now() + LIMIT;
        while !containerd.ctr(&["version"])?.status.success() {
            if containerd.process.try_wait()?.is_some() || Instant::now() > end {
                return Err(io::Error::other(format!("containerd does not answer:\n{}", containerd.log())));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        // It does nothing until it is told to end.
        containerd.import(PAUSE, &Image::new().busybox()?.command(&["sh", "-c", "trap 'exit 0' TERM INT; sleep 2147483647 & wait"]))?;
        Ok(containerd)
    }

    fn start_as(network: Option<CniNetwork>) -> io::Result<Containerd> {
        let dir = tempfile::Builder::new().prefix("koci").tempdir()?;
        let config = config(dir.path(), network.is_some());
        std::fs::write(dir.path().join("config.toml"), config)?;
        if let Some(network) = &network {
            std::fs::create_dir(dir.path().join("cni"))?;
            std::fs::write(dir.path().join("cni/10-testkit.conflist"), conflist(dir.path(), network))?;
        }
        let log = std::fs::File::create(dir.path().join("log"))?;
        let process = Command::new("containerd").arg("--config").arg(dir.path().join("config.toml")).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Containerd { dir, process, network })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("c.sock")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Its client, called without input.
    pub fn ctr(&self, args: &[&str]) -> io::Result<Output> {
        Command::new("ctr").arg("--address").arg(self.socket()).args(args).stdin(Stdio::null()).output()
    }

    /// Puts an image where the CRI plugin has its own, and waits until that has seen it: it marks what it knows.
    pub fn import(&self, name: &str, image: &Image) -> io::Result<()> {
        let archive = self.dir.path().join("image.tar");
        image.write(name, &archive)?;
        let archive = archive.display().to_string();
        let said = self.ctr(&["-n", CRI_NAMESPACE, "images", "import", &archive])?;
        if !said.status.success() {
            return Err(io::Error::other(format!("ctr images import: {}", String::from_utf8_lossy(&said.stderr))));
        }
        let end = Instant::now() + LIMIT;
        loop {
            let listed = self.ctr(&["-n", CRI_NAMESPACE, "images", "list"])?;
            let text = String::from_utf8_lossy(&listed.stdout).into_owned();
            let is_marked = |line: &str| line.split_whitespace().next().is_some_and(|own| own.ends_with(name)) && line.contains("io.cri-containerd.image=managed");
            if text.lines().any(is_marked) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("the CRI plugin has not seen {name}:\n{text}\n{}", self.log())));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// SIGKILL; its containers run on.
    pub fn kill(&mut self) -> io::Result<()> {
        self.process.kill()?;
        self.process.wait().map(drop)
    }

    /// Starts it anew on what it left.
    pub fn restart(&mut self) -> io::Result<()> {
        let log = std::fs::OpenOptions::new().append(true).open(self.dir.path().join("log"))?;
        self.process = Command::new("containerd").arg("--config").arg(self.dir.path().join("config.toml")).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(())
    }

    /// What of its pods is still on the machine: shims, mounts, interfaces.
    pub fn leftovers(&self) -> Vec<String> {
        let own = self.dir.path().display().to_string();
        let mut found = Vec::new();
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).unwrap_or_default();
            if line.contains("containerd-shim") && line.contains(&own) {
                found.push(format!("process {}: {line}", process.file_name().display()));
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        found.extend(mounts.lines().filter(|line| line.contains(&own)).map(|line| format!("mount {line}")));
        if let Some(network) = &self.network {
            let links = Command::new("ip").args(["-o", "link", "show", "master", &network.bridge]).output().map(|said| said.stdout).unwrap_or_default();
            found.extend(String::from_utf8_lossy(&links).lines().map(|line| format!("interface {line}")));
        }
        found
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.kill();
        if let Some(network) = &self.network {
            // What a test that failed left: shims end with their containers, and mounts go before the folder does.
            for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
                let line = std::fs::read(process.path().join("cmdline")).map(|line| String::from_utf8_lossy(&line).into_owned()).unwrap_or_default();
                if line.contains("containerd-shim") && line.contains(&self.dir.path().display().to_string()) {
                    end_with_children(&process.file_name().display().to_string());
                }
            }
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let own = self.dir.path().display().to_string();
            for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)).filter(|mount| mount.starts_with(&own)) {
                let _ = Command::new("umount").args(["-l", mount]).output();
            }
            let _ = Command::new("ip").args(["link", "del", &network.bridge]).output();
        }
    }
}

/// SIGKILL to a process and its children.
fn end_with_children(pid: &str) {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for pid in children.split_whitespace().chain([pid]) {
        let _ = Command::new("kill").args(["-9", pid]).output();
    }
}

fn config(dir: &Path, cri: bool) -> String {
    let at = |name: &str| dir.join(name).display().to_string();
    let disabled = if cri { "" } else { "\"io.containerd.grpc.v1.cri\"" };
    let mut text = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [{disabled}]\n[grpc]\n  address = {:?}\n[ttrpc]\n  address = {:?}\n",
        at("root"),
        at("run"),
        at("c.sock"),
        at("t.sock")
    );
    if cri {
        // Hosts that withhold CAP_SYS_RESOURCE take no lower oom_score_adj than one's own.
        text += &format!(
            "[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = {PAUSE:?}\n  restrict_oom_score_adj = true\n  stream_server_address = \"127.0.0.1\"\n  stream_server_port = \"0\"\n\
            [plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = {CNI_PLUGINS:?}\n  conf_dir = {:?}\n\
            [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  snapshotter = \"overlayfs\"\n  default_runtime_name = \"runc\"\n\
            [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n\
            [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n  SystemdCgroup = false\n",
            at("cni")
        );
    }
    text
}

fn conflist(dir: &Path, network: &CniNetwork) -> String {
    let ipam = serde_json::json!({"type": "host-local", "dataDir": dir.join("addresses"), "ranges": [[{"subnet": network.range}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let bridge = serde_json::json!({"type": "bridge", "bridge": network.bridge, "isGateway": true, "hairpinMode": true, "ipam": ipam});
    serde_json::json!({"cniVersion": "0.4.0", "name": "testkit", "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": true}}]}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cri_has_a_network_and_an_image_of_sandboxes() {
        let dir = Path::new("/d");
        assert!(config(dir, false).contains("disabled_plugins = [\"io.containerd.grpc.v1.cri\"]"));
        let with = config(dir, true);
        assert!(with.contains("disabled_plugins = []") && with.contains("conf_dir = \"/d/cni\"") && with.contains(PAUSE), "{with}");
        let text = conflist(dir, &CniNetwork { bridge: "b0".into(), range: "10.246.0.0/24".into() });
        let json: serde_json::Value = serde_json::from_str(&text).expect("valid");
        assert_eq!((&json["plugins"][0]["bridge"], &json["plugins"][0]["ipam"]["ranges"][0][0]["subnet"]), (&serde_json::json!("b0"), &serde_json::json!("10.246.0.0/24")));
    }
}
