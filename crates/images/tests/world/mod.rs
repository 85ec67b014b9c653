//! Test images made in memory: tars and archives.

#![allow(dead_code, reason = "each test binary uses its part")]

use keles_oci::Digest;
use std::io::Write;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// A tar in the making. Names are written as they are, also those that the tar crate would refuse.
pub struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Tar {
        Tar(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, name: &str, mode: u32) -> Header {
        let mut header = Header::new_ustar();
        header.as_ustar_mut().expect("ustar").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        header
    }

    fn add(mut self, mut header: Header, content: &[u8]) -> Tar {
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).expect("memory does not fail");
        self
    }

    pub fn file(self, name: &str, content: &[u8]) -> Tar {
        self.owned_file(name, content, 0o644, 0, 0)
    }

    pub fn owned_file(self, name: &str, content: &[u8], mode: u32, uid: u64, gid: u64) -> Tar {
        let mut header = Tar::header(EntryType::Regular, name, mode);
        header.set_uid(uid);
        header.set_gid(gid);
        self.add(header, content)
    }

    pub fn folder(self, name: &str) -> Tar {
        self.add(Tar::header(EntryType::Directory, name, 0o755), b"")
    }

    pub fn link(self, kind: EntryType, name: &str, to: &str) -> Tar {
        let mut header = Tar::header(kind, name, 0o777);
        header.as_ustar_mut().expect("ustar").linkname[..to.len()].copy_from_slice(to.as_bytes());
        self.add(header, b"")
    }

    pub fn symlink(self, name: &str, to: &str) -> Tar {
        self.link(EntryType::Symlink, name, to)
    }

    pub fn hardlink(self, name: &str, to: &str) -> Tar {
        self.link(EntryType::Link, name, to)
    }

    pub fn node(self, kind: EntryType, name: &str, major: u32, minor: u32) -> Tar {
        let mut header = Tar::header(kind, name, 0o660);
        header.set_device_major(major).expect("ustar has devices");
        header.set_device_minor(minor).expect("ustar has devices");
        self.add(header, b"")
    }

    pub fn pax(mut self, pairs: &[(&str, &[u8])]) -> Tar {
        self.0.append_pax_extensions(pairs.iter().copied()).expect("memory does not fail");
        self
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().expect("memory does not fail")
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory does not fail");
    encoder.finish().expect("memory does not fail")
}

pub fn config(diff_ids: &[Digest]) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/hello"], "User": "1000", "WorkingDir": "/w", "ExposedPorts": {"80/tcp": {}}, "Labels": null},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .expect("plain data")
}

/// A `docker save` archive of one image.
pub fn docker_archive(tags: &[&str], layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|l| Digest::of(l)).collect();
    let config = config(&diff_ids);
    let names: Vec<String> = (0..layers.len()).map(|i| format!("l{i}/layer.tar")).collect();
    let mut tar = Tar::new();
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, layer);
    }
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]);
    tar.file("config.json", &config).file("manifest.json", manifest.to_string().as_bytes()).done()
}

pub fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("writable");
    path
}
