//! A container image as a docker-archive, made of files of this machine.

use crate::registry::{Blobs, digest};
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

/// Where Debian's package `busybox-static` puts it.
pub const BUSYBOX: &str = "/bin/busybox";

/// An image under construction: layers of files and a config.
#[derive(Default)]
pub struct Image {
    layers: Vec<Vec<u8>>,
    env: Vec<String>,
    command: Vec<String>,
    ports: Vec<u16>,
    user: String,
}

impl Image {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn env(mut self, pair: &str) -> Self {
        self.env.push(pair.into());
        self
    }
    pub fn command(mut self, argv: &[&str]) -> Self {
        self.command = argv.iter().map(|a| (*a).into()).collect();
        self
    }
    pub fn expose(mut self, port: u16) -> Self {
        self.ports.push(port);
        self
    }
    pub fn user(mut self, user: &str) -> Self {
        self.user = user.into();
        self
    }
    /// A layer with this file of the machine at `path`, executable.
    pub fn add_file(self, source: &Path, path: &str) -> io::Result<Self> {
        let bytes = std::fs::read(source)?;
        self.layer(|t| file(t, path, &bytes, 0o755))
    }
    /// A layer with these bytes at `path`.
    pub fn add_bytes(self, path: &str, bytes: &[u8]) -> io::Result<Self> {
        self.layer(|t| file(t, path, bytes, 0o644))
    }
    /// The folders and users that programs expect.
    pub fn base(self) -> io::Result<Self> {
        self.layer(|t| {
            for (dir, mode) in [("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("proc", 0o755), ("root", 0o700), ("sys", 0o755), ("tmp", 0o1777), ("usr", 0o755), ("var", 0o755)] {
                folder(t, dir, mode)?;
            }
            file(t, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644)?;
            file(t, "etc/group", b"root:x:0:\nnobody:x:65534:\n", 0o644)
        })
    }
    /// A root with Debian's static busybox and a link for each of its applets.
    pub fn busybox(self) -> io::Result<Self> {
        let bytes = std::fs::read(BUSYBOX).map_err(|e| io::Error::new(e.kind(), format!("{BUSYBOX}: {e}; install Debian's busybox-static (make deps)")))?;
        let applets = Command::new(BUSYBOX).arg("--list").output()?;
        self.base()?.layer(|t| {
            file(t, "bin/busybox", &bytes, 0o755)?;
            for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|a| *a != "busybox") {
                link(t, &format!("bin/{applet}"), "/bin/busybox")?;
            }
            Ok(())
        })
    }
    fn layer(mut self, fill: impl FnOnce(&mut tar::Builder<Vec<u8>>) -> io::Result<()>) -> io::Result<Self> {
        let mut t = tar::Builder::new(Vec::new());
        fill(&mut t)?;
        self.layers.push(t.into_inner()?);
        Ok(self)
    }
    fn diff_ids(&self) -> Vec<String> {
        self.layers.iter().map(|l| digest(l)).collect()
    }
    fn config(&self) -> String {
        let diff_ids = self.diff_ids();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let env: Vec<&String> = std::iter::once(&path).chain(&self.env).collect();
        let ports: serde_json::Map<_, _> = self.ports.iter().map(|p| (format!("{p}/tcp"), json!({}))).collect();
        json!({"architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z",
            "config": {"Env": env, "Cmd": self.command, "WorkingDir": "/", "User": self.user, "ExposedPorts": ports}, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
    }
    /// What a registry holds of it.
    pub fn blobs(&self) -> Blobs {
        Blobs::with_config(self.config().into_bytes(), self.layers.iter().cloned())
    }
    /// Writes `docker save`'s format.
    pub fn write(&self, name: &str, to: &Path) -> io::Result<()> {
        let (config, diff_ids) = (self.config(), self.diff_ids());
        let config_name = format!("{}.json", &digest(config.as_bytes())["sha256:".len()..]);
        let layer_names: Vec<String> = diff_ids.iter().map(|d| format!("{}/layer.tar", &d["sha256:".len()..])).collect();
        let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": layer_names}]).to_string();
        let mut t = tar::Builder::new(std::fs::File::create(to)?);
        file(&mut t, &config_name, config.as_bytes(), 0o644)?;
        for (name, layer) in layer_names.iter().zip(&self.layers) {
            file(&mut t, name, layer, 0o644)?;
        }
        file(&mut t, "manifest.json", manifest.as_bytes(), 0o644)?;
        t.into_inner()?.flush()
    }
}

fn header(kind: tar::EntryType, size: usize, mode: u32) -> tar::Header {
    let mut h = tar::Header::new_gnu();
    h.set_entry_type(kind);
    h.set_size(size as u64);
    h.set_mode(mode);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(0);
    h
}

fn file<W: Write>(t: &mut tar::Builder<W>, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    t.append_data(&mut header(tar::EntryType::Regular, bytes.len(), mode), path.trim_start_matches('/'), bytes)
}

fn folder<W: Write>(t: &mut tar::Builder<W>, path: &str, mode: u32) -> io::Result<()> {
    t.append_data(&mut header(tar::EntryType::Directory, 0, mode), path, io::empty())
}

fn link<W: Write>(t: &mut tar::Builder<W>, path: &str, to: &str) -> io::Result<()> {
    t.append_link(&mut header(tar::EntryType::Symlink, 0, 0o777), path, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_names_its_image_and_holds_its_layers() {
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().join("a.tar");
        Image::new().base().and_then(|i| i.add_bytes("/hello.txt", b"hi")).expect("memory").env("A=b").command(&["/x"]).write("a/b:v1", &out).expect("writes");
        let mut archive = tar::Archive::new(std::fs::File::open(&out).expect("written"));
        let names: Vec<String> = archive.entries().expect("a tar").map(|e| e.expect("an entry").path().expect("a path").display().to_string()).collect();
        assert_eq!((names.len(), names.last().map(String::as_str)), (4, Some("manifest.json")));
    }
}
