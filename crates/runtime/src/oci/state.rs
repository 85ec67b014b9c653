//! Containers under `--root`: a folder each, with our `state.json`, the bundle's configuration as it was, and the start socket.
//!
//! The folder's name is the container's, made exclusively. A container is `creating` until its state is written, `created` while its first
//! process waits at the socket, then `running` or `paused`, and `stopped` once that process is gone; nothing of it is stored.

use super::bundle;
use crate::wire::{Failure, at, read_file, write_file};
use keles_linux::cgroup::{Group, Layout};
use keles_oci::runtime::{Spec, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const STATE: &str = "state.json";
pub const START: &str = "start.sock";
const MAX_ID_BYTES: usize = 1024;

/// `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    pub oci_version: String,
    pub id: String,
    pub init_process_pid: i32,
    /// Clock ticks since boot, of /proc/PID/stat: tells another process with the same number apart.
    pub init_process_start: u64,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: jiff::Timestamp,
    pub owner: String,
    pub annotations: BTreeMap<String, String>,
    pub cgroup: String,
    pub layout: Layout,
}

pub struct Store {
    root: PathBuf,
}

pub struct Container {
    pub folder: PathBuf,
    pub saved: Saved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

fn check_id(id: &str) -> Result<(), Failure> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if !id.is_empty() && id.len() <= MAX_ID_BYTES && id.chars().all(fine) && id != "." && id != ".." {
        return Ok(());
    }
    Err(Failure::new("container id", format!("invalid id {id:?}: letters, digits and _ + - . only")))
}

impl Store {
    pub fn new(root: &Path) -> Self {
        Store { root: root.to_owned() }
    }

    /// Takes the name: makes the folder.
    pub fn claim(&self, id: &str) -> Result<PathBuf, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        check_id(id)?;
        let folder = self.root.join(id);
        let failed = |e: std::io::Error| Failure::new("make container folder", format!("{}: {e}", folder.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.root).map_err(failed)?;
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::new("create", format!("container with id {id} already exists"))),
            r => r.map(|()| folder.clone()).map_err(failed),
        }
    }

    pub fn open(&self, id: &str) -> Result<Container, Failure> {
        check_id(id)?;
        let folder = self.root.join(id);
        match read_file(&folder.join(STATE)) {
            Ok(saved) => Ok(Container { folder, saved }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Failure::new("find container", format!("container {id} does not exist"))),
            Err(e) => Err(Failure::new("read state", format!("{}: {e}", folder.join(STATE).display()))),
        }
    }

    /// The folder of a `create` that was killed: it has no state.
    pub fn unfinished(&self, id: &str) -> Option<PathBuf> {
        let folder = self.root.join(id);
        (check_id(id).is_ok() && folder.is_dir() && !folder.join(STATE).exists()).then_some(folder)
    }

    /// By name.
    pub fn all(&self) -> Vec<Container> {
        let mut names: Vec<String> = std::fs::read_dir(&self.root).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names.iter().filter_map(|n| self.open(n).ok()).collect()
    }
}

impl Container {
    pub fn save(&self) -> Result<(), Failure> {
        write_file(&self.folder.join(STATE), &self.saved).map_err(at("write state"))
    }

    pub fn spec(&self) -> Result<Spec, Failure> {
        bundle::kept(&bundle::read_limited(&self.folder.join(bundle::CONFIG))?)
    }

    pub fn group(&self) -> Result<Group, Failure> {
        self.saved.layout.group(&self.saved.cgroup).map_err(at("cgroup"))
    }

    pub fn is_alive(&self) -> bool {
        start_time(self.saved.init_process_pid) == Some(self.saved.init_process_start)
    }

    pub fn status(&self) -> Status {
        if !self.is_alive() {
            Status::Stopped
        } else if self.group().is_ok_and(|g| g.is_frozen()) {
            Status::Paused
        } else if self.folder.join(START).exists() {
            Status::Created
        } else {
            Status::Running
        }
    }

    /// As `state` prints it and hooks read it.
    pub fn state(&self, status: &str) -> State {
        let s = &self.saved;
        let pid = if status == "stopped" { 0 } else { s.init_process_pid };
        State { oci_version: s.oci_version.clone(), id: s.id.clone(), status: status.to_owned(), pid, bundle: s.bundle.clone(), annotations: s.annotations.clone() }
    }
}

/// When a process started; absent when it has ended, also when its parent has not asked for its end yet.
pub fn start_time(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_folders_name_and_nothing_else() {
        assert!(["a", "web-1_x.y+z", &"f".repeat(64)].iter().all(|id| check_id(id).is_ok()));
        assert!(["", ".", "..", "a/b", "../x", "a b", "é"].iter().all(|id| check_id(id).is_err()));
    }

    #[test]
    fn our_own_process_has_a_start_time_and_one_that_is_not_has_none() {
        assert!(start_time(std::process::id() as i32).is_some_and(|t| t > 0));
        assert_eq!(start_time(i32::MAX), None);
    }
}
