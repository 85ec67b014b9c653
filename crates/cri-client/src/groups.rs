//! Control groups of pods: made and limited before the runtime is asked for the sandbox, removed after it has stopped it.
//!
//! Invariant: a pod's group is removed in every tree of the host. A runtime makes the group in trees that we do not use (freezer, blkio, the one
//! that systemd names), and removes only those of its containers.

use crate::blocking;
use keles_linux::cgroup::{CgroupError, Figures, Group, Layout, Version};
use keles_runtime::api::{Resources, Result, RuntimeError};
use std::path::{Path, PathBuf};

pub struct Groups {
    layout: Layout,
    root: String,
}

impl Groups {
    pub fn open(root: &str) -> std::result::Result<Groups, CgroupError> {
        Ok(Groups { layout: Layout::discover_with(&["cpuset"])?, root: root.to_owned() })
    }

    /// Relative to the trees' tops; `below` as [`keles_runtime::api::SandboxConfig::cgroup`] has it, empty for all pods together.
    pub fn path(&self, below: &str) -> String {
        format!("{}/{}", self.root, below.trim_matches('/')).trim_end_matches('/').to_owned()
    }

    pub fn memory_version(&self) -> Option<Version> {
        self.layout.version_of("memory")
    }

    fn group(&self, path: &str) -> Result<Group> {
        self.layout.group(path).map_err(failed)
    }

    pub async fn make(&self, path: &str, resources: &Resources) -> Result<()> {
        let (group, limits) = (self.group(path)?, resources.limits(false));
        blocking(move || group.create().and_then(|()| group.inherit_cpuset()).and_then(|()| group.limit(&limits))).await.map_err(failed)
    }

    pub async fn limit(&self, path: &str, resources: &Resources) -> Result<()> {
        let (group, limits) = (self.group(path)?, resources.limits(false));
        blocking(move || group.limit(&limits)).await.map_err(failed)
    }

    /// Ends whatever is still in it.
    pub async fn remove(&self, path: &str) -> Result<()> {
        let (group, path) = (self.group(path)?, path.to_owned());
        blocking(move || {
            group.destroy().map_err(failed)?;
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(io("read", Path::new("/proc/self/mountinfo")))?;
            trees(&mounts).iter().try_for_each(|tree| remove_tree(&tree.join(&path)))
        })
        .await
    }

    /// `None`: there is no such group.
    pub async fn figures(&self, path: &str) -> Option<Figures> {
        let group = self.group(path).ok()?;
        blocking(move || group.exists().then(|| group.figures())).await
    }

    pub async fn first_member(&self, path: &str) -> Option<i32> {
        let group = self.group(path).ok()?;
        blocking(move || group.members().into_iter().next()).await
    }
}

fn failed(error: CgroupError) -> RuntimeError {
    RuntimeError::Step { step: "pod cgroup", message: error.to_string() }
}

fn io(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> RuntimeError + use<> {
    let what = format!("{action} {}", path.display());
    move |source| RuntimeError::Io { what, source }
}

/// Where the host's trees are mounted, of both versions and whatever their controllers.
fn trees(mountinfo: &str) -> Vec<PathBuf> {
    let tree = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        tail.split(' ').next().filter(|kind| matches!(*kind, "cgroup" | "cgroup2"))?;
        head.split(' ').nth(4).map(PathBuf::from)
    };
    mountinfo.lines().filter_map(tree).collect()
}

/// Empty groups, the innermost first. Gone already is as good.
fn remove_tree(folder: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("read", folder)(error)),
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tree_is_found_whatever_its_controllers() {
        let mountinfo = "30 20 0:26 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n31 20 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n33 20 0:29 / /proc rw - proc proc rw\n";
        let expected = ["freezer", "systemd", "unified"].map(|name| Path::new("/sys/fs/cgroup").join(name));
        assert_eq!(trees(mountinfo), expected);
    }

    #[test]
    fn groups_go_with_what_is_below_them() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(dir.path().join("pod/a/b")).expect("made");
        remove_tree(&dir.path().join("pod")).expect("empty");
        assert!(!dir.path().join("pod").exists());
        remove_tree(&dir.path().join("pod")).expect("gone is as good");
    }
}
