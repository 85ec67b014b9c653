//! Files that a sandbox's containers share: /etc/resolv.conf, /etc/hosts and /etc/hostname, and the mounts of image volumes.
//!
//! A folder a sandbox, named by its id; made when first needed, removed with the sandbox.

use crate::CriError;
use crate::faults;
use keles_cri::PodSandboxConfig;
use keles_grpc::{Code, Status};
use keles_runtime::resolver::Resolver;
use keles_volumes::tmpfs;
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};

pub struct Files {
    root: PathBuf,
}

/// A file of the sandbox and where containers see it.
pub struct Shared {
    pub source: PathBuf,
    pub target: &'static str,
}

impl Files {
    pub fn open(state_dir: &Path) -> Result<Files, CriError> {
        let root = state_dir.join("sandboxes");
        std::fs::create_dir_all(&root).map_err(|source| CriError::Files { path: root.clone(), source })?;
        Ok(Files { root })
    }

    pub fn folder(&self, sandbox_id: &str) -> PathBuf {
        self.root.join(sandbox_id)
    }

    /// Whether a sandbox sees the files of an image as a volume.
    pub fn shows(&self, image_id: &str) -> bool {
        let place = Path::new("volumes/kubernetes.io~image").join(image_id.trim_start_matches("sha256:"));
        std::fs::read_dir(&self.root).into_iter().flatten().flatten().any(|sandbox| sandbox.path().join(&place).exists())
    }

    /// Writes what is missing; a container may have changed what is there.
    pub fn shared(&self, sandbox_id: &str, config: &PodSandboxConfig, hostname: &str) -> Result<Vec<Shared>, Status> {
        let folder = self.folder(sandbox_id);
        let failed = |path: &Path, error: io::Error| Status::new(Code::Unknown, format!("cannot write {}: {error}", path.display()));
        std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let files = [
            ("resolv.conf", "/etc/resolv.conf", resolv_conf(config, &read("/etc/resolv.conf"))),
            // As containerd gives it; a node agent mounts one of its own over it.
            ("hosts", "/etc/hosts", read("/etc/hosts")),
            ("hostname", "/etc/hostname", format!("{hostname}\n")),
        ];
        let written = files.into_iter().map(|(name, target, text)| {
            let source = folder.join(name);
            if !source.exists() {
                // Whole or not at all: a kill must not leave half a file that stays.
                let new = folder.join(format!(".{name}"));
                std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &source)).map_err(|error| failed(&source, error))?;
            }
            Ok(Shared { source, target })
        });
        written.collect()
    }

    /// Fine when there is nothing.
    pub fn remove(&self, sandbox_id: &str) -> Result<(), Status> {
        let folder = self.folder(sandbox_id);
        if !folder.exists() {
            return Ok(());
        }
        tmpfs::unmount_below(&folder).map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Status::new(Code::Unknown, format!("cannot remove {}: {error}", folder.display()))),
            _ => Ok(()),
        }
    }

    /// Removes folders of sandboxes that `keep` does not name.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<(), CriError> {
        let entries = std::fs::read_dir(&self.root).map_err(|source| CriError::Files { path: self.root.clone(), source })?;
        for name in entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| !keep(name)) {
            self.remove(&name).map_err(|status| CriError::Files { path: self.folder(&name), source: io::Error::other(status.message) })?;
        }
        Ok(())
    }

    /// Shows a part of an image's files, read-only; where a container sees them is its own business.
    pub fn image_volume(&self, sandbox_id: &str, image_id: &str, layers: &[PathBuf], part: &str) -> Result<PathBuf, Status> {
        let folder = self.folder(sandbox_id);
        let failed = |error: keles_volumes::VolumeError| Status::new(Code::Unknown, error.to_string());
        let whole = keles_volumes::image::set_up(image_id.trim_start_matches("sha256:"), layers, &folder).map_err(failed)?.path;
        if part.is_empty() {
            return Ok(whole);
        }
        if Path::new(part).is_absolute() || part.split('/').any(|step| step == "..") {
            return Err(faults::invalid(format!("mounts.image_sub_path {part:?} must stay inside the image")));
        }
        let place = folder.join("parts").join(format!("{}-{}", image_id.trim_start_matches("sha256:"), hex::encode(Sha256::digest(part))));
        keles_volumes::sub_path::bind(&whole, part, &place).map_err(|error| faults::invalid(format!("mounts.image_sub_path {part:?}: {error}")))
    }
}

/// What the config says; the host's where it says nothing.
fn resolv_conf(config: &PodSandboxConfig, host: &str) -> String {
    match &config.dns_config {
        Some(dns) => Resolver { servers: dns.servers.clone(), searches: dns.searches.clone(), options: dns.options.clone() }.limited().text(),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_cri::DnsConfig;

    #[test]
    fn the_sandbox_resolves_as_its_config_says_else_as_the_host() {
        let with = |dns: Option<DnsConfig>| resolv_conf(&PodSandboxConfig { dns_config: dns, ..PodSandboxConfig::default() }, "nameserver 192.0.2.9\n");
        assert_eq!(with(None), "nameserver 192.0.2.9\n");
        let dns = DnsConfig { servers: vec!["10.0.0.10".into()], searches: vec!["a.b".into()], options: vec!["ndots:5".into()] };
        assert_eq!(with(Some(dns)), "search a.b\nnameserver 10.0.0.10\noptions ndots:5\n");
        assert_eq!(with(Some(DnsConfig::default())), "", "a config that says nothing is not the host's");
    }

    #[test]
    fn files_are_written_once_and_go_with_the_sandbox() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = Files::open(dir.path()).expect("opens");
        let shared = files.shared("id", &PodSandboxConfig::default(), "pod-1").ok().expect("written");
        let hostname = shared.iter().find(|file| file.target == "/etc/hostname").expect("there").source.clone();
        std::fs::write(&hostname, "changed\n").expect("written");
        files.shared("id", &PodSandboxConfig::default(), "pod-1").ok().expect("again");
        assert_eq!(std::fs::read_to_string(&hostname).expect("there"), "changed\n");
        files.retain(|id| id == "id").expect("kept");
        assert!(hostname.exists());
        files.retain(|_| false).expect("removed");
        assert!(!files.folder("id").exists());
    }
}
