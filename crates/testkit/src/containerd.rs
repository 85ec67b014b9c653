//! A containerd of one's own, from Debian's package: root, state and sockets in a folder that goes with it. Without its CRI plugin.

use std::io;
use std::process::{Child, Command, Output, Stdio};

pub struct Containerd {
    dir: tempfile::TempDir,
    process: Child,
}

impl Containerd {
    /// Starts it; it answers some time later.
    pub fn start() -> io::Result<Containerd> {
        let dir = tempfile::Builder::new().prefix("koci").tempdir()?;
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = {:?}\n[ttrpc]\n  address = {:?}\n",
            at("root"),
            at("run"),
            at("c.sock"),
            at("t.sock")
        );
        std::fs::write(dir.path().join("config.toml"), config)?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        let process = Command::new("containerd").arg("--config").arg(at("config.toml")).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Containerd { dir, process })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its client, called without input.
    pub fn ctr(&self, args: &[&str]) -> io::Result<Output> {
        Command::new("ctr").arg("--address").arg(self.dir.path().join("c.sock")).args(args).stdin(Stdio::null()).output()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
